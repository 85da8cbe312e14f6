"""What every layout shares: what an export holds, a folder that is whole or not there, what the masks mean."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wss_data.errors import StoreError
from wss_data.imaging.images import read_image, write_jpeg
from wss_data.imaging.masks import IGNORE_INDEX, open_mask, write_mask
from wss_data.ledger import Ledger
from wss_data.reading.cells import csv_text
from wss_data.records import Provenance
from wss_data.runtime.files import WRITTEN, expanded, sweep, unfinished, write_json, write_text

MASK_TABLE = "masks.csv"  # what is known of each mask, one line a mask; in every layout


@dataclass(frozen=True)
class ExportRow:
    """One image to write; ``None`` is what is not known."""

    name: str  # of its file, without suffix; unique in the whole export (layout `folders`: in its class)
    image_path: Path
    mask_path: Path | None  # its label mask (palette PNG)
    labels: tuple[str, ...]  # classes that it shows; the first one names its folder in the layout `folders`
    split: str  # the list it goes on, such as `kept`
    sha256: str | None = None  # hex digest of the original bytes
    provenance: Provenance | None = None
    mask_facts: Mapping[str, str | float | None] = field(default_factory=dict)  # method, confidence, quality, ...
    without_label: str = "unlabelled"  # what stands in place of its class if it shows none

    @property
    def group(self) -> str:
        """The first class that it shows, or what stands in place of one."""
        return self.labels[0] if self.labels else self.without_label


@dataclass(frozen=True)
class Contents:
    """What an export holds, whatever its layout."""

    rows: tuple[ExportRow, ...]
    classes: tuple[str, ...]  # 1..C
    ledger: Ledger  # what the masks and labels were made from
    ignore_index: int = IGNORE_INDEX  # value of void pixels in the masks
    name: str = ""  # of the dataset
    card: str | None = None  # what a README says of it, in Markdown

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


def read_label_mask(row: ExportRow, contents: Contents) -> np.ndarray | None:
    """The label mask of an image, (H, W) uint8, void as 255; ``None`` if it has none.

    Raises:
        MaskError: If it cannot be read, or holds a value that is no class.
    """
    if row.mask_path is None:
        return None
    allowed = {*range(len(contents.classes) + 1), contents.ignore_index}
    mask = open_mask(row.mask_path, allowed=allowed).values
    mask[mask == contents.ignore_index] = IGNORE_INDEX
    return mask


def write_meaning(contents: Contents, folder: Path) -> None:
    """Write ``classes.txt`` (line n is class n), ``ledger.json`` and, if anything is known of a mask, ``masks.csv``."""
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in contents.classes))
    write_json(folder / "ledger.json", contents.ledger.to_dict())
    columns = list(dict.fromkeys(key for row in contents.rows for key in row.mask_facts))
    table = ((row.name, row.group, *map(row.mask_facts.get, columns)) for row in contents.rows if row.mask_facts)
    if columns:
        # Cells as they are: repr of a float reads back as the same float; nothing is an empty cell.
        write_text(folder / MASK_TABLE, csv_text(["image", "class", *columns], table, cell=lambda value: value))
