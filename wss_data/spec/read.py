"""Read a definition: from the YAML files of ``datasets/``, or from plain values."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from wss_data.errors import SpecError, shown
from wss_data.reading.plain_yaml import read_plain_file
from wss_data.reading.settings import settings_of
from wss_data.spec.names import BACKGROUND, LONGEST_NAME, MAX_CLASSES
from wss_data.spec.types import (
    NAME,
    ClassSpec,
    CosegmentationSpec,
    DatasetSpec,
    DownloadSpec,
    DuplicateSpec,
    FilterSpec,
    SourceSpec,
    TargetSpec,
)

_LONGEST_CHAIN = 3  # Definitions that name each other for the classes of their targets

_Kind = TypeVar("_Kind")


def definitions_folder() -> Path:
    """The folder of the definitions that come with the package."""
    package = Path(__file__).parents[1]
    packaged = package / "definitions"
    return packaged if packaged.is_dir() else package.parent / "datasets"


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


def spec_from_dict(value: Mapping[str, Any], where: str = "definition") -> DatasetSpec:
    """Check plain values and make a definition of them.

    Args:
        value: What a YAML file holds, or ``DatasetSpec.to_dict`` returned.
        where: What to call it in an error, usually the file's name.

    Raises:
        SpecError: If a key is unknown or missing, or a value is wrong.
    """
    return _read_dataset(value, where, ())


def _read_file(name_or_path: str | Path, within: tuple[str, ...]) -> DatasetSpec:
    """The definition in a file; ``within``: the files that led to it by their ``mask_classes``."""
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


def _read_dataset(value: Any, where: str, within: tuple[str, ...]) -> DatasetSpec:
    known = _mapping(value, DatasetSpec, where)
    if known.get("target", ...) is None:
        del known["target"]  # as where it is left out
    if "name" in known:
        known["name"] = _name(known["name"], f"{where}: name")
    if "classes" in known:
        known["classes"] = _read_classes(known["classes"], where)
    if "background" in known:
        known["background"] = _read_background(known["background"], known.get("classes", ()), where)
    if "sources" in known:
        known["sources"] = _read_sources(known["sources"], where)
    for key, kind in _PARTS.items():
        if key in known:
            place = f"{where}: {key}"
            part = _mapping(known[key], kind, place)
            if key == "target" and isinstance(named := part.get("mask_classes"), str):
                # A definition's name stands for its classes, so that VOC's twenty are written down once.
                part["mask_classes"] = _read_file(named, within).class_names
            known[key] = _made(kind, part, place)
    spec = _made(DatasetSpec, known, where)
    if spec.ignore_index <= len(spec.classes):
        raise SpecError(
            f"{where}: ignore_index is {spec.ignore_index}, expected a whole number from {len(spec.classes) + 1} to "
            "255: classes have those below."
        )
    return spec


_PARTS = {
    "download": DownloadSpec,
    "duplicates": DuplicateSpec,
    "cosegmentation": CosegmentationSpec,
    "filters": FilterSpec,
    "target": TargetSpec,
}


def _read_classes(value: Any, where: str) -> tuple[ClassSpec, ...]:
    classes = []
    for position, item in enumerate(_sequence(value, f"{where}: classes"), start=1):
        if isinstance(item, str):
            item = {"name": item, "index": position}
        place = f"{where}: class {position}"
        part = _mapping(item, ClassSpec, place)
        name = part["name"] = _name(part.get("name"), f"{where}: name of class {position}")
        if part.get("index") != position or isinstance(part["index"], bool):
            raise SpecError(
                f"{where}: class '{name}' has index {shown(part.get('index'))}, expected {position}. "
                "Indices run from 1 without gaps, in file order; 0 is background."
            )
        part["queries"] = _read_queries(part.get("queries", [name]), f"{place}: queries") or [name]
        classes.append(_made(ClassSpec, part, place))
    if not 1 <= len(classes) <= MAX_CLASSES:
        raise SpecError(f"{where}: {len(classes)} classes, between 1 and {MAX_CLASSES} are possible.")
    _check_once([one.name for one in classes], "class", where)
    alike: dict[str, str] = {}
    for name in (one.name for one in classes):
        if name == BACKGROUND:
            raise SpecError(
                f"{where}: 'background' cannot be a class; index 0 always is background. Images that show no class "
                "are searched for with `background: [QUERY, ...]`."
            )
        other = alike.setdefault(re.sub("[-_]+", "-", name.casefold()).rstrip("-"), name)
        if other != name:
            raise SpecError(
                f"{where}: classes '{other}' and '{name}' are one to FiftyOne and to disks that ignore capitals; give "
                "them names that differ in more than capitals, '-' and '_'."
            )
    return tuple(classes)


def _read_queries(value: Any, where: str) -> list[Any]:
    return [str(query) if type(query) is int else query for query in _sequence(value, where)]


def _read_background(value: Any, classes: Sequence[ClassSpec], where: str) -> list[Any]:
    """The queries of the background; one that finds a class would teach that the class is background."""

    def bare(query: str) -> str:
        return re.sub(r"[\s_-]+", " ", query.strip().casefold())

    queries = _read_queries(value, f"{where}: background")
    _check_once([query for query in queries if isinstance(query, str)], "background query", where)
    of_class = {bare(query): (one.name, query) for one in classes for query in (*one.queries, one.name)}
    for query in filter(lambda query: isinstance(query, str), queries):
        if bare(query) in of_class:
            name, other = of_class[bare(query)]
            what = f"class '{name}'" if other == name else f"query '{other}' of class '{name}'"
            raise SpecError(
                f"{where}: background query '{query}' is {what}, too; its images would teach that the class is "
                "background. Take one of them out."
            )
    return queries


def _read_sources(value: Any, where: str) -> tuple[SourceSpec, ...]:
    sources = []
    for position, item in enumerate(_sequence(value, f"{where}: sources"), start=1):
        place = f"{where}: source {position}"
        part = {"name": item} if isinstance(item, str) else _mapping(item, SourceSpec, place)
        sources.append(_made(SourceSpec, part, place))
    if not sources:
        raise SpecError(f"{where}: sources is empty; name at least one source, or leave 'sources' out.")
    _check_once([source.name for source in sources], "source", where)
    return tuple(sources)


def read_filters(value: Any, where: str) -> FilterSpec:
    """The thresholds of the filter; raises ``SpecError`` if one is no fraction or they are in the wrong order."""
    return _made(FilterSpec, _mapping(value, FilterSpec, where), where)


def _made(kind: type[_Kind], part: dict[str, Any], where: str) -> _Kind:
    try:
        with settings_of(where):
            return kind(**part)
    except SpecError as error:
        if str(error).startswith(where):
            raise
        raise SpecError(f"{where}: {error}") from None  # what values must fulfil together does not know its place


def _mapping(value: Any, kind: type, where: str) -> dict[str, Any]:
    """``value`` as a dict; ``kind`` looks at what is in it. Options that are left empty are none."""
    if not isinstance(value, Mapping):
        keys = ", ".join(field.name for field in fields(kind))
        raise SpecError(f"{where}: found {shown(value)}, expected a mapping with the keys {keys}.")
    for key in value:
        if not isinstance(key, str):  # Python itself refuses it, with an error of its own
            raise SpecError(f"{where}: there is no option {shown(key)}; the name of an option is a text.")
    return {key: item for key, item in value.items() if not (key == "options" and item is None)}


def _sequence(value: Any, where: str) -> Sequence[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise SpecError(f"{where}: found {shown(value)}, expected a list.")
    return value


def _check_once(names: Sequence[str], what: str, where: str) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise SpecError(f"{where}: {what} '{name}' is listed {count} times, once is expected.")


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise SpecError(
            f"{where} is {shown(value)}; letters, digits, '_' and '-' are possible, a letter or digit first, "
            f"{LONGEST_NAME} at most{'' if isinstance(value, str) else ', in quotes where it would be something else'}."
        )
    return value
