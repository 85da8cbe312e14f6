"""Whole datasets, their records and their files: how one is deleted, and how one gets another name."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wss_data.errors import StoreError
from wss_data.runtime.files import WRITTEN, is_ours
from wss_data.runtime.home import dataset_folder, dataset_owner, read_by_nobody
from wss_data.spec import DEFINITION_FILE, keep_definition, read_spec, spec_from_dict
from wss_data.store.catalogue import dataset_exists
from wss_data.store.connection import fiftyone, mongodb
from wss_data.store.datasets import check_name, open_dataset, set_moved_paths, target_name
from wss_data.store.info import EARLIER_NAMES, IMPORTED, MASKS, Kind, definition, info_of, kind_of, mask_fields, update

_LOCK, _JOURNAL = "lock", "journal.sqlite"
# What this package writes into a dataset's folder: paths in it. {fields}: names of mask fields that it has or had.
_OURS = (
    r"images/[^/]+/[0-9a-f]{{20}}\.jpg|pictures/(cosegmentation(_[^/]*)?|foreground_ratio)\.png|"
    r"({fields}|(cosegmentation|imported|ground_truth|pseudo_mask)(_[a-z0-9_]+)?)/(.+\.png|(.+/)?made_by\.json)|"
    r"source/(drawn\.json|image_labels\.csv|(ImageSets|JPEGImages|SegmentationClass)/.+)|"
    r"journal\.sqlite(-wal|-shm)?|verdicts\.jsonl|train_aug\.txt|(.*/)?(\.writing-[^/]*|{written})"
)


@dataclass(frozen=True)
class DeleteReport:
    """What was, or would be (``dry_run``), deleted; prints as a few lines. ``size``, ``left_size``: in bytes."""

    name: str
    images: int | None  # records of the database; None if it had none of that name
    folder: Path
    files: int  # those removed
    size: int
    left: int  # files of the dataset that stay because nobody asked for their removal
    left_size: int
    imported: int  # masks from elsewhere, which no build makes again
    used: dict[str, int]  # other dataset -> files of the folder that it uses, and that stay
    foreign: tuple[str, ...]  # what of the folder this package did not write, and that stays
    others: tuple[str, ...]  # datasets made from the same definition, which stay
    dry_run: bool

    def __str__(self) -> str:
        would = "would be " if self.dry_run else ""
        lines = []
        if self.images is not None:
            lines.append(f"{would}deleted: dataset '{self.name}', the records of {self.images:,} images.")
        if self.files or not self.left:
            lines.append(f"{would}deleted: {self.files:,} files in {self.folder}, which frees {_size(self.size)}.")
        if self.left:
            lines.append(f"{self.left:,} files, {_size(self.left_size)}, stay in {self.folder}.")
            if (self.folder / _JOURNAL).exists():
                lines.append("A build brings images and verdicts back from them; masks are made again.")
            if self.imported:
                lines.append(
                    f"{self.imported:,} masks in use were imported or adopted: no build makes them again; the folders "
                    "imported and cosegmentation_... keep them for wss-data import-masks."
                )
            lines.append(f"To free the disk, too:  wss-data delete {self.name} --files")
        lines += [f"{count:,} files stay: dataset '{other}' uses them." for other, count in self.used.items()]
        if self.foreign:
            more = f", ... ({len(self.foreign):,})" if len(self.foreign) > 3 else ""
            lines.append(f"Stays, as wss-data did not write it: {', '.join(self.foreign[:3])}{more}.")
        lines += [f"Dataset '{other}' stays." for other in self.others]
        return "\n".join(lines)


def delete_dataset(name: str, files: bool = False, dry_run: bool = False) -> DeleteReport:
    """Delete a dataset's records, and with ``files`` all that this package wrote into its folder.

    Nothing outside that folder is removed, nothing behind a link, no file that another dataset of the database uses,
    and none that this package did not write. ``files`` also clears the folder of a dataset whose records are gone.

    Args:
        name: Of a dataset of ours, in the database that is in use.
        files: Whether to remove its files, too; without them a build brings its images back.
        dry_run: Whether to report only.

    Raises:
        StoreError: If there is no such dataset, this package did not make it, or its folder is a link.
        BusyError: If another process changes it or trains on it.
    """
    folder = dataset_folder(name)
    if folder.is_symlink():
        raise StoreError(
            f"{folder} is a link; '{name}' is left alone. Put the folder itself there, and delete it again."
        )
    exists, there = dataset_exists(name), folder.exists()
    if not exists and not files and (folder / _LOCK).is_file():
        raise StoreError(f"there is no dataset '{name}', only its files in {folder}: wss-data delete {name} --files")
    # A folder without the lock that each of ours has may be anything.
    dataset = open_dataset(name) if exists or not (folder / _LOCK).is_file() else None
    with ExitStack() as owned:
        if not dry_run:
            owned.enter_context(dataset_owner(name))
            owned.enter_context(read_by_nobody(folder))
        ours, foreign = _files_of(folder, mask_fields(dataset) if dataset is not None else [])
        used = _used_by_others(name, folder) if files else {}
        ours = sorted(set(ours).difference(*used.values()))
        wanted, left = (ours, []) if files else ([], ours)
        report = DeleteReport(
            name=name,
            images=None if dataset is None else dataset.count(),
            folder=folder,
            files=len(wanted),
            size=_bytes_of(wanted),
            left=len(left),
            left_size=_bytes_of(left),
            imported=0 if dataset is None else dataset.match({f"{MASKS}.method": IMPORTED}).count(),
            used={other: len(paths) for other, paths in used.items()},
            foreign=tuple(str(path.relative_to(folder)) for path in foreign) if files else (),
            others=tuple(sorted(filter(dataset_exists, {f"{name}-target", name.removesuffix("-target")} - {name}))),
            dry_run=dry_run,
        )
        if not dry_run:
            # Records first: killed in between, files without a dataset are left, which the same call removes.
            if dataset is not None:
                dataset.delete()
            for path in wanted:
                path.unlink(missing_ok=True)
            if files or not there:
                _remove_empty(folder)
    return report


def rename_dataset(old: str, new: str) -> dict[str, str]:
    """Give a web dataset, its target dataset and their folders another name; killed on the way, the same call finishes.

    A definition has one name, so the two datasets made from it are renamed together.

    Args:
        old: Name of the web dataset, or of the definition whose target dataset alone was made.
        new: The name that they get; the target dataset is then called ``<new>-target``.

    Returns:
        Earlier name -> present name of each dataset that was renamed.

    Raises:
        StoreError: If there is no such dataset, this package did not make it, or the new name is taken.
        SpecError: If the new name cannot be a dataset's.
        BusyError: If another process changes one of them or trains on it.
    """
    kinds: dict[str, Kind] = {old: "web", f"{old}-target": "target"}
    pairs = {
        was: was.replace(old, new, 1) for was, kind in kinds.items() if _is_for(was, was.replace(old, new, 1), kind)
    }
    if not pairs:
        web = definition(open_dataset(old)).name  # says that there is none
        raise StoreError(
            f"'{old}' is the target dataset of '{web}' and is called after it. Rename that, which takes it along: "
            f"wss-data rename {web} {new.removesuffix('-target')}"
        )
    for was, now in pairs.items():
        spec = definition(open_dataset(was if dataset_exists(was) else now))
        spec_from_dict({**spec.to_dict(), "name": new}, "the new name")  # checks it
        if dataset_exists(was):
            check_name(now)
            folder = dataset_folder(now)
            if dataset_exists(now) or folder.exists():
                raise StoreError(
                    f"'{was}' cannot be called '{now}': that dataset exists already, or its folder {folder} does. "
                    "Choose another name."
                )
    with ExitStack() as owned:
        for was in pairs:
            owned.enter_context(dataset_owner(was))
            owned.enter_context(read_by_nobody(dataset_folder(was)))
        for was, now in pairs.items():
            _rename(was, now, new)
    return pairs


def _is_for(was: str, now: str, kind: Kind) -> bool:
    """Whether a dataset of that kind is there by its earlier name, or a rename of it was killed half way."""
    if dataset_exists(was):
        dataset = open_dataset(was)
        return kind_of(dataset) == kind and (kind == "web" or was == target_name(definition(dataset)))
    half = dataset_exists(now) and dataset_folder(was).exists()
    return half and was in info_of(open_dataset(now)).get(EARLIER_NAMES, ())


def _rename(was: str, now: str, name: str) -> None:
    """Each step leaves a dataset whose files are found: paths are set anew when their file is gone, by name."""
    if dataset_exists(was):
        dataset = open_dataset(was)
        earlier = [*info_of(dataset).get(EARLIER_NAMES, ()), was]
        update(dataset, **{EARLIER_NAMES: earlier}, definition={**info_of(dataset)["definition"], "name": name})
        dataset.name = now
    old, new = dataset_folder(was), dataset_folder(now)
    if not new.exists():
        old.rename(new)
    dataset = fiftyone().load_dataset(now, reload=True)
    info = info_of(dataset)
    moved = {key: _below(info[key], old, new) for key in ("source_folder", "image_folders") if key in info}
    update(dataset, **moved)
    set_moved_paths(dataset)
    if is_ours(file := new / DEFINITION_FILE):  # unless a person changed it
        keep_definition(replace(read_spec(file), name=name), file)


def _below(value: str | list[str], old: Path, new: Path) -> str | list[str]:
    """Paths, those below the folder ``old`` below ``new`` instead."""
    if isinstance(value, list):
        return [str(_below(path, old, new)) for path in value]
    return str(new / Path(value).relative_to(old)) if Path(value).is_relative_to(old) else value


def _files_of(folder: Path, fields: list[str]) -> tuple[list[Path], list[Path]]:
    """What lies in a dataset's folder: files that this package wrote there, and what else there is; links are foreign.

    ``fields``: names of the dataset's mask fields, each of which may have a folder. The lock is in neither.
    """
    known = re.compile(
        _OURS.format(fields="|".join(map(re.escape, fields)) or "-", written=re.escape(WRITTEN)), re.DOTALL
    )
    ours, foreign = list[Path](), list[Path]()
    for place, folders, names in os.walk(folder):
        foreign += [path for path in map(Path(place).joinpath, folders) if path.is_symlink()]
        for path in map(Path(place).joinpath, names):
            inside = str(path.relative_to(folder))
            if inside != _LOCK:
                known_name = known.fullmatch(inside) and not path.is_symlink()
                (ours if known_name or is_ours(path) else foreign).append(path)
    return ours, sorted(foreign)


def _used_by_others(name: str, folder: Path) -> dict[str, set[Path]]:
    """Files below a folder that other datasets of the database name, ours or not: dataset -> paths."""
    first, behind = f"{folder}{os.sep}", f"{folder}{chr(ord(os.sep) + 1)}"
    found = {}
    others = [other for other in fiftyone().list_datasets() if other != name]
    # Past FiftyOne, which would bring each to its own version, and note that it was opened.
    for other in mongodb().datasets.find({"name": {"$in": others}}, {"_id": 0}):
        samples = mongodb()[other["sample_collection_name"]]
        paths = {
            Path(path)
            for field in _fields_of_files(other.get("sample_fields") or ())
            for row in samples.find({field: {"$gte": first, "$lt": behind}}, {field: True})
            for path in _values(row, field.split("."))
            if str(path).startswith(first)
        }
        if paths:
            found[other["name"]] = paths
    return found


def _fields_of_files(fields: Iterable[Mapping[str, Any]], parent: str = "") -> Iterator[str]:
    """FiftyOne's fields of files: ``filepath``, ``<field>.mask_path``, ``<field>.detections.mask_path`` and others."""
    for field in fields:
        path = parent + (field.get("db_field") or field["name"])
        if path.endswith("path"):
            yield path
        yield from _fields_of_files(field.get("fields") or (), f"{path}.")


def _values(stored: Any, keys: Sequence[str]) -> Iterator[Any]:
    """What is stored under a path of keys, in each of the lists on the way."""
    if isinstance(stored, list):
        for one in stored:
            yield from _values(one, keys)
    elif not keys:
        yield stored
    elif isinstance(stored, dict):
        yield from _values(stored.get(keys[0]), keys[1:])


def _bytes_of(files: list[Path]) -> int:
    """Bytes that removing the files frees; those with a second name on disk free none."""
    return sum(found.st_size for found in (path.lstat() for path in files) if found.st_nlink == 1)


def _size(count: int) -> str:
    """Bytes as a person reads them.

    >>> _size(0), _size(1_234_567), _size(2_345_678_901)
    ('0.0 MB', '1.2 MB', '2.3 GB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _remove_empty(folder: Path) -> None:
    """Remove the lock, and what of the folder holds nothing any more."""
    (folder / _LOCK).unlink(missing_ok=True)
    for place, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):  # not empty
            os.rmdir(place)
