"""Run a program that is not ours: its words to a log, an end to it in time, and nothing of it left behind."""

import contextlib
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from wss_data.cosegmentation import program_watcher
from wss_data.cosegmentation.program_watcher import MARK
from wss_data.errors import CosegmentationError

LOG_BYTES = 4 << 20
"""What is kept of the beginning of a program's words, and a 16th of it of their end: some print without end."""

GRACE_S = 5.0
"""Seconds between asking a program to end (SIGTERM) and killing it: enough to give back a licence."""

_POLL_S = 0.05
_LAST_LINES, _LAST_LETTERS = 15, 1500
_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_BREAKS_A_STRING = re.compile(r"""['"\\`$\x00-\x1f]""")
_SAFE_IN_A_SHELL = re.compile(r"[A-Za-z0-9_@%+=:,./-]*")


def expand_command(template: str, values: Mapping[str, str], shell: bool = False) -> list[str]:
    """Put values in the places of a command template.

    The template is parted into words first and filled after, so that a path with spaces stays one word.

    Args:
        template: Words as for a shell, with places such as ``{images}``; ``{{`` and ``}}`` stand for braces.
        values: Name of each place -> what to put there.
        shell: Whether the whole is for ``sh``, with pipes and the like.

    Returns:
        Program and arguments.

    Raises:
        CosegmentationError: If quotes or braces do not match, there is no such place, or a value would be taken for
            something else where it stands: in a shell, or inside a word that is a program of its own.
    """

    def fill(word: str) -> str:
        def put(found: re.Match[str]) -> str:
            if found.group() in ("{{", "}}"):
                return found.group()[0]
            name = found.group(1)
            if name not in values:
                raise CosegmentationError(
                    f"the command has {found.group()!r} in {word!r}; known places: "
                    f"{', '.join(f'{{{known}}}' for known in values)}. Write braces of your own twice: {{{{ and }}}}."
                )
            value = values[name]
            alone = found.group() == word
            if (shell and not _SAFE_IN_A_SHELL.fullmatch(value)) or (not alone and _BREAKS_A_STRING.search(value)):
                raise CosegmentationError(
                    f"{value!r} cannot stand for {found.group()} in the command: its quotes, spaces or other signs "
                    "would be taken for a part of the program. Choose another folder with the option work."
                )
            return value

        return _PLACE.sub(put, word)

    if shell:
        words = ["/bin/sh", "-c", fill(template)]
    else:
        try:
            words = [fill(word) for word in shlex.split(template)]
        except ValueError as error:
            raise CosegmentationError(f"the command {template!r} cannot be parted into words: {error}.") from error
    if not template.strip():
        raise CosegmentationError("the command is empty.")
    return words


def run_program(command: Sequence[str], log: Path, timeout_s: float, folder: Path | None = None) -> None:
    """Run a program until it ends, and end what it started.

    It gets this process's environment, no standard input, and a process group of its own, so that Ctrl-C comes to us
    alone. When we leave, by whatever way, nothing of it is running any more.

    Args:
        command: Program and arguments.
        log: Gets what it prints, at most ``LOG_BYTES`` of the beginning and a little of the end.
        timeout_s: Seconds that it may take.
        folder: Working folder; ``None`` for ours.

    Raises:
        CosegmentationError: If it cannot be started, takes longer, or ends with another status than 0. The last lines
            that it printed are in the message.
    """
    token = secrets.token_hex(16)
    start = time.monotonic()
    log.write_bytes(b"")  # before anything is started: a disk that is full is told here
    watcher = subprocess.Popen(
        [sys.executable, "-I", program_watcher.__file__, token],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process = _start(command, token, folder)
        reader = threading.Thread(target=_copy, args=(process.stdout, log), daemon=True)
        reader.start()
        try:
            in_time = _wait(process, timeout_s)
            if not in_time:
                _send(process, signal.SIGTERM)
                _wait(process, GRACE_S)
        finally:
            _send(process, signal.SIGKILL)
            process.wait()
    finally:
        # The watcher takes this for our end, and kills what has left the program's group.
        assert watcher.stdin is not None
        watcher.stdin.close()
        watcher.wait()
    reader.join(GRACE_S)
    name, seconds = Path(command[0]).name, time.monotonic() - start
    if not in_time:
        raise CosegmentationError(
            f"{name} was ended, with all that it had started, because it took longer than timeout_s = {timeout_s:g} "
            f"seconds. {last_lines(log)}"
        )
    if process.returncode:
        raise CosegmentationError(f"{name} {_ending(process.returncode)} after {seconds:.0f} s. {last_lines(log)}")


def last_lines(log: Path) -> str:
    """The end of a log as a sentence."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4 * _LAST_LETTERS))
        text = file.read().decode(errors="replace")
    lines = ["".join(c if c.isprintable() else " " for c in line).rstrip() for line in text.splitlines()]
    shown = "\n".join([line for line in lines if line][-_LAST_LINES:])[-_LAST_LETTERS:]
    return f"Its last lines (more: {log}):\n{shown}" if shown else "It printed nothing."


def _start(command: Sequence[str], token: str, folder: Path | None) -> subprocess.Popen[bytes]:
    if folder is not None and not folder.is_dir():
        raise CosegmentationError(f"{folder}: there is no such working folder for {command[0]}.")
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, MARK: token},
            start_new_session=True,
        )
    except OSError as error:
        raise CosegmentationError(
            f"the program {command[0]!r} cannot be started ({error.strerror}). Is it installed, and in PATH?"
        ) from error


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Whether the process ended in time; it is left to be reaped."""
    deadline = time.monotonic() + timeout_s
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _send(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to a program's group. Not after it was reaped: somebody else may have its number then."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _ending(status: int) -> str:
    if status > 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _copy(stream: IO[bytes], log: Path) -> None:
    """Copy a stream to a file until its end: the beginning as it comes, and the last of what was too much."""
    total, tail = 0, b""
    with stream, contextlib.suppress(OSError), log.open("wb", buffering=0) as file:
        full = False
        while data := os.read(stream.fileno(), 1 << 16):
            room = max(0, LOG_BYTES - total)
            total += len(data)
            tail = (tail + data[room:])[-LOG_BYTES // 16 :]
            if room and not full:
                try:
                    file.write(data[:room])
                except OSError:  # the disk is full; the program must not wait for a reader all the same
                    full = True
        left_out = total - LOG_BYTES - len(tail)
        if left_out > 0:
            file.write(f"\n... {left_out:,} bytes left out ...\n".encode())
        file.write(tail)
