"""Files that are either whole or not there, that replace nobody else's, and that one process at a time writes.

Where files go to a place that a user named, this program replaces and removes only what it wrote there itself: the
table ``.wss-written`` in that folder lists each such file with its digest. A file that is not listed, or was
changed since, is the user's.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from wss_data.errors import BusyError, OutputError, SourceError, shown

# Table of the files that this program wrote into a folder that a user named; locked while a command fills it
WRITTEN = ".wss-written"

_UNFINISHED = ".writing-"  # Start of the name of a file that is being written

_TEMPORARY = "wss-"  # Start of the name of a folder among the temporary files

_OURS = re.compile(r"(\.writing|wss)-(?P<here>[0-9a-f]{4})-(?P<process>\d+)-[0-9a-f]{4,16}(\.|$)")
_DAY_S = 86_400  # no file of ours takes so long to write


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a hidden path beside ``path``, of the same suffix, and rename it to ``path`` if the block succeeds.

    A process killed inside the block never leaves a truncated file under the final name. Missing parents are made.
    """
    folder = path.parent
    if not folder.is_dir():  # asked first: a folder that is there costs ``mkdir`` an error
        folder.mkdir(parents=True, exist_ok=True)
    # Made by whoever writes it, so that it gets the permissions of any new file: a dataset is meant to be shared.
    temporary = unfinished(folder, path.suffix)
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def expanded(path: Path | str) -> Path:
    """A path with ``~`` or ``~name`` replaced by that user's home.

    Raises:
        SourceError: If there is no such user, or the path holds a NUL byte, which no file system takes.
    """
    if "\0" in str(path):
        raise SourceError(f"{shown(str(path))}: a path cannot hold a NUL byte.")
    try:
        return Path(path).expanduser()
    except (RuntimeError, KeyError) as error:
        user = Path(path).parts[0]
        raise SourceError(
            f"{shown(str(path))}: this machine knows no home folder for '{user}'. "
            f"Write the whole path, or ./{user} for a folder of that name."
        ) from error


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


def digest_of(path: Path | str) -> str:
    """Hex digest (sha256) of a file's content; empty if there is no file that can be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def digests_of(paths: Sequence[Path | str]) -> list[str]:
    """``digest_of`` each file, in their order; several at a time."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(digest_of, paths))


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left half written below ``folder``; call it only while nobody writes there."""
    for path in folder.rglob(f"{_UNFINISHED}*"):
        _remove(path)


def unfinished(folder: Path, suffix: str = "") -> Path:
    """A new hidden name in ``folder`` for what is being written; it names this process, for ``sweep``."""
    return folder / f"{_UNFINISHED}{_here()}-{os.getpid()}-{os.urandom(8).hex()}{suffix}"


def sweep(folder: Path) -> None:
    """Remove files and folders that killed processes left half written right in ``folder``, whoever writes there now.

    What a process of another machine or container began is removed when it is a day old.
    """
    for path in (path for start in (_UNFINISHED, _TEMPORARY) for path in folder.glob(f"{start}*")):
        found = _OURS.match(path.name)
        if found is None:
            continue
        with suppress(FileNotFoundError, PermissionError):  # gone meanwhile, or another user's
            if found["here"] == _here():
                gone = not Path("/proc", found["process"]).exists()
            else:
                gone = time.time() - path.lstat().st_mtime > _DAY_S
            if gone:
                _remove(path)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A private folder for a while, on the disk for temporary files; those that killed processes left are removed."""
    place = Path(tempfile.gettempdir())
    sweep(place)
    folder = place / f"{_TEMPORARY}{_here()}-{os.getpid()}-{secrets.token_hex(2)}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def _here() -> str:
    """Four hex digits for this start of this machine or container: within them a process has its own number."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    return hashlib.sha256(boot + str(os.stat("/proc/self/ns/pid").st_ino).encode()).hexdigest()[:4]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def output_path(path: Path) -> Iterator[Path]:
    """``atomic_path`` for a place that a user named: refuses to replace what this program did not write there.

    Raises:
        OutputError: As ``check_outputs``.
    """
    _refuse([path])
    with atomic_path(path) as temporary:
        yield temporary
        # Before the file has its name: killed in between, the table lists a file that is not there, which harms nobody.
        _record(path, _digest(temporary))


def write_output(path: Path, text: str) -> None:
    """Write ``text`` to a place that a user named, as ``output_path`` does, as UTF-8."""
    with output_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def check_outputs(paths: Iterable[Path], apart_from: Sequence[Path | str] = (), proved: bool = False) -> None:
    """Refuse, before any work is done, to replace files that this program did not write.

    Args:
        paths: Files that a command is about to write, remove or replace; most often they do not exist.
        apart_from: Files and folders that the command reads: nothing is written over them or into them.
        proved: Whether another table of ours lists the files, as those of releases before ``.wss-written`` did. Then
            files in a folder without that table are taken for ours, and listed from now on.

    Raises:
        OutputError: If a file there is not ours or was changed since, a link, or a folder; if a part of its path is a
            file, or the folder cannot be written.
    """
    paths = list(paths)
    if proved:
        adopt(paths)
    for folder in {path.parent for path in paths}:
        sweep(folder)
    _refuse(paths, apart_from)


def _refuse(paths: Iterable[Path], apart_from: Sequence[Path | str] = ()) -> None:
    places: dict[Path, Path] = {}
    inputs = {Path(place).resolve() for place in apart_from}
    foreign = []
    for path in paths:
        folder = path.parent
        if folder not in places:
            _check_place(path)
            places[folder] = folder.resolve()
        if hit := inputs & {places[folder] / path.name, places[folder], *places[folder].parents}:
            raise OutputError(
                f"{path}: the result would be written over or into {hit.pop()}, which is read. Name another place."
            )
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(mode):
            kind = "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "no plain file"
            raise OutputError(f"{path}: is {kind}, and is left alone. Name another place for the result.")
        if not is_ours(path):
            foreign.append(path)
    if foreign:
        more = f" (and {len(foreign) - 1} more files)" if len(foreign) > 1 else ""
        raise OutputError(
            f"{foreign[0]}{more}: exists, and this program did not write it there, or it was changed since. It is left "
            "alone: move it away, or name another place for the result."
        )


def adopt(paths: Iterable[Path]) -> None:
    """List files as ours that another table of ours lists, in folders that a release before ``.wss-written`` filled."""
    older = [path for path in paths if not _TABLES.of(_place(path)[0]) and path.is_file() and not path.is_symlink()]
    for path in older:
        _record(path, _digest(path))


def is_ours(path: Path) -> bool:
    """Whether a file is one that this program wrote to a place that a user named, and that was not changed since."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
        digest = _digest(path)
    except FileNotFoundError:
        return False
    place = path.parent.resolve() / path.name
    return any(digest in _TABLES.of(above).get(str(place.relative_to(above)), ()) for above in place.parents)


# Folders that this process fills: the files below them are listed in the one table of the folder
_FILLED: list[Path] = []


def _place(path: Path) -> tuple[Path, str]:
    """The folder in whose table a file is listed, and its name there."""
    place = path.parent.resolve() / path.name
    folder = max(
        (above for above in _FILLED if above in place.parents), key=lambda above: len(above.parts), default=None
    )
    folder = folder or place.parent
    return folder, str(place.relative_to(folder))


def remove_tables(folder: Path) -> None:
    """Remove ``folder`` and folders below where nothing is left in them but the table of what was written."""
    for place in sorted((path for path in (folder, *folder.rglob("*")) if path.is_dir()), reverse=True):
        if not place.is_symlink() and {path.name for path in place.iterdir()} <= {WRITTEN}:
            (place / WRITTEN).unlink(missing_ok=True)
            place.rmdir()


def _check_place(path: Path) -> None:
    """Refuse a path that no file can be written to."""
    there = path.parent
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise OutputError(f"{path}: {there} is no folder. Name another place for the result.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: the folder {there} cannot be written. Name another place for the result.")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Tables:
    """The tables ``.wss-written``, read on from where they were last read: a command may write 100,000 files."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: dict[Path, tuple[int, int, dict[str, set[str]]]] = {}

    def of(self, folder: Path) -> dict[str, set[str]]:
        """Name -> digests of what was written under it. ``folder``: resolved."""
        with self._lock:
            try:
                with _open_table(folder, os.O_RDONLY) as file:
                    inode, size = (found := os.fstat(file.fileno())).st_ino, found.st_size
                    before = self._read.get(folder)
                    if before is None or before[0] != inode or before[1] > size:
                        before = (inode, 0, {})
                    _, start, digests = before
                    file.seek(start)
                    data = file.read()
            except FileNotFoundError:
                self._read.pop(folder, None)
                return {}
            whole = data[: data.rfind(b"\n") + 1]
            for line in whole.splitlines():
                with suppress(ValueError, TypeError):  # torn when the power went: then it lists nothing
                    name, digest = json.loads(line)
                    digests.setdefault(name, set()).add(digest)
            self._read[folder] = (inode, start + len(whole), digests)
            return digests


_TABLES = _Tables()


def _open_table(folder: Path, flags: int) -> IO[bytes]:
    # Never through a link, which could lead to anybody's file.
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    mode = "ab" if flags & os.O_APPEND else "rb"
    return open(folder / WRITTEN, mode, opener=lambda name, _: os.open(name, flags, 0o666))


def _record(path: Path, digest: str) -> None:
    folder, name = _place(path)
    if digest in _TABLES.of(folder).get(name, ()):
        return
    with _open_table(folder, os.O_RDWR | os.O_CREAT | os.O_APPEND) as file:
        end = os.fstat(file.fileno()).st_size
        torn = end > 0 and os.pread(file.fileno(), 1, end - 1) != b"\n"
        file.write(b"\n" * torn + json.dumps([name, digest]).encode() + b"\n")


@contextmanager
def only_one(path: Path) -> Iterator[bool]:
    """Hold the lock file ``path`` in the block; yields whether it was free. It is let go however the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            if not _is_at(file, path):  # its last holder removed it: a third could hold a new one
                continue
            yield True
            return


def _is_at(file: IO[Any], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def sole_owner(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file ``path``, which stays, in the block; ``what`` is done: ``dataset 'pets' is being built``.

    Raises:
        BusyError: If another process, or another thread of this one, holds it.
    """
    with only_one(path) as free:
        if not free:
            raise BusyError(f"{what} by another process ({path}). Wait for it to end.")
        yield


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Fill a folder that a user named as the only process; nothing is left of it if the block wrote nothing.

    Raises:
        BusyError: If another process fills the folder.
        OutputError: If the folder cannot be written.
    """
    _check_place(folder / WRITTEN)
    lock = folder / WRITTEN
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    if lock.is_symlink():
        raise OutputError(f"{lock}: is a link, and is left alone. Name another place for the result.")
    with sole_owner(lock, f"the folder {folder} is being filled"):
        place = folder.resolve()
        _FILLED.append(place)
        try:
            yield
        finally:
            _FILLED.remove(place)
            if not lock.stat().st_size:
                lock.unlink()
                for place in made:
                    with suppress(OSError):
                        place.rmdir()
