"""Runs a program, and ends all that it has started when it is over or whoever asked for it is gone. A script.

Its standard input is a pipe that only the process that asked holds: the operating system closes it when that process
ends, however it ends. Nothing of this package is imported: it starts in a few hundredths of a second.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
CANNOT_BE_STARTED = 126  # exit status, as a shell's


def main(command: list[str]) -> int:
    """Run the command; returns its exit status, negative the signal that ended it."""
    # As a subreaper it becomes the parent of whatever the program leaves running, in whatever group or session that is.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    leaders: list[int] = []

    def to_program(number: int, _: object = None) -> None:
        for leader in leaders:
            with contextlib.suppress(OSError):
                os.killpg(leader, number)

    # SIGTERM is for the program. A handler is not handed on to it, as SIG_IGN would be.
    signal.signal(signal.SIGTERM, to_program)
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    except OSError as error:
        print(f"{command[0]} cannot be started: {error.strerror}", flush=True)
        return CANNOT_BE_STARTED
    leaders.append(process.pid)
    poll = select.poll()
    # Not PR_SET_PDEATHSIG, which looks at a thread; and no `finally` of the process that asked runs after SIGKILL.
    poll.register(sys.stdin.fileno(), select.POLLIN)
    poll.register(os.pidfd_open(process.pid), select.POLLIN)
    poll.poll()
    to_program(signal.SIGKILL)
    leaders.clear()  # once it is reaped, somebody else may have its number
    status = process.wait()
    kill_children()
    return status


def kill_children() -> None:
    """Kill every child until there is none: the children of the dead become ours, and the dying may start others."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")  # this process has one thread
    with contextlib.suppress(FileNotFoundError):  # a kernel without this list: what left the group stays
        while found := children.read_text().split():
            for child in found:
                os.kill(int(child), signal.SIGKILL)  # not reaped yet, so nobody else has its number
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, 0)


if __name__ == "__main__":
    ended = main(sys.argv[1:])
    if ended < 0:  # end as it did, so that the same is seen of us
        signal.signal(-ended, signal.SIG_DFL) if -ended not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -ended)
    sys.exit(ended)
