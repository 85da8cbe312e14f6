"""The protocol of a source, and finding one by name."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from inspect import signature
from typing import Any, Literal, Protocol

from wss_data.errors import SourceError, shown
from wss_data.records import Provenance
from wss_data.spec import ClassSpec

SOURCES = {
    "drawn": "wss_data.retrieval.sources.drawn:DrawnSource",
    "flickr": "wss_data.retrieval.sources.flickr:FlickrSource",
    "folder": "wss_data.retrieval.sources.folder:FolderSource",
    "google": "wss_data.retrieval.sources.google:GoogleSource",
    "openverse": "wss_data.retrieval.sources.openverse:OpenverseSource",
    "wikimedia": "wss_data.retrieval.sources.wikimedia:WikimediaSource",
}
"""Name of each source -> where its class lives; loaded when it is asked for."""

ENTRY_POINTS = "wss_data.sources"
"""Group of the entry points by which other packages add sources."""


@dataclass(frozen=True)
class Hit:
    """One search result: what is known before a byte was read, and how to read the bytes.

    Args:
        class_name: The class it was searched for.
        provenance: Where it comes from; ``source`` and ``source_id`` identify it for ever.
        read: Returns the original file's bytes; raises ``ImageError`` or ``SourceError``. ``None`` for a picture on
            the web: then ``provenance.image_url`` is downloaded.
        expected_sha256: Hex digest that the bytes should have, where it is known.
        expected_phash: Perceptual hash (16 hex digits) that the picture should come near to, where it is known.
    """

    class_name: str
    provenance: Provenance
    read: Callable[[], bytes] | None = None
    expected_sha256: str | None = None
    expected_phash: str | None = None


class Pages(Protocol):
    """Remembers what a service answered while a search goes on, so that a killed one need not ask again."""

    def answer(self, question: str, ask: Callable[[], Any]) -> Any:
        """What was answered to ``question``; ``ask`` is called, and its answer kept, if it never was.

        Args:
            question: Names the request within one search of one class at one source; without any key or secret.
            ask: Makes the request; what it returns must be plain values (JSON).
        """
        ...


class Forgetful:
    """Pages that remember nothing: every question is asked."""

    def answer(self, question: str, ask: Callable[[], Any]) -> Any:
        """The answer of ``ask``."""
        return ask()


@dataclass(frozen=True)
class SourceState:
    """Whether a source can be asked, as far as that is known without asking it.

    Args:
        state: ``ready``; ``off`` unless it is asked for by a setting; ``needs`` something that is missing.
        detail: One sentence: what is missing and how to get it, or what limits hold.
    """

    state: Literal["ready", "off", "needs"]
    detail: str


class Source(Protocol):
    """Something that can be asked for images of a class.

    ``local`` sources cost nothing to ask and are searched at every build, so that new
    images are found; a finished search of any other is not repeated.
    """

    name: str
    local: bool

    def state(self) -> SourceState:
        """Whether it can be asked."""
        ...

    def search(self, wanted: ClassSpec, limit: int | None, pages: Pages) -> Iterator[Hit]:
        """Yield at most ``limit`` hits for one class, none twice, always in the same order.

        Raises:
            SourceUnavailable: If it cannot deliver now: a key is missing or refused, or the service does not answer.
            SourceError: If what was asked makes no sense to it.
        """
        ...


def distinct(hits: Iterable[Hit | None], limit: int | None) -> Iterator[Hit]:
    """The hits among ``hits``, each identity once, at most ``limit`` of them; no more is taken than that needs."""
    seen: set[str] = set()
    if limit is not None and limit < 1:
        return
    for hit in hits:
        if hit is None or hit.provenance.source_id in seen:
            continue
        seen.add(hit.provenance.source_id)
        yield hit
        if len(seen) == limit:
            return


def list_sources() -> dict[str, str]:
    """Name of each source -> where its class lives; those of other packages included, which never hide ours."""
    added = {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}
    return {**added, **SOURCES}


def make_source(name: str, options: Mapping[str, Any], longest_side: int | None = None) -> Source:
    """The source called ``name``, set up with ``options`` from the definition.

    Args:
        name: As in the definition.
        options: Its settings.
        longest_side: Longest side of a stored image, in pixels: told to sources that can choose among sizes (those
            that have an option of that name) unless ``options`` says otherwise.

    Raises:
        SourceError: If there is no such source or it refuses an option.
    """
    known_sources = list_sources()
    if name not in known_sources:
        raise SourceError(f"there is no source {shown(name)}. Known sources: {', '.join(sorted(known_sources))}.")
    make = EntryPoint(name, known_sources[name], ENTRY_POINTS).load()
    if longest_side is not None and "longest_side" in signature(make).parameters:
        options = {"longest_side": longest_side, **options}
    try:
        return make(**options)
    except (TypeError, ValueError, OverflowError, RuntimeError, OSError) as error:
        # A source checks its options; what it did not think of, one from another package above all, ends here.
        raise SourceError(f"source '{name}' cannot take the options {shown(dict(options))} ({error}).") from error


def source_state(name: str, options: Mapping[str, Any]) -> SourceState:
    """Whether the source called ``name`` can be asked; what it refuses counts as needed.

    Raises:
        SourceError: If there is no such source.
    """
    if name not in list_sources():
        make_source(name, options)
    try:
        return make_source(name, options).state()
    except SourceError as error:
        return SourceState("needs", str(error))
