"""The folder of WSS_HOME is moved, and WSS_HOME with it: every file is found where it lies now."""

import shutil
from pathlib import Path

import pytest
from builders import ENGINE, foreground, make_web, target_definition, write_target

from wss_data import store
from wss_data.imaging.masks import write_mask
from wss_data.runtime.home import dataset_folder

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def homes(tmp_path, monkeypatch):
    """Two places for the data; WSS_HOME names the first. The names of both hold that of a dataset."""
    old, new = tmp_path / "moved-web" / "old", tmp_path / "moved-web" / "moved-web"
    monkeypatch.setenv("WSS_HOME", str(old))

    def move():
        shutil.move(old, new)
        monkeypatch.setenv("WSS_HOME", str(new))
        return new

    return move


def paths(dataset, *fields):
    return [Path(path) for field in ("filepath", *fields) for path in dataset.values(field) if path]


def test_images_and_masks_of_a_web_dataset_are_found_in_the_new_place(homes):
    before = make_web("moved-web")
    stored = sorted(path.relative_to(dataset_folder("moved-web")) for path in paths(before, "cosegmentation.mask_path"))
    new = homes()
    table = store.example_table(store.open_dataset("moved-web"), "cosegmentation")
    assert len(table) == 2
    assert all(Path(path).is_file() for path in (*table.image_paths, *table.mask_paths))
    moved = paths(store.open_dataset("moved-web"), "cosegmentation.mask_path")
    assert sorted(path.relative_to(new / "moved-web") for path in moved) == stored


def test_a_move_that_was_followed_half_way_is_followed_to_the_end(homes):
    dataset = make_web("moved-half")
    new = homes()
    for field in ("cosegmentation.mask_path", "filepath"):
        first, *others = dataset.values(field)
        dataset.set_values(field, [str(new / Path(first).relative_to(new.parent / "old")), *others])
    assert all(
        path.is_relative_to(new) and path.is_file()
        for path in paths(store.open_dataset("moved-half"), "cosegmentation.mask_path")
    )


def test_masks_of_a_target_dataset_are_found_and_its_images_elsewhere_stay(homes, tmp_path):
    images = write_target(tmp_path / "voc")
    dataset = store.import_target(target_definition("moved-t"), images)
    mask = dataset_folder(dataset.name) / "pseudo_mask" / "t1.png"
    write_mask(foreground(0.5).astype("uint8"), mask)
    store.set_target_masks(dataset, "pseudo_mask", {"t1": mask}, ENGINE)
    new = homes()
    dataset = store.open_dataset("moved-t-target")
    masks = [p for f in ("pseudo_mask", "ground_truth") for p in dataset.values(f"{f}.mask_path") if p]
    assert len(masks) == 3
    assert all(Path(path).is_file() and Path(path).is_relative_to(new) for path in masks)
    assert {path.parent for path in paths(dataset)} == {images / "JPEGImages"}


def test_a_file_that_is_at_its_recorded_place_is_not_looked_for_elsewhere(homes, tmp_path, monkeypatch):
    recorded = paths(make_web("moved-not"))
    shutil.copytree(tmp_path / "moved-web" / "old", tmp_path / "copy")
    monkeypatch.setenv("WSS_HOME", str(tmp_path / "copy"))
    assert paths(store.open_dataset("moved-not")) == recorded


def test_a_target_whose_images_moved_is_imported_again_from_there_and_keeps_its_masks(homes, tmp_path):
    spec = target_definition("moved-images")
    dataset = store.import_target(spec, write_target(tmp_path / "voc"))
    write_mask(foreground(0.5).astype("uint8"), tmp_path / "p" / "t1.png")
    store.set_target_masks(dataset, "pseudo_mask", {"t1": tmp_path / "p" / "t1.png"}, ENGINE)
    shutil.move(tmp_path / "voc", tmp_path / "elsewhere")
    dataset = store.import_target(spec, tmp_path / "elsewhere")
    assert all(path.is_file() for path in paths(dataset))
    assert dataset.exists("pseudo_mask").values("image_id") == ["t1"]
