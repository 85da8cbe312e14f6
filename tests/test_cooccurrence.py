"""Which classes come together and which masks merge, on numbers that one can count by eye."""

import csv
import io
from itertools import permutations

import numpy as np
import pytest
from builders import H, W, make_web, target_definition, write_target
from PIL import Image

from wss_data import store
from wss_data.errors import TrainingDataError
from wss_data.imaging.masks import write_mask
from wss_data.ledger import Ledger
from wss_data.records import ExampleTable
from wss_train.commands.cli import main
from wss_train.evaluate import with_masks
from wss_train.reports.cooccurrence import (
    boundary_lengths,
    cooccurrence,
    counts_together,
    lift,
    report_of,
    swallowed,
)

BOAT, PERSON, CAT = 0, 1, 2
CLASSES = ("boat", "person", "cat")

# Four images: boat and person three times, a cat alone.
LABELLED = np.array([[1, 1, 0], [1, 1, 0], [1, 1, 0], [0, 0, 1]], bool)
# The boat swallowed the person twice; the third image shows both.
PREDICTED = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1]], bool)


def test_a_pair_is_counted_in_every_image_that_has_both_and_a_class_on_the_diagonal():
    assert counts_together(LABELLED).tolist() == [[3, 3, 0], [3, 3, 0], [0, 0, 1]]
    assert counts_together(PREDICTED).tolist() == [[3, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_lift_is_one_where_classes_are_independent_and_zero_where_they_never_meet():
    independent = np.array([[1, 1], [1, 0], [0, 1], [0, 0]], bool)  # each in half, together in a quarter
    assert lift(independent)[0, 1] == 1.0
    values = lift(LABELLED)
    assert values[BOAT, PERSON] == pytest.approx(4 / 3)  # 3/4 of the images, by chance 9/16
    assert values[BOAT, CAT] == 0
    assert np.isnan(np.diag(values)).all()
    assert np.isnan(lift(np.zeros((5, 2), bool))).all(), "a class without images is not unlikely but unknown"


def test_a_swallows_b_is_not_b_swallows_a():
    images, share = swallowed(LABELLED, PREDICTED)
    assert images[BOAT, PERSON] == 2 and images[PERSON, BOAT] == 0
    assert share[BOAT, PERSON] == pytest.approx(2 / 3) and share[PERSON, BOAT] == 0
    assert np.isnan(share[BOAT, CAT]) and np.isnan(share[CAT, CAT])


def test_a_class_that_the_image_is_not_labelled_with_swallows_nothing():
    predicted = np.array([[0, 0, 1]], bool)  # a cat, where boat and person were
    images, _ = swallowed(np.array([[1, 1, 0]], bool), predicted)
    assert images.sum() == 0


def literal_swallowed(labelled: np.ndarray, predicted: np.ndarray) -> list[list[int]]:
    count = labelled.shape[1]
    images = [[0] * count for _ in range(count)]
    for a, b in permutations(range(count), 2):
        for labels, shown in zip(labelled, predicted, strict=True):
            images[a][b] += bool(labels[a] and labels[b] and shown[a] and not shown[b])
    return images


def literal_boundary(mask: np.ndarray, num_classes: int) -> np.ndarray:
    total = np.zeros((num_classes, num_classes), int)
    height, width = mask.shape
    for y in range(height):
        for x in range(width):
            for other_y, other_x in ((y, x + 1), (y + 1, x)):
                if other_y < height and other_x < width:
                    one, other = int(mask[y, x]), int(mask[other_y, other_x])
                    if one != other and max(one, other) < num_classes:
                        total[one, other] += 1
                        total[other, one] += 1
    return total


def test_boundaries_and_swallowed_images_agree_with_loops_over_pixels_and_images():
    random = np.random.default_rng(0)
    for shape in ((9, 7), (1, 5), (1, 1), (4, 1)):
        mask = random.choice(np.array([0, 1, 2, 3, 255], np.uint8), shape)
        assert np.array_equal(boundary_lengths(mask, 4), literal_boundary(mask, 4))
    labelled, predicted = random.random((2, 40, 4)) < 0.5
    assert swallowed(labelled, predicted)[0].tolist() == literal_swallowed(labelled, predicted)


def test_a_boundary_is_counted_in_pixels_and_void_has_none():
    mask = np.zeros((4, 6), np.uint8)
    mask[:, 2:4], mask[:, 4:] = 1, 2  # three stripes, 4 px high
    lengths = boundary_lengths(mask, 3)
    assert (lengths[0, 1], lengths[1, 2], lengths[0, 2]) == (4, 4, 0)
    assert np.array_equal(lengths, lengths.T) and np.diag(lengths).sum() == 0
    mask[:, 3] = 255
    assert boundary_lengths(mask, 3)[1, 2] == 0


def report():
    masks = []
    for shown in PREDICTED:
        mask = np.zeros((4, 6), np.uint8)
        for index in np.flatnonzero(shown):
            mask[:, 2 * index : 2 * index + 2] = index + 1
        masks.append(mask)
    return report_of(masks, LABELLED, CLASSES, "harbour")


def test_the_report_says_who_swallows_whom_first():
    page = report().to_markdown()
    assert "| boat, person | 3 | 1.33 | 1 | 1.33 | 4 |" in page
    assert "| boat swallows person | 2 | 67 % of 3 | 4 |" in page
    assert "person swallows boat" not in page and "cat" not in page
    assert not report().one_label


def test_the_csv_holds_every_ordered_pair_and_leaves_unknown_numbers_empty():
    rows = {(row["a"], row["b"]): row for row in csv.DictReader(io.StringIO(report().to_csv()))}
    assert len(rows) == 6
    assert rows["boat", "person"]["swallowed_share"] == "0.6667"
    assert rows["boat", "cat"]["swallowed"] == rows["boat", "cat"]["swallowed_share"] == ""
    assert rows["boat", "cat"]["labelled_lift"] == "0.0000"


def test_one_label_an_image_is_said_to_teach_nothing_of_pairs():
    one = report_of([np.array([[1]], np.uint8), np.array([[2]], np.uint8)], np.eye(2, dtype=bool), ("cat", "cow"))
    page = one.to_markdown()
    assert one.one_label and "cannot be computed" in page and "No two classes come together." in page
    assert "## Merged" not in page
    assert one.to_csv().splitlines()[1] == "cat,cow,0,0,,0.0000,,,0", "nobody could have named both"


def stored_table(folder) -> ExampleTable:
    paths = []
    for i, shown in enumerate(PREDICTED):
        mask = np.zeros((4, 6), np.uint8)
        for index in np.flatnonzero(shown):
            mask[:, 2 * index : 2 * index + 2] = index + 1
        paths.append(folder / f"{i}.png")
        write_mask(mask, paths[-1])
    names = tuple(str(i) for i in range(4))
    return ExampleTable(names, ("unread.jpg",) * 4, tuple(map(str, paths)), LABELLED, CLASSES, source="harbour")


def test_masks_on_disk_give_the_same_report_as_arrays_and_three_files(tmp_path):
    found = cooccurrence(stored_table(tmp_path / "masks"), tmp_path / "out")
    assert found.to_csv() == report().to_csv()
    assert (tmp_path / "out" / "cooccurrence.md").read_text(encoding="utf-8") == report().to_markdown()
    assert (tmp_path / "out" / "cooccurrence.csv").is_file()
    assert Image.open(tmp_path / "out" / "cooccurrence.png").size[0] > 800


def test_an_image_without_a_mask_is_refused(tmp_path):
    table = stored_table(tmp_path)
    table = with_masks(table, tmp_path)
    (tmp_path / "2.png").unlink()
    with pytest.raises(TrainingDataError, match=r"1 of 4 masks are missing, the first is 2\.png"):
        with_masks(table, tmp_path)
    empty = ExampleTable(("a",), ("a.jpg",), (None,), np.ones((1, 1), bool), ("cat",))
    with pytest.raises(TrainingDataError, match="1 of 1 images of the table have no mask, the first is a"):
        cooccurrence(empty)


# ------------------------------------------------------------- stored datasets


def test_of_a_web_dataset_it_is_noted_that_it_has_one_label_an_image(database, capsys):
    make_web("together-web")
    assert main(["cooccurrence", "together-web"]) == 0
    assert "Each image has one label, as the images of a web dataset do." in capsys.readouterr().out


def test_pseudo_masks_of_a_target_are_reported_from_the_field_or_from_a_folder(database, tmp_path, capsys):
    labels = "t1,cat cow\nt2,cat cow\nt3,cow\nv1,cat\nv2,dog\n"
    target = store.import_target(target_definition("together-t"), write_target(tmp_path / "voc", labels))
    left_cat = np.zeros((H, W), np.uint8)
    left_cat[:, : W // 2] = 1
    both = np.where(left_cat, np.uint8(1), np.uint8(2))
    paths = {name: tmp_path / "masks" / f"{name}.png" for name in ("t1", "t2", "t3")}
    for name, mask in zip(paths, (left_cat, both, 2 * left_cat), strict=True):
        write_mask(mask, paths[name])
    store.set_target_masks(target, "pseudo_mask", paths, Ledger())

    assert main(["cooccurrence", "together-t-target", "--out", str(tmp_path / "out")]) == 0
    page = capsys.readouterr().out
    assert "| cat, cow | 2 | 1.00 | 1 | 0.75 | 30 |" in page  # the boundary is as long as the image is high
    assert "| cat swallows cow | 1 | 50 % of 2 | 30 |" in page
    assert main(["cooccurrence", "together-t-target", "--masks", str(tmp_path / "masks")]) == 0
    assert capsys.readouterr().out == page
    assert (tmp_path / "out" / "cooccurrence.png").is_file()
