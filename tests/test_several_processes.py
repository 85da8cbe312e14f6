"""Several processes on one database, and a database killed meanwhile: nothing is lost, all is reported."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from builders import make_web, mask_values, record

from wss_data import store
from wss_data.runtime import database as database_module
from wss_data.runtime import database_watcher
from wss_data.spec import FilterSpec, read_spec, spec_from_dict

pytestmark = pytest.mark.usefixtures("database", "small_maps")

CLASSES = list(read_spec("drawn").class_names[:2])
COMMAND = [sys.executable, "-c", "import sys; from wss_data.commands.cli import main; sys.exit(main(sys.argv[1:]))"]


def definition(name: str, limit: int) -> dict:
    source = {"name": "drawn", "limit": limit, "options": {"seed": 3}}
    return {"name": name, "classes": CLASSES, "sources": [source], "longest_side": 160}


def contents(dataset) -> dict:
    fields = ["label.label", "sha256", "tags", "foreground_ratio", "cosegmentation.mask_path"]
    return {
        (label, sha256): (tags, ratio, Path(mask).read_bytes())
        for label, sha256, tags, ratio, mask in zip(*dataset.values(fields), strict=True)
    }


def kill_database(folder: Path) -> None:
    """SIGKILL the server in ``folder``, and wait until its watcher has gone, too."""
    os.kill(json.loads((folder / database_watcher.ADDRESS).read_text())["mongod"], signal.SIGKILL)
    end = time.monotonic() + 10
    while (folder / database_watcher.ADDRESS).exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def own_place(folder: Path, **more: str) -> dict[str, str]:
    """An environment with a database and a home in ``folder``, and nothing that this process set for FiftyOne."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("FIFTYONE_")}
    return {**clean, "WSS_DATABASE_DIR": str(folder / "database"), "WSS_HOME": str(folder / "home"), **more}


def run_code(code: str, environment: dict[str, str], *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


STORE_AND_KILL = """
import json, os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from builders import definition, record
from wss_data import store
from wss_data.runtime.database import loss_reported
dataset = store.create_or_open(definition("crash"), "web")
store.add_records(dataset, [record("crash", "cat", digit) for digit in "123456789"])
os.kill(json.loads(Path(os.environ["WSS_DATABASE_DIR"], "address.json").read_text())["mongod"], signal.SIGKILL)
try:
    with loss_reported():
        store.group_members(dataset, "cat")
except Exception as error:
    print(type(error).__name__, error)
"""

COUNT = """
from wss_data import store
(row,) = store.list_datasets()
dataset = store.open_dataset("crash")
print(row.images, len(dataset), len(dataset.values("sha256")))
"""


def test_what_was_stored_is_there_and_counted_right_after_the_database_was_killed_at_once(tmp_path):
    environment = own_place(tmp_path)

    told = run_code(STORE_AND_KILL, environment, str(Path(__file__).parent))

    assert told.startswith(f"StoreError the database in {tmp_path / 'database'} ended while it was in use"), told
    assert "Run the same command again" in told
    assert "\n" not in told
    # MongoDB's own number of documents, which FiftyOne takes for the size, is 0 now.
    assert run_code(COUNT, environment) == "9 9 9"


def test_a_dataset_that_was_deleted_is_built_again_from_what_is_on_disk(database, caplog):
    import fiftyone as fo

    from wss_data import build

    spec = spec_from_dict(definition("several-deleted", limit=2))
    before = contents(build(spec, progress=False))
    fo.delete_dataset("several-deleted")

    again = build(spec, progress=False)

    assert "4 images come back from disk" in caplog.text
    assert contents(again) == before


def ask_count(port: int, name: str) -> int:
    """What the App's side bar shows as the number of images."""
    form = {"dataset": name, "view": [], "paths": [""], "mixed": False, "extendedStages": {}, "filters": {}}
    form |= {"hiddenLabels": [], "sampleIds": [], "groupId": None, "slice": None, "slices": None, "index": 0}
    query = "query q($form: AggregationForm!) { aggregations(form: $form) { ... on RootAggregation { count } } }"
    body = json.dumps({"query": query, "variables": {"form": form}}).encode()
    request = urllib.request.Request(f"http://localhost:{port}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["data"]["aggregations"][0]["count"]


def test_an_open_view_shows_what_is_stored_meanwhile(database, tmp_path):
    dataset = make_web("several-view")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    code = (
        "import sys; from wss_data.store import view_in_app;"
        "view_in_app('several-view', port=int(sys.argv[1]), open_browser=False)"
    )
    view = subprocess.Popen(
        [sys.executable, "-c", code, str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    try:
        assert view.stdout.readline(), view.stderr.read()
        shown = [ask_count(port, "several-view")]
        for digits in ("56", "78"):
            store.add_records(dataset, [record("several-view", "cow", digit) for digit in digits])
            shown.append(ask_count(port, "several-view"))
        members = store.group_members(dataset, "cow")
        store.set_masks(dataset, store.MASKS, [mask_values(dataset, member, 0.5) for member in members])
        assert shown == [4, 6, 8]
        assert store.apply_filter(dataset).kept == 6
        assert view.poll() is None
    finally:
        os.killpg(view.pid, signal.SIGINT)
        view.communicate(timeout=60)
    assert view.returncode == 0


EXTERNAL = """
import sys
sys.path.insert(0, sys.argv[1])
from builders import definition, record
from wss_data import store
dataset = store.create_or_open(definition("team"), "web")
store.add_records(dataset, [record("team", "cat", digit) for digit in "123"])
print([(row.name, row.images) for row in store.list_datasets()])
"""


@pytest.fixture
def teams_server(tmp_path):
    """A MongoDB server that nobody here watches over; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "server").mkdir()
    log = tmp_path / "server.log"
    command = [str(database_module.mongod_path()), "--dbpath", str(tmp_path / "server"), "--logpath", str(log)]
    server = subprocess.Popen(
        [*command, "--bind_ip", "127.0.0.1", "--port", str(port), "--nounixsocket"], stdout=subprocess.DEVNULL
    )
    end = time.monotonic() + 60
    while not log.exists() or "Waiting for connections" not in log.read_text(errors="replace"):
        assert server.poll() is None and time.monotonic() < end, "mongod did not start"
        time.sleep(0.05)
    yield f"mongodb://127.0.0.1:{port}"
    server.terminate()
    server.wait()


def test_one_variable_puts_the_records_on_a_teams_server(teams_server, tmp_path):
    from pymongo import MongoClient

    environment = own_place(tmp_path, FIFTYONE_DATABASE_URI=teams_server, HOME=str(tmp_path))
    environment["FIFTYONE_DATABASE_VALIDATION"] = "false"  # FiftyOne would rather have a newer server, and says so
    del environment["WSS_DATABASE_DIR"]

    assert run_code(EXTERNAL, environment, str(Path(__file__).parent)) == "[('team', 3)]"

    with MongoClient(teams_server) as client:
        (found,) = client["fiftyone"]["datasets"].find()
        assert found["name"] == "team"
        assert client["fiftyone"][found["sample_collection_name"]].count_documents({}) == 3
    assert "team" not in {row.name for row in store.list_datasets()}, "the tests' own database does not know it"


@pytest.mark.slow
def test_two_builds_at_once_whose_database_is_killed_tell_it_and_end_alike_when_run_again(tmp_path):
    environment = own_place(tmp_path)
    names = ("several-one", "several-two")
    for name in names:
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(definition(name, limit=8)))

    def start() -> list[subprocess.Popen]:
        return [
            subprocess.Popen(
                [*COMMAND, "build", str(tmp_path / f"{name}.yaml"), "--workers", "1"],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for name in names
        ]

    for wanted in ("images", "cosegmentation"):
        builds = start()
        end = time.monotonic() + 150
        while not all(list((tmp_path / "home" / name / wanted).rglob("*.[jp][pn]g")) for name in names):
            assert all(build.poll() is None for build in builds) and time.monotonic() < end
            time.sleep(0.01)
        kill_database(tmp_path / "database")
        for build in builds:
            _, told = build.communicate(timeout=150)
            assert build.returncode == 2, told
            assert "Traceback" not in told
            assert "ended while it was in use" in told.splitlines()[-1]

    for build in start():
        _, told = build.communicate(timeout=200)
        assert build.returncode == 0, told
    code = (
        "import sys, json; from wss_data import store\n"
        "dataset = store.open_dataset(sys.argv[1])\n"
        "print(json.dumps(sorted(zip(*dataset.values(['label.label', 'sha256', 'foreground_ratio'])))))"
    )
    one, two = (json.loads(run_code(code, environment, name)) for name in names)
    assert len(one) == 16
    assert one == two


ELSEWHERE = (
    "import sys; from wss_data import store; dataset = store.open_dataset(sys.argv[1]);"
    "store.update(dataset, drops={'cat': {'gone': 3}})"
)


def test_what_another_process_noted_of_a_dataset_stays_when_this_one_notes_something_else(database):
    web = make_web("noted-twice")
    subprocess.run([sys.executable, "-c", ELSEWHERE, web.name], check=True, timeout=120)
    store.apply_filter(web, FilterSpec(0.05, 0.95))
    web.reload()
    assert store.drops(web) == {"cat": {"gone": 3}}
    assert store.applied_filters(web) == FilterSpec(0.05, 0.95)
