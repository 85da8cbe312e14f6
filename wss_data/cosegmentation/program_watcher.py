"""Ends all that a program has started, when it is over or whoever ran it is gone. ``program.py`` runs it as a script.

Nothing but the standard library is imported, and nothing of this package: the interpreter runs it isolated, in a few
hundredths of a second.

Its standard input is a pipe that only the process to watch holds: closed when the program is over, or by the operating
system when that process ends, however it ends. A ``finally`` would not run after SIGTERM or SIGKILL.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

MARK = "WSS_OUTSIDE_PROGRAM"
"""Variable in the environment of the program, inherited by what it starts, whatever group or session that is in."""

_ROUNDS = 200
_PAUSE_S = 0.01


def marked(token: str) -> list[int]:
    """Process ids of the running processes whose environment holds ``token``; none where there is no ``/proc``."""
    wanted = f"{MARK}={token}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        # Of other users' processes, and of those that end meanwhile, nothing can be read.
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def kill_marked(token: str) -> None:
    """Kill what carries ``token``, again and again until nothing does: the dying may still start others."""
    for _ in range(_ROUNDS):
        found = marked(token)
        if not found:
            return
        for process in found:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(_PAUSE_S)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    kill_marked(sys.argv[1])
