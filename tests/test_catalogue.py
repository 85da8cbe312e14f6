"""What only reads names and counts asks MongoDB, and says what FiftyOne would."""

import subprocess
import sys

import pytest
from builders import make_web

from wss_data import store
from wss_data.store.connection import fiftyone, fiftyone_version, mongodb

pytestmark = pytest.mark.usefixtures("database")


def said(*arguments: str) -> tuple[str, bool]:
    """What ``wss-data`` prints in a process of its own, and whether it imported FiftyOne."""
    code = (
        f"import sys\nfrom wss_data.commands.cli import main\nmain({list(arguments)})\nprint('fiftyone' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    words, _, loaded = (done.stderr + done.stdout).rstrip().rpartition("\n")
    return words, loaded == "True"


@pytest.fixture(scope="module")
def web():
    dataset = make_web("cat-web")
    yield dataset
    dataset.delete()


def row_of(words: str) -> list[str]:
    (row,) = [line.split() for line in words.splitlines() if line.startswith("cat-web ")]
    return row


def test_the_list_is_made_without_fiftyone_and_says_what_fiftyone_counts(web):
    words, loaded = said("list")
    kept = web.match_tags("kept").count()
    assert row_of(words) == ["cat-web", "web", str(web.count()), "images", str(kept), "kept", "cat,", "cow"]
    assert not loaded


def test_that_there_is_no_such_dataset_is_said_without_fiftyone(web):
    for command in (["attribution", "--out", "x.md"], ["delete", "--dry-run"], ["view"]):
        words, loaded = said(command[0], "cat-wbe", *command[1:])
        assert "there is no dataset 'cat-wbe'. Known: " in words and "cat-web" in words and not loaded


def test_a_dataset_of_another_fiftyone_is_brought_up_to_date_by_fiftyone_before_it_is_listed(web):
    mongodb().datasets.update_one({"name": "cat-web"}, {"$set": {"version": "1.0.0"}})
    words, loaded = said("list")
    assert row_of(words)[2] == "4" and loaded
    assert mongodb().datasets.find_one({"name": "cat-web"})["version"] == fiftyone_version()


def test_records_that_nobody_can_open_do_not_hide_the_others(web):
    broken = {"tags": ["wss"], "version": fiftyone_version()}
    odd = [
        {},  # FiftyOne leaves such records behind
        {"name": "cat-a", "slug": "cat-a", "info": None},
        {"name": "cat-b", "slug": "cat-b", "info": {"theirs": 1}},
        {"name": "cat-c", "slug": "cat-c", "info": web.info, "sample_fields": [1]},
    ]
    try:
        mongodb().datasets.insert_many(
            [{**broken, **record, "sample_collection_name": f"samples.none{n}"} for n, record in enumerate(odd)]
        )
        rows = {row.name: row.images for row in store.list_datasets()}
        assert rows["cat-web"] == 4 and rows["cat-c"] == 0 and not {"cat-a", "cat-b"} & set(rows)
    finally:
        mongodb().datasets.delete_many({"sample_collection_name": {"$regex": r"^samples\.none"}})


@pytest.mark.parametrize(
    "change",
    [
        {"kind": None},
        {"kind": "wbe"},
        {"format": "1"},
        {"format": 99},
        {"definition": None},
        {"definition": {"classes": "cat"}},
        {"definition": {"classes": [{"index": 1}]}},
        {"definition": {"classes": ["cat"]}},
    ],
    ids=str,
)
def test_a_dataset_whose_info_another_program_damaged_is_named_and_the_others_are_listed(web, change, caplog):
    damaged = {"wss": {**web.info["wss"], **change}}
    record = {"tags": ["wss"], "version": fiftyone_version(), "name": "cat-d", "slug": "cat-d", "info": damaged}
    mongodb().datasets.insert_one({**record, "sample_collection_name": "samples.damaged"})
    try:
        assert "cat-web" in [row.name for row in store.list_datasets()]
        assert "cat-d" in caplog.text
    finally:
        mongodb().datasets.delete_one({"name": "cat-d"})


def test_the_connection_without_fiftyone_is_closed_when_fiftyone_makes_its_own(web):
    code = (
        "from wss_data.store import connection, list_datasets\nlist_datasets()\nplain = connection.mongodb()\n"
        "assert connection.mongodb() is plain\nconnection.fiftyone()\n"
        "assert connection.mongodb() is not plain and plain.client._closed"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert mongodb() == fiftyone().core.odm.get_db_conn()
