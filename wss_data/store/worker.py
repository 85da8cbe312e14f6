"""The background worker beside the App: it runs, one by one, the operators that are told to run in the background.

FiftyOne puts such an operator into a queue in the database and leaves it to somebody to run it. ``wss-data view``
starts this module as a process of its own, so that a long co-segmentation neither stops the App nor needs a second
command.

The worker ends with the view, also when the view is killed: it holds one end of a pipe, and whatever ends the view
closes the other.
"""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from wss_data.store.connection import fiftyone

LOGGER = logging.getLogger(__name__)

ALLOWED = "FIFTYONE_ALLOW_LEGACY_ORCHESTRATORS"
"""FiftyOne's switch for background operators without its paid service; its App offers none otherwise."""

_POLL_SECONDS = 0.5
_STOP_SECONDS = 10.0


@contextmanager
def background_worker() -> Iterator[subprocess.Popen[bytes]]:
    """Run background operators while the block runs.

    Yields:
        The worker's process.
    """
    fiftyone().config.allow_legacy_orchestrators = True
    os.environ[ALLOWED] = "true"  # for the App's server, which is started later
    # A session of its own: Ctrl-C in a terminal is meant for the view, whose end the worker notices.
    worker = subprocess.Popen(
        [sys.executable, "-c", "from wss_data.store.worker import main; main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    try:
        yield worker
    finally:
        assert worker.stdin is not None
        worker.stdin.close()
        try:
            worker.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def failure_told(error: str) -> str:
    """What the App shows of an operator that failed: the sentence of an error of ours, else the traceback as it is.

    Args:
        error: A traceback as text.
    """
    last = error.strip().splitlines()[-1] if error.strip() else ""
    name, found, sentence = last.partition(": ")
    return sentence if found and name.startswith("wss_data.errors.") else error


def work(service: Any, stopped: Callable[[], bool], running: dict[str, Any]) -> None:
    """Run queued operators one by one until told to stop.

    Args:
        service: FiftyOne's ``DelegatedOperationService``.
        stopped: Whether to stop; asked between two operators.
        running: Holds, while an operator runs, its id in the queue under ``id``.
    """
    from fiftyone.operators.executor import ExecutionRunState

    while not stopped():
        queued = service.list_operations(run_state=ExecutionRunState.QUEUED)
        if not queued:
            time.sleep(_POLL_SECONDS)
            continue
        operation = queued[0]
        running["id"] = operation.id
        # Another view's worker may be faster: then nothing is run, and nothing is returned.
        result = service.execute_operation(operation)
        running.clear()
        if result is not None and result.error and failure_told(result.error) != result.error:
            result.error = failure_told(result.error)
            service.set_failed(doc_id=operation.id, result=result)


def main(lifeline: IO[bytes] | None = None) -> None:
    """Work until ``lifeline`` (default: standard input) is closed at its other end; then end at once.

    An operator that runs at that moment is marked as failed: what it stored stays.
    """
    fiftyone()  # connects first: what follows imports FiftyOne
    from fiftyone.operators.delegated import DelegatedOperationService
    from fiftyone.operators.executor import ExecutionResult

    service = DelegatedOperationService()
    running: dict[str, Any] = {}
    source = lifeline or sys.stdin.buffer

    def watch() -> None:
        source.read()
        if "id" in running:
            error = "the view that ran it ended. Open the view again and run it again."
            service.set_failed(doc_id=running["id"], result=ExecutionResult(error=error))
        os._exit(0)  # whatever the main thread is doing

    threading.Thread(target=watch, daemon=True).start()
    while True:
        try:
            work(service, lambda: False, running)
        except Exception as error:  # the database may be away for a while
            LOGGER.warning("background operators: %s", " ".join(str(error).split()))
            time.sleep(_STOP_SECONDS)
