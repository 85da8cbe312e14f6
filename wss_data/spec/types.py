"""The types of a dataset definition, and what its values may be."""

import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, field
from typing import Annotated, Any, Literal

from wss_data.errors import SpecError
from wss_data.errors.text import is_clean
from wss_data.reading.settings import Expected, Rule, line, settings, unchecked
from wss_data.spec.names import BACKGROUND, LONGEST_NAME, MAX_CLASSES

NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{LONGEST_NAME - 1}}}")  # Of a dataset or a class
_LONGEST_QUERY = 500


def _checked_names(options: Mapping[str, Any]) -> dict[str, Any]:
    if not all(isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and is_clean(name) for name in options):
        raise ValueError
    return dict(options)


_Options = Annotated[Mapping[str, Any], Expected("a mapping with words for keys", _checked_names)]


@settings("class", SpecError)
class ClassSpec:
    """One class."""

    index: Annotated[int, Rule(ge=0, le=MAX_CLASSES), "Value of its pixels in a label mask; background is 0."]
    name: Annotated[str, line(LONGEST_NAME), "Its name, used for folders, tags and reports."]
    queries: Annotated[
        tuple[Annotated[str, line(_LONGEST_QUERY)], ...], "What the sources are asked for; by default the name."
    ]


@settings("source", SpecError)
class SourceSpec:
    """One source of web images."""

    name: Annotated[str, line(LONGEST_NAME), "Name of the source."]
    limit: Annotated[
        Annotated[int, Rule(ge=1)] | None, "Most images to take for each class; without it all that the source has."
    ] = None
    options: Annotated[_Options, "Settings of that source."] = field(default_factory=dict)


# Where images come from when a definition does not say: the sources that need no key
DEFAULT_SOURCES = tuple(unchecked(SourceSpec, name=name) for name in ("openimages", "openverse", "wikimedia"))


@settings("cosegmentation", SpecError)
class CosegmentationSpec:
    """Which engine makes the masks, and its settings."""

    method: Annotated[str, line(LONGEST_NAME), "Name of the engine."] = "common"
    options: Annotated[_Options, "Settings of that engine."] = field(default_factory=dict)


_Fraction = Annotated[float, Rule(ge=0, le=1)]


@settings("filters", SpecError)
class FilterSpec:
    """Which masks are kept.

    Source:
        Shen et al., BMVC 2017, section 4.1: 20 % to 80 %. The confidence is our own.
    """

    min_foreground: Annotated[
        _Fraction, "Smallest foreground fraction of the image that is kept; the paper's is 0.2."
    ] = 0.2
    max_foreground: Annotated[_Fraction, "Largest; the paper's is 0.8."] = 0.8
    min_confidence: Annotated[
        _Fraction, "Smallest confidence of the engine that is kept; 0 keeps all. Masks without one are kept."
    ] = 0.0

    def __post_init__(self) -> None:
        if self.min_foreground >= self.max_foreground:
            raise SpecError(f"min_foreground {self.min_foreground} is not below max_foreground {self.max_foreground}.")


_Count = Annotated[int, Rule(ge=1, le=1000)]
_Seconds = Annotated[float, Rule(ge=0, le=3600)]


@settings("download", SpecError)
class DownloadSpec:
    """How images are downloaded."""

    connections: Annotated[_Count, "Downloads at once."] = 16
    per_host: Annotated[
        _Count, "Downloads at once from one host; a host with a stricter rule of its own keeps that."
    ] = 6
    pause_s: Annotated[
        _Seconds, "Seconds between the starts of two downloads from one host; a longer Crawl-delay wins."
    ] = 0.0
    attempts: Annotated[_Count, "Requests for one image at most; only what may pass by itself is asked for again."] = 3
    backoff_s: Annotated[
        _Seconds, "Seconds before the second attempt; four times as long before each one after that."
    ] = 1.0
    deadline_s: Annotated[
        _Seconds, "Seconds that all attempts for one image may take together, waiting between them apart."
    ] = 25.0
    max_megabytes: Annotated[_Count, "Size of a file at most, in MiB."] = 16
    respect_robots: Annotated[bool, "Whether what robots.txt disallows is left alone."] = True
    respect_opt_outs: Annotated[bool, "Whether images behind X-Robots-Tag: noai and its like are left alone."] = True
    allow_hosts: Annotated[
        tuple[Annotated[str, line(300)], ...],
        "host:port of servers in a private network that may be asked all the same.",
    ] = ()


@settings("duplicates", SpecError)
class DuplicateSpec:
    """Which images count as the same image."""

    max_distance: Annotated[
        Annotated[int, Rule(ge=0, le=32)] | None,
        "Bits in which two perceptual hashes may differ, of 64; null leaves near-duplicates in.",
    ] = 8


@settings("target", SpecError)
class TargetSpec:
    """The dataset that the final model is trained and scored on."""

    layout: Annotated[Literal["voc", "drawn"], "voc (folders as PASCAL VOC has them) or drawn."]
    mask_classes: Annotated[
        tuple[Annotated[str, line(LONGEST_NAME)], ...] | None,
        "Class names in the order of the target masks' indices 1..K, where they are not the "
        "definition's own, or the name of a definition that has them. Masks are then translated by name, and "
        "pixels of a class that the definition lacks become void.",
    ] = None
    options: Annotated[_Options, "Settings of the layout."] = field(default_factory=dict)


@settings("definition", SpecError)
class DatasetSpec:
    """A whole definition."""

    name: Annotated[
        Annotated[str, line(LONGEST_NAME)], "Name of the FiftyOne dataset; the target dataset is called <name>-target."
    ]
    classes: Annotated[tuple[ClassSpec, ...], "The classes, index 1 first: names, or mappings with the keys below."]
    background: Annotated[
        tuple[Annotated[str, line(_LONGEST_QUERY)], ...],
        "Queries for images that show no class, only what comes with classes, such as `open water`: "
        "they teach what is not the object.",
    ] = ()
    sources: Annotated[
        tuple[SourceSpec, ...], "Where images come from, in this order; without it, those that need no key."
    ] = DEFAULT_SOURCES
    download: Annotated[DownloadSpec, "How images are downloaded."] = DownloadSpec()
    duplicates: Annotated[DuplicateSpec, "Which images count as the same."] = DuplicateSpec()
    cosegmentation: Annotated[CosegmentationSpec, "How masks are made."] = CosegmentationSpec()
    filters: Annotated[FilterSpec, "Which masks are kept."] = FilterSpec()
    target: Annotated[TargetSpec | None, "The target dataset, if there is one."] = None
    ignore_index: Annotated[int, Rule(ge=2, le=255), "Value of void pixels in masks; over all class indices."] = 255
    longest_side: Annotated[
        int, Rule(ge=32, le=10_000), "Longest side of a stored image, in pixels; the paper's is 340."
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
        """Plain values, as ``spec_from_dict`` reads them."""
        value = _plain(asdict(self))
        if not self.background:  # as definitions were before they had one: no digest of theirs changes
            del value["background"]
        return value


def _plain(value: Any) -> Any:
    """``value`` with tuples as lists, as JSON, YAML and the database hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
