"""What moves the weights: the learning rate of an iteration, the groups of parameters, the optimizer and its state.

Source:
    Shen et al., BMVC 2017, section 4.2.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wss_data.errors import CheckpointError, shown
from wss_train.models import SegmentationModel
from wss_train.recipes import Kind, TrainRecipe

_STATE = ("momentum_buffer", "exp_avg", "exp_avg_sq", "step")
"""What SGD and AdamW remember of a parameter."""


def learning_rate(recipe: TrainRecipe, kind: Kind, iteration: int) -> float:
    """Learning rate of the pretrained layers in an iteration, counted from 0.

    Source:
        Shen et al., BMVC 2017, section 4.2 (``step``); Chen et al., TPAMI 2018 (``poly``).
    """
    iterations = recipe.iterations(kind)
    if recipe.rate_policy == "poly":
        return recipe.learning_rate * (1.0 - iteration / iterations) ** recipe.poly_power
    low = iteration >= iterations - recipe.low_rate_iterations(kind)
    return recipe.learning_rate * (recipe.low_rate_factor if low else 1.0)


def parameter_groups(model: SegmentationModel) -> list[dict[str, Any]]:
    """The optimizer's groups: pretrained layers, weights of new layers, biases of new layers.

    Each carries ``rate_factor``, by which the learning rate is multiplied, and its ``weight_decay``.
    """
    recipe = model.recipe
    new = dict(model.new_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [], "rate_factor": 1.0, "weight_decay": recipe.weight_decay},
        {"params": [], "rate_factor": recipe.new_layer_rate_factor, "weight_decay": recipe.weight_decay},
        {
            "params": [],
            "rate_factor": recipe.new_layer_rate_factor * recipe.new_bias_rate_factor,
            "weight_decay": recipe.weight_decay if recipe.decay_new_biases else 0.0,
        },
    ]
    for name, parameter in model.named_parameters():
        groups[0 if name not in new else 2 if name.endswith("bias") else 1]["params"].append(parameter)
    return groups


def make_optimizer(model: SegmentationModel) -> torch.optim.Optimizer:
    """The optimizer that the model's recipe asks for."""
    recipe, groups = model.recipe, parameter_groups(model)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate)
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state, flat: ``<parameter number>.<name>`` -> tensor."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": value
        for number, values in state.items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put ``optimizer_tensors`` back, each in its parameter's memory layout so that sums run in the same order.

    Raises:
        CheckpointError: If a tensor is none of this optimizer's.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        parameter = parameters[int(number)] if number.isdecimal() and int(number) < len(parameters) else None
        if parameter is None or name not in _STATE or tensor.shape not in (parameter.shape, ()):
            raise CheckpointError(
                f"the checkpoint's optimizer holds {shown(key)} of shape {shown(tuple(tensor.shape))}, which is none "
                "of this run's. Remove the checkpoint and run the same command again: it goes on from the one before."
            )
        if tensor.shape == parameter.shape and tensor.dim() > 0:
            tensor = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
        optimizer.state[parameter][name] = tensor
