"""Screening a web dataset: tags for repeats, ambiguous images, placeholders and leaks. Nothing is deleted."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from sys import intern
from typing import TYPE_CHECKING

from wss_data.errors import StoreError
from wss_data.errors.names import printable
from wss_data.filtering.duplicates import Finding, Screened, find_leaks, find_repeats, look_at
from wss_data.filtering.filters import DROPPED, GONE, LEAK, NEAR_DUPLICATE, SCREENING_TAGS, aligned
from wss_data.reading.tables import lines_of, read_text
from wss_data.runtime.files import expanded
from wss_data.store.datasets import open_dataset
from wss_data.store.info import class_names, info_of, kind_of, mark_filter_stale, update, web_info

if TYPE_CHECKING:
    import fiftyone as fo

ROWS_AT_ONCE = 2000
"""Images of which the database is asked in one go."""

LOOKS_REMEMBERED = 4096
"""Thumbnails kept while one screening goes on; 16 KiB each."""


@dataclass(frozen=True)
class ScreenReport:
    """What a screening found; prints as a table.

    Args:
        classes: Names of the classes, in order of their index.
        findings: Class -> name of the image -> why it is left out.
    """

    classes: tuple[str, ...]
    findings: Mapping[str, Mapping[str, Finding]]

    def counts(self, class_name: str) -> Counter[str]:
        """How many images of a class were left out: reason -> count."""
        found = self.findings.get(class_name, {}).values()
        return Counter(finding.tag.removeprefix(DROPPED) for finding in found)

    def __str__(self) -> str:
        tags = [tag for tag in SCREENING_TAGS if any(f.tag == tag for c in self.findings.values() for f in c.values())]
        if not tags:
            return "screening found nothing."
        rows = [["class", *(tag.partition(":")[2].replace("_", " ") for tag in tags)]]
        for name in self.classes:
            counts = Counter(finding.tag for finding in self.findings.get(name, {}).values())
            rows.append([name, *(str(counts[tag]) for tag in tags)])
        return "\n".join(aligned(rows))


@dataclass(frozen=True)
class LeakReport:
    """Which images of a dataset stand in an evaluation split, too; prints one line each.

    Args:
        against: The split.
        compared: Number of its images.
        leaks: (class, image, what it repeats, distance in bits), those found before included.
        left_out: What of the split could not be compared with, as one line; empty if there is nothing.
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
    dataset: "fo.Dataset",
    max_distance: int | None,
    placeholders: frozenset[str] = frozenset(),
    against: Sequence[str] = (),
) -> ScreenReport:
    """Tag what is no photograph of its class alone, and keep the tags up to date.

    Every tag is decided anew, but a leak that was found once stays one: the split it
    leaks into need not be at hand each time. A person's verdict ``keep`` wins over
    these tags. Does nothing if nothing changed since the last time.

    Args:
        dataset: A web dataset.
        max_distance: Bits of 64 in which perceptual hashes of one picture may differ; ``None`` to compare bytes only.
        placeholders: Digests of pictures that say that there is none.
        against: Evaluation splits, as ``leaks`` takes them.

    Returns:
        What was found.

    Raises:
        StoreError: If it is no web dataset, or a split cannot be read.
    """
    web_info(dataset, "screened")
    images, earlier = _screened(dataset)
    splits = {split: read_split(split)[0] for split in against}
    state = _fingerprint(images, max_distance, placeholders, splits)
    if info_of(dataset).get("screening") == state:
        return _report(dataset, images, _findings(earlier))
    look = lru_cache(LOOKS_REMEMBERED)(look_at)
    found = {key: finding for key, finding in _findings(earlier).items() if finding.tag == LEAK}
    for others in splits.values():
        found = {**find_leaks(images, others, max_distance or 0, look), **found}
    rest = [image for image in images if image.key not in found]
    found |= find_repeats(rest, max_distance, placeholders, look)
    _write(dataset, images, earlier, found)
    update(dataset, screening=state)
    return _report(dataset, images, found)


def screened(dataset: "fo.Dataset") -> ScreenReport:
    """What the screenings of a web dataset found, as its tags say it."""
    images, earlier = _screened(dataset)
    return _report(dataset, images, _findings(earlier))


def leaks(dataset: "fo.Dataset", against: str, max_distance: int | None, dry_run: bool = False) -> LeakReport:
    """Tag the images of a web dataset that stand in an evaluation split, too.

    Args:
        dataset: A web dataset.
        against: ``NAME`` of a target dataset, whose ``val`` is the split, or ``NAME:TAG``; a folder of images; or a
            text file with a perceptual hash (16 hex digits), a sha256, or both, on each line.
        max_distance: Bits of 64 in which perceptual hashes of one picture may differ; ``None`` to compare bytes only.
        dry_run: Whether only to look.

    Returns:
        The leaks.

    Raises:
        StoreError: If it is no web dataset, or there is no such split.
    """
    web_info(dataset, "searched for leaks")
    others, left_out = read_split(against)
    images, earlier = _screened(dataset)
    found = find_leaks(images, others, max_distance or 0, lru_cache(LOOKS_REMEMBERED)(look_at))
    if not dry_run:
        _write(dataset, images, earlier, {**_findings(earlier), **found})
        if found:
            update(dataset, screening=None)
    rows = [
        (i.class_name, i.name, str(found[i.key].duplicate_of), found[i.key].distance or 0)
        for i in images
        if i.key in found
    ]
    return LeakReport(against, len(others), tuple(sorted(rows)), left_out)


def evaluation_splits(target: str) -> list[str]:
    """The splits of a target dataset that are scored on and hold an image to compare with, as ``leaks`` takes them.

    Args:
        target: Its name; there need not be such a dataset. A target without test images is the rule, not a fault.
    """
    try:
        dataset = open_dataset(target)
    except StoreError:
        return []
    return [f"{target}:{split}" for split in ("val", "test") if any(dataset.match_tags(split).values("phash"))]


def read_split(split: str) -> tuple[list[Screened], str]:
    """The images of an evaluation split, as ``leaks`` takes it, and what cannot be compared with, as one line.

    Raises:
        StoreError: If there is no such split, or nothing in it.
    """
    path = expanded(split)
    left_out = ""
    if path.is_dir():
        found, left_out = _folder_split(path)
    elif path.is_file():
        found = _hash_file(path)
    else:
        found = _dataset_split(split)
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
    rows = zip(*view.values(["id", "image_id", "sha256", "phash", "filepath"]), strict=True)
    return [
        Screened(key, f"{name}: {image}", "", sha256 or "", phash, path, 0)
        for key, image, sha256, phash, path in rows
        if phash
    ]


def _folder_split(folder: Path) -> tuple[list[Screened], str]:
    from wss_data.imaging.images import list_images
    from wss_data.runtime.parallel import map_images

    paths = list_images(folder)
    looks = list(map_images(_of_file, paths, description="hash", total=len(paths)))
    found = [look for look in looks if look is not None]
    unread = [f"{len(looks) - len(found)} images cannot be read"] if len(found) < len(looks) else []
    return found, "; ".join([*unread, *filter(None, [str(paths)])])


def _of_file(path: Path) -> Screened | None:
    from wss_data.errors import ImageError
    from wss_data.imaging.images import decode_image
    from wss_data.retrieval.decode_pool import perceptual_hash

    try:
        data = path.read_bytes()
        phash = perceptual_hash(decode_image(data, str(path)))
    except (ImageError, OSError):
        return None
    return Screened(str(path), printable(path), "", hashlib.sha256(data).hexdigest(), phash, str(path), 0)


def _hash_file(path: Path) -> list[Screened]:
    found = []
    for number, line in enumerate(lines_of(read_text(path)), start=1):
        words = re.sub("[,;|\"']", " ", line.split("#")[0]).split()
        if not words:
            continue
        hexadecimal = [word for word in words if all(c in "0123456789abcdefABCDEF" for c in word)]
        phash = next((word.lower() for word in hexadecimal if len(word) == 16), "")
        sha256 = next((word.lower() for word in hexadecimal if len(word) == 64), "")
        if not (phash or sha256):
            raise StoreError(
                f"{path}, line {number}: found {line[:60]!r}, wanted a perceptual hash (16 hex digits), a sha256 (64), "
                "or both."
            )
        found.append(Screened(str(number), f"{path.name}, line {number}", "", sha256, phash, "", 0))
    return found


_Known = Mapping[str, tuple[str | None, str | None]]
"""Key of an image -> its screening tag and what its ``duplicate_of`` holds, where it has one of them."""


def _screened(dataset: "fo.Dataset") -> tuple[list[Screened], _Known]:
    """The images whose original is not gone, and what earlier screenings found of them, by key."""
    fields = ["id", "image_id", "label.label", "sha256", "phash", "filepath", "verdict", "tags", "duplicate_of"]
    size = ["provenance.original_width", "provenance.original_height"]
    images, earlier = [], {}
    # In parts: the answer to one question about all images takes more memory than what is kept of it.
    for start in range(0, len(dataset), ROWS_AT_ONCE):
        part = dataset.skip(start).limit(ROWS_AT_ONCE)
        for key, name, class_name, sha256, phash, path, verdict, tags, duplicate_of, width, height in zip(
            *part.values([*fields, *size]), strict=True
        ):
            if GONE in tags:
                continue
            pixels = (width or 0) * (height or 0)
            images.append(Screened(key, name, intern(class_name), sha256, phash, path, pixels, verdict == "keep"))
            tag = next((tag for tag in tags if tag in SCREENING_TAGS), None)
            if tag or duplicate_of:
                earlier[key] = tag, duplicate_of
    return images, earlier


def _findings(known: _Known) -> dict[str, Finding]:
    return {key: Finding(tag, duplicate_of) for key, (tag, duplicate_of) in known.items() if tag}


def _write(
    dataset: "fo.Dataset",
    images: Sequence[Screened],
    earlier: _Known,
    found: Mapping[str, Finding],
) -> None:
    repeated = {finding.duplicate_of for finding in found.values() if finding.tag == NEAR_DUPLICATE}
    changed: dict[str, tuple[str | None, str | None]] = {}
    for image in images:
        finding = found.get(image.key)
        # What stays of copies names itself, so that it stands beside them when they are sorted.
        own = image.name if image.name in repeated else None
        now = (finding.tag, finding.duplicate_of) if finding else (None, own)
        if now != earlier.get(image.key, (None, None)):
            changed[image.key] = now
    if not changed:
        return
    new_tags = {}
    for key, old in zip(*dataset.select(list(changed)).values(["id", "tags"]), strict=True):
        rest = [tag for tag in old if tag not in SCREENING_TAGS]
        new_tags[key] = [*rest, changed[key][0]] if changed[key][0] else rest
    mark_filter_stale(dataset)
    # Last, because the next screening goes by it: whoever finds the tag finds the other, too.
    repeats = {key: duplicate_of for key, (_, duplicate_of) in changed.items()}
    dataset.set_values("duplicate_of", repeats, key_field="id")
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


def _report(dataset: "fo.Dataset", images: Sequence[Screened], found: Mapping[str, Finding]) -> ScreenReport:
    by_class: dict[str, dict[str, Finding]] = {}
    for image in images:
        if image.key in found:
            by_class.setdefault(image.class_name, {})[image.name] = found[image.key]
    return ScreenReport(class_names(dataset), by_class)
