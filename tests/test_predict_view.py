"""Masks of a model in FiftyOne, in datasets of ours and of others; and the page that shows how to ask a model."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from drawings import CLASSES, TINY, rectangles
from PIL import Image
from test_readme import python_of

import wss_data
from wss_data import store
from wss_data.errors import StoreError, TrainingDataError
from wss_data.imaging.masks import read_mask, write_mask
from wss_data.runtime.home import dataset_folder
from wss_data.spec import spec_from_dict
from wss_data.store.connection import fiftyone
from wss_train.predict import load_model
from wss_train.training import train

PAGES = Path(__file__).resolve().parents[1] / "docs" / "how_to"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    table = rectangles(tmp_path_factory.mktemp("rectangles"))
    return train(table, TINY, tmp_path_factory.mktemp("runs") / "final", "final", progress=False)


@pytest.fixture(scope="module")
def loaded(run):
    return load_model(run)


@pytest.fixture
def foreign(database, tmp_path):
    """A dataset that somebody made with FiftyOne alone."""
    fo = fiftyone()
    dataset = fo.Dataset("somebody-elses", overwrite=True)
    table = rectangles(tmp_path / "theirs", 3)
    dataset.add_samples([fo.Sample(filepath=path, rating=5) for path in table.image_paths], progress=False)
    yield dataset
    dataset.delete()


def test_masks_go_into_a_view_of_a_dataset_that_is_not_ours_named_by_colour(loaded, foreign):
    assert loaded.predict_view(foreign[1:], progress=False) == 2
    paths = foreign.values("prediction.mask_path")
    assert paths[0] is None and all(str(dataset_folder(foreign.name)) in path for path in paths[1:])
    for sample in foreign[1:]:
        assert np.array_equal(read_mask(sample["prediction"].mask_path), loaded.predict(sample.filepath).mask)
    assert foreign.mask_targets["prediction"] == {"#800000": "red", "#008000": "green", "#e0e0c0": "ignore"}
    assert loaded.predict_view(foreign[:1], progress=False) == 1
    assert None not in foreign.values("prediction.mask_path"), "masks of other images stay"


@pytest.fixture
def ours(database, tmp_path):
    """A target dataset of two images."""
    spec = spec_from_dict({"name": "drawn", "classes": list(CLASSES), "target": {"layout": "voc"}}, "test")
    if store.dataset_exists("drawn-target"):  # left by the tests of another file
        store.delete_dataset("drawn-target")
    dataset = store.create_or_open(spec, "target")
    for i, path in enumerate(rectangles(tmp_path / "ours", 2).image_paths):
        dataset.add_sample(fiftyone().Sample(filepath=path, image_id=f"r{i}", sha256="0", tags=["val"]))
    yield dataset
    dataset.delete()


def test_a_dataset_of_ours_keeps_what_the_model_learned_from_and_wants_its_classes(loaded, ours):
    assert loaded.predict_view(ours.match_tags("val"), progress=False) == 2
    folder = dataset_folder(ours.name) / "prediction"
    assert ours.values("prediction.mask_path") == [str(folder / f"r{i}.png") for i in range(2)]
    assert set(loaded.ledger.entries) <= set(store.mask_ledger(ours, "prediction").entries)
    with pytest.raises(StoreError, match=r"'ground_truth' .* is not for masks that a model made"):
        loaded.predict_view(ours, "ground_truth")
    ours.info["wss"]["definition"]["classes"] = [{"name": "cat"}, {"name": "cow"}]
    with pytest.raises(StoreError, match="has the classes cat, cow, the model knows red, green"):
        loaded.predict_view(ours)


def test_the_page_runs_as_it_stands(run, ours, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "final").symlink_to(run)
    for name in ("photo.jpg", "some_images/1.jpg", "some_images/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), (200, 60, 60)).save(tmp_path / name)
    names = {}
    for code in python_of(PAGES / "use_a_model_in_python.md"):
        exec(code, names)
    assert names["prediction"].mask.shape == (30, 40) and len(names["predictions"]) == 2
    assert None not in ours.values("prediction.mask_path")


def test_the_page_of_arrays_runs_as_it_stands_and_says_what_other_readers_give(ours, tmp_path):
    drawn = np.array([[0, 1], [2, 255]], np.uint8)
    for sample in ours:
        write_mask(drawn, tmp_path / f"{sample.image_id}.png")
        sample["ground_truth"] = fiftyone().Segmentation(mask_path=str(tmp_path / f"{sample.image_id}.png"))
        sample.save()
    names = {}
    for code in python_of(PAGES / "masks_as_arrays.md"):
        exec(code, names)
    assert names["mask"].tolist() == drawn.tolist() and names["names"] == ["background", *CLASSES]
    assert [mask.tolist() for mask in names["masks"]] == [drawn.tolist()] * 2
    path = names["table"].mask_paths[0]
    assert np.array(Image.open(path)).tolist() == drawn.tolist()
    assert names["sample"]["ground_truth"].get_mask()[0, 1].tolist() == [128, 0, 0]
    assert cv2.imread(path)[0, 1].tolist() == cv2.imread(path, cv2.IMREAD_UNCHANGED)[0, 1].tolist() == [0, 0, 128]
    assert cv2.imread(path, cv2.IMREAD_GRAYSCALE)[0, 1] == 38


def test_masks_in_the_database_are_arrays_too_and_what_is_none_is_refused(foreign):
    fo = fiftyone()
    sample = foreign.first()
    sample["stored"] = fo.Segmentation(mask=np.array([[0, 7]], np.int64))
    sample["boxes"] = fo.Detections()
    sample["deep"] = fo.Segmentation(mask=np.array([[0, 700]], np.uint16))
    assert wss_data.mask_array(sample, "stored").tolist() == [[0, 7]]
    assert wss_data.mask_array(sample, "stored").dtype == np.uint8
    with pytest.raises(StoreError, match="has Detections, no mask of classes, in a field 'boxes'"):
        wss_data.mask_array(sample, "boxes")
    with pytest.raises(StoreError, match=r"has no mask in a field .nothing.*: stored, deep"):
        wss_data.mask_array(sample, "nothing")
    with pytest.raises(StoreError, match="indices from 0 to 255"):
        wss_data.mask_array(sample, "deep")


def test_a_field_of_something_else_and_a_view_without_images_are_refused_before_anything_is_made(loaded, foreign):
    with pytest.raises(StoreError, match="field 'rating' of dataset 'somebody-elses' holds no masks"):
        loaded.predict_view(foreign, "rating")
    with pytest.raises(StoreError, match="what was given holds nothing; images are wanted"):
        loaded.predict_view(foreign.match_tags("nothing"), "again")
    assert not (dataset_folder(foreign.name) / "rating").exists()


def test_an_image_that_cannot_be_read_leaves_the_field_as_it_is_and_is_named(loaded, foreign, tmp_path):
    (tmp_path / "broken.jpg").write_text("no image")
    foreign.add_sample(fiftyone().Sample(filepath=str(tmp_path / "broken.jpg")))
    with pytest.raises(TrainingDataError, match=r"no mask can be made: .*broken.jpg"):
        loaded.predict_view(foreign, progress=False)
    assert not foreign.has_sample_field("prediction")


def test_the_masks_of_another_model_or_of_other_options_are_made_again(loaded, foreign):
    loaded.predict_view(foreign, progress=False)
    first = read_mask(foreign.first()["prediction"].mask_path)
    Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(foreign.first().filepath)
    loaded.predict_view(foreign, progress=False)
    again = read_mask(foreign.first()["prediction"].mask_path)
    assert np.array_equal(again, loaded.predict(foreign.first().filepath).mask)
    assert first.shape == again.shape
