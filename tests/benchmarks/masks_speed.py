"""Eq. 2 with a dense CRF: the classes an image may hold, against all 21 through pydensecrf's plain call.

    python tests/benchmarks/masks_speed.py FOLDER [--images 20] [--rounds 3] [--model RUN]

FOLDER is in the layout of VOC (JPEGImages, SegmentationClass). Score maps of 21 classes at stride 16 are its masks
blurred, with smooth noise on every class, and brought to the size of the image, 500 px; its labels are the classes of
its mask. With --model, the maps are a trained network's, on the images that FOLDER/image_labels.csv labels with its
classes; classes that it does not know get the smallest probability. Both ways start from these maps and end in a label
mask. CPU time, one thread. At least 99.9 % of the pixels must agree; 99.8 % of the made-up ones, which are noisier than
a network's: every absent class sees itself somewhere.
"""

import argparse
import csv
import time
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch

from wss_data.crf.dense_crf import SMALLEST_PROBABILITY, CrfSettings
from wss_data.imaging.images import read_image
from wss_data.imaging.masks import read_mask
from wss_train.inference import Predicted, grid_size, network_size
from wss_train.labelling import label_images
from wss_train.models import load_network

CLASSES, LONG_SIDE, STRIDE = 21, 500, 16


def scores(image: np.ndarray, mask: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Class scores at stride 16 as a network gives them: right in the large, blurred and noisy. (21, h, w), float32."""
    size = (-(-image.shape[1] // STRIDE), -(-image.shape[0] // STRIDE))
    maps = np.empty((CLASSES, size[1], size[0]), np.float32)
    for index in range(CLASSES):
        there = cv2.resize((mask == index).astype(np.float32), size, interpolation=cv2.INTER_AREA)
        noise = cv2.GaussianBlur(random.normal(0, 1, size[::-1]).astype(np.float32), (0, 0), 2) * 4
        maps[index] = 6 * cv2.GaussianBlur(there, (0, 0), 1) + noise
    return maps


Case = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Image at 500 px, (H, W, 3) uint8; score maps, (21, h, w) float32; which classes it may hold, (21,) bool."""


def at_benchmark_size(image: np.ndarray) -> np.ndarray:
    """The image with its longer side at 500 px."""
    factor = LONG_SIDE / max(image.shape[:2])
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    return np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR))


def made_up_cases(folder: Path, count: int) -> list[Case]:
    """Cases with scores made from masks."""
    random, cases = np.random.default_rng(0), []
    masks = sorted((folder / "SegmentationClass").glob("*.png"))
    for path in masks[:: max(1, len(masks) // count)][:count]:
        image, mask = at_benchmark_size(read_image(folder / "JPEGImages" / f"{path.stem}.jpg")), read_mask(path)
        mask = cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        allowed = np.isin(np.arange(CLASSES), mask)
        allowed[0] = True
        cases.append((image, scores(image, mask, random), allowed))
    return cases


def cases_of_model(folder: Path, count: int, run: Path) -> list[Case]:
    """Cases with the scores of a trained network, at its own long side."""
    model, card = load_network(run)
    cases = []
    with (folder / "image_labels.csv").open() as file:
        rows = [(row["image"], row["classes"].split()) for row in csv.DictReader(file)]
    for name, labels in rows[:: max(1, len(rows) // count)]:
        allowed = np.zeros(CLASSES, bool)
        allowed[[0, *(card.classes.index(label) + 1 for label in labels if label in card.classes)]] = True
        path = folder / "JPEGImages" / f"{Path(name).stem}.jpg"
        if allowed.sum() == 1 or not path.is_file():
            continue
        image = at_benchmark_size(read_image(path))
        size = network_size(*image.shape[:2], card.recipe.long_side, model.output_stride)
        pixels = torch.from_numpy(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            maps = model(model.normalise(pixels.float())).pixel_logits[0].numpy()
        missing = np.full((CLASSES - len(maps), *maps.shape[1:]), maps.min() - 20, np.float32)
        cases.append((image, np.concatenate([maps, missing]), allowed))
    return cases[:count]


def probabilities(maps: np.ndarray, height: int, width: int) -> torch.Tensor:
    """Softmax over all classes on a grid of that size, (21, height, width), float32."""
    logits = torch.from_numpy(maps)[None]
    large = torch.nn.functional.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
    return large.softmax(dim=1)[0]


def ours(image: np.ndarray, maps: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """As ``wss-train masks --crf`` does it, in this process."""
    height, width = grid_size(image.shape[0], image.shape[1], (maps.shape[1], maps.shape[2]), STRIDE)
    predicted = Predicted(0, image, probabilities(maps, height, width))
    (labelled,) = label_images([predicted], lambda position: allowed, CrfSettings(), workers=1)
    assert labelled.mask is not None
    return labelled.mask


def plain(image: np.ndarray, maps: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """All 21 labels through the library's call, as its documentation shows; absent classes are left out at the end."""
    from pydensecrf.densecrf import DenseCRF2D

    height, width = image.shape[:2]
    settings = CrfSettings()
    maps = probabilities(maps, height, width).numpy()
    field = DenseCRF2D(width, height, CLASSES)
    field.setUnaryEnergy(-np.log(np.maximum(maps, SMALLEST_PROBABILITY)).reshape(CLASSES, -1))
    field.addPairwiseGaussian(sxy=settings.position_px, compat=settings.position_weight)
    field.addPairwiseBilateral(
        sxy=settings.bilateral_px, srgb=settings.bilateral_rgb, rgbim=image, compat=settings.bilateral_weight
    )
    marginals = np.array(field.inference(settings.iterations)).reshape(CLASSES, height, width)
    marginals[~allowed] = -1
    return marginals.argmax(axis=0).astype(np.uint8)


def main() -> None:
    """Both ways by turns on each image; prints what an image costs and how many pixels agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", metavar="RUN", type=Path, help="trained network whose scores are taken")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.model:
        cases = cases_of_model(options.folder, options.images, options.model)
    else:
        cases = made_up_cases(options.folder, options.images)

    times: dict[str, list[float]] = {"ours": [], "plain": []}
    equal = total = 0
    for turn in range(-1, options.rounds):
        for number, case in enumerate(cases if turn >= 0 else cases[:1]):
            found = {}
            for name in ("ours", "plain") if (turn + number) % 2 else ("plain", "ours"):
                start = time.process_time()
                found[name] = {"ours": ours, "plain": plain}[name](*case)
                if turn >= 0:  # the first round warms up
                    times[name].append(time.process_time() - start)
            equal += int((found["ours"] == found["plain"]).sum())
            total += found["ours"].size
    ratio = median(slow / fast for slow, fast in zip(times["plain"], times["ours"], strict=True))
    classes = [int(allowed.sum()) for _, _, allowed in cases]
    print(f"{len(cases)} images of {LONG_SIDE} px, {min(classes)} to {max(classes)} classes each")
    for name, what in (("plain", "21 labels, pydensecrf"), ("ours", "classes that the image may hold")):
        print(f"{what}: {1000 * median(times[name]):.0f} ms CPU an image")
    print(f"{ratio:.1f} times faster; {100 * equal / total:.2f} % of the pixels equal")
    assert equal >= (0.999 if options.model else 0.998) * total, "the masks differ"


if __name__ == "__main__":
    main()
