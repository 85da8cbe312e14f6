"""The engine ``outside``: a program that is not ours co-segments the group, such as the original MATLAB code."""

import hashlib
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from wss_data.cosegmentation.base import Segmented
from wss_data.cosegmentation.imported import MASK_SUFFIXES, read_values
from wss_data.cosegmentation.options import check_names, wanted_positions
from wss_data.cosegmentation.program import expand_command, last_lines, run_program
from wss_data.errors import CosegmentationError, MaskError, shown
from wss_data.imaging.images import encode_jpeg
from wss_data.imaging.masks import check_foreground, split_band
from wss_data.ledger import Ledger, LedgerEntry, Supervision, UsedFor
from wss_data.runtime.files import expanded, sole_owner, temporary_folder, write_json, write_text
from wss_data.runtime.parallel import default_workers

LOGGER = logging.getLogger(__name__)

VERSION = 1
"""Raised when the same program with the same settings would give other masks."""

IMAGES, MASKS, LIST, LOG, DONE = "images", "masks", "list.txt", "program.log", "done.json"
"""What a group's folder holds."""

NOBODY_KNOWS = 0.5
"""Confidence of a good mask: the program does not say."""


@dataclass(frozen=True)
class OutsideSettings:
    """Settings of the engine.

    Args:
        command: The program, as one types it. ``{images}`` stands for a folder with the images of the group
            (000000.png, 000001.png, ...), ``{masks}`` for the folder where masks of the same names are expected (.png
            or .mat), ``{list}`` for a text file with the images' names, ``{workers}`` for the number of processors.
        timeout_s: Seconds that the program may take for one group.
        shell: Whether ``command`` is for ``sh``, with pipes and variables; else it is one program with its arguments.
        image_format: ``png`` or ``jpg``.
        working_folder: Where the program is started; ``None`` for the current folder.
        work: Folder that keeps images, masks and log of each group, so that a build that was stopped after the program
            had ended does not run it again; ``None`` for temporary folders.
        missing_at_most: Share of a group's images that may come back without a good mask, in [0, 1].
        supervision: What the program had learned from, for the ledger: a value of ``Supervision``.
        version: Any text; change it when the program itself has changed, and masks are made again.

    Raises:
        CosegmentationError: If a value is of the wrong kind or out of its range.
    """

    command: str
    timeout_s: float = 86_400.0
    shell: bool = False
    image_format: str = "png"
    working_folder: str | None = None
    work: str | None = None
    missing_at_most: float = 0.5
    supervision: str = Supervision.UNKNOWN
    version: str = ""

    def __post_init__(self) -> None:
        told = isinstance(self.command, str) and "{masks}" in self.command
        self._check("command", told, "a text that holds {masks} is wanted")
        self._check("timeout_s", _is_number(self.timeout_s, 0.01, 1e8), "seconds from 0.01 to 100,000,000 are wanted")
        self._check("shell", isinstance(self.shell, bool), "true or false is wanted")
        self._check("image_format", self.image_format in ("png", "jpg"), "png or jpg is wanted")
        for name in ("working_folder", "work"):
            value = getattr(self, name)
            given = isinstance(value, str) and value != ""
            self._check(name, value is None or given, "the path of a folder is wanted")
        self._check("missing_at_most", _is_number(self.missing_at_most, 0, 1), "a share from 0 to 1 is wanted")
        known = [str(member) for member in Supervision]
        self._check("supervision", self.supervision in known, f"one of {', '.join(known)} is wanted")
        self._check("version", isinstance(self.version, str | int | float), "a text is wanted")
        expand_command(self.command, dict.fromkeys(("images", "masks", "list", "workers"), "x"), self.shell)

    def _check(self, name: str, good: bool, wanted: str) -> None:
        if not good:
            raise CosegmentationError(f"co-segmentation option {name} is {shown(getattr(self, name))}; {wanted}.")


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


class OutsideEngine:
    """Have a program that is not ours co-segment a group.

    The masks are checked as ``import-masks`` checks them. An image without a good one gets an empty mask with
    confidence 0, which the foreground filter drops; how many those are, and why, is logged as a warning. Good masks get
    the confidence 0.5, empty and full ones 0.

    Args:
        **options: Fields of ``OutsideSettings``; ``command`` is needed.

    Raises:
        CosegmentationError: If there is no such option, its value is out of its range, or ``command`` is missing.
    """

    name = "outside"

    def __init__(self, **options: Any) -> None:
        check_names(self.name, options, [field.name for field in fields(OutsideSettings)])
        if "command" not in options:
            raise CosegmentationError(
                "co-segmentation method 'outside' needs the option command: the program to run, such as "
                "coseg {images} {masks}. See docs/how_to/run_the_original_code.md."
            )
        self.settings = OutsideSettings(**options)

    @property
    def ledger(self) -> Ledger:
        """What the engine learned from: what the option ``supervision`` says; unknown if it says nothing."""
        words = expand_command(self.settings.command, _PLACES, self.settings.shell)
        program = "a shell command" if self.settings.shell else Path(words[0]).name
        what = f"masks by an outside program ({program})"
        return Ledger((LedgerEntry(what, Supervision(self.settings.supervision), UsedFor.COSEGMENTATION),))

    def fingerprint(self) -> str:
        """Short text that changes whenever a setting that changes masks does.

        What the program itself does is not looked at; that is what the option ``version`` is for.
        """
        names = ("command", "shell", "image_format", "working_folder", "version")
        values = {name: asdict(self.settings)[name] for name in names} | {"ours": VERSION}
        return f"{self.name}-{hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]}"

    def segment_group(
        self, images: Sequence[np.ndarray], wanted: Collection[int] | None = None, workers: int | None = None
    ) -> Iterator[tuple[int, Segmented]]:
        """Run the program on one group; yield (position in the group, its mask) for each wanted image, in order.

        The program always sees the whole group. With the option ``work`` it does not run again for a group for which it
        ended well before.

        Args:
            images: The group, each (H, W, 3) uint8 RGB; may read a file when indexed.
            wanted: Positions to yield; ``None`` means all.
            workers: What stands for ``{workers}``; ``None`` for one a processor.

        Raises:
            CosegmentationError: If the group is empty, the program cannot be run, fails or takes too long, or too many
                images come back without a good mask.
        """
        positions = wanted_positions(images, wanted)
        if not positions:
            return
        with ExitStack() as stack:
            if self.settings.work is None:
                folder = stack.enter_context(temporary_folder())
                sizes = _write_images(images, folder / IMAGES, self.settings.image_format)
                # Beside the folder, not in it: after a failure one wants to read it.
                with tempfile.NamedTemporaryFile(prefix="wss-outside-", suffix=".log", delete=False) as file:
                    log = Path(file.name)
                try:
                    self._run(folder, log, len(images), workers)
                    bad = self._look(folder / MASKS, sizes, log)
                    log.write_bytes(b"")
                finally:
                    if log.stat().st_size == 0:
                        log.unlink()
            else:
                sizes, digest = _group_digest(images)
                folder = expanded(self.settings.work).absolute() / f"{self.fingerprint()}-{digest}"
                stack.enter_context(sole_owner(folder / "lock", "the program is being run on this group"))
                if not _is_done(folder):
                    _write_images(images, folder / IMAGES, self.settings.image_format)
                    self._run(folder, folder / LOG, len(images), workers)
                bad = self._look(folder / MASKS, sizes, folder / LOG)
                write_json(folder / DONE, {"command": self.settings.command, "masks": _count(folder / MASKS)})
                for path in (folder / IMAGES).glob("*"):
                    path.unlink()  # can be written again; the masks cannot
            for position in positions:
                yield position, _segmented(folder / MASKS, position, sizes[position], bad)

    def _run(self, folder: Path, log: Path, count: int, workers: int | None) -> None:
        (folder / MASKS).mkdir(exist_ok=True)
        names = [f"{_stem(position)}.{self.settings.image_format}" for position in range(count)]
        write_text(folder / LIST, "\n".join(names) + "\n")
        places = {
            "images": str(folder / IMAGES),
            "masks": str(folder / MASKS),
            "list": str(folder / LIST),
            "workers": str(workers or default_workers()),
        }
        command = expand_command(self.settings.command, places, self.settings.shell)
        where = self.settings.working_folder
        run_program(command, log, self.settings.timeout_s, expanded(where) if where else None)

    def _look(self, masks: Path, sizes: Sequence[tuple[int, int]], log: Path) -> dict[int, MaskError]:
        """Position -> what is wrong with its mask; raises ``CosegmentationError`` if that are too many."""
        bad: dict[int, MaskError] = {}
        for position, size in enumerate(sizes):
            try:
                _read_mask(masks, position, size)
            except MaskError as error:
                bad[position] = error
        if bad:
            counts = ", ".join(f"{n} {reason}" for reason, n in Counter(e.reason for e in bad.values()).most_common())
            found = f"{len(bad)} of {len(sizes)} images got no good mask from the program: {counts}. "
            first = str(next(iter(bad.values())))
            if len(bad) > self.settings.missing_at_most * len(sizes):
                raise CosegmentationError(
                    f"{found}At most {self.settings.missing_at_most:.0%} may (option missing_at_most). {first} "
                    f"{last_lines(log)}"
                )
            LOGGER.warning("%sThey count as all background, with confidence 0. %s", found, first)
        return bad


_PLACES = {"images": IMAGES, "masks": MASKS, "list": LIST, "workers": "1"}


def _stem(position: int) -> str:
    return f"{position:06d}"


def _write_images(images: Sequence[np.ndarray], folder: Path, image_format: str) -> list[tuple[int, int]]:
    """Write a group's images; returns their (width, height)."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = []
    for position in range(len(images)):
        image = images[position]
        if image_format == "jpg":
            data = encode_jpeg(image)
        else:
            # The program reads it once: fast rather than small.
            written, png = cv2.imencode(
                ".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1]
            )
            assert written
            data = png.tobytes()
        (folder / f"{_stem(position)}.{image_format}").write_bytes(data)
        sizes.append((image.shape[1], image.shape[0]))
    return sizes


def _group_digest(images: Sequence[np.ndarray]) -> tuple[list[tuple[int, int]], str]:
    """The (width, height) of a group's images, and a digest of their pixels in order."""
    digest, sizes = hashlib.sha256(), []
    for position in range(len(images)):
        image = images[position]
        digest.update(repr(image.shape).encode())
        digest.update(np.ascontiguousarray(image).data)
        sizes.append((image.shape[1], image.shape[0]))
    return sizes, digest.hexdigest()[:16]


def _is_done(folder: Path) -> bool:
    """Whether the program ended well for the group in ``folder``, and its masks are still there."""
    try:
        return json.loads((folder / DONE).read_text(encoding="utf-8"))["masks"] == _count(folder / MASKS)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir())


def _read_mask(masks: Path, position: int, size: tuple[int, int]) -> Segmented:
    """The program's mask of one image; raises ``MaskError`` if there is none, or no good one."""
    there = [path for suffix in MASK_SUFFIXES if (path := masks / f"{_stem(position)}{suffix}").is_file()]
    if len(there) != 1:
        if there:
            raise MaskError("ambiguous", f"{there[0]} and {there[1].name} are masks of one image.")
        raise MaskError("missing", f"{masks / _stem(position)}.png (or .mat): there is no such mask.")
    values, band = split_band(read_values(there[0]), 1)
    try:
        return Segmented(check_foreground(values, size, str(there[0])), NOBODY_KNOWS, band)
    except MaskError as error:
        if error.reason not in ("empty", "full"):
            raise
        return Segmented(values > 0, 0.0, band)  # an answer like any other; the filter judges it


def _segmented(masks: Path, position: int, size: tuple[int, int], bad: dict[int, MaskError]) -> Segmented:
    if position in bad:
        return Segmented(np.zeros(size[::-1], bool), 0.0)
    try:
        return _read_mask(masks, position, size)
    except MaskError as error:
        raise CosegmentationError(f"a mask changed after the program had ended: {error}") from error
