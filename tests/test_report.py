import numpy as np
import pytest

from wss_data.imaging.images import read_image, write_jpeg
from wss_data.imaging.masks import write_mask
from wss_data.imaging.sheets import DatasetImage, cut_out, overlay, spread, write_sheets
from wss_train.reports.sheets import chosen


def image_of(share: float | None, name: str = "a", kept: bool = True) -> DatasetImage:
    return DatasetImage("cat", name, None, share, kept)


@pytest.fixture
def rows(tmp_path):
    found = []
    for i, (class_name, share) in enumerate([("cat", 0.1), ("cat", 0.5), ("cow", 0.9), ("cow", None)]):
        write_jpeg(np.full((30, 40, 3), 100, np.uint8), tmp_path / f"{i}.jpg")
        mask_path = None
        if share is not None:
            mask = np.zeros((30, 40), np.uint8)
            mask[: round(30 * share)] = 1
            mask_path = tmp_path / f"{i}.png"
            write_mask(mask, mask_path)
        kept = share == 0.5
        found.append(DatasetImage(class_name, str(tmp_path / f"{i}.jpg"), mask_path and str(mask_path), share, kept))
    return found


def test_images_are_shown_at_even_steps_of_the_foreground_fraction_not_for_their_looks():
    members = [image_of(share, f"{share:.2f}") for share in np.linspace(0, 1, 11)]
    assert [round(m.foreground_ratio, 1) for m in spread(members[::-1], 3)] == [0.0, 0.5, 1.0]
    assert spread([image_of(0.4), image_of(None)], 5)[0].foreground_ratio is None


def test_an_overview_a_sheet_a_class_and_a_histogram_are_written(rows, tmp_path):
    written = write_sheets(rows, tmp_path / "pictures", (0.2, 0.8))
    assert {p.name for p in written} == {
        "cosegmentation.png",
        "cosegmentation_cat.png",
        "cosegmentation_cow.png",
        "foreground_ratio.png",
    }
    for path in written:
        assert min(read_image(path).shape[:2]) > 100


def test_an_image_that_is_gone_leaves_an_empty_tile_and_no_error(rows, tmp_path):
    gone = DatasetImage("cat", str(tmp_path / "gone.jpg"), None, 0.3, True)
    write_sheets([*rows, gone], tmp_path / "pictures", (0.2, 0.8))


def test_without_images_no_sheet_is_written(tmp_path):
    assert write_sheets([], tmp_path / "pictures", (0.2, 0.8)) == []


def test_a_cut_out_keeps_the_object_and_fades_the_rest():
    image = np.zeros((20, 20, 3), np.uint8)
    foreground = np.zeros((20, 20), bool)
    foreground[5:15, 5:15] = True
    result = cut_out(image, foreground)
    assert result[10, 10].tolist() == [0, 0, 0]
    assert result[1, 1].min() > 150


def test_an_overlay_takes_vocs_colours_and_shows_void_in_white():
    image = np.zeros((20, 20, 3), np.uint8)
    mask = np.zeros((20, 20), np.uint8)
    mask[5:15, 5:15], mask[:2] = 1, 255
    result = overlay(image, mask, opacity=1.0)
    assert result[10, 10].tolist() == [128, 0, 0]
    assert result[0, 0].tolist() == [255, 255, 255]


def test_positions_are_chosen_at_even_steps_and_each_once():
    assert chosen(11, 3) == [0, 5, 10]
    assert chosen(2, 5) == [0, 1]
    assert chosen(0, 5) == []
