"""The layout of COCO: run lengths by COCO's own reader, and label masks whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wss_data.imaging.images import write_jpeg
from wss_data.imaging.masks import write_mask
from wss_data.ledger import Ledger
from wss_data.records import Provenance
from wss_data.sharing.layouts.base import Contents, ExportRow
from wss_data.sharing.layouts.coco import annotations_of, encode_rle, write_coco

coco = pytest.importorskip("pycocotools.mask")

BLOBS = np.zeros((3000, 2000), bool)
BLOBS[5:2900, 3:1900] = True
BLOBS[7, 8] = False
EDGES = [np.zeros((3, 4), bool), np.ones((3, 4), bool), np.eye(7, dtype=bool), BLOBS]


@pytest.mark.parametrize("mask", EDGES, ids=["empty", "full", "diagonal", "long runs"])
def test_run_lengths_are_those_of_cocos_own_encoder(mask):
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_rle(mask) == {"size": list(mask.shape), "counts": theirs["counts"].decode()}
    assert np.array_equal(coco.decode(encode_rle(mask)), mask)


@settings(max_examples=60, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_any_mask_is_encoded_as_coco_does(mask):
    ours = encode_rle(mask)
    assert ours["counts"].encode() == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]


def test_each_class_is_one_annotation_with_its_box_and_void_is_a_crowd():
    mask = np.zeros((10, 20), np.uint8)
    mask[2:5, 3:9] = 2
    mask[9, 19] = 255
    two, void = annotations_of(mask)
    assert (two["category_id"], two["area"], two["bbox"], two["iscrowd"]) == (2, 18, [3, 2, 6, 3], 0)
    assert (void["category_id"], void["area"], void["bbox"], void["iscrowd"]) == (255, 1, [19, 9, 1, 1], 1)
    assert annotations_of(np.zeros((3, 3), np.uint8)) == []


@pytest.fixture
def exported(tmp_path):
    masks = {"cat_1": np.zeros((20, 24), np.uint8), "cow_1": np.full((20, 24), 2, np.uint8), "cow_2": None}
    masks["cat_1"][3:9, 4:20] = 1
    masks["cat_1"][0] = 255
    rows = []
    for name, mask in masks.items():
        image, path = tmp_path / "from" / f"{name}.jpg", tmp_path / "from" / f"{name}.png"
        write_jpeg(np.full((20, 24, 3), 90, np.uint8), image)
        if mask is not None:
            write_mask(mask, path)
        where = Provenance("web", name, image_url=f"https://x.example/{name}.jpg", license="CC0-1.0")
        mask_path = None if mask is None else path
        rows.append(ExportRow(name, image, mask_path, (name[:3],), "kept", "1" * 64, where, {"confidence": 0.5}))
    write_coco(Contents(tuple(rows), ("cat", "cow"), Ledger(), name="zoo"), tmp_path / "coco")
    return tmp_path / "coco", masks


def test_cocos_own_tools_read_the_file(exported):
    from pycocotools.coco import COCO

    folder, masks = exported
    read = COCO(str(folder / "annotations" / "instances_kept.json"))
    assert [category["name"] for category in read.loadCats(read.getCatIds())] == ["cat", "cow", "ignore"]
    (cat,) = (image for image in read.dataset["images"] if image["file_name"] == "cat_1.jpg")
    assert (cat["width"], cat["height"], cat["coco_url"]) == (24, 20, "https://x.example/cat_1.jpg")
    annotations = read.loadAnns(read.getAnnIds(imgIds=[cat["id"]], catIds=[1]))
    assert np.array_equal(read.annToMask(annotations[0]) == 1, masks["cat_1"] == 1)
    assert read.dataset["licenses"] == [{"id": 1, "name": "CC0-1.0", "url": ""}]


def test_label_masks_can_be_put_together_again_with_void_and_an_image_without_a_mask_has_no_annotation(exported):
    from pycocotools.coco import COCO

    folder, masks = exported
    read = COCO(str(folder / "annotations" / "instances_kept.json"))
    for image in read.dataset["images"]:
        mask, annotations = np.zeros((20, 24), np.uint8), read.loadAnns(read.getAnnIds(imgIds=[image["id"]]))
        for annotation in annotations:
            mask[read.annToMask(annotation) == 1] = annotation["category_id"]
        wanted = masks[image["file_name"].removesuffix(".jpg")]
        assert np.array_equal(mask, wanted) if wanted is not None else not annotations


def test_fiftyone_reads_it_as_coco(exported, database):
    import fiftyone as fo

    folder, _ = exported
    dataset = fo.Dataset.from_dir(
        dataset_type=fo.types.COCODetectionDataset,
        data_path=str(folder / "images"),
        labels_path=str(folder / "annotations" / "instances_kept.json"),
        label_types=["segmentations"],
        label_field="segmentations",
        progress=False,
    )
    try:
        found = {sample.filename: sample["segmentations"] for sample in dataset}
        assert [d.label for d in found["cow_1.jpg"].detections] == ["cow"]
        assert found["cow_1.jpg"].detections[0].mask.all()
    finally:
        dataset.delete()
