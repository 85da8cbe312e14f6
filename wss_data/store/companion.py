"""A process beside an open view, which ends with it: the App's server, and the worker for background operators."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO

_STOP_SECONDS = 10.0  # a companion ends at once, unless it is still marking an operator as failed in the database


@contextmanager
def companion(
    code: str, *arguments: str, inherited: Sequence[int] = (), errors: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run Python ``code`` in a process of its own while the block runs; yields the process.

    It has to call ``end_with_parent``. ``arguments`` are its ``sys.argv[1:]``; it shares the file descriptors
    ``inherited``, and its standard error goes to ``errors``, by default where this process's goes.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,  # its other end is closed however this process ends
        stdout=subprocess.DEVNULL,
        stderr=errors,
        pass_fds=inherited,
        # Ctrl-C in a terminal is meant for the view, whose end the process notices.
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end_with_parent(before: Callable[[], None] = lambda: None) -> None:
    """In a companion: when the parent ends, call ``before`` and end at once, whatever the main thread is doing."""

    def watch() -> None:
        try:
            sys.stdin.buffer.read()
            before()
        finally:
            os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
