"""The FiftyOne dataset of the web, on a real database: images, masks, filter, tables."""

from pathlib import Path

import numpy as np
import pytest
from builders import ENGINE, H, W, definition, foreground, make_web, record
from PIL import Image

from wss_data import store
from wss_data.errors import StoreError, TrainingDataError
from wss_data.imaging.masks import read_mask
from wss_data.runtime.home import dataset_folder
from wss_data.spec import FilterSpec, spec_from_dict
from wss_data.store.connection import mongodb
from wss_data.store.info import info_of, update

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(scope="module")
def web(database):
    """A dataset that tests only look at."""
    return make_web("store-web")


def tags_of(dataset) -> dict[str, list[str]]:
    return {sha256[0]: tags for sha256, tags in zip(*dataset.values(["sha256", "tags"]), strict=True)}


# ------------------------------------------------------------- making and opening


def test_what_others_note_after_us_stays_when_this_process_saves_the_dataset_for_something_else(database):
    dataset = make_web("store-notes")
    update(dataset, ours={"cat": [1, 2.5, None]})
    mongodb().datasets.update_one({"name": "store-notes"}, {"$set": {"info.wss.theirs": 1}})
    dataset.description = "mine"  # which FiftyOne saves
    assert info_of(dataset)["ours"] == {"cat": [1, 2.5, None]}
    dataset.reload()
    assert (info_of(dataset)["ours"], info_of(dataset)["theirs"]) == ({"cat": [1, 2.5, None]}, 1)
    before = dataset.last_modified_at
    update(dataset, theirs=2)
    dataset.reload()
    assert info_of(dataset)["theirs"] == 2 and dataset.last_modified_at > before


def test_a_dataset_opened_again_is_what_is_stored_and_is_read_anew_only_if_that_changed(database):
    dataset = make_web("store-again")
    sample, stored = dataset.first(), mongodb().datasets
    store.open_dataset("store-again")
    record, opened_at = dataset._doc, stored.find_one({"name": "store-again"})["last_loaded_at"]

    def opened() -> bool:
        """Whether FiftyOne read the record anew."""
        before = dataset._doc
        assert store.open_dataset("store-again") is dataset
        return dataset._doc is not before

    assert not opened() and dataset._doc is record
    assert stored.find_one({"name": "store-again"})["last_loaded_at"] > opened_at
    stored.update_one({"name": "store-again"}, {"$set": {"description": "another process's"}})
    assert opened() and dataset.description == "another process's" and not opened()
    view = {"name": dataset.list_saved_views()[0], "_dataset_id": dataset._doc.id}
    mongodb().views.update_one(view, {"$set": {"description": "another process's"}})
    assert opened() and dataset.get_saved_view_info(view["name"])["description"] == "another process's" and not opened()
    mongodb()[dataset._sample_collection_name].update_one({"_id": sample._id}, {"$set": {"image_id": "another"}})
    assert not opened() and sample.image_id == "another"
    dataset.info["unsaved"] = 1
    assert opened() and "unsaved" not in dataset.info
    dataset.delete()
    assert make_web("store-again") is store.open_dataset("store-again") is not dataset


def test_a_new_dataset_is_persistent_and_knows_what_its_masks_mean(web):
    assert web.persistent
    names = {"#800000": "cat", "#008000": "cow", "#e0e0c0": "ignore"}
    assert web.default_mask_targets == names, "FiftyOne reads palette PNGs as colours"
    colours = {item["intTarget"]: item["color"] for item in web.app_config.color_scheme.default_mask_targets_colors}
    assert colours == {1: "#800000", 2: "#008000", 3: "#e0e0c0", 255: "#e0e0c0"}, "VOC's colours"
    assert web.app_config.active_fields.paths == ["tags", "label", "cosegmentation"], "hidden in the App otherwise"
    opened = {group.name: group.paths for group in web.app_config.sidebar_groups if group.expanded}
    assert opened["suspicious if low"] == ["quality.score", "confidence"]
    assert opened["suspicious if low or high"] == ["foreground_ratio"]
    assert len(opened) == 4, "labels and verdict beside them"
    assert web.get_field("oddness").description == "suspicious if high"


def test_saved_views_show_what_one_looks_for(web):
    assert web.list_saved_views() == [
        "kept", "most suspicious first", "least confident first", "odd ones out first",
        "dropped: too small", "dropped: too large", "dropped: low confidence", "dropped: your verdict",
        "dropped: duplicates", "dropped: leaks", "class cat", "class cow",
    ]  # fmt: skip

    def shown(view):
        return [sha256[0] for sha256 in web.load_saved_view(view).values("sha256")]

    assert sorted(shown("kept")) == ["2", "4"]
    assert shown("dropped: too small") == ["1"]
    assert shown("dropped: too large") == ["3"]
    assert shown("least confident first") == ["2", "4"]
    assert shown("class cow") == ["4"]
    assert shown("dropped: duplicates") == []


def test_everything_known_of_an_image_is_stored(web):
    sample = web.match({"sha256": "2" * 64}).first()
    assert sample.label.label == "cat"
    assert sample.image_id == f"cat/{'2' * 20}"
    assert (sample.metadata.width, sample.metadata.height) == (W, H)
    assert sample.phash == "2" * 16
    assert sample.provenance.source_id == "cat/photo_2.jpg"
    assert sample.provenance.license == "CC0-1.0"
    assert sample.provenance.retrieved_at.date().isoformat() == "2026-01-02"
    assert sample.provenance.original_width == 2 * W
    assert sample.cosegmentation.mask is None, "masks are files, never in the database"
    assert read_mask(sample.cosegmentation.mask_path).max() == 1
    assert sample.foreground_ratio == 0.3
    assert sample.quality.pieces == 1


def test_opening_again_changes_nothing_and_other_classes_are_refused(web):
    assert store.create_or_open(definition("store-web"), "web") is web
    other = spec_from_dict({"name": "store-web", "classes": ["cow", "cat"], "sources": ["folder"]})
    with pytest.raises(
        StoreError, match=r"'store-web' exists already, as a web dataset of the classes cat, cow; .* cow, cat"
    ):
        store.create_or_open(other, "web")


def test_a_web_dataset_is_never_taken_for_a_target():
    dataset = store.create_or_open(definition("store-x-target"), "web")
    with pytest.raises(StoreError, match="'store-x-target' exists already, as a web dataset"):
        store.create_or_open(definition("store-x"), "target")
    dataset.delete()


def test_a_dataset_of_someone_else_is_not_taken_over():
    import fiftyone as fo

    foreign = fo.Dataset("store-foreign", persistent=True)
    try:
        with pytest.raises(StoreError, match="'store-foreign' was not made by wss-data, and is left alone"):
            store.create_or_open(definition("store-foreign"), "web")
        with pytest.raises(StoreError, match="was not made by wss-data"):
            store.example_table(foreign.limit(1), None)
        assert "store-foreign" not in [row.name for row in store.list_datasets()]
        assert foreign.info == {}
    finally:
        foreign.delete()


def test_an_unknown_dataset_is_reported_with_those_that_are_there(web):
    with pytest.raises(StoreError, match=r"there is no dataset 'store-wbe'\. Known: .*store-web"):
        store.open_dataset("store-wbe")


def test_a_dataset_of_a_later_format_is_left_alone():
    dataset = store.create_or_open(definition("store-later"), "web")
    dataset.info["wss"] = {**dataset.info["wss"], "format": 99}
    dataset.save()
    with pytest.raises(StoreError, match=r"has format 99.*Update wss"):
        store.open_dataset("store-later")
    dataset.delete()


def test_the_list_tells_name_kind_and_numbers(web):
    row = next(row for row in store.list_datasets() if row.name == "store-web")
    assert row == store.DatasetRow("store-web", "web", images=4, kept=2, classes=("cat", "cow"))


# ------------------------------------------------------------- images and masks


def test_an_image_is_stored_once_a_class_however_often_it_is_added():
    name = "store-twice"
    dataset = store.create_or_open(definition(name), "web")
    cat, cow = record(name, "cat", "a"), record(name, "cow", "a")
    assert store.add_records(dataset, [cat, cat]) == 1
    assert store.add_records(dataset, [cat, cow]) == 1, "the same photograph may show both"
    assert store.add_records(dataset, [cat, cow]) == 0
    assert dataset.count() == 2
    assert store.add_records(dataset, []) == 0


def test_a_group_comes_in_the_same_order_whatever_order_it_was_stored_in():
    name = "store-order"
    dataset = store.create_or_open(definition(name), "web")
    store.add_records(dataset, [record(name, "cat", digit) for digit in "c1b"])
    members = store.group_members(dataset, "cat")
    assert [member.sha256[0] for member in members] == ["1", "b", "c"]
    assert {(member.fingerprint, member.method) for member in members} == {(None, None)}


def test_members_carry_what_made_their_mask(web):
    assert {(m.fingerprint, m.method) for m in store.group_members(web, "cat")} == {("f1", "common")}


# ------------------------------------------------------------- filter


def test_the_filter_tags_and_deletes_nothing(web):
    assert tags_of(web) == {"1": ["dropped:too_small"], "2": ["kept"], "3": ["dropped:too_large"], "4": ["kept"]}


def test_a_dry_run_counts_and_changes_nothing(web):
    before = tags_of(web)
    report = store.apply_filter(web, FilterSpec(0.05, 0.4), dry_run=True)
    assert [(c.class_name, c.kept, c.too_large) for c in report.classes] == [("cat", 2, 1), ("cow", 0, 1)]
    assert tags_of(web) == before
    assert store.applied_filters(web) == FilterSpec(0.2, 0.8)


def test_the_filter_can_be_applied_again_and_respects_verdicts_and_other_reasons():
    dataset = make_web("store-refilter")
    for digit, field, value in [
        ("1", "verdict", "keep"),
        ("2", "verdict", "drop"),
        ("4", "tags", ["dropped:duplicate", "mine"]),
    ]:
        sample = dataset.match({"sha256": digit * 64}).first()
        sample[field] = value
        sample.save()
    report = store.apply_filter(dataset, FilterSpec(0.05, 0.95))
    assert tags_of(dataset) == {
        "1": ["kept"],
        "2": ["dropped:verdict"],
        "3": ["kept"],
        "4": ["dropped:duplicate", "mine"],
    }
    assert report.kept == 2
    assert report.classes[1].other == 1


def test_a_verdict_is_applied_with_the_thresholds_in_force_when_none_are_given():
    dataset = make_web("store-verdict")
    store.apply_filter(dataset, FilterSpec(0.05, 0.4))
    sample = dataset.match({"sha256": "2" * 64}).first()
    sample["verdict"] = "drop"
    sample.save()
    assert store.apply_filter(dataset).filters == FilterSpec(0.05, 0.4)
    assert tags_of(dataset)["1"] == ["kept"] and tags_of(dataset)["2"] == ["dropped:verdict"]


def test_an_image_without_a_mask_is_dropped_as_such():
    name = "store-nomask"
    dataset = store.create_or_open(definition(name), "web")
    store.add_records(dataset, [record(name, "cat", "a")])
    store.apply_filter(dataset, FilterSpec())
    assert tags_of(dataset) == {"a": ["dropped:no_mask"]}


def test_a_build_knows_whether_it_has_to_filter():
    dataset = make_web("store-stale")
    spec = definition("store-stale")
    assert store.filters_to_apply(dataset, spec) is None

    own = FilterSpec(0.1, 0.6)
    store.apply_filter(dataset, own)
    assert store.filters_to_apply(dataset, spec) is None, "a user's own thresholds stay in force"
    store.add_records(dataset, [record("store-stale", "cat", "d")])
    assert store.filters_to_apply(dataset, spec) == own, "but an image came after them"
    store.apply_filter(dataset, own)

    changed = definition("store-stale", filters={"min_foreground": 0.3, "max_foreground": 0.8})
    dataset = store.create_or_open(changed, "web")
    assert store.filters_to_apply(dataset, changed) == changed.filters, "the definition has other thresholds now"


def test_thresholds_noted_before_there_was_one_for_the_confidence_are_the_definitions_still():
    dataset = make_web("store-before-confidence")
    state = info_of(dataset)["filter"]
    old = {"min_foreground": 0.2, "max_foreground": 0.8}
    update(dataset, filter={**state, "applied": old, "of_definition": old})
    assert store.filters_to_apply(dataset, definition("store-before-confidence")) is None
    assert store.applied_filters(dataset) == FilterSpec()


def test_masks_below_the_confidence_are_tagged_and_shown_least_confident_first(tmp_path):
    dataset = make_web("store-confidence")  # confidences 0.51, 0.53, 0.59 and 0.55
    report = store.apply_filter(dataset, FilterSpec(0, 1, 0.54))
    assert tags_of(dataset) == {
        "1": ["dropped:low_confidence"],
        "2": ["dropped:low_confidence"],
        "3": ["kept"],
        "4": ["kept"],
    }
    assert [(c.kept, c.low_confidence) for c in report.classes] == [(1, 2), (1, 0)]
    assert [sha[0] for sha in dataset.load_saved_view("dropped: low confidence").values("sha256")] == ["1", "2"]
    first = dataset.match({"sha256": "1" * 64}).values("id")
    store.judge(dataset, first, "keep")
    assert tags_of(dataset)["1"] == ["kept"]
    store.undo_verdict(dataset)
    assert tags_of(dataset)["1"] == ["dropped:low_confidence"], "a verdict taken back leaves it to the filter again"


# ------------------------------------------------------------- masks made elsewhere


def save_masks(folder: Path, **masks: np.ndarray) -> Path:
    for digit, mask in masks.items():
        path = folder / ("cow" if digit == "p4" else "cat") / f"photo_{digit[1]}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    return folder


def test_imported_masks_replace_the_engines_which_stay_beside_them(tmp_path):
    dataset = make_web("store-import")
    before = dict(zip(*dataset.values(["sha256", "cosegmentation.mask_path"]), strict=True))
    half = foreground(0.5)
    save_masks(tmp_path, p1=half, p2=half, p3=half, p4=np.kron(half, np.ones((2, 2), bool)))
    report = store.import_masks(dataset, tmp_path)

    assert report.imported == {"cat": 3, "cow": 1}
    assert report.resized == 1
    assert not report.bad
    assert dataset.values("foreground_ratio") == [0.5] * 4
    assert set(tags_of(dataset)) == set("1234")
    assert all(tags == ["kept"] for tags in tags_of(dataset).values()), "filtered again"
    assert dict(zip(*dataset.values(["sha256", f"{store.BEFORE_IMPORT}.mask_path"]), strict=True)) == before
    assert all(Path(path).is_file() for path in before.values())
    assert {m.method for m in store.group_members(dataset, "cat")} == {store.IMPORTED}
    cow = dataset.match({"sha256": "4" * 64}).first()
    assert read_mask(cow.cosegmentation.mask_path).tolist() == (2 * half).tolist()
    assert cow.confidence is None

    save_masks(tmp_path, p1=foreground(0.4), p2=half, p3=half, p4=half)
    store.import_masks(dataset, tmp_path)
    again = dict(zip(*dataset.values(["sha256", f"{store.BEFORE_IMPORT}.mask_path"]), strict=True))
    assert again == before, "a second import does not push the engine's masks out"


def test_one_bad_mask_changes_nothing(tmp_path):
    dataset = make_web("store-bad")
    before = dataset.values(["cosegmentation.mask_path", "foreground_ratio", "tags"])
    half = foreground(0.5)
    save_masks(tmp_path, p1=half, p2=half, p3=np.zeros((H, W), bool), p4=half)
    with pytest.raises(StoreError, match=r"nothing was imported\. 1 bad: 1 empty"):
        store.import_masks(dataset, tmp_path)
    assert dataset.values(["cosegmentation.mask_path", "foreground_ratio", "tags"]) == before
    assert not (dataset_folder("store-bad") / "imported").exists()

    report = store.import_masks(dataset, tmp_path, skip_bad=True)
    assert [item.reason for item in report.bad] == ["empty"]
    methods = dict(zip(*dataset.values(["sha256", "cosegmentation.method"]), strict=True))
    assert methods["3" * 64] == "common"


def test_the_ledger_tells_imported_masks_of_unknown_origin_and_only_where_they_are_used(tmp_path):
    dataset = make_web("store-origin")
    assert store.example_table(dataset, "cosegmentation").ledger.strictly_image_level
    save_masks(tmp_path, p4=foreground(0.5))
    store.import_masks(dataset, tmp_path, skip_bad=True)
    both = store.example_table(dataset, "cosegmentation")
    assert not both.ledger.strictly_image_level
    assert {entry.supervision for entry in both.ledger.entries} == {"image_level", "unknown"}
    cats = store.example_table(dataset.match({"label.label": "cat"}), "cosegmentation")
    assert cats.ledger.strictly_image_level
    cows = store.example_table(dataset.match({"label.label": "cow"}), "cosegmentation")
    assert ENGINE.entries[0] not in cows.ledger.entries
    store.set_ledger(dataset, "cosegmentation", ENGINE)  # as every later build does
    assert not store.example_table(dataset, "cosegmentation").ledger.strictly_image_level

    store.import_masks(dataset, tmp_path, skip_bad=True, supervision="none")
    assert store.example_table(dataset, "cosegmentation").ledger.strictly_image_level


# ------------------------------------------------------------- tables


def test_a_table_of_a_web_dataset_holds_the_kept_images_in_a_fixed_order(web):
    table = store.example_table(web, "cosegmentation")
    assert table.ids == (f"cat/{'2' * 20}", f"cow/{'4' * 20}")
    assert table.labels.tolist() == [[True, False], [False, True]]
    assert table.classes == ("cat", "cow")
    assert all(Path(path).is_file() for path in (*table.image_paths, *table.mask_paths))
    assert table.source == "store-web"
    shuffled = store.example_table(web.match_tags("kept").shuffle(seed=1), "cosegmentation")
    assert shuffled.ids == table.ids


def test_a_view_is_taken_as_it_is_but_dropped_images_never_teach_by_accident(web):
    cats = web.match({"label.label": "cat"})
    assert store.example_table(cats, "cosegmentation").ids == (f"cat/{'2' * 20}",)
    assert len(store.example_table(cats, "cosegmentation", include_dropped=True)) == 3
    assert len(store.example_table(web.match({"foreground_ratio": {"$gt": 0.4}}), "cosegmentation")) == 1


def test_an_empty_table_says_why(web):
    with pytest.raises(
        TrainingDataError, match=r"no image is left to learn from\. Of 1 images, 1 are not kept \(1 dropped:too_small\)"
    ):
        store.example_table(web.match_tags("dropped:too_small"), "cosegmentation")


def test_a_field_without_masks_is_reported_with_those_that_have_them(web):
    with pytest.raises(StoreError, match=r"no masks in a field 'cosegmentaton'\. Fields with masks: cosegmentation"):
        store.example_table(web, "cosegmentaton")
    with pytest.raises(StoreError, match="no masks in a field 'sha256'"):
        store.example_table(web, "sha256")


def test_a_half_made_dataset_never_has_the_name(monkeypatch):
    from wss_data.store import datasets

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets, "set_up", fail)
    with pytest.raises(KeyboardInterrupt):
        store.create_or_open(definition("store-half"), "web")
    monkeypatch.undo()
    assert store.create_or_open(definition("store-half"), "web").name == "store-half"


def test_a_persons_verdicts_are_in_the_ledger():
    dataset = make_web("store-judged")
    assert "verdict" not in str(store.example_table(dataset, "cosegmentation").ledger)
    sample = dataset.match({"sha256": "2" * 64}).first()
    sample.verdict = "drop"
    sample.save()
    with pytest.raises(TrainingDataError):
        store.example_table(dataset.match({"label.label": "cat"}), "cosegmentation")
    sample.verdict = "keep"
    sample.save()
    table = store.example_table(dataset, "cosegmentation")
    assert "a person's verdict, keep or drop, on 1 images" in [entry.what for entry in table.ledger.entries]
    assert table.ledger.strictly_image_level
