"""Read and check a dataset definition, the YAML files of ``datasets/``."""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from wss_data.errors import SpecError, shown
from wss_data.errors.names import is_of_tool
from wss_data.errors.text import is_clean
from wss_data.reading.listing import require_text
from wss_data.runtime.files import expanded

MAX_CLASSES = 254
"""Masks are 8 bit: 0 is background and 255 ignore."""

LONGEST_NAME = 200
"""Characters of a name: it becomes a folder's with others behind it, and no disk takes more than 255."""

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{LONGEST_NAME - 1}}}")
_LONGEST_QUERY = 500
_LONGEST_CHAIN = 3


@dataclass(frozen=True)
class ClassSpec:
    """One class.

    Args:
        index: Value of its pixels in a label mask, 1..C; background is 0.
        name: Its name, used for folders, tags and reports.
        queries: What the sources are asked for; by default the name.
    """

    index: int
    name: str
    queries: tuple[str, ...]


@dataclass(frozen=True)
class SourceSpec:
    """One source of web images.

    Args:
        name: Name of the source.
        limit: Most images to take for each class; ``None`` for all that it has.
        options: Settings of that source.
    """

    name: str
    limit: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


DEFAULT_SOURCES = (SourceSpec("openverse"), SourceSpec("wikimedia"))
"""Where images come from when a definition does not say: the sources that need no key."""


@dataclass(frozen=True)
class CosegmentationSpec:
    """Which engine makes the masks, and its settings."""

    method: str = "common"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FilterSpec:
    """Which masks are kept.

    Args:
        min_foreground: Smallest foreground share of the image, in [0, 1].
        max_foreground: Largest.
        min_confidence: Smallest confidence of the engine, in [0, 1]; 0 keeps all. Masks without one are kept.

    Source:
        Shen et al., BMVC 2017, section 4.1: 20 % to 80 %. The confidence is our own.
    """

    min_foreground: float = 0.2
    max_foreground: float = 0.8
    min_confidence: float = 0.0


@dataclass(frozen=True)
class DownloadSpec:
    """How pictures are downloaded.

    Args:
        connections: Downloads at once.
        per_host: Downloads at once from one host; a host with a stricter rule of its own keeps that.
        pause_s: Seconds between the starts of two downloads from one host; a longer ``Crawl-delay`` wins.
        attempts: Requests for one picture at most; only what may pass by itself is asked for again.
        backoff_s: Seconds before the second attempt; four times as long before each one after that.
        deadline_s: Seconds that all attempts for one picture may take together, waiting between them apart.
        max_megabytes: Size of a file at most, in MiB.
        respect_robots: Whether what ``robots.txt`` disallows is left alone.
        respect_opt_outs: Whether pictures behind ``X-Robots-Tag: noai`` and its like are left alone.
        allow_hosts: ``host:port`` of servers in a private network that may be asked all the same.
    """

    connections: int = 16
    per_host: int = 6
    pause_s: float = 0.0
    attempts: int = 3
    backoff_s: float = 1.0
    deadline_s: float = 25.0
    max_megabytes: int = 16
    respect_robots: bool = True
    respect_opt_outs: bool = True
    allow_hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class DuplicateSpec:
    """Which images count as the same picture.

    Args:
        max_distance: Bits in which two perceptual hashes may differ, of 64; ``None`` leaves near-duplicates in.
    """

    max_distance: int | None = 8


@dataclass(frozen=True)
class TargetSpec:
    """The dataset that the final model is trained and scored on.

    Args:
        layout: ``voc`` (folders as PASCAL VOC has them) or ``drawn``.
        mask_classes: Class names in the order of the target masks' indices 1..K, where they are not the definition's
            own. Masks are then translated by name, and pixels of a class that the definition lacks become void.
        options: Settings of the layout.
    """

    layout: str
    mask_classes: tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetSpec:
    """A whole definition.

    Args:
        name: Name of the FiftyOne dataset; the target dataset is called ``<name>-target``.
        classes: The classes, index 1 first.
        sources: Where images come from, in this order; those that need no key where the definition names none.
        download: How pictures are downloaded.
        duplicates: Which images count as the same picture.
        cosegmentation: How masks are made.
        filters: Which masks are kept.
        target: The target dataset, if the definition has one.
        ignore_index: Value of void pixels.
        longest_side: Longest side of a stored image, in pixels.
    """

    name: str
    classes: tuple[ClassSpec, ...]
    sources: tuple[SourceSpec, ...] = DEFAULT_SOURCES
    download: DownloadSpec = DownloadSpec()
    duplicates: DuplicateSpec = DuplicateSpec()
    cosegmentation: CosegmentationSpec = CosegmentationSpec()
    filters: FilterSpec = FilterSpec()
    target: TargetSpec | None = None
    ignore_index: int = 255
    longest_side: int = 340

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes 1..C, in order of their index."""
        return tuple(c.name for c in self.classes)

    def class_index(self, name: str) -> int:
        """Index of the class called ``name``.

        Raises:
            SpecError: If there is no such class.
        """
        if name not in self.class_names:
            raise SpecError(
                f"definition '{self.name}' has no class '{name}'. Its classes: {', '.join(self.class_names)}."
            )
        return self.class_names.index(name) + 1

    def check_classes(self, names: Collection[str] | None) -> None:
        """Refuse names that are no classes; ``None`` stands for all.

        Raises:
            SpecError: If there is no such class.
        """
        for name in names or ():
            self.class_index(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``from_dict`` reads them."""
        return _plain(asdict(self))

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], where: str = "definition") -> "DatasetSpec":
        """Check plain values and make a definition of them.

        Args:
            value: What the YAML file holds.
            where: What to call it in an error, usually the file's name.

        Raises:
            SpecError: If a key is unknown or missing, or a value is wrong.
        """
        return _read_dataset(value, where, ())


def definitions_folder() -> Path:
    """The folder of the definitions that come with the package."""
    packaged = Path(__file__).parent / "definitions"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "datasets"


def list_definitions() -> list[str]:
    """Names of the definitions that come with the package."""
    return sorted(path.stem for path in definitions_folder().glob("*.yaml"))


def read_spec(name_or_path: str | Path) -> DatasetSpec:
    """Read a definition by its name or from a file.

    Args:
        name_or_path: Name of a definition that comes with the package (``drawn``) or path of a YAML file.

    Raises:
        SpecError: If there is no such definition or it is wrong.
    """
    return _read_file(name_or_path, ())


def _read_file(name_or_path: str | Path, within: tuple[str, ...]) -> DatasetSpec:
    """The definition in a file; ``within``: the files that led to it by their ``mask_classes``."""
    from wss_data.reading.plain_yaml import read_plain_file

    text = str(name_or_path)
    path = Path(text)
    # Unlike Path.is_file, this takes a name that no file system has for one of no file.
    if not text.endswith((".yaml", ".yml")) and not os.path.isfile(path):
        path = definitions_folder() / f"{text.replace('-', '_')}.yaml"
    if not os.path.isfile(path):
        found = f"{shown(text)} is no file" if os.path.exists(path) else f"there is no definition {shown(text)}"
        raise SpecError(f"{found}. Give a YAML file or one of: {', '.join(list_definitions())}.")
    where, file = path.name, os.path.realpath(path)
    if file in within or len(within) > _LONGEST_CHAIN:
        raise SpecError(
            f"{where}: its target's mask_classes lead back to it, or from definition to definition. Name one with "
            "classes of its own, list the classes, or leave mask_classes out."
        )
    try:
        value = read_plain_file(path)
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else error
        raise SpecError(f"{where}: not a readable YAML file ({problem}).") from error
    return _read_dataset(value, where, (*within, file))


def spec_from_folder(images: str | Path, name: str) -> DatasetSpec:
    """Make a definition of a folder of images: its class folders, sorted by name, become the classes.

    Args:
        images: Folder that holds one folder of images a class; hidden folders, those that begin with ``_`` and a
            tool's own (``@eaDir``) are left out.
        name: Name of the dataset.

    Raises:
        SpecError: If there is no such folder, or no class folder in it.
    """
    folder = require_text(expanded(images), "the images")
    if not folder.is_dir():
        raise SpecError(f"{folder}: there is no such folder of images.")
    found = sorted(p.name for p in folder.iterdir() if p.is_dir() and not is_of_tool(p.name))
    if not found:
        raise SpecError(f"{folder}: no class folder found. Wanted: one folder a class, as in {folder}/cat/1.jpg.")
    source = {"name": "folder", "options": {"path": str(folder.absolute())}}
    return DatasetSpec.from_dict({"name": name, "classes": found, "sources": [source]}, str(folder))


def _read_dataset(value: Any, where: str, within: tuple[str, ...]) -> DatasetSpec:
    known = _mapping(value, DatasetSpec, where, required=("name", "classes"))
    name = _name(known["name"], f"{where}: name")
    classes = _read_classes(known["classes"], where)
    extra: dict[str, Any] = {}
    if "sources" in known:
        extra["sources"] = _read_sources(known["sources"], where)
    if "download" in known:
        extra["download"] = _read_download(known["download"], f"{where}: download")
    if "duplicates" in known:
        extra["duplicates"] = _read_duplicates(known["duplicates"], f"{where}: duplicates")
    if "cosegmentation" in known:
        part = _mapping(known["cosegmentation"], CosegmentationSpec, f"{where}: cosegmentation")
        _text(part.get("method", ""), f"{where}: cosegmentation: method", LONGEST_NAME)
        extra["cosegmentation"] = CosegmentationSpec(**part)
    if "filters" in known:
        extra["filters"] = read_filters(known["filters"], f"{where}: filters")
    if known.get("target") is not None:
        extra["target"] = _read_target(known["target"], f"{where}: target", within)
    ignore = _integer(known.get("ignore_index", 255), f"{where}: ignore_index", low=len(classes) + 1, high=255)
    side = _integer(known.get("longest_side", 340), f"{where}: longest_side", low=32, high=10_000)
    return DatasetSpec(name, classes, ignore_index=ignore, longest_side=side, **extra)


def _read_classes(value: Any, where: str) -> tuple[ClassSpec, ...]:
    classes = []
    for position, item in enumerate(_sequence(value, f"{where}: classes"), start=1):
        if isinstance(item, str):
            item = {"name": item, "index": position}
        part = _mapping(item, ClassSpec, f"{where}: class {position}", required=("name", "index"))
        name = _name(part["name"], f"{where}: name of class {position}")
        if part["index"] != position or isinstance(part["index"], bool):
            raise SpecError(
                f"{where}: class '{name}' has index {shown(part['index'])}, expected {position}. "
                "Indices run from 1 without gaps, in file order; 0 is background."
            )
        place = f"{where}: queries of class '{name}'"
        queries = [str(q) if type(q) is int else q for q in _sequence(part.get("queries", [name]), place)]
        queries = [_text(query, place, _LONGEST_QUERY) for query in queries]
        classes.append(ClassSpec(position, name, tuple(queries) or (name,)))
    if not 1 <= len(classes) <= MAX_CLASSES:
        raise SpecError(f"{where}: {len(classes)} classes, between 1 and {MAX_CLASSES} are possible.")
    names = [c.name for c in classes]
    for name in names:
        if names.count(name) > 1:
            raise SpecError(f"{where}: class '{name}' is listed {names.count(name)} times, once is wanted.")
        if name == "background":
            raise SpecError(f"{where}: 'background' cannot be a class; index 0 always is background.")
    alike: dict[str, str] = {}
    for name in names:
        other = alike.setdefault(re.sub("[-_]+", "-", name.casefold()).rstrip("-"), name)
        if other != name:
            raise SpecError(
                f"{where}: classes '{other}' and '{name}' are one to FiftyOne and to disks that ignore capitals; give "
                "them names that differ in more than capitals, '-' and '_'."
            )
    return tuple(classes)


def _read_sources(value: Any, where: str) -> tuple[SourceSpec, ...]:
    sources = tuple(
        _read_source(item, f"{where}: source {position}")
        for position, item in enumerate(_sequence(value, f"{where}: sources"), start=1)
    )
    if not sources:
        raise SpecError(f"{where}: sources is empty; name at least one source, or leave 'sources' out.")
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise SpecError(f"{where}: source '{name}' is listed {names.count(name)} times, once is wanted.")
    return sources


def _read_source(value: Any, where: str) -> SourceSpec:
    if isinstance(value, str):
        value = {"name": value}
    part = _mapping(value, SourceSpec, where, required=("name",))
    _text(part["name"], f"{where}: name", LONGEST_NAME)
    if part.get("limit") is not None:
        part["limit"] = _integer(part["limit"], f"{where}: limit", low=1)
    return SourceSpec(**part)


def _read_download(value: Any, where: str) -> DownloadSpec:
    part = _mapping(value, DownloadSpec, where)
    for key, low in (("connections", 1), ("per_host", 1), ("attempts", 1), ("max_megabytes", 1)):
        if key in part:
            part[key] = _integer(part[key], f"{where}: {key}", low=low, high=1000)
    for key in ("pause_s", "backoff_s", "deadline_s"):
        seconds = part.get(key, 1.0)
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= 3600:
            raise SpecError(f"{where}: {key} is {shown(seconds)}, wanted seconds between 0 and 3600.")
    for key in ("respect_robots", "respect_opt_outs"):
        if not isinstance(part.get(key, True), bool):
            raise SpecError(f"{where}: {key} is {shown(part[key])}, wanted true or false.")
    if "allow_hosts" in part:
        place = f"{where}: allow_hosts"
        part["allow_hosts"] = tuple(_text(host, place, 300) for host in _sequence(part["allow_hosts"], place))
    return DownloadSpec(**part)


def _read_duplicates(value: Any, where: str) -> DuplicateSpec:
    part = _mapping(value, DuplicateSpec, where)
    if part.get("max_distance") is not None:
        part["max_distance"] = _integer(part["max_distance"], f"{where}: max_distance", low=0, high=32)
    return DuplicateSpec(**part)


def read_filters(value: Any, where: str) -> FilterSpec:
    """Check the thresholds of the filter.

    Raises:
        SpecError: If one is no share in [0, 1] or they are in the wrong order.
    """
    filters = FilterSpec(**_mapping(value, FilterSpec, where))
    for key, ratio in asdict(filters).items():
        if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 <= ratio <= 1:
            raise SpecError(f"{where}: {key} is {shown(ratio)}, a share between 0 and 1 is wanted.")
    if filters.min_foreground >= filters.max_foreground:
        raise SpecError(
            f"{where}: min_foreground {filters.min_foreground} is not below max_foreground {filters.max_foreground}."
        )
    return filters


def _read_target(value: Any, where: str, within: tuple[str, ...]) -> TargetSpec:
    part = _mapping(value, TargetSpec, where, required=("layout",))
    if part["layout"] not in ("voc", "drawn"):
        raise SpecError(f"{where}: layout is {shown(part['layout'])}, known layouts: voc, drawn.")
    if part.get("mask_classes") is not None:
        named = part["mask_classes"]
        # A definition's name stands for its classes, so that VOC's twenty are written down once.
        if isinstance(named, str):
            part["mask_classes"] = _read_file(named, within).class_names
        else:
            place = f"{where}: mask_classes"
            part["mask_classes"] = tuple(_text(name, place, LONGEST_NAME) for name in _sequence(named, place))
    return TargetSpec(**part)


def _mapping(value: Any, kind: type, where: str, required: Sequence[str] = ()) -> dict[str, Any]:
    """``value`` as a dict whose keys are fields of ``kind``."""
    known = [f.name for f in fields(kind)]
    if not isinstance(value, Mapping):
        raise SpecError(f"{where}: found {shown(value)}, wanted a mapping with the keys {', '.join(known)}.")
    for key in value:
        if key not in known:
            raise SpecError(f"{where}: unknown key {shown(key)}. Known keys: {', '.join(known)}.")
    for key in required:
        if value.get(key) is None:
            raise SpecError(f"{where}: '{key}' is missing.")
    part = dict(value)
    if "options" in part:
        options = part["options"] or {}
        if not isinstance(options, Mapping):
            raise SpecError(f"{where}: options is {shown(options)}, wanted a mapping.")
        for key in options:
            _text(key, f"{where}: name of an option", LONGEST_NAME)
        part["options"] = dict(options)
    return part


def _sequence(value: Any, where: str) -> Sequence[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise SpecError(f"{where}: found {shown(value)}, wanted a list.")
    return value


def _integer(value: Any, where: str, low: int, high: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        wanted = f"at least {low}" if high is None else f"between {low} and {high}"
        raise SpecError(f"{where} is {shown(value)}, wanted a whole number {wanted}.")
    return value


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise SpecError(
            f"{where} is {shown(value)}; letters, digits, '_' and '-' are possible, a letter or digit first, "
            f"{LONGEST_NAME} at most{'' if isinstance(value, str) else ', in quotes where it would be something else'}."
        )
    return value


def _text(value: Any, where: str, longest: int) -> str:
    if not isinstance(value, str) or len(value) > longest or not is_clean(value):
        quoted = "" if isinstance(value, str) else " (in quotes where it would be something else)"
        raise SpecError(
            f"{where} is {shown(value)}, wanted a text of at most {longest} characters on one line{quoted}."
        )
    return value


def _plain(value: Any) -> Any:
    """``value`` with tuples as lists, as JSON, YAML and the database hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
