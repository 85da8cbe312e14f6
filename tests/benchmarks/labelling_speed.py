"""From image files to label masks at several scales: ours against a plain loop of PyTorch, by stage.

    OMP_NUM_THREADS=1 python tests/benchmarks/labelling_speed.py FOLDER RUN [--images 64] [--rounds 3]
        [--precision float32]

FOLDER holds images, RUN is a trained model. The plain loop reads with Pillow, resizes as we do, runs the network once a
scale, brings all scores to the image's size, takes the softmax there, averages, takes the best class and saves a PNG.
All classes, no CRF. CPU time of one thread, ways by turns, the first round warms up. Our softmax is taken on a coarser
grid (docs/explanation/inference.md): at least 99.9 % of the pixels must agree, at the precision that the model's recipe
asks for.
"""

import argparse
import io
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from unittest.mock import patch

import cv2
import numpy as np
import torch
from cosegmentation import Stages
from PIL import Image

from wss_data.imaging.images import list_images
from wss_data.imaging.masks import encode_mask
from wss_train import inference, labelling
from wss_train.data import resize_image
from wss_train.inference import network_size
from wss_train.labelling import Labeller, open_labeller
from wss_train.models import SegmentationModel, load_network

SCALES = (0.7, 1.0, 1.3)


class LabellingStages(Stages):
    """CPU milliseconds of the parts of labelling."""

    PARTS = (
        ("decoding", inference, "_read"),
        ("resizing", inference, "_pyramid"),
        ("normalising", SegmentationModel, "normalise"),
        ("network", SegmentationModel, "forward"),
        ("upsampling to the grid, softmax, mean", inference, "_fuse"),
        ("choosing the classes that can win", labelling, "_candidates"),
        ("upsampling these, best class", labelling, "_decide"),
        ("PNG", inference, "encode"),
    )


def ours(labeller: Labeller, files: Sequence[Path]) -> list[np.ndarray]:
    """As ``wss-train predict`` does it, in one thread."""
    found = {}
    for result in labelling.label_images(inference.predict_files(labeller.network, files, labeller.settings)):
        assert result.mask is not None, result.error
        inference.encode(result.mask)  # type: ignore[attr-defined]
        found[result.position] = result.mask
    return [found[position] for position in range(len(files))]


@torch.inference_mode()
def plain(labeller: Labeller, model: SegmentationModel, files: Sequence[Path]) -> list[np.ndarray]:
    """One image after another, every class at the image's size."""
    masks = []
    for file in files:
        image = np.asarray(Image.open(file).convert("RGB"))
        height, width = image.shape[:2]
        total = torch.zeros(1, model.num_classes, height, width)
        for scale in SCALES:
            size = network_size(height, width, labeller.settings.long_side * scale, model.output_stride)
            pixels = torch.from_numpy(resize_image(image, size[::-1])).permute(2, 0, 1)[None].float()
            with torch.autocast("cpu", torch.bfloat16, enabled=labeller.settings.precision == "bf16"):
                logits = model(model.normalise(pixels)).pixel_logits.float()
            total += torch.nn.functional.interpolate(logits, (height, width), mode="bilinear").softmax(dim=1)
        mask = (total / len(SCALES)).argmax(dim=1)[0].byte().numpy()
        Image.fromarray(mask).save(io.BytesIO(), "PNG")
        masks.append(mask)
    return masks


def main() -> None:
    """Both ways by turns; prints what an image costs, by stage, and how many pixels agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=("float32", "bf16"), help="in place of the recipe's")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    files = list(list_images(options.folder))
    files = files[:: max(1, len(files) // options.images)][: options.images]
    with patch.object(labelling, "usable_precision", lambda precision, _: options.precision or precision):
        labeller = open_labeller(options.run, {"scales": SCALES, "device": "cpu", "progress": False})
    model, _ = load_network(options.run)
    spent: dict[str, list[float]] = {"ours": [], "plain": []}
    one_thread = patch.object(inference, "in_threads", lambda function, items, *_, **__: map(function, items))
    with one_thread, patch.object(inference, "encode", encode_mask, create=True):
        for turn in range(-1, options.rounds):
            begun = time.process_time()
            stages = LabellingStages()
            with stages.watched():
                found = ours(labeller, files)
            middle = time.process_time()
            wanted = plain(labeller, model, files)
            if turn >= 0:
                spent["ours"].append((middle - begun) / len(files))
                spent["plain"].append((time.process_time() - middle) / len(files))
    for label, milliseconds in stages.ms.items():
        print(f"{label:40}{milliseconds / len(files):7.1f} ms an image")
    equal = sum(int((a == b).sum()) for a, b in zip(found, wanted, strict=True)) / sum(mask.size for mask in found)
    ratio = median(slow / fast for slow, fast in zip(spent["plain"], spent["ours"], strict=True))
    print(f"{len(files)} images, {model.num_classes} classes, {labeller.settings.precision}")
    for name in ("plain", "ours"):
        print(f"{name}: {1000 * median(spent[name]):.1f} ms CPU an image")
    print(f"{ratio:.2f} times faster; {100 * equal:.3f} % of the pixels equal")
    assert equal >= 0.999, "the masks differ"


if __name__ == "__main__":
    main()
