"""Where images come from: one file a source, one protocol in ``base``. Finds a source by its name."""

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from inspect import signature
from typing import Any

from wss_data.errors import SourceError, shown
from wss_data.retrieval.sources.base import Source, SourceState

# Name of each source -> where its class lives; loaded when it is asked for.
SOURCES = {
    "drawn": "wss_data.retrieval.sources.drawn:DrawnSource",
    "flickr": "wss_data.retrieval.sources.flickr:FlickrSource",
    "folder": "wss_data.retrieval.sources.folder:FolderSource",
    "google": "wss_data.retrieval.sources.google:GoogleSource",
    "openimages": "wss_data.retrieval.sources.openimages:OpenImagesSource",
    "openverse": "wss_data.retrieval.sources.openverse:OpenverseSource",
    "wikimedia": "wss_data.retrieval.sources.wikimedia:WikimediaSource",
}

# Source -> what people did for its labels, where they did more than to make it find something: for the ledger
LABELS_BY_PEOPLE = {
    "openimages": "Open Images' labels of {count} images: proposed by a classifier, each checked by people who looked "
    "at the image",
}

ENTRY_POINTS = "wss_data.sources"  # group of the entry points by which other packages add sources


def list_sources() -> dict[str, str]:
    """Name of each source -> where its class lives; those of other packages included, which never hide ours."""
    added = {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}
    return {**added, **SOURCES}


def make_source(name: str, options: Mapping[str, Any], longest_side: int | None = None) -> Source:
    """The source called ``name``, set up with ``options`` from the definition.

    ``longest_side`` of a stored image, in pixels, is passed to sources that can choose among sizes (those that have an
    option of that name) unless ``options`` says otherwise.

    Raises:
        SourceError: If there is no such source or it refuses an option.
    """
    # To look for those of other packages, the metadata of all packages are read.
    place = SOURCES.get(name) or list_sources().get(name)
    if place is None:
        raise SourceError(f"there is no source {shown(name)}. Known sources: {', '.join(sorted(list_sources()))}.")
    make = EntryPoint(name, place, ENTRY_POINTS).load()
    if longest_side is not None and "longest_side" in signature(make).parameters:
        options = {"longest_side": longest_side, **options}
    try:
        return make(**options)
    except (TypeError, ValueError, OverflowError, RuntimeError, OSError) as error:
        # A source checks its options; what it did not think of, one from another package above all, ends here.
        raise SourceError(f"source '{name}' cannot take the options {shown(dict(options))} ({error}).") from error


def source_state(name: str, options: Mapping[str, Any]) -> SourceState:
    """Whether the source called ``name``, which must exist, can be asked; what it refuses counts as needed."""
    if name not in SOURCES and name not in list_sources():
        make_source(name, options)
    try:
        return make_source(name, options).state()
    except SourceError as error:
        return SourceState("needs", str(error))
