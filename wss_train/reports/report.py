"""Pictures of trained models: image, truth, and what each stage sees."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from wss_data.imaging.images import read_image
from wss_data.imaging.masks import read_mask
from wss_data.imaging.pictures import Tile, fit, overlay, write_sheet
from wss_data.records import ExampleTable
from wss_data.runtime.files import output_path

_BOX = (210, 160)


def write_predictions(table: ExampleTable, stages: Mapping[str, Path], path: Path, count: int = 10) -> Path:
    """Write a sheet with one image a row: the image, its truth, and the mask that each stage gave it.

    Images are taken at even steps of the split, not for their looks.

    Args:
        table: Images with their true masks.
        stages: Name of a stage -> folder of its masks, ``<id>.png``.
        path: The PNG file to write.
        count: Most images shown.

    Returns:
        ``path``.

    Source:
        Shen et al., BMVC 2017, figure 3.
    """
    rows = []
    for position in chosen(len(table), count):
        name = table.ids[position]
        image = read_image(table.image_paths[position])
        masks = [read_mask(str(table.mask_paths[position]))]
        masks += [read_mask(folder / f"{name}.png") for folder in stages.values()]
        tiles = [Tile(fit(image, _BOX)), *(Tile(fit(overlay(image, mask), _BOX)) for mask in masks)]
        rows.append((f"{name[:16]}\n{', '.join(_labels(table, position))[:24]}", tiles))
    note = "Images at even steps of the split. Colours are VOC's; white is void."
    with output_path(path) as temporary:
        write_sheet(temporary, f"Predictions on {table.source}", note, rows, ["image", "truth", *stages])
    return path


def write_masks(table: ExampleTable, title: str, path: Path, count: int = 24, columns: int = 6) -> Path:
    """Write a sheet of masks drawn over their images, each with its image-level labels.

    Images are taken at even steps of the table, not for their looks.

    Args:
        table: Images with masks, such as ``make_pseudo_masks`` returns.
        title: Line at the top.
        path: The PNG file to write.
        count: Most images shown.
        columns: Images in a row.

    Returns:
        ``path``.
    """
    tiles = []
    for position in chosen(len(table), count):
        image, mask = read_image(table.image_paths[position]), read_mask(str(table.mask_paths[position]))
        tiles.append(Tile(fit(overlay(image, mask), _BOX), ", ".join(_labels(table, position))[:30]))
    rows = [("", tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    note = "Images at even steps. Below each, what it is labelled with. Colours are VOC's."
    with output_path(path) as temporary:
        write_sheet(temporary, title, note, rows)
    return path


def _labels(table: ExampleTable, position: int) -> list[str]:
    return [name for name, there in zip(table.classes, table.labels[position], strict=True) if there]


def chosen(total: int, count: int) -> list[int]:
    """At most ``count`` positions at even steps of ``range(total)``."""
    return sorted({int(step) for step in np.linspace(0, total - 1, min(count, total))}) if total else []
