import shutil

import pytest
from pictures import TINY, rectangles

from wss_data.errors import CheckpointError, SourceError
from wss_data.images import read_image
from wss_data.masks import read_mask
from wss_train.predict import predict_images
from wss_train.training import train


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    table = rectangles(tmp_path_factory.mktemp("rectangles"))
    return train(table, TINY, tmp_path_factory.mktemp("runs") / "final", "final", progress=False)


@pytest.fixture
def photos(tmp_path):
    rectangles(tmp_path / "photos", 3)
    shutil.rmtree(tmp_path / "photos" / "masks")
    return tmp_path / "photos"


def test_every_image_gets_a_palette_mask_of_its_size_in_the_same_place(model, photos, tmp_path):
    summary = predict_images(model, photos, tmp_path / "out", progress=False)
    assert (summary.written, summary.failed.total()) == (3, 0)
    for i in range(3):
        mask = read_mask(tmp_path / "out" / "images" / f"{i}.png")
        assert mask.shape == (30, 40) and mask.max() <= 2


def test_an_unreadable_image_is_counted_and_the_others_go_on(model, photos, tmp_path):
    (photos / "broken.jpg").write_text("no image")
    summary = predict_images(model, photos, tmp_path / "out", progress=False)
    assert (summary.written, dict(summary.failed)) == (3, {"unreadable": 1})
    assert "broken.jpg" in str(summary)
    assert not (tmp_path / "out" / "broken.png").exists()


def test_one_file_with_crf_and_overlay(model, photos, tmp_path):
    summary = predict_images(
        model, photos / "images" / "0.png", tmp_path / "out", crf=True, overlays=True, workers=1, progress=False
    )
    assert summary.written == 1
    assert read_image(tmp_path / "out" / "0_overlay.jpg").shape == (30, 40, 3)


def test_two_images_that_would_share_a_mask_are_refused_before_anything_is_written(model, photos, tmp_path):
    shutil.copy(photos / "images" / "0.png", photos / "images" / "0.jpg")
    with pytest.raises(SourceError, match="differ in their suffix only"):
        predict_images(model, photos, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_no_image_and_no_model_are_refused(model, photos, tmp_path):
    with pytest.raises(SourceError, match="no image found"):
        predict_images(model, tmp_path / "nowhere", tmp_path / "out", progress=False)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        predict_images(tmp_path / "nowhere", photos, tmp_path / "out", progress=False)
