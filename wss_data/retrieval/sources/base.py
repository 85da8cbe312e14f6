"""The protocol of a source, and finding one by name."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from wss_data.records import Provenance
from wss_data.spec import ClassSpec


@dataclass(frozen=True)
class Hit:
    """One search result: what is known before a byte was read, and how to read the bytes."""

    class_name: str  # the class it was searched for
    provenance: Provenance  # where it comes from; source and source_id identify it for ever
    # Returns the original file's bytes; raises ImageError or SourceError. None for an image on the web: then
    # provenance.image_url is downloaded.
    read: Callable[[], bytes] | None = None
    expected_sha256: str | None = None  # hex digest that the bytes should have, where it is known
    # Perceptual hash (16 hex digits) that the image should come near to, where it is known.
    expected_phash: str | None = None


class Pages(Protocol):
    """Remembers what a service answered while a search goes on, so that a killed one need not ask again."""

    def answer(self, question: str, ask: Callable[[], Any]) -> Any:
        """What was answered to ``question``; ``ask`` is called, and its answer (plain values) kept, if it never was.

        ``question`` names the request within one search of one class at one source; it holds no key or secret.
        """
        ...


class Forgetful:
    """Pages that remember nothing: every question is asked."""

    def answer(self, question: str, ask: Callable[[], Any]) -> Any:
        """The answer of ``ask``."""
        return ask()


@dataclass(frozen=True)
class SourceState:
    """Whether a source can be asked, as far as that is known without asking it."""

    # ready; off unless it is asked for by a setting; needs something that is missing.
    state: Literal["ready", "off", "needs"]
    detail: str  # one sentence: what is missing and how to get it, or what limits hold


class Source(Protocol):
    """Something that can be asked for images of a class."""

    name: str
    local: bool  # costs nothing to ask: searched at every build, while a finished search of any other is not repeated

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
        if hit is not None and hit.provenance.source_id not in seen:
            seen.add(hit.provenance.source_id)
            yield hit
            if len(seen) == limit:
                return
