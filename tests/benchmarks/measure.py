"""Run one program as a user would, and tell what it cost: CPU time, wall time, memory of its whole process tree."""

import ctypes
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLE_S = 0.1
"""Seconds between two looks at the memory of a process tree."""

GRACE_S = 3
"""Seconds that descendants may live on after the program."""

_PR_SET_CHILD_SUBREAPER = 36

# Processes whose parent has ended become children of this one, so that their CPU time is not lost (Linux).
ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)

START_S = 120
"""Seconds that a program may take until it is at work."""

STARTING = 2
_starting = threading.Semaphore(STARTING)

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Run:
    """What one run of a program cost.

    Args:
        status: Exit status; negative for a signal; ``None`` if it was killed for running over a limit.
        over: The limit that it ran over, ``time`` or ``memory``; empty if it kept to both.
        cpu_s: CPU time of the process and all its children, user and system, in seconds.
        wall_s: Seconds from start to end.
        peak_mb: Largest memory of the whole tree seen, in MB; pages that several processes share count once.
    """

    status: int | None
    over: str
    cpu_s: float
    wall_s: float
    peak_mb: float


def run(
    command: Sequence[str | Path],
    log: Path,
    seconds: float,
    environment: Mapping[str, str] | None = None,
    memory_mb: float = float("inf"),
    file_mb: int | None = None,
    at_work: Callable[[], bool] = lambda: True,
) -> Run:
    """Run a program to its end, or kill it and all that it started when it runs over a limit.

    Args:
        command: Program and arguments.
        log: File that takes what it prints.
        seconds: Longest time that it may run, counted from when it is at work.
        environment: Variables set for it, beside those of this process.
        memory_mb: Most memory that its tree may take; looked at every ``SAMPLE_S``.
        file_mb: Largest file that it can write (writing on fails as on a full disk); ``None`` for any size.
        at_work: Tells whether it has begun its work. Until then it may take ``START_S``, and only ``STARTING`` programs
            start at a time: what takes long to load on a busy machine is not cut short for that.

    Returns:
        What it cost. CPU time is what the operating system books to the process, to every child that it waited for,
        and to those that it left behind, which come to this process to be waited for.
    """
    with ExitStack() as starting, log.open("wb") as output:
        starting.enter_context(_starting)
        begun = time.monotonic()
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        if file_mb is not None:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (file_mb * 2**20, file_mb * 2**20))
        family: dict[int, psutil.Process] = {}
        peak, over, end = 0.0, "", None
        while True:
            if end is None and at_work():
                end = time.monotonic() + seconds
                starting.close()
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            peak = max(peak, _memory_mb(process.pid, family))
            if not over and (time.monotonic() > (end or begun + START_S) or peak > memory_mb):
                over = "memory" if peak > memory_mb else "time"
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(SAMPLE_S)
        wall = time.monotonic() - begun
    # Popen must not wait for what was waited for already.
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu = usage.ru_utime + usage.ru_stime + _collect_orphans(process.pid, family)
    return Run(None if over else process.returncode, over, cpu, wall, peak)


def _memory_mb(pid: int, family: dict[int, psutil.Process]) -> float:
    """Memory of a process and its descendants in MB; ``family`` collects the descendants by their id."""
    total = 0
    try:
        root = psutil.Process(pid)
        members = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0.0
    for member in members:
        try:
            # Proportional size counts a page that n processes share as 1/n for each. Not every system has it.
            memory = member.memory_full_info()
            total += getattr(memory, "pss", memory.rss)
        except psutil.Error:
            continue
        if member.pid != pid:
            family.setdefault(member.pid, member)
    return total / 1e6


def _collect_orphans(session: int, family: Mapping[int, psutil.Process]) -> float:
    """Wait for the descendants that outlived the program, kill those that stay; returns the CPU seconds they used.

    Args:
        session: Session that the program ran in.
        family: Descendants seen while it ran; they may have begun sessions of their own.
    """
    cpu, end = 0.0, time.monotonic() + GRACE_S
    while True:
        orphans = [child for child in psutil.Process().children() if _belongs(child.pid, session, family)]
        if not orphans:
            return cpu
        for orphan in orphans:
            if time.monotonic() > end:
                orphan.kill()
            pid, _, usage = os.wait4(orphan.pid, os.WNOHANG)
            if pid:
                cpu += usage.ru_utime + usage.ru_stime
        time.sleep(0.01)


def _belongs(pid: int, session: int, family: Mapping[int, psutil.Process]) -> bool:
    try:
        return pid in family or os.getsid(pid) == session
    except ProcessLookupError:
        return False


def own_environment() -> dict[str, str]:
    """Variables by which the interpreter finds this checkout's packages, installed or not."""
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
