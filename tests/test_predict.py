import os
import shutil

import numpy as np
import pytest
from drawings import TINY, rectangles
from PIL import Image

from wss_data.errors import CheckpointError, SourceError
from wss_data.imaging.images import read_image
from wss_data.imaging.masks import read_mask
from wss_train.predict import find_images, predict_images
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


def test_any_name_is_predicted_and_what_is_passed_over_is_reported(model, photos, tmp_path):
    names = [os.fsdecode(b"v\xf6gel"), "a\nb", "x" * 251]
    for i, name in enumerate(names):
        (photos / "images" / f"{i}.png").rename(photos / "images" / f"{name}.png")
    touch(photos, "b.heic", "@eaDir/c.png", ".thumbnails/d.png")
    summary = predict_images(model, photos, tmp_path / "out", progress=False)
    assert summary.written == 3 and summary.passed_over == "3 files passed over (2 hidden or of a tool, 1 .heic)"
    assert all((tmp_path / "out" / "images" / f"{name}.png").is_file() for name in names)
    found = find_images(str(photos / "**" / "*"))[0]
    assert len(found) == 3, "a wildcard does not stand for a folder of a tool"
    assert len(find_images(str(photos / "@eaDir" / "*"))[0]) == 1, "one that is written out is meant"
    with pytest.raises(SourceError, match="the result's name would be too long"):
        predict_images(model, photos, tmp_path / "more", overlays=True, progress=False)


def test_one_file_with_crf_and_overlay(model, photos, tmp_path):
    summary = predict_images(
        model, photos / "images" / "0.png", tmp_path / "out", crf=True, overlays=True, workers=1, progress=False
    )
    assert summary.written == 1
    assert read_image(tmp_path / "out" / "0_overlay.jpg").shape == (30, 40, 3)


def test_two_images_that_would_share_a_mask_are_refused_before_anything_is_written(model, photos, tmp_path):
    shutil.copy(photos / "images" / "0.png", photos / "images" / "0.jpg")
    with pytest.raises(SourceError, match=r"2 images would share the mask .*differ in their suffix only"):
        predict_images(model, photos, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_no_image_and_no_model_are_refused(model, photos, tmp_path):
    with pytest.raises(SourceError, match="no image found"):
        predict_images(model, tmp_path / "nowhere", tmp_path / "out", progress=False)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        predict_images(tmp_path / "nowhere", photos, tmp_path / "out", progress=False)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def places(*wanted, **options):
    return sorted(str(place) for place in find_images(wanted, **options)[0].values())


def test_folders_files_and_patterns_say_where_each_mask_goes(tmp_path):
    root = touch(tmp_path, "a/1.jpg", "a/deep/2.JPG", "a/notes.txt", "a/deep/3.png", "b/4.v2.webp")
    assert places(root / "a") == ["1", "deep/2", "deep/3"]
    assert places(root / "a" / "1.jpg", root / "b" / "4.v2.webp") == ["1", "4.v2"]
    assert places(str(root / "a" / "**" / "*")) == ["1", "deep/2", "deep/3"]
    assert places(str(root / "a" / "*.jpg")) == ["1"]
    assert places(str(root / "*" / "deep" / "[2-9].png")) == ["a/deep/3"]


def test_a_file_that_is_found_twice_counts_once_and_one_whose_name_looks_like_a_pattern_is_itself(tmp_path):
    root = touch(tmp_path, "a/1.jpg", "a/[1].jpg")
    assert places(root / "a", root / "a" / "1.jpg", str(root / "a" / "*.jpg")) == ["1", "[1]"]
    assert places(root / "a" / "[1].jpg") == ["[1]"]


def test_masks_of_an_earlier_call_inside_the_folder_are_no_images(tmp_path):
    root = touch(tmp_path, "a/1.jpg", "a/out/1.png")
    assert places(root / "a") == ["1", "out/1"]
    assert places(root / "a", out=root / "a" / "out") == ["1"]


def test_images_of_one_name_from_two_folders_are_refused_with_the_way_out(tmp_path):
    root = touch(tmp_path, "a/1.jpg", "b/1.jpg")
    with pytest.raises(SourceError, match=r"2 images would share the mask 1\.png. Give their common folder"):
        find_images([root / "a", root / "b"])
    assert places(root) == ["a/1", "b/1"]


@pytest.mark.parametrize("wanted", ["nothing/**/*.jpg", "nothing.jpg", "a/*.txt", []])
def test_what_gives_no_image_is_refused(tmp_path, wanted):
    touch(tmp_path, "a/notes.txt")
    with pytest.raises(SourceError, match="no image"):
        find_images(str(tmp_path / wanted) if wanted else [])


def test_a_mask_that_would_replace_an_image_is_refused(model, photos, tmp_path):
    before = (photos / "images" / "0.png").read_bytes()
    with pytest.raises(SourceError, match="would replace this image"):
        predict_images(model, photos, photos, progress=False)
    assert (photos / "images" / "0.png").read_bytes() == before


def test_every_kind_of_image_gets_a_mask_of_its_upright_size_or_a_reason(model, tmp_path):
    folder, size = tmp_path / "kinds", (40, 30)
    folder.mkdir()
    Image.new("L", size, 90).save(folder / "grey.png")
    Image.new("CMYK", size, (0, 200, 200, 0)).save(folder / "ink.jpg")
    Image.fromarray(np.full((30, 40), 40_000, np.uint16)).save(folder / "deep.png")
    Image.new("RGBA", size, (200, 0, 0, 9)).save(folder / "glass.png")
    Image.new("1", size).save(folder / "bits.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", size, (200, 0, 0)).save(folder / "turned.jpg", exif=exif)
    Image.new("RGB", (640, 16), (0, 200, 0)).save(folder / "wide.png")
    Image.new("RGB", (16, 640), (0, 200, 0)).save(folder / "tall.png")
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")

    summary = predict_images(model, folder, tmp_path / "out", overlays=True, progress=False)

    shapes = {path.stem: read_mask(path).shape for path in (tmp_path / "out").glob("*.png")}
    upright = dict.fromkeys(("grey", "ink", "deep", "glass", "bits"), (30, 40))
    assert shapes == {**upright, "turned": (40, 30), "wide": (16, 640), "tall": (640, 16)}
    assert read_image(tmp_path / "out" / "turned_overlay.jpg").shape == (40, 30, 3)
    assert dict(summary.failed) == {"too_small": 1} and "pixel.png" in summary.messages[0]
