"""The protocol of a source, and finding one by name."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from typing import Any, Protocol

from wss_data.errors import SourceError
from wss_data.records import Provenance
from wss_data.spec import ClassSpec

SOURCES = {
    "drawn": "wss_data.sources.drawn:DrawnSource",
    "folder": "wss_data.sources.folder:FolderSource",
}
"""Name of each source -> where its class lives; loaded when it is asked for."""


@dataclass(frozen=True)
class Hit:
    """One search result: what is known before a byte was read, and how to read the bytes.

    Args:
        class_name: The class it was searched for.
        provenance: Where it comes from; ``source`` and ``source_id`` identify it for ever.
        read: Returns the original file's bytes; raises ``ImageError`` or ``SourceError``.
    """

    class_name: str
    provenance: Provenance
    read: Callable[[], bytes]


class Source(Protocol):
    """Something that can be asked for images of a class."""

    name: str

    def search(self, wanted: ClassSpec, limit: int | None) -> Iterator[Hit]:
        """Yield at most ``limit`` hits for one class, always in the same order.

        Raises:
            SourceError: If the source cannot deliver.
        """
        ...


def make_source(name: str, options: Mapping[str, Any]) -> Source:
    """The source called ``name``, set up with ``options`` from the definition.

    Raises:
        SourceError: If there is no such source or it refuses an option.
    """
    if name not in SOURCES:
        raise SourceError(f"there is no source '{name}'. Known sources: {', '.join(sorted(SOURCES))}.")
    module, kind = SOURCES[name].split(":")
    make = getattr(import_module(module), kind)
    known = signature(make).parameters
    for option in options:
        if option not in known:
            raise SourceError(f"source '{name}' has no option '{option}'. Known options: {', '.join(known)}.")
    return make(**options)
