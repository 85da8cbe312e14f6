"""What another tool left in a field of FiftyOne becomes a mask field, and goes back and forth through the App."""

import base64
from pathlib import Path

import fiftyone as fo
import fiftyone.core.utils as fou
import numpy as np
import pytest
from builders import H, W, definition, foreground, make_web
from fiftyone.server.routes.sample import handle_json_patch

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
    assert "--min-score, --class and --adopt go with --field" in capsys.readouterr().err


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


# ------------------------------------------------------------- edited in the App


def edit(dataset, digit: str, path: str, value) -> None:
    """One change of the App's annotation mode, by the function of FiftyOne's server that applies it."""
    (sample,) = dataset.match({"sha256": digit * 64})
    operation = {"op": "remove", "path": path} if value is None else {"op": "replace", "path": path, "value": value}
    handle_json_patch(sample, [operation])
    sample.save()


def wire(mask: np.ndarray) -> str:
    """A mask as the App sends it."""
    return base64.b64encode(fou.serialize_numpy_array(mask)).decode("ascii")


def test_masks_become_instances_that_are_the_masks_again_and_none_counts_as_edited(capsys):
    dataset = make_web("edit-nothing")
    mask = np.zeros((H, W), np.uint8)
    mask[2:9, 2:9], mask[4:6, 4:6], mask[12:25, 20:39], mask[29, 0], mask[:, 39] = 1, 0, 1, 1, 255
    for digit, values in ("1", mask), ("4", np.zeros((H, W), np.uint8)):  # the engine found nothing
        write_mask(values, Path(dataset.match({"sha256": digit * 64}).values("cosegmentation.mask_path")[0]))
    assert main(["edit-masks", dataset.name]) == 0
    assert "4 images have their masks as instances" in capsys.readouterr().out
    dataset.reload()
    (found,) = dataset.match({"sha256": "1" * 64}).values("instances.detections")
    assert sorted(one.label for one in found) == ["cat", "cat", "ignore"], "a speck is part of the largest one"
    assert dataset.active_label_schemas == ["instances"]
    assert "instances" in dataset.app_config.active_fields.paths, "what is not ticked cannot be edited"
    coloured = {entry["path"]: entry["valueColors"] for entry in dataset.app_config.color_scheme.fields}
    assert coloured["instances"] == coloured["label"], "VOC's colours"
    assert dataset.label_schemas["instances"]["classes"] == ["cat", "cow", "ignore"]

    assert main(["import-masks", dataset.name, "--field", "instances", "--adopt"]) == 0
    assert "4 are as they were: they stay what they are." in capsys.readouterr().out
    dataset.reload()
    assert not dataset.has_sample_field("cosegmentation_instances")
    assert set(dataset.values("cosegmentation.method")) == {"common"}


def test_what_was_edited_comes_back_as_drawn_by_a_person_and_all_else_stays(capsys):
    dataset = make_web("edit-one")
    store.judge(dataset, store.find_images(dataset, ["3" * 64]), "keep", "seen")
    before = dataset.values(["cosegmentation.mask_path", "verdict", "confidence"])
    assert main(["edit-masks", dataset.name]) == 0
    edit(dataset, "2", "/instances/detections/0/mask", wire(np.eye(9, W, dtype=bool)))
    edit(dataset, "4", "/instances/detections/0/label", "ignore")
    edit(dataset, "4", "/instances/detections/0/bounding_box", [0, 0, 0.5, 0.5])
    capsys.readouterr()

    assert main(["edit-masks", dataset.name]) == 2
    assert "holds 2 edited images whose masks are not in use. Bring them back first" in capsys.readouterr().err
    command = ["import-masks", dataset.name, "--field", "instances", "--adopt"]
    assert main(command) == 2
    assert "1 bad: 1 missing. cow/photo_4.jpg: no instance of 'cow' was found" in capsys.readouterr().err
    assert main([*command, "--skip-bad"]) == 1
    told = capsys.readouterr().out
    assert "1 masks imported (1 cat, 0 cow).\n2 are as they were" in told and "1 masks of" in told

    dataset.reload()
    digits = [sha[0] for sha in dataset.values("sha256")]
    after = dataset.values(["cosegmentation.mask_path", "verdict", "confidence"])
    assert [digit for digit, old, new in zip(digits, before[0], after[0], strict=True) if old != new] == ["2"]
    assert after[1] == before[1] and after[2][digits.index("2")] == 1.0
    assert masks_of(dataset, "cosegmentation")["2"].sum() == 9
    methods = dict(zip(digits, dataset.values("cosegmentation.method"), strict=True))
    assert methods == {"1": "common", "2": store.IMPORTED, "3": "common", "4": "common"}
    assert dict(zip(digits, dataset.values(f"{store.BEFORE_IMPORT}.method"), strict=True))["2"] == "common"
    ledger = store.mask_ledger(dataset.match({"sha256": "2" * 64}), "cosegmentation")
    assert [str(entry.supervision) for entry in ledger.entries] == ["image_level", "masks"], (
        "the engine's, and a person's"
    )
    assert store.example_table(dataset.match({"label.label": "cow"}), "cosegmentation").ledger.strictly_image_level


def test_a_second_round_begins_from_the_masks_in_use_once_the_first_is_adopted():
    dataset = make_web("edit-twice")
    store.make_instances(dataset, classes=["cat"])
    assert dataset.exists("instances").distinct("label.label") == ["cat"]
    for rows in 4, 6:
        edit(dataset, "1", "/instances/detections/0/mask", wire(np.ones((rows, W), bool)))
        edit(dataset, "1", "/instances/detections/0/bounding_box", [0, 0, 1, rows / H])
        into, report = import_field(dataset, "instances")
        assert (report.imported["cat"], report.unchanged) == (1, 2)
        store.adopt_masks(dataset, into)
        assert masks_of(dataset, "cosegmentation")["1"].sum() == rows * W
        assert store.make_instances(dataset, classes=["cat"]) == 3
    assert import_field(dataset, "instances")[1].unchanged == 3


def test_a_field_of_that_name_that_somebody_made_is_left_alone():
    dataset = make_web("edit-foreign")
    fill(dataset, "instances", WHOLE)
    with pytest.raises(StoreError, match="has a field 'instances' that wss-data did not make"):
        store.make_instances(dataset)
    with pytest.raises(StoreError, match="no masks in a field 'cosegmentation_9'"):
        store.make_instances(make_web("edit-no-masks"), "cosegmentation_9")


def test_a_dataset_without_masks_has_no_instances_to_edit(capsys):
    store.create_or_open(definition("empty-instances"), "web")
    assert main(["edit-masks", "empty-instances"]) == 2
    assert "no image that was asked for has a mask in 'cosegmentation'" in capsys.readouterr().err
    assert not store.open_dataset("empty-instances").has_sample_field("instances")
