"""The loop itself: batches in, weights out, checkpoints on the way.

Every iteration draws its random numbers from (seed, iteration) alone, so a run
that was killed and resumed ends, on a CPU, in the same weights bit for bit.
"""

import sys
import time
from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from wss_data.errors import RecipeError
from wss_data.records import ExampleTable
from wss_data.runtime.heap import freed_memory_kept
from wss_train.checkpoints import ModelCard, TrainingState, training_states, write_training_state
from wss_train.data import ITERATION, TrainingDraws, batches
from wss_train.engine.metrics_log import MetricsLog
from wss_train.engine.processes import place
from wss_train.engine.step import Losses, Step, compiler_problem, learning_rate, optimizer_tensors
from wss_train.models import SegmentationModel
from wss_train.selection.selection import Selector

LOG_EVERY = 10
"""Iterations between two looks at the loss: each look waits for the device."""


@dataclass(frozen=True)
class Run:
    """What a training run learns from, and where it writes."""

    table: ExampleTable  # images with masks
    card: ModelCard  # what is trained
    out: Path  # run folder, for metrics and checkpoints
    workers: int = 0  # threads that read images ahead; 0 reads in between
    progress: bool = True  # whether to show lines and a bar

    def say(self, line: str) -> None:
        """Show a line above the bar."""
        if self.progress:
            tqdm.write(line, file=sys.stderr)


def run_loop(
    run: Run,
    model: SegmentationModel,
    state: TrainingState | None = None,
    selector: Selector | None = None,
    every: int = 0,
) -> tuple[int, Mapping[str, Tensor]]:
    """Train a network from a state to its last iteration, or to where a selector stops it.

    Args:
        run: What is trained.
        model: The network, on its device, with the weights of ``state``.
        state: Where an earlier run stopped; ``None`` for the beginning.
        selector: Looks at the network now and then; ``None`` for nobody, and in all processes but the first.
        every: Iterations between two of its looks, in all processes, and one at the end; 0 for none.

    Returns:
        Iterations and weights of the model: the last state, or the one that the selector chose.

    Raises:
        RecipeError: If the loss or a weight stops being a number; the last good checkpoint stays.
        CheckpointError: If a checkpoint cannot be written; the last good one stays.
    """
    here, device = place(), model.pixel_mean.device
    recipe, kind, last = run.card.recipe, run.card.kind, run.card.iterations
    problem = compiler_problem(device) if recipe.compile else None
    if problem:
        run.say(f"torch.compile does not work here, training goes on without it: {problem}")
    step = Step(model, run.card, run.table.ignore_index, recipe.compile and problem is None)
    done = start = state.iteration if state else 0
    if state:
        step.restore(state.optimizer, state.scaler)

    draws = TrainingDraws(run.table, recipe)
    source = batches(draws, recipe.batch, start, last, run.workers, here.rank, here.world, recipe.accumulate)
    with (
        freed_memory_kept(),
        closing(source),
        _progress_bar(run, start) as bar,
        MetricsLog(run.out, start) if here.first else nullcontext() as log,
    ):
        waiting: list[tuple[int, float, Losses]] = []
        clock = time.perf_counter()
        for iteration in range(start, last):
            parts = [part.to(device) for part in islice(source, recipe.accumulate)]
            # Dropout draws from (seed, iteration, process), not from what went before.
            torch.manual_seed(seed_of(recipe.seed, ITERATION, iteration * here.world + here.rank))
            rate = step.set_rate(learning_rate(recipe, kind, iteration), iteration)
            waiting.append((iteration + 1, rate, step(parts)))
            done = iteration + 1
            bar.update()
            saves = done % recipe.checkpoint_every == 0 or done == last
            looks = every > 0 and (done % every == 0 or done == last)
            if saves or looks or done % LOG_EVERY == 0:
                seconds = (time.perf_counter() - clock) / len(waiting)
                bar.set_postfix(loss=f"{_log(step, log, waiting, seconds, run.out):.3f}")
                waiting = []
            # Before the checkpoint: a run that is killed after a signal to stop, or in the look, looks here again.
            if looks:
                stops = step.agreed(selector is not None and selector.look(done, model.eval()))
                model.train()
                if stops:
                    break
            if saves:
                _save(run, model, step, done)
            if not waiting:
                clock = time.perf_counter()
    chosen = selector.chosen() if selector else None
    return chosen or (done, model.state_dict())


def _save(run: Run, model: SegmentationModel, step: Step, done: int) -> None:
    """Write a checkpoint; raise ``RecipeError`` where a weight is no number."""
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise _diverged(done, run.out)
    if place().first:
        now = TrainingState(done, model.state_dict(), optimizer_tensors(step.optimizer), step.scaler())
        write_training_state(now, run.card, run.out, run.card.recipe.keep_checkpoints)


def _progress_bar(run: Run, start: int) -> "tqdm[None]":
    return tqdm(
        total=run.card.iterations,
        initial=start,
        desc=run.card.kind,
        unit="it",
        disable=not run.progress,
        dynamic_ncols=True,
        # In a log file each state of the bar is a line.
        mininterval=0.5 if sys.stderr.isatty() else 10.0,
    )


def _log(
    step: Step, log: MetricsLog | None, waiting: list[tuple[int, float, Losses]], seconds: float, out: Path
) -> float:
    """Write the rows that wait and return their mean loss; raise ``RecipeError`` at one that is no number."""
    found = step.summed([losses for _, _, losses in waiting])
    for (done, rate, _), values in zip(waiting, found, strict=True):
        if not np.isfinite(values[0]):
            raise _diverged(done, out)
        if log is not None:
            log.write(done, values, rate, seconds)
    return sum(values[0] for values in found) / len(found)


def _diverged(iteration: int, out: Path) -> RecipeError:
    states = training_states(out)
    kept = f"The last good checkpoint is {states[-1]}." if states else "There was no checkpoint yet."
    return RecipeError(
        f"training stopped at iteration {iteration}: the loss or a weight is no longer a finite number. {kept} "
        "Lower learning_rate (--set learning_rate=...) and train into another folder."
    )


def seed_of(seed: int, stream: int, number: int) -> int:
    """The seed of one iteration, or of another number, in a named stream of random numbers."""
    return int(np.random.SeedSequence([seed, stream, number]).generate_state(1, np.uint64)[0])
