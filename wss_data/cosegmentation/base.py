"""The protocol of a co-segmentation engine, and what may befall a group on the way."""

import errno
import hashlib
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from wss_data.errors import CosegmentationError, ImageError
from wss_data.imaging.images import read_image, resize_longest_side
from wss_data.ledger import Ledger


@dataclass(frozen=True)
class Segmented:
    """What an engine says of one image; all of it without a truth. ``None`` where it is not asked for or not known.

    A pixel of the uncertain band counts as neither foreground nor background, whatever ``mask`` says of it.
    """

    mask: np.ndarray  # the foreground, (H, W) of the image, bool
    confidence: float  # how much the mask is to be trusted, in [0, 1]
    uncertain: np.ndarray | None = None  # where the soft map and the cut disagree, (H, W), bool
    agreement: float | None = None  # overlap of the soft map with the mask that was cut from it, in [0, 1]
    prototype_distance: float | None = None  # of the object from what the group's have in common, in [0, 2]
    descriptor: np.ndarray | None = None  # of the whole image, for search: (C,), float16, of length 1


class Engine(Protocol):
    """Something that co-segments a group."""

    name: str

    @property
    def ledger(self) -> Ledger:
        """What the engine learned from."""

    def fingerprint(self) -> str:
        """Short text that changes whenever a setting that changes masks does."""

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


class ImageFiles(Sequence[np.ndarray]):
    """Image files as a group of images, each read when it is asked for, and shrunk to ``longest_side`` pixels.

    A file that vanished or broke since it was listed must not end a group of thousands, and no engine should have to
    think of it: a grey image stands for it, and ``unreadable`` has its position and why. It is kept by this object, so
    an engine reads the images in the process that was given it.

    With a ``description`` a progress bar shows the images read so far: an engine looks at the whole group before its
    first mask, with thousands of images for minutes.
    """

    def __init__(self, paths: Sequence[Path | str], longest_side: int | None = None, description: str = "") -> None:
        self.paths, self.longest_side, self.description = paths, longest_side, description
        self._seen: set[int] = set()
        self._bar: tqdm | None = None
        self.unreadable: dict[int, ImageError] = {}
        self._shapes: dict[int, tuple[int, ...]] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: Any) -> Any:
        """The image at ``position``: (H, W, 3), uint8."""
        position = range(len(self.paths))[position]  # of a negative one, or IndexError
        if self.description and position not in self._seen:
            # Made at the first reading: before it, the engine may load its network and draw a bar of its own.
            self._bar = self._bar or tqdm(total=len(self.paths), desc=self.description, unit="image", leave=False)
            self._seen.add(position)
            self._bar.update()
            if len(self._seen) == len(self.paths):
                self._bar.close()
        try:
            if position not in self.unreadable:
                image = read_image(self.paths[position])
                image = image if self.longest_side is None else resize_longest_side(image, self.longest_side)
                # What an engine knows of the first reading holds for the second one, too.
                if image.shape == self._shapes.setdefault(position, image.shape):
                    return image
                raise ImageError("changed", f"{self.paths[position]}: another image than a moment ago.")
        except ImageError as error:
            self.unreadable[position] = error
        return np.full(self._shapes.get(position, (64, 64, 3)), 128, np.uint8)


@contextmanager
def full_disk_reported(group: str, folder: Path) -> Iterator[None]:
    """Turn a full disk (or quota) in the block into a ``CosegmentationError``; masks of ``group`` go to ``folder``."""
    try:
        yield
    except OSError as error:
        # numpy's own error of a short write has words and no number.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and "requested and" not in str(error):
            raise
        raise CosegmentationError(
            f"{group}: no room left ({error.strerror or error}), for masks in {folder} or for descriptors that wait for"
            f" their group in {tempfile.gettempdir()}. What was done is kept. Make room, or let TMPDIR name a roomier "
            "folder, and run the same command again."
        ) from error


def group_fingerprint(engine: Engine, members: Iterable[str], *settings: object) -> str:
    """Short text that changes whenever a group's masks would: with its engine, members (in any order) or settings."""
    # By the name of before, as in its own fingerprint: what a program made in hours is not made again.
    name = "outside" if engine.name == "external" else engine.name
    text = "\n".join([name, engine.fingerprint(), *map(str, settings), *sorted(members)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def wanted_positions(images: Sequence[Any], wanted: Collection[int] | None) -> list[int]:
    """The positions of a group of which masks are wanted (``None``: all), in order; refuses an empty group.

    >>> wanted_positions(["a", "b", "c"], [2, 0, 7])
    [0, 2]
    """
    if len(images) == 0:
        raise CosegmentationError("the group is empty: co-segmentation needs at least one readable image.")
    every = range(len(images))
    return list(every) if wanted is None else sorted(set(wanted) & set(every))
