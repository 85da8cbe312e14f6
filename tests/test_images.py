import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from wss_data.errors import ImageError
from wss_data.imaging.images import (
    decode_image,
    decode_shrunk,
    encode_jpeg,
    list_images,
    longest_side_size,
    read_image,
    resize_longest_side,
    write_jpeg,
)


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


def test_too_many_pixels_are_refused_before_they_are_decoded_and_too_few_as_well(monkeypatch):
    monkeypatch.setattr("wss_data.imaging.images.MAX_PIXELS", 1_000_000)
    assert reason(encoded(Image.new("1", (3000, 3000)))) == "too_large"
    assert reason(encoded(Image.new("L", (200, 15)))) == "too_small"


SIDE = 60_000


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


TIFF_TAGS = {256: SIDE, 257: SIDE, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: SIDE, 279: 100}

BOMBS = {
    "PNG": b"\x89PNG\r\n\x1a\n"
    + png_chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0))
    + png_chunk(b"IDAT", b""),
    "GIF": b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\x08",
    "BMP": b"BM" + bytes(8) + b"\x36\0\0\0\x28\0\0\0" + b"\x60\xea\0\0" * 2 + b"\x01\0\x18\0" + bytes(24),
    "JPEG": b"\xff\xd8\xff\xc0\0\x0b\x08\xea\x60\xea\x60\x01\x01\x11\0\xff\xda\0\x08\x01\x01\0\0\x3f\0",
    "WEBP": b"RIFF\x24\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0\xff\x3f\0\xff\x3f\0VP8L\x05\0\0\0\x2f\xff\xff\xff\x0f\0",
    "TIFF": b"II*\0\x08\0\0\0"
    + struct.pack("<H", len(TIFF_TAGS))
    + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in TIFF_TAGS.items())
    + bytes(4),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_header_that_promises_too_many_pixels_is_all_that_is_read_of_a_bomb(kind, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("pixels were decoded"))
    assert reason(BOMBS[kind]) == "too_large"
    assert reason(BOMBS[kind], strict=True) == "too_large"


def test_formats_that_few_photographs_have_are_refused():
    for kind in ("PPM", "TGA", "ICO", "PCX"):
        assert reason(encoded(Image.new("RGB", (64, 64)), kind)) == "unreadable"


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


def picture(width: int = 96, height: int = 64) -> np.ndarray:
    """Smooth colours without symmetry."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return np.stack([255 * x, 255 * y, 255 * (1 - x) * y], axis=2).astype(np.uint8)


def furthest(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b).max())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("strict", [False, True])
def test_every_exif_orientation_is_undone_as_pillow_undoes_it(orientation, strict):
    image = Image.fromarray(picture())
    exif = image.getexif()
    exif[0x0112] = orientation
    for kind in ("JPEG", "PNG", "TIFF", "WEBP"):
        data = encoded(image, kind, exif=exif)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        assert furthest(decode_image(data, "picture", strict=strict), np.asarray(upright)) <= 2
        assert decode_shrunk(data, "picture", 48)[1] == upright.size


def test_a_broken_exif_block_does_not_spoil_the_image():
    for broken in (b"Exif\0\0", b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff"):
        data = encoded(Image.fromarray(picture()), "JPEG")
        data = data[:2] + b"\xff\xe1" + (len(broken) + 2).to_bytes(2, "big") + broken + data[2:]
        assert furthest(decode_image(data, "picture"), picture()) < 40
        assert decode_shrunk(data, "picture", 48)[1] == (96, 64)


def inks(adobe: bool) -> tuple[bytes, np.ndarray]:
    """A JPEG in four inks, inverted and marked as Adobe's programs do, or neither; and how it looks."""
    ink = Image.fromarray(np.concatenate([255 - picture(), np.full((64, 96, 1), 60, np.uint8)], axis=2), "CMYK")
    looks = np.asarray(ink.convert("RGB"))
    if adobe:
        return encoded(ink, "JPEG", quality=95), looks  # Pillow writes them as Adobe does
    data = encoded(Image.fromarray(255 - np.asarray(ink), "CMYK"), "JPEG", quality=95)
    start = data.index(b"\xff\xee")
    return data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :], looks


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_is_read_whether_it_is_inverted_or_not(adobe):
    data, looks = inks(adobe)
    assert furthest(decode_image(data, "picture"), looks) <= 12
    assert furthest(decode_image(data, "picture", strict=True), looks) <= 12
    assert furthest(decode_shrunk(data, "picture", 48)[0], resize_longest_side(looks, 48)) <= 12


SHRUNK = {
    "RGB": ("PNG", {}),
    "RGBA": ("PNG", {}),
    "LA": ("PNG", {}),
    "P": ("GIF", {}),
    "L": ("TIFF", {}),
    "1": ("BMP", {}),
    "YCbCr": ("JPEG", {"quality": 95}),
    "I;16": ("PNG", {}),
}


@pytest.mark.parametrize("mode", SHRUNK)
def test_shrinking_while_decoding_gives_what_shrinking_afterwards_gives(mode):
    kind, options = SHRUNK[mode]
    image = Image.fromarray(picture(600, 400))
    if mode == "I;16":
        image = Image.fromarray(picture(600, 400)[:, :, 0].astype(np.uint16) * 257)
    elif mode != "P":
        image = image.convert(mode)
    data = encoded(image, kind, **options)
    shrunk, original_size = decode_shrunk(data, "picture", 130)
    assert original_size == (600, 400)
    wanted = resize_longest_side(decode_image(data, "picture"), 130)
    if mode in ("1", "P"):  # dithered: single pixels differ with the order of averaging
        assert np.abs(shrunk.astype(int) - wanted).mean() < 8
    else:
        assert furthest(shrunk, wanted) <= 4


def test_half_transparent_edges_shrink_to_colours_between_them_and_white():
    image = np.zeros((400, 400, 4), np.uint8)
    image[:, :200] = (255, 0, 0, 255)
    shrunk, _ = decode_shrunk(encoded(Image.fromarray(image)), "picture", 50)
    assert shrunk[25, 10].tolist() == [255, 0, 0]
    assert shrunk[25, 40].tolist() == [255, 255, 255]
    assert np.all(shrunk[:, :, 0] == 255)  # no dark seam from the black behind the transparency


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_its_first_frame(kind):
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue", "green")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert furthest(decode_image(data, "picture"), np.full((64, 64, 3), (255, 0, 0))) <= 4
    assert furthest(decode_shrunk(data, "picture", 32)[0], np.full((32, 32, 3), (255, 0, 0))) <= 4


def test_small_images_keep_their_size_when_they_are_decoded_for_a_larger_one():
    assert decode_shrunk(encoded(Image.fromarray(picture()), "JPEG"), "picture", 340)[0].shape == (64, 96, 3)


def test_damage_that_decoders_paint_over_is_refused_only_where_strictness_is_asked_for():
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG")
    place = len(data) // 2
    data = data[:place] + data[place + 1024 :]
    assert decode_image(data, "picture").shape == (256, 256, 3)
    assert reason(data, strict=True) == "corrupt"


@pytest.mark.parametrize(("quality", "subsampling"), [(95, 0), (98, 0), (80, 2)])
def test_a_jpeg_is_written_exactly_as_pillow_writes_it(quality, subsampling):
    image = picture(341, 227)
    assert encode_jpeg(image, quality) == encoded(
        Image.fromarray(image), "JPEG", quality=quality, subsampling=subsampling
    )
