"""Screening a web dataset: tags for repeats, ambiguous images, placeholders and leaks. Nothing is deleted."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from sys import intern

from wss_data.errors import ImageError, StoreError
from wss_data.errors.names import printable
from wss_data.filtering.duplicates import Finding, Screened, find_leaks, find_repeats, look_at
from wss_data.filtering.filters import DROPPED, GONE, LEAK, NEAR_DUPLICATE, SCREENING_TAGS, aligned
from wss_data.imaging.images import decode_image, list_images
from wss_data.reading.tables import lines_of, read_text
from wss_data.retrieval.decode_pool import perceptual_hash
from wss_data.runtime.files import expanded
from wss_data.runtime.parallel import map_images
from wss_data.store.datasets import open_dataset
from wss_data.store.info import group_names, info_of, kind_of, mark_filter_stale, rows, update, web_info
from wss_data.store.types import Dataset

ROWS_AT_ONCE = 2000  # images of which the database is asked in one go
LOOKS_REMEMBERED = 4096  # thumbnails kept while one screening goes on; 16 KiB each

_State = tuple[str | None, str | None]  # screening tag of an image, and what its ``duplicate_of`` holds
_NOTHING: _State = (None, None)


@dataclass(frozen=True)
class ScreenReport:
    """What screening left out: class, in order of the class index -> reason -> images; prints as a table."""

    counts: Mapping[str, Counter[str]]

    def __str__(self) -> str:
        found = {reason for counts in self.counts.values() for reason in counts}
        reasons = [reason for tag in SCREENING_TAGS if (reason := tag.removeprefix(DROPPED)) in found]
        if not reasons:
            return "screening found nothing."
        table = [["class", *(reason.replace("_", " ") for reason in reasons)]]
        table += [[name, *(str(counts[reason]) for reason in reasons)] for name, counts in self.counts.items()]
        return "\n".join(aligned(table))


@dataclass(frozen=True)
class LeakReport:
    """Which images of a dataset are in an evaluation split, too; prints one line each.

    ``leaks``: (class, image, what it repeats, distance in bits), those found before included; ``compared``: number of
    the split's images; ``left_out``: what of the split could not be compared with, as one line, or empty.
    """

    against: str
    compared: int
    leaks: tuple[tuple[str, str, str, int], ...]
    left_out: str = ""

    def __str__(self) -> str:
        lines = [f"{name} ({bits} of 64 bits differ)  is  {other}" for _, name, other, bits in self.leaks]
        lines.append(f"{len(self.leaks)} leaks into the {self.compared:,} images of {self.against}.")
        if self.left_out:
            lines.append(f"{self.against}: {self.left_out}")
        return "\n".join(lines)


def screen(
    dataset: Dataset,
    max_distance: int | None,
    placeholders: frozenset[str] = frozenset(),
    against: Sequence[str] = (),
) -> ScreenReport:
    """Tag what is no photograph of its class alone, and keep the tags up to date. Returns what was found.

    Every tag is decided again, but a leak stays one: the split it leaks into need not be at hand each time. A person's
    verdict ``keep`` wins over these tags. Does nothing if nothing changed since the last time.

    Args:
        dataset: A web dataset.
        max_distance: Bits of 64 in which perceptual hashes of one image may differ; ``None`` to compare bytes only.
        placeholders: Digests of images that only say that the image is missing.
        against: Evaluation splits, as ``leaks`` takes them.

    Raises:
        StoreError: If it is no web dataset, or a split cannot be read.
    """
    web_info(dataset, "screened")
    images, earlier = _read_images(dataset)
    splits = {split: read_split(split)[0] for split in against}
    state = _fingerprint(images, max_distance, placeholders, splits)
    if info_of(dataset).get("screening") != state:
        look = lru_cache(LOOKS_REMEMBERED)(look_at)
        found = {key: Finding(tag, other) for key, (tag, other) in earlier.items() if tag == LEAK}
        # A leak that was found before keeps the name of what it repeats.
        for others in splits.values():
            found = {**find_leaks(images, others, max_distance or 0, look), **found}
        rest = [image for image in images if image.key not in found]
        found |= find_repeats(rest, max_distance, placeholders, look)
        _write(dataset, images, earlier, found)
        update(dataset, screening=state)
    return screened(dataset)


def screened(dataset: Dataset) -> ScreenReport:
    """What the screenings of a web dataset found, as its tags say it."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in group_names(dataset)}
    for class_name, tags in rows(dataset, "label.label", "tags"):
        counts[class_name].update(tag.removeprefix(DROPPED) for tag in tags if tag in SCREENING_TAGS)
    return ScreenReport(counts)


def leaks(dataset: Dataset, against: str, max_distance: int | None, dry_run: bool = False) -> LeakReport:
    """Tag the images of a web dataset that are in an evaluation split, too.

    Args:
        dataset: A web dataset.
        against: ``NAME`` of a target dataset, whose ``val`` is the split, or ``NAME:TAG``; a folder of images; or a
            text file with a perceptual hash (16 hex digits), a sha256, or both, on each line.
        max_distance: Bits of 64 in which perceptual hashes of one image may differ; ``None`` to compare bytes only.
        dry_run: Whether only to look.

    Raises:
        StoreError: If it is no web dataset, or there is no such split.
    """
    web_info(dataset, "searched for leaks")
    others, left_out = read_split(against)
    images, earlier = _read_images(dataset)
    found = find_leaks(images, others, max_distance or 0, lru_cache(LOOKS_REMEMBERED)(look_at))
    if not dry_run:
        known = {key: Finding(tag, other) for key, (tag, other) in earlier.items() if tag}
        _write(dataset, images, earlier, {**known, **found})
        if found:
            update(dataset, screening=None)
    listed = [(image, found[image.key]) for image in images if image.key in found]
    # By class and name: the same report whatever order the images were stored in.
    lines = [(image.class_name, image.name, str(leak.duplicate_of), leak.distance or 0) for image, leak in listed]
    return LeakReport(against, len(others), tuple(sorted(lines)), left_out)


def evaluation_splits(target: str) -> list[str]:
    """The splits of a target dataset that are scored on and hold an image to compare with, as ``leaks`` takes them."""
    try:
        dataset = open_dataset(target)
    except StoreError:
        return []  # most definitions have no target
    return [f"{target}:{split}" for split in ("val", "test") if any(dataset.match_tags(split).values("phash"))]


def read_split(split: str) -> tuple[list[Screened], str]:
    """The images of an evaluation split, as ``leaks`` takes it, and what cannot be compared with, as one line.

    Raises:
        StoreError: If there is no such split, or nothing in it.
    """
    path = expanded(split)
    left_out = ""
    if path.is_dir():
        paths = list_images(path)
        looks = list(map_images(_of_file, paths, description="hash", total=len(paths)))
        found = [look for look in looks if look is not None]
        unread = f"{len(looks) - len(found)} images cannot be read" if len(found) < len(looks) else ""
        left_out = "; ".join(filter(None, [unread, str(paths)]))  # a list of files prints as what it passed over
    else:
        found = _hash_file(path) if path.is_file() else _dataset_split(split)
    if not found:
        seen = f" ({left_out})" if left_out else ""
        raise StoreError(f"{split}: there is no image in it to compare with{seen}.")
    return found, left_out


def _dataset_split(split: str) -> list[Screened]:
    name, _, tag = split.partition(":")
    try:
        dataset = open_dataset(name)
    except StoreError as error:
        raise StoreError(f"'{split}' is no folder, no file and no dataset: {error}") from error
    view = dataset.match_tags(tag or "val") if tag or kind_of(dataset) == "target" else dataset
    return [
        Screened(key, f"{name}: {image}", "", sha256 or "", phash, path, 0)
        for key, image, sha256, phash, path in rows(view, "id", "image_id", "sha256", "phash", "filepath")
        if phash
    ]


def _of_file(path: Path) -> Screened | None:
    try:
        data = path.read_bytes()
        phash = perceptual_hash(decode_image(data, str(path)))
    except (ImageError, OSError):
        return None
    return Screened(str(path), printable(path), "", hashlib.sha256(data).hexdigest(), phash, str(path), 0)


def _hash_file(path: Path) -> list[Screened]:
    found = []
    for number, line in enumerate(lines_of(read_text(path)), start=1):
        # Lists separate them by whatever their program writes, with or without quotes.
        words = re.sub("[,;|\"']", " ", line.split("#")[0]).split()
        if not words:
            continue
        hexadecimal = [word.lower() for word in words if re.fullmatch("[0-9a-fA-F]+", word)]
        phash = next((word for word in hexadecimal if len(word) == 16), "")
        sha256 = next((word for word in hexadecimal if len(word) == 64), "")
        if not (phash or sha256):
            raise StoreError(
                f"{path}, line {number}: found {line[:60]!r}, wanted a perceptual hash (16 hex digits), a sha256 (64), "
                "or both."
            )
        found.append(Screened(str(number), f"{path.name}, line {number}", "", sha256, phash, "", 0))
    return found


def _read_images(dataset: Dataset) -> tuple[list[Screened], dict[str, _State]]:
    """The images whose original is not gone, and what earlier screenings found of them, by key."""
    fields = ("id", "image_id", "label.label", "sha256", "phash", "filepath", "verdict", "tags", "duplicate_of")
    size = ("provenance.original_width", "provenance.original_height")
    images, earlier = [], {}
    # In parts: the answer to one question about all images takes more memory than what is kept of it.
    for start in range(0, len(dataset), ROWS_AT_ONCE):
        part = rows(dataset.skip(start).limit(ROWS_AT_ONCE), *fields, *size)
        for key, name, class_name, sha256, phash, path, verdict, tags, duplicate_of, width, height in part:
            if GONE in tags:
                continue
            # `intern`: one string for all images of a class, of which there may be 75,800.
            pixels = (width or 0) * (height or 0)
            images.append(Screened(key, name, intern(class_name), sha256, phash, path, pixels, verdict == "keep"))
            tag = next((tag for tag in tags if tag in SCREENING_TAGS), None)
            if tag or duplicate_of:
                earlier[key] = (tag, duplicate_of)
    return images, earlier


def _write(
    dataset: Dataset, images: Sequence[Screened], earlier: Mapping[str, _State], found: Mapping[str, Finding]
) -> None:
    repeated = {finding.duplicate_of for finding in found.values() if finding.tag == NEAR_DUPLICATE}
    changed: dict[str, _State] = {}
    for image in images:
        # The copy that stays names itself, so that it comes beside the others when they are sorted.
        now = (None, image.name) if image.name in repeated else _NOTHING
        if finding := found.get(image.key):
            now = (finding.tag, finding.duplicate_of)
        if now != earlier.get(image.key, _NOTHING):
            changed[image.key] = now
    if not changed:
        return
    new_tags = {}
    for key, old in rows(dataset.select(list(changed)), "id", "tags"):
        rest = [tag for tag in old if tag not in SCREENING_TAGS]
        new_tags[key] = [*rest, changed[key][0]] if changed[key][0] else rest
    mark_filter_stale(dataset)
    # Tags last: the next screening goes by them, and where it finds the tag the other field must be written, too.
    dataset.set_values("duplicate_of", {key: other for key, (_, other) in changed.items()}, key_field="id")
    dataset.set_values("tags", new_tags, key_field="id")


def _fingerprint(
    images: Sequence[Screened],
    max_distance: int | None,
    placeholders: frozenset[str],
    splits: Mapping[str, Sequence[Screened]],
) -> str:
    """Changes when a screening could find something else."""
    digest = hashlib.sha256(repr((max_distance, sorted(placeholders))).encode())
    for name, part in ("", images), *sorted(splits.items()):
        digest.update(name.encode())
        for image in sorted(part, key=lambda image: (image.class_name, image.sha256, image.phash)):
            digest.update(repr((image.class_name, image.sha256, image.phash, image.wanted)).encode())
    return digest.hexdigest()
