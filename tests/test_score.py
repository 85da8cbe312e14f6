import numpy as np
import pytest

from wss_data.cosegmentation.score import jaccard, precision, score_folder, score_mask
from wss_data.errors import MaskError, SourceError
from wss_data.imaging.masks import write_foreground


def row(*values):
    return np.array([values], bool)


def write(folder, masks):
    for name, mask in masks.items():
        write_foreground(mask, folder / f"{name}.png")
    return folder


def test_precision_counts_right_pixels_and_jaccard_only_the_foreground():
    mask, truth = row(1, 1, 0, 0), row(1, 0, 0, 0)

    assert precision(mask, truth) == 0.75
    assert jaccard(mask, truth) == 0.5


def test_jaccard_of_two_empty_masks_is_one_and_of_one_empty_mask_zero():
    assert jaccard(row(0, 0), row(0, 0)) == 1
    assert jaccard(row(0, 0), row(1, 0)) == 0


def test_means_are_taken_over_the_images_of_a_class_and_then_over_classes(tmp_path):
    half = row(1, 1, 0, 0)
    masks = write(tmp_path / "masks", {"cow/a": half, "cow/b": half, "cow/c": half, "dog/a": half})
    truth = write(tmp_path / "truth", {"cow/a": half, "cow/b": half, "cow/c": half, "dog/a": ~half})

    table = score_folder(masks, truth)

    assert [(r.name, r.images, r.jaccard) for r in table.classes] == [("cow", 3, 1.0), ("dog", 1, 0.0)]
    assert (table.mean.images, table.mean.precision, table.mean.jaccard) == (4, 0.5, 0.5)


def test_kept_is_decided_by_the_mask_not_by_the_truth(tmp_path):
    masks = write(tmp_path / "masks", {"cow/half": row(1, 1, 0, 0, 0), "cow/all": row(1, 1, 1, 1, 1)})
    truth = write(tmp_path / "truth", {"cow/half": row(1, 1, 1, 1, 1), "cow/all": row(1, 1, 0, 0, 0)})

    (cow,) = score_folder(masks, truth).classes

    assert cow.kept == 1
    assert cow.kept_jaccard == pytest.approx(0.4)
    assert cow.kept_precision == pytest.approx(0.4)


def test_a_class_of_which_nothing_is_kept_shows_a_dash_and_stays_out_of_the_kept_mean(tmp_path):
    names = {"cow/a": row(1, 1, 0, 0), "dog/a": row(0, 0, 0, 0)}
    table = score_folder(write(tmp_path / "masks", names), write(tmp_path / "truth", names))

    assert table.classes[1].kept_jaccard is None
    assert table.mean.kept_jaccard == 1.0
    assert str(table).splitlines()[3].split() == ["dog", "1", "1.000", "1.000", "0", "-", "-"]
    assert table.to_dict()["mean"]["kept"] == 1


def test_masks_of_ones_and_of_255_count_alike(tmp_path):
    from PIL import Image

    write(tmp_path / "masks", {"cow/a": row(1, 0)})
    (tmp_path / "truth" / "cow").mkdir(parents=True)
    Image.fromarray(np.array([[1, 0]], np.uint8)).save(tmp_path / "truth" / "cow" / "a.png")

    assert score_folder(tmp_path / "masks", tmp_path / "truth").mean.jaccard == 1


def test_masks_right_in_the_folder_are_one_class(tmp_path):
    table = score_folder(write(tmp_path / "m", {"a": row(1, 0)}), write(tmp_path / "cow", {"a": row(1, 0)}))

    assert [r.name for r in table.classes] == ["cow"]


def test_a_mask_without_truth_is_left_out_but_a_truth_without_mask_is_an_error(tmp_path):
    more = write(tmp_path / "more", {"cow/a": row(1, 0), "cow/b": row(1, 0)})
    less = write(tmp_path / "less", {"cow/a": row(1, 0)})

    assert score_folder(more, less).mean.images == 1
    with pytest.raises(SourceError, match=r"1 of 2 masks are missing, the first is .*b\.png"):
        score_folder(less, more)


def test_another_size_is_named_with_both_sizes(tmp_path):
    masks = write(tmp_path / "masks", {"cow/a": row(1, 0)})
    truth = write(tmp_path / "truth", {"cow/a": row(1, 0, 0)})

    with pytest.raises(MaskError, match=r"2x1 pixels, the true mask .* 3x1"):
        score_folder(masks, truth)


def test_a_missing_or_empty_folder_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()

    with pytest.raises(SourceError, match="no such folder"):
        score_folder(tmp_path / "nowhere", tmp_path / "empty")
    with pytest.raises(SourceError, match="no true mask found"):
        score_folder(tmp_path / "empty", tmp_path / "empty")


def test_a_band_counts_as_neither_right_nor_wrong_and_its_fraction_is_reported(tmp_path):
    mask, truth, band = row(1, 1, 0, 0), row(1, 0, 0, 1), row(0, 1, 0, 1)
    assert score_mask(mask, truth) == (0.5, pytest.approx(1 / 3), 1.0)
    assert score_mask(mask, truth, band) == (1.0, 1.0, 0.5)

    write_foreground(mask, tmp_path / "masks" / "cow" / "a.png", band)
    write(tmp_path / "truth", {"cow/a": truth})
    table = score_folder(tmp_path / "masks", tmp_path / "truth")

    assert (table.mean.precision, table.mean.jaccard, table.mean.decided) == (1.0, 1.0, 0.5)
    assert "decide 50.0% of the pixels" in str(table)


def test_a_mask_that_leaves_the_whole_object_open_gets_no_points_for_it():
    truth = row(1, 1, 0, 0)
    assert score_mask(row(0, 0, 0, 0), truth, uncertain=truth) == (1.0, 0.0, 0.5)
    assert score_mask(truth, truth, uncertain=row(1, 1, 1, 1)) == (0.0, 0.0, 0.0)


def test_void_of_the_truth_counts_nowhere_and_is_not_held_against_the_mask(tmp_path):
    mask, truth, void = row(1, 1, 0, 0), row(1, 0, 0, 0), row(0, 1, 0, 0)
    assert score_mask(mask, truth, void=void) == (1.0, 1.0, 1.0)

    write(tmp_path / "masks", {"cow/a": mask})
    write_foreground(truth, tmp_path / "truth" / "cow" / "a.png", void)
    table = score_folder(tmp_path / "masks", tmp_path / "truth")

    assert (table.mean.precision, table.mean.jaccard, table.mean.decided) == (1.0, 1.0, 1.0)
    assert "decide" not in str(table)


def test_masks_meet_in_any_spelling_and_what_is_not_compared_is_counted(tmp_path):
    masks = write(tmp_path / "masks", {"cow/Ku\u0308he": row(1, 0), "cow/more": row(1, 0), "cow/.thumbs/a": row(1, 0)})
    truth = write(tmp_path / "truth", {"cow/K\u00fche": row(1, 0), "cow/deep/er/b": row(1, 0)})
    (truth / "cow" / "K\u00fche.png").rename(truth / "cow" / "K\u00fche.PNG")
    (truth / "cow" / "c.bmp").write_bytes(b"")

    table = score_folder(masks, truth)

    assert table.mean.images == 1 and table.mean.jaccard == 1
    assert str(table).splitlines()[-2:] == [
        f"{masks}: 2 files passed over (1 hidden or of a tool, 1 without a true mask)",
        f"{truth}: 2 files passed over (1 .bmp, 1 deeper than <class>/<stem>.png)",
    ]
    write(truth, {"cow/Ku\u0308he": row(1, 0)})
    with pytest.raises(SourceError, match="two masks of one name"):
        score_folder(masks, truth)


def test_the_mean_of_the_kept_says_over_how_many_classes_it_is(tmp_path):
    masks = write(tmp_path / "masks", {"cow/a": row(1, 0), "cat/a": row(1, 1)})
    truth = write(tmp_path / "truth", {"cow/a": row(1, 0), "cat/a": row(1, 0)})

    assert "is over 1 of 2 classes: cat keeps no image" in str(score_folder(masks, truth))
    assert " classes: " not in str(score_folder(masks, truth, 0, 1))
