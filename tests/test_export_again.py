"""Export a web dataset in the layout voc and import it again: nothing is lost, and nothing wrong is taken."""

import json
from dataclasses import replace
from pathlib import Path

import builders
import numpy as np
import pytest
from builders import ENGINE, make_web

from wss_data import build, store
from wss_data.commands.cli import main
from wss_data.errors import MaskError, StoreError
from wss_data.imaging.masks import read_mask, write_mask
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.runtime.home import dataset_folder
from wss_data.sharing.export import LAYOUTS, export_dataset
from wss_data.sharing.import_dataset import import_dataset
from wss_data.sharing.manifest import read_manifest, write_manifest
from wss_data.store.provenance import image_rows

pytestmark = pytest.mark.usefixtures("database", "small_maps")

NUMBERS = ["confidence", "foreground_ratio", "quality.compactness", "quality.pieces", "quality.colour_contrast"]


@pytest.fixture(scope="module")
def web(database):
    """A cat and a cow are kept; the cow by a person, and a band of its mask is uncertain."""
    dataset = make_web("again-web")
    cow = dataset.match({"label.label": "cow"}).first()
    mask = read_mask(cow.cosegmentation.mask_path)
    mask[14:16] = 255
    write_mask(mask, Path(cow.cosegmentation.mask_path))
    store.judge(dataset, [cow.id], "keep", "a fine cow")
    store.apply_filter(dataset)
    return dataset


@pytest.fixture(scope="module")
def exports(web, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    for layout in LAYOUTS:
        assert export_dataset(web, folder / layout, layout=layout) == 2
    return folder


def test_an_export_comes_back_with_equal_images_masks_labels_provenance_and_numbers(web, exports):
    name = "again-voc"
    imported = import_dataset(exports / "voc", name)
    assert (imported.images, imported.masks, imported.not_there) == (2, 2, 2)
    assert imported.can_be_fetched == 0 and "rebuild" not in str(imported), "photographs of a folder have no address"
    # Those of the builder are made up.
    assert len(imported.passed_over) == 1 and "2 images look like others" in imported.passed_over[0]
    again = store.open_dataset(name)
    before, after = image_rows(web.match_tags("kept")), image_rows(again)
    assert [row.class_name for row in after] == ["cat", "cow"]
    for old, new in zip(before, after, strict=True):
        assert Path(old.path).read_bytes() == Path(new.path).read_bytes() and old.path != new.path
        assert np.array_equal(read_mask(old.mask_path), read_mask(new.mask_path)) and old.mask_path != new.mask_path
        for field in ("sha256", "phash", "size", "original_size", "tags", "verdict", "provenance"):
            assert getattr(old, field) == getattr(new, field), field
    assert web.match_tags("kept").values(NUMBERS) == again.values(NUMBERS)
    assert store.mask_ledger(again, "cosegmentation") == ENGINE
    assert again.match({"label.label": "cow"}).values("verdict_reason") == ["a fine cow"]
    assert again.persistent and again.default_mask_targets == web.default_mask_targets
    assert again.list_saved_views() == web.list_saved_views()
    assert name in {row.name for row in store.list_datasets()}
    assert store.example_table(again, "cosegmentation").labels.tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize("layout", sorted(set(LAYOUTS) - {"voc"}))
def test_another_layout_is_refused_with_the_way_to_export_for_reading_back(exports, layout):
    with pytest.raises(StoreError, match="export the dataset again with --layout voc"):
        import_dataset(exports / layout, f"again-{layout}")
    assert not store.dataset_exists(f"again-{layout}")


def test_a_second_round_trip_changes_nothing(exports, tmp_path):
    import_dataset(exports / "voc", "again-once")
    export_dataset(store.open_dataset("again-once"), tmp_path / "voc", layout="voc")
    for path in (exports / "voc" / "SegmentationClass").iterdir():
        assert np.array_equal(read_mask(path), read_mask(tmp_path / "voc" / "SegmentationClass" / path.name))
    first, second = (read_manifest(folder / "manifest.jsonl.gz") for folder in (exports / "voc", tmp_path / "voc"))
    assert second.images == tuple(image for image in first.images if "kept" in image.tags)


def test_a_dataset_that_exists_is_left_alone(web, exports):
    with pytest.raises(StoreError, match="'again-web' exists already"):
        import_dataset(exports / "voc")
    assert web.count() == 4


def test_a_wrong_mask_is_reported_before_anything_is_stored(web, tmp_path):
    export_dataset(web, tmp_path / "out", layout="voc")
    (path,) = (tmp_path / "out" / "SegmentationClass").glob("cow_*")
    write_mask(np.full((30, 40), 7, np.uint8), path)
    with pytest.raises(MaskError, match="holds the value 7, wanted are"):
        import_dataset(tmp_path / "out", "again-wrong")
    write_mask(np.full((3, 4), 2, np.uint8), path)
    with pytest.raises(MaskError, match="4x3 pixels, the image 40x30"):
        import_dataset(tmp_path / "out", "again-wrong")
    assert not store.dataset_exists("again-wrong") and not dataset_folder("again-wrong").exists()


def test_an_import_that_fails_half_way_leaves_nothing(exports, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "apply_filter", full)
    with pytest.raises(OSError, match="No space"):
        import_dataset(exports / "voc", "again-full")
    assert not store.dataset_exists("again-full") and not dataset_folder("again-full").exists()


def test_a_mask_edited_in_the_export_is_the_one_that_comes_back(web, tmp_path):
    export_dataset(web, tmp_path / "out", layout="voc")
    (path,) = (tmp_path / "out" / "SegmentationClass").glob("cow_*")
    edited = np.zeros((30, 40), np.uint8)
    edited[:6] = 2
    write_mask(edited, path)
    import_dataset(tmp_path / "out", "again-edited")
    rows = {row.class_name: row for row in image_rows(store.open_dataset("again-edited"))}
    assert np.array_equal(read_mask(rows["cow"].mask_path), edited)


@pytest.mark.parametrize("layout", ["voc", "folders", "coco", "huggingface"])
def test_no_path_of_this_machine_is_in_an_export(layout, tmp_path, monkeypatch):
    plain = builders.record

    def local(name, class_name, digit):
        made = plain(name, class_name, digit)
        return replace(made, provenance=replace(made.provenance, image_url=f"file:///home/somebody/{digit}.jpg"))

    monkeypatch.setattr(builders, "record", local)
    dataset = make_web(f"again-private-{layout}")
    entry = Ledger().add("masks imported from /home/somebody/masks", Supervision.UNKNOWN, UsedFor.COSEGMENTATION)
    store.set_ledger(dataset, "cosegmentation", entry)
    export_dataset(dataset, tmp_path / "out", layout=layout)
    for path in (tmp_path / "out").rglob("*"):
        if path.suffix in (".json", ".jsonl", ".csv", ".md", ".txt"):
            text = path.read_text()
            assert "somebody" not in text and str(dataset_folder(dataset.name)) not in text, path


def test_a_folder_that_is_no_export_is_refused(tmp_path, exports):
    with pytest.raises(StoreError, match="no such folder"):
        import_dataset(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="no export that can be read back"):
        import_dataset(tmp_path)
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(StoreError, match="import-target"):
        import_dataset(tmp_path, "again-nothing")


def test_the_command_imports_what_the_command_exports(web, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["export", "again-web", out]) == 0
    assert json.loads((tmp_path / "out" / "ledger.json").read_text())["strictly_image_level"] is True
    assert main(["import-dataset", out, "--name", "again-command"]) == 0
    assert "2 images and 2 masks" in capsys.readouterr().out
    assert main(["import-dataset", out, "--name", "again-command"]) == 2
    assert "--name" in capsys.readouterr().err


def test_a_manifest_of_the_imported_dataset_lists_the_same_images(exports, tmp_path):
    import_dataset(exports / "voc", "again-listed")
    write_manifest(store.open_dataset("again-listed"), tmp_path / "m.jsonl")
    listed = {image.sha256: image.provenance for image in read_manifest(tmp_path / "m.jsonl").images}
    before = {image.sha256: image.provenance for image in read_manifest(exports / "voc" / "manifest.jsonl.gz").images}
    assert listed == {sha256: before[sha256] for sha256 in listed} and len(listed) == 2


@pytest.mark.data
def test_real_photographs_with_computed_masks_come_back(test_data, tmp_path):
    for name in ("cat", "cow"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for path in sorted((test_data / "web_animals" / "images" / name).iterdir())[:4]:
            (tmp_path / "photos" / name / path.name).symlink_to(path)
    spec = builders.definition("again-real", filters={"min_foreground": 0.01})
    dataset = build(spec, images=tmp_path / "photos", progress=False)
    kept = image_rows(dataset.match_tags("kept"))
    export_dataset(dataset, tmp_path / "out", layout="voc")
    assert import_dataset(tmp_path / "out", "again-real-voc").passed_over == ()
    after = image_rows(store.open_dataset("again-real-voc"))
    assert len(after) == len(kept) > 0
    for old, new in zip(kept, after, strict=True):
        assert Path(old.path).read_bytes() == Path(new.path).read_bytes()
        assert np.array_equal(read_mask(old.mask_path), read_mask(new.mask_path))
        assert replace(old.provenance, image_url=None) == replace(new.provenance, image_url=None)
