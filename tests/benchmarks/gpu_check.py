"""All that wants a GPU, in one command of minutes: `make gpu-check`.

    python tests/benchmarks/gpu_check.py [--device cuda] [--peak 989] [--small]

The tests marked ``gpu``; an iteration of the preset ``paper`` in bf16 (ResNet-50, stride 8, crop 320, batch 16): images
a second, memory, fraction of the device's arithmetic limit; co-segmentation and multi-scale masks, images a second on
the device and how many pixels agree with the CPU's; losses of 50 iterations, device against CPU. Weights and images are
made up: they are asked for speed and for equality, not for quality. With ``--small`` everything is tiny; with
``--device cpu`` it shows that the command works where there is no GPU. Ends with status 1 if a part fails or a goal is
missed.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from training_speed import CLASSES, make_table, measure

from wss_data.cosegmentation import make_engine
from wss_data.imaging.images import read_image
from wss_data.ledger import Ledger
from wss_data.records import ExampleTable
from wss_train.checkpoints import ModelCard
from wss_train.engine.loop import Run, run_loop
from wss_train.models import build_model
from wss_train.predict import load_model
from wss_train.recipes import TrainRecipe, preset, with_values

TESTS = Path(__file__).resolve().parents[1]
FIRST_MARK, EQUAL, LOSS_TOLERANCE = 500, 0.99, 0.05
SCALES = (0.7, 1.0, 1.3)
CPU = torch.device("cpu")
MADE_UP = {"weights": "none", "dropout": 0.0, "generator_low_rate_iterations": 0}


@dataclass(frozen=True)
class Sizes:
    """How much is done."""

    crop: int
    batch: int
    steps: int
    loss_crop: int
    loss_iterations: int
    images: int
    long_side: int
    network: str


FULL = Sizes(
    crop=320, batch=16, steps=20, loss_crop=128, loss_iterations=50, images=24, long_side=500, network="resnet50"
)
SMALL = Sizes(crop=64, batch=2, steps=3, loss_crop=64, loss_iterations=3, images=2, long_side=96, network="resnet18")


def recipe_of(sizes: Sizes, **values: object) -> TrainRecipe:
    """The preset `paper` with weights that are made up."""
    return with_values(preset("paper"), {**MADE_UP, "backbone": sizes.network, "long_side": sizes.long_side, **values})


def the_tests() -> bool:
    """Tests marked `gpu`; without a GPU they are skipped."""
    marked = [str(path) for path in sorted(TESTS.glob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]
    status = subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "gpu", *marked]).returncode
    print(f"tests marked gpu: {'passed' if status == 0 else f'status {status}'}")
    return status == 0


def step(sizes: Sizes, table: ExampleTable, out: Path, device: torch.device, peak: float | None) -> bool:
    """An iteration of the preset `paper` in bf16."""
    recipe = recipe_of(sizes, precision="bf16", channels_last=True, crop=sizes.crop, batch=sizes.batch)
    recipe = with_values(recipe, {"generator_iterations": sizes.steps + 1, "checkpoint_every": 10**6})
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    ours, bare = measure(recipe, table, out / "step", device)
    rate = recipe.batch / median(ours)
    print(f"step: {rate:.0f} images/s (first mark {FIRST_MARK}), {median(ours) / median(bare):.2f} times the bare step")
    if device.type == "cuda":
        print(f"step: {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB, two networks at once")
    if peak:
        model = build_model(recipe, len(CLASSES) + 1, pretrained=False)
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, recipe.crop, recipe.crop)).pixel_logits.sum().backward()
        print(f"step: {counter.get_total_flops() * rate / peak / 1e12:.1%} of {peak:g} TFLOP/s")
    return device.type != "cuda" or rate >= FIRST_MARK


def losses(sizes: Sizes, table: ExampleTable, out: Path, device: torch.device) -> bool:
    """The same training on the device and on the CPU: float32, the same draws."""
    values = {"precision": "float32", "crop": sizes.loss_crop, "batch": 4, "learning_rate": 1e-4}
    values |= {"generator_iterations": sizes.loss_iterations, "checkpoint_every": sizes.loss_iterations}
    recipe = recipe_of(sizes, **values)
    found = []
    for number, where in enumerate((device, CPU)):
        torch.manual_seed(0)
        model = build_model(recipe, len(CLASSES) + 1, pretrained=False)
        folder = out / f"losses{number}"
        card = ModelCard("generator", CLASSES, recipe, sizes.loss_iterations, False, Ledger())
        run_loop(Run(table, card, folder, progress=False), model.to(where))
        lines = (folder / "metrics.csv").read_text().splitlines()[1:]
        found.append(np.array([float(line.split(",")[1]) for line in lines]))
    apart = float(np.abs(found[0] / found[1] - 1).max())
    print(f"losses: at most {apart:.2%} apart in {sizes.loss_iterations} iterations (at most {LOSS_TOLERANCE:.0%})")
    return apart <= LOSS_TOLERANCE


def agreement(what: str, make: Callable[[str], list[np.ndarray]], device: torch.device) -> bool:
    """What the device makes beside what the CPU makes: images a second of each, equal pixels."""
    masks, rates = [], []
    for where in (str(device), "cpu"):
        make(where)  # what is done once, such as choosing kernels
        started = time.perf_counter()
        masks.append(make(where))
        rates.append(len(masks[-1]) / (time.perf_counter() - started))
    equal = float(np.mean([(one == two).mean() for one, two in zip(*masks, strict=True)]))
    print(
        f"{what}: {rates[0]:.1f} images/s, CPU {rates[1]:.1f}; {equal:.2%} of the pixels equal (at least {EQUAL:.0%})"
    )
    return equal >= EQUAL


def main() -> int:
    """Run all parts; 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (default: cuda)")
    parser.add_argument("--peak", type=float, help="TFLOP/s that the device can do, to show the fraction reached")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that the command works")
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        print("gpu-check: torch finds no CUDA device here. --device cpu --small shows that the command works.")
        return 1
    device, sizes = torch.device(options.device), SMALL if options.small else FULL
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU'}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = make_table(folder, sizes.images)
        images = [read_image(path) for path in table.image_paths]
        good = [
            the_tests(),
            step(sizes, table, folder, device, options.peak),
            losses(sizes, table, folder, device),
        ]
        trained = folder / "losses0" / "checkpoints" / f"iteration_{sizes.loss_iterations:06d}"

        def labelled(where: str) -> list[np.ndarray]:
            return [found.mask for found in load_model(trained, device=where).predict(images, scales=SCALES)]

        def cosegmented(where: str) -> list[np.ndarray]:
            engine = make_engine("common", {"device": where, "precision": "float32"})
            return [segmented.mask for _, segmented in engine.segment_group(images)]

        good += [agreement("masks, three scales", labelled, device), agreement("co-segmentation", cosegmented, device)]
    print(f"gpu-check: {'all good' if all(good) else 'a part FAILED or missed its mark'}")
    return int(not all(good))


if __name__ == "__main__":
    raise SystemExit(main())
