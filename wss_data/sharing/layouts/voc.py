"""The layout of PASCAL VOC."""

from collections.abc import Sequence
from pathlib import Path

from wss_data.ledger import Ledger
from wss_data.reading.cells import csv_text
from wss_data.runtime.files import write_text
from wss_data.sharing.layouts.base import ExportRow, copy_image, copy_mask, write_meaning


def write_voc(rows: Sequence[ExportRow], folder: Path, classes: Sequence[str], ledger: Ledger) -> int:
    """Write the layout of PASCAL VOC.

    ``JPEGImages/<name>.jpg``, ``SegmentationClass/<name>.png`` (palette, values are the class indices), one list a
    split in ``ImageSets/Segmentation/``, ``image_labels.csv``, and the files of ``write_meaning``.

    Args:
        rows: The images.
        folder: An empty folder.
        classes: Names of the classes 1..C.
        ledger: What the masks and labels were made from.

    Returns:
        Number of images written.
    """
    splits: dict[str, list[str]] = {}
    for row in rows:
        copy_image(row.image_path, folder / "JPEGImages" / f"{row.name}.jpg")
        if row.mask_path is not None:
            copy_mask(row.mask_path, folder / "SegmentationClass" / f"{row.name}.png")
        splits.setdefault(row.split, []).append(row.name)
    for split, names in splits.items():
        write_text(folder / "ImageSets" / "Segmentation" / f"{split}.txt", "".join(f"{name}\n" for name in names))
    table = ((row.name, " ".join(row.labels)) for row in rows)
    write_text(folder / "image_labels.csv", csv_text(["image", "classes"], table, cell=str))
    write_meaning(rows, folder, classes, ledger)
    return len(rows)
