"""CPU time of downloading images and shrinking them: ours, img2dataset, requests + Pillow, on the same images.

    python tests/benchmarks/download_speed.py --img2dataset-python /path/to/venv/bin/python

A local server sends the images; its own CPU time is not counted. The contenders take
turns, the order rotates from round to round, and each ratio is taken within one round:
what else happens on the machine then meets them alike. CPU time is counted, not wall
time, so a busy machine may run this, though a quiet one gives steadier figures.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from image_server import draw_picture, image_server
from measure import Run, own_environment, run

CONNECTIONS = 16
SIDE = 340
QUALITY = 95
FEW = 16
"""Images of the short run whose cost stands for the start-up."""

CHECKED = 8
"""How many images of each contender are compared with the plainly shrunk original."""

MOST_OFF = 6.0
"""Largest mean difference accepted, in grey levels (0 to 255): filters differ, a wrong image is some 60 off."""

PROGRAMS = Path(__file__).resolve().parent / "programs"


@dataclass(frozen=True)
class Contender:
    """One program.

    Args:
        name: Its name in the table.
        command: Makes the command from the file of addresses, the folder for results and the server's address.
        find: Finds the file made of image ``n``, given the folder, ``n`` and the sha256 of the image's bytes.
        environment: Variables set for it.
    """

    name: str
    command: Callable[[Path, Path, str], Sequence[str | Path]]
    find: Callable[[Path, int, str], Path]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """The long and the short run of one contender in one round.

    Args:
        all: The run over all images.
        few: The run over ``FEW`` images.
        count: How many images ``all`` had.
    """

    all: Run
    few: Run
    count: int

    @property
    def whole_ms(self) -> float:
        """CPU milliseconds an image, start-up included."""
        return 1e3 * self.all.cpu_s / self.count

    @property
    def running_ms(self) -> float:
        """CPU milliseconds for one image more: the start-up, which both runs have, cancels out."""
        return 1e3 * (self.all.cpu_s - self.few.cpu_s) / (self.count - FEW)


def ours() -> Contender:
    """wss_data's retrieval with the checks that are on by default."""
    return Contender(
        "wss (all checks on)",
        lambda urls, out, server: [
            *(sys.executable, PROGRAMS / "ours.py", urls, out, "--connections", str(CONNECTIONS)),
            *("--side", str(SIDE), "--allow-host", server.removeprefix("http://")),
        ],
        lambda out, n, sha256: out / "images" / "thing" / f"{sha256[:20]}.jpg",
        own_environment(),
    )


def requests_and_pillow(draft: bool = False) -> Contender:
    """The usual loop, one session a thread; with ``draft`` in the order that lets Pillow shrink while decoding."""
    return Contender(
        "requests + Pillow, draft mode" if draft else "requests + Pillow",
        lambda urls, out, server: [
            *(sys.executable, PROGRAMS / "requests_pillow.py", urls, out, "--threads", str(CONNECTIONS)),
            *("--side", str(SIDE), "--quality", str(QUALITY), *(["--draft"] if draft else [])),
        ],
        lambda out, n, sha256: out / f"{n:06d}.jpg",
    )


def img2dataset(python: Path, processes: int) -> Contender:
    """img2dataset from an environment of its own; sha256 as ours computes it, EXIF extraction off as ours has none."""
    return Contender(
        f"img2dataset, {processes} process{'es' if processes > 1 else ''}",
        lambda urls, out, server: [
            *(python, "-c", "from img2dataset import main; main()", "--url_list", urls, "--output_folder", out),
            *("--image_size", str(SIDE), "--resize_mode", "keep_ratio_largest", "--resize_only_if_bigger", "True"),
            *("--encode_quality", str(QUALITY), "--thread_count", str(CONNECTIONS // processes)),
            *("--processes_count", str(processes), "--output_format", "files", "--extract_exif", "False"),
            *("--number_sample_per_shard", str(_lines(urls) // processes)),
        ],
        lambda out, n, sha256: _img2dataset_files(out)[n],
        # Without it, it asks the internet for a newer version of a library at every start.
        {"NO_ALBUMENTATIONS_UPDATE": "1"},
    )


def _lines(urls: Path) -> int:
    return len(urls.read_text().split())


def _img2dataset_files(out: Path) -> list[Path]:
    """Its images in the order of the addresses: shards and keys are numbered in that order."""
    return sorted(out.glob("*/*.jpg"))


def play(contenders: Sequence[Contender], count: int, rounds: int, folder: Path) -> dict[str, list[Turn]]:
    """Let every contender download all images and a few, once a round, and check what it made.

    Args:
        contenders: Who takes part; the order rotates from round to round.
        count: How many images there are.
        rounds: How many rounds.
        folder: Empty folder for what they write.

    Returns:
        Name of each contender -> its turns, one a round.

    Raises:
        RuntimeError: If one failed, or its files are not the images at 340 px.
    """
    turns: dict[str, list[Turn]] = {contender.name: [] for contender in contenders}
    with image_server(count) as server:
        with urllib.request.urlopen(f"{server}/digests") as answer:
            digests: list[str] = json.load(answer)
        for number in range(rounds):
            shift = number % len(contenders)
            for place, contender in enumerate([*contenders[shift:], *contenders[:shift]]):
                runs = []
                for pictures in (count, FEW):
                    here = folder / f"{number}-{place}-{pictures}"
                    here.mkdir()
                    runs.append(_download(contender, server, digests[:pictures], here))
                turns[contender.name].append(Turn(runs[0], runs[1], count))
    return turns


def _download(contender: Contender, server: str, digests: list[str], folder: Path) -> Run:
    urls, out, log = folder / "urls.txt", folder / "out", folder / "log.txt"
    urls.write_text("".join(f"{server}/picture/{n}.jpg\n" for n in range(len(digests))))
    cost = run(contender.command(urls, out, server), log, 300, contender.environment)
    if cost.status != 0:
        ending = log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{contender.name}: ended with status {cost.status}; its last words:\n{ending}")
    _check(contender, out, digests)
    return cost


def _check(contender: Contender, out: Path, digests: list[str]) -> None:
    """Raise unless there is one file an image, each 340 px long, the compared ones showing the right image."""
    found = [path for path in out.rglob("*.jpg") if path.is_file()]
    if len(found) != len(digests):
        raise RuntimeError(f"{contender.name}: {len(found)} files were made of {len(digests)} pictures")
    for path in found:
        height, width = _pixels(path.read_bytes()).shape[:2]
        if max(height, width) != SIDE:
            raise RuntimeError(f"{contender.name}: {path.name} is {width}x{height}, {SIDE} px is wanted")
    for n in range(0, len(digests), max(1, len(digests) // CHECKED)):
        original = draw_picture(n)
        if hashlib.sha256(original).hexdigest() != digests[n]:
            raise RuntimeError(f"picture {n} is not drawn alike in two processes; the comparison would mean nothing")
        made = _pixels(contender.find(out, n, digests[n]).read_bytes())
        wanted = cv2.resize(_pixels(original), (made.shape[1], made.shape[0]), interpolation=cv2.INTER_AREA)
        off = float(np.abs(made.astype(int) - wanted.astype(int)).mean())
        if off > MOST_OFF:
            raise RuntimeError(f"{contender.name}: picture {n} is {off:.1f} grey levels off, up to {MOST_OFF} is fine")


def _pixels(data: bytes) -> np.ndarray:
    """The pixels of an encoded image. Shape (H, W, 3), uint8, BGR."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise RuntimeError(f"a file of {len(data)} bytes that was made of a picture cannot be decoded")
    return image


def ratio(turns: Mapping[str, list[Turn]], name: str, base: str, cost: Callable[[Turn], float]) -> float:
    """How many times the cost of ``base`` the contender ``name`` has: median of the ratios within each round."""
    return statistics.median(cost(a) / cost(b) for a, b in zip(turns[name], turns[base], strict=True))


def table(turns: Mapping[str, list[Turn]], base: str) -> str:
    """The figures as a Markdown table, medians over the rounds; ``base`` is the contender that the others relate to."""
    rows = [
        "| program | CPU ms a picture, start-up apart | times ours | start-up, CPU s | CPU ms a picture, all in"
        " | times ours | peak memory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, own in turns.items():
        running, whole = (lambda turn: turn.running_ms), (lambda turn: turn.whole_ms)
        start = statistics.median(turn.few.cpu_s - FEW * turn.running_ms / 1e3 for turn in own)
        rows.append(
            f"| {name} | {statistics.median(map(running, own)):.2f} | {ratio(turns, name, base, running):.2f} "
            f"| {start:.1f} | {statistics.median(map(whole, own)):.2f} | {ratio(turns, name, base, whole):.2f} "
            f"| {statistics.median(turn.all.peak_mb for turn in own):.0f} |"
        )
    return "\n".join(rows)


def _version(python: Path) -> str:
    code = "from importlib.metadata import version; print(version('img2dataset'))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Play, then print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=600, help="how many pictures (default: 600)")
    parser.add_argument("--rounds", type=int, default=3, help="how many rounds (default: 3)")
    parser.add_argument("--img2dataset-python", type=Path, help="interpreter of an environment with img2dataset 1.47")
    options = parser.parse_args()
    if options.count <= FEW:
        parser.error(f"--count is {options.count}; more than {FEW} pictures are needed to tell the start-up apart")

    contenders = [ours(), requests_and_pillow(), requests_and_pillow(draft=True)]
    if options.img2dataset_python is None:
        print("img2dataset is left out: give its environment with --img2dataset-python.", file=sys.stderr)
    else:
        print("img2dataset", _version(options.img2dataset_python))
        contenders += [img2dataset(options.img2dataset_python, processes) for processes in (1, 2)]
    with tempfile.TemporaryDirectory(prefix="download-speed-") as folder:
        turns = play(contenders, options.count, options.rounds, Path(folder))
    print(f"{options.count} pictures of 1,024 px to {SIDE} px, {CONNECTIONS} connections, {options.rounds} rounds")
    print(table(turns, contenders[0].name))


if __name__ == "__main__":
    main()
