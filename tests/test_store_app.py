"""The App, and the door to FiftyOne, on a real database."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from builders import make_web

from wss_data import store
from wss_data.errors import StoreError

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(scope="module")
def web(database):
    """A dataset that tests only look at."""
    return make_web("app-web")


# ------------------------------------------------------------- the App and the door


def test_an_address_that_others_can_reach_needs_to_be_forced(web):
    with pytest.raises(StoreError, match="no login"):
        store.view_in_app("app-web", address="0.0.0.0")


def test_a_port_in_use_is_reported_instead_of_showing_another_database(web):
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        with pytest.raises(StoreError, match="Choose another with --port"):
            store.view_in_app("app-web", port=taken.getsockname()[1])


def test_saved_views_without_an_image_are_not_offered_and_those_of_an_earlier_version_are_renamed():
    dataset = make_web("app-views")
    store.bring_up_to_date(dataset, store.definition(dataset), "web")
    offered = dataset.list_saved_views()
    assert "dropped: your verdict" not in offered and offered[0] == "kept"
    saved_at = _times(dataset)["kept"]
    store.judge(dataset, dataset.match_tags("kept").values("id")[:1], "drop")
    mine = dataset.match_tags("kept").limit(1)
    dataset.save_view("most suspicious first", mine, overwrite=True)
    dataset.save_view("too small", dataset.match_tags("dropped:too_small"))
    dataset.save_view("mine", mine)
    group = type(dataset.app_config.sidebar_groups[0])
    dataset.app_config.sidebar_groups = [group(name=name, paths=[]) for name in ("judge", "quality")]

    store.bring_up_to_date(dataset, store.definition(dataset), "web")

    now = dataset.list_saved_views()
    assert [name for name in now if name in offered] == offered and {*now} - {*offered} == {
        *("dropped: your verdict", "mine")
    }
    assert dataset.load_saved_view("most suspicious first").count() == 1, "as its user saved it"
    times = {name: time for name, time in _times(dataset).items() if name != "mine"}
    assert times["kept"] == saved_at, "what keeps its place is not saved again"
    assert sorted(times, key=times.__getitem__) == [name for name in now if name != "mine"]
    assert dataset.app_config.sidebar_groups[1].name == "labels"


def test_our_saved_views_are_stored_as_fiftyone_stores_one():
    dataset = make_web("app-as-fiftyone")
    ours = dataset._doc.get_saved_views()[0].to_dict()
    dataset.save_view("theirs", dataset.load_saved_view("kept"), color=ours["color"])
    theirs = dataset._doc.get_saved_views()[-1].to_dict()

    differ = {"_id", "name", "slug", "created_at", "last_modified_at", "last_loaded_at"}
    assert ours["name"] == ours["slug"] == "kept" and ours.keys() == theirs.keys()
    assert {key for key in ours if type(ours[key]) is not type(theirs[key])} <= {"last_loaded_at"}
    assert {key for key in ours if ours[key] != theirs[key]} <= differ


def test_saved_views_of_the_user_survive_an_interruption_and_a_name_like_one_of_ours(monkeypatch):
    dataset = make_web("app-views-kept")
    store.bring_up_to_date(dataset, store.definition(dataset), "web")
    mine = dataset.match_tags("kept").limit(1)
    dataset.save_view("most suspicious first", mine, overwrite=True)
    dataset.save_view("Dropped: your verdict", mine)
    dataset.delete_saved_view("kept")
    before = dataset.list_saved_views()
    store.judge(dataset, dataset.match_tags("kept").values("id")[:1], "drop")

    def interrupted(*values, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("wss_data.store.appearance._save_views", interrupted)
        store.bring_up_to_date(dataset, store.definition(dataset), "web")
    assert dataset.list_saved_views() == before

    store.bring_up_to_date(dataset, store.definition(dataset), "web")
    now = dataset.list_saved_views()
    assert {*now} == {*before, "kept"}, "ours of the same short name gives way"
    assert dataset.load_saved_view("Dropped: your verdict") == mine
    assert dataset.load_saved_view("most suspicious first") == mine
    times = _times(dataset)
    store.bring_up_to_date(dataset, store.definition(dataset), "web")
    assert _times(dataset) == times


def _times(dataset):
    """Saved view -> when it was saved, by which the App orders them."""
    return {view.name: view.created_at for view in dataset._doc.saved_views}


VIEW = (
    "import sys; from wss_data.store import view_in_app;"
    "view_in_app('app-web', port=int(sys.argv[1]), open_browser=False)"
)


def test_the_app_shows_a_dataset_until_ctrl_c(web, tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", VIEW, str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "HOME": str(tmp_path)},  # the App notes there that it has said welcome
    )
    lines = [process.stdout.readline() for _ in range(3)]
    assert f"http://localhost:{port}/datasets/app-web" in lines[0], process.stderr.read()
    assert f"ssh -L {port}:localhost:{port}" in lines[1]
    with urllib.request.urlopen(f"http://localhost:{port}/datasets/app-web", timeout=20) as page:
        assert page.status == 200
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the App's server, too
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert err.strip() == ""
    end = time.monotonic() + 10
    with socket.socket() as probe:
        while probe.connect_ex(("localhost", port)) == 0:
            assert time.monotonic() < end, "the App outlived the command"
            time.sleep(0.1)


def in_new_process(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )


def test_a_database_of_a_newer_fiftyone_is_reported_in_one_line(tmp_path):
    code = (
        "import os, pathlib, pymongo\n"
        "from wss_data import store; from wss_data.runtime import database\n"
        "uri = database.join(pathlib.Path(os.environ['WSS_DATABASE_DIR']))\n"
        "pymongo.MongoClient(uri).fiftyone.config.insert_one({'version': '99.0.0', 'type': 'fiftyone'})\n"
        "try:\n"
        "    store.list_datasets()\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    result = in_new_process(code, WSS_DATABASE_DIR=str(tmp_path))
    assert result.stdout.startswith("StoreError the FiftyOne database was made by a newer FiftyOne"), result.stderr
    assert "Update FiftyOne" in result.stdout


def test_fiftyone_imported_first_still_meets_our_database(web):
    code = "import fiftyone, wss_data; print(wss_data.open_dataset('app-web').count())"
    clean = {key: value for key, value in os.environ.items() if not key.startswith("FIFTYONE_")}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean, timeout=120)
    assert result.stdout.strip() == "4", result.stderr


def test_an_unreachable_server_is_reported_in_one_line():
    code = (
        "from wss_data import store\n"
        "try:\n    store.list_datasets()\nexcept Exception as error:\n    print(type(error).__name__, error)"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("FIFTYONE_", "WSS_DATABASE"))}
    environment["FIFTYONE_DATABASE_URI"] = "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=300"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert result.stdout.startswith("StoreError FiftyOne's database cannot be used"), result.stderr
    assert len(result.stdout.splitlines()) == 1


def test_nothing_was_written_to_the_users_own_fiftyone_folder(web):
    import fiftyone as fo

    session = os.environ["WSS_DATABASE_DIR"]
    for name in ("default_dataset_dir", "dataset_zoo_dir", "model_zoo_dir"):
        assert str(getattr(fo.config, name)).startswith(session)
    assert fo.config.do_not_track
