"""A large file of a service: downloaded once and kept; a download that breaks off goes on where it was."""

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from wss_data.errors import SourceUnavailable
from wss_data.retrieval.clock import Clock
from wss_data.retrieval.headers import user_agent
from wss_data.runtime.files import only_one, write_text

LOGGER = logging.getLogger(__name__)

PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before the second, third, ... attempt in a row that brings nothing
TIMEOUT = (5.0, 30.0)  # seconds to connect, and to wait for each read
LARGEST = 16 << 30  # bytes; more is no list
CHUNK = 1 << 16  # bytes that are written at a time; so many may come again after a break
_WORTH_A_WORD = 20 << 20  # bytes from which on a download is announced, for it takes a while


def large_file(url: str, path: Path, service: str, clock: Clock = time) -> Path:
    """The file at an address, kept at ``path``: asked for only if it is not there. Memory holds a chunk of it.

    A download that broke off, or was killed, goes on where it was if the server still has the same file.

    Raises:
        SourceUnavailable: If it is refused, no answer comes, or another process downloads it now.
        OSError: If the disk is full; what came until then is kept.
    """
    with only_one(path.with_name(f"{path.name}.lock")) as free:
        if path.is_file():
            return path
        if not free:
            said = f"another process downloads {path.name} now. Start the same command again when that has ended."
            raise SourceUnavailable(f"{service}: {said}")
        part = path.with_name(f"{path.name}.part")
        in_vain = 0
        while True:
            before = _size(part)
            if not (problem := _go_on(url, part, service)):
                break
            in_vain = 1 if _size(part) > before else in_vain + 1
            if in_vain > len(PAUSES):
                place = f"{urlsplit(url).hostname}{urlsplit(url).path}"
                said = f"{place} did not come whole ({problem}). Start the same command again later: it goes on there."
                raise SourceUnavailable(f"{service}: {said}")
            clock.sleep(PAUSES[in_vain - 1])
        part.replace(path)
        _tag_of(part).unlink(missing_ok=True)
    return path


def _go_on(url: str, part: Path, service: str) -> str:
    """Download what is missing of a file; returns what went wrong, nothing if it is whole."""
    import requests

    start, tag = _size(part), ""
    with suppress(OSError):
        tag = _tag_of(part).read_text(encoding="utf-8")
    # Compressed on the way, no place in the file could be named.
    headers = {"User-Agent": user_agent(), "Accept-Encoding": "identity"}
    if start and tag:
        headers |= {"Range": f"bytes={start}-", "If-Range": tag}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT, allow_redirects=False) as answer:
            status, length = answer.status_code, int(answer.headers.get("Content-Length") or -1)
            said = answer.headers.get("Content-Range", "")
            if status == 416 and said == f"bytes */{start}":
                return ""  # it was killed between the last byte and its name
            if status not in (200, 206) and (status < 500 and status not in (416, 429)):
                place = f"{urlsplit(url).hostname}{urlsplit(url).path}"
                raise SourceUnavailable(f"{service}: {place} was refused (HTTP {status}).")
            if status == 206 and not said.startswith(f"bytes {start}-"):
                status = 0
            if status not in (200, 206):
                part.unlink(missing_ok=True)  # it does not fit what the server has
                return f"HTTP {answer.status_code}"
            if status == 200:
                start = 0
                part.parent.mkdir(parents=True, exist_ok=True)
                part.write_bytes(b"")  # before the new tag, which must not stand beside bytes of an older file
                write_text(_tag_of(part), _tag(answer.headers))
                if length > _WORTH_A_WORD:
                    LOGGER.warning("%s: %s is downloaded once (%d MB).", service, part.stem, length // 1_000_000)
            with part.open("ab") as file:
                for chunk in answer.iter_content(CHUNK):
                    file.write(chunk)
                    if file.tell() > LARGEST:
                        raise SourceUnavailable(f"{service}: {part.stem} has more than {LARGEST >> 30} GiB.")
    except requests.RequestException as error:
        return type(error).__name__
    return "" if length < 0 or _size(part) == start + length else "it ended early"


def _tag(headers: Mapping[str, str]) -> str:
    """What names this version of a file, for ``If-Range``; empty if nothing does."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def _tag_of(part: Path) -> Path:
    return part.with_suffix(".tag")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
