import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from drawings import TINY, rectangles
from PIL import Image

from wss_data.errors import CheckpointError, ImageError, RecipeError, SourceError, WssError
from wss_data.imaging.images import read_image
from wss_data.imaging.masks import read_mask
from wss_train.predict import find_images, load_model, predict_images
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


@pytest.fixture(scope="module")
def loaded(model):
    return load_model(model)


@pytest.fixture
def files(photos):
    return sorted((photos / "images").iterdir())


def test_a_model_in_one_line_gives_the_mask_that_the_command_writes(model, loaded, photos, files, tmp_path):
    predict_images(model, photos, tmp_path / "out", scales=(0.5, 1.0), crf=True, progress=False)
    for path in files:
        prediction = loaded.predict(path, scales=(0.5, 1.0), crf=True)
        assert prediction.mask.dtype == np.uint8 and prediction.classes == ("background", "red", "green")
        assert np.array_equal(prediction.mask, read_mask(tmp_path / "out" / "images" / path.name))


def test_a_file_its_pixels_and_an_image_of_pillows_are_one_image_alone_or_in_a_list(loaded, files):
    bgr = np.ascontiguousarray(read_image(files[0])[:, :, ::-1])
    ways = [files[0], str(files[0]), read_image(files[0]), Image.open(files[0]), bgr[:, :, ::-1]]
    wanted = loaded.predict(files[0]).mask
    assert wanted.shape == (30, 40)
    assert all(np.array_equal(loaded.predict(way).mask, wanted) for way in ways)
    assert all(np.array_equal(found.mask, wanted) for found in loaded.predict(ways))
    assert loaded.predict([]) == []


def test_an_image_that_lies_on_its_side_is_predicted_upright_however_it_is_given(loaded, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = np.full((30, 40, 3), 90, np.uint8)
    image[:10, :20, 0] = 230
    Image.fromarray(image).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        predictions = loaded.predict([tmp_path / "turned.png", opened, np.rot90(image, -1)])
    assert all(prediction.mask.shape == (40, 30) for prediction in predictions)
    assert np.array_equal(predictions[0].mask, predictions[1].mask)
    assert np.array_equal(predictions[0].mask, predictions[2].mask)
    assert predictions[1].overlay().shape == (40, 30, 3)


def test_probabilities_are_of_every_pixel_and_their_best_class_is_the_mask(loaded, files):
    prediction = loaded.predict(files[0], probabilities=True)
    assert prediction.probabilities.shape == (3, 30, 40) and prediction.probabilities.dtype == np.float32
    assert np.allclose(prediction.probabilities.sum(axis=0), 1, atol=1e-5)
    assert np.array_equal(prediction.probabilities.argmax(axis=0), prediction.mask)
    assert loaded.predict(files[0]).probabilities is None


@pytest.mark.parametrize("crf", [False, True])
def test_labels_that_are_known_leave_no_pixel_to_other_classes(loaded, files, crf):
    assert set(loaded.predict(files[0], labels=["green"], crf=crf).shown) <= {"green"}
    first, _, third = loaded.predict(files, labels=["red", ["green", "red"], None], crf=crf)
    assert set(first.shown) <= {"red"}
    assert np.array_equal(third.mask, loaded.predict(files[2], crf=crf).mask)


def test_options_of_a_call_hold_for_that_call_alone(model, files):
    loaded = load_model(model, scales=(0.5,))
    before = loaded.predict(files[0], probabilities=True).probabilities
    other = loaded.predict(files[0], probabilities=True, scales=(1.0,)).probabilities
    assert not np.array_equal(before, other)
    assert np.array_equal(loaded.predict(files[0], probabilities=True).probabilities, before)


def test_threads_that_share_a_model_get_the_masks_that_one_gets(loaded, files):
    shared = Image.open(files[1])  # not loaded yet: Pillow itself is not safe to load one in several threads
    images = [files[0], shared, read_image(files[2])]
    alone = [prediction.mask for prediction in loaded.predict(images, crf=True)]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: loaded.predict(images, crf=True), range(12)):
            assert all(np.array_equal(one.mask, other) for one, other in zip(found, alone, strict=True))


def test_images_of_one_size_share_a_pass(loaded, files, monkeypatch):
    sizes = []
    network = type(loaded.labeller.network)
    forward = network.forward

    def counted(self, images):
        sizes.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(network, "forward", counted)
    loaded.predict(files)
    assert sizes == [3]


@pytest.mark.parametrize(
    ("image", "reported"),
    [
        ("nowhere.jpg", "nowhere.jpg: the image cannot be opened"),
        (np.zeros((30, 40), np.uint8), r"the image: an array of shape \(30, 40\) and type uint8. Wanted is a file"),
        (np.zeros((30, 40, 3)), "type float64"),
        (np.zeros((2, 30, 40, 3), np.uint8), "several are given as a list"),
        (Image.new("RGB", (3, 3)), "the image: 3x3 pixels, at least 16 a side"),
        ([np.zeros((30, 40, 3), np.uint8), 7], r"images\[1\]: 7 is no image"),
    ],
)
def test_what_is_no_image_is_refused_in_one_sentence(loaded, image, reported):
    with pytest.raises(ImageError, match=reported):
        loaded.predict(image)


def test_wrong_labels_options_and_folders_are_refused_with_what_is_known(loaded, files, photos):
    with pytest.raises(WssError, match="the label 'cat' is no class of the model; it knows red, green"):
        loaded.predict(files[0], labels=["cat"])
    with pytest.raises(WssError, match="there are 3 images; wanted is a list with one entry for each image"):
        loaded.predict(files, labels=["red"])
    with pytest.raises(WssError, match="scales"):
        loaded.predict(files[0], scales=(0.0,))
    with pytest.raises(TypeError, match="unexpected keyword argument 'device'"):
        loaded.predict(files[0], device="cpu")
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors\. A run folder"):
        load_model(photos)
    with pytest.raises(RecipeError, match="no device"):
        load_model(photos, device="abacus")


def test_an_overlay_shows_the_image_where_nothing_was_found(loaded, files):
    prediction = loaded.predict(files[0], labels=["red"])
    drawn = prediction.overlay(opacity=0.5)
    assert drawn.shape == (30, 40, 3) and drawn.dtype == np.uint8
    assert not np.array_equal(drawn, read_image(files[0]))
