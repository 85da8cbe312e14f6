"""The engine ``external``: a program that is not ours co-segments the group, such as the original MATLAB code."""

import contextlib
import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from string import Formatter
from typing import IO, Annotated, Any, Literal

import cv2
import numpy as np

from wss_data.backbones import SupervisionName
from wss_data.cosegmentation import supervisor
from wss_data.cosegmentation.base import Segmented, wanted_positions
from wss_data.cosegmentation.imported import MASK_SUFFIXES, read_values
from wss_data.errors import CosegmentationError, MaskError
from wss_data.imaging.images import encode_jpeg
from wss_data.imaging.masks import check_foreground, split_band
from wss_data.ledger import Ledger, LedgerEntry, Supervision, UsedFor
from wss_data.reading.settings import Expected, Rule, settings
from wss_data.runtime.files import expanded, sole_owner, temporary_folder, write_json, write_text
from wss_data.runtime.parallel import default_workers

LOGGER = logging.getLogger(__name__)

VERSION = 1  # raised when the same program with the same settings would give other masks
IMAGES, MASKS, LIST, LOG, DONE = (
    "images",
    "masks",
    "list.txt",
    "program.log",
    "done.json",
)  # what a group's folder holds
NOBODY_KNOWS = 0.5  # confidence of a good mask: the program does not say
LOG_BYTES = 4 << 20  # kept of the beginning of a program's output, and a 16th of it of the end: some print without end
GRACE_S = 5.0  # between asking a program to end (SIGTERM) and killing it: enough to give back a licence
_LAST_LINES, _LAST_LETTERS = 15, 1500
_PLACES = {"images": IMAGES, "masks": MASKS, "list": LIST, "workers": "1"}
_BREAKS_A_STRING = re.compile(r"""['"\\`$\x00-\x1f]""")
_SAFE_IN_A_SHELL = re.compile(r"[A-Za-z0-9_@%+=:,./-]*")


@settings("co-segmentation method 'external'", CosegmentationError)
class ExternalSettings:
    """Settings of the engine."""

    command: Annotated[
        str,
        Expected("a text that holds {masks}, such as: coseg {images} {masks}"),
        Rule(pattern=r"\{masks\}"),
        "The program, as one types it. {images} stands for a folder with the images of the group "
        "(000000.png, 000001.png, ...), {masks} for the folder where masks of the same names are expected (.png "
        "or .mat), {list} for a text file with the images' names, {workers} for the number of processors.",
    ]
    timeout_s: Annotated[float, Rule(ge=0.01, le=1e8), "Seconds that a group may take."] = 86_400.0
    shell: Annotated[bool, "Whether command is for sh, else one program with arguments."] = False
    image_format: Annotated[Literal["png", "jpg"], "Of the images for the program."] = "png"
    working_folder: Annotated[str | None, Rule(min_length=1), "Where the program is started."] = None
    work: Annotated[
        str | None, Rule(min_length=1), "Folder that keeps each group's masks and log, so that none is run twice."
    ] = None
    missing_at_most: Annotated[float, Rule(ge=0, le=1), "Fraction of images without a good mask."] = 0.5
    supervision: Annotated[SupervisionName, "What the program had learned from, for the ledger."] = Supervision.UNKNOWN
    version: Annotated[str | int | float, "Change it when the program itself has changed."] = ""

    def __post_init__(self) -> None:
        expand_command(self.command, _PLACES, self.shell)


class ExternalEngine:
    """Have a program that is not ours co-segment a group; options are fields of ``ExternalSettings``.

    The masks are checked as ``import-masks`` checks them. An image without a good one gets an empty mask with
    confidence 0, which the foreground filter drops; how many those are, and why, is logged as a warning. Good masks get
    the confidence 0.5, empty and full ones 0.
    """

    name = "external"

    def __init__(self, /, **options: Any) -> None:
        self.settings = ExternalSettings(**options)

    @property
    def ledger(self) -> Ledger:
        """What the option ``supervision`` says."""
        words = expand_command(self.settings.command, _PLACES, self.settings.shell)
        program = "a shell command" if self.settings.shell else Path(words[0]).name
        what = f"masks by an external program ({program})"
        return Ledger((LedgerEntry(what, self.settings.supervision, UsedFor.COSEGMENTATION),))

    def fingerprint(self) -> str:
        """See ``Engine``. What the program itself does is not looked at: the option ``version`` is for that."""
        names = ("command", "shell", "image_format", "working_folder", "version")
        values = {name: getattr(self.settings, name) for name in names} | {"ours": VERSION}
        # The engine's name of before: folders of the option work go on being found.
        return f"outside-{hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]}"

    def segment_group(
        self, images: Sequence[np.ndarray], wanted: Collection[int] | None = None, workers: int | None = None
    ) -> Iterator[tuple[int, Segmented]]:
        """Run the program on one group, see ``Engine``; ``workers`` stands for ``{workers}``.

        The program always sees the whole group. With the option ``work`` it does not run again for a group for which it
        ended well before.

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
                # Beside the folder, not in it: after a failure one wants to read it.
                with tempfile.NamedTemporaryFile(prefix="wss-external-", suffix=".log", delete=False) as file:
                    log = Path(file.name)
                stack.callback(lambda: None if log.stat().st_size else log.unlink())
                sizes, _ = self._take(images, folder / IMAGES)
            else:
                sizes, digest = self._take(images)
                folder = expanded(self.settings.work).absolute() / f"{self.fingerprint()}-{digest}"
                log = folder / LOG
                stack.enter_context(sole_owner(folder / "lock", "the program is being run on this group"))
            if not _is_done(folder):
                if self.settings.work is not None:
                    self._take(images, folder / IMAGES)
                (folder / MASKS).mkdir(exist_ok=True)
                names = [f"{position:06d}.{self.settings.image_format}\n" for position in range(len(images))]
                write_text(folder / LIST, "".join(names))
                places = {name: str(folder / place) for name, place in _PLACES.items()}
                places["workers"] = str(workers or default_workers())
                command = expand_command(self.settings.command, places, self.settings.shell)
                where = self.settings.working_folder
                run_program(command, log, self.settings.timeout_s, expanded(where) if where else None)
            bad = self._check(folder / MASKS, sizes, log)
            if self.settings.work is None:
                os.truncate(log, 0)
            else:
                masks = len(os.listdir(folder / MASKS))
                write_json(folder / DONE, {"command": self.settings.command, "masks": masks})
                for path in (folder / IMAGES).glob("*"):
                    path.unlink()  # can be written again; the masks cannot
            for position in positions:
                empty = Segmented(np.zeros(sizes[position][::-1], bool), 0.0)
                yield position, empty if position in bad else _read_mask(folder / MASKS, position, sizes[position])

    def _take(self, images: Sequence[np.ndarray], folder: Path | None = None) -> tuple[list[tuple[int, int]], str]:
        """The (width, height) of a group's images and a digest of their pixels; writes them, if there is a folder."""
        digest, sizes = hashlib.sha256(), []
        for position in range(len(images)):
            image = images[position]
            digest.update(repr(image.shape).encode())
            digest.update(np.ascontiguousarray(image).data)
            sizes.append((image.shape[1], image.shape[0]))
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / f"{position:06d}.{self.settings.image_format}"
                if self.settings.image_format == "jpg":
                    path.write_bytes(encode_jpeg(image))
                else:
                    # The program reads it once: fast rather than small. OpenCV's imwrite would hide a full disk.
                    fast = [cv2.IMWRITE_PNG_COMPRESSION, 1]
                    path.write_bytes(cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), fast)[1].tobytes())
        return sizes, digest.hexdigest()[:16]

    def _check(self, masks: Path, sizes: Sequence[tuple[int, int]], log: Path) -> dict[int, MaskError]:
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


def _is_done(folder: Path) -> bool:
    """Whether the program ended well for the group in ``folder``, and its masks are still there."""
    try:
        return json.loads((folder / DONE).read_text(encoding="utf-8"))["masks"] == len(os.listdir(folder / MASKS))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _read_mask(masks: Path, position: int, size: tuple[int, int]) -> Segmented:
    """The program's mask of one image; raises ``MaskError`` if there is none, or no good one."""
    there = [path for suffix in MASK_SUFFIXES if (path := masks / f"{position:06d}{suffix}").is_file()]
    if len(there) != 1:
        if there:
            raise MaskError("ambiguous", f"{there[0]} and {there[1].name} are masks of one image.")
        raise MaskError("missing", f"{masks}/{position:06d}.png (or .mat): there is no such mask.")
    values, band = split_band(read_values(there[0]), 1)
    try:
        return Segmented(check_foreground(values, size, str(there[0])), NOBODY_KNOWS, band)
    except MaskError as error:
        if error.reason not in ("empty", "full"):
            raise
        return Segmented(values > 0, 0.0, band)  # an answer like any other; the filter decides


def expand_command(template: str, values: Mapping[str, str], shell: bool = False) -> list[str]:
    """Program and arguments: a command template, words as for a shell, with ``values`` in places such as ``{images}``.

    ``shell``: whether the whole is for ``sh``, with pipes and the like.

    Raises:
        CosegmentationError: If quotes or braces do not match, there is no such place, or a value would be taken for
            something else where it stands: in a shell, or inside a word that is a program of its own.
    """
    if not template.strip():
        raise CosegmentationError("the command is empty.")
    try:
        # Parted into words first and filled after, so that a path with spaces stays one word.
        words = ["/bin/sh", "-c", template] if shell else shlex.split(template)
    except ValueError as error:
        raise CosegmentationError(f"the command {template!r} cannot be parted into words: {error}.") from error
    own = "Write braces of your own twice: {{ and }}."
    filled = []
    for word in words:
        try:
            parts = list(Formatter().parse(word))
        except ValueError as error:
            raise CosegmentationError(f"{error} in the command: {word!r}. {own}") from error
        text = ""
        for before, name, layout, conversion in parts:
            text += before
            if name is None:
                continue
            place, value = f"{{{name}}}", values.get(name)
            if value is None or layout or conversion:
                known = ", ".join(f"{{{one}}}" for one in values)
                raise CosegmentationError(f"the command has {place!r} in {word!r}; known places: {known}. {own}")
            if (shell and not _SAFE_IN_A_SHELL.fullmatch(value)) or (place != word and _BREAKS_A_STRING.search(value)):
                raise CosegmentationError(
                    f"{value!r} cannot stand for {place} in the command: its quotes, spaces or other signs would be "
                    "taken for a part of the program. Choose another folder with the option work."
                )
            text += value
        filled.append(text)
    return filled


def run_program(command: Sequence[str], log: Path, timeout_s: float, folder: Path | None = None) -> None:
    """Run a program until it ends, for at most ``timeout_s`` seconds, and end what it started.

    It gets this process's environment, no standard input, and a process group of its own, so that Ctrl-C comes to us
    alone. ``log`` gets what it prints, at most ``LOG_BYTES`` of the beginning and a little of the end.

    Raises:
        CosegmentationError: If it cannot be started, takes longer, or ends with another status than 0; with the last
            lines that it printed.
    """
    name, start = command[0], time.monotonic()
    if folder is not None and not folder.is_dir():
        raise CosegmentationError(f"{folder}: there is no such working folder for {name}.")
    if shutil.which(os.path.join(folder or "", name) if os.sep in name else name) is None:
        raise CosegmentationError(f"the program {name!r} cannot be started (not found). Is it installed, and in PATH?")
    log.write_bytes(b"")  # before anything is started: a disk that is full is noticed here
    # When we leave, by whatever way, nothing of the program is running any more: the supervisor sees to it.
    process = subprocess.Popen(
        [sys.executable, "-I", supervisor.__file__, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        start_new_session=True,
    )
    assert process.stdin is not None
    reader = threading.Thread(target=_copy, args=(process.stdout, log), daemon=True)
    reader.start()
    in_time = True
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        in_time = False
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    finally:
        process.stdin.close()  # the supervisor takes this for our end, and kills whatever is left
        process.wait()
    reader.join(GRACE_S)
    name, seconds, status = Path(name).name, time.monotonic() - start, process.returncode
    if not in_time:
        raise CosegmentationError(
            f"{name} was ended, with all that it had started, because it took longer than timeout_s = {timeout_s:g} "
            f"seconds. {last_lines(log)}"
        )
    if status:
        how = f"ended with status {status}" if status > 0 else f"was killed by {signal.Signals(-status).name}"
        raise CosegmentationError(f"{name} {how} after {seconds:.0f} s. {last_lines(log)}")


def last_lines(log: Path) -> str:
    """The end of a log as a sentence."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4 * _LAST_LETTERS))
        text = file.read().decode(errors="replace")
    lines = ["".join(c if c.isprintable() else " " for c in line).rstrip() for line in text.splitlines()]
    last = "\n".join([line for line in lines if line][-_LAST_LINES:])[-_LAST_LETTERS:]
    return f"Its last lines (more: {log}):\n{last}" if last else "It printed nothing."


def _copy(stream: IO[bytes], log: Path) -> None:
    """Copy a stream to a file until its end: the beginning as it comes, and the last of what was too much."""
    total, tail = 0, b""
    with stream, contextlib.suppress(OSError), log.open("wb", buffering=0) as file:
        while data := os.read(stream.fileno(), 1 << 16):
            room = max(0, LOG_BYTES - total)
            total += len(data)
            tail = (tail + data[room:])[-LOG_BYTES // 16 :]
            with contextlib.suppress(OSError):  # the disk is full; the program must not wait for a reader all the same
                file.write(data[:room])
        left_out = total - LOG_BYTES - len(tail)
        with contextlib.suppress(OSError):
            file.write((f"\n... {left_out:,} bytes left out ...\n" if left_out > 0 else "").encode() + tail)
