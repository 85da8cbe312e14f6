"""Masks computed elsewhere: which file belongs to which image, and each way to be wrong."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wss_data.cosegmentation.imported import (
    KnownImage,
    MaskFile,
    check_mask,
    match_masks,
    read_foreground,
    write_imported,
)
from wss_data.errors import SourceError, StoreError
from wss_data.imaging.images import write_jpeg
from wss_data.imaging.masks import read_mask

W, H = 40, 30


def known(stem: str, source_id: str | None = None, class_name: str = "cow", original=(W, H), folder=Path("stored")):
    return KnownImage(stem, class_name, str(folder / class_name / f"{stem}.jpg"), source_id, (W, H), original)


def block(width: int = W, height: int = H, value: int = 255, dtype=np.uint8) -> np.ndarray:
    """Left half foreground."""
    mask = np.zeros((height, width), dtype)
    mask[:, : width // 2] = value
    return mask


def save(mask: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)
    return path


def test_a_mask_is_found_by_the_stored_files_stem_or_by_the_source_images(tmp_path):
    images = [known("aaa", "cow/first.jpg"), known("bbb", "cow/brown/second.png"), known("ccc", "cow/third.jpeg")]
    save(block(), tmp_path / "cow" / "aaa.png")
    save(block(), tmp_path / "cow" / "second.png")
    save(block(), tmp_path / "cow" / "third.png")
    files, bad = match_masks(tmp_path, images, ["cow"])
    assert {file.path.stem: file.image.sample_id for file in files} == {"aaa": "aaa", "second": "bbb", "third": "ccc"}
    assert bad == []


def test_folders_below_the_class_tell_equal_names_apart(tmp_path):
    images = [known("aaa", "cow/brown/1.jpg"), known("bbb", "cow/white/1.jpg")]
    save(block(), tmp_path / "cow" / "brown" / "1.png")
    save(block(), tmp_path / "cow" / "white" / "1.png")
    files, bad = match_masks(tmp_path, images, ["cow"])
    assert [file.image.sample_id for file in files] == ["aaa", "bbb"]
    assert bad == []


def test_a_name_that_fits_two_images_is_not_guessed(tmp_path):
    images = [known("aaa", "cow/brown/1.jpg"), known("bbb", "cow/white/1.jpg")]
    save(block(), tmp_path / "cow" / "1.png")
    files, bad = match_masks(tmp_path, images, ["cow"])
    assert files == []
    assert sorted(item.reason for item in bad) == ["ambiguous", "missing", "missing"]


def test_two_masks_of_one_image_are_not_guessed_either(tmp_path):
    save(block(), tmp_path / "cow" / "aaa.png")
    save(block(), tmp_path / "cow" / "first.png")
    files, bad = match_masks(tmp_path, [known("aaa", "cow/first.jpg")], ["cow"])
    assert files == []
    assert [item.reason for item in bad] == ["ambiguous"]


def test_strangers_and_images_without_a_mask_are_reported(tmp_path):
    save(block(), tmp_path / "cow" / "nobody.png")
    _, bad = match_masks(tmp_path, [known("aaa")], ["cow"])
    assert sorted(item.reason for item in bad) == ["missing", "unknown"]


def test_an_image_of_another_class_does_not_take_the_mask(tmp_path):
    save(block(), tmp_path / "cow" / "1.png")
    images = [known("aaa", "cow/1.jpg"), known("bbb", "cat/1.jpg", class_name="cat")]
    files, bad = match_masks(tmp_path, images, ["cat", "cow"])
    assert [file.image.sample_id for file in files] == ["aaa"]
    assert [item.reason for item in bad] == ["missing"] and str(bad[0]).startswith("cat/1.jpg: the image has no mask")


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (block(W + 1, H), "size"),
        (block(H, W), "rotated"),
        (block(value=7), "values"),
        (np.stack([block()] * 3, axis=2), "rgb"),
        (block(value=40_000, dtype=np.uint16), "16_bit"),
        (block(value=0), "empty"),
        (np.full((H, W), 255, np.uint8), "full"),
    ],
)
def test_each_mistake_has_its_name(tmp_path, mask, reason):
    file = MaskFile(known("aaa"), save(mask, tmp_path / "cow" / "aaa.png"))
    assert check_mask(file).reason == reason


def test_a_damaged_file_is_unreadable(tmp_path):
    path = save(block(), tmp_path / "aaa.png")
    path.write_bytes(path.read_bytes()[:30])
    assert check_mask(MaskFile(known("aaa"), path)).reason == "unreadable"


@pytest.mark.parametrize("value", [1, 255])
def test_zero_and_one_count_like_zero_and_255(tmp_path, value):
    mask = read_foreground(MaskFile(known("aaa"), save(block(value=value), tmp_path / "aaa.png")))
    assert mask.foreground.dtype == bool
    assert mask.foreground.mean() == 0.5
    assert not mask.resized


def test_an_exported_label_mask_is_taken_if_it_shows_the_images_own_class(tmp_path):
    path = save(block(value=4), tmp_path / "aaa.png")
    mask = read_foreground(MaskFile(replace(known("aaa"), class_index=4), path))
    assert mask.foreground.mean() == 0.5
    assert check_mask(MaskFile(replace(known("aaa"), class_index=3), path)).reason == "values"


def test_a_mask_of_the_original_images_size_is_brought_to_the_stored_ones(tmp_path):
    image = known("aaa", original=(4 * W, 4 * H))
    mask = read_foreground(MaskFile(image, save(block(4 * W, 4 * H), tmp_path / "aaa.png")))
    assert mask.resized
    assert mask.foreground.shape == (H, W)
    assert np.array_equal(mask.foreground, block() > 0)


def test_a_mask_drawn_on_the_unrotated_original_is_reported_as_such(tmp_path):
    image = known("aaa", original=(4 * W, 4 * H))
    assert check_mask(MaskFile(image, save(block(4 * H, 4 * W), tmp_path / "aaa.png"))).reason == "rotated"


def stored(folder: Path, *stems: str) -> list[KnownImage]:
    images = [known(stem, folder=folder / "images") for stem in stems]
    for image in images:
        write_jpeg(np.full((H, W, 3), 90, np.uint8), Path(image.path))
    return images


def test_one_bad_mask_stops_the_import_before_anything_is_written(tmp_path):
    images = stored(tmp_path, "aaa", "bbb")
    save(block(), tmp_path / "masks" / "cow" / "aaa.png")
    save(block(value=9), tmp_path / "masks" / "cow" / "bbb.png")
    with pytest.raises(StoreError, match=r"nothing was imported\. 1 bad: 1 values\.") as caught:
        write_imported(tmp_path / "masks", images, ["cow"], tmp_path / "out")
    assert "the mask holds the values 0, 9" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_bad_masks_can_be_skipped_and_are_counted(tmp_path):
    images = stored(tmp_path, "aaa", "bbb", "ccc")
    save(block(), tmp_path / "masks" / "cow" / "aaa.png")
    save(block(value=9), tmp_path / "masks" / "cow" / "bbb.png")
    written, report = write_imported(tmp_path / "masks", images, ["cat", "cow"], tmp_path / "out", skip_bad=True)
    assert [mask.image.sample_id for mask in written] == ["aaa"]
    assert read_mask(written[0].path).tolist() == (block() // 255 * 2).tolist(), "the foreground takes the class index"
    assert written[0].foreground_ratio == 0.5
    assert written[0].quality.compactness == 1
    assert report.imported == {"cat": 0, "cow": 1}
    assert sorted(item.reason for item in report.bad) == ["missing", "values"]
    assert "2 bad: 1 values, 1 missing." in str(report)


def test_when_every_mask_is_bad_nothing_is_imported(tmp_path):
    images = stored(tmp_path, "aaa")
    save(block(value=9), tmp_path / "masks" / "cow" / "aaa.png")
    with pytest.raises(StoreError, match="no mask is good"):
        write_imported(tmp_path / "masks", images, ["cow"], tmp_path / "out", skip_bad=True)


def test_a_folder_without_masks_is_reported_with_the_layout_that_is_wanted(tmp_path):
    (tmp_path / "masks" / "kuh").mkdir(parents=True)
    with pytest.raises(
        SourceError, match=r"no mask found.*<class>/<stem>\.png \(or \.mat\) with a class of cow\. Found: kuh\."
    ):
        match_masks(tmp_path / "masks", [known("aaa")], ["cow"])
    with pytest.raises(SourceError, match="there is no such folder"):
        match_masks(tmp_path / "nowhere", [known("aaa")], ["cow"])


def test_masks_of_any_spelling_meet_and_files_that_are_no_masks_are_reported(tmp_path):
    folder = tmp_path / "cow"
    folder.mkdir()
    for name in ("Ku\u0308he.PNG", os.fsdecode(b"v\xf6gel.png"), "c.bmp", "Thumbs.db"):
        (folder / name).write_bytes(b"")
    images = [known("aaa", "cow/K\u00fche.jpg"), known("bbb", "cow/v\\xf6gel.jpg")]

    files, bad = match_masks(tmp_path, images, ["cow"])

    assert [file.image.sample_id for file in files] == ["aaa", "bbb"] and bad == []
    (folder / "Ku\u0308he.PNG").unlink()
    (folder / os.fsdecode(b"v\xf6gel.png")).unlink()
    with pytest.raises(SourceError, match=r"no mask found \(2 files passed over \(1 \.bmp, 1 hidden"):
        match_masks(tmp_path, images, ["cow"])
