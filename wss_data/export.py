"""Write images with masks to a folder for other tools. Works on plain values."""

import csv
import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wss_data.errors import StoreError
from wss_data.files import write_json, write_text
from wss_data.images import read_image, write_jpeg
from wss_data.ledger import Ledger


@dataclass(frozen=True)
class ExportRow:
    """One image to write.

    Args:
        name: Its file name without suffix; unique in the whole export.
        image_path: Its file.
        mask_path: Its label mask (palette PNG), or ``None``.
        labels: Classes that it shows; the first one names its folder in the layout ``folders``.
        split: Name of the list it goes on, such as ``kept``.
    """

    name: str
    image_path: Path
    mask_path: Path | None
    labels: tuple[str, ...]
    split: str


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``folder`` that takes its name if the block succeeds, and is removed otherwise.

    Raises:
        StoreError: If ``folder`` exists and is not an empty folder.
    """
    folder = folder.expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(f"{folder}: exists and is not an empty folder. Nothing was written; name another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    temporary.chmod(0o755)  # mkdtemp makes folders private; an export is meant to be shared
    try:
        yield temporary
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_voc(rows: Sequence[ExportRow], folder: Path, classes: Sequence[str], ledger: Ledger) -> int:
    """Write the layout of PASCAL VOC.

    ``JPEGImages/<name>.jpg``, ``SegmentationClass/<name>.png`` (palette, values are the class indices), one list a
    split in ``ImageSets/Segmentation/``, ``image_labels.csv``, ``classes.txt`` (line n is class n) and ``ledger.json``.

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
            _copy(row.mask_path, folder / "SegmentationClass" / f"{row.name}.png")
        splits.setdefault(row.split, []).append(row.name)
    for split, names in splits.items():
        write_text(folder / "ImageSets" / "Segmentation" / f"{split}.txt", "".join(f"{name}\n" for name in names))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["image", "classes"])
    writer.writerows([row.name, " ".join(row.labels)] for row in rows)
    write_text(folder / "image_labels.csv", table.getvalue())
    _write_meaning(folder, classes, ledger)
    return len(rows)


def write_folders(rows: Sequence[ExportRow], folder: Path, classes: Sequence[str], ledger: Ledger) -> int:
    """Write one folder a class: ``images/<class>/<name>.<suffix>`` and ``masks/<class>/<name>.png``.

    An image of several classes goes to the folder of the first. Images are copied
    byte by byte. Arguments and result as ``write_voc``.
    """
    for row in rows:
        class_name = row.labels[0] if row.labels else "unlabelled"
        _copy(row.image_path, folder / "images" / class_name / f"{row.name}{row.image_path.suffix.lower()}")
        if row.mask_path is not None:
            _copy(row.mask_path, folder / "masks" / class_name / f"{row.name}.png")
    _write_meaning(folder, classes, ledger)
    return len(rows)


def copy_image(source: Path, target: Path) -> None:
    """Copy an image to a JPEG: byte by byte if it is one, else decoded and written anew."""
    if source.suffix.lower() in (".jpg", ".jpeg"):
        _copy(source, target)
    else:
        write_jpeg(read_image(source), target)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _write_meaning(folder: Path, classes: Sequence[str], ledger: Ledger) -> None:
    """What the mask values mean and what they were made from."""
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in classes))
    write_json(folder / "ledger.json", ledger.to_dict())
