"""The target dataset and export, on a real database."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import png_files
import pytest
import voc_trees
import yaml
from builders import ENGINE, H, W, definition, foreground, make_web, target_definition, write_target
from PIL import Image

from wss_data import store
from wss_data.commands.cli import main
from wss_data.errors import SourceError, SpecError, StaleMasksError, StoreError
from wss_data.imaging.images import write_jpeg
from wss_data.imaging.masks import read_mask, write_mask
from wss_data.ledger import UsedFor
from wss_data.runtime.home import dataset_folder
from wss_data.sharing.export import LAYOUTS, export_dataset
from wss_data.spec import read_spec
from wss_train.commands.cli import main as train

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(scope="module")
def web(database):
    """A dataset that tests only look at."""
    return make_web("export-web")


# ------------------------------------------------------------- target


@pytest.fixture(scope="module")
def target(database, tmp_path_factory):
    """A target dataset that tests only look at."""
    folder = write_target(tmp_path_factory.mktemp("voc"))
    return store.import_target(target_definition("store-t"), folder)


def test_a_target_has_labels_for_all_and_masks_for_validation_only(target):
    assert target.name == "store-t-target"
    assert target.persistent
    train, val = target.match_tags("train"), target.match_tags("val")
    assert train.values("image_id") == ["t1", "t2", "t3"]
    assert train.values("labels.classifications.label") == [["cow"], ["cat", "cow"], []]
    assert train.exists("ground_truth").count() == 0, "whatever the folder holds"
    assert val.exists("ground_truth").count() == 2
    assert {Path(path).parent for path in val.values("ground_truth.mask_path")} == {
        dataset_folder("store-t-target") / "ground_truth"
    }
    assert all(Path(path).parent.name == "JPEGImages" for path in target.values("filepath")), (
        "images stay where they are"
    )
    assert target.match_tags("dropped:no_labels").values("image_id") == ["t3"]
    assert target.list_saved_views() == ["train", "val", "dropped"]
    assert target.load_saved_view("dropped").values("image_id") == ["t3"]


def test_the_summary_counts_per_class_and_split(target):
    lines = [line.split() for line in store.target_summary(target).splitlines()]
    assert lines == [
        ["class", "train", "val"],
        ["cat", "1", "1"],
        ["cow", "2", "0"],
        ["images", "2", "2"],
        ["dropped:", "1", "no_labels"],
    ]


def test_tables_of_a_target_know_what_the_truth_was_used_for(target):
    train = store.example_table(target.match_tags("train"), None)
    assert train.ids == ("t1", "t2")
    assert train.labels.tolist() == [[False, True], [True, True]]
    assert train.mask_paths == (None, None)
    assert train.ledger.strictly_image_level

    taught = store.example_table(target.match_tags("val"), "ground_truth")
    assert taught.ids == ("v1", "v2")
    assert not taught.ledger.strictly_image_level, "training on the truth cannot pass for weak supervision"
    scored = store.example_table(target.match_tags("val"), "ground_truth", used_for=UsedFor.FINAL_SCORE)
    assert scored.ledger.strictly_image_level


def test_masks_are_found_from_another_folder_than_the_one_in_which_they_were_made(tmp_path, monkeypatch):
    dataset = store.import_target(target_definition("store-elsewhere"), write_target(tmp_path))
    write_mask(foreground(0.5).astype(np.uint8), tmp_path / "run" / "t1.png")
    monkeypatch.chdir(tmp_path)
    store.set_target_masks(dataset, "pseudo_mask", {"t1": "run/t1.png"}, ENGINE)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert dataset.exists("pseudo_mask.mask_path").values("pseudo_mask.mask_path") == [str(tmp_path / "run" / "t1.png")]
    assert store.mask_array(dataset.match({"image_id": "t1"}).first(), "pseudo_mask").any()


def test_importing_again_reads_nothing_and_keeps_what_models_made(tmp_path, monkeypatch):
    folder = write_target(tmp_path)
    spec = target_definition("store-again")
    dataset = store.import_target(spec, folder)
    write_mask(foreground(0.5).astype(np.uint8), tmp_path / "p" / "t1.png")
    store.set_target_masks(dataset, "pseudo_mask", {"t1": tmp_path / "p" / "t1.png"}, ENGINE)
    ids = dataset.values("id")

    import wss_data.target.translation

    with monkeypatch.context() as patch:
        patch.setattr(wss_data.target.translation, "check_targets", None)
        assert store.import_target(spec, folder) is dataset

    write_target(tmp_path, labels="t1,cat\nt2,cow\nt3,cow\nv1,cat\nv2,cow\n")
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("v1\n")
    dataset = store.import_target(spec, folder)
    assert dataset.values("id") == ids
    assert dataset.values("labels.classifications.label")[:3] == [["cat"], ["cow"], ["cow"]]
    assert dataset.values("tags") == [["train"]] * 3 + [["val"], ["dropped:not_listed"]]
    assert dataset.values("pseudo_mask.mask_path")[0].endswith("t1.png")


@pytest.mark.parametrize("noted", [True, False], ids=["noted", "of an earlier version"])
@pytest.mark.parametrize("changed", ["labels", "image"])
def test_masks_made_from_other_labels_or_images_are_reported_and_not_used(tmp_path, caplog, changed, noted):
    spec, folder = target_definition(f"store-stale-{changed}-{noted}".lower()), write_target(tmp_path)
    dataset = store.import_target(spec, folder)
    masks = {name: tmp_path / "p" / f"{name}.png" for name in ("t1", "t2")}
    for path in masks.values():
        write_mask(foreground(0.5).astype(np.uint8), path)
    store.set_target_masks(dataset, "pseudo_mask", masks, ENGINE)
    if not noted:
        dataset.exists("pseudo_mask").set_values("pseudo_mask.basis", [None, None])
    train = dataset.match_tags("train")
    assert store.example_table(train, "pseudo_mask").ids == ("t1", "t2")

    if changed == "labels":
        write_target(tmp_path, labels="t1,cow\nt2,cow\nt3,dog\nv1,cat\nv2,dog\n")
    else:
        write_jpeg(np.full((H, W, 3), 77, np.uint8), folder / "JPEGImages" / "t2.jpg")
    store.import_target(spec, folder)
    assert "1 of 2 masks in 'pseudo_mask' were made from other images or labels" in caplog.text
    with pytest.raises(StaleMasksError, match=r"1 of 2 masks.*the first is that of t2.*wss-train masks"):
        store.example_table(train, "pseudo_mask")
    assert len(store.example_table(train, None)) == 2

    store.set_target_masks(dataset, "pseudo_mask", masks, ENGINE)
    assert len(store.example_table(train, "pseudo_mask")) == 2


def test_a_target_of_which_no_validation_image_can_be_used_is_refused_and_not_stored(tmp_path):
    folder = write_target(tmp_path)
    spec = target_definition("store-refused", mask_classes=["dog"])
    write_mask(np.full((H, W), 9, np.uint8), folder / "SegmentationClass" / "v1.png")
    write_mask(np.full((H, W), 9, np.uint8), folder / "SegmentationClass" / "v2.png")
    with pytest.raises(SourceError, match=r"none of the 2 val images can be used.*holds the value 9"):
        store.import_target(spec, folder)
    with pytest.raises(StoreError, match="there is no dataset 'store-refused-target'"):
        store.open_dataset("store-refused-target")


def test_voc_and_sbd_become_one_target_and_the_counts_stay_with_it(tmp_path, capsys):
    voc, sbd = voc_trees.trees(tmp_path)
    lists = voc / "VOC2012" / "ImageSets" / "Segmentation"
    voc_trees.write_names(lists / "test.txt", ["x1"])
    voc_trees.write_images(voc / "VOC2012" / "JPEGImages", ["x1"])
    (voc / "VOC2012" / "Annotations" / "s2.xml").unlink()
    target = {"layout": "voc", "mask_classes": "pascal_voc", "options": {"expect": {"train": 5, "val": 2}}}
    spec = tmp_path / "voc.yaml"
    spec.write_text(
        yaml.safe_dump({"name": "store-sbd", "classes": ["cow", "person"], "sources": ["folder"], "target": target})
    )
    command = ["import-target", str(spec), str(voc), "--sbd", str(sbd)]

    assert main([*command, "--strict"]) == 0
    told = capsys.readouterr().out
    assert ["images", "5", "2", "1"] in [line.split() for line in told.splitlines()]
    assert "labels: 6 from Annotations, 1 from SBD's lists of classes, 0 images without" in told
    dataset = store.open_dataset("store-sbd-target")
    assert dataset.match_tags("train").values("image_id") == voc_trees.TRAIN_AUG
    assert dataset.match_tags("test").values("image_id") == ["x1"]
    written = dataset_folder("store-sbd-target") / "train_aug.txt"
    assert written.read_text().split() == voc_trees.TRAIN_AUG
    ledger = store.example_table(dataset.match_tags("train"), None).ledger
    assert [entry.what for entry in ledger.entries][1:] == [
        "SBD's lists of the classes present in 1 images that VOC has no annotation of (store-sbd-target)"
    ]
    assert ledger.strictly_image_level
    assert main(command) == 0
    assert "1 from SBD's lists of classes" in capsys.readouterr().out, "told again although nothing is read again"

    (sbd / "dataset" / "cls" / "s2.mat").write_bytes(b"damaged")
    assert main([*command, "--strict"]) == 2
    assert "store-sbd-target: 1 files of SBD's cannot be read." in capsys.readouterr().err
    assert store.open_dataset("store-sbd-target").match_tags("dropped:no_labels").count() == 0, "nothing was changed"
    assert main(command) == 0
    assert "note: 1 files of SBD's cannot be read." in capsys.readouterr().out
    assert main([*command, "--strict"]) == 2, "also when nothing is read again"
    assert store.open_dataset("store-sbd-target").match_tags("dropped:no_labels").values("image_id") == ["s2"]


def test_a_definition_without_a_target_is_refused_with_how_to_get_one(tmp_path):
    with pytest.raises(SpecError, match="'store-none' has no target"):
        store.import_target(definition("store-none"), tmp_path)
    with pytest.raises(SpecError, match="give the folder that holds JPEGImages"):
        store.import_target(target_definition("store-none"))


def test_masks_of_a_model_go_into_a_field_with_their_ledger(tmp_path):
    dataset = store.import_target(target_definition("store-pseudo"), write_target(tmp_path))
    masks = {}
    for name in ("t1", "t2"):
        masks[name] = tmp_path / "p" / f"{name}.png"
        write_mask(foreground(0.5).astype(np.uint8), masks[name])
    store.set_target_masks(dataset, "pseudo_mask", masks, ENGINE)
    table = store.example_table(dataset, "pseudo_mask")
    assert table.ids == ("t1", "t2")
    assert ENGINE.entries[0] in table.ledger.entries
    assert "image-level labels of the target images" in table.ledger.entries[-1].what

    store.set_target_masks(dataset, "pseudo_mask", {"t2": masks["t2"]}, ENGINE)
    assert store.example_table(dataset, "pseudo_mask").ids == ("t2",), (
        "masks of an older model do not mix with new ones"
    )
    store.set_target_masks(dataset, "another", {"t1": masks["t1"]}, ENGINE)
    assert "another" in dataset.app_config.active_fields.paths
    with pytest.raises(StoreError, match="is not for masks that a model made"):
        store.set_target_masks(dataset, "ground_truth", {}, ENGINE)
    with pytest.raises(StoreError, match="no image 'nobody'"):
        store.set_target_masks(dataset, "pseudo_mask", {"nobody": masks["t1"]}, ENGINE)


# ------------------------------------------------------------- export


def test_kept_images_are_exported_for_tools_that_read_voc(web, tmp_path):
    assert export_dataset(web, tmp_path / "voc") == 2
    names = [f"cat_{'2' * 20}", f"cow_{'4' * 20}"]
    assert (tmp_path / "voc" / "ImageSets" / "Segmentation" / "kept.txt").read_text().split() == names
    assert read_mask(tmp_path / "voc" / "SegmentationClass" / f"{names[1]}.png").max() == 2
    with pytest.raises(StoreError, match="not an empty folder"):
        export_dataset(web, tmp_path / "voc")
    with pytest.raises(StoreError, match="there is no layout 'tfrecord'"):
        export_dataset(web, tmp_path / "tfrecord", layout="tfrecord")


def own_field(dataset, folder, data):
    """A field of masks that somebody made in FiftyOne, all of them the file ``data``."""
    import fiftyone as fo

    for sample in dataset:
        path = png_files.write(folder / f"{sample.id}.png", data)
        sample["edited"] = fo.Segmentation(mask_path=str(path))
        sample.save()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_mask_field_of_ones_own_is_exported_in_every_layout(layout, tmp_path, capsys):
    dataset = make_web(f"own-field-{layout}")
    drawn = np.zeros((H, W), np.uint8)
    drawn[3:9] = 1
    own_field(dataset, tmp_path / "own", png_files.png(drawn, 2))
    command = ["export", dataset.name, str(tmp_path / "out"), "--layout", layout, "--mask-field", "edited"]
    assert main(command) == 0, capsys.readouterr().err
    masks = [path for path in (tmp_path / "out").rglob("*.png") if path.parent.name != "data"]
    if layout in ("voc", "folders", "huggingface"):
        assert len(masks) == 2 and all(np.array_equal(np.array(Image.open(path)), drawn) for path in masks), (
            "as any program reads them, not with the samples of 2 bits stretched"
        )


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "fiftyone"])
def test_a_damaged_mask_ends_an_export_and_leaves_nothing(layout, tmp_path, capsys):
    dataset = make_web(f"damaged-{layout}")
    own_field(dataset, tmp_path / "own", png_files.huge(60_000))
    command = ["export", dataset.name, str(tmp_path / "out"), "--layout", layout, "--mask-field", "edited"]
    assert main(command) == 2
    assert "60000x60000 pixels" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_masks_in_the_database_are_said_to_be_there_and_how_they_become_files(tmp_path, capsys):
    import fiftyone as fo

    dataset = make_web("in-database")
    for sample in dataset:
        sample["mine"] = fo.Segmentation(mask=np.ones((H, W), np.uint8))
        sample.save()
    for command in (["generator"], ["check"]):
        options = ["--recipe", "cpu", "--out", str(tmp_path / "run")]
        field = "--mask-field" if command == ["generator"] else "--field"
        assert train([*command, "in-database", field, "mine", *options]) == 2
        told = capsys.readouterr().err
        assert "2 images have their 'mine' as arrays in the database" in told and "export_mask(" in told
    # The way out that the sentence names.
    for sample in dataset:
        sample["mine"].export_mask(str(tmp_path / f"{sample.id}.png"), update=True)
        sample.save()
    assert len(store.example_table(dataset, "mine")) == 2
    # One left behind is not passed over.
    sample = dataset.match_tags("kept").first()
    sample["mine"] = fo.Segmentation(mask=np.ones((H, W), np.uint8))
    sample.save()
    with pytest.raises(StoreError, match="1 images have their 'mine' as arrays in the database"):
        store.example_table(dataset, "mine")


def test_an_exported_target_can_be_imported_again(target, tmp_path):
    assert export_dataset(target, tmp_path / "voc") == 4
    assert json.loads((tmp_path / "voc" / "ledger.json").read_text())["strictly_image_level"] is True
    again = store.import_target(target_definition("store-roundtrip"), tmp_path / "voc")
    assert again.match_tags("train").values("image_id") == ["t1", "t2"]
    for name in ("v1", "v2"):
        first, second = (d.match({"image_id": name}).values("ground_truth.mask_path")[0] for d in (target, again))
        assert read_mask(first).tolist() == read_mask(second).tolist()


def test_folders_and_fiftyones_own_format_hold_the_same_images(web, tmp_path):
    import fiftyone as fo

    assert export_dataset(web, tmp_path / "folders", layout="folders") == 2
    assert (tmp_path / "folders" / "masks" / "cow" / f"{'4' * 20}.png").is_file()
    assert export_dataset(web, tmp_path / "fo", layout="fiftyone") == 2
    again = fo.Dataset.from_dir(str(tmp_path / "fo"), dataset_type=fo.types.FiftyOneDataset)
    try:
        assert again.values("sha256") == web.match_tags("kept").values("sha256")
        assert all(path.startswith(str(tmp_path)) and Path(path).is_file() for path in again.values("filepath"))
        masks = again.values("cosegmentation.mask_path")
        assert all(path.startswith(str(tmp_path)) and Path(path).is_file() for path in masks)
        assert again.default_mask_targets["#008000"] == "cow"
    finally:
        again.delete()


@pytest.mark.data
def test_real_web_photographs_and_the_real_target_are_stored(test_data):
    spec = replace(read_spec("voc_animals"), name="store-voc")
    folder = test_data / "voc_animals"
    small = Path(os.environ["WSS_HOME"]) / "small-voc"
    lists = small / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name in ("JPEGImages", "SegmentationClass", "image_labels.csv"):
        (small / name).symlink_to(folder / name)
    for split in ("train_aug", "val"):
        names = (folder / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()[:12]
        (lists / f"{split}.txt").write_text("\n".join(names))
    dataset = store.import_target(spec, small)
    assert dataset.count() == 24
    assert dataset.count_sample_tags() == {"train": 12, "val": 12}
    present = {
        int(v)
        for path in dataset.match_tags("val").values("ground_truth.mask_path")
        for v in np.unique(read_mask(path))
    }
    assert present <= {0, 1, 2, 3, 4, 5, 255}
