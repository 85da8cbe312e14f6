"""Several masks of one image: history of imports, comparison, adoption."""

import shutil
from pathlib import Path

import fiftyone.operators as foo
import numpy as np
import pytest
from builders import ENGINE, foreground, make_web
from fiftyone.operators.executor import ExecutionContext

from wss_data import store
from wss_data.commands.cli import main
from wss_data.errors import MaskError, StoreError
from wss_data.imaging.masks import read_mask, write_mask
from wss_data.ledger import Supervision
from wss_data.pipeline import cosegment_again
from wss_data.plugin.operators import CosegmentAgain
from wss_data.sharing.export import export_dataset
from wss_data.store.mask_fields import (
    adopt_masks,
    check_new_field,
    compare_masks,
    disagreement_view,
    foreground_iou,
    set_model_masks,
)

pytestmark = pytest.mark.usefixtures("database", "small_maps")

BEFORE = store.BEFORE_IMPORT


def write_masks(folder: Path, share: float, digits: str = "1234") -> Path:
    """A folder with the top ``share`` of each frame as foreground, 0 and 255."""
    for digit in digits:
        mask = np.where(foreground(share), np.uint8(255), np.uint8(0))
        write_mask(mask, folder / ("cow" if digit == "4" else "cat") / f"photo_{digit}.png")
    return folder


def shares(dataset, field: str) -> dict[str, float]:
    """First digit of the image's sha256 -> fraction of its mask in a field that is foreground, read from the files."""
    rows = zip(*dataset.values(["sha256", f"{field}.mask_path"]), strict=True)
    return {sha[0]: round(float((read_mask(path) != 0).mean()), 3) for sha, path in rows if path}


def test_iou_counts_no_pixel_that_either_mask_calls_void():
    first = np.array([[1, 1, 1, 0, 255]], np.uint8)
    second = np.array([[0, 1, 1, 1, 1]], np.uint8)
    assert foreground_iou(first, second, 255) == 2 / 4
    assert foreground_iou(0 * first, 0 * second, 255) == 1


def test_each_import_keeps_the_masks_before_it_in_a_field_of_their_own(tmp_path):
    dataset = make_web("history")
    store.import_masks(dataset, write_masks(tmp_path / "a", 0.5), supervision="none")
    store.import_masks(dataset, write_masks(tmp_path / "b", 0.6), supervision="masks")
    store.import_masks(dataset, write_masks(tmp_path / "c", 0.7, "4"), skip_bad=True, supervision="boxes")

    assert shares(dataset, BEFORE) == {"1": 0.1, "2": 0.3, "3": 0.9, "4": 0.5}
    assert shares(dataset, f"{BEFORE}_2") == dict.fromkeys("1234", 0.5)
    assert shares(dataset, f"{BEFORE}_3") == {"4": 0.6}
    assert shares(dataset, "cosegmentation") == {"1": 0.6, "2": 0.6, "3": 0.6, "4": 0.7}
    assert set(dataset.values(f"{BEFORE}.method")) == {"common"}
    assert set(dataset.values(f"{BEFORE}_2.method")) == {store.IMPORTED}
    assert all(time.startswith("20") for time in dataset.values(f"{BEFORE}.replaced_at"))
    spare = next(group for group in dataset.app_config.sidebar_groups if group.name == "masks not in use")
    assert spare.paths == [BEFORE, f"{BEFORE}_2", f"{BEFORE}_3"] and not spare.expanded
    assert not set(spare.paths) & set(dataset.app_config.active_fields.paths), "not drawn over the masks in use"
    assert dataset.get_field(f"{BEFORE}_3").description.startswith("in use until 20")


def test_the_ledger_goes_with_the_masks_and_keeps_what_imported_masks_that_stay_were_made_from(tmp_path):
    dataset = make_web("history-ledger")
    store.import_masks(dataset, write_masks(tmp_path / "a", 0.5), supervision="none")
    store.import_masks(dataset, write_masks(tmp_path / "b", 0.6, "4"), skip_bad=True, supervision="masks")
    levels = {entry.supervision for entry in store.mask_ledger(dataset, "cosegmentation").entries}
    assert levels == {Supervision.NONE, Supervision.MASKS}
    assert store.mask_ledger(dataset, BEFORE) == ENGINE
    assert not store.example_table(dataset, "cosegmentation").ledger.strictly_image_level
    assert store.example_table(dataset, BEFORE).ledger.strictly_image_level


def test_training_takes_the_field_that_is_named(tmp_path):
    dataset = make_web("history-training")
    earlier = set(dataset.values("cosegmentation.mask_path"))
    store.import_masks(dataset, write_masks(tmp_path / "a", 0.5))
    table = store.example_table(dataset, BEFORE)
    assert len(table) == 4 and set(table.mask_paths) == earlier


def test_training_on_the_masks_before_a_correction_of_one_image_takes_the_same_images_as_training_after_it(tmp_path):
    dataset = make_web("history-same")
    before = store.example_table(dataset, "cosegmentation")
    store.import_masks(dataset, write_masks(tmp_path / "a", 0.5, "2"), skip_bad=True, supervision="masks")
    after, compared = store.example_table(dataset, "cosegmentation"), store.example_table(dataset, BEFORE)
    assert compared.ids == after.ids and len(compared) == 2
    assert compared.mask_paths == before.mask_paths
    assert sum(one != other for one, other in zip(compared.mask_paths, after.mask_paths, strict=True)) == 1
    assert compared.ledger.strictly_image_level and not after.ledger.strictly_image_level

    store.import_masks(dataset, write_masks(tmp_path / "b", 0.6, "4"), skip_bad=True, supervision="boxes")
    assert store.example_table(dataset, BEFORE).mask_paths == before.mask_paths, "before the first import"
    assert store.example_table(dataset, f"{BEFORE}_2").mask_paths == after.mask_paths, "before the second"
    assert Supervision.MASKS in {e.supervision for e in store.example_table(dataset, f"{BEFORE}_2").ledger.entries}


def test_one_mask_edited_in_an_export_comes_back_and_the_others_are_as_they_were(tmp_path):
    dataset = make_web("history-edit")
    before = shares(dataset, "cosegmentation")
    kept = dict(zip(*dataset.values(["sha256", "cosegmentation.mask_path"]), strict=True))
    for sha256, path in kept.items():
        class_name = Path(path).parent.name
        (tmp_path / class_name).mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / class_name)
        if sha256[0] == "2":
            edited = np.where(foreground(0.4), np.uint8(1), np.uint8(0))
            write_mask(edited, tmp_path / class_name / Path(path).name)
    store.import_masks(dataset, tmp_path)
    assert shares(dataset, "cosegmentation") == {**before, "2": 0.4}
    assert compare_masks(dataset, BEFORE).classes[0].mean_iou == pytest.approx((1 + 0.75 + 1) / 3, abs=0.01)


def test_a_mask_of_an_export_that_was_drawn_over_comes_back_and_the_ledger_says_that_a_person_drew_it(tmp_path):
    dataset = make_web("history-export")
    before = shares(dataset, "cosegmentation")
    export_dataset(dataset, tmp_path / "out", "folders")
    (mask_2,) = (tmp_path / "out" / "masks" / "cat").iterdir()
    write_mask(np.where(foreground(0.6), np.uint8(255), np.uint8(0)), mask_2)

    report = store.import_masks(dataset, tmp_path / "out" / "masks", skip_bad=True, supervision="masks")

    assert report.bad, "the dropped images have no mask there"
    assert shares(dataset, "cosegmentation") == {**before, "2": 0.6}
    assert shares(dataset, BEFORE)["2"] == before["2"]
    assert not store.example_table(dataset, "cosegmentation").ledger.strictly_image_level


def test_comparing_stores_a_number_and_puts_what_differs_most_first(tmp_path):
    dataset = make_web("compare")
    store.import_masks(dataset, write_masks(tmp_path, 0.5))
    found = compare_masks(dataset, BEFORE)
    assert [(row.class_name, row.images, row.differing) for row in found.classes] == [("cat", 3, 1), ("cow", 1, 0)]
    assert found.classes[0].mean_iou == pytest.approx((1 / 5 + 3 / 5 + 5 / 9) / 3)
    order = disagreement_view(dataset, found).values("sha256")
    assert [sha[0] for sha in order] == ["1", "3", "2", "4"]
    assert "cat                    3     0.452          1" in str(found)


def test_one_class_can_be_compared_by_itself(tmp_path):
    dataset = make_web("compare-class")
    store.import_masks(dataset, write_masks(tmp_path, 0.5))
    found = compare_masks(dataset, BEFORE, classes=["cow"])
    assert [(row.class_name, row.images) for row in found.classes] == [("cow", 1)]
    assert [sha[0] for sha in disagreement_view(dataset, found).values("sha256")] == ["4"]
    assert main(["cosegment", "compare-class", "--compare", BEFORE, "--class", "dog"]) == 2
    assert main(["cosegment", "compare-class", "--adopt", BEFORE, "--class", "dog"]) == 2


def test_adopted_masks_are_used_filtered_and_can_be_given_back(tmp_path):
    dataset = make_web("adopt")
    store.import_masks(dataset, write_masks(tmp_path, 0.5), supervision="masks")
    assert len(dataset.match_tags("kept")) == 4

    assert adopt_masks(dataset, BEFORE, classes=["cat"]) == 3

    assert shares(dataset, "cosegmentation") == {"1": 0.1, "2": 0.3, "3": 0.9, "4": 0.5}
    assert shares(dataset, f"{BEFORE}_2") == {"1": 0.5, "2": 0.5, "3": 0.5}
    assert dataset.match({"label.label": "cat"}).values("foreground_ratio") == pytest.approx([0.1, 0.3, 0.9])
    assert len(dataset.match_tags("kept")) == 2, "the filter was applied again"
    assert set(dataset.values("cosegmentation.method")) == {store.IMPORTED}, "a build leaves them alone"
    assert adopt_masks(dataset, f"{BEFORE}_2") == 3
    assert shares(dataset, "cosegmentation") == dict.fromkeys("1234", 0.5)


def test_a_field_that_is_not_there_is_reported_with_those_that_are():
    dataset = make_web("adopt-missing")
    with pytest.raises(StoreError, match=r"no masks in a field 'cosegmentation_9'\. Fields with masks: cosegmentation"):
        adopt_masks(dataset, "cosegmentation_9")
    with pytest.raises(StoreError, match="masks in use already"):
        adopt_masks(dataset, "cosegmentation")


@pytest.mark.parametrize("name", ["label", "cosegmentation", "cosegmentation_A", "cosegmentation_before_import_2"])
def test_a_second_mask_field_cannot_take_a_name_that_means_something_else(name):
    with pytest.raises(StoreError, match="For example: cosegmentation_2"):
        check_new_field(name)


def test_a_second_field_leaves_the_masks_in_use_their_numbers_and_the_filter_as_they_are(capsys):
    dataset = make_web("second-field")
    before = dataset.values(["cosegmentation.mask_path", "foreground_ratio", "confidence", "tags"])
    store.declare_mask_field(dataset, "cosegmentation_2")
    path = dataset.values("cosegmentation.mask_path")[0]
    key = dataset.values("id")[0]
    values = store.MaskValues(key, path, 0.9, 0.99, None, "other", "f2")
    store.set_masks(dataset, "cosegmentation_2", [values])
    assert dataset.values(["cosegmentation.mask_path", "foreground_ratio", "confidence", "tags"]) == before
    told = {member.sample_id: member.method for member in store.group_members(dataset, "cat", "cosegmentation_2")}
    assert told[key] == "other" and set(told.values()) == {"other", None}

    assert main(["cosegment", "second-field", "--compare", "cosegmentation_2"]) == 0
    assert main(["cosegment", "second-field", "--adopt", "cosegmentation_2"]) == 0
    assert "1 masks of 'cosegmentation_2' are used" in capsys.readouterr().out


def test_the_operators_compare_and_adopt(tmp_path):
    dataset = make_web("mask-operators")
    store.import_masks(dataset, write_masks(tmp_path, 0.5))
    context = {"dataset": dataset, "params": {"field": BEFORE}}
    told = foo.execute_operator("@wss/judge/compare_masks", context).result["done"]
    assert "cat                    3     0.452          1" in told
    result = foo.execute_operator("@wss/judge/adopt_masks", context).result
    assert result == {"done": f"4 masks of '{BEFORE}' are used from now on"}


def test_a_class_is_cosegmented_again_beside_the_masks_in_use_and_only_once():
    dataset = make_web("again-beside")
    before = dataset.values(["cosegmentation.mask_path", "foreground_ratio", "tags"])
    again = {"classes": ["cat"], "workers": 1, "progress": False, "field": "cosegmentation_2"}
    assert cosegment_again(dataset, **again) == 3
    assert dataset.values(["cosegmentation.mask_path", "foreground_ratio", "tags"]) == before
    assert dataset.values("cosegmentation_2.method").count("common") == 3
    assert cosegment_again(dataset, **again) == 0


def test_the_operator_cosegments_a_class_again_in_the_background_and_tells_how_far_it_is():
    dataset = make_web("again-operator")
    params = {"class_name": "cat", "method": "common", "options": "long_side: 256\nself_training_folds: 0"}
    seen = []
    context = ExecutionContext({"dataset_name": dataset.name, "params": params, "delegated": True})
    context.set_progress = lambda progress, label: seen.append((round(progress, 2), label))

    result = CosegmentAgain().execute(context)

    assert result["done"].startswith("3 masks in 'cosegmentation_2'")
    assert seen == [(0.33, "cat: 1 of 3 masks"), (0.67, "cat: 2 of 3 masks"), (1.0, "cat: 3 of 3 masks")]
    dataset.reload()
    assert dataset.values("cosegmentation_2.method").count("common") == 3


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"options": "long_side: [1"}, "the options are no YAML"),
        ({"options": "just words"}, "lines like `long_side: 384` are wanted"),
        ({"options": "long_sid: 3"}, "long_sid"),
        ({"field": "cosegmentation_before_import"}, "which holds earlier masks"),
    ],
)
def test_the_form_refuses_what_could_not_be_done_with_a_sentence(params, told):
    dataset = make_web("again-form") if not store.dataset_exists("again-form") else store.open_dataset("again-form")
    context = ExecutionContext({"dataset_name": dataset.name, "params": {"method": "common", **params}})
    refused = CosegmentAgain().resolve_input(context).to_json()["type"]["properties"]["refused"]
    assert refused["invalid"] and told in refused["error_message"]


def test_a_models_mask_is_trusted_as_far_as_the_mask_in_use_and_as_both_overlap(tmp_path):
    dataset = make_web("models")
    ids = dict(zip(*dataset.values(["sha256", "image_id"]), strict=True))
    paths = {}
    for digest, image_id in ids.items():
        paths[image_id] = tmp_path / f"{digest[0]}.png"
        write_mask(foreground(0.6).astype(np.uint8), paths[image_id])
    field = "cosegmentation_models"
    set_model_masks(dataset, field, paths, ENGINE)

    rows = zip(*dataset.values(["sha256", "confidence", f"{field}.confidence"]), strict=True)
    found = {digest[0]: round(sure / before, 2) for digest, before, sure in rows}
    assert found == {"1": round(0.1 / 0.6, 2), "2": 0.5, "3": round(0.6 / 0.9, 2), "4": round(0.5 / 0.6, 2)}
    assert store.mask_ledger(dataset, field).entries == ENGINE.entries

    with pytest.raises(MaskError):
        set_model_masks(dataset, field, {ids[digest]: tmp_path / "none.png" for digest in ids}, ENGINE)
    assert len(dataset.exists(f"{field}.mask_path")) == 4
