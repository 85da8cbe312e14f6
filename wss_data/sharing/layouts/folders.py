"""One folder a class, images and masks apart: what editors of masks and ``cosegment-folder`` work on."""

from collections.abc import Sequence
from pathlib import Path

from wss_data.ledger import Ledger
from wss_data.sharing.layouts.base import UNLABELLED, ExportRow, copy_file, copy_mask, write_meaning


def write_folders(rows: Sequence[ExportRow], folder: Path, classes: Sequence[str], ledger: Ledger) -> int:
    """Write one folder a class: ``images/<class>/<name>.<suffix>`` and ``masks/<class>/<name>.png``.

    An image of several classes goes to the folder of the first. Images are copied
    byte by byte. Arguments and result as ``write_voc``.
    """
    for row in rows:
        class_name = row.labels[0] if row.labels else UNLABELLED
        copy_file(row.image_path, folder / "images" / class_name / f"{row.name}{row.image_path.suffix.lower()}")
        if row.mask_path is not None:
            copy_mask(row.mask_path, folder / "masks" / class_name / f"{row.name}.png")
    write_meaning(rows, folder, classes, ledger)
    return len(rows)
