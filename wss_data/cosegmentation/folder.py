"""Plain folders of images in, plain folders of masks out; no database."""

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from wss_data.cosegmentation import make_engine
from wss_data.cosegmentation.base import Engine, ImageFiles, full_disk_reported, group_fingerprint
from wss_data.errors import CosegmentationError, ImageError, SourceError
from wss_data.errors.names import is_of_tool, printable
from wss_data.imaging.images import decode_image, list_images
from wss_data.imaging.masks import foreground_ratio, resize_mask, write_foreground
from wss_data.reading import checked
from wss_data.reading.cells import name_cell, name_of_cell
from wss_data.reading.listing import HIDDEN, Listing
from wss_data.reading.tables import columns_shown, read_text
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

FEW = 16
"""Below this many images, starting processes takes longer than reading the images."""

_NAMED = 5
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
        foreground_ratio: Fraction of the mask's decided pixels that is foreground, in [0, 1]; empty without a mask.
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
            names = [printable(str(path.relative_to(self.out))) for path in self.left_over[:_NAMED]]
            names += ["..."] if len(self.left_over) > _NAMED else []
            lines.append(
                f"{len(self.left_over)} masks of images that are no longer there stay in {self.out} and are not in "
                f"{SCORES} ({', '.join(names)}). Delete them if nothing needs them."
            )
        return "\n".join([*lines, self.passed_over] if self.passed_over else lines)


@dataclass(frozen=True)
class _Checked:
    """One file after it was read once: the reason against it, or its bytes' digest and upright (width, height)."""

    path: Path
    reason: str | None
    sha256: str = ""
    size: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class FolderOptions:
    """How folders are co-segmented.

    Args:
        workers: Worker processes; ``None`` for one a processor. Masks do not depend on it.
        longest_side: Images are shrunk to this before they are co-segmented, pixels; masks are enlarged again. Shen et
            al., BMVC 2017, section 4.1, have 340.
        min_foreground: Smallest foreground fraction that counts as kept; 0.2 and 0.8 in section 3.1.
        max_foreground: Largest such fraction.
        progress: Whether to show a progress bar per group.
        allow_programs: Whether the engine may be one that runs a program (``external``).
    """

    workers: int | None = None
    longest_side: int = 340
    min_foreground: float = 0.2
    max_foreground: float = 0.8
    progress: bool = True
    allow_programs: bool = False

    def __post_init__(self) -> None:
        if self.longest_side < 64:
            raise CosegmentationError(
                f"longest_side is {self.longest_side}; at least 64 pixels are needed to see an object."
            )


def cosegment_folder(
    images: Path | str,
    out: Path | str,
    method: str = "common",
    options: Mapping[str, Any] | None = None,
    **how: Any,
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
        how: As the arguments of ``FolderOptions``: ``workers``, ``longest_side``, ``min_foreground``,
            ``max_foreground``, ``progress``, ``allow_programs``.

    Returns:
        What was done.

    Raises:
        SourceError: If there is no image, two images of a class have the same stem, or ``out`` lies in ``images``.
        CosegmentationError: If there is no such engine, it refuses an option, it runs a program without
            ``allow_programs``, ``longest_side`` is too small, or the disk is full.
        OutputError: If a mask would replace a file that this program did not write, or that was changed since.
        BusyError: If another process writes into ``out``.
    """
    images, out = Path(images), Path(out)
    settings = FolderOptions(**how)
    groups, listing = _find_groups(images, out)
    engine = make_engine(method, options, settings.allow_programs)
    with output_folder(out):
        return _fill(out, images, groups, listing, _Run(engine, out, settings))


def _fill(
    out: Path, images: Path, groups: Mapping[str, Sequence[Path]], listing: Listing, run: "_Run"
) -> FolderSummary:
    """Bring all groups' masks in ``out`` up to date, as its only owner."""
    places = {name: out if paths[0].parent == images else out / name for name, paths in groups.items()}
    masks = {
        (name, printable(path.stem)): places[name] / f"{path.stem}.png"
        for name, paths in groups.items()
        for path in paths
    }
    if run.before:
        earlier = [key for key, row in run.before.items() if row.status == "ok"]
        gone = {(name, stem): places.get(name, out / name) / f"{stem}.png" for name, stem in earlier}
        adopt([out / LEDGER, *({**gone, **masks}[key] for key in earlier)])
    # Files that no earlier run made are found before the first hour is spent; those changed since, at their group.
    new = [path for key, path in masks.items() if key not in run.before]
    check_outputs([out / LEDGER, *new], apart_from=[images])
    # The old rows of all groups stay in the file until their group's turn has come.
    run.rows = {key: row for key, row in run.before.items() if key[0] in groups}
    for name, paths in groups.items():
        run.group(name, places[name], paths)
    ledger = {"method": run.engine.name, "fingerprint": run.engine.fingerprint(), **run.engine.ledger.to_dict()}
    write_output(out / LEDGER, json.dumps(ledger, indent=2, ensure_ascii=False) + "\n")
    made = [row for row in run.rows.values() if row.status == "ok"]
    return FolderSummary(
        out=out,
        images=len(run.rows),
        made=run.made,
        unchanged=len(made) - run.made,
        kept={name: sum(row.kept for row in made if row.class_name == name) for name in groups},
        with_mask={name: sum(row.class_name == name for row in made) for name in groups},
        dropped=Counter(row.status for row in run.rows.values() if row.status != "ok"),
        passed_over=str(listing),
        left_over=_left_over(out, set(masks.values())),
    )


def _left_over(out: Path, current: Collection[Path]) -> tuple[Path, ...]:
    """Masks right in ``out`` or in a folder in it that this program wrote, of no image that is there now."""
    found = (path for pattern in ("*.png", "*/*.png") for path in out.glob(pattern))
    return tuple(sorted(path for path in found if path not in current and is_ours(path)))


def _find_groups(images: Path, out: Path) -> tuple[dict[str, Sequence[Path]], Listing]:
    """The groups in a folder, class name -> its image files, both sorted; and all that was found in it."""
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
    groups = groups or ({printable(images.absolute().name): direct} if direct else {})
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


class _Run:
    """One run: its engine and options, the rows of an earlier run and of this one, and how many masks were made."""

    def __init__(self, engine: Engine, out: Path, how: FolderOptions) -> None:
        self.engine, self.out, self.how = engine, out, how
        self.before = _read_rows(out / SCORES)
        self.rows: dict[tuple[str, str], ScoreRow] = {}
        self.made = 0

    def group(self, name: str, folder: Path, paths: Sequence[Path]) -> None:
        """Bring one group's masks and rows up to date."""
        workers = 1 if len(paths) < FEW else self.how.workers
        checked = list(map_images(_check, paths, workers=workers, if_killed=_killed, local=True))
        good = [one for one in checked if one.reason is None]
        members = [f"{printable(one.path.stem)} {one.sha256}" for one in good]
        group = group_fingerprint(self.engine, members, self.how.longest_side)
        for key in [key for key in self.rows if key[0] == name]:
            del self.rows[key]
        for one in checked:
            if one.reason is not None:
                self._drop(name, folder, one.path, one.reason)
        wanted = []
        for position, one in enumerate(good):
            key = (name, printable(one.path.stem))
            old = self.before.get(key)
            there = (folder / f"{one.path.stem}.png").is_file()
            if there and old is not None and old.group == group and old.foreground_ratio is not None:
                self._keep(key, old.confidence or 0.0, old.foreground_ratio, group)
            else:
                wanted.append(position)
        check_outputs([folder / f"{good[position].path.stem}.png" for position in wanted])
        try:
            with full_disk_reported(name, folder):
                self._segment(name, folder, good, wanted, group)
        except BaseException:
            with suppress(OSError):  # a disk that is full, say: the masks of the last few rows are made again
                self._write_rows()
            raise

    def _segment(self, name: str, folder: Path, good: Sequence[_Checked], wanted: Sequence[int], group: str) -> None:
        """Make the masks at the positions ``wanted`` of a group of readable images, and their rows."""
        description = f"look at {name}" if self.how.progress else ""
        shrunk = ImageFiles([one.path for one in good], self.how.longest_side, description)
        results = self.engine.segment_group(shrunk, wanted, workers=self.how.workers) if wanted else iter(())
        silent = not (self.how.progress and wanted)
        made = []
        for position, segmented in tqdm(results, total=len(wanted), desc=name, unit="image", disable=silent):
            if position in shrunk.unreadable:
                continue
            one = good[position]
            mask, band = resize_mask(segmented.mask, one.size), segmented.uncertain
            band = None if band is None else resize_mask(band, one.size)
            with output_path(folder / f"{one.path.stem}.png") as temporary:
                write_foreground(mask, temporary, band)
            key = (name, printable(one.path.stem))
            self._keep(key, segmented.confidence, foreground_ratio(mask, band), group)
            made.append(key)
            self.made += 1
            if len(made) % max(SAVE_EVERY, len(self.rows) // 100) == 0:
                self._write_rows()
        for position in wanted:
            if (name, printable(good[position].path.stem)) not in self.rows:
                error = shrunk.unreadable.get(position)
                self._drop(name, folder, good[position].path, error.reason if error else NO_MASK)
        if shrunk.unreadable:
            # A grey image stood for the lost one: good masks, but the next run makes those of the group without it.
            self.rows.update((key, replace(self.rows[key], group="")) for key in made)
        self._write_rows()

    def _keep(self, key: tuple[str, str], confidence: float, ratio: float, group: str) -> None:
        # Rounded as they are written, so that a run and its resumption decide alike.
        ratio = round(ratio, 4)
        kept = self.how.min_foreground <= ratio <= self.how.max_foreground
        self.rows[key] = ScoreRow(*key, "ok", round(confidence, 4), ratio, kept, group)

    def _drop(self, name: str, folder: Path, path: Path, reason: str) -> None:
        key = (name, printable(path.stem))
        self.rows[key] = ScoreRow(*key, reason, None, None, False, "")
        if is_ours(folder / f"{path.stem}.png"):
            (folder / f"{path.stem}.png").unlink()  # of an image that is no more

    def _write_rows(self) -> None:
        _write_rows(self.out / SCORES, self.rows.values())


def _check(path: Path) -> _Checked:
    try:
        data = path.read_bytes()
        image = decode_image(data, str(path))
    except OSError:
        return _Checked(path, "missing")
    except ImageError as error:
        return _Checked(path, error.reason)
    return _Checked(path, None, hashlib.sha256(data).hexdigest(), (image.shape[1], image.shape[0]))


def _killed(path: Path) -> _Checked:
    return _Checked(path, "killed")


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
    rows = {}
    try:
        columns = tuple(reader.fieldnames or ())
        if columns != COLUMNS:
            raise CosegmentationError(
                f"{path}: not a score file of this program (columns {columns_shown(columns)}). "
                "Choose another folder for the masks, or move the file away."
            )
        for line in reader:
            key = (name_of_cell(line["class"]), name_of_cell(line["stem"]))
            with suppress(ValueError):  # edited by hand: as if it were not there, the mask is made again
                confidence, ratio = (
                    checked.number_of(line[name], name, 0, 1) if line[name] else None
                    for name in ("confidence", "foreground_ratio")
                )
                rows[key] = ScoreRow(*key, line["status"], confidence, ratio, line["kept"] == "yes", line["group"])
    except csv.Error as error:
        raise CosegmentationError(f"{path}: no readable CSV ({error}). Move the file away.") from error
    return rows
