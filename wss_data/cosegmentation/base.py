"""The protocol of a co-segmentation engine, and finding one by name."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from wss_data.errors import CosegmentationError
from wss_data.ledger import Ledger


@dataclass(frozen=True)
class Segmented:
    """What an engine says of one image.

    Args:
        mask: The foreground. Shape (H, W) of the image, bool.
        confidence: How much the mask is to be trusted, in [0, 1]; label-free.
    """

    mask: np.ndarray
    confidence: float


class Engine(Protocol):
    """Something that co-segments a group."""

    name: str

    @property
    def ledger(self) -> Ledger:
        """What the engine learned from."""
        ...

    def fingerprint(self) -> str:
        """Short text that changes whenever a setting that changes masks does."""
        ...

    def segment_group(
        self, images: Sequence[np.ndarray], wanted: Collection[int] | None = None, workers: int | None = None
    ) -> Iterator[tuple[int, Segmented]]:
        """Yield (position in the group, its mask) for each wanted image of one group, in order of position.

        Args:
            images: The group, each (H, W, 3) uint8 RGB. May be a lazy sequence that reads a file when indexed;
                each image is read at most twice and never all are held at once.
            wanted: Positions to yield; ``None`` means all. The masks do not depend on it: all images still make the
                group, so an interrupted group goes on where it stopped.
            workers: Worker processes; ``None`` for one a processor. The masks do not depend on it.

        Raises:
            CosegmentationError: If the group is empty.
        """
        ...


def make_engine(method: str, options: Mapping[str, Any] | None = None) -> Engine:
    """The engine called ``method``, set up with ``options`` from the definition.

    Raises:
        CosegmentationError: If there is no such engine or it refuses an option.
    """
    from wss_data.cosegmentation.common import CommonEngine

    known: dict[str, Callable[..., Engine]] = {"common": CommonEngine}
    if method not in known:
        raise CosegmentationError(f"there is no co-segmentation method '{method}'. Known: {', '.join(sorted(known))}.")
    try:
        return known[method](**(options or {}))
    except TypeError as error:
        raise CosegmentationError(f"method '{method}' does not take these options: {error}.") from error
