"""The loop itself: batches in, weights out, checkpoints on the way.

Every iteration draws its random numbers from (seed, iteration) alone, so a run
that was killed and resumed ends, on a CPU, in the same weights bit for bit.
"""

import copy
import sys
import time
from collections.abc import Mapping
from contextlib import closing, nullcontext
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from wss_data.errors import RecipeError
from wss_data.records import ExampleTable
from wss_train.backbones import load_weights
from wss_train.checkpoints import ModelCard, TrainingState, training_states, write_training_state
from wss_train.data import TrainingDraws, batches
from wss_train.engine.metrics_log import MetricsLog
from wss_train.engine.objective import Losses
from wss_train.engine.optimizer import learning_rate, load_optimizer, make_optimizer, optimizer_tensors
from wss_train.engine.processes import place
from wss_train.engine.step import Step
from wss_train.models import SegmentationModel

_ITERATION = 3
"""Name of a stream of random numbers, beside those of ``wss_train.data`` and ``wss_train.training``."""

LOG_EVERY = 10
"""Iterations between two looks at the loss: each look waits for the device."""


class Watcher(Protocol):
    """Looks at the network now and then, and may stop a run or choose one of its states."""

    every: int
    """Iterations between two looks; the last iteration is always looked at."""

    def look(self, iteration: int, model: SegmentationModel) -> bool:
        """Look at the network after ``iteration`` iterations; true to stop now. It is in evaluation mode.

        A resumed run looks again at what came after its checkpoint: what was noted of that must be dropped.
        """
        ...

    def chosen(self) -> tuple[int, Mapping[str, Tensor]] | None:
        """Iterations and weights of the state that becomes the model; ``None`` for the last one."""
        ...


class MovingAverage:
    """Exponential moving average of a network's weights.

    Args:
        model: The network.
        decay: In (0, 1): what the average keeps of itself in an iteration.

    Attributes:
        model: A copy of the network with averaged weights, in evaluation mode.

    Source:
        Tarvainen and Valpola, *Mean teachers are better role models*, NeurIPS 2017, eq. (2). The decay grows from 0.1,
        so that the first, random weights are soon forgotten.
    """

    def __init__(self, model: SegmentationModel, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, model: SegmentationModel, iteration: int) -> None:
        """Take in the weights after iteration number ``iteration``, from 0."""
        decay = min(self._decay, (1 + iteration) / (10 + iteration))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1.0 - decay)


class Follower:
    """Stands in for the first process's watcher in the others.

    Args:
        every: Iterations between two looks, as the watcher's.
    """

    def __init__(self, every: int) -> None:
        self.every = every

    def look(self, iteration: int, model: SegmentationModel) -> bool:
        """Not asked: the first process looks, and the others hear what it decided."""
        return False

    def chosen(self) -> tuple[int, Mapping[str, Tensor]] | None:
        """Nothing: the first process chooses."""
        return None


def run_loop(
    model: SegmentationModel,
    state: TrainingState | None,
    table: ExampleTable,
    card: ModelCard,
    out: Path,
    device: torch.device,
    workers: int,
    watcher: Watcher | None = None,
    progress: bool = True,
    compiled: bool = False,
) -> tuple[int, Mapping[str, Tensor]]:
    """Train a network from a state to its last iteration, or to where a watcher stops it.

    Args:
        model: The network, on ``device``, with the weights of ``state``.
        state: Where an earlier run stopped; ``None`` for the beginning.
        table: Images with masks.
        card: What is trained.
        out: Run folder, for metrics and checkpoints.
        device: Where the network is.
        workers: Threads that read images ahead; 0 reads in between.
        watcher: Looks at the network now and then; ``None`` for nobody.
        progress: Whether to show a bar.
        compiled: Whether ``torch.compile`` translates the network.

    Returns:
        Iterations and weights of the model: the last state, or the one that the watcher chose.

    Raises:
        RecipeError: If the loss or a weight stops being a number; the last good checkpoint stays.
        CheckpointError: If a checkpoint cannot be written; the last good one stays.
    """
    here = place()
    recipe, kind, last = card.recipe, card.kind, card.iterations
    start = state.iteration if state else 0
    average = MovingAverage(model, recipe.average_decay) if recipe.average_decay else None
    optimizer = make_optimizer(model)
    if state:
        load_optimizer(optimizer, state.optimizer)
        if average:
            load_weights(average.model, state.average, f"{out}: the average in the checkpoint")

    step = Step(model, optimizer, card, table.ignore_index, device, here, compiled)
    if state:
        step.load_scaler(dict(state.scaler))
    shown = average.model if average else model

    def checkpoint(done: int) -> None:
        if not all(torch.isfinite(p).all() for p in model.parameters()):
            raise diverged(done, out)
        if here.first:
            averaged = average.model.state_dict() if average else {}
            now = TrainingState(done, model.state_dict(), optimizer_tensors(optimizer), averaged, step.scaler())
            write_training_state(now, card, out, recipe.keep_checkpoints)

    restart_at = last - recipe.low_rate_iterations(kind) if recipe.rate_policy == "restart" else None
    parts = here.rank, here.world, recipe.accumulate
    source = batches(TrainingDraws(table, recipe), recipe.batch, start, last, workers, *parts)
    done = start
    with (
        closing(source),
        _Progress(kind, last, start, progress and here.first) as bar,
        MetricsLog(out, start) if here.first else nullcontext() as log,
    ):
        waiting: list[tuple[int, float, Losses]] = []
        clock = time.perf_counter()
        for iteration in range(start, last):
            pieces = [piece.to(device) for piece in islice(source, recipe.accumulate)]
            # Dropout draws from (seed, iteration, process), not from what went before.
            torch.manual_seed(seed_of(recipe.seed, _ITERATION, iteration * here.world + here.rank))
            if iteration == restart_at:
                optimizer.state.clear()
            rate = learning_rate(recipe, kind, iteration)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["rate_factor"]

            losses = step(pieces, iteration)
            if average:
                average.update(model, iteration)

            done = iteration + 1
            waiting.append((done, rate, losses))
            bar.update()
            saves = done % recipe.checkpoint_every == 0 or done == last
            looks = watcher is not None and (done % watcher.every == 0 or done == last)
            if saves or looks or done % LOG_EVERY == 0:
                seconds = (time.perf_counter() - clock) / len(waiting)
                bar.set_postfix(loss=f"{_log(step, log, waiting, seconds, out):.3f}")
                waiting = []
            # Before the checkpoint: a run that is killed after it was told to stop, or in the look, looks here again.
            if watcher is not None and looks:
                stops = step.agreed(here.first and watcher.look(done, shown.eval()))
                model.train()
                if stops:
                    break
            if saves:
                checkpoint(done)
            if not waiting:
                clock = time.perf_counter()
    chosen = watcher.chosen() if watcher else None
    return chosen or (done, shown.state_dict())


class _Progress(tqdm):
    """A bar over the iterations; in a log file a line now and then."""

    def __init__(self, kind: str, last: int, start: int, shown: bool) -> None:
        super().__init__(
            total=last,
            initial=start,
            desc=kind,
            unit="it",
            disable=not shown,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 10.0,
        )


def _log(
    step: Step, log: MetricsLog | None, waiting: list[tuple[int, float, Losses]], seconds: float, out: Path
) -> float:
    """Write the rows that wait and return their mean loss; raise ``RecipeError`` at one that is no number."""
    found = step.summed([losses for _, _, losses in waiting])
    for (done, rate, _), values in zip(waiting, found, strict=True):
        if not np.isfinite(values[0]):
            raise diverged(done, out)
        if log is not None:
            log.write(done, values[0], values[1], values[2] if len(values) > 2 else None, rate, seconds)
    return sum(values[0] for values in found) / len(found)


def diverged(iteration: int, out: Path) -> RecipeError:
    """What is said where training has left the finite numbers."""
    states = training_states(out)
    kept = f"The last good checkpoint is {states[-1]}." if states else "There was no checkpoint yet."
    return RecipeError(
        f"training stopped at iteration {iteration}: the loss or a weight is no longer a finite number. {kept} "
        "Lower learning_rate (--set learning_rate=...) and train into another folder."
    )


def seed_of(seed: int, stream: int, number: int) -> int:
    """The seed of one iteration, or of another number, in a named stream of random numbers."""
    return int(np.random.SeedSequence([seed, stream, number]).generate_state(1, np.uint64)[0])
