"""Records name files by their absolute path; where the folder of ``WSS_HOME`` was moved, the paths are updated."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wss_data.runtime.home import dataset_folder
from wss_data.store.connection import samples_of
from wss_data.store.info import kind_of, mask_fields
from wss_data.store.types import Dataset

LOGGER = logging.getLogger(__name__)


def find_moved_files(dataset: Dataset) -> int:
    """Update the paths of images and masks whose file is gone, and lies below the dataset's present folder.

    ``/old/place/pets/images/cat/1.jpg`` becomes ``<WSS_HOME>/pets/images/cat/1.jpg`` if nothing is at the first place
    and a file at the second. Returns the number of paths that were updated.
    """
    folder = dataset_folder(dataset.name)
    if not folder.is_dir():
        return 0
    # Only `filepath` has an index. All images of a web dataset lie in its folder, or none of its files was moved.
    if kind_of(dataset) == "web" and next(_outside(dataset, "filepath", folder), None) is None:
        return 0
    found = 0
    # Images last: by them the next call sees that there is something left to do.
    for field in [*(f"{masks}.mask_path" for masks in mask_fields(dataset)), "filepath"]:
        moved = {key: there for key, path in _outside(dataset, field, folder) if (there := _place_now(path, folder))}
        if moved:
            dataset.set_values(field, moved, key_field="id")
            found += len(moved)
    if found:
        LOGGER.warning("%s: the paths of %d files were updated: they lie in %s now.", dataset.name, found, folder)
    return found


def _outside(dataset: Dataset, field: str, folder: Path) -> Iterator[tuple[str, str]]:
    """(sample id, path) of the samples whose path in ``field`` is not below ``folder``."""
    # Two ranges, which an index answers; a pattern would read every image.
    first, behind = f"{folder}{os.sep}", f"{folder}{chr(ord(os.sep) + 1)}"
    condition = {"$or": [{field: {"$lt": first}}, {field: {"$gte": behind}}]}
    return ((str(row["_id"]), _value(row, field)) for row in samples_of(dataset).find(condition, {field: True}))


def _value(row: Any, field: str) -> str:
    for part in field.split("."):
        row = row[part]
    return str(row)


def _place_now(path: str, folder: Path) -> str | None:
    """Where in ``folder`` the file is that was at ``path``; ``None`` if it still is there, or nowhere."""
    if Path(path).exists():
        return None
    parts = Path(path).parts
    rests = (parts[position + 1 :] for position, part in enumerate(parts) if part == folder.name)
    return next((str(there) for rest in rests if rest and (there := folder.joinpath(*rest)).is_file()), None)
