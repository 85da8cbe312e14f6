"""Pictures of trained models: image, truth, and what each stage sees."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from wss_data.images import read_image
from wss_data.masks import read_mask
from wss_data.records import ExampleTable
from wss_data.report import Tile, fit, overlay, write_sheet

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
        shown = [c for c, there in zip(table.classes, table.labels[position], strict=True) if there]
        rows.append((f"{name[:16]}\n{', '.join(shown)[:24]}", tiles))
    note = "Images at even steps of the split. Colours are VOC's; white is void."
    write_sheet(path, f"Predictions on {table.source}", note, rows, ["image", "truth", *stages])
    return path


def chosen(total: int, count: int) -> list[int]:
    """At most ``count`` positions at even steps of ``range(total)``."""
    return sorted({int(step) for step in np.linspace(0, total - 1, min(count, total))}) if total else []
