"""What four downloaders make of a hostile internet, case by case, as a Markdown table.

    python tests/benchmarks/fault_matrix.py --icrawler-python PYTHON --img2dataset-python PYTHON --gallery-dl PROGRAM

Every program runs in an environment of its own; one that is not given is left out. The
cases are those of ``tests/fault_server.py``. Every run gets a fresh server. Cases that
cannot disturb each other share a run; those that can have one each. With each run goes
a good image from an innocent server, which must arrive whatever the others do.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fault_tools import GalleryDl, Icrawler, Img2dataset, Ours, Tool, Workplace
from measure import Run, run
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import fault_images
from fault_server import CASES, Case, FaultServer

LIMIT_S = 45
MEMORY_MB = 1500
"""A run over this is killed, before the machine suffers."""

FILE_MB = 500
"""Nobody can write a larger file."""

EXTRA_MEMORY_MB = 200
EXTRA_DISK_MB = 50
"""More than this for one hostile address counts as not survived."""

ALONE = re.compile("hang|drip|slowly|endless|claims|gzip|429|503_seconds")
"""Cases that keep a program waiting or fill its memory have a run each.

The others of a group share one; if that does not end well, each of them is run again by itself.
"""

HEAVY = re.compile("endless|claims|gzip")
"""Those of them that may fill the memory; at most ``HEAVY_AT_ONCE`` such runs go at the same time."""

HEAVY_AT_ONCE = 2

LEFT_OUT = frozenset(
    # These would send other people's programs to real addresses of the network that this runs in.
    {"redirect_to_metadata", "redirect_to_private", "redirect_https_to_private"}
    # These call this project by its name, which nobody else need heed.
    | {"robots_for_us", "tag_for_us"}
    # These tell well-made readers of robots.txt from others; who does not read it would fail or pass by chance.
    | {"robots_503_always", "robots_503_once"}
)
"""Cases that would be no fair comparison."""

COMPANION = "good_jpeg"
COMPANION_NUMBER = 7
"""The good image that goes with every run."""


@dataclass(frozen=True)
class Outcome:
    """What one program made of one case.

    Args:
        case: The case.
        kept: Whether a file of it was kept.
        right: Whether that file shows the image that the server drew.
        requests: Requests for it, redirects included, robots.txt not.
        gap_s: Seconds between its first request and its second; infinite if there was none.
        canary_hits: Connections to the address that nobody may connect to, in the whole run.
        companion: Whether the good image beside it arrived.
        disk_mb: What the run left on disk.
        cost: What the run cost.
    """

    case: Case
    kept: bool
    right: bool
    requests: int
    gap_s: float
    canary_hits: int
    companion: bool
    disk_mb: float
    cost: Run

    @property
    def ended_well(self) -> bool:
        """Whether the program came to an end by itself, not killed for a limit nor by a signal."""
        return self.cost.status is not None and self.cost.status >= 0


def try_cases(tool: Tool, cases: Sequence[Case], folder: Path) -> list[Outcome]:
    """Let one program download one image of each case and the good one, in one run.

    Args:
        tool: The program.
        cases: The cases.
        folder: New folder for the run.
    """
    folder.mkdir()
    place = Workplace(folder)
    with FaultServer() as server:
        companion = server.url(COMPANION, COMPANION_NUMBER)
        urls = {case.name: server.url(case.name) for case in cases}
        place.urls.write_text("".join(f"{url}\n" for url in [*urls.values(), companion]))
        command = tool.command(place, server.hosts)
        asked = [*urls, COMPANION]
        cost = run(
            command,
            place.log,
            LIMIT_S,
            tool.environment,
            memory_mb=MEMORY_MB,
            file_mb=FILE_MB,
            at_work=lambda: any(server.requests(name) or server.robots_requests(name) for name in asked),
        )
        kept = tool.kept(place)
        arrived = companion in kept and _shows(kept[companion], f"{COMPANION}/{COMPANION_NUMBER}")
        disk = sum(path.stat().st_size for path in place.out.rglob("*") if path.is_file()) / 1e6
        outcomes = []
        for case in cases:
            file = kept.get(urls[case.name])
            times = server.times(case.name)
            outcomes.append(
                Outcome(
                    case=case,
                    kept=file is not None,
                    right=file is not None and _shows(file, f"{case.name}/0"),
                    requests=server.requests(case.name, 0),
                    gap_s=times[1] - times[0] if len(times) > 1 else float("inf"),
                    canary_hits=server.canary_hits,
                    companion=arrived,
                    disk_mb=disk,
                    cost=cost,
                )
            )
    return outcomes


def _shows(path: Path, name: str) -> bool:
    """Whether the file is a whole image that shows the drawing called ``name``, at whatever size."""
    try:
        with Image.open(path) as image:
            small = np.asarray(image.convert("RGB").resize((40, 30), Image.Resampling.BOX), dtype=float)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    drawn = fault_images.drawing(name).resize((40, 30), Image.Resampling.BOX)
    return float(np.abs(small - np.asarray(drawn, dtype=float)).mean()) < 10


def play(tools: Sequence[Tool], cases: Sequence[Case], folder: Path, at_once: int) -> dict[str, list[Outcome]]:
    """Try all cases with all programs.

    Args:
        tools: The programs.
        cases: The cases.
        folder: Folder for the runs' files.
        at_once: Runs at the same time; most of them only wait.

    Returns:
        Name of each program -> one outcome a case, in the order of the cases.
    """
    alone = [[case] for case in cases if ALONE.search(case.name)]
    shared: dict[str, list[Case]] = {}
    for case in cases:
        if not ALONE.search(case.name):
            shared.setdefault(case.group, []).append(case)
    # Those who wait longest start first, so that none of them is left over at the end.
    outcomes = _play([(tool, part) for part in [*alone, *shared.values()] for tool in tools], folder / "1", at_once)
    again: list[tuple[Tool, list[Case]]] = []
    for tool in tools:
        own = outcomes[tool.name]
        usual = _usual_mb(list(own.values()))
        unclear = [o.case for o in own.values() if not ALONE.search(o.case.name) and not _was_calm(o, usual)]
        again += [(tool, [case]) for case in unclear]
    for name, second in _play(again, folder / "2", at_once).items():
        outcomes[name] |= second
    return {name: [own[case.name] for case in cases] for name, own in outcomes.items()}


def _play(runs: Sequence[tuple[Tool, list[Case]]], folder: Path, at_once: int) -> dict[str, dict[str, Outcome]]:
    """Name of each program -> name of each case -> its outcome."""
    folder.mkdir()
    outcomes: dict[str, dict[str, Outcome]] = {}
    with ThreadPoolExecutor(HEAVY_AT_ONCE) as heavy, ThreadPoolExecutor(max(1, at_once - HEAVY_AT_ONCE)) as light:
        waiting = [
            (tool, (heavy if HEAVY.search(part[0].name) else light).submit(try_cases, tool, part, folder / str(number)))
            for number, (tool, part) in enumerate(runs)
        ]
        for tool, future in waiting:
            outcomes.setdefault(tool.name, {}).update({outcome.case.name: outcome for outcome in future.result()})
    return outcomes


@dataclass(frozen=True)
class Row:
    """One row of the table: in how many of some cases a program does as it should.

    Args:
        title: What is good here.
        concerns: Picks the cases.
        passes: Judges an outcome; the second argument is the memory in MB that the program takes for good images.
    """

    title: str
    concerns: Callable[[Case], bool]
    passes: Callable[[Outcome, float], bool]


def _was_calm(outcome: Outcome, usual_mb: float) -> bool:
    """Whether the run came to its end, brought the good image, and took little memory and disk."""
    modest = outcome.cost.peak_mb <= usual_mb + EXTRA_MEMORY_MB and outcome.disk_mb <= EXTRA_DISK_MB
    return outcome.ended_well and outcome.companion and modest


def _survived(outcome: Outcome, usual_mb: float) -> bool:
    # A program that gets a whole image where ours would rather not look has done nothing wrong.
    harmless = outcome.right or (not outcome.kept and outcome.case.expected != "stored")
    return _was_calm(outcome, usual_mb) and harmless


def _is_opt_out(case: Case) -> bool:
    return case.group == "opt-out" and case.expected == "dropped"


ROWS = (
    Row("good pictures kept", lambda case: case.group == "good", lambda o, _: o.kept),
    Row("bad bodies rejected", lambda case: case.group == "bad body", lambda o, _: not o.kept or o.right),
    Row("placeholders recognised", lambda case: case.group == "placeholder", lambda o, _: not o.kept),
    Row(
        "transient faults recovered",
        lambda case: case.group in ("transient", "retry after") and case.expected == "stored",
        lambda o, _: o.right,
    ),
    Row(
        "lasting faults given up after 3 tries",
        lambda case: case.group in ("transient", "retry after") and case.expected == "failed",
        lambda o, _: o.ended_well and not o.kept and o.requests <= o.case.requests_at_most,
    ),
    Row("`Retry-After` honoured", lambda case: case.wait_s > 0, lambda o, _: o.right and o.gap_s >= o.case.wait_s),
    Row("permanent error = one request", lambda case: case.group == "permanent", lambda o, _: o.requests == 1),
    Row("opt-outs respected", _is_opt_out, lambda o, _: not o.kept),
    Row("asked once at most behind an opt-out", _is_opt_out, lambda o, _: o.requests <= o.case.requests_at_most),
    Row(
        "no opt-out read where there is none",
        lambda case: case.group == "opt-out" and case.expected == "stored",
        lambda o, _: o.kept,
    ),
    Row("hostile servers survived", lambda case: case.group == "hostile", _survived),
)


def table(results: dict[str, list[Outcome]]) -> str:
    """The Markdown table: a row a group, a column a program. ``results``: name and version -> outcomes."""
    lines = ["| what is good | cases | " + " | ".join(results) + " |", "|---|---|" + "---|" * len(results)]
    for row in ROWS:
        counts, total = [], 0
        for outcomes in results.values():
            usual = _usual_mb(outcomes)
            judged = [row.passes(outcome, usual) for outcome in outcomes if row.concerns(outcome.case)]
            counts.append(str(sum(judged)))
            total = len(judged)
        lines.append(f"| {row.title} | {total} | " + " | ".join(counts) + " |")

    def figures(title: str, figure: Callable[[list[Outcome]], str]) -> None:
        lines.append(f"| {title} | | " + " | ".join(figure(outcomes) for outcomes in results.values()) + " |")

    figures("redirect into a private network followed", lambda os: "yes" if any(o.canary_hits for o in os) else "no")
    figures("good pictures lost beside a fault, runs", lambda os: f"{_runs(os, lambda o: not o.companion)}")
    figures(
        f"killed at {LIMIT_S} s or {MEMORY_MB:,} MB, runs",
        lambda os: f"{_runs(os, lambda o: o.cost.status is None)}",
    )
    figures("longest run, s", lambda os: f"{max(o.cost.wall_s for o in os):.0f}")
    figures("memory for good pictures, MB", lambda os: f"{_usual_mb(os):.0f}")
    figures("peak memory of all runs, MB", lambda os: f"{max(o.cost.peak_mb for o in os):.0f}")
    figures("most left on disk by one run, MB", lambda os: f"{max(o.disk_mb for o in os):.1f}")
    return "\n".join(lines)


def _usual_mb(outcomes: Sequence[Outcome]) -> float:
    return max(outcome.cost.peak_mb for outcome in outcomes if outcome.case.group == "good")


def _runs(outcomes: Sequence[Outcome], chosen: Callable[[Outcome], bool]) -> int:
    """Number of different runs among the outcomes chosen."""
    return len({id(outcome.cost) for outcome in outcomes if chosen(outcome)})


def misses(results: dict[str, list[Outcome]]) -> str:
    """For each row and program the cases that were not as they should be, as a Markdown list."""
    lines = []
    for row in ROWS:
        for name, outcomes in results.items():
            usual = _usual_mb(outcomes)
            wrong = [o for o in outcomes if row.concerns(o.case) and not row.passes(o, usual)]
            if wrong:
                lines.append(f"- {row.title}, {name}: " + ", ".join(_told(outcome) for outcome in wrong))
    return "\n".join(lines)


def _told(outcome: Outcome) -> str:
    end = outcome.cost.over or ("" if outcome.ended_well else f"signal {-(outcome.cost.status or 0)}")
    kept = ("kept" if outcome.right else "kept, wrong") if outcome.kept else "not kept"
    facts = [kept, f"{outcome.requests} requests", f"{outcome.cost.wall_s:.0f} s", f"{outcome.cost.peak_mb:.0f} MB"]
    if end:
        facts.append(f"killed: {end}")
    if not outcome.companion:
        facts.append("good one lost")
    return f"`{outcome.case.name}` ({', '.join(facts)})"


def main() -> None:
    """Run everything, print the table and, below it, what went wrong where."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--icrawler-python", type=Path, help="interpreter of an environment with icrawler 0.6.10")
    parser.add_argument("--img2dataset-python", type=Path, help="interpreter of an environment with img2dataset 1.47")
    parser.add_argument("--gallery-dl", type=Path, help="the gallery-dl program")
    parser.add_argument("--group", action="append", help="only the cases of this group (repeatable)")
    parser.add_argument("--case", action="append", help="only this case (repeatable)")
    parser.add_argument("--at-once", type=int, default=10, help="runs at the same time (default: 10)")
    parser.add_argument("--keep", type=Path, help="keep the files of all runs in this new folder")
    options = parser.parse_args()

    tools: list[Tool] = [Ours()]
    for given, name, make in (
        (options.icrawler_python, "icrawler", Icrawler),
        (options.gallery_dl, "gallery-dl", GalleryDl),
        (options.img2dataset_python, "img2dataset", Img2dataset),
    ):
        if given is None:
            print(f"{name} is left out: its environment was not given.", file=sys.stderr)
        else:
            tools.append(make(given))
    cases = [
        case
        for case in CASES.values()
        if case.name not in LEFT_OUT
        and (not options.group or case.group in options.group)
        and (not options.case or case.name in options.case)
    ]
    # The memory that a program takes for good images is what all its other runs are compared with.
    if not any(case.group == "good" for case in cases):
        cases.insert(0, CASES[COMPANION])

    with tempfile.TemporaryDirectory(prefix="fault-matrix-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        played = play(tools, cases, folder, options.at_once)
        results = {f"{tool.name} {tool.version()}": played[tool.name] for tool in tools}
    print(table(results))
    print("\n" + misses(results))


if __name__ == "__main__":
    main()
