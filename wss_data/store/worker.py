"""Processes beside an open view that end with it; one of them runs the operators that are sent to the background.

FiftyOne only puts such an operator into a queue in the database. ``wss-data view`` starts this module as a process of
its own, so that a long co-segmentation neither stops the App nor needs a second command.
"""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from wss_data.store.connection import fiftyone

LOGGER = logging.getLogger(__name__)

_POLL_SECONDS = 0.5  # between two looks into an empty queue
_STOP_SECONDS = 10.0  # a process ends at once, unless it is still marking an operator as failed in the database
_AGAIN_SECONDS = 10.0  # after an error of the database, which may be away for a while


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
        # It finds our packages where this process did, a checkout that is not installed included.
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


@contextmanager
def background_worker() -> Iterator[subprocess.Popen[bytes]]:
    """Run background operators while the block runs; yields the worker's process."""
    # FiftyOne's App offers background operators without its paid service only with this switch.
    fiftyone().config.allow_legacy_orchestrators = True
    os.environ["FIFTYONE_ALLOW_LEGACY_ORCHESTRATORS"] = "true"  # for the App's server, which is started later
    with companion("from wss_data.store.worker import main; main()") as worker:
        yield worker


def shown_failure(error: str) -> str:
    r"""What the App shows of an operator that failed, of its traceback: the sentence of an error of ours, else all.

    >>> shown_failure("Traceback (most recent call last):\n  ...\nwss_data.errors.StoreError: there is no 'x'.")
    "there is no 'x'."
    """
    last = error.strip().splitlines()[-1] if error.strip() else ""
    name, found, sentence = last.partition(": ")
    return sentence if found and name.startswith("wss_data.errors.") else error


def main() -> None:
    """Work until the view ends; then end at once, and mark an operator that was running as failed."""
    running: list[Any] = []

    def mark() -> None:
        if running:
            error = "the view that ran it ended. Open the view again and run it again."
            service.set_failed(doc_id=running[0], result=ExecutionResult(error=error))

    end_with_parent(mark)
    fiftyone()  # connects first: what follows imports FiftyOne
    from fiftyone.operators.delegated import DelegatedOperationService
    from fiftyone.operators.executor import ExecutionResult, ExecutionRunState

    service = DelegatedOperationService()
    while True:
        try:
            queued = service.list_operations(run_state=ExecutionRunState.QUEUED)
            if not queued:
                time.sleep(_POLL_SECONDS)
                continue
            running[:] = [queued[0].id]
            # Another view's worker may be faster: then nothing is run, and nothing is returned.
            result = service.execute_operation(queued[0])
            running.clear()
            if result is not None and result.error and shown_failure(result.error) != result.error:
                result.error = shown_failure(result.error)
                service.set_failed(doc_id=queued[0].id, result=result)
        except Exception as error:  # whatever it is, the next operator is run
            LOGGER.warning("background operators: %s", " ".join(str(error).split()))
            time.sleep(_AGAIN_SECONDS)
