"""What another tool left in a field of FiftyOne becomes a mask field, and goes back and forth through the App."""

import fiftyone as fo
import numpy as np
import pytest
from builders import H, W, foreground, make_web

from wss_data import store
from wss_data.commands.cli import main
from wss_data.errors import SpecError, StoreError
from wss_data.imaging.masks import read_mask, write_mask
from wss_data.runtime.home import dataset_folder
from wss_data.store.label_fields import import_field

pytestmark = pytest.mark.usefixtures("database")


def instance(label: str | None, box: tuple[int, int, int, int], confidence: float | None = None, mask=True, **values):
    """An instance whose box, (left, top, width, height) in pixels, is all foreground."""
    left, top, width, height = box
    pixels = {"mask": np.ones((height, width), bool)} if mask else {}
    relative = [left / W, top / H, width / W, height / H]
    return fo.Detection(label=label, bounding_box=relative, confidence=confidence, **pixels, **values)


def fill(dataset, field: str, labels: dict) -> None:
    """``labels``: first digit of the image's sha256 -> its label."""
    if dataset.has_sample_field(field):
        dataset.clear_sample_field(field)
    for sample in dataset:
        if (label := labels.get(sample.sha256[0])) is not None:
            sample[field] = label
            sample.save()


def detections(*found) -> fo.Detections:
    return fo.Detections(detections=list(found))


WHOLE = {
    "1": detections(instance("cat", (2, 3, 10, 20), 0.9)),
    "2": detections(instance("cat", (0, 0, 20, 30), 0.6), instance("cow", (10, 0, 10, 30), 0.8)),
    "3": detections(instance("cat", (0, 0, 20, 30), 0.6), instance("cow", (10, 0, 10, 30), 0.4)),
    "4": detections(instance("cow", (0, 0, 10, 10), 0.7), instance("cow", (5, 5, 10, 10), 0.3)),
}


def masks_of(dataset, field: str) -> dict[str, np.ndarray]:
    """First digit of the image's sha256 -> its mask."""
    dataset.reload()
    rows = zip(*dataset.values(["sha256", f"{field}.mask_path"]), strict=True)
    return {sha[0]: read_mask(path) for sha, path in rows if path}


def test_instances_become_a_mask_field_in_which_the_surer_instance_has_the_pixel(capsys):
    dataset = make_web("field-instances")
    fill(dataset, "SAM 3".replace(" ", ""), WHOLE)
    before = dataset.values(["cosegmentation.mask_path", "confidence", "tags"])

    assert main(["import-masks", dataset.name, "--field", "SAM3", "--supervision", "masks"]) == 0

    told = capsys.readouterr().out
    assert "4 masks imported (3 cat, 1 cow)." in told and "--adopt cosegmentation_sam3" in told
    masks = masks_of(dataset, "cosegmentation_sam3")
    assert masks["1"][3:23, 2:12].all() and masks["1"].sum() == 200
    assert masks["2"][0].tolist() == [1] * 10 + [255] * 10 + [0] * 20, "another class's pixels are void"
    assert masks["3"][0].tolist() == [1] * 20 + [0] * 20
    assert (masks["4"] == 2).sum() == 175, "instances of one class are joined"
    assert dataset.values(["cosegmentation.mask_path", "confidence", "tags"]) == before
    assert not store.example_table(dataset, "cosegmentation_sam3").ledger.strictly_image_level
    assert store.example_table(dataset, "cosegmentation").ledger.strictly_image_level

    assert main(["cosegment", dataset.name, "--compare", "cosegmentation_sam3"]) == 0
    assert main(["cosegment", dataset.name, "--adopt", "cosegmentation_sam3"]) == 0
    dataset.reload()
    sure = dict(zip(*dataset.values(["sha256", "confidence"]), strict=True))
    assert {sha[0]: value for sha, value in sure.items()} == {"1": 0.9, "2": 0.6, "3": 0.6, "4": 0.7}
    store.mask_fields.adopt_masks(dataset, store.BEFORE_IMPORT)
    assert sorted(dataset.values("confidence")) == sorted(before[1]), "earlier masks come back with their own"


def test_what_the_field_no_longer_holds_leaves_the_mask_field_at_the_next_import():
    dataset = make_web("field-again")
    fill(dataset, "yoloe", WHOLE)
    import_field(dataset, "yoloe")
    fill(dataset, "yoloe", {key: WHOLE[key] for key in "14"})
    _, report = import_field(dataset, "yoloe", skip_bad=True)
    assert [error.reason for error in report.bad] == ["missing", "missing"]
    assert set(masks_of(dataset, "cosegmentation_yoloe")) == {"1", "4"}


def test_one_class_is_taken_and_the_others_keep_what_they_have():
    dataset = make_web("field-class")
    fill(dataset, "sam", WHOLE)
    import_field(dataset, "sam", supervision="masks")
    fill(dataset, "sam", {**WHOLE, "4": detections(instance("cow", (0, 0, 4, 4)))})
    import_field(dataset, "sam", supervision="none", classes=["cow"])
    masks = masks_of(dataset, "cosegmentation_sam")
    assert set(masks) == set("1234") and (masks["4"] == 2).sum() == 16
    assert not store.example_table(dataset, "cosegmentation_sam").ledger.strictly_image_level, "cats are as before"
    with pytest.raises(SpecError, match="dog"):
        import_field(dataset, "sam", classes=["dog"])


def test_instances_below_the_least_score_count_as_none_and_a_persons_count_fully():
    dataset = make_web("field-scores")
    fill(dataset, "sam", {**WHOLE, "4": detections(instance("cow", (0, 0, 10, 10)))})
    with pytest.raises(StoreError, match=r"nothing was imported\. 2 bad: 2 missing.*confidence of at least 0\.7"):
        import_field(dataset, "sam", min_score=0.7)
    assert not dataset.has_sample_field("cosegmentation_sam")
    assert not (dataset_folder(dataset.name) / "imported").exists()
    import_field(dataset, "sam", min_score=0.7, skip_bad=True)
    assert set(masks_of(dataset, "cosegmentation_sam")) == {"1", "4"}


def test_a_box_that_leaves_the_image_is_cut_and_its_mask_is_brought_to_its_size():
    dataset = make_web("field-boxes")
    out = instance("cat", (-5, -6, 10, 12))
    coarse = fo.Detection(
        label="cat", bounding_box=[0.5, 0.5, 0.5, 0.5], mask=np.array([[1, 0], [0, 1]], np.uint8) * 255
    )
    fill(dataset, "sam", {**WHOLE, "1": detections(out), "2": detections(coarse)})
    import_field(dataset, "sam")
    masks = masks_of(dataset, "cosegmentation_sam")
    assert masks["1"][:6, :5].all() and masks["1"].sum() == 30
    assert masks["2"][15, 20] and not masks["2"][15, 39] and masks["2"].sum() == H * W // 8


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (None, "1 missing. cat/photo_1.jpg: the field 'sam' is empty"),
        (detections(instance("cat", (0, 0, 9, 9), mask=False)), "1 missing. .*'cat' is a box without a mask"),
        (detections(instance("cow", (0, 0, 9, 9))), "1 missing. .*no instance of 'cat' was found"),
        (detections(instance("tabby", (0, 0, 9, 9)), WHOLE["1"].detections[0]), r"1 unknown\. 'tabby' \(1 times"),
        (detections(instance(None, (0, 0, 9, 9)), WHOLE["1"].detections[0]), r"1 unknown\. '\(no label\)' \(1 times"),
        (detections(instance("cat", (0, 0, W, H))), "1 full"),
        (detections(instance("cat", (0, 0, 9, 9), 7.5)), "1 values. .*a confidence is 7.5, 0 to 1 is wanted"),
        (detections(instance("cat", (9 * W, 0, 9, 9))), "1 size. .*lies outside the image"),
    ],
    ids=["nothing", "box", "other class", "unknown label", "no label", "full", "confidence", "outside"],
)
def test_labels_that_cannot_be_taken_change_nothing_and_are_one_sentence(label, words, request):
    dataset = make_web(f"field-bad-{request.node.callspec.id.replace(' ', '-')}")
    fill(dataset, "sam", {**WHOLE, "1": label})
    with pytest.raises(StoreError, match=rf"field 'sam' of dataset .*: nothing was imported\. 1 bad: {words}"):
        import_field(dataset, "sam")
    assert not dataset.has_sample_field("cosegmentation_sam")
    assert import_field(dataset, "sam", skip_bad=True)[1].bad


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("nowhere", "has no field 'nowhere'. Wanted is one of Detections with instance masks.*are: none"),
        ("label", "holds Classification"),
        ("sha256", "holds StringField"),
        ("cosegmentation", "is a mask field already"),
    ],
)
def test_a_field_of_the_wrong_type_is_refused_with_those_that_fit(field, words, capsys):
    dataset = store.open_dataset("field-type") if store.dataset_exists("field-type") else make_web("field-type")
    with pytest.raises(StoreError, match=words):
        import_field(dataset, field)
    assert main(["import-masks", dataset.name, "masks", "--min-score", "0.5"]) == 2
    assert "--min-score and --class go with --field" in capsys.readouterr().err


# ------------------------------------------------------------- masks of whole images


def test_masks_of_whole_images_are_read_as_their_maker_named_the_values():
    dataset = make_web("field-named")
    values = np.zeros((H, W), np.uint8)
    values[:, :10], values[:, 10:20], values[:, 20:30] = 7, 8, 9
    fill(dataset, "sem", {digit: fo.Segmentation(mask=values) for digit in "1234"})
    dataset.mask_targets["sem"] = {7: "cow", 8: "cat", 9: "ignore"}
    dataset.save()
    import_field(dataset, "sem")
    masks = masks_of(dataset, "cosegmentation_sem")
    assert masks["1"][0, ::10].tolist() == [255, 1, 255, 0] and masks["4"][0, ::10].tolist() == [2, 255, 255, 0]

    dataset.mask_targets["sem"] = {7: "cow", 8: "cat"}
    dataset.save()
    with pytest.raises(StoreError, match=r"1 unknown\. 'the value 9' \(4 times"):
        import_field(dataset, "sem")


def test_values_that_nobody_named_are_a_foreground_or_the_classes_indices_for_all_images_alike(tmp_path):
    dataset = make_web("field-unnamed")
    fill(dataset, "sem", {digit: fo.Segmentation(mask=foreground(0.5)) for digit in "1234"})
    import_field(dataset, "sem")
    assert [masks_of(dataset, "cosegmentation_sem")[digit].max() for digit in "14"] == [1, 2]

    labels = np.zeros((2 * H, 2 * W), np.uint8)
    labels[:H], labels[H : H + 9] = 1, 2
    for digit in "1234":
        write_mask(labels if digit != "3" else np.where(labels == 1, labels, 0), tmp_path / f"{digit}.png")
    fill(dataset, "whole", {digit: fo.Segmentation(mask_path=str(tmp_path / f"{digit}.png")) for digit in "1234"})
    _, report = import_field(dataset, "whole")
    assert report.resized == 4
    masks = masks_of(dataset, "cosegmentation_whole")
    assert [sorted(set(np.unique(masks[digit]))) for digit in "134"] == [[0, 1, 255], [0, 1], [0, 2, 255]]

    labels[-1] = 77
    write_mask(labels, tmp_path / "4.png")
    with pytest.raises(StoreError, match=r"1 values\. 'whole': the values \[77\] mean no class\. Say what they mean"):
        import_field(dataset, "whole")


def test_a_mask_field_of_an_engine_is_never_written_over():
    dataset = make_web("field-engine")
    store.declare_mask_field(dataset, "cosegmentation_sam")
    path, key = dataset.values("cosegmentation.mask_path")[0], dataset.values("id")[0]
    store.set_masks(dataset, "cosegmentation_sam", [store.MaskValues(key, path, 0.9, 0.9, None, "common", "f")])
    fill(dataset, "sam", WHOLE)
    with pytest.raises(StoreError, match="holds masks that an engine made"):
        import_field(dataset, "sam")
