"""What the training loop costs beside the arithmetic, and whether the images come fast enough.

    python tests/benchmarks/training_speed.py [--iterations 6] [--batch 2] [--device cpu]

*Step*: the loop of ``wss-train`` on batches that lie in memory as the loader leaves them (bytes), against a bare
iteration of an equal network on tensors that lie on the device as the network wants them (normalised): forward, the
segmentation loss at the masks' resolution, backward, optimizer. The loop also normalises, sets seeds and rates, logs.
One bare iteration follows each of the loop's, in the same process; the median of the ratios is taken. Both networks
must end in the same loss. *torch's own*: bare iterations, a few of each at a time, with torch's own gradients of
depthwise convolutions, and with memory given back as glibc does it; the losses must be equal but for rounding.
*Loader*: images a second that ``wss_train.data.batches`` delivers with some workers, from
JPEG files of 500 x 375 px, against what the step takes.

On a processor seconds are CPU seconds of this process, so that a busy machine disturbs little; with ``--device cuda``
wall seconds after a synchronisation, and the arithmetic's fraction of what the device can do is shown for ``--peak``.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from unittest import mock

import cv2
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from wss_data.backbones.depthwise import leave_training
from wss_data.imaging.images import write_jpeg
from wss_data.imaging.masks import write_mask
from wss_data.ledger import Ledger
from wss_data.records import ExampleTable
from wss_data.runtime.heap import freed_memory_kept
from wss_train.checkpoints import ModelCard
from wss_train.data import Batch, TrainingDraws, batches
from wss_train.engine import loop
from wss_train.engine.step import learning_rate, make_optimizer, training_precision
from wss_train.losses import at_one_resolution, segmentation_loss
from wss_train.models import SegmentationModel, build_model
from wss_train.recipes import TrainRecipe, preset, with_values

CLASSES = tuple(f"class{number}" for number in range(1, 7))
STEP_GOAL, LOADER_GOAL = 1.10, 1.5


def make_table(folder: Path, count: int = 24) -> ExampleTable:
    """Images of 500 x 375 px with the detail of a photograph, and masks of blobs."""
    random = np.random.default_rng(0)
    images, masks = [], []
    for number in range(count):
        noise = sum(cv2.GaussianBlur(random.normal(0, 40 * s, (375, 500, 3)), (0, 0), s) for s in (1, 4, 16))
        mask = np.zeros((375, 500), np.uint8)
        cv2.circle(mask, tuple(int(v) for v in random.integers(100, 300, 2)), 90, int(random.integers(1, 7)), -1)
        images.append(str(folder / f"{number}.jpg"))
        masks.append(str(folder / f"{number}.png"))
        write_jpeg(np.clip(noise + 128, 0, 255).astype(np.uint8), Path(images[-1]), quality=90)
        write_mask(mask, Path(masks[-1]))
    ids = tuple(str(number) for number in range(count))
    return ExampleTable(ids, tuple(images), tuple(masks), np.ones((count, len(CLASSES)), bool), CLASSES)


def clock(device: torch.device) -> float:
    """Seconds: of the processor, or of the wall once the GPU has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


class Bare:
    """An iteration without anything around it."""

    def __init__(self, model: SegmentationModel, recipe: TrainRecipe, batch: Batch, device: torch.device) -> None:
        on_device = batch.to(device)
        self.model, self.recipe, self.device = model.to(device).train(), recipe, device
        self.images = self.model.normalise(on_device.images.float().contiguous())
        self.masks = on_device.masks
        self.optimizer = make_optimizer(self.model)
        precision = training_precision(recipe.precision, device)
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": None}[precision]

    def __call__(self, iteration: int) -> torch.Tensor:
        """One iteration; returns its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, "generator", iteration) * group["rate_factor"]
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            logits = self.model(self.images).pixel_logits
        loss = segmentation_loss(*at_one_resolution(logits, self.masks, self.recipe.loss_resolution))
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def measure(recipe: TrainRecipe, table: ExampleTable, out: Path, device: torch.device) -> tuple[list[float], ...]:
    """Seconds of the loop's iterations and of the bare ones; asserts that both come to the same losses."""
    torch.manual_seed(0)
    model = build_model(recipe, len(CLASSES) + 1, pretrained=False).to(device)
    batch = next(batches(TrainingDraws(table, recipe), recipe.batch, 0, 1, 0))
    torch.manual_seed(0)
    bare = Bare(build_model(recipe, len(CLASSES) + 1, pretrained=False), recipe, batch, device)
    ours: list[float] = []
    theirs: list[float] = []
    losses: list[torch.Tensor] = []

    def prepared(*_: object) -> Iterator[Batch]:
        for iteration in range(recipe.generator_iterations):
            started = clock(device)
            # Everything until the loop asks for the next batch is its iteration.
            yield batch
            between = clock(device)
            losses.append(bare(iteration))
            ours.append(between - started)
            theirs.append(clock(device) - between)
        yield batch

    card = ModelCard("generator", CLASSES, recipe, recipe.generator_iterations, False, Ledger())
    # The last iteration also writes a checkpoint; the generator is not asked again after it, so it is not timed.
    with mock.patch.object(loop, "batches", prepared):
        loop.run_loop(loop.Run(table, card, out, progress=False), model)
    logged = [float(line.split(",")[1]) for line in (out / "metrics.csv").read_text().splitlines()[1:]]
    np.testing.assert_allclose(logged[: len(losses)], [float(loss) for loss in losses], rtol=0.02)
    return ours[1:], theirs[1:]


def measure_plain(recipe: TrainRecipe, table: ExampleTable, device: torch.device, rounds: int) -> tuple[float, float]:
    """Seconds of a bare iteration as torch does it by itself, and of one as the loop does it; equal losses asserted."""
    batch = next(batches(TrainingDraws(table, recipe), recipe.batch, 0, 1, 0))
    both: list[Bare] = []
    for _ in range(2):
        torch.manual_seed(0)
        both.append(Bare(build_model(recipe, len(CLASSES) + 1, pretrained=False), recipe, batch, device))
    leave_training(both[0].model)
    seconds: tuple[list[float], list[float]] = ([], [])
    losses: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for bare, times, found, heap in zip(both, seconds, losses, (nullcontext, freed_memory_kept), strict=True):
            with heap():
                found.append(float(bare(number)))  # the heap is as it was left
                started = clock(device)
                found.append(float(bare(number)))
                times.append(clock(device) - started)
    np.testing.assert_allclose(*losses, rtol=0.05)
    return median(seconds[0][1:]), median(seconds[1][1:])


def loader_rate(recipe: TrainRecipe, table: ExampleTable, workers: int, iterations: int) -> tuple[float, float]:
    """Images that the loader delivers in a second of the wall, and CPU milliseconds an image."""
    source = batches(TrainingDraws(table, recipe), recipe.batch, 0, iterations + 1, workers)
    next(source)
    started, cpu = time.perf_counter(), time.process_time()
    count = sum(len(batch.ids) for batch in source)
    return count / (time.perf_counter() - started), (time.process_time() - cpu) / count * 1e3


def main() -> int:
    """Measure and print; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--iterations", type=int, default=6, help="iterations of each (default: 6; the first is dropped)"
    )
    parser.add_argument("--batch", type=int, default=2, help="images a batch (default: 2)")
    parser.add_argument("--crop", type=int, help="crop in pixels (default: the recipe's, 256)")
    parser.add_argument("--workers", type=int, default=1, help="threads of the loader (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--peak", type=float, help="arithmetic limit of the device in TFLOP/s, to show a share of it")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sizes = {"batch": options.batch, "generator_iterations": options.iterations + 1, "weights": "none", "dropout": 0.0}
    if options.crop:
        sizes["crop"] = options.crop
    cpu = with_values(preset("cpu"), {**sizes, "checkpoint_every": 10**6})
    sgd = {"optimizer": "sgd", "learning_rate": 1e-4}
    recipes = {
        "cpu preset, AdamW": cpu,
        "cpu preset, SGD": with_values(cpu, sgd),
        "resnet18, AdamW": with_values(cpu, {"backbone": "resnet18"}),
        "resnet18, SGD": with_values(cpu, {"backbone": "resnet18", **sgd}),
    }
    missed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = make_table(folder)
        print(f"{'step':<20}{'loop s':>9}{'bare s':>9}{'ratio':>7}{'images/s':>10}")
        for title, recipe in recipes.items():
            ours, theirs = measure(recipe, table, folder / title, device)
            ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
            rate = recipe.batch / median(ours)
            missed |= ratio > STEP_GOAL
            share = ""
            if options.peak:
                model = build_model(recipe, len(CLASSES) + 1, pretrained=False)
                with FlopCounterMode(display=False) as counter:
                    model(torch.zeros(1, 3, recipe.crop, recipe.crop)).pixel_logits.sum().backward()
                share = f"  {counter.get_total_flops() * rate / options.peak / 1e12:.1%} of {options.peak:g} TFLOP/s"
            print(f"{title:<20}{median(ours):9.3f}{median(theirs):9.3f}{ratio:7.3f}{rate:10.1f}{share}", flush=True)
            if title == "cpu preset, AdamW":
                step_rate = rate
        plain, ours_alone = measure_plain(cpu, table, device, options.iterations)
        print(f"torch's own: {plain:.3f} s an iteration, ours {ours_alone:.3f}: {plain / ours_alone:.2f} times")
        delivered, cost = loader_rate(cpu, table, options.workers, 40)
        missed |= delivered < LOADER_GOAL * step_rate
        print(
            f"loader, {options.workers} workers: {delivered:.0f} images/s ({cost:.2f} ms CPU an image), "
            f"{delivered / step_rate:.1f} times what the cpu preset's step takes"
        )
    print(f"goals: step at most {STEP_GOAL}, loader at least {LOADER_GOAL}: {'MISSED' if missed else 'met'}")
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
