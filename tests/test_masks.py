import numpy as np
import pytest
from PIL import Image

from wss_data.errors import MaskError
from wss_data.imaging.masks import (
    check_foreground,
    foreground_ratio,
    label_mask,
    read_mask,
    resize_mask,
    voc_palette,
    write_foreground,
    write_mask,
)


def reason(values, size) -> str:
    with pytest.raises(MaskError) as caught:
        check_foreground(np.asarray(values, np.uint8), size, "mask.png")
    assert str(caught.value).startswith("mask.png: ")
    return caught.value.reason


def test_the_palette_is_vocs():
    known = {0: (0, 0, 0), 1: (128, 0, 0), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    for index, colour in known.items():
        assert tuple(voc_palette()[index]) == colour


def test_a_label_mask_keeps_its_indices_through_a_palette_png(tmp_path):
    mask = np.array([[0, 1, 255], [20, 8, 0]], np.uint8)
    write_mask(mask, tmp_path / "mask.png")
    assert Image.open(tmp_path / "mask.png").mode == "P"
    assert read_mask(tmp_path / "mask.png").tolist() == mask.tolist()


def test_a_foreground_mask_is_written_as_0_and_255(tmp_path):
    write_foreground(np.array([[True, False]]), tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").tolist() == [[255, 0]]


def test_foreground_takes_the_class_index():
    assert label_mask(np.array([[True, False]]), 10).tolist() == [[10, 0]]


def test_the_foreground_ratio_leaves_void_pixels_out():
    assert foreground_ratio(np.array([[True, False, False, False]])) == 0.25
    assert foreground_ratio(np.array([[3, 0, 255, 255]], np.uint8)) == 0.5
    assert foreground_ratio(np.full((2, 2), 255, np.uint8)) == 0.0


def test_resizing_a_mask_invents_no_index():
    mask = np.array([[0, 20], [20, 0]], np.uint8)
    assert set(np.unique(resize_mask(mask, (7, 5)))) == {0, 20}
    assert resize_mask(mask, (7, 5)).shape == (5, 7)


def test_0_and_255_as_well_as_0_and_1_are_foreground_masks():
    for one in (1, 255):
        assert check_foreground(np.array([[0, one]], np.uint8), (2, 1), "mask").tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("values", "size", "expected"),
    [
        ([[0, 1, 1]], (2, 1), "size"),
        ([[0, 1, 1]], (1, 3), "rotated"),
        ([[0, 1, 2]], (3, 1), "values"),
        ([[0, 1, 255]], (3, 1), "values"),
        ([[0, 0]], (2, 1), "empty"),
        ([[255, 255]], (2, 1), "full"),
    ],
)
def test_each_mistake_in_a_mask_is_named(values, size, expected):
    assert reason(values, size) == expected


def test_colours_and_16_bits_are_refused_when_a_mask_is_read(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "rgb.png")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "text.png").write_text("no picture")
    for name, expected in [("rgb", "rgb"), ("deep", "16_bit"), ("text", "unreadable"), ("absent", "missing")]:
        with pytest.raises(MaskError) as caught:
            read_mask(tmp_path / f"{name}.png")
        assert caught.value.reason == expected
