import io

import numpy as np
import pytest
from PIL import Image

from wss_data.errors import ImageError
from wss_data.images import decode_image, list_images, longest_side_size, read_image, resize_longest_side, write_jpeg


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reason(data: bytes, **options) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data, "picture", **options)
    assert str(caught.value).startswith("picture: ")
    return caught.value.reason


def test_340_is_the_longer_side_after_shrinking_and_small_images_are_left_alone():
    assert longest_side_size(1000, 500, 340) == (340, 170)
    assert longest_side_size(500, 1000, 340) == (170, 340)
    assert longest_side_size(200, 100, 340) == (200, 100)
    assert longest_side_size(5000, 1, 340) == (340, 1)


def test_shrinking_averages_areas():
    checkers = np.indices((64, 64)).sum(axis=0)[:, :, None] % 2 * np.full((1, 1, 3), 200)
    small = resize_longest_side(checkers.astype(np.uint8), 32)
    assert small.shape == (32, 32, 3)
    assert np.all(small == 100)


def test_the_exif_rotation_is_applied():
    image = Image.new("RGB", (40, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # rotate by 90 degrees to be upright
    assert decode_image(encoded(image, "JPEG", exif=exif), "picture").shape == (40, 20, 3)


def test_transparent_pixels_become_white():
    image = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    assert np.all(decode_image(encoded(image), "picture") == 255)


def test_16_bit_grey_is_scaled_not_clipped():
    image = Image.fromarray(np.full((20, 20), 32768, np.uint16))
    assert np.all(decode_image(encoded(image), "picture") == 127)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "LA"])
def test_every_mode_comes_out_as_rgb(mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert decode_image(encoded(Image.new(mode, (20, 30)), kind), "picture").shape == (30, 20, 3)


def test_text_is_unreadable_and_half_a_jpeg_is_truncated():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG")
    assert reason(b"<html>not found</html>") == "unreadable"
    assert reason(b"") == "unreadable"
    assert reason(data[: len(data) // 2]) == "truncated"


def test_too_many_pixels_are_refused_before_they_are_decoded_and_too_few_as_well():
    assert reason(encoded(Image.new("1", (3000, 3000))), max_pixels=1_000_000) == "too_large"
    assert reason(encoded(Image.new("L", (200, 15)))) == "too_small"


def test_a_missing_file_is_an_image_error():
    with pytest.raises(ImageError) as caught:
        read_image("nowhere/picture.jpg")
    assert caught.value.reason == "missing"


def test_a_written_jpeg_reads_back_nearly_the_same(tmp_path):
    image = np.full((24, 32, 3), (10, 120, 200), np.uint8)
    write_jpeg(image, tmp_path / "deep" / "picture.jpg")
    assert np.abs(read_image(tmp_path / "deep" / "picture.jpg").astype(int) - image).max() <= 2


def test_only_visible_images_are_listed_sorted_and_below_too(tmp_path):
    for name in ("b.JPG", "a.png", ".hidden.jpg", "notes.txt", "deep/c.webp"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert [p.relative_to(tmp_path).as_posix() for p in list_images(tmp_path)] == ["a.png", "b.JPG", "deep/c.webp"]
