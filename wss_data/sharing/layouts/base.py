"""What every layout shares: what an export holds, a folder that is whole or not there, what the masks mean."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from wss_data.errors import StoreError
from wss_data.imaging.images import read_image, write_jpeg
from wss_data.imaging.masks import IGNORE_INDEX, open_mask, write_mask
from wss_data.ledger import Ledger
from wss_data.reading.cells import csv_text
from wss_data.records import Provenance
from wss_data.runtime.files import WRITTEN, expanded, sweep, unfinished, write_json, write_text

MASK_TABLE = "masks.csv"
"""What is known of each mask, one line a mask; in every layout."""


@dataclass(frozen=True)
class ExportRow:
    """One image to write.

    Args:
        name: Its file name without suffix; unique in the whole export (layout ``folders``: in its class).
        image_path: Its file.
        mask_path: Its label mask (palette PNG), or ``None``.
        labels: Classes that it shows; the first one names its folder in the layout ``folders``.
        split: Name of the list it goes on, such as ``kept``.
        sha256: Hex digest of the original bytes, or ``None``.
        provenance: Where it came from, or ``None``.
        mask_facts: What is known of the mask: ``method``, ``confidence``, ``foreground_ratio`` and its quality.
    """

    name: str
    image_path: Path
    mask_path: Path | None
    labels: tuple[str, ...]
    split: str
    sha256: str | None = None
    provenance: Provenance | None = None
    mask_facts: Mapping[str, str | float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Contents:
    """What an export holds, whatever its layout.

    Args:
        rows: The images.
        classes: Names of the classes 1..C.
        ledger: What the masks and labels were made from.
        ignore_index: Value of void pixels in the masks.
        name: Name of the dataset.
        card: What a README says of it, in Markdown, or ``None``.
    """

    rows: tuple[ExportRow, ...]
    classes: tuple[str, ...]
    ledger: Ledger
    ignore_index: int = IGNORE_INDEX
    name: str = ""
    card: str | None = None

    def splits(self) -> dict[str, list[ExportRow]]:
        """Split -> its images."""
        found: dict[str, list[ExportRow]] = {}
        for row in self.rows:
            found.setdefault(row.split, []).append(row)
        return found


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``folder`` that takes its name if the block succeeds, and is removed otherwise.

    Raises:
        StoreError: If ``folder`` exists and is not an empty folder.
    """
    folder = expanded(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(f"{folder}: exists and is not an empty folder. Nothing was written; name another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(folder.parent)
    temporary = unfinished(folder.parent)
    temporary.mkdir()
    try:
        yield temporary
        # What is new as a whole holds nobody else's files.
        for table in temporary.rglob(WRITTEN):
            table.unlink()
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def copy_image(source: Path, target: Path) -> None:
    """Copy an image to a JPEG: byte by byte if it is one, else decoded and written anew."""
    if source.suffix.lower() in (".jpg", ".jpeg"):
        copy_file(source, target)
    else:
        write_jpeg(read_image(source), target)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file byte by byte; missing folders are made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def copy_mask(source: Path | None, target: Path) -> None:
    """Copy a label mask, if there is one: byte by byte if other programs read its values as we do, else written anew.

    Raises:
        MaskError: If it cannot be read.
    """
    if source is None:
        return
    mask = open_mask(source)
    if mask.by_colour or mask.depth < 8:
        write_mask(mask.values, target)
    else:
        copy_file(source, target)


def write_meaning(contents: Contents, folder: Path) -> None:
    """Write what the mask values mean, what they were made from, and what is known of each mask.

    ``classes.txt`` (line n is class n), ``ledger.json`` and, where anything is known of a mask, ``masks.csv``.
    """
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in contents.classes))
    write_json(folder / "ledger.json", contents.ledger.to_dict())
    known = [row for row in contents.rows if row.mask_facts]
    if not known:
        return
    columns = list(dict.fromkeys(key for row in known for key in row.mask_facts))
    table = (
        (row.name, row.labels[0] if row.labels else "", *(row.mask_facts.get(key) for key in columns)) for row in known
    )
    # Cells as they are: repr of a float reads back as the same float; nothing is an empty cell.
    write_text(folder / MASK_TABLE, csv_text(["image", "class", *columns], table, cell=lambda value: value))
