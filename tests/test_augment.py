import cv2
import numpy as np
import pytest

from wss_data.imaging.images import longest_side_size
from wss_train.data import Augmentation, augment, draw_augmentation
from wss_train.recipes import preset, with_values

VOID = 255


def recipe(**values):
    return with_values(preset("cpu"), values)


def picture(height, width, seed=0):
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, (height, width, 3)).astype(np.uint8)
    return image, generator.integers(0, 6, (height, width)).astype(np.uint8)


def literal_augment(image, mask, drawn, recipe):
    """The same in the order of the textbook: resize, mirror, pad on all sides, crop; pixel by pixel."""
    width, height = longest_side_size(image.shape[1], image.shape[0], recipe.long_side * drawn.scale, enlarge=True)
    grows = width >= image.shape[1]
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR if grows else cv2.INTER_AREA)
    mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    crop, mean = recipe.crop, np.round(recipe.pixel_statistics[0])
    left, top = round(drawn.across * (width - crop)), round(drawn.down * (height - crop))
    out_image, out_mask = np.zeros((crop, crop, 3), np.uint8), np.zeros((crop, crop), np.uint8)
    for y in range(crop):
        for x in range(crop):
            from_x, from_y = left + x, top + y
            inside = 0 <= from_x < width and 0 <= from_y < height
            if drawn.flip:
                from_x = width - 1 - from_x
            out_image[y, x] = image[from_y, from_x] if inside else mean
            out_mask[y, x] = mask[from_y, from_x] if inside else VOID
    return out_image, out_mask


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(20, 30), (30, 12), (9, 9)])
@pytest.mark.parametrize("scale", [0.6, 1.0, 1.7])
def test_augment_agrees_with_its_literal_version(flip, size, scale):
    image, mask = picture(*size)
    drawn = Augmentation(scale, flip, 0.3, 0.8)
    settings = recipe(long_side=24, crop=16)

    pixels, indices = augment(image, mask, drawn, settings)

    expected_pixels, expected_indices = literal_augment(image, mask, drawn, settings)
    np.testing.assert_array_equal(pixels, expected_pixels)
    np.testing.assert_array_equal(indices, expected_indices)


def test_a_crop_is_bytes():
    pixels, indices = augment(*picture(20, 30), Augmentation(1.0, False, 0.5, 0.5), recipe(long_side=24, crop=16))

    assert (pixels.shape, pixels.dtype) == ((16, 16, 3), np.uint8)
    assert (indices.shape, indices.dtype) == ((16, 16), np.uint8)
    assert pixels.min() >= 0
    assert pixels.max() > 1


def test_beyond_the_image_are_the_mean_colour_and_void():
    image, mask = np.full((4, 8, 3), 7, np.uint8), np.ones((4, 8), np.uint8)
    settings = with_values(preset("paper"), {"long_side": 8, "crop": 8})

    pixels, indices = augment(image, mask, Augmentation(1.0, False, 0.0, 0.0), settings)

    inside = indices != VOID
    assert inside[:4].all()
    assert not inside[4:].any()
    assert (pixels[inside] == 7).all()
    assert pixels[~inside][0].tolist() == [124, 116, 104]


def test_image_and_mask_stay_on_each_other():
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 20:50] = 3
    image = np.repeat((mask * 80)[:, :, None], 3, axis=2)

    for seed in range(20):
        drawn = draw_augmentation(recipe(), np.random.default_rng(seed))
        pixels, indices = augment(image, mask, drawn, recipe(long_side=64, crop=48))
        decided = indices != VOID
        wrong = (pixels[:, :, 0] > 120) != (indices == 3)
        assert wrong[decided].mean() < 0.03


def test_the_same_numbers_give_the_same_crop():
    image, mask = picture(20, 30)
    drawn = draw_augmentation(recipe(), np.random.default_rng(5))

    first, second = (augment(image, mask, drawn, recipe(long_side=24, crop=16)) for _ in range(2))

    assert drawn == draw_augmentation(recipe(), np.random.default_rng(5))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_drawn_numbers_keep_to_the_recipe():
    settings = recipe(scale_range="0.5,0.8", flip=0.25)
    drawn = [draw_augmentation(settings, np.random.default_rng(seed)) for seed in range(2_000)]

    assert min(d.scale for d in drawn) >= 0.5
    assert max(d.scale for d in drawn) <= 0.8
    assert np.mean([d.flip for d in drawn]) == pytest.approx(0.25, abs=0.04)


def test_small_images_are_enlarged_to_the_long_side_and_large_ones_shrunk():
    assert longest_side_size(340, 255, 500, enlarge=True) == (500, 375)
    assert longest_side_size(1000, 500, 500, enlarge=True) == (500, 250)
    assert longest_side_size(1, 1000, 10, enlarge=True) == (1, 10)
