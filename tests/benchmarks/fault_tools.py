"""The four programs of the fault matrix: how each is run over a list of addresses, and what it kept of each.

The others run as they come, as separate programs in environments of their own. Only
three settings are made equal, where a program has them: ten seconds of patience for a
read, three tries, eight connections.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from measure import own_environment

PATIENCE_S = 10
TRIES = 3
CONNECTIONS = 8
PROGRAMS = Path(__file__).resolve().parent / "programs"


@dataclass(frozen=True)
class Workplace:
    """The folder of one run.

    Args:
        folder: Empty at the start.
    """

    folder: Path

    @property
    def urls(self) -> Path:
        """File with one address a line."""
        return self.folder / "urls.txt"

    @property
    def out(self) -> Path:
        """Folder for what the program keeps."""
        return self.folder / "out"

    @property
    def notes(self) -> Path:
        """File in which the program, or its adapter, lists what it kept."""
        return self.folder / "kept.txt"

    @property
    def log(self) -> Path:
        """File with what the program printed."""
        return self.folder / "log.txt"


class Tool(Protocol):
    """One program of the matrix."""

    name: str
    environment: Mapping[str, str]

    def version(self) -> str:
        """Its version, asked of its own environment."""
        ...

    def command(self, place: Workplace, hosts: Sequence[str]) -> Sequence[str | Path]:
        """The command that downloads ``place.urls``; ``hosts`` (``host:port``) are the servers of the matrix."""
        ...

    def kept(self, place: Workplace) -> dict[str, Path]:
        """Address -> file that was kept of it."""
        ...


@dataclass
class Ours:
    """This project's retrieval, all checks on; the servers on loopback are excepted from the address rule."""

    name: str = "wss"
    environment: Mapping[str, str] = field(default_factory=own_environment)

    def version(self) -> str:
        code = "from wss_data import __version__; print(__version__)"
        return _answer(Path(sys.executable), code, self.environment)

    def command(self, place: Workplace, hosts: Sequence[str]) -> Sequence[str | Path]:
        allowed = [part for host in hosts for part in ("--allow-host", host)]
        return [
            *(sys.executable, PROGRAMS / "ours.py", place.urls, place.out, "--report", place.notes),
            *("--connections", str(CONNECTIONS), "--deadline", str(PATIENCE_S), *allowed),
        ]

    def kept(self, place: Workplace) -> dict[str, Path]:
        if not place.notes.exists():
            return {}
        report = json.loads(place.notes.read_text())
        images = place.out / "images" / "thing"
        return {url: images / f"{sha256[:20]}.jpg" for url, (status, _, sha256) in report.items() if status == "stored"}


@dataclass
class Icrawler:
    """icrawler's image downloader, fed by its own crawler for lists of addresses."""

    python: Path
    name: str = "icrawler"
    environment: Mapping[str, str] = field(default_factory=dict)

    def version(self) -> str:
        return _answer(self.python, "from importlib.metadata import version; print(version('icrawler'))")

    def command(self, place: Workplace, hosts: Sequence[str]) -> Sequence[str | Path]:
        program = PROGRAMS / "icrawler_urls.py"
        return [self.python, program, place.urls, place.out, place.notes, "--threads", str(CONNECTIONS)]

    def kept(self, place: Workplace) -> dict[str, Path]:
        return _listed(place)


@dataclass
class GalleryDl:
    """gallery-dl, given direct links; only ever run as a separate program (it is under the GPL)."""

    program: Path
    name: str = "gallery-dl"
    environment: Mapping[str, str] = field(default_factory=dict)

    def version(self) -> str:
        return subprocess.run([self.program, "--version"], check=True, capture_output=True, text=True).stdout.strip()

    def command(self, place: Workplace, hosts: Sequence[str]) -> Sequence[str | Path]:
        return [
            *(self.program, "--config-ignore", "--input-file", place.urls, "--destination", place.out),
            *("--http-timeout", str(PATIENCE_S), "--retries", str(TRIES - 1)),
            *("-o", "path-metadata=_path", "-o", "url-metadata=_url"),
            *("--Print-to-file", "after:{_url}\t{_path.realpath}", place.notes),
        ]

    def kept(self, place: Workplace) -> dict[str, Path]:
        return _listed(place)


@dataclass
class Img2dataset:
    """img2dataset, writing files."""

    python: Path
    name: str = "img2dataset"
    # Without it, it asks the internet for a newer version of a library at every start.
    environment: Mapping[str, str] = field(default_factory=lambda: {"NO_ALBUMENTATIONS_UPDATE": "1"})

    def version(self) -> str:
        return _answer(self.python, "from importlib.metadata import version; print(version('img2dataset'))")

    def command(self, place: Workplace, hosts: Sequence[str]) -> Sequence[str | Path]:
        return [
            *(self.python, "-c", "from img2dataset import main; main()"),
            *("--url_list", place.urls, "--output_folder", place.out, "--output_format", "files"),
            *("--image_size", "340", "--resize_mode", "keep_ratio_largest", "--resize_only_if_bigger", "True"),
            *("--timeout", str(PATIENCE_S), "--retries", str(TRIES - 1), "--thread_count", str(CONNECTIONS)),
        ]

    def kept(self, place: Workplace) -> dict[str, Path]:
        kept = {}
        for note in place.out.glob("*/*.json"):
            picture = note.with_suffix(".jpg")
            if picture.exists():
                kept[json.loads(note.read_text())["url"]] = picture
        return kept


def _answer(python: Path, code: str, environment: Mapping[str, str] | None = None) -> str:
    full = {**os.environ, **(environment or {})}
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True, env=full).stdout.strip()


def _listed(place: Workplace) -> dict[str, Path]:
    """What ``place.notes`` lists, a line each: the address, a tab, the file (relative to where the program ran)."""
    if not place.notes.exists():
        return {}
    pairs = (line.split("\t", 1) for line in place.notes.read_text().splitlines() if "\t" in line)
    return {url: Path(path) for url, path in pairs if Path(path).exists()}
