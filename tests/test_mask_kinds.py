"""A mask file is read for what it is, or refused with its reason, by whatever command."""

import os
import resource

import numpy as np
import png_files
import pytest
from png_files import Kind, png, shape

from wss_data import masks
from wss_data.errors import MaskError
from wss_data.masks import open_mask, read_mask

KINDS = png_files.kinds()
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


@each_kind
def test_a_mask_is_read_for_what_it_is_or_refused_with_its_reason(tmp_path, kind: Kind):
    path = png_files.write(tmp_path / "mask.png", kind.data)
    if kind.reason:
        with pytest.raises(MaskError) as caught:
            read_mask(path)
        assert caught.value.reason == kind.reason
        assert str(caught.value).startswith(f"{path}: ") and str(caught.value).endswith(".")
    else:
        found = read_mask(path)
        assert found.dtype == np.uint8 and found.flags.writeable
        assert np.array_equal(found, kind.values)


def test_what_is_no_file_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone")
    wanted = {
        "pipe": "unreadable",
        "folder": "unreadable",
        "loop": "unreadable",
        "nowhere": "missing",
        "a\0b": "unreadable",
    }
    for name, reason in wanted.items():
        with pytest.raises(MaskError) as caught:
            read_mask(tmp_path / f"{name}.png")
        assert caught.value.reason == reason


def test_a_file_of_too_many_bytes_is_not_read(tmp_path, monkeypatch):
    path = png_files.write(tmp_path / "mask.png", png(shape(1)))
    monkeypatch.setattr(masks, "MAX_BYTES", path.stat().st_size - 1)
    with pytest.raises(MaskError, match="bytes, at most") as caught:
        read_mask(path)
    assert caught.value.reason == "too_large"


def test_the_size_is_looked_at_before_a_pixel_is_decoded():
    broken = png(shape(1), size=(20, 13))
    for size, reason in (((20, 12), "size"), ((13, 20), "rotated"), ((20, 13), "unreadable")):
        with pytest.raises(MaskError) as caught:
            masks.decode_mask(broken, "mask.png", size)
        assert caught.value.reason == reason


def test_300_mutated_files_give_a_mask_or_a_mask_error_in_bounded_memory(tmp_path):
    random = np.random.default_rng(13)
    originals = [kind.data for kind in KINDS.values() if len(kind.data) < 10_000]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for number in range(300):
        data = png_files.mutated(random, originals[number % len(originals)])
        path = png_files.write(tmp_path / "mask.png", data)
        try:
            assert read_mask(path).ndim == 2
        except MaskError:
            refused += 1
    assert 100 < refused < 300, "most are refused, and the checksums were made right often enough for some to be read"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "KiB"


def test_whoever_draws_in_black_and_white_is_known_by_it(tmp_path):
    def value(data: bytes) -> int | None:
        return open_mask(png_files.write(tmp_path / "mask.png", data)).foreground_value

    assert value(png(shape(255))) == 255
    assert value(png(shape(1), 1)) == 1
    assert value(png(shape(15), 4)) == 15
    assert value(png(shape(1), 1, png_files.PALETTE, [png_files.BLACK, png_files.WHITE])) == 1
    assert value(png(shape(0, 1), 1, png_files.PALETTE, [png_files.WHITE, png_files.BLACK])) == 255
    assert value(png(shape(255), 8, png_files.PALETTE, png_files.VOC)) is None, "void in VOC's colours"
    assert value(png(shape(7))) is None and value(png(shape(0))) is None
