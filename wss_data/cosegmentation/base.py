"""The protocol of a co-segmentation engine, and finding one by name."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from wss_data.errors import CosegmentationError
from wss_data.images import read_image, resize_longest_side
from wss_data.ledger import Ledger

ENGINES = {"common": "wss_data.cosegmentation.common:CommonEngine"}
"""Name of each engine -> where its class lives; loaded when it is asked for."""


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
    if method not in ENGINES:
        raise CosegmentationError(
            f"there is no co-segmentation method '{method}'. Known: {', '.join(sorted(ENGINES))}."
        )
    module, kind = ENGINES[method].split(":")
    return getattr(import_module(module), kind)(**(options or {}))


class ImageFiles(Sequence[np.ndarray]):
    """Image files as a group of images, each read when it is asked for.

    Args:
        paths: The files.
        longest_side: Larger images are shrunk to this longer side, pixels; ``None`` to leave them.
    """

    def __init__(self, paths: Sequence[Path | str], longest_side: int | None = None) -> None:
        self.paths, self.longest_side = paths, longest_side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: Any) -> Any:
        """The image at ``position``: (H, W, 3), uint8."""
        image = read_image(self.paths[position])
        return image if self.longest_side is None else resize_longest_side(image, self.longest_side)


def group_fingerprint(engine: Engine, members: Iterable[str], *settings: object) -> str:
    """Short text that changes whenever a group's masks would.

    Args:
        engine: Its name and settings count.
        members: What identifies each image, in any order.
        *settings: Whatever else changes masks.
    """
    text = "\n".join([engine.name, engine.fingerprint(), *map(str, settings), *sorted(members)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
