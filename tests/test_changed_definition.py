"""A definition that is changed after its dataset was built: what no longer fits is refused, the rest reported."""

import pytest
from builders import definition, make_web
from test_changed_files import SPEC, Build

from wss_data import store
from wss_data.errors import StoreError
from wss_data.pipeline import build
from wss_data.retrieval.journal import Journal
from wss_data.runtime.home import dataset_folder
from wss_data.spec import spec_from_dict


@pytest.fixture(scope="module")
def web(database):
    return make_web("changed")


@pytest.mark.parametrize("longest_side", [64, 500])
def test_another_longest_side_is_refused_and_changes_nothing(web, longest_side):
    with pytest.raises(StoreError, match=f"at most 340 pixels.*longest_side {longest_side} now.*another name"):
        store.create_or_open(definition("changed", longest_side=longest_side), "web")
    assert store.definition(store.open_dataset("changed")).longest_side == 340


def test_the_ignore_index_of_imported_masks_stays(database):
    dataset = make_web("changed-void")
    store.create_or_open(definition("changed-void", ignore_index=254), "web")
    dataset.set_values("cosegmentation.method", ["imported"] * len(dataset))
    with pytest.raises(StoreError, match=r"imported masks whose void is 254.*ignore_index 255 now"):
        store.create_or_open(definition("changed-void"), "web")


def test_what_a_definition_asks_for_no_more_is_reported_and_its_images_stay(database, caplog):
    dataset, name = make_web("changed-less"), "changed-less"
    more = ["folder", {"name": "openverse", "limit": 50}, "wikimedia"]
    classes = [{"name": "cat", "index": 1, "queries": ["cat", "kitten"]}, {"name": "cow", "index": 2}]
    store.create_or_open(definition(name, classes=classes, sources=more), "web")
    assert not caplog.text, "what is added needs no word"
    less = [{"name": "folder", "options": {"path": "/elsewhere"}}, {"name": "openverse", "limit": 20}]
    store.create_or_open(definition(name, sources=less), "web")
    assert "limit of openverse is 20, was 50" in caplog.text
    assert "source wikimedia was taken out" in caplog.text
    assert "cat is no longer searched for as kitten" in caplog.text
    assert "other options" not in caplog.text
    less[1]["options"] = {"licenses": ["by"]}
    store.create_or_open(definition(name, sources=less), "web")
    assert "openverse has other options" in caplog.text
    assert len(dataset) == 4


def test_images_on_disk_of_another_size_are_not_stored_for_a_dataset_that_was_deleted(database, tmp_path):
    Build(tmp_path)()
    with Journal(tmp_path / "journal.sqlite") as journal:
        assert (journal.of_other_size(64), journal.of_other_size(100), journal.of_other_size(1000)) == (0, 4, 4)
    dataset_folder("zoo").mkdir(parents=True)
    (tmp_path / "journal.sqlite").rename(dataset_folder("zoo") / "journal.sqlite")
    larger = {**SPEC.to_dict(), "longest_side": 100}
    with pytest.raises(StoreError, match="holds 4 images that were shrunk to another size than longest_side 100"):
        build(spec_from_dict(larger), images=tmp_path / "photos", progress=False)
