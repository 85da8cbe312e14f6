import io

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from wss_data.errors import ImageError
from wss_data.imaging.jpeg import decode_jpeg

SIZE = (640, 480)


def photo(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Something with edges, areas and grain, as photographs have them."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 255, (9, 12, 3), dtype=np.uint8)
    image = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    image += cv2.GaussianBlur(random.normal(0, 40, image.shape).astype(np.float32), (0, 0), 1)
    return np.clip(image, 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **{"quality": 85, **options})
    return buffer.getvalue()


def scan_start(data: bytes) -> int:
    return data.index(b"\xff\xda")


def reason(data: bytes, size: tuple[int, int] = SIZE, longest_side: int | None = 300) -> str | None:
    """Why a file is refused; ``None`` if it is taken."""
    try:
        return None if decode_jpeg(data, "picture", size, longest_side) is not None else "another decoder"
    except ImageError as error:
        assert str(error).startswith("picture: the JPEG data is damaged (")
        return error.reason


ENCODINGS = {
    "4:2:0": {},
    "4:4:4": {"subsampling": 0, "quality": 92},
    "own tables": {"optimize": True, "quality": 75},
    "restart markers": {"restart_marker_rows": 1},
}


@pytest.fixture(scope="module", params=ENCODINGS)
def files(request) -> list[bytes]:
    return [jpeg(photo(seed), **ENCODINGS[request.param]) for seed in range(10)]


def damaged(files: list[bytes], damage) -> list[bytes]:
    """Fifty damaged files: each file five times, at places drawn at random."""
    random = np.random.default_rng(1)
    places = [(data, int(random.integers(scan_start(data) + 14, len(data) - 2000))) for data in files for _ in range(5)]
    return [damage(data, place) for data, place in places]


def test_whole_files_are_taken_at_full_size_and_at_half(files):
    assert {reason(data, longest_side=side) for data in files for side in (None, 300)} == {None}


@pytest.mark.parametrize("longest_side", [None, 300])
def test_every_file_with_a_kilobyte_missing_is_refused(files, longest_side):
    cut = damaged(files, lambda data, at: data[:at] + data[at + 1024 :])
    assert {reason(data, longest_side=longest_side) for data in cut} == {"corrupt"}


@pytest.mark.parametrize("longest_side", [None, 300])
def test_every_file_with_512_bytes_zeroed_is_refused(files, longest_side):
    zeroed = damaged(files, lambda data, at: data[:at] + bytes(512) + data[at + 512 :])
    assert {reason(data, longest_side=longest_side) for data in zeroed} == {"corrupt"}


def test_every_file_cut_off_is_refused(files):
    assert {reason(data) for data in damaged(files, lambda data, at: data[:at])} == {"truncated"}


def test_progressive_files_are_refused_if_cut_off_or_zeroed_and_taken_if_whole():
    whole = [jpeg(photo(seed), progressive=True) for seed in range(10)]
    assert {reason(data) for data in whole} == {None}
    assert {reason(data) for data in damaged(whole, lambda data, at: data[:at])} == {"truncated"}
    zeroed = damaged(whole, lambda data, at: data[:at] + bytes(512) + data[at + 512 :])
    refused = [reason(data) is not None for data in zeroed]
    assert np.mean(refused) >= 0.9  # the rest lies in the scan of mean values' last bit: a change of 2 in 255


def test_unseen_damage_to_a_progressive_file_is_no_stronger_than_its_compression():
    clean = photo(3)
    data = jpeg(clean, progressive=True)
    compression = np.abs(simplejpeg.decode_jpeg(data).astype(int) - clean).mean()
    whole = simplejpeg.decode_jpeg(data).astype(int)
    unseen = []
    for cut in damaged([data] * 10, lambda data, at: data[:at] + data[at + 1024 :]):
        try:
            pixels = decode_jpeg(cut, "picture", SIZE)
        except ImageError:
            continue
        unseen.append(np.abs(pixels - whole).mean())
    assert max(unseen, default=0) < compression


@pytest.mark.parametrize(
    ("wanted", "decoded"),
    [(340, 640), (320, 320), (321, 640), (160, 160), (81, 160), (79, 80), (10, 80), (None, 640)],
)
def test_only_halves_quarters_and_eighths_are_decoded_and_never_too_few_pixels(wanted, decoded):
    pixels = decode_jpeg(jpeg(photo(0)), "picture", SIZE, wanted)
    assert pixels.shape == (decoded * 3 // 4, decoded, 3)


def test_odd_sizes_are_rounded_up_as_the_decoder_does():
    image = photo(0, (641, 353))
    assert decode_jpeg(jpeg(image), "picture", (641, 353), 300).shape == (177, 321, 3)


def test_even_areas_are_no_holes_whatever_the_tables():
    for options in ({}, {"optimize": True}, {"progressive": True}, {"subsampling": 0, "optimize": True}):
        for value in (0, 128, 255):
            even = np.full((600, 800, 3), value, np.uint8)
            half = even.copy()
            half[:, 400:] = photo(0, (400, 600))
            assert reason(jpeg(even, **options), (800, 600)) is None
            assert reason(jpeg(half, **options), (800, 600)) is None
            assert reason(jpeg(even[:, :, 0], **options), (800, 600)) is None


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def with_segments(data: bytes, *segments: bytes) -> bytes:
    return data[:2] + b"".join(segments) + data[2:]


BAD_ICC = segment(0xE2, b"ICC_PROFILE\0\x05\x02" + b"profile" * 20)


def harmless(data: bytes) -> dict[str, bytes]:
    tables = data.index(b"\xff\xdb")
    return {
        "stray bytes in the header": data[:tables] + b"stray" + data[tables:],
        "a bad colour profile": with_segments(data, BAD_ICC),
        "an unknown JFIF version": data.replace(b"JFIF\0\x01\x01", b"JFIF\0\x07\x07", 1),
        "two bytes before the end": data[:-2] + b"\x12\x34" + data[-2:],
        "padding before the end": data[:-2] + bytes(512) + data[-2:],
        "all of these": with_segments(data[:tables] + b"stray" + data[tables:-2] + bytes(512) + data[-2:], BAD_ICC),
        "a hole in its metadata": with_segments(data, segment(0xE1, b"Exif\0\0" + bytes(5000))),
        "another file behind it": data + bytes(700) + data,
    }


@pytest.mark.parametrize("oddity", harmless(jpeg(photo(0))))
def test_oddities_that_leave_the_image_alone_are_taken(oddity):
    data = jpeg(photo(2))
    pixels = decode_jpeg(harmless(data)[oddity], "picture", SIZE)
    assert np.array_equal(pixels, simplejpeg.decode_jpeg(data))


@pytest.mark.parametrize("oddity", harmless(jpeg(photo(0))))
def test_damage_behind_a_harmless_oddity_is_found(oddity):
    data = jpeg(photo(2))
    place = scan_start(data) + 9000
    assert reason(harmless(data[:place] + data[place + 1024 :])[oddity]) == "corrupt"


@pytest.mark.parametrize("data", [b"\xff\xd8", b"\xff\xd8\xff\xda", b"\xff\xd8" + b"\xff" * 9, b"\xff\xd8\xff\xc4\0\0"])
def test_a_file_without_an_image_is_left_to_other_decoders_or_refused(data):
    assert reason(data) in ("another decoder", "truncated", "corrupt")


def test_a_file_of_another_size_than_was_checked_is_left_alone():
    assert reason(jpeg(photo(0)), size=(64, 48)) == "another decoder"
