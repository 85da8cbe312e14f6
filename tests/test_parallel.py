"""Maps whose results come in order and complete, wherever they ran and whatever became of a worker."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from wss_data.errors import WorkerError
from wss_data.runtime import parallel
from wss_data.runtime.parallel import default_workers, map_images, workers_on


def square(n: int) -> int:
    return n * n


def process_of(_: int) -> int:
    return os.getpid()


def square_of_a_survivor(item: tuple[int, Path]) -> int:
    """The square; but whoever meets the number 7 first dies of it."""
    number, first = item
    if number == 7 and not first.exists():
        first.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def square_but_seven_kills(n: int) -> int:
    if n == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return n * n


def minus(n: int) -> int:
    return -n


def fails_at_three(n: int) -> int:
    if n == 3:
        raise KeyError("three")
    return n


MODELS: list[bytearray] = []


def process_with(megabytes: int) -> int:
    """The process, which now holds as much more; a second apart, since joblib looks at memory that often."""
    MODELS[:] = [bytearray(megabytes << 20)] if megabytes else []
    time.sleep(1.1 if megabytes else 0.1)
    return os.getpid()


@pytest.fixture(scope="module")
def dask():
    """The address of a Dask scheduler with two worker processes on this machine."""
    distributed = pytest.importorskip("distributed")
    loggers = [logging.getLogger(f"distributed.{name}") for name in ("scheduler", "nanny", "core", "batched", "client")]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)  # they tell of every worker that dies
    with distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None, silence_logs=False) as cluster:
        yield cluster.scheduler_address


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_items(workers):
    assert list(map_images(square, range(20), workers=workers)) == [n * n for n in range(20)]


def test_one_worker_is_this_process_and_two_are_others():
    assert set(map_images(process_of, range(4), workers=1)) == {os.getpid()}
    assert os.getpid() not in set(map_images(process_of, range(4), workers=2))


def test_items_are_taken_as_they_are_needed():
    taken = []
    items = (taken.append(n) or n for n in range(1000))
    results = map_images(square, items, workers=1)
    assert next(results) == 0
    assert len(taken) == 1


def test_results_do_not_pile_up_before_a_reader_that_waits(monkeypatch):
    monkeypatch.setattr(parallel, "WINDOW", 5)
    taken = []
    results = map_images(square, (taken.append(n) or n for n in range(1000)), workers=2)
    assert next(results) == 0
    time.sleep(0.5)
    assert len(taken) <= 5 * 2
    assert list(results) == [n * n for n in range(1, 1000)]


def test_the_number_of_workers_can_be_set_for_all_commands(monkeypatch):
    monkeypatch.setenv("WSS_WORKERS", "3")
    assert default_workers() == 3


def test_workers_read_a_relative_path_where_the_program_is_now(tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
        monkeypatch.chdir(tmp_path / name)
        assert list(map_images(Path.read_text, [Path("file")] * 3, workers=2)) == [name] * 3


def test_an_error_of_the_function_is_the_callers(dask):
    for place in (workers_on(), workers_on("dask", dask)):
        with place:
            results = map_images(fails_at_three, range(9), workers=2)
            with pytest.raises(KeyError, match="three"):
                list(results)


def test_a_worker_that_is_killed_loses_nothing(tmp_path, caplog):
    items = [(n, tmp_path / "first") for n in range(40)]
    assert list(map_images(square_of_a_survivor, items, workers=2)) == [n * n for n in range(40)]
    assert "images without a result run again" in caplog.text


def test_a_worker_that_loads_a_network_after_its_first_call_is_kept(recwarn):
    first = set(map_images(process_with, [0] * 8, workers=2))
    then = set(map_images(process_with, [400] * 4 + [0] * 8, workers=2))

    assert then <= first
    assert not [warning for warning in recwarn if "A worker stopped" in str(warning.message)]


@pytest.mark.parametrize(
    ("name", "error", "shown"),
    [("ExecutorManagerThread", KeyError, 0), ("ExecutorManagerThread", OSError, 1), ("mine", KeyError, 1)],
)
def test_only_joblibs_thread_that_lost_its_calls_dies_without_a_word(monkeypatch, name, error, shown):
    died = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    list(map_images(square, range(4), workers=2))

    def fails():
        raise error(21)

    thread = threading.Thread(target=fails, name=name)
    thread.start()
    thread.join()

    assert len(died) == shown


def test_an_item_that_kills_every_worker_is_named_and_what_was_before_it_is_there():
    results = map_images(square_but_seven_kills, iter(range(20)), workers=2)
    assert [next(results) for _ in range(7)] == [n * n for n in range(7)]
    with pytest.raises(WorkerError, match="image 7 kills its worker process each time"):
        next(results)


def test_an_item_that_kills_every_worker_can_be_left_out(caplog):
    results = list(map_images(square_but_seven_kills, iter(range(20)), workers=2, if_killed=minus))
    assert results == [-7 if n == 7 else n * n for n in range(20)]
    assert "image 7 kills its worker process each time: it is left out" in caplog.text


def test_an_item_is_called_by_its_path_where_it_has_one():
    assert parallel._name(Path("cow/1.jpg"), 5) == "cow/1.jpg"
    assert parallel._name(7, 5) == "image 5"


def test_on_a_cluster_other_processes_work_and_the_order_stays(dask):
    with workers_on("dask", dask):
        assert list(map_images(square, range(300))) == [n * n for n in range(300)]
        others = set(map_images(process_of, range(40)))
        assert set(map_images(process_of, range(4), workers=1)) == {os.getpid()}
        local = set(map_images(process_of, range(8), workers=2, local=True))
    assert os.getpid() not in others and len(others) == 2
    assert not local & others
    assert not set(map_images(process_of, range(8), workers=2)) & others


def test_a_cluster_worker_that_is_killed_loses_nothing(dask, tmp_path):
    items = [(n, tmp_path / "first") for n in range(40)]
    with workers_on("dask", dask):
        assert list(map_images(square_of_a_survivor, items)) == [n * n for n in range(40)]
    assert (tmp_path / "first").exists()


def test_an_item_that_kills_every_worker_of_a_cluster_can_be_left_out(dask):
    with workers_on("dask", dask):
        results = list(map_images(square_but_seven_kills, range(12), if_killed=minus))
    assert results == [-7 if n == 7 else n * n for n in range(12)]


def test_an_executor_that_is_not_installed_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(WorkerError, match=r"pip install 'webcoseg\[dask\]'"), workers_on("dask"):
        pass


def test_after_dask_fiftyone_can_still_be_imported():
    pytest.importorskip("distributed")
    # With importlib_metadata 8, which Dask would bring on Python 3.11, the standard library's own refuses FiftyOne.
    subprocess.run([sys.executable, "-W", "ignore", "-c", "import distributed; import eta.constants"], check=True)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_a_cluster_that_does_not_answer_is_reported_with_its_address(monkeypatch, address):
    pytest.importorskip("distributed")
    monkeypatch.setattr(parallel, "CONNECT_S", 0.3)
    with pytest.raises(WorkerError, match=f"answers at {address}"), workers_on("dask", address):
        pass


def test_an_address_without_a_cluster_and_an_unknown_executor_are_refused():
    with pytest.raises(WorkerError, match="take the executor dask"), workers_on("process", "localhost:8786"):
        pass
    with pytest.raises(WorkerError, match="no executor 'slurm'"), workers_on("slurm"):
        pass
