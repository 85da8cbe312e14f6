"""What is wrong with a dataset is found before training, each thing by its own line."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import H, W, make_web, target_definition, write_target
from drawings import TINY, rectangles
from PIL import Image
from png_files import kinds

from wss_data import store
from wss_data.errors import StoreError, TrainingDataError
from wss_data.imaging.masks import read_mask, voc_palette, write_mask
from wss_train.commands.cli import main
from wss_train.models import build_model
from wss_train.recipes import with_values
from wss_train.reports import check

KINDS = kinds()


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Three red and three green rectangles of 40 x 30 px, nothing wrong with them."""
    monkeypatch.setattr(check, "FEW_IMAGES", 3)
    return rectangles(tmp_path / "rectangles")


def told(table, crop=None) -> list[str]:
    return [str(finding) for finding in check.check_table(table, crop) if finding.severity != "note"]


def test_nothing_is_wrong_with_sound_files(table):
    assert told(table, crop=40) == []
    assert check.is_sound(check.check_table(table))


def test_masks_of_0_and_255_are_distinguished_from_label_masks_of_background_and_void(table):
    foreground = np.zeros((30, 40), np.uint8)
    foreground[10:20, 10:20] = 255
    Image.fromarray(foreground).save(table.mask_paths[0])
    (line,) = told(table)
    assert line.startswith("error:   1 masks hold 0 and 255 only") and "wss-data import-masks" in line
    assert table.mask_paths[0] in line

    write_mask(foreground, Path(table.mask_paths[0]))  # the same numbers in VOC's colours: void
    (line,) = told(table)
    assert line.startswith("warning: 1 masks show no class")


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (Image.new("RGB", (40, 30), (128, 0, 0)), "1 masks are rgb"),
        (Image.fromarray(np.ones((30, 40), np.uint16)), "1 masks are 16-bit"),
        (Image.fromarray(np.full((30, 40), 3, np.uint8)), "1 masks hold values outside the classes (3)"),
        (Image.fromarray(np.ones((40, 30), np.uint8)), "1 masks have width and height of their image swapped"),
        (Image.fromarray(np.ones((15, 20), np.uint8)), "1 masks have not the size of their image"),
    ],
    ids=["colours", "16 bits", "values", "turned", "size"],
)
def test_each_mistake_in_a_mask_has_its_own_line(table, picture, reason):
    picture.save(table.mask_paths[2])
    (line,) = told(table)
    assert reason in line and line.startswith("error:") and table.mask_paths[2] in line


def test_a_mask_beside_an_image_with_exif_rotation_must_be_upright(table):
    rotated = Image.fromarray(np.full((40, 30, 3), 90, np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown upright the 30 x 40 px are 40 x 30
    path = Path(table.image_paths[0]).with_suffix(".jpg")
    rotated.save(path, exif=exif)
    table = replace(table, image_paths=(str(path), *table.image_paths[1:]))
    assert told(table) == []
    write_mask(np.ones((40, 30), np.uint8), Path(table.mask_paths[0]))
    assert "before the EXIF rotation" in told(table)[0]


def test_missing_and_damaged_files_are_counted_by_reason(table):
    Path(table.image_paths[0]).unlink()
    Path(table.image_paths[1]).write_bytes(b"no image")
    Path(table.mask_paths[2]).unlink()
    lines = told(table)
    assert [line.split(",")[0] for line in lines] == [
        "error:   1 images are missing",
        "error:   1 images are unreadable",
        "error:   1 masks are missing",
    ]


def test_labels_classes_and_sizes_are_looked_at(table):
    labels = table.labels.copy()
    labels[:, 0] = False
    unlabelled = replace(table, labels=labels)
    assert [line.split(",")[0] for line in told(unlabelled, crop=64)] == [
        "error:   3 images have no image-level label",
        "warning: 6 images are smaller than the crop of 64 px",
        "warning: 1 classes have no image: red. The model cannot learn them: get images of these classes",
    ]
    without = replace(table, mask_paths=(None, *table.mask_paths[1:]))
    assert told(without) == [
        "error:   1 of 6 images have no mask, the first 0. Make them: wss-data cosegment for a web dataset, wss-train "
        "masks for a target; or leave the images out."
    ]
    scored = [str(f) for f in check.check_table(replace(without, labels=labels), scored=True) if f.severity != "note"]
    assert len(scored) == 1 and scored[0].startswith("warning: 1 of 6 images have no mask, the first 0. They are not")


def test_a_class_that_no_mask_shows_and_a_class_with_few_images_are_reported(table, monkeypatch):
    for path in table.mask_paths[::2]:
        write_mask(np.full((30, 40), 2, np.uint8), Path(path))
    monkeypatch.setattr(check, "FEW_IMAGES", 4)
    first, *others = told(table)
    assert first.startswith("warning: masks: 3 of 6 disagree with their image's labels: 3 (green in 3) show")
    assert [line.split(":", 1)[1].strip().split(".")[0] for line in others] == [
        "1 classes have images but no mask: red",
        "2 classes have fewer than 4 images: red (3), green (3)",
    ]


def test_void_is_a_fact_until_it_is_most_of_the_pixels(table):
    write_mask(np.full((30, 40), 255, np.uint8), Path(table.mask_paths[0]))
    facts = [str(finding) for finding in check.check_table(table)]
    assert "note:    16.7 % of the mask pixels are void (255)." in facts  # one mask of six
    for path in table.mask_paths[:4]:
        write_mask(np.full((30, 40), 255, np.uint8), Path(path))
    assert any(line.startswith("warning: 67 % of the mask pixels are void") for line in told(table))


def test_a_palette_that_may_have_been_made_up_is_reported(table):
    image = Image.open(table.mask_paths[0])
    image.putpalette((voc_palette() // 2 + 3).tobytes())
    image.save(table.mask_paths[0])
    (line,) = told(table)
    assert line.startswith("warning: 1 masks have a palette that is not VOC's")
    Image.fromarray(np.array(image)).save(table.mask_paths[0])
    assert told(table) == [], "grey is no mistake"


def test_a_palette_in_another_order_is_read_by_its_colours_and_reported(table):
    mask = read_mask(table.mask_paths[0])
    image = Image.fromarray(255 - mask)
    image.putpalette(voc_palette()[::-1].tobytes())
    image.save(table.mask_paths[0])
    assert np.array_equal(read_mask(table.mask_paths[0]), mask)
    lines = [str(finding) for finding in check.check_table(table)]
    assert check.is_sound(check.check_table(table))
    assert any(line.startswith("note:    1 masks have their palette in another order") for line in lines)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.reason])
def test_every_mask_that_cannot_be_read_is_an_error_with_its_way_out(table, name):
    Path(table.mask_paths[3]).write_bytes(KINDS[name].data)
    (line,) = told(table)
    assert line.startswith("error:   1 masks ") and table.mask_paths[3] in line
    assert check.inspect_row(table.image_paths[3], table.mask_paths[3]).faults == (KINDS[name].reason,)


def test_masks_that_show_other_classes_than_their_labels_are_counted_in_one_line(table):
    for path in table.mask_paths[:2]:  # red, green
        write_mask(np.ones((30, 40), np.uint8), Path(path))
    (line,) = told(table)
    assert line.startswith("warning: masks: 1 of 6 disagree with their image's labels: 1 (red in 1) show classes that")
    assert "1 (green in 1) lack classes that a label names" in line and table.mask_paths[1] in line

    both = replace(table, labels=np.ones_like(table.labels))
    (line,) = [str(f) for f in check.check_table(both) if "disagree" in str(f)]
    assert line.startswith("note:    masks: 6 of 6 disagree"), "a pseudo mask may lack what a label names"
    (line,) = [str(f) for f in check.check_table(both, scored=True) if "disagree" in str(f)]
    assert line.startswith("warning: masks: 6 of 6 disagree"), "a true mask may not, in most images"


def test_truth_of_0_and_255_is_an_error_though_an_import_wrote_it_in_vocs_colours(table):
    foreground = np.zeros((30, 40), np.uint8)
    foreground[10:20, 10:20] = 255
    for path in table.mask_paths:
        write_mask(foreground, Path(path))
    (line,) = [str(f) for f in check.check_table(table, scored=True) if f.severity != "note"]
    assert line.startswith("error:   6 masks hold 0 and 255 only") and "import the target again" in line


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_an_image_that_exif_turns_without_changing_its_size_is_reported_where_its_mask_is_scored_on(table, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = Path(table.image_paths[0]).with_suffix(".jpg")
    Image.open(table.image_paths[0]).convert("RGB").save(path, exif=exif)
    table = replace(table, image_paths=(str(path), *table.image_paths[1:]))
    (line,) = [str(f) for f in check.check_table(table, scored=True) if f.severity != "note"]
    assert line.startswith("warning: 1 images with a mask are turned upright by their EXIF orientation")
    assert told(table) == [], "masks that we made of the upright image fit"


def test_the_most_severe_comes_first_and_notes_alone_are_sound():
    findings = [check.Finding(severity, "x") for severity in ("note", "warning", "error", "note")]
    assert [f.severity for f in check.by_severity(findings)] == ["error", "warning", "note", "note"]
    assert not check.is_sound(findings) and check.is_sound(findings[:1])


def test_the_room_for_checkpoints_is_counted_from_the_network(tmp_path, monkeypatch):
    recipe = with_values(TINY, {"optimizer": "adamw", "keep_checkpoints": 2})
    state = build_model(recipe, 3, pretrained=False).state_dict()
    weights = sum(t.numel() * t.element_size() for t in state.values())
    # the model, and 3 checkpoints of weights and two tensors of AdamW
    assert check.checkpoint_bytes(recipe, 3, multilabel=False) == weights * (1 + 3 * 3)

    monkeypatch.setattr(check.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    first = check.check_machine(recipe, 3, tmp_path / "not" / "yet", False)[0]
    assert first.severity == "error" and f"are free in {tmp_path}" in first.what


def test_the_program_of_the_crf_is_named_and_a_wrong_name_is_an_error(monkeypatch, tmp_path):
    monkeypatch.delenv("WSS_CRF", raising=False)
    assert "the dense CRF is computed by builtin." in [f.what for f in check.check_machine(TINY, 3, tmp_path, False)]
    monkeypatch.setenv("WSS_CRF", "magic")
    assert check.check_machine(TINY, 3, tmp_path, False)[0].severity == "error"


# ------------------------------------------------------------- stored datasets


def test_the_command_reads_a_web_dataset_and_ends_with_status_1_where_something_is_wrong(database, capsys, monkeypatch):
    dataset = make_web("check-web")
    monkeypatch.setattr(check, "FEW_IMAGES", 1)
    small = ["--set", f"long_side={W}", "--set", "crop=32"]
    assert main(["check", "check-web", *small]) == 0
    out = capsys.readouterr().out
    assert "2 of 4 images are used (1 dropped:too_large, 1 dropped:too_small)." in out
    assert all(line.startswith("note:") for line in out.splitlines())

    mask = dataset.match_tags("kept").values("cosegmentation.mask_path")[0]
    write_mask(np.full((H, W), 7, np.uint8), Path(mask))
    assert main(["check", "check-web", *small]) == 1
    assert capsys.readouterr().out.startswith("error:   1 masks hold values outside the classes (7)")

    assert main(["doctor", "check-web", *small]) == 1, "the name of before"
    assert "doctor is called check now" in capsys.readouterr().err


def test_a_target_is_checked_with_and_without_pseudo_masks(database, tmp_path):
    target = store.import_target(target_definition("check-t"), write_target(tmp_path))
    lines = [str(f) for f in check.check_dataset("check-t-target", TINY)]
    assert lines[0].startswith("error:   2 of 2 images have no mask, the first t1.")
    assert any(line.startswith("warning: images that could not be used: 1 no_labels.") for line in lines)

    path = tmp_path / "t1.png"
    write_mask(np.ones((H, W), np.uint8), path)
    ids = target.match_tags("train").values("image_id")
    store.set_target_masks(
        target, "pseudo_mask", {key: path for key in ids if key != "t3"}, store.mask_ledger(target, "ground_truth")
    )
    lines = [str(f) for f in check.check_dataset("check-t-target", TINY)]
    assert not any("have no mask" in line for line in lines)
    assert any(line.startswith("note:    2 of 3 images are used") for line in lines)

    val = [str(f) for f in check.check_dataset("check-t-target", TINY, split="val")]
    assert not any("have no mask" in line for line in val)
    with pytest.raises(TrainingDataError, match=r"no image with the tag 'tset' \(tags: .*train"):
        check.check_dataset("check-t-target", TINY, split="tset")
    with pytest.raises(StoreError, match="no masks in a field 'mine'"):
        check.check_dataset("check-t-target", TINY, field="mine")
