"""Files that are either whole or not there: write to a temporary name, then rename."""

import fcntl
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_UNFINISHED = ".writing-"
"""Start of the name of a file that is being written."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and rename it to ``path`` if the block succeeds.

    A process killed inside the block leaves at most a hidden temporary file,
    never a truncated one under the final name.

    Args:
        path: Where the finished file shall be. Missing parent folders are made.

    Yields:
        A path in the same folder with the same suffix, for the caller to write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Made by whoever writes it, so that it gets the permissions of any new file: a dataset is meant to be shared.
    temporary = path.parent / f"{_UNFINISHED}{secrets.token_hex(8)}{path.suffix}"
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8; bytes of file names that are none are written as escapes."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` atomically as indented JSON with a final newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left half written below ``folder``; call it only while nobody writes there."""
    for path in folder.rglob(f"{_UNFINISHED}*"):
        path.unlink(missing_ok=True)


@contextmanager
def only_one(path: Path) -> Iterator[bool]:
    """Hold the lock file ``path`` while the block runs, as the only process that does.

    The operating system lets go of it when the process ends, however it ends.

    Yields:
        Whether the lock was free; if not, somebody else holds it and the block must not go on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
