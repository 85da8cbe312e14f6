"""One iteration: forward, losses, backward, optimizer; in one piece or in parts whose sum is the whole.

Eq. 1 is a mean over all decided pixels of a batch. Where a batch is cut into parts,
for several processes or to fit into memory, each part's mean counts by its share of
these pixels: a mean of the parts' means would count a pixel more where few are decided.
"""

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from wss_train.checkpoints import ModelCard
from wss_train.data import Batch
from wss_train.engine.objective import Losses, Objective
from wss_train.engine.processes import Place
from wss_train.models import SegmentationModel, usable_precision
from wss_train.recipes import TrainRecipe

_FABRIC_NAMES: dict[str, Any] = {"float32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


class Step:
    """Moves the weights by one batch.

    Args:
        model: The network, on ``device``.
        optimizer: What moves its weights.
        card: What is trained.
        ignore_index: Value of void pixels.
        device: Where the network is.
        here: Which of the processes this one is.
        compiled: Whether ``torch.compile`` translates the network; its tensors keep their names.
    """

    def __init__(
        self,
        model: SegmentationModel,
        optimizer: torch.optim.Optimizer,
        card: ModelCard,
        ignore_index: int,
        device: torch.device,
        here: Place,
        compiled: bool = False,
    ) -> None:
        self._model, self._recipe, self._world = model, card.recipe, here.world
        self._parts = here.world * card.recipe.accumulate
        self._objective = Objective(card.recipe, card.num_classes, ignore_index, card.iterations)
        self._fabric = _make_fabric(card.recipe, device, here)
        network: Any = torch.compile(model) if compiled else model
        self._network, self._optimizer = self._fabric.setup(network, optimizer, move_to_device=False)
        self._network.train()

    def __call__(self, batches: Sequence[Batch], iteration: int) -> Losses:
        """Do iteration number ``iteration``, from 0.

        Args:
            batches: This process's part of the batch, in ``recipe.accumulate`` pieces, on the device.
            iteration: Iterations done before.

        Returns:
            What this process's part adds to the losses of the whole batch; see ``summed``.
        """
        shares = self._shares(batches)
        self._optimizer.zero_grad()
        found = []
        for number, batch in enumerate(batches):
            # The processes' gradients are added up once, with the last piece.
            waits = self._world > 1 and number + 1 < len(batches)
            with self._fabric.no_backward_sync(self._network, enabled=waits):
                images = batch.images if self._recipe.channels_last else batch.images.contiguous()
                losses = self._objective(self._network(self._model.normalise(images)), batch, iteration)
                if shares is not None:
                    of_all = len(batch.ids) / self._recipe.batch
                    losses = losses.of_part(shares[number], of_all, self._recipe.multilabel_weight)
                # Gradients are averaged over the processes; the parts' losses are already shares of a sum.
                self._fabric.backward(losses.total * self._world if self._world > 1 else losses.total)
            found.append(losses.detached())
        self._optimizer.step()
        return found[0] if len(found) == 1 else _sum(found)

    def summed(self, losses: Sequence[Losses]) -> list[list[float]]:
        """The losses of whole batches, one row each: total, segmentation and, with the branch, multi-label."""
        rows = torch.stack([torch.stack([value for value in each if value is not None]) for each in losses]).float()
        if self._world > 1:
            rows = self._over_processes(rows)
        return rows.tolist()

    def agreed(self, stops: bool) -> bool:
        """What the first process says, in all of them."""
        return self._fabric.broadcast(stops) if self._world > 1 else stops

    def scaler(self) -> dict[str, float]:
        """State of the factor on the loss that keeps fp16 gradients from vanishing; empty in other precisions."""
        return dict(self._fabric.strategy.precision.state_dict())

    def load_scaler(self, state: dict[str, float]) -> None:
        """Put ``scaler`` back."""
        if state:
            self._fabric.strategy.precision.load_state_dict(state)

    def _shares(self, batches: Sequence[Batch]) -> Tensor | None:
        """Each piece's share of the pixels that teach in the whole batch, (accumulate,); ``None`` for a whole batch."""
        if self._parts == 1:
            return None
        taught = torch.stack([self._objective.taught(batch) for batch in batches])
        total = taught.sum()
        if self._world > 1:
            total = self._over_processes(total)
        return taught / torch.where(total > 0, total, 1.0)

    def _over_processes(self, values: Tensor) -> Tensor:
        """The sum of all processes' values, of the same shape."""
        total = self._fabric.all_reduce(values, reduce_op="sum")
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


def _make_fabric(recipe: TrainRecipe, device: torch.device, here: Place) -> Fabric:
    # It announces precision and processes, which have been told already.
    for name in ("lightning_fabric", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    precision = _FABRIC_NAMES[training_precision(recipe.precision, device)]
    if here.world == 1:
        devices = [device.index or 0] if device.type == "cuda" else 1
        return Fabric(accelerator=device.type, devices=devices, precision=precision)
    # Every parameter has a gradient in every iteration, and the statistics of batch normalisation never change.
    known = inspect.signature(DistributedDataParallel).parameters
    frozen: dict[str, Any] = {
        next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in known): False
    }
    strategy = DDPStrategy(gradient_as_bucket_view=True, find_unused_parameters=False, **frozen)
    nodes = here.world // here.local_world
    fabric = Fabric(
        accelerator=device.type, strategy=strategy, devices=here.local_world, num_nodes=nodes, precision=precision
    )
    fabric.launch()
    return fabric


def _sum(parts: Sequence[Losses]) -> Losses:
    total = torch.stack([part.total for part in parts]).sum()
    segmentation = torch.stack([part.segmentation for part in parts]).sum()
    multilabel = [part.multilabel for part in parts if part.multilabel is not None]
    return Losses(total, segmentation, torch.stack(multilabel).sum() if multilabel else None)
