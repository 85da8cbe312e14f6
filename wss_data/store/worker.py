"""The background worker beside the App: it runs, one by one, the operators that are told to run in the background.

FiftyOne puts such an operator into a queue in the database and leaves it to somebody to run it. ``wss-data view``
starts this module as a process of its own, so that a long co-segmentation neither stops the App nor needs a second
command.

The worker ends with the view, also when the view is killed.
"""

import logging
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from wss_data.store.companion import companion, end_with_parent
from wss_data.store.connection import fiftyone

LOGGER = logging.getLogger(__name__)

ALLOWED = "FIFTYONE_ALLOW_LEGACY_ORCHESTRATORS"
"""FiftyOne's switch for background operators without its paid service; its App offers none otherwise."""

_POLL_SECONDS = 0.5
_AGAIN_SECONDS = 10.0


@contextmanager
def background_worker() -> Iterator[subprocess.Popen[bytes]]:
    """Run background operators while the block runs.

    Yields:
        The worker's process.
    """
    fiftyone().config.allow_legacy_orchestrators = True
    os.environ[ALLOWED] = "true"  # for the App's server, which is started later
    with companion("from wss_data.store.worker import main; main()") as worker:
        yield worker


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


def main() -> None:
    """Work until the view ends; then end at once.

    An operator that runs at that moment is marked as failed: what it stored stays.
    """
    running: dict[str, Any] = {}

    def mark() -> None:
        if "id" in running:
            error = "the view that ran it ended. Open the view again and run it again."
            DelegatedOperationService().set_failed(doc_id=running["id"], result=ExecutionResult(error=error))

    end_with_parent(mark)
    fiftyone()  # connects first: what follows imports FiftyOne
    from fiftyone.operators.delegated import DelegatedOperationService
    from fiftyone.operators.executor import ExecutionResult

    service = DelegatedOperationService()
    while True:
        try:
            work(service, lambda: False, running)
        except Exception as error:  # the database may be away for a while
            LOGGER.warning("background operators: %s", " ".join(str(error).split()))
            time.sleep(_AGAIN_SECONDS)
