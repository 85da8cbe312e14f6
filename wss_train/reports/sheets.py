"""Sheets of images with masks: the truth beside what each stage predicts, pseudo masks, and failures."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np

from wss_data.imaging.images import read_image
from wss_data.imaging.masks import read_mask
from wss_data.imaging.sheets import Tile, fit, overlay, write_sheet
from wss_data.records import ExampleTable
from wss_data.runtime.files import output_path
from wss_train.reports.failures import AT_LEAST, Failure, Kind, failures_of

_BOX = (210, 160)
"""(width, height) of an image on a sheet, pixels."""

_PREDICTIONS, _MASKS, _COLUMNS, _FAILURES = 10, 24, 6, 4
"""Images on the sheets of predictions and of masks, masks in a row, and failures of a kind: what fits a screen."""


def chosen(total: int, count: int) -> list[int]:
    """At most ``count`` positions at even steps of ``range(total)``: images are not chosen for their looks.

    >>> chosen(11, 3), chosen(2, 5)
    ([0, 5, 10], [0, 1])
    """
    return sorted({int(step) for step in np.linspace(0, total - 1, min(count, total))}) if total else []


def _tiles(table: ExampleTable, position: int, folders: Sequence[Path]) -> list[Tile]:
    """An image, its mask, and its mask in each folder, drawn over it."""
    image = read_image(table.image_paths[position])
    paths = [str(table.mask_paths[position]), *(str(folder / f"{table.ids[position]}.png") for folder in folders)]
    return [Tile(fit(image, _BOX)), *(Tile(fit(overlay(image, read_mask(path)), _BOX)) for path in paths)]


def write_predictions(table: ExampleTable, stages: Mapping[str, Path], path: Path) -> None:
    """Write a PNG with one image a row: the image, its truth, and the mask that each stage gave it.

    Args:
        table: Images with their true masks.
        stages: Name of a stage -> folder of its masks, ``<id>.png``.
        path: The PNG file to write.

    Source:
        Shen et al., BMVC 2017, figure 3.
    """
    rows = [
        (
            f"{table.ids[position][:16]}\n{', '.join(table.labels_of(position))[:24]}",
            _tiles(table, position, list(stages.values())),
        )
        for position in chosen(len(table), _PREDICTIONS)
    ]
    note = "Images at even steps of the split. Colours are VOC's; white is void."
    with output_path(path) as temporary:
        write_sheet(temporary, f"Predictions on {table.source}", note, rows, ["image", "truth", *stages])


def write_masks(table: ExampleTable, title: str, path: Path) -> None:
    """Write a PNG of masks drawn over their images, each with its image-level labels.

    Args:
        table: Images with masks, such as ``make_pseudo_masks`` returns.
        title: Line at the top.
        path: The PNG file to write.
    """
    tiles = [
        replace(_tiles(table, position, [])[1], caption=", ".join(table.labels_of(position))[:30])
        for position in chosen(len(table), _MASKS)
    ]
    rows = [("", tiles[start : start + _COLUMNS]) for start in range(0, len(tiles), _COLUMNS)]
    note = "Images at even steps. Below each, what it is labelled with. Colours are VOC's."
    with output_path(path) as temporary:
        write_sheet(temporary, title, note, rows)


def write_failures(table: ExampleTable, predictions: Path, path: Path) -> dict[Kind, int]:
    """Write a sheet with the costliest failures of each kind: the image, its truth, its prediction.

    Args:
        table: Images with their true masks.
        predictions: Folder of label masks, ``<id>.png``.
        path: The PNG file to write.

    Returns:
        Kind -> number of images in which it happens.

    Source:
        Shen et al., BMVC 2017, figure 4.
    """
    found: dict[Kind, list[tuple[Failure, int]]] = {kind: [] for kind in get_args(Kind)}
    for position, name in enumerate(table.ids):
        truth, prediction = read_mask(str(table.mask_paths[position])), read_mask(predictions / f"{name}.png")
        failures = failures_of(truth, prediction, table.ignore_index)
        for kind, members in found.items():
            # The first of a kind is its costliest in the image.
            members += [(failure, position) for failure in failures if failure.kind == kind][:1]
    names = ("background", *table.classes)
    rows = []
    for kind, members in found.items():
        for failure, position in sorted(members, key=lambda member: (-member[0].cost, member[1]))[:_FAILURES]:
            image, truth_tile, predicted = _tiles(table, position, [predictions])
            caption = f"{names[failure.wanted]} as {names[failure.found]}, {failure.fraction:.0%}"
            tiles = [replace(image, caption=table.ids[position][:24]), truth_tile, replace(predicted, caption=caption)]
            rows.append((f"{kind}\nin {len(members)} of {len(table)} images", tiles))
    note = f"The costliest of each kind. Where {AT_LEAST:.0%} of a class's pixels go one wrong way. White is void."
    with output_path(path) as temporary:
        write_sheet(temporary, f"Failures on {table.source}", note, rows, ["image", "truth", "prediction"])
    return {kind: len(members) for kind, members in found.items()}
