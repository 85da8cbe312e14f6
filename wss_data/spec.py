"""Read and check a dataset definition, the YAML files of ``datasets/``."""

import os
import re
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
import yaml
from pydantic import Field

from wss_data.errors import SpecError, shown
from wss_data.errors.names import is_of_tool
from wss_data.errors.text import is_clean
from wss_data.reading.listing import require_text
from wss_data.reading.plain_yaml import read_plain_file
from wss_data.reading.settings import Expected, Line, settings, settings_of
from wss_data.runtime.files import expanded, is_ours, write_output

_Kind = TypeVar("_Kind")

BACKGROUND = "background"  # Name of index 0: of its images' label and folder, where a definition searches for them
MAX_CLASSES = 254  # Masks are 8 bit: 0 is background and 255 ignore

DEFINITION_FILE = "definition.yaml"  # In a dataset's folder: the definition that was made from class names

LONGEST_NAME = 200  # Characters of a name: it becomes a folder's with others behind it, and no disk takes more than 255

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{LONGEST_NAME - 1}}}")
_LONGEST_QUERY = 500
_LONGEST_CHAIN = 3


_Options = Annotated[
    Mapping[str, Any],
    pydantic.AfterValidator(lambda options: dict(_checked_names(options))),
    Expected("a mapping with words for keys"),
]


def _checked_names(options: Mapping[str, Any]) -> Mapping[str, Any]:
    if not all(isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and is_clean(name) for name in options):
        raise ValueError
    return options


@settings("class", SpecError)
class ClassSpec:
    """One class."""

    index: Annotated[
        int, Field(ge=0, le=MAX_CLASSES, description="Value of its pixels in a label mask; background is 0.")
    ]
    name: Annotated[str, Line(LONGEST_NAME), Field(description="Its name, used for folders, tags and reports.")]
    queries: Annotated[
        tuple[Annotated[str, Line(_LONGEST_QUERY)], ...],
        Field(description="What the sources are asked for; by default the name."),
    ]


@settings("source", SpecError)
class SourceSpec:
    """One source of web images."""

    name: Annotated[str, Line(LONGEST_NAME), Field(description="Name of the source.")]
    limit: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Field(description="Most images to take for each class; without it all that the source has."),
    ] = None
    options: Annotated[_Options, Field(description="Settings of that source.")] = field(default_factory=dict)


# Where images come from when a definition does not say: the sources that need no key
DEFAULT_SOURCES = (SourceSpec("openimages"), SourceSpec("openverse"), SourceSpec("wikimedia"))

# Images that each of them is asked for, for each class, where a definition is made from class names alone
DEFAULT_LIMIT = 300


@settings("cosegmentation", SpecError)
class CosegmentationSpec:
    """Which engine makes the masks, and its settings."""

    method: Annotated[str, Line(LONGEST_NAME), Field(description="Name of the engine.")] = "common"
    options: Annotated[_Options, Field(description="Settings of that engine.")] = field(default_factory=dict)


_Fraction = Annotated[float, Field(ge=0, le=1)]


@settings("filters", SpecError)
class FilterSpec:
    """Which masks are kept.

    Source:
        Shen et al., BMVC 2017, section 4.1: 20 % to 80 %. The confidence is our own.
    """

    min_foreground: Annotated[
        _Fraction, Field(description="Smallest foreground fraction of the image that is kept; the paper's is 0.2.")
    ] = 0.2
    max_foreground: Annotated[_Fraction, Field(description="Largest; the paper's is 0.8.")] = 0.8
    min_confidence: Annotated[
        _Fraction,
        Field(description="Smallest confidence of the engine that is kept; 0 keeps all. Masks without one are kept."),
    ] = 0.0

    def __post_init__(self) -> None:
        if self.min_foreground >= self.max_foreground:
            raise SpecError(f"min_foreground {self.min_foreground} is not below max_foreground {self.max_foreground}.")


_Count = Annotated[int, Field(ge=1, le=1000)]
_Seconds = Annotated[float, Field(ge=0, le=3600)]


@settings("download", SpecError)
class DownloadSpec:
    """How images are downloaded."""

    connections: Annotated[_Count, Field(description="Downloads at once.")] = 16
    per_host: Annotated[
        _Count, Field(description="Downloads at once from one host; a host with a stricter rule of its own keeps that.")
    ] = 6
    pause_s: Annotated[
        _Seconds,
        Field(description="Seconds between the starts of two downloads from one host; a longer Crawl-delay wins."),
    ] = 0.0
    attempts: Annotated[
        _Count,
        Field(description="Requests for one image at most; only what may pass by itself is asked for again."),
    ] = 3
    backoff_s: Annotated[
        _Seconds, Field(description="Seconds before the second attempt; four times as long before each one after that.")
    ] = 1.0
    deadline_s: Annotated[
        _Seconds,
        Field(description="Seconds that all attempts for one image may take together, waiting between them apart."),
    ] = 25.0
    max_megabytes: Annotated[_Count, Field(description="Size of a file at most, in MiB.")] = 16
    respect_robots: Annotated[bool, Field(description="Whether what robots.txt disallows is left alone.")] = True
    respect_opt_outs: Annotated[
        bool, Field(description="Whether images behind X-Robots-Tag: noai and its like are left alone.")
    ] = True
    allow_hosts: Annotated[
        tuple[Annotated[str, Line(300)], ...],
        Field(description="host:port of servers in a private network that may be asked all the same."),
    ] = ()


@settings("duplicates", SpecError)
class DuplicateSpec:
    """Which images count as the same image."""

    max_distance: Annotated[
        Annotated[int, Field(ge=0, le=32)] | None,
        Field(description="Bits in which two perceptual hashes may differ, of 64; null leaves near-duplicates in."),
    ] = 8


@settings("target", SpecError)
class TargetSpec:
    """The dataset that the final model is trained and scored on."""

    layout: Annotated[Literal["voc", "drawn"], Field(description="voc (folders as PASCAL VOC has them) or drawn.")]
    mask_classes: Annotated[
        tuple[Annotated[str, Line(LONGEST_NAME)], ...] | None,
        Field(
            description="Class names in the order of the target masks' indices 1..K, where they are not the "
            "definition's own, or the name of a definition that has them. Masks are then translated by name, and "
            "pixels of a class that the definition lacks become void."
        ),
    ] = None
    options: Annotated[_Options, Field(description="Settings of the layout.")] = field(default_factory=dict)


@settings("definition", SpecError)
class DatasetSpec:
    """A whole definition."""

    name: Annotated[
        Annotated[str, Line(LONGEST_NAME)],
        Field(description="Name of the FiftyOne dataset; the target dataset is called <name>-target."),
    ]
    classes: Annotated[
        tuple[ClassSpec, ...], Field(description="The classes, index 1 first: names, or mappings with the keys below.")
    ]
    background: Annotated[
        tuple[Annotated[str, Line(_LONGEST_QUERY)], ...],
        Field(
            description="Queries for images that show no class, only what comes with classes, such as `open water`: "
            "they teach what is not the object."
        ),
    ] = ()
    sources: Annotated[
        tuple[SourceSpec, ...],
        Field(description="Where images come from, in this order; without it, those that need no key."),
    ] = DEFAULT_SOURCES
    download: Annotated[DownloadSpec, Field(description="How images are downloaded.")] = DownloadSpec()
    duplicates: Annotated[DuplicateSpec, Field(description="Which images count as the same.")] = DuplicateSpec()
    cosegmentation: Annotated[CosegmentationSpec, Field(description="How masks are made.")] = CosegmentationSpec()
    filters: Annotated[FilterSpec, Field(description="Which masks are kept.")] = FilterSpec()
    target: Annotated[TargetSpec | None, Field(description="The target dataset, if there is one.")] = None
    ignore_index: Annotated[
        int, Field(ge=2, le=255, description="Value of void pixels in masks; over all class indices.")
    ] = 255
    longest_side: Annotated[
        int, Field(ge=32, le=10_000, description="Longest side of a stored image, in pixels; the paper's is 340.")
    ] = 340

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes 1..C, in order of their index."""
        return tuple(c.name for c in self.classes)

    @property
    def groups(self) -> tuple[ClassSpec, ...]:
        """What images are searched for: the classes and, behind them, the background where it has queries."""
        return (*self.classes, ClassSpec(0, BACKGROUND, self.background)) if self.background else self.classes

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names of ``groups``: the labels that images of the web dataset have."""
        return tuple(group.name for group in self.groups)

    def class_index(self, name: str) -> int:
        """Index of the group called ``name``; raises ``SpecError`` if there is none."""
        for group in self.groups:
            if group.name == name:
                return group.index
        raise SpecError(f"definition '{self.name}' has no class '{name}'. Its classes: {', '.join(self.group_names)}.")

    def check_classes(self, names: Collection[str] | None) -> None:
        """Raise ``SpecError`` if a name is no class; ``None`` stands for all."""
        for name in names or ():
            self.class_index(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``from_dict`` reads them."""
        value = _plain(asdict(self))
        if not self.background:  # as definitions were before they had one: no digest of theirs changes
            del value["background"]
        return value

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


def spec_from_classes(
    classes: Sequence[str],
    name: str | None = None,
    queries: Mapping[str, Sequence[str]] | None = None,
    limit: int | None = None,
) -> DatasetSpec:
    """Make a definition of class names: each is searched for by its name at the sources that need no key.

    Args:
        classes: Names, such as ``traffic light``; blanks become ``_`` in the class's name, not in its query.
        name: Name of the dataset; by default that of its classes, the first three of many.
        queries: Class -> further queries; those of ``background`` find images that show no class.
        limit: Most images to take for each class from each source; by default ``DEFAULT_LIMIT``.

    Raises:
        SpecError: If a name is empty, a path or a file, or becomes that of another class; if a query is for no class.
    """
    where = "class names"
    if isinstance(classes, str) or not classes or not all(isinstance(word, str) for word in classes):
        raise SpecError(f"{where}: found {shown(classes)}, expected a list of names, such as ['cat', 'dog'].")
    typed: dict[str, str] = {}  # name of a class -> as it was typed
    for word in (" ".join(word.split()) for word in classes):
        if word.endswith((".yaml", ".yml")):
            raise SpecError(f"{where}: {shown(word)} is the file of a definition; give class names or a definition.")
        if not _NAME.fullmatch(key := word.replace(" ", "_")):
            raise SpecError(
                f"{where}: {shown(word)} cannot be one; letters a to z, digits, blanks, '_' and '-' are possible, a "
                f"letter or digit first, {LONGEST_NAME} at most. Other words are queries: --query NAME=WORDS."
            )
        if key in typed:
            raise SpecError(f"{where}: '{typed[key]}' and '{word}' are one class, {key}; give one of them.")
        typed[key] = word
    more = {"_".join(key.split()): list(words) for key, words in (queries or {}).items()}
    if unknown := [key for key in more if key not in (*typed, BACKGROUND)]:
        known = ", ".join((*typed, BACKGROUND))
        raise SpecError(f"{where}: there are queries for {shown(unknown[0])}, expected one of: {known}.")
    rest = [f"and-{len(typed) - 3}-more"] if len(typed) > 3 else []
    value = {
        "name": name or "-".join([*list(typed)[:3], *rest]),
        "classes": [
            {"index": index, "name": key, "queries": list(dict.fromkeys([key.replace("_", " "), *more.get(key, [])]))}
            for index, key in enumerate(typed, start=1)
        ],
        "background": more.get(BACKGROUND, []),
        "sources": [asdict(replace(source, limit=limit or DEFAULT_LIMIT)) for source in DEFAULT_SOURCES],
    }
    return DatasetSpec.from_dict(value, where)


def keep_definition(spec: DatasetSpec, path: Path) -> None:
    """Write a definition that was made from class names to a file, so that it can be changed and built again.

    Raises:
        SpecError: If the file was changed since, and says something else.
    """
    if path.exists() and not is_ours(path):
        if read_spec(path) != spec:
            raise SpecError(
                f"{path}: was changed since it was made from class names, and says something else than these. Build it "
                f"as it is (wss-data build {shlex.quote(str(path))}), or give the class names another --name."
            )
        return
    plain = DatasetSpec(spec.name, spec.classes).to_dict()
    value = {key: item for key, item in spec.to_dict().items() if key in ("name", "classes") or item != plain.get(key)}
    head = "# Made from class names. Change it and build it again:\n#   wss-data build"
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    write_output(path, f"{head} {shlex.quote(str(path))}\n{text}")


def spec_from_folder(images: str | Path, name: str) -> DatasetSpec:
    """Make a definition of a folder of images: its class folders, sorted by name, become the classes.

    Args:
        images: Folder that holds one folder of images a class, and perhaps ``background``, whose images show none;
            hidden folders, those that begin with ``_`` and a tool's own (``@eaDir``) are left out.
        name: Name of the dataset.

    Raises:
        SpecError: If there is no such folder, or no class folder in it.
    """
    folder = require_text(expanded(images), "the images")
    if not folder.is_dir():
        raise SpecError(f"{folder}: there is no such folder of images.")
    found = sorted(p.name for p in folder.iterdir() if p.is_dir() and not is_of_tool(p.name))
    background = [name for name in found if name == BACKGROUND]
    if not (classes := [name for name in found if name != BACKGROUND]):
        raise SpecError(f"{folder}: no class folder found. Wanted: one folder a class, as in {folder}/cat/1.jpg.")
    source = {"name": "folder", "options": {"path": str(folder.absolute())}}
    value = {"name": name, "classes": classes, "background": background, "sources": [source]}
    return DatasetSpec.from_dict(value, str(folder))


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
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise SpecError(
            f"{where} is {shown(value)}; letters, digits, '_' and '-' are possible, a letter or digit first, "
            f"{LONGEST_NAME} at most{'' if isinstance(value, str) else ', in quotes where it would be something else'}."
        )
    return value


def _plain(value: Any) -> Any:
    """``value`` with tuples as lists, as JSON, YAML and the database hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
