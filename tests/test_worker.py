"""The background worker beside the App: what it runs, what it says, and when it ends."""

import subprocess
import sys
import time

import psutil
import pytest
from builders import make_web

from wss_data.store.worker import background_worker, shown_failure

pytestmark = pytest.mark.usefixtures("database")


def queued(dataset, operator: str, **params):
    """The id of an operator that the App was asked to run in the background."""
    from fiftyone.operators.delegated import DelegatedOperationService
    from fiftyone.operators.executor import ExecutionContext

    request = {"dataset_name": dataset.name, "dataset_id": str(dataset._doc.id), "params": params}
    context = ExecutionContext(request_params=request, operator_uri=f"@wss/judge/{operator}")
    return DelegatedOperationService().queue_operation(
        operator=f"@wss/judge/{operator}", label=operator, delegation_target=None, context=context
    )


def ended(operation):
    """The operation when it has run."""
    from fiftyone.operators.delegated import DelegatedOperationService

    deadline = time.monotonic() + 60
    while (now := DelegatedOperationService().get(operation.id)).run_state not in ("completed", "failed"):
        assert time.monotonic() < deadline, now.run_state
        time.sleep(0.2)
    return now


def test_operators_sent_to_the_background_are_run_beside_the_app_and_tell_their_progress(database):
    web = make_web("worker-web")
    assert web.match_tags("kept").count() == 2
    quick = queued(web, "change_filter", min_foreground=0.05, max_foreground=0.95)
    options = "long_side: 256\nself_training_folds: 0"
    long = queued(web, "cosegment_again", class_name="cat", method="common", options=options, field="cosegmentation_2")
    with background_worker():
        assert ended(quick).run_state == "completed"
        done = ended(long)
    assert done.status.label == "cat: 3 of 3 masks", done.result.error
    web.reload()
    assert web.match_tags("kept").count() == 4
    assert web.values("cosegmentation_2.method").count("common") == 3


def test_of_an_error_of_ours_the_app_shows_the_sentence_without_the_traceback():
    ours = "Traceback (most recent call last):\n  File ...\nwss_data.errors.StoreError: there is no dataset 'x'."
    assert shown_failure(ours) == "there is no dataset 'x'."
    other = "Traceback (most recent call last):\nValueError: wrong"
    assert shown_failure(other) == other
    assert shown_failure("") == ""


HOLDS = (
    "import time; from wss_data.store.worker import background_worker\n"
    "with background_worker() as worker:\n    print(worker.pid, flush=True); time.sleep(600)"
)


def test_the_worker_ends_with_the_view_even_when_that_is_killed(database):
    view = subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, text=True)
    worker = psutil.Process(int(view.stdout.readline()))
    time.sleep(1)
    assert worker.is_running()
    view.kill()
    view.communicate()
    worker.wait(30)
    assert not psutil.pid_exists(worker.pid)


COMPANION = (
    "import time; from wss_data.store.worker import companion\n"
    "code = 'import time; from wss_data.store.worker import end_with_parent; end_with_parent(); time.sleep(600)'\n"
    "with companion(code) as process:\n    print(process.pid, flush=True); time.sleep(600)"
)


def test_a_process_beside_the_view_ends_with_it_while_it_is_still_starting():
    view = subprocess.Popen([sys.executable, "-c", COMPANION], stdout=subprocess.PIPE, text=True)
    companion = psutil.Process(int(view.stdout.readline()))
    view.kill()
    view.communicate()
    companion.wait(5)
