"""Score mask files of VOC's size: ours against FiftyOne and torchmetrics, with an equal confusion matrix.

    python tests/benchmarks/evaluation_speed.py [--pairs 100] [--rounds 5]

Truth and prediction are 500x375 palette PNGs of 21 classes, 255 on the borders of the truth. Each contender starts
from the files; FiftyOne's are greyscale, because its evaluation reads the colours of a palette PNG and not the indices.
torchmetrics is not a dependency: pip install torchmetrics. FiftyOne uses a database of its own.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from wss_data.imaging.masks import read_mask, write_mask
from wss_data.records import ExampleTable
from wss_train.evaluate import score_masks
from wss_train.reports.published import VOC_CLASSES

WIDTH, HEIGHT, CLASSES = 500, 375, 21


def make_pairs(folder: Path, count: int, seed: int = 0) -> ExampleTable:
    """Write truths and predictions: a few blobs of two or three classes, void around them, the prediction shifted."""
    random = np.random.default_rng(seed)
    names = [f"{n:04d}" for n in range(count)]
    for name in names:
        truth, void = np.zeros((HEIGHT, WIDTH), np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
        for _ in range(4):
            centre = int(random.integers(0, WIDTH)), int(random.integers(0, HEIGHT))
            axes = tuple(int(side) for side in random.integers(20, 120, 2))
            cv2.ellipse(truth, centre, axes, 0, 0, 360, int(random.integers(1, CLASSES)), -1)
            cv2.ellipse(void, centre, axes, 0, 0, 360, 1, 5)
        prediction = np.roll(truth, random.integers(-9, 10, 2), (0, 1))
        truth[void == 1] = 255
        write_mask(truth, folder / "truth" / f"{name}.png")
        write_mask(prediction, folder / "prediction" / f"{name}.png")
        for kind, mask in (("truth", truth), ("prediction", prediction)):
            cv2.imwrite(str(folder / f"grey-{kind}-{name}.png"), mask)
        cv2.imwrite(str(folder / f"{name}.jpg"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    return ExampleTable(
        tuple(names),
        tuple(str(folder / f"{name}.jpg") for name in names),
        tuple(str(folder / "truth" / f"{name}.png") for name in names),
        np.ones((count, CLASSES - 1), bool),
        VOC_CLASSES,
    )


def ours(folder: Path, table: ExampleTable, workers: int | None) -> np.ndarray:
    """One call of the library."""
    return score_masks(folder / "prediction", table, workers=workers, progress=False).matrix.counts


def torchmetrics_matrix(folder: Path, table: ExampleTable) -> np.ndarray:
    """The usual loop: Pillow, a tensor, ``MulticlassConfusionMatrix``."""
    import torch
    from torchmetrics.classification import MulticlassConfusionMatrix

    metric = MulticlassConfusionMatrix(CLASSES, ignore_index=255)
    for name, truth in zip(table.ids, table.mask_paths, strict=True):
        prediction = torch.from_numpy(read_mask(folder / "prediction" / f"{name}.png").astype(np.int64))
        metric.update(prediction, torch.from_numpy(read_mask(str(truth)).astype(np.int64)))
    return metric.compute().numpy()


def fiftyone_matrix(folder: Path, table: ExampleTable) -> Callable[[], np.ndarray]:
    """The dataset is made beforehand; what is returned evaluates it."""
    import fiftyone as fo

    dataset = fo.Dataset()
    dataset.add_samples(
        [
            fo.Sample(
                filepath=image,
                truth=fo.Segmentation(mask_path=str(folder / f"grey-truth-{name}.png")),
                found=fo.Segmentation(mask_path=str(folder / f"grey-prediction-{name}.png")),
            )
            for name, image in zip(table.ids, table.image_paths, strict=True)
        ]
    )
    targets = dict(enumerate(("background", *VOC_CLASSES)))

    def evaluate() -> np.ndarray:
        results = dataset.evaluate_segmentations(
            "found", gt_field="truth", mask_targets={**targets, 255: "void"}, progress=False
        )
        names = list(results.classes)
        order = [names.index(name) for name in targets.values()]
        return np.asarray(results.pixel_confusion_matrix, np.int64)[np.ix_(order, order)]

    return evaluate


def main() -> None:
    """Run all contenders by turns and print what a pair costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.setdefault("WSS_DATABASE_DIR", str(folder / "database"))
        from wss_data.store import list_datasets

        list_datasets()  # starts the database
        table = make_pairs(folder, options.pairs)
        contenders: dict[str, Callable[[], np.ndarray]] = {
            "ours": lambda: ours(folder, table, None),
            "ours, one thread": lambda: ours(folder, table, 1),
            "torchmetrics": lambda: torchmetrics_matrix(folder, table),
            "FiftyOne": fiftyone_matrix(folder, table),
        }
        expected = contenders["ours"]()
        wall: dict[str, list[float]] = {name: [] for name in contenders}
        cpu: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(-1, options.rounds):
            names = list(contenders)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                wall_start, cpu_start = time.perf_counter(), time.process_time()
                found = contenders[name]()
                assert np.array_equal(found, expected), name
                if turn >= 0:  # the first round warms up
                    wall[name].append(time.perf_counter() - wall_start)
                    cpu[name].append(time.process_time() - cpu_start)
        print("| | wall ms a pair | times ours | CPU ms a pair | times ours |\n|---|---:|---:|---:|---:|")
        for name in contenders:
            cells = []
            for times in (wall, cpu):
                ratio = median(a / b for a, b in zip(times[name], times["ours"], strict=True))
                cells += [f"{1000 * median(times[name]) / options.pairs:.2f}", f"{ratio:.1f}"]
            print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
