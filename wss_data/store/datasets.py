"""Making, opening and listing the datasets that are ours, and finding their files where a folder was moved."""

import logging
import os
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from wss_data.errors import StoreError
from wss_data.runtime.home import dataset_folder
from wss_data.spec import BACKGROUND, DatasetSpec
from wss_data.store.appearance import set_up
from wss_data.store.catalogue import dataset_exists, known_names
from wss_data.store.connection import correct_count, fiftyone, mongodb, samples_of
from wss_data.store.info import (
    EARLIER_NAMES,
    IMPORTED,
    MASKS,
    TAG,
    Kind,
    class_names,
    info_of,
    kind_of,
    mask_fields,
    new_info,
    update,
)
from wss_data.store.types import Dataset

LOGGER = logging.getLogger(__name__)


def target_name(spec: DatasetSpec) -> str:
    """Name of the definition's target dataset."""
    return f"{spec.name}-target"


def open_dataset(name: str) -> Dataset:
    """The dataset called ``name``; files that were moved with the folder of ``WSS_HOME`` are found where they lie now.

    Raises:
        StoreError: If there is none, or this package did not make it.
    """
    if not dataset_exists(name):
        # Those with our tag: the user's others are not for us to open.
        known = ", ".join(known_names())
        raise StoreError(f"there is no dataset '{name}'. {'Known: ' + known if known else 'None was built yet'}.")
    try:
        dataset = _loaded(name)
    except OSError as error:
        raise StoreError(f"dataset '{name}' cannot be opened: {' '.join(str(error).split())}") from error
    info_of(dataset)
    correct_count(dataset)
    find_moved_files(dataset)
    return dataset


def _loaded(name: str) -> Dataset:
    """FiftyOne's dataset as it is stored now: another process may have changed what is loaded here."""
    fo = fiftyone()
    stored = _stored(name)
    known = fo.Dataset._instances.get(name)
    if known is None or known.deleted or known.name != name:
        known = fo.load_dataset(name)
    elif _READ.get(name) != (id(known._doc), stored) or known._doc._get_changed_fields():
        # ``load_dataset`` would note twice that it was opened, and write the whole dataset each time.
        known.reload()
    else:
        known._reload_docs(hard=True)
        mongodb().datasets.update_one({"name": name}, {"$set": {"last_loaded_at": datetime.now(UTC)}})
    _READ[name] = (id(known._doc), stored)
    return known


_READ: dict[str, tuple[int, list[Any]]] = {}
"""Name of a dataset -> the ``id`` of FiftyOne's object for its record, which each reading replaces, and what was
stored when that was read."""


def _stored(name: str) -> list[Any]:
    """All that the database holds of a dataset but its samples, and but the time at which it was last opened."""
    record = mongodb().datasets.find_one({"name": name}, {"last_loaded_at": 0}) or {}
    mine = {"_dataset_id": record.get("_id")}
    return [record, *(list(mongodb()[kind].find(mine).sort("_id")) for kind in ("views", "runs", "workspaces"))]


def check_name(name: str) -> None:
    """Raise ``StoreError`` if FiftyOne takes the name of a new dataset for that of another: ``my_pets``, ``My-Pets``.

    To be called before anything is retrieved, read or written for the dataset.
    """
    if dataset_exists(name):
        return
    fo = fiftyone()
    slug = fo.core.utils.to_slug
    others = [other for other in fo.list_datasets() if slug(other) == slug(name)]
    if others:
        raise StoreError(
            f"dataset '{name}' cannot be made beside dataset '{others[0]}': FiftyOne, and disks that ignore capitals, "
            "take the names for one. Give it a name that differs in more than capitals, '-' and '_'."
        )


def check_place(spec: DatasetSpec, kind: Kind) -> None:
    """Raise what ``create_or_open`` would, before all other work."""
    name = spec.name if kind == "web" else target_name(spec)
    check_name(name)
    if dataset_exists(name):
        _check_same(open_dataset(name), spec, kind)


def _check_same(dataset: Dataset, spec: DatasetSpec, kind: Kind) -> None:
    """Refuse a dataset that was made from another definition."""
    name, info = dataset.name, info_of(dataset)
    if info["kind"] != kind or class_names(dataset) != spec.class_names:
        raise StoreError(
            f"dataset '{name}' exists already, as a {info['kind']} dataset of the classes "
            f"{', '.join(class_names(dataset))}; the definition has {', '.join(spec.class_names)}. "
            "Give the definition another name, or delete the dataset's records and build it again, which takes its "
            f"images from disk (docs/how_to/change_a_dataset.md): wss-data delete {name}"
        )
    before = info["definition"]
    if kind == "target" or not len(dataset):
        return
    if before.get("background") and not spec.background and dataset.match({"label.label": BACKGROUND}).limit(1):
        raise StoreError(
            f"dataset '{name}' holds images of the background; the definition has no `background` queries any more. "
            "Put them back (a person's verdict drops single images), or give the definition another name."
        )
    # Images on disk were shrunk to the earlier size; masks of an engine are made again, imported ones cannot be.
    if before["longest_side"] != spec.longest_side:
        raise StoreError(
            f"dataset '{name}' holds images of at most {before['longest_side']} pixels; the definition has "
            f"longest_side {spec.longest_side} now. Set it back, or give the definition another name: its images are "
            "then read at that size."
        )
    if before["ignore_index"] != spec.ignore_index and dataset.match({f"{MASKS}.method": IMPORTED}).limit(1):
        raise StoreError(
            f"dataset '{name}' holds imported masks whose void is {before['ignore_index']}; the definition has "
            f"ignore_index {spec.ignore_index} now. Set it back, or give the definition another name and import the "
            "masks again."
        )


def _taken_out(before: Mapping[str, Any], spec: DatasetSpec) -> list[str]:
    """What a definition no longer asks for: sources, results of a source, queries of a class; as words."""
    now = {source["name"]: source for source in spec.to_dict()["sources"]}
    queries = {wanted.name: wanted.queries for wanted in spec.groups}
    changes = []
    for source in before["sources"]:
        name, limit = source["name"], source["limit"]
        if name not in now:
            changes.append(f"source {name} was taken out")
            continue
        most = now[name]["limit"]
        if most is not None and (limit is None or limit > most):
            changes.append(f"limit of {name} is {most}, was {limit or 'none'}")
        # Another folder of photographs is reported file by file.
        if {**source["options"], "path": None} != {**now[name]["options"], "path": None}:
            changes.append(f"{name} has other options")
    for item in (*before["classes"], {"name": BACKGROUND, "queries": before.get("background", ())}):
        if gone := [query for query in item["queries"] if query not in queries.get(item["name"], ())]:
            changes.append(f"{item['name']} is no longer searched for as {', '.join(gone)}")
    return changes


def create_or_open(spec: DatasetSpec, kind: Kind) -> Dataset:
    """The persistent dataset of a definition, made where it is missing, with its fields, colours and saved views.

    A web dataset is called as the definition, a target dataset ``<name>-target``.

    Raises:
        StoreError: If a dataset of that name has other classes or images of another size, this package did not make
            it, or the name is another's but for capitals, ``-`` and ``_``.
    """
    name = spec.name if kind == "web" else target_name(spec)
    check_name(name)
    if not dataset_exists(name):
        # Set up under a random name and renamed at the end: killed on the way, nothing half-made has the name.
        dataset = fiftyone().Dataset()
        dataset.media_type = "image"  # the first image would make FiftyOne write and read all fields again
        set_up(dataset, spec, kind)
        dataset.info[TAG] = new_info(spec, kind)
        dataset._doc.tags, dataset._doc.persistent = [TAG], True  # stored with the name, in one write
        dataset.name = name
        return dataset
    dataset = open_dataset(name)
    _check_same(dataset, spec, kind)
    before = info_of(dataset)["definition"]
    if before != spec.to_dict():
        if kind == "web" and len(dataset) and (changes := "; ".join(_taken_out(before, spec))):
            LOGGER.warning(
                "%s: the definition changed: %s. Images stored by the earlier one stay; to leave them out, give the "
                "definition another name.",
                *(name, changes),
            )
        update(dataset, definition=spec.to_dict())
    if not dataset.persistent:  # an earlier version was killed when it had named the dataset
        dataset.persistent = True
    return dataset


def find_moved_files(dataset: Dataset) -> int:
    """Update the paths of images and masks whose file is gone, and lies below the dataset's present folder.

    ``/old/place/pets/images/cat/1.jpg`` becomes ``<WSS_HOME>/pets/images/cat/1.jpg`` if nothing is at the first place
    and a file at the second; so does a path that has an earlier name of the dataset. Returns the number of paths that
    were updated.
    """
    found = set_moved_paths(dataset)
    if found:
        said = "%s: the paths of %d files were updated: they lie in %s now."
        LOGGER.warning(said, dataset.name, found, dataset_folder(dataset.name))
    return found


def set_moved_paths(dataset: Dataset) -> int:
    """As ``find_moved_files``, without a word."""
    folder = dataset_folder(dataset.name)
    if not folder.is_dir():
        return 0
    # Only `filepath` has an index. All images of a web dataset lie in its folder, or none of its files was moved.
    if kind_of(dataset) == "web" and next(_outside(dataset, "filepath", folder), None) is None:
        return 0
    found = 0
    names = {dataset.name, *info_of(dataset).get(EARLIER_NAMES, ())}
    # Images last: by them the next call sees that there is something left to do.
    for field in [*(f"{masks}.mask_path" for masks in mask_fields(dataset)), "filepath"]:
        moved = {
            key: there for key, path in _outside(dataset, field, folder) if (there := _place_now(path, folder, names))
        }
        if moved:
            dataset.set_values(field, moved, key_field="id")
            found += len(moved)
    return found


def _outside(dataset: Dataset, field: str, folder: Path) -> Iterator[tuple[str, str]]:
    """(sample id, path) of the samples whose path in ``field`` is not below ``folder``."""
    # Two ranges, which an index answers; a pattern would read every image.
    first, behind = f"{folder}{os.sep}", f"{folder}{chr(ord(os.sep) + 1)}"
    condition = {"$or": [{field: {"$lt": first}}, {field: {"$gte": behind}}]}
    for row in samples_of(dataset).find(condition, {field: True}):
        yield str(row["_id"]), str(reduce(getitem, field.split("."), row))


def _place_now(path: str, folder: Path, names: Collection[str]) -> str | None:
    """Where in ``folder`` the file is that was at ``path``, below a folder of one of ``names``.

    ``None`` if it still is there, or nowhere.
    """
    if Path(path).exists():
        return None
    parts = Path(path).parts
    rests = (parts[position + 1 :] for position, part in enumerate(parts) if part in names)
    return next((str(there) for rest in rests if rest and (there := folder.joinpath(*rest)).is_file()), None)
