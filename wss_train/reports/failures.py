"""Where a model fails, after the fact: classes that merge, and extent that is under- or overestimated.

Looks at true masks, so it says something about a model and chooses nothing.

Source:
    Shen et al., BMVC 2017, figure 4: objects that always come together merge; extent is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from wss_data.imaging.images import read_image
from wss_data.imaging.masks import read_mask
from wss_data.imaging.pictures import Tile, fit, overlay, write_sheet
from wss_data.records import ExampleTable
from wss_data.runtime.files import output_path
from wss_train.metrics import count_pairs

Kind = Literal["merged", "confused", "underestimated", "overestimated"]
"""How a class fails in an image: ``merged`` into another class that is there, too; ``confused`` with one that is not;
``underestimated``: taken for background; ``overestimated``: background taken for it."""

AT_LEAST = 0.5
"""A class fails in an image where this share of its pixels goes the same wrong way."""

SMALLEST_OBJECT = 0.01
"""Classes that cover less of an image than this are not looked at: a few pixels are no failure to learn from."""

_BOX = (210, 160)


@dataclass(frozen=True)
class Failure:
    """One way in which a class failed in one image.

    Args:
        kind: How.
        wanted: Class of the truth; background, 0, for ``overestimated``.
        found: Class of the prediction; background, 0, for ``underestimated``.
        share: Share of the class's pixels that went this way, in [``AT_LEAST``, 1]; of the truth's pixels, or, for
            ``overestimated``, of the prediction's.
        cost: Share of the image's decided pixels that are wrong by it, in (0, 1].
    """

    kind: Kind
    wanted: int
    found: int
    share: float
    cost: float


def failures_of(truth: np.ndarray, prediction: np.ndarray, ignore_index: int = 255) -> list[Failure]:
    """How the classes of one image fail.

    Args:
        truth: Label mask. Shape (H, W), uint8.
        prediction: Label mask of the same shape, without void.
        ignore_index: Value of void in the truth.

    Returns:
        The costliest first; empty where nothing of note fails.
    """
    pairs = count_pairs(truth, prediction)
    pairs[ignore_index] = 0
    if not pairs.any():
        return []
    total, there, found = pairs.sum(), pairs.sum(axis=1), pairs.sum(axis=0)
    smallest = SMALLEST_OBJECT * total
    failures = []
    for wanted in np.flatnonzero(there[1:] >= smallest) + 1:
        other = int(np.delete(np.arange(256), wanted)[np.delete(pairs[wanted], wanted).argmax()])
        share = pairs[wanted, other] / there[wanted]
        if share >= AT_LEAST:
            kind: Kind = "underestimated" if other == 0 else "merged" if there[other] >= smallest else "confused"
            failures.append(Failure(kind, int(wanted), other, float(share), float(pairs[wanted, other] / total)))
    for predicted in np.flatnonzero(found[1:] >= smallest) + 1:
        share = pairs[0, predicted] / found[predicted]
        if share >= AT_LEAST:
            cost = float(pairs[0, predicted] / total)
            failures.append(Failure("overestimated", 0, int(predicted), float(share), cost))
    return sorted(failures, key=lambda failure: -failure.cost)


def write_failures(table: ExampleTable, predictions: Path, path: Path, count: int = 4) -> dict[Kind, int]:
    """Write a sheet with the costliest failures of each kind: the image, its truth, its prediction.

    Args:
        table: Images with their true masks.
        predictions: Folder of label masks, ``<id>.png``.
        path: The PNG file to write.
        count: Most images shown of a kind.

    Returns:
        Kind -> number of images in which it happens.

    Source:
        Shen et al., BMVC 2017, figure 4.
    """
    found: dict[Kind, list[tuple[Failure, int]]] = {kind: [] for kind in get_args(Kind)}
    for position, name in enumerate(table.ids):
        truth, prediction = read_mask(str(table.mask_paths[position])), read_mask(predictions / f"{name}.png")
        for kind, members in found.items():
            of_kind = [f for f in failures_of(truth, prediction, table.ignore_index) if f.kind == kind]
            if of_kind:
                members.append((of_kind[0], position))
    rows = []
    for kind, members in found.items():
        worst = sorted(members, key=lambda member: (-member[0].cost, member[1]))[:count]
        rows += [
            (f"{kind}\nin {len(members)} of {len(table)} images", _tiles(table, predictions, failure, position))
            for failure, position in worst
        ]
    note = f"The costliest of each kind. Where {AT_LEAST:.0%} of a class's pixels go one wrong way. White is void."
    with output_path(path) as temporary:
        write_sheet(temporary, f"Failures on {table.source}", note, rows, ["image", "truth", "prediction"])
    return {kind: len(members) for kind, members in found.items()}


def _tiles(table: ExampleTable, predictions: Path, failure: Failure, position: int) -> Sequence[Tile]:
    name, image = table.ids[position], read_image(table.image_paths[position])
    names = ("background", *table.classes)
    told = f"{names[failure.wanted]} as {names[failure.found]}, {failure.share:.0%}"
    masks = read_mask(str(table.mask_paths[position])), read_mask(predictions / f"{name}.png")
    truth, prediction = (fit(overlay(image, mask), _BOX) for mask in masks)
    return [Tile(fit(image, _BOX), name[:24]), Tile(truth), Tile(prediction, told)]
