"""One iteration: learning rate, forward, losses, backward, optimizer; in one piece or in parts whose sum is the whole.

Eq. 1 is a mean over all decided pixels of a batch. Where a batch is cut into parts, for several processes or to fit
into memory, the mean of each part is weighted by its fraction of these pixels: a mean of the parts' means would count
a pixel more where few are decided.

Source:
    Shen et al., BMVC 2017, section 4.2.
"""

import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from wss_data.backbones.lean import lean_optimizer, load_fabric
from wss_data.errors import CheckpointError, shown
from wss_train.checkpoints import ModelCard
from wss_train.data import Batch
from wss_train.engine.processes import Place, place
from wss_train.losses import at_one_resolution, classes_in_masks, multilabel_loss, segmentation_loss, total_loss
from wss_train.models import ModelOutput, SegmentationModel, usable_precision
from wss_train.recipes import Kind, TrainRecipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric

lightning_fabric = load_fabric()

_FABRIC_NAMES: dict[str, Any] = {"float32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}

_STATE = ("momentum_buffer", "exp_avg", "exp_avg_sq", "step")  # what SGD and AdamW remember of a parameter


def learning_rate(recipe: TrainRecipe, kind: Kind, iteration: int) -> float:
    """Learning rate of the pretrained layers in an iteration, counted from 0.

    >>> from wss_train.recipes import preset
    >>> [learning_rate(preset("paper"), "generator", iteration) for iteration in (0, 3_999, 4_000)]
    [0.0016, 0.0016, 0.00016]

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
    recipe, factor = model.recipe, model.recipe.new_layer_rate_factor
    bias_decay = recipe.weight_decay if recipe.decay_new_biases else 0.0
    new = dict(model.new_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [], "rate_factor": 1.0, "weight_decay": recipe.weight_decay},
        {"params": [], "rate_factor": factor, "weight_decay": recipe.weight_decay},
        {"params": [], "rate_factor": factor * recipe.new_bias_rate_factor, "weight_decay": bias_decay},
    ]
    for name, parameter in model.named_parameters():
        groups[0 if name not in new else 2 if name.endswith("bias") else 1]["params"].append(parameter)
    return groups


def make_optimizer(model: SegmentationModel) -> torch.optim.Optimizer:
    """The optimizer that the model's recipe asks for."""
    recipe, groups = model.recipe, parameter_groups(model)
    if recipe.optimizer == "adamw":
        return lean_optimizer("AdamW")(groups, lr=recipe.learning_rate)
    return lean_optimizer("SGD")(groups, lr=recipe.learning_rate, momentum=recipe.momentum)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state, flat: ``<parameter number>.<name>`` -> tensor."""
    return {
        f"{number}.{name}": value
        for number, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore ``optimizer_tensors``, each in its parameter's memory layout so that sums run in the same order.

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


class Losses(NamedTuple):
    """The losses of one batch, each of shape ()."""

    total: Tensor  # eq. 4, to be minimised
    segmentation: Tensor  # eq. 1
    multilabel: Tensor | None  # eq. 3; None without the branch


def batch_losses(output: ModelOutput, batch: Batch, recipe: TrainRecipe, ignore_index: int = 255) -> Losses:
    """Eqs. 1, 3 and 4 of one batch, from the network's scores of its images."""
    logits, masks = at_one_resolution(output.pixel_logits, batch.masks, recipe.loss_resolution)
    segmentation = segmentation_loss(logits, masks, ignore_index, batch.weights)
    multilabel = None
    if output.class_logits is not None:
        from_masks = recipe.branch_target == "mask_classes"
        labels = classes_in_masks(batch.masks, logits.shape[1]) if from_masks else batch.labels
        multilabel = multilabel_loss(output.class_logits, labels)
    return Losses(total_loss(segmentation, multilabel, recipe.multilabel_weight), segmentation, multilabel)


def counted_pixels(batch: Batch, recipe: TrainRecipe, ignore_index: int = 255) -> Tensor:
    """Number of pixels with a class, each as often as its image weighs: what eq. 1 divides by. Shape (), float32."""
    height, width = (-(-side // recipe.output_stride) for side in batch.masks.shape[-2:])
    # Nothing of the logits but their size is asked for.
    logits = torch.empty(1, 1, height, width, device="meta")
    _, masks = at_one_resolution(logits, batch.masks, recipe.loss_resolution)
    counted = (masks != ignore_index).flatten(1).sum(dim=1)
    return counted.sum().float() if batch.weights is None else (counted * batch.weights).sum()


class Step:
    """Moves the weights by one batch. ``compiled``: whether ``torch.compile`` translates the network."""

    def __init__(self, model: SegmentationModel, card: ModelCard, ignore_index: int, compiled: bool = False) -> None:
        here = place()
        self._model, self._recipe, self._kind, self._world = model, card.recipe, card.kind, here.world
        self._ignore_index = ignore_index
        self._fabric = _make_fabric(card.recipe, model.pixel_mean.device, here)
        # The state is read from the model itself: the compiled one has other names for the same tensors.
        network: Any = torch.compile(model) if compiled else model
        self.optimizer = make_optimizer(model)
        self._network, self._stepper = self._fabric.setup(network, self.optimizer, move_to_device=False)
        self._network.train()

    def restore(self, optimizer: Mapping[str, Tensor], scaler: Mapping[str, float]) -> None:
        """Restore ``optimizer_tensors`` and ``scaler``. Raises ``CheckpointError`` as ``load_optimizer``."""
        load_optimizer(self.optimizer, optimizer)
        if scaler:
            self._fabric.strategy.precision.load_state_dict(dict(scaler))

    def set_rate(self, rate: float, iteration: int) -> float:
        """Set the learning rate of an iteration, from 0; with ``restart`` the optimizer forgets its state once."""
        recipe = self._recipe
        first_low = recipe.iterations(self._kind) - recipe.low_rate_iterations(self._kind)
        if recipe.rate_policy == "restart" and iteration == first_low:
            self.optimizer.state.clear()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate_factor"]
        return rate

    def __call__(self, batches: Sequence[Batch]) -> Losses:
        """Do one iteration on this process's part of the batch, in ``recipe.accumulate`` parts, on the device.

        Returns what this part adds to the losses of the whole batch, without gradients; see ``summed``.
        """
        fractions = self._fractions(batches)
        self._stepper.zero_grad()
        found = []
        for number, batch in enumerate(batches):
            # The processes' gradients are added up once, with the last piece.
            waits = self._world > 1 and number + 1 < len(batches)
            with self._fabric.no_backward_sync(self._network, enabled=waits):
                images = batch.images if self._recipe.channels_last else batch.images.contiguous()
                output = self._network(self._model.normalise(images))
                losses = batch_losses(output, batch, self._recipe, self._ignore_index)
                if fractions is not None:
                    # What the part adds to the losses of the whole batch: eq. 1 by its pixels, eq. 3 by its images.
                    segmentation = losses.segmentation * fractions[number]
                    of_all = len(batch.ids) / self._recipe.batch
                    multilabel = None if losses.multilabel is None else losses.multilabel * of_all
                    total = total_loss(segmentation, multilabel, self._recipe.multilabel_weight)
                    losses = Losses(total, segmentation, multilabel)
                # Gradients are averaged over the processes; the parts' losses are already fractions of a sum.
                self._fabric.backward(losses.total * self._world if self._world > 1 else losses.total)
            found.append([value.detach() for value in losses if value is not None])
        self._stepper.step()
        sums = [torch.stack(values).sum() if len(values) > 1 else values[0] for values in zip(*found, strict=True)]
        return Losses(sums[0], sums[1], sums[2] if len(sums) > 2 else None)

    def summed(self, losses: Sequence[Losses]) -> list[list[float]]:
        """The losses of whole batches, one row each: total, segmentation and, with the branch, multi-label."""
        rows = torch.stack([torch.stack([value for value in each if value is not None]) for each in losses]).float()
        return self._over_processes(rows).tolist()

    def agreed(self, stops: bool) -> bool:
        """What the first process says, in all of them."""
        return self._fabric.broadcast(stops) if self._world > 1 else stops

    def scaler(self) -> dict[str, float]:
        """State of the factor on the loss that keeps fp16 gradients from vanishing; empty in other precisions."""
        return dict(self._fabric.strategy.precision.state_dict())

    def _fractions(self, batches: Sequence[Batch]) -> Tensor | None:
        """Each piece's fraction of the whole batch's counted pixels, (accumulate,); ``None`` for a whole batch."""
        if self._world * self._recipe.accumulate == 1:
            return None
        counted = torch.stack([counted_pixels(batch, self._recipe, self._ignore_index) for batch in batches])
        total = self._over_processes(counted.sum())
        return counted / torch.where(total > 0, total, 1.0)

    def _over_processes(self, values: Tensor) -> Tensor:
        """The sum of all processes' values, of the same shape."""
        total = self._fabric.all_reduce(values, reduce_op="sum") if self._world > 1 else values
        assert isinstance(total, Tensor)
        return total


def training_precision(precision: str, device: torch.device) -> str:
    """What a recipe's precision becomes on a device: fp16 needs a GPU, bf16 a device that computes it; else float32."""
    if precision == "fp16":
        return "fp16" if device.type == "cuda" else "float32"
    return usable_precision(precision, device)


def compiler_problem(device: torch.device) -> str | None:
    """Why ``torch.compile`` does not work here, in a line; ``None`` if it does. Takes some seconds."""
    try:
        torch.compile(lambda x: x.sin() + x.cos())(torch.zeros(8, device=device))
    except Exception as error:  # every layer below has exceptions of its own
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        return lines[1] if lines[0].endswith("raised:") and len(lines) > 1 else lines[0]
    return None


def _make_fabric(recipe: TrainRecipe, device: torch.device, here: Place) -> "Fabric":
    # It announces precision and processes, which were logged already.
    for name in ("lightning_fabric", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    precision = _FABRIC_NAMES[training_precision(recipe.precision, device)]
    if here.world == 1:
        devices = [device.index or 0] if device.type == "cuda" else 1
        return lightning_fabric.Fabric(accelerator=device.type, devices=devices, precision=precision)
    # The statistics of batch normalisation never change: they need not be sent. Older versions have the second name.
    known = inspect.signature(DistributedDataParallel).parameters
    frozen: dict[str, Any] = {
        next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in known): False
    }
    # Every parameter has a gradient in every iteration.
    strategy = lightning_fabric.strategies.DDPStrategy(
        gradient_as_bucket_view=True, find_unused_parameters=False, **frozen
    )
    nodes = here.world // here.local_world
    fabric: Fabric = lightning_fabric.Fabric(
        accelerator=device.type, strategy=strategy, devices=here.local_world, num_nodes=nodes, precision=precision
    )
    fabric.launch()
    return fabric
