"""Names that FiftyOne, a disk or a table takes for one: reported before anything is retrieved, read or written."""

import json

import numpy as np
import pytest
from builders import definition, make_web
from web_server import photo

from wss_data import store
from wss_data.commands.cli import main
from wss_data.errors import SpecError, StoreError
from wss_data.imaging.images import write_jpeg
from wss_data.imaging.masks import mask_names, write_mask
from wss_data.ledger import Ledger
from wss_data.runtime.home import dataset_folder
from wss_data.sharing.export import export_dataset
from wss_data.sharing.layouts.base import Contents, ExportRow
from wss_data.sharing.layouts.coco import write_coco
from wss_data.sharing.manifest import write_manifest
from wss_data.spec import spec_from_dict
from wss_data.store.appearance import colour_targets

ALIKE = ["name_taken", "Name-Taken", "NAME_TAKEN", "name--taken", "name-taken-", "name__taken"]


@pytest.fixture(scope="module")
def taken(database):
    return make_web("name-taken")


@pytest.fixture
def photographs(tmp_path):
    for class_name in ("cat", "cow"):
        write_jpeg(photo(1), tmp_path / "photos" / class_name / "1.jpg")
    return tmp_path / "photos"


def refused(capsys, *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "name-taken" in told
    return told


@pytest.mark.parametrize("name", ALIKE)
def test_no_command_makes_a_dataset_whose_name_is_anothers(name, taken, photographs, tmp_path, capsys):
    (tmp_path / "d.yaml").write_text(json.dumps({"name": name, "classes": ["cat", "cow"], "sources": ["drawn"]}))
    write_manifest(taken, tmp_path / "m.jsonl")
    export_dataset(taken, tmp_path / "export", layout="voc")
    datasets = store.connection.fiftyone().list_datasets()
    for arguments in (
        ("build", tmp_path / "d.yaml"),
        ("build", "--images", photographs, "--name", name),
        ("rebuild", tmp_path / "m.jsonl", "--name", name),
        ("import-dataset", tmp_path / "export", "--name", name),
    ):
        assert "differs in more than capitals, '-' and '_'" in refused(capsys, *arguments)
    assert not dataset_folder(name).exists()
    assert store.connection.fiftyone().list_datasets() == datasets, "nothing half-made either"


def test_a_name_that_differs_in_a_letter_is_free_and_ones_own_name_stays_usable(taken):
    store.check_name("name-takes")
    store.check_name("name-taken")
    store.create_or_open(definition("name-taken"), "web")
    with pytest.raises(StoreError, match="beside dataset 'name-taken'"):
        store.create_or_open(definition("Name_Taken"), "web")


def test_a_target_whose_name_is_anothers_is_refused_before_its_folder_is_read(taken, tmp_path, capsys):
    make_web("name-taken-2-target")
    for name in ("Name_Taken_2", "name-taken-2"):
        value = {"name": name, "classes": ["cat", "cow"], "target": {"layout": "voc"}}
        (tmp_path / "d.yaml").write_text(json.dumps(value))
        refused(capsys, "import-target", tmp_path / "d.yaml", tmp_path / "not read")
        assert not dataset_folder("Name_Taken_2-target").exists()


@pytest.mark.parametrize("name", ["/etc", "../x", "a/b", "a\\b", ".", "..", ".plugins", "a\0b"])
def test_no_name_of_a_dataset_leads_out_of_the_folder_of_all(name):
    with pytest.raises(StoreError, match="is no name of a folder"):
        dataset_folder(name)


@pytest.mark.parametrize("pair", [("Cat", "cat"), ("big_cat", "big-cat"), ("big-cat", "big--cat"), ("a", "A-")])
def test_classes_that_would_share_a_folder_or_a_saved_view_are_refused(pair):
    with pytest.raises(SpecError, match=f"classes '{pair[0]}' and '{pair[1]}' are one to FiftyOne"):
        spec_from_dict({"name": "zoo", "classes": list(pair)})


@pytest.mark.parametrize("classes", [("ignore",), ("cat", "ignore"), ("cat",)])
def test_every_value_of_a_mask_has_a_name_of_its_own_whatever_the_classes_are_called(classes):
    names = mask_names(classes)
    assert len(set(names.values())) == len(classes) + 2
    assert names[255] == "ignore" or "ignore" in classes
    assert len(set(colour_targets(classes).values())) == len(classes) + 1


def test_a_class_called_ignore_and_void_pixels_are_two_categories_of_a_coco_export(tmp_path):
    write_jpeg(photo(1, 40, 30), tmp_path / "1.jpg")
    mask = np.zeros((30, 40), np.uint8)
    mask[:10], mask[10:12] = 1, 255
    write_mask(mask, tmp_path / "1.png")
    row = ExportRow("1", tmp_path / "1.jpg", tmp_path / "1.png", ("ignore",), "kept")
    write_coco(Contents((row,), ("ignore",), Ledger()), tmp_path / "out")
    value = json.loads((tmp_path / "out" / "annotations" / "instances_kept.json").read_text())
    names = {category["id"]: category["name"] for category in value["categories"]}
    assert names == {1: "ignore", 255: "ignore_"}
    crowd = {annotation["category_id"]: annotation["iscrowd"] for annotation in value["annotations"]}
    assert crowd == {1: 0, 255: 1}
