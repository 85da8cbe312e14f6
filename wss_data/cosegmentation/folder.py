"""Plain folders of images in, plain folders of masks out; no database."""

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from wss_data.cosegmentation import make_engine
from wss_data.cosegmentation.base import Engine, ImageFiles, full_disk_told, group_fingerprint
from wss_data.errors import CosegmentationError, ImageError, SourceError
from wss_data.errors.names import is_of_tool, printable
from wss_data.imaging.images import decode_image, list_images
from wss_data.imaging.masks import foreground_ratio, resize_mask, write_foreground
from wss_data.reading import checked
from wss_data.reading.cells import name_cell, name_of_cell
from wss_data.reading.listing import HIDDEN, Listing
from wss_data.reading.tables import columns_told, read_text
from wss_data.runtime.files import (
    adopt,
    check_outputs,
    is_ours,
    output_folder,
    output_path,
    write_output,
    write_text,
)
from wss_data.runtime.parallel import map_images

SCORES = "scores.csv"
LEDGER = "ledger.json"
SAVE_EVERY = 50
"""Masks between two writings of the scores, or a hundredth of their rows: what a killed run may have to do again."""

_TOLD = 5
"""Left-over masks that the summary names."""

NO_MASK = "no_mask"
"""Status of a readable image for which the engine gave no mask: it killed the process that worked on it, say."""


@dataclass(frozen=True)
class ScoreRow:
    """One line of ``scores.csv``.

    Args:
        class_name: The group's name; column ``class``.
        stem: Name of image and mask without suffix.
        status: ``ok``, or why there is no mask: the reason of an ``ImageError``, ``killed`` if reading it killed a
            process, ``no_mask`` if the engine gave none.
        confidence: Of the engine, in [0, 1]; empty without a mask.
        foreground_ratio: Share of the mask's decided pixels that are foreground, in [0, 1]; empty without a mask.
        kept: Whether the foreground filter keeps it: ``yes`` or ``no``.
        group: Changes with the group's images and the engine's settings; equal means that the mask is still good.
    """

    class_name: str
    stem: str
    status: str
    confidence: float | None
    foreground_ratio: float | None
    kept: bool
    group: str


@dataclass(frozen=True)
class FolderSummary:
    """What a run over folders did.

    Args:
        out: Where the masks are.
        images: Image files found.
        made: Masks made by this run.
        unchanged: Masks that were there already.
        kept: Class name -> images that the foreground filter keeps.
        with_mask: Class name -> images that have a mask.
        dropped: Reason -> images without a mask.
        passed_over: Files that were not taken for images, as one line; empty if there is none.
        left_over: Masks that earlier runs made of images that are no longer there; no row lists them.
    """

    out: Path
    images: int
    made: int
    unchanged: int
    kept: Mapping[str, int]
    with_mask: Mapping[str, int]
    dropped: Mapping[str, int]
    passed_over: str = ""
    left_over: tuple[Path, ...] = ()

    def __str__(self) -> str:
        width = max(5, *(len(name) for name in self.with_mask))
        lines = [f"{'class':{width}}  {'masks':>6} {'kept':>6}"]
        lines += [f"{name:{width}}  {count:6d} {self.kept[name]:6d}" for name, count in self.with_mask.items()]
        lines.append(f"{self.images} images: {self.made} masks made, {self.unchanged} unchanged, in {self.out}")
        if self.dropped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items()))
            lines.append(f"{sum(self.dropped.values())} images have no mask ({reasons}): see {self.out / SCORES}")
        if self.left_over:
            told = ", ".join(printable(str(path.relative_to(self.out))) for path in self.left_over[:_TOLD])
            more = ", ..." if len(self.left_over) > _TOLD else ""
            lines.append(
                f"{len(self.left_over)} masks of images that are no longer there stay in {self.out} and are not in "
                f"{SCORES} ({told}{more}). Delete them if nothing needs them."
            )
        if self.passed_over:
            lines.append(self.passed_over)
        return "\n".join(lines)


@dataclass(frozen=True)
class _Checked:
    """One file after a first look: its bytes' digest, upright (width, height), or the reason against it."""

    path: Path
    sha256: str
    size: tuple[int, int]
    reason: str | None


def cosegment_folder(
    images: Path | str,
    out: Path | str,
    method: str = "common",
    options: Mapping[str, Any] | None = None,
    workers: int | None = None,
    longest_side: int = 340,
    min_foreground: float = 0.2,
    max_foreground: float = 0.8,
    progress: bool = True,
    allow_programs: bool = False,
) -> FolderSummary:
    """Co-segment each folder of images as one group and write a folder of masks.

    ``images/<class>/*.jpg`` become ``out/<class>/<stem>.png``: 0 and 255, and 128 in the uncertain band if the engine
    was asked for one, as large as the upright image. If ``images`` holds images itself, they are one group and the
    masks go right into ``out``. ``out/scores.csv`` lists every image, the unreadable ones with their reason;
    ``out/ledger.json`` says what the engine learned from.

    Run again, it makes only the masks of groups whose images or settings have changed, or that a killed run left out.

    Args:
        images: Folder of folders of images, or folder of images.
        out: Where masks go; outside ``images``.
        method: Name of the co-segmentation engine.
        options: The engine's options.
        workers: Worker processes; ``None`` for one a processor. Masks do not depend on it.
        longest_side: Images are shrunk to this before they are co-segmented, pixels; masks are enlarged again.
        min_foreground: Smallest foreground share that counts as kept.
        max_foreground: Largest such share.
        progress: Whether to show a progress bar per group.
        allow_programs: Whether the engine may be one that runs a program (``external``).

    Returns:
        What was done.

    Raises:
        SourceError: If there is no image, two images of a class have the same stem, or ``out`` lies in ``images``.
        CosegmentationError: If there is no such engine, it refuses an option, it runs a program without
            ``allow_programs``, ``longest_side`` is too small, or the disk is full.
        OutputError: If a mask would replace a file that this program did not write, or that was changed since.
        BusyError: If another process writes into ``out``.

    Source:
        Shen et al., BMVC 2017, section 4.1: groups, 340 pixels, the filter.
    """
    images, out = Path(images), Path(out)
    if longest_side < 64:
        raise CosegmentationError(f"longest_side is {longest_side}; at least 64 pixels are needed to see an object.")
    groups, listing = _find_groups(images, out)
    engine = make_engine(method, options, allow_programs)
    with output_folder(out):
        kept_range = (min_foreground, max_foreground)
        return _fill(out, images, groups, listing, engine, longest_side, kept_range, workers, progress)


def _fill(
    out: Path,
    images: Path,
    groups: Mapping[str, Sequence[Path]],
    listing: Listing,
    engine: Engine,
    longest_side: int,
    kept_range: tuple[float, float],
    workers: int | None,
    progress: bool,
) -> FolderSummary:
    """Bring all groups' masks in ``out`` up to date, as its only owner."""
    before = _read_rows(out / SCORES)
    places = {name: out if _is_flat(images, paths) else out / name for name, paths in groups.items()}
    masks = {
        (name, printable(path.stem)): places[name] / f"{path.stem}.png"
        for name, paths in groups.items()
        for path in paths
    }
    if before:
        earlier = [key for key, row in before.items() if row.status == "ok"]
        gone = {(name, stem): places.get(name, out / name) / f"{stem}.png" for name, stem in earlier}
        adopt([out / LEDGER, *({**gone, **masks}[key] for key in earlier)])
    # Files that no earlier run made are found before the first hour is spent; those changed since, at their group.
    new = [path for key, path in masks.items() if key not in before]
    check_outputs([out / LEDGER, *new], apart_from=[images])
    run = _Run(engine, out, longest_side, kept_range, workers, progress, before)
    # The old rows of all groups stay in the file until their group's turn has come.
    rows = dict(before)
    for key in [key for key in rows if key[0] not in groups]:
        del rows[key]
    for name, paths in groups.items():
        run.group(name, places[name], paths, rows)
    ledger = {"method": engine.name, "fingerprint": engine.fingerprint(), **engine.ledger.to_dict()}
    write_output(out / LEDGER, json.dumps(ledger, indent=2, ensure_ascii=False) + "\n")
    made = [row for row in rows.values() if row.status == "ok"]
    return FolderSummary(
        out=out,
        images=len(rows),
        made=run.made,
        unchanged=len(made) - run.made,
        kept={name: sum(row.kept for row in made if row.class_name == name) for name in groups},
        with_mask={name: sum(row.class_name == name for row in made) for name in groups},
        dropped=Counter(row.status for row in rows.values() if row.status != "ok"),
        passed_over=str(listing),
        left_over=_left_over(out, set(masks.values())),
    )


def _left_over(out: Path, current: Collection[Path]) -> tuple[Path, ...]:
    """Masks right in ``out`` or in a folder in it that this program wrote, of no image that is there now."""
    found = (path for pattern in ("*.png", "*/*.png") for path in out.glob(pattern))
    return tuple(sorted(path for path in found if path not in current and is_ours(path)))


def _find_groups(images: Path, out: Path) -> tuple[dict[str, Sequence[Path]], Listing]:
    """The groups in a folder: class name -> its image files, both sorted; and all that was found in it.

    Args:
        images: Folder of folders of images, or folder of images.
        out: Where masks are to go.

    Raises:
        SourceError: As ``cosegment_folder``.
    """
    if not images.is_dir():
        raise SourceError(f"{images}: there is no such folder of images.")
    if out.absolute().resolve().is_relative_to(images.resolve()):
        raise SourceError(f"{out}: masks must go outside {images}; the next run would take them for images.")
    folders = [path for path in sorted(images.iterdir()) if path.is_dir()]
    listings = {printable(folder.name): list_images(folder) for folder in folders if not is_of_tool(folder.name)}
    left_out = sum(len(names) for folder in folders if is_of_tool(folder.name) for *_, names in os.walk(folder))
    groups: dict[str, Sequence[Path]] = {name: listing for name, listing in listings.items() if listing}
    direct = list_images(images, deep=False)
    everything = sum(listings.values(), direct) + Listing(passed_over=Counter({HIDDEN: left_out}))
    if direct and groups:
        raise SourceError(
            f"{images}: holds {len(direct)} images (such as {direct[0].name}) beside folders of images (such as "
            f"{next(iter(groups))}). Move them into a folder of their own: one folder is one group."
        )
    if direct:
        groups = {printable(images.absolute().name): direct}
    if not groups:
        seen = f" ({everything})" if str(everything) else ""
        raise SourceError(
            f"{images}: no image found{seen}. The layout is {images}/<class>/*.jpg, or images right in it."
        )
    for name, paths in groups.items():
        stem, count = Counter(printable(path.stem) for path in paths).most_common(1)[0]
        if count > 1:
            same = ", ".join(str(path.relative_to(images)) for path in paths if printable(path.stem) == stem)
            raise SourceError(f"{images}: {same} would have the same mask {name}/{stem}.png. Rename all but one.")
    return groups, everything


def _is_flat(images: Path, paths: Sequence[Path]) -> bool:
    return paths[0].parent == images


class _Run:
    """One run's fixed settings and its count of masks made."""

    def __init__(
        self,
        engine: Engine,
        out: Path,
        longest_side: int,
        kept_range: tuple[float, float],
        workers: int | None,
        progress: bool,
        before: Mapping[tuple[str, str], ScoreRow],
    ) -> None:
        self.engine, self.out, self.longest_side, self.kept_range = engine, out, longest_side, kept_range
        self.workers, self.progress, self.before = workers, progress, before
        self.made = 0

    def group(self, name: str, folder: Path, paths: Sequence[Path], rows: dict[tuple[str, str], ScoreRow]) -> None:
        """Bring one group's masks and rows up to date."""
        few = len(paths) < 16
        looks = map_images(_check, paths, workers=1 if few else self.workers, if_killed=_killed, local=True)
        checked = list(looks)
        good = [one for one in checked if one.reason is None]
        place = {one.path: position for position, one in enumerate(good)}
        members = [f"{printable(one.path.stem)} {one.sha256}" for one in good]
        group = group_fingerprint(self.engine, members, self.longest_side)
        for key in [key for key in rows if key[0] == name]:
            del rows[key]
        wanted = []
        for one in checked:
            key, mask_path = (name, printable(one.path.stem)), folder / f"{one.path.stem}.png"
            old = self.before.get(key)
            if one.reason is not None:
                rows[key] = _without_mask(key, one.reason)
                if is_ours(mask_path):
                    mask_path.unlink()  # of an image that is no more
            elif old is not None and old.group == group and old.foreground_ratio is not None and mask_path.is_file():
                rows[key] = self._row(key, old.confidence or 0.0, old.foreground_ratio, group)
            else:
                wanted.append(place[one.path])
        check_outputs([folder / f"{good[position].path.stem}.png" for position in wanted])
        try:
            with full_disk_told(name, folder):
                self._segment(name, folder, good, wanted, group, rows)
        except BaseException:
            with suppress(OSError):  # a disk that is full, say: the masks of the last few rows are made again
                _write_rows(self.out / SCORES, rows.values())
            raise

    def _segment(
        self,
        name: str,
        folder: Path,
        good: Sequence[_Checked],
        wanted: Sequence[int],
        group: str,
        rows: dict[tuple[str, str], ScoreRow],
    ) -> None:
        """Make the masks at the positions ``wanted`` of a group of readable images, and their rows."""
        description = f"look at {name}" if self.progress else ""
        shrunk = ImageFiles([one.path for one in good], self.longest_side, description)
        results = self.engine.segment_group(shrunk, wanted, workers=self.workers) if wanted else iter(())
        bar = tqdm(results, total=len(wanted), desc=name, unit="image", disable=not (self.progress and wanted))
        made = []
        for position, segmented in bar:
            if position in shrunk.unreadable:
                continue
            one = good[position]
            mask, band = resize_mask(segmented.mask, one.size), segmented.uncertain
            band = None if band is None else resize_mask(band, one.size)
            with output_path(folder / f"{one.path.stem}.png") as temporary:
                write_foreground(mask, temporary, band)
            key = (name, printable(one.path.stem))
            rows[key] = self._row(key, segmented.confidence, foreground_ratio(mask, band), group)
            made.append(key)
            self.made += 1
            if len(made) % max(SAVE_EVERY, len(rows) // 100) == 0:
                _write_rows(self.out / SCORES, rows.values())
        for position in wanted:
            path = good[position].path
            key = (name, printable(path.stem))
            if key not in rows:
                error = shrunk.unreadable.get(position)
                rows[key] = _without_mask(key, error.reason if error else NO_MASK)
                if is_ours(folder / f"{path.stem}.png"):
                    (folder / f"{path.stem}.png").unlink()
        if shrunk.unreadable:
            # A grey image stood for the lost one: good masks, but the next run makes those of the group without it.
            rows.update((key, replace(rows[key], group="")) for key in made)
        _write_rows(self.out / SCORES, rows.values())

    def _row(self, key: tuple[str, str], confidence: float, ratio: float, group: str) -> ScoreRow:
        # Rounded as they are written, so that a run and its resumption decide alike.
        ratio = round(ratio, 4)
        kept = self.kept_range[0] <= ratio <= self.kept_range[1]
        return ScoreRow(*key, "ok", round(confidence, 4), ratio, kept, group)


def _check(path: Path) -> _Checked:
    try:
        data = path.read_bytes()
        image = decode_image(data, str(path))
    except OSError:
        return _Checked(path, "", (0, 0), "missing")
    except ImageError as error:
        return _Checked(path, "", (0, 0), error.reason)
    return _Checked(path, hashlib.sha256(data).hexdigest(), (image.shape[1], image.shape[0]), None)


def _killed(path: Path) -> _Checked:
    return _Checked(path, "", (0, 0), "killed")


def _without_mask(key: tuple[str, str], reason: str) -> ScoreRow:
    return ScoreRow(*key, reason, None, None, False, "")


COLUMNS = ("class", "stem", "status", "confidence", "foreground_ratio", "kept", "group")


def _write_rows(path: Path, rows: Iterable[ScoreRow]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in sorted(rows, key=lambda row: (row.class_name, row.stem)):
        numbers = ("" if value is None else f"{value:.4f}" for value in (row.confidence, row.foreground_ratio))
        names = (name_cell(row.class_name), name_cell(row.stem))
        writer.writerow([*names, row.status, *numbers, "yes" if row.kept else "no", row.group])
    write_text(path, text.getvalue())


def _read_rows(path: Path) -> dict[tuple[str, str], ScoreRow]:
    """The rows of an earlier run by (class, stem); none if there was none or the file is not ours."""
    if not path.is_file():
        return {}
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), restval="")
    try:
        columns = tuple(reader.fieldnames or ())
        if columns != COLUMNS:
            raise CosegmentationError(
                f"{path}: not a score file of this program (columns {columns_told(columns)}). "
                "Choose another folder for the masks, or move the file away."
            )
        return {(row.class_name, row.stem): row for row in _parsed(reader)}
    except csv.Error as error:
        raise CosegmentationError(f"{path}: no readable CSV ({error}). Move the file away.") from error


def _parsed(reader: Iterable[Mapping[str, str]]) -> Iterator[ScoreRow]:
    for line in reader:
        try:
            confidence, ratio = (
                checked.number_of(line[name], name, 0, 1) if line[name] else None
                for name in ("confidence", "foreground_ratio")
            )
        except ValueError:
            continue  # edited by hand: as if it were not there, the mask is made again
        yield ScoreRow(
            *(name_of_cell(line["class"]), name_of_cell(line["stem"]), line["status"], confidence, ratio),
            *(line["kept"] == "yes", line["group"]),
        )
