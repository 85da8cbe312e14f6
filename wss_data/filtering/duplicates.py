"""Which images show the same thing: exact copies, near copies, and copies of an evaluation split's images.

Two looks: perceptual hashes name candidates among all pairs, then the images of each candidate are compared. Hashes
alone would take many side views of a motorbike on white for one another.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from math import comb
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from wss_data.errors import ImageError
from wss_data.filtering.filters import AMBIGUOUS, LEAK, NEAR_DUPLICATE, PLACEHOLDER
from wss_data.imaging.images import read_image

ROWS = 4  # hashes compared with all others at a time: small enough for the processor's cache
PARTS = ((0, 21), (21, 21), (42, 22))  # where the parts of a hash begin that are looked up, and their bits
CANDIDATES = 1 << 20  # pairs of hashes that agree in a part are compared so many at a time
LOOK_SIDE = 64  # images are compared at this many pixels a side

# Correlation from which two thumbnails show the same image. Copies that were resized (to 0.25 to 2 times) or saved at
# JPEG quality 50 or 20 all reach it, 500 photographs of each. Other things in the same pose come near: of 1,333
# Caltech-101 images, nine of them true repeats, a distance of 4 drops 16 at 0.7, 14 at 0.8 and 10 at 0.9; a distance of
# 6 drops 29 at 0.7, 21 at 0.8 and 13 at 0.9. The wrong ones are motorbikes from the side before the same background.
ALIKE = 0.9
# The same for thumbnails of which one had to be shifted and stretched first, which brings other things nearer, too.
# With it and a distance of 8, 81 % of the copies that lost 3 % on each side are found, and not one image more of the
# 1,333 is dropped wrongly than without.
ALIKE_LAID_OVER = 0.94

Look = Callable[[str], np.ndarray | None]  # gives the thumbnail of a file, or None if it cannot be read


class Pairs(NamedTuple):
    """Pairs of images: positions of the one and the other, shape (P,) int64, and distance in bits, shape (P,) uint8."""

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray


@dataclass(frozen=True, slots=True)
class Screened:
    """What is compared of one image. ``key`` and ``name`` are both unique."""

    key: str
    name: str  # for people
    class_name: str
    sha256: str  # hex digest of its original bytes
    phash: str  # its perceptual hash, 16 hex digits
    path: str
    pixels: int  # number in the original
    wanted: bool = False  # whether a person's verdict is to keep it


class Finding(NamedTuple):
    """Why an image is left out."""

    tag: str
    duplicate_of: str | None = None  # name of the image that it repeats; of ambiguous copies all have the same
    distance: int | None = None  # bits in which they differ


def hash_values(phashes: Iterable[str]) -> np.ndarray:
    """Perceptual hashes (16 hex digits each) as numbers. Shape (N,), uint64."""
    return np.array([int(phash, 16) for phash in phashes], dtype=np.uint64)


def near_pairs(hashes: np.ndarray, max_distance: int, against: np.ndarray | None = None) -> Pairs:
    """All pairs of hashes, (N,) uint64, that differ in at most ``max_distance`` bits, ordered by position.

    Pairs are with one ``against``, (M,) uint64; if ``None``, among ``hashes``, each once, the smaller position first.

    >>> near_pairs(np.array([0b0000, 0b0111, 0b0110], np.uint64), max_distance=2)
    Pairs(first=array([0, 1]), second=array([2, 2]), distance=array([2, 1], dtype=uint8))
    """
    others = hashes if against is None else against
    flips = sum(comb(21, count) for count in range(max_distance // len(PARTS) + 1))
    many = len(hashes) * len(others) > 600_000 * max(flips, 200)
    found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint8))]
    found += (_looked_up if many else _compared)(hashes, others, max_distance, against is None)
    first, second, distance = (np.concatenate(parts) for parts in zip(*found, strict=True))
    # Found once for each part that agrees; among themselves from both sides, and each hash with itself.
    _, once = np.unique(first * len(others) + second, return_index=True)
    once = once if against is not None else once[second[once] > first[once]]
    return Pairs(first[once], second[once], distance[once])


def _compared(hashes: np.ndarray, others: np.ndarray, max_distance: int, same: bool) -> Iterator[Pairs]:
    """Pairs by comparing all with all, in blocks of rows: the time grows with the square of their number."""
    for row in range(0, len(hashes), ROWS):
        start = row if same else 0  # what is before a row, among themselves, was compared with it
        bits = np.bitwise_count(hashes[row : row + ROWS, None] ^ others[None, start:])
        first, second = np.nonzero(bits <= max_distance)
        yield Pairs(first + row, second + start, bits[first, second])


def _looked_up(hashes: np.ndarray, others: np.ndarray, max_distance: int, same: bool) -> Iterator[Pairs]:
    """Pairs by looking up parts of hashes: the time grows with their number, and with what is alike.

    Of three parts of two hashes one differs in at most a third of ``max_distance`` bits. So each part is looked up with
    every choice of so few bits flipped.

    Source:
        Norouzi, Punjani and Fleet, CVPR 2012, section 3 (multi-index hashing).
    """
    for start, width in PARTS:
        mask = np.uint64((1 << width) - 1)
        keys, theirs = (((part >> np.uint64(start)) & mask).astype(np.int32) for part in (hashes, others))
        order = np.argsort(theirs, kind="stable")
        counts = np.bincount(theirs, minlength=1 << width)
        places, there = np.cumsum(counts) - counts, counts > 0
        for flipped in chain.from_iterable(
            combinations(range(width), n) for n in range(max_distance // len(PARTS) + 1)
        ):
            wanted = keys ^ np.int32(sum(1 << bit for bit in flipped))
            hits = np.flatnonzero(there[wanted])
            # In chunks: where thousands share a part, all their pairs at once would fill the memory.
            for first in np.array_split(hits, 1 + int(counts[wanted[hits]].sum()) // CANDIDATES):
                number = counts[wanted[first]]
                skipped = np.repeat(places[wanted[first]] - np.cumsum(number) + number, number)
                first, second = np.repeat(first, number), order[np.arange(len(skipped)) + skipped]
                bits = np.bitwise_count(hashes[first] ^ others[second])
                near = np.flatnonzero((bits <= max_distance) & ((first < second) | (not same)))
                yield Pairs(first[near], second[near], bits[near])


def thumbnail(image: np.ndarray) -> np.ndarray:
    """What is compared of an image, (H, W, 3) uint8: grey, small, without its slow changes of brightness.

    Returns:
        Shape (64, 64), float32, mean 0 and length 1; all 0 for a flat image, which is like no other.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (LOOK_SIDE, LOOK_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    # A band of frequencies: without JPEG's noise (sigma 1) and without light and shade (sigma 6).
    detail = cv2.GaussianBlur(small, (0, 0), 1.0) - cv2.GaussianBlur(small, (0, 0), 6.0)
    detail -= detail.mean()
    length = float(np.linalg.norm(detail))
    # Below one grey level on average there is nothing to compare but noise.
    return detail / length if length > LOOK_SIDE else np.zeros_like(detail)


def look_at(path: str | Path) -> np.ndarray | None:
    """The thumbnail of an image file, or ``None`` if it cannot be read."""
    try:
        return thumbnail(read_image(path))
    except ImageError:
        return None


def find_leaks(
    images: Sequence[Screened], against: Sequence[Screened], max_distance: int, look: Look
) -> dict[str, Finding]:
    """Images that are in an evaluation split, too: key of each leak -> what it repeats.

    In ``against``, ``path`` may be empty if there is no file: then hashes alone decide; ``phash`` may be, too: then
    bytes alone do.
    """
    # The same bytes need no look; hashes that are nearest are looked at first, so that they name the leak.
    by_sha256 = {other.sha256: other for other in against if other.sha256}
    found = {image.key: Finding(LEAK, by_sha256[image.sha256].name, 0) for image in images if image.sha256 in by_sha256}
    hashed = [other for other in against if other.phash]
    ours, theirs = (hash_values(image.phash for image in side) for side in (images, hashed))
    pairs = near_pairs(ours, max_distance, theirs)
    for i, j, distance in sorted(zip(*(part.tolist() for part in pairs), strict=True), key=lambda pair: pair[2]):
        image, other = images[i], hashed[j]
        if image.key not in found and _look_alike(image.path, other.path, look):
            found[image.key] = Finding(LEAK, other.name, distance)
    return found


def find_repeats(
    images: Sequence[Screened], max_distance: int | None, placeholders: Iterable[str], look: Look
) -> dict[str, Finding]:
    """Placeholders, images found for several classes, and all but one of each class's copies: key -> why it goes.

    ``max_distance``: bits in which hashes may differ; ``None`` to compare bytes only. ``placeholders``: digests of
    images that only say that the image is missing.
    """
    unwanted = frozenset(placeholders)
    found = {image.key: Finding(PLACEHOLDER) for image in images if image.sha256 in unwanted}
    rest = [image for image in images if image.key not in found]
    # Of copies the first stays, whatever order they came in.
    rest.sort(key=lambda image: (not image.wanted, -image.pixels, image.class_name, image.sha256))
    neighbours = _neighbours(rest, max_distance, look)
    dropped: set[int] = set()
    for i, image in enumerate(rest):
        copies = sorted(neighbours.get(i, {}).items())
        # A copy of an image that is dropped itself stays: it need not be a copy of what is kept.
        elsewhere = [copy for copy in copies if rest[copy[0]].class_name != image.class_name]
        before = [copy for copy in copies if copy[0] < i and copy[0] not in dropped]
        if elsewhere:  # left out everywhere: it is unknown which class its mask would show
            first = rest[min(i, copies[0][0])]
            found[image.key] = Finding(AMBIGUOUS, first.name, elsewhere[0][1])
        elif before:
            found[image.key] = Finding(NEAR_DUPLICATE, rest[before[0][0]].name, before[0][1])
        if elsewhere or before:
            dropped.add(i)
    return found


def _neighbours(images: Sequence[Screened], max_distance: int | None, look: Look) -> Mapping[int, dict[int, int]]:
    """Position of each image that has copies -> position of each copy -> distance."""
    found: dict[int, dict[int, int]] = defaultdict(dict)
    same_bytes: dict[str, list[int]] = defaultdict(list)
    for i, image in enumerate(images):
        for j in same_bytes[image.sha256]:
            found[i][j] = found[j][i] = 0
        same_bytes[image.sha256].append(i)
    if max_distance is not None:
        pairs = near_pairs(hash_values(image.phash for image in images), max_distance)
        for i, j, distance in zip(*(part.tolist() for part in pairs), strict=True):
            if j not in found[i] and _look_alike(images[i].path, images[j].path, look):
                found[i][j] = found[j][i] = distance
    return found


def _look_alike(path: str, other: str, look: Look) -> bool:
    if not path or not other:
        return True
    one, two = look(path), look(other)
    if one is None or two is None:
        return False
    # Nearly all copies agree as they are, without the cost of laying one over the other (about 1 ms).
    return likeness(one, two) >= ALIKE or likeness(one, laid_over(one, two)) >= ALIKE_LAID_OVER


def likeness(one: np.ndarray, two: np.ndarray) -> float:
    """Correlation of two thumbnails, (64, 64) float32, in [-1, 1]; 0 if one is flat, or a third of ``two`` is NaN."""
    there = np.isfinite(two)
    if there.mean() < 2 / 3:
        return 0.0
    a, b = one[there] - one[there].mean(), two[there] - two[there].mean()
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length > 1e-6 else 0.0


def laid_over(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """The second thumbnail shifted and stretched so that it fits the first: one is a crop, or has a border.

    NaN where ``two`` does not reach, and everywhere if they cannot be made to fit. All (64, 64), float32.

    Source:
        Evangelidis and Psarakis, PAMI 2008 (``cv2.findTransformECC``).
    """
    # At most 40 steps; one that gains less than 0.001 of correlation is the last.
    enough = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-3)
    start = np.eye(2, 3, dtype=np.float32)
    try:
        # In grey levels: OpenCV calls smaller contrasts flat.
        everywhere = np.ones((LOOK_SIDE, LOOK_SIDE), np.uint8)
        _, moved = cv2.findTransformECC(one * 1000, two * 1000, start, cv2.MOTION_AFFINE, enough, everywhere, 3)
    except cv2.error:
        return np.full_like(two, np.nan)
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(two, moved, (LOOK_SIDE, LOOK_SIDE), flags=how, borderValue=float("nan"))
