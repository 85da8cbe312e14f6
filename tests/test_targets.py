"""Reading a target dataset in the layout of PASCAL VOC."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wss_data.errors import MaskError, SourceError, SpecError
from wss_data.imaging.images import write_jpeg
from wss_data.imaging.masks import read_mask, write_mask
from wss_data.spec import DatasetSpec, spec_from_dict
from wss_data.target.translation import (
    DROP_REASONS,
    check_target,
    check_targets,
    mask_translation,
    source_fingerprint,
    translate_mask,
)
from wss_data.target.voc import read_voc_layout, write_drawn

W, H = 32, 24
XML = (
    "<annotation><object><name>{}</name><bndbox><xmin>1</xmin></bndbox></object>"
    "<object><name>{}</name></object></annotation>"
)


def definition(**target) -> DatasetSpec:
    target = {"layout": "voc", "mask_classes": ["bird", "cat", "cow"], **target}
    return spec_from_dict({"name": "small", "classes": ["cow", "cat"], "sources": ["folder"], "target": target})


def layout(folder: Path, train=("t1", "t2"), val=("v1",), labels="t1,cow\nt2,cat cow\nv1,cat bird\n") -> Path:
    (folder / "JPEGImages").mkdir(parents=True)
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("".join(f"{name}\n" for name in train))
    (lists / "val.txt").write_text("".join(f"{name}\n" for name in val))
    for position, name in enumerate(dict.fromkeys([*train, *val])):
        write_jpeg(np.full((H, W, 3), 20 * position, np.uint8), folder / "JPEGImages" / f"{name}.jpg")
    mask = np.zeros((H, W), np.uint8)
    mask[:6], mask[6:12], mask[12:18] = 1, 2, 255  # bird, cat, void, in the masks' own indices
    for name in val:
        write_mask(mask, folder / "SegmentationClass" / f"{name}.png")
    if labels is not None:
        (folder / "image_labels.csv").write_text("image,classes\n" + labels)
    return folder


def test_splits_and_labels_come_from_the_lists_and_the_table(tmp_path):
    records = read_voc_layout(layout(tmp_path), definition()).records
    assert [(r.id, r.split, r.labels) for r in records] == [
        ("t1", "train", ("cow",)),
        ("t2", "train", ("cow", "cat")),
        ("v1", "val", ("cat",)),
    ], "labels in order of the class index, classes that the definition lacks left out"


def test_masks_of_training_images_are_never_looked_at(tmp_path):
    layout(tmp_path)
    write_mask(np.ones((H, W), np.uint8), tmp_path / "SegmentationClass" / "t1.png")
    records = read_voc_layout(tmp_path, definition()).records
    assert [record.mask_path for record in records if record.split == "train"] == [None, None]
    images = check_targets(records, definition(), tmp_path / "out")
    assert [image.mask_path is None for image in images] == [True, True, False]


def test_labels_can_come_from_voc_annotations_and_boxes_are_ignored(tmp_path):
    layout(tmp_path, labels=None)
    (tmp_path / "Annotations").mkdir()
    for name, classes in {"t1": ("cow", "cow"), "t2": ("cat", "person")}.items():
        (tmp_path / "Annotations" / f"{name}.xml").write_text(XML.format(*classes))
    records = read_voc_layout(tmp_path, definition()).records
    assert [record.labels for record in records] == [("cow",), ("cat",), ()]


def test_a_table_given_by_hand_wins_and_may_name_files(tmp_path):
    table = tmp_path / "mine.csv"
    table.write_text("\ufeffclasses,image\ncat,t1.jpg\ncow,t1.jpg\n", encoding="utf-8")
    records = read_voc_layout(layout(tmp_path / "voc"), definition(), table).records
    assert [record.labels for record in records] == [("cow", "cat"), (), ()]


def test_the_list_with_the_extra_images_is_the_default_and_can_be_overridden(tmp_path):
    layout(tmp_path)
    extra = tmp_path / "ImageSets" / "Segmentation" / "train_aug.txt"
    extra.write_text("/JPEGImages/t2.jpg /SegmentationClassAug/t2.png\n")
    train = [r.id for r in read_voc_layout(tmp_path, definition()).records if r.split == "train"]
    assert train == ["t2"]
    named = definition(options={"train": "train"})
    assert [r.id for r in read_voc_layout(tmp_path, named).records if r.split == "train"] == ["t1", "t2"]
    with pytest.raises(SpecError, match="definition 'small': target: there is no option 'trian'"):
        read_voc_layout(tmp_path, definition(options={"trian": "train"}))


def test_an_image_in_both_splits_is_an_error(tmp_path):
    with pytest.raises(SourceError, match=r"1 images are in both train\.txt and val\.txt, such as t2"):
        read_voc_layout(layout(tmp_path, val=("v1", "t2")), definition())


def test_what_is_missing_is_reported_in_one_sentence(tmp_path):
    with pytest.raises(SourceError, match="no such folder"):
        read_voc_layout(tmp_path / "nowhere", definition())
    with pytest.raises(SourceError, match="no folder JPEGImages inside"):
        read_voc_layout(tmp_path, definition())
    layout(tmp_path / "a", labels=None)
    with pytest.raises(SourceError, match=r"no image-level labels.*image_labels\.csv"):
        read_voc_layout(tmp_path / "a", definition())
    layout(tmp_path / "b", labels="t1,dog\n")
    with pytest.raises(
        SourceError, match=r"no training image shows a class of definition 'small'.*Its labels name: dog"
    ):
        read_voc_layout(tmp_path / "b", definition())
    layout(tmp_path / "c")
    (tmp_path / "c" / "ImageSets" / "Segmentation" / "val.txt").unlink()
    with pytest.raises(SourceError, match=r"val\.txt: there is no such list"):
        read_voc_layout(tmp_path / "c", definition())
    layout(tmp_path / "d")
    (tmp_path / "d" / "image_labels.csv").write_text("name;label\n")
    with pytest.raises(SourceError, match="image and classes are wanted"):
        read_voc_layout(tmp_path / "d", definition())
    layout(tmp_path / "e")
    for path in (tmp_path / "e" / "JPEGImages").iterdir():
        path.unlink()
    with pytest.raises(SourceError, match="none of the 3 listed images is there"):
        read_voc_layout(tmp_path / "e", definition())


def test_masks_are_translated_by_name_and_other_classes_become_void(tmp_path):
    records = read_voc_layout(layout(tmp_path), definition()).records
    image = check_target(records[-1], definition(), tmp_path / "out")
    cat = 2
    assert image.dropped is None
    assert read_mask(image.mask_path)[::6, 0].tolist() == [255, cat, 255, 0], "bird is no class of the definition"


def test_translation_literally():
    spec = definition()
    names = [None, "bird", "cat", "cow"]
    table = mask_translation(spec)
    for value in range(256):
        if value == 255:
            expected = 255
        elif value == 0:
            expected = 0
        elif value < len(names):
            expected = 1 + spec.class_names.index(names[value]) if names[value] in spec.class_names else 255
        else:
            expected = -1
        assert table[value] == expected


def test_masks_with_other_values_are_refused_with_the_way_out():
    mask = np.full((H, W), 15, np.uint8)
    with pytest.raises(MaskError, match=r"holds the value 15, but classes end at 3.*mask_classes") as caught:
        translate_mask(mask, mask_translation(definition()), (W, H), "v1.png")
    assert caught.value.reason == "values"


def spoil_truncated(folder: Path):
    path = folder / "JPEGImages" / "v1.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])


SPOILED = {
    "missing": lambda folder: (folder / "JPEGImages" / "v1.jpg").unlink(),
    "truncated": spoil_truncated,
    "mask_missing": lambda folder: (folder / "SegmentationClass" / "v1.png").unlink(),
    "mask_size": lambda folder: write_mask(np.zeros((H, W + 1), np.uint8), folder / "SegmentationClass" / "v1.png"),
    "mask_values": lambda folder: write_mask(np.full((H, W), 9, np.uint8), folder / "SegmentationClass" / "v1.png"),
    "mask_rgb": lambda folder: Image.new("RGB", (W, H)).save(folder / "SegmentationClass" / "v1.png"),
}


@pytest.mark.parametrize("reason", SPOILED)
def test_a_spoiled_image_is_dropped_with_its_reason_and_never_raises(tmp_path, reason):
    records = read_voc_layout(layout(tmp_path), definition()).records
    SPOILED[reason](tmp_path)
    image = check_target(records[-1], definition(), tmp_path / "out")
    assert image.dropped == reason
    assert "v1" in image.detail
    assert reason in DROP_REASONS
    assert not (tmp_path / "out").exists()


def test_a_training_image_without_a_label_of_ours_is_dropped_and_a_validation_image_is_not(tmp_path):
    layout(tmp_path, labels="t1,cow\nt2,bird\nv1,bird\n")
    images = check_targets(read_voc_layout(tmp_path, definition()).records, definition(), tmp_path / "out")
    assert [image.dropped for image in images] == [None, "no_labels", None]


def test_the_fingerprint_changes_with_files_labels_and_the_meaning_of_masks(tmp_path):
    layout(tmp_path)

    def fingerprint(**target):
        spec = definition(**target)
        return source_fingerprint(read_voc_layout(tmp_path, spec), spec)

    first = fingerprint()
    assert fingerprint() == first
    assert fingerprint(mask_classes=["cat", "bird", "cow"]) != first
    (tmp_path / "image_labels.csv").write_text("image,classes\nt1,cow cat\nt2,cow\nv1,cat\n")
    second = fingerprint()
    assert second != first
    write_jpeg(np.full((H, W, 3), 77, np.uint8), tmp_path / "JPEGImages" / "t1.jpg")
    assert fingerprint() != second


def test_a_drawn_target_is_read_like_any_other(tmp_path):
    spec = spec_from_dict(
        {
            "name": "small",
            "classes": ["bird", "car"],
            "sources": ["drawn"],
            "target": {"layout": "drawn", "options": {"train": 3, "val": 2, "seed": 5}},
        }
    )
    write_drawn(spec, tmp_path)
    records = read_voc_layout(tmp_path, spec).records
    assert [record.split for record in records] == ["train"] * 3 + ["val"] * 2
    assert all(image.dropped is None for image in check_targets(records, spec, tmp_path / "out"))


def test_a_wrong_option_of_a_drawn_target_is_reported(tmp_path):
    spec = definition(layout="drawn", mask_classes=None, options={"trainn": 3})
    with pytest.raises(SpecError, match="definition 'small': target: there is no option 'trainn'"):
        write_drawn(spec, tmp_path)
