"""A small table to train on, and a tiny recipe: for several test files and for the processes that they start."""

from pathlib import Path

import numpy as np
from drawings import SMALLEST
from PIL import Image

from wss_data.imaging.masks import write_mask
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.records import ExampleTable
from wss_train.recipes import preset, with_values

TINY = with_values(
    preset("cpu"),
    {
        **SMALLEST,
        "head_channels": 8,
        "branch_channels": 8,
        "long_side": 64,
        "crop": 64,
        "batch": 4,
        "generator_iterations": 5,
        "final_iterations": 5,
        "checkpoint_every": 100,
        "precision": "float32",
        # Adam turns rounding of a gradient near 0 into a whole step.
        "optimizer": "sgd",
        "learning_rate": 1e-2,
        "weight_decay": 5e-4,
        "dropout": 0,
    },
)


def rectangles(folder: Path, count: int = 6) -> ExampleTable:
    """Images with a red or green rectangle on grey; the later the image, the more of its mask is void."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for i in range(count):
        image, mask = np.full((48, 64, 3), 90, np.uint8), np.zeros((48, 64), np.uint8)
        left = int(generator.integers(0, 32))
        image[8:40, left : left + 32, i % 2] = 230
        mask[8:40, left : left + 32] = i % 2 + 1
        mask[:, 64 - 8 * i :] = 255
        Image.fromarray(image).save(folder / f"{i}.png")
        write_mask(mask, folder / f"mask_{i}.png")
    names = [str(i) for i in range(count)]
    images, masks = (tuple(str(folder / f"{start}{name}.png") for name in names) for start in ("", "mask_"))
    labels = np.array([[i % 2 == 0, i % 2 == 1] for i in range(count)])
    ledger = Ledger().add("co-segmentation masks", Supervision.NONE, UsedFor.COSEGMENTATION)
    return ExampleTable(tuple(names), images, masks, labels, ("red", "green"), ledger=ledger, source="rectangles")
