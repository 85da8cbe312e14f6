from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wss_data.errors import ImageError, MaskError, TrainingDataError
from wss_data.imaging.images import read_at_least
from wss_data.imaging.masks import write_mask
from wss_data.records import ExampleTable
from wss_train.data import TrainingDraws, as_table, batches, check_training_table, class_problems
from wss_train.recipes import preset, with_values

RECIPE = with_values(preset("cpu"), {"long_side": "24", "crop": "16"})
CLASSES = ("cow", "sheep")


@pytest.fixture
def table(tmp_path):
    """Five images; image i is grey 10 i and its mask shows class i % 2 + 1 in its left half."""
    for i in range(5):
        Image.new("RGB", (30, 20), (10 * i,) * 3).save(tmp_path / f"{i}.png")
        mask = np.zeros((20, 30), np.uint8)
        mask[:, :15] = i % 2 + 1
        write_mask(mask, tmp_path / f"mask_{i}.png")
    labels = np.array([[i % 2 == 0, i % 2 == 1] for i in range(5)])
    images, masks = ([str(tmp_path / f"{name}{i}.png") for i in range(5)] for name in ("", "mask_"))
    return ExampleTable(tuple("abcde"), tuple(images), tuple(masks), labels, CLASSES, source="five")


def with_mask(table, values):
    write_mask(np.asarray(values, np.uint8), Path(table.mask_paths[0]))
    return table


def test_an_example_is_image_mask_labels_and_identity(table):
    example = TrainingDraws(table, RECIPE)[3]

    assert (example.image.shape, example.image.dtype) == ((16, 16, 3), torch.uint8)
    assert (example.mask.shape, example.mask.dtype) == ((16, 16), torch.uint8)
    assert example.labels.dtype == torch.float32
    row = "abcde".index(example.id)
    assert example.labels.tolist() == table.labels[row].astype(float).tolist()
    assert set(example.mask.unique().tolist()) <= {0, row % 2 + 1, 255}
    assert 10 * row in example.image.unique().tolist()


def test_every_epoch_shows_each_image_once_in_another_order(table):
    draws = TrainingDraws(table, RECIPE)

    epochs = [[draws.row(5 * epoch + i) for i in range(5)] for epoch in range(4)]

    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1


def test_a_draw_depends_on_its_number_and_the_seed_alone(table):
    first, second = TrainingDraws(table, RECIPE), TrainingDraws(table, RECIPE)
    first[0], first[12]

    assert first[7].id == second[7].id
    assert torch.equal(first[7].image, second[7].image)
    other = TrainingDraws(table, with_values(RECIPE, {"seed": 1}))
    assert [other.row(i) for i in range(20)] != [first.row(i) for i in range(20)]


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_nothing(table, workers):
    draws = TrainingDraws(table, RECIPE)

    alone, helped = (list(batches(draws, 3, 0, 6, n)) for n in (0, workers))

    assert [b.ids for b in alone] == [b.ids for b in helped]
    assert all(torch.equal(a.images, b.images) for a, b in zip(alone, helped, strict=True))
    assert all(torch.equal(a.masks, b.masks) for a, b in zip(alone, helped, strict=True))


def test_resuming_in_the_middle_sees_what_an_uninterrupted_run_sees(table):
    draws = TrainingDraws(table, RECIPE)

    whole, rest = list(batches(draws, 2, 0, 7, 0)), list(batches(draws, 2, 4, 7, 2))

    assert [b.ids for b in whole[4:]] == [b.ids for b in rest]
    assert torch.equal(whole[-1].images, rest[-1].images)
    assert whole[0].images.shape == (2, 3, 16, 16)


def test_an_error_in_a_worker_reaches_the_caller(table):
    broken = replace(table, image_paths=("/nowhere.jpg",) * 5)

    with pytest.raises(ImageError, match=r"/nowhere\.jpg"):
        list(batches(TrainingDraws(broken, RECIPE), 2, 0, 2, 2))


def test_stopping_early_leaves_no_worker_behind(table):
    source = batches(TrainingDraws(table, RECIPE), 2, 0, 1_000_000, 2)

    next(source)
    source.close()


def test_a_table_is_taken_as_it_is_without_a_database(table):
    assert as_table(table, "cosegmentation") is table


def test_the_summary_counts_images_by_label_and_by_mask(table):
    summary = check_training_table(table)

    assert summary.images == 5
    assert summary.images_labelled == {"cow": 3, "sheep": 2}
    assert summary.images_masked == {"cow": 3, "sheep": 2}


def test_the_fingerprint_follows_the_masks_content_not_their_place(table, tmp_path):
    before = check_training_table(table).fingerprint
    moved = tuple(str(tmp_path / f"moved_{i}.png") for i in range(5))
    for old, new in zip(table.mask_paths, moved, strict=True):
        Image.open(old).save(new)

    assert check_training_table(replace(table, mask_paths=moved)).fingerprint == before
    assert check_training_table(with_mask(table, np.ones((20, 30)))).fingerprint != before


def test_masks_that_show_other_classes_than_their_labels_name_are_counted_in_the_log(table, caplog):
    check_training_table(table)
    assert "disagree" not in caplog.text
    labels = np.array(table.labels)[:, ::-1].copy()
    check_training_table(replace(table, labels=labels))
    (line,) = [record.getMessage() for record in caplog.records if "disagree" in record.getMessage()]
    assert f"{len(table)} of {len(table)} disagree with their image's labels" in line


def test_void_is_no_class_and_no_error(table):
    mask = np.full((20, 30), 255)
    mask[0, 0] = 1

    assert check_training_table(with_mask(table, mask)).images_masked["cow"] == 3


def test_a_mask_value_beyond_the_classes_is_named_with_its_file(table):
    with pytest.raises(TrainingDataError, match=r"mask_0\.png: the mask holds the value 3; 0 .*cow, sheep.*255"):
        check_training_table(with_mask(table, np.full((20, 30), 3)))


def test_masks_of_0_and_255_are_explained(table):
    for path in table.mask_paths:
        write_mask(np.eye(20, 30, dtype=np.uint8) * 255, Path(path))

    with pytest.raises(TrainingDataError, match=r"hold background.*import-masks"):
        check_training_table(table)


def test_masks_of_0_and_255_are_explained_where_void_has_another_index(table):
    other_void = replace(with_mask(table, np.full((20, 30), 255)), ignore_index=254)

    with pytest.raises(TrainingDataError, match=r"value 255.*Foreground masks"):
        check_training_table(other_void)


def test_a_mask_of_another_size_is_refused_with_both_sizes(table):
    table = with_mask(table, np.ones((30, 20)))
    draws = TrainingDraws(table, RECIPE)

    with pytest.raises(MaskError, match=r"20x30 pixels, the image 30x20"):
        check_training_table(table)
    with pytest.raises(MaskError, match=r"20x30 pixels, the image 30x20"):
        for draw in range(5):
            draws[draw]


def test_an_empty_table_is_refused(table):
    with pytest.raises(TrainingDataError, match="five holds no image with a mask"):
        check_training_table(table.take([]))


def test_images_without_masks_are_counted(table):
    with pytest.raises(TrainingDataError, match="2 of 5 images have no mask, the first is a"):
        check_training_table(replace(table, mask_paths=(None, None, *table.mask_paths[2:])))


def test_missing_images_are_found_before_training_starts(table):
    with pytest.raises(TrainingDataError, match=r"1 of 5 image files are missing, the first is /gone\.jpg"):
        check_training_table(replace(table, image_paths=("/gone.jpg", *table.image_paths[1:])))


def test_images_without_labels_are_refused_only_where_labels_teach(table):
    labels = table.labels.copy()
    labels[0] = False
    unlabelled = replace(table, labels=labels)

    check_training_table(unlabelled)
    with pytest.raises(TrainingDataError, match="1 of 5 images have no image-level label"):
        check_training_table(unlabelled, needs_labels=True)


def with_image(table, image):
    image.save(table.image_paths[0])
    return with_mask(table, np.ones((image.height, image.width)))


def example_of(table, name):
    draws = TrainingDraws(table, RECIPE)
    return next(example for example in map(draws.__getitem__, range(5)) if example.id == name)


def test_an_image_of_one_pixel_is_named_before_training_starts(table):
    with pytest.raises(ImageError, match=r"0\.png: 1x1 pixels, at least 16 a side"):
        check_training_table(with_image(table, Image.new("RGB", (1, 1))))


def test_a_file_that_is_no_image_is_named_before_training_starts(table):
    Path(table.image_paths[0]).write_text("<html>not found</html>")

    with pytest.raises(ImageError, match=r"0\.png: not an image"):
        check_training_table(table)


def test_a_greyscale_image_teaches_in_three_equal_channels(table):
    table = with_image(table, Image.new("L", (30, 20), 70))

    assert check_training_table(table).images == 5
    pixels = example_of(table, "a")
    assert (pixels.image[pixels.mask == 1] == 70).all()


def test_images_of_all_sizes_share_a_batch(table):
    table = with_image(table, Image.new("RGB", (500, 16), (70, 0, 0)))

    batch = next(batches(TrainingDraws(table, RECIPE), 5, 0, 1, 0))

    assert batch.images.shape == (5, 3, 16, 16)
    assert batch.masks.shape == (5, 16, 16)


def test_a_wide_image_that_is_lower_than_the_crop_is_void_above_and_below(table):
    example = example_of(with_image(table, Image.new("RGB", (500, 16), (70, 0, 0))), "a")

    rows = (example.mask != 255).any(dim=1)
    assert 1 <= int(rows.sum()) <= 2, "500 x 16 px become 24 x 1"
    assert (example.mask[rows] == 1).all()
    assert (example.image[~rows] == 127).all()


def test_a_large_photograph_is_decoded_at_a_fraction_and_stays_on_its_mask(table, tmp_path):
    image = np.zeros((640, 960, 3), np.uint8)
    image[:, :480] = 255
    mask = np.zeros((640, 960), np.uint8)
    mask[:, :480] = 1
    Image.fromarray(image).save(tmp_path / "large.jpg", quality=95)
    write_mask(mask, tmp_path / "large_mask.png")
    large = replace(
        table.take([0]), image_paths=(str(tmp_path / "large.jpg"),), mask_paths=(str(tmp_path / "large_mask.png"),)
    )
    decoded, size = read_at_least(large.image_paths[0], 24)

    for draw in range(8):
        example = TrainingDraws(large, RECIPE)[draw]
        decided = example.mask != 255
        # One column may lie on the edge between black and white.
        assert ((example.image[:, :, 0] > 127) != (example.mask == 1))[decided].float().mean() <= 1 / 16
    assert size == (960, 640)
    assert decoded.shape == (80, 120, 3), "an eighth"


def test_label_columns_in_another_order_are_the_same_labels_by_name(table):
    turned = replace(table, labels=table.labels[:, ::-1], classes=table.classes[::-1])

    before, after = check_training_table(table), check_training_table(turned)

    assert before.images_labelled == after.images_labelled == {"cow": 3, "sheep": 2}
    assert before.fingerprint != after.fingerprint, "class 1 of a mask is another class now: no run goes on with it"


def test_labels_with_a_column_too_many_are_refused(table):
    with pytest.raises(ValueError, match=r"labels of shape \(5, 3\) for 2 classes"):
        replace(table, labels=np.ones((5, 3), bool))


@pytest.mark.parametrize(
    ("labelled", "masked", "balanced", "said"),
    [
        ({"cat": 9, "cow": 0}, {"cat": 9, "cow": 0}, False, ["1 classes have no image: cow. The model cannot learn"]),
        ({"cat": 9, "cow": 3}, {"cat": 9, "cow": 0}, False, ["1 classes have images but no mask: cow. The masks"]),
        ({"cat": 40, "cow": 2}, {"cat": 40, "cow": 2}, False, ["20-fold in number: 40 images of cat, 2 of cow. Let"]),
        ({"cat": 40, "cow": 2}, {"cat": 40, "cow": 2}, True, []),
        ({"cat": 18, "cow": 2}, {"cat": 18, "cow": 2}, False, []),
    ],
)
def test_what_the_numbers_of_the_classes_hold_against_training_is_said(labelled, masked, balanced, said):
    problems = class_problems(labelled, masked, balanced)
    assert len(problems) == len(said)
    assert all(part in problem for part, problem in zip(said, problems, strict=True))


def test_an_image_of_the_background_needs_no_label(table):
    labels = table.labels.copy()
    labels[0] = False
    background = with_mask(replace(table, labels=labels), np.zeros((20, 30)))
    assert check_training_table(background, needs_labels=True).images == 5
    with pytest.raises(TrainingDataError, match="1 of 5 images have no image-level label"):
        check_training_table(with_mask(replace(table, labels=labels), np.full((20, 30), 255)), needs_labels=True)
