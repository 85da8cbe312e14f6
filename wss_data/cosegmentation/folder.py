"""Plain folders of images in, plain folders of masks out; no database."""

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from tqdm import tqdm

from wss_data.cosegmentation import make_engine
from wss_data.cosegmentation.base import Engine, ImageFiles, full_disk_reported, group_fingerprint
from wss_data.errors import CosegmentationError, ImageError, SourceError
from wss_data.errors.names import is_of_tool, printable
from wss_data.imaging.images import decode_image, list_images
from wss_data.imaging.masks import foreground_ratio, resize_mask, write_foreground
from wss_data.reading import checked
from wss_data.reading.cells import csv_text, name_cell, name_of_cell
from wss_data.reading.listing import HIDDEN, Listing
from wss_data.reading.settings import Rule, settings
from wss_data.reading.tables import columns_shown, read_text
from wss_data.runtime.files import adopt, check_outputs, is_ours, output_folder, output_path, write_output, write_text
from wss_data.runtime.parallel import map_images

SCORES, LEDGER = "scores.csv", "ledger.json"
COLUMNS = ("class", "stem", "status", "confidence", "foreground_ratio", "kept", "group")
SAVE_EVERY = 50  # masks, or a hundredth of the rows, between two writings of the scores: what a killed run makes again
FEW = 16  # below this many images, starting processes takes longer than reading the images
NO_MASK = "no_mask"  # status of a readable image without a mask: it killed the process that worked on it, say
_NAMED = 5  # left-over masks that the summary names

Key = tuple[str, str]  # class, and name of image and mask without suffix


class ScoreRow(NamedTuple):
    """One line of ``scores.csv``.

    ``status`` is ``ok``, or why there is no mask: the reason of an ``ImageError``, ``killed`` if reading the image
    killed a process, ``no_mask`` if the engine gave none.
    """

    class_name: str  # the group's name; column "class"
    stem: str  # name of image and mask without suffix
    status: str
    confidence: float | None = None  # in [0, 1]; empty without a mask
    foreground_ratio: float | None = None  # fraction of the mask's decided pixels, in [0, 1]; empty without a mask
    kept: bool = False  # by the foreground filter
    group: str = ""  # changes with the group's images and the engine's settings; equal: the mask is still good


@dataclass(frozen=True)
class FolderSummary:
    """What a run over folders did; prints as a table."""

    out: Path  # where the masks are
    images: int  # image files found
    made: int  # masks made by this run
    unchanged: int  # masks that were there already
    kept: Mapping[str, int]  # class -> images that the foreground filter keeps
    with_mask: Mapping[str, int]  # class -> images that have a mask
    dropped: Mapping[str, int]  # reason -> images without a mask
    passed_over: str = ""  # files that were not taken for images, as one line
    left_over: tuple[Path, ...] = ()  # masks that earlier runs made of images that are gone; no row lists them

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


@settings("co-segmentation of folders", CosegmentationError)
class FolderOptions:
    """How folders are co-segmented."""

    workers: Annotated[int | None, "Worker processes; one a processor if not given."] = None
    # 340 pixels: Shen et al., BMVC 2017, section 4.1; the filter's 0.2 and 0.8: section 3.1.
    longest_side: Annotated[
        int,
        Rule(ge=64),
        "Images are shrunk to this first, pixels; masks are enlarged again.",
    ] = 340
    min_foreground: Annotated[float, "Smallest foreground fraction that counts as kept."] = 0.2
    max_foreground: Annotated[float, "Largest such fraction."] = 0.8
    progress: Annotated[bool, "Whether to show a progress bar per group."] = True
    allow_programs: Annotated[bool, "Whether the engine may be one that runs a program."] = False


def cosegment_folder(
    images: Path | str, out: Path | str, method: str = "common", options: Mapping[str, Any] | None = None, **how: Any
) -> FolderSummary:
    """Co-segment each folder of images as one group and write a folder of masks.

    ``images/<class>/*.jpg`` become ``out/<class>/<stem>.png``: 0 and 255, and 128 in the uncertain band if the engine
    was asked for one, as large as the upright image. If ``images`` holds images itself, they are one group and the
    masks go right into ``out``. ``out/scores.csv`` lists every image, the unreadable ones with their reason;
    ``out/ledger.json`` says what the engine learned from.

    Run again, it makes only the masks of groups whose images or settings have changed, or that a killed run left out.
    ``method`` is the engine, ``options`` are the engine's, and ``how`` fields of ``FolderOptions``.

    Raises:
        SourceError: If there is no image, two images of a class have the same stem, or ``out`` lies in ``images``.
        CosegmentationError: If there is no such engine, it refuses an option, it runs a program without
            ``allow_programs``, ``longest_side`` is too small, or the disk is full.
        OutputError: If a mask would replace a file that this program did not write, or that was changed since.
        BusyError: If another process writes into ``out``.
    """
    images, out, chosen = Path(images), Path(out), FolderOptions(**how)
    groups, listing = _find_groups(images, out)
    engine = make_engine(method, options, chosen.allow_programs)
    with output_folder(out):
        run = _Run(engine, out, chosen, {key: path for paths in groups.values() for key, path in paths.items()}, images)
        for name, paths in groups.items():
            run.group(name, paths)
        ledger = {"method": engine.name, "fingerprint": engine.fingerprint(), **engine.ledger.to_dict()}
        write_output(out / LEDGER, json.dumps(ledger, indent=2, ensure_ascii=False) + "\n")
        made = [row for row in run.rows.values() if row.status == "ok"]
        masks = set(run.masks.values())
        there = (path for pattern in ("*.png", "*/*.png") for path in out.glob(pattern))
        return FolderSummary(
            out=out,
            images=len(run.rows),
            made=run.made,
            unchanged=len(made) - run.made,
            kept={name: sum(row.kept for row in made if row.class_name == name) for name in groups},
            with_mask={name: sum(row.class_name == name for row in made) for name in groups},
            dropped=Counter(row.status for row in run.rows.values() if row.status != "ok"),
            passed_over=str(listing),
            left_over=tuple(sorted(path for path in there if path not in masks and is_ours(path))),
        )


def _find_groups(images: Path, out: Path) -> tuple[dict[str, dict[Key, Path]], Listing]:
    """The groups in a folder: class name -> its images by key, both sorted; and all that was found in it."""
    if not images.is_dir():
        raise SourceError(f"{images}: there is no such folder of images.")
    if out.absolute().resolve().is_relative_to(images.resolve()):
        raise SourceError(f"{out}: masks must go outside {images}; the next run would take them for images.")
    folders = [path for path in sorted(images.iterdir()) if path.is_dir()]
    listings = {printable(folder.name): list_images(folder) for folder in folders if not is_of_tool(folder.name)}
    left_out = sum(len(names) for folder in folders if is_of_tool(folder.name) for *_, names in os.walk(folder))
    found: dict[str, Sequence[Path]] = {name: listing for name, listing in listings.items() if listing}
    direct = list_images(images, deep=False)
    everything = sum(listings.values(), direct) + Listing(passed_over=Counter({HIDDEN: left_out}))
    if direct and found:
        raise SourceError(
            f"{images}: holds {len(direct)} images (such as {direct[0].name}) beside folders of images (such as "
            f"{next(iter(found))}). Move them into a folder of their own: one folder is one group."
        )
    found = found or ({printable(images.absolute().name): direct} if direct else {})
    if not found:
        seen = f" ({everything})" if str(everything) else ""
        raise SourceError(
            f"{images}: no image found{seen}. The layout is {images}/<class>/*.jpg, or images right in it."
        )
    groups: dict[str, dict[Key, Path]] = {}
    for name, paths in found.items():
        stem, count = Counter(printable(path.stem) for path in paths).most_common(1)[0]
        if count > 1:
            same = ", ".join(str(path.relative_to(images)) for path in paths if printable(path.stem) == stem)
            raise SourceError(f"{images}: {same} would have the same mask {name}/{stem}.png. Rename all but one.")
        groups[name] = {(name, printable(path.stem)): path for path in paths}
    return groups, everything


class _Run:
    """One run, as the only owner of ``out``: where each mask goes, the rows of an earlier run and of this one."""

    def __init__(self, engine: Engine, out: Path, how: FolderOptions, paths: Mapping[Key, Path], images: Path) -> None:
        self.engine, self.out, self.how, self.made = engine, out, how, 0
        self.masks = {
            key: (out if path.parent == images else out / key[0]) / f"{path.stem}.png" for key, path in paths.items()
        }
        self.before = _read_rows(out / SCORES)
        if self.before:
            # Releases before the table of written files listed their masks in the scores alone.
            earlier = [key for key, row in self.before.items() if row.status == "ok"]
            folders = {name: mask.parent for (name, _), mask in self.masks.items()}
            gone = {key: folders.get(key[0], out / key[0]) / f"{key[1]}.png" for key in earlier}
            adopt([out / LEDGER, *(self.masks.get(key, gone[key]) for key in earlier)])
        # Files that no earlier run made are found before the first hour is spent; those changed since, at their group.
        new = [path for key, path in self.masks.items() if key not in self.before]
        check_outputs([out / LEDGER, *new], apart_from=[images])
        # The old rows of all groups stay in the file until their group's turn has come.
        names = {name for name, _ in paths}
        self.rows = {key: row for key, row in self.before.items() if key[0] in names}

    def group(self, name: str, paths: Mapping[Key, Path]) -> None:
        """Bring one group's masks and rows up to date."""
        workers = 1 if len(paths) < FEW else self.how.workers
        # All of them before the first row or mask is removed: who is interrupted here loses neither.
        looked = list(map_images(_look, paths.values(), workers=workers, if_killed=lambda _: "killed", local=True))
        self.rows = {key: row for key, row in self.rows.items() if key[0] != name}
        good = {}
        for key, found in zip(paths, looked, strict=True):
            if isinstance(found, str):
                self._drop(key, found)
            else:
                good[key] = found
        members = [f"{key[1]} {digest}" for key, (digest, _) in good.items()]
        group = group_fingerprint(self.engine, members, self.how.longest_side)
        wanted = []
        for position, key in enumerate(good):
            old = self.before.get(key)
            if old and old.group == group and old.foreground_ratio is not None and self.masks[key].is_file():
                self._keep(key, old.confidence or 0.0, old.foreground_ratio, group)
            else:
                wanted.append(position)
        keys = list(good)
        check_outputs([self.masks[keys[position]] for position in wanted])
        description = f"look at {name}" if self.how.progress else ""
        shrunk = ImageFiles([paths[key] for key in keys], self.how.longest_side, description)
        try:
            with full_disk_reported(name, next(iter(self.masks[key] for key in paths)).parent):
                self._segment(shrunk, [(key, size) for key, (_, size) in good.items()], wanted, group)
        except BaseException:
            with suppress(OSError):  # a disk that is full, say: the masks of the last few rows are made again
                self._write_rows()
            raise

    def _segment(
        self, shrunk: ImageFiles, members: Sequence[tuple[Key, tuple[int, int]]], wanted: Sequence[int], group: str
    ) -> None:
        """Make the masks at the positions ``wanted`` of a group: ``members`` are its images, by key and size."""
        name = members[0][0][0] if members else ""
        results = self.engine.segment_group(shrunk, wanted, workers=self.how.workers) if wanted else iter(())
        silent = not (self.how.progress and wanted)
        made = []
        for position, segmented in tqdm(results, total=len(wanted), desc=name, unit="image", disable=silent):
            if position in shrunk.unreadable:
                continue
            key, size = members[position]
            mask, band = resize_mask(segmented.mask, size), segmented.uncertain
            band = None if band is None else resize_mask(band, size)
            with output_path(self.masks[key]) as temporary:
                write_foreground(mask, temporary, band)
            self._keep(key, segmented.confidence, foreground_ratio(mask, band), group)
            made.append(key)
            self.made += 1
            if len(made) % max(SAVE_EVERY, len(self.rows) // 100) == 0:
                self._write_rows()
        for position in wanted:
            if members[position][0] not in self.rows:
                error = shrunk.unreadable.get(position)
                self._drop(members[position][0], error.reason if error else NO_MASK)
        if shrunk.unreadable:
            # A grey image stood for the lost one: good masks, but the next run makes those of the group without it.
            self.rows.update((key, self.rows[key]._replace(group="")) for key in made)
        self._write_rows()

    def _keep(self, key: Key, confidence: float, ratio: float, group: str) -> None:
        ratio = round(ratio, 4)  # as they are written, so that a run and its resumption decide alike
        kept = self.how.min_foreground <= ratio <= self.how.max_foreground
        self.rows[key] = ScoreRow(*key, "ok", round(confidence, 4), ratio, kept, group)

    def _drop(self, key: Key, reason: str) -> None:
        self.rows[key] = ScoreRow(*key, reason)
        if is_ours(self.masks[key]):
            self.masks[key].unlink()  # of an image that is no more

    def _write_rows(self) -> None:
        write_text(self.out / SCORES, csv_text(COLUMNS, [self.rows[key] for key in sorted(self.rows)], cell=_cell))


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    # Names are read back: they are marked for spreadsheets, not changed.
    return name_cell(value) if isinstance(value, str) else "" if value is None else f"{value:.4f}"


def _look(path: Path) -> str | tuple[str, tuple[int, int]]:
    """Why an image cannot be read, or its bytes' digest and upright (width, height)."""
    try:
        data = path.read_bytes()
        image = decode_image(data, str(path))
    except OSError:
        return "missing"
    except ImageError as error:
        return error.reason
    return hashlib.sha256(data).hexdigest(), (image.shape[1], image.shape[0])


def _read_rows(path: Path) -> dict[Key, ScoreRow]:
    """The rows of an earlier run; none if there was none."""
    if not path.is_file():
        return {}
    # Not read_table: it strips cells, and names may end in blanks.
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
