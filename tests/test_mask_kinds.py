"""A mask file is read for what it is, or refused with its reason, by whatever command."""

import os
import resource

import numpy as np
import png_files
import pytest
from PIL import Image
from png_files import Kind, png, shape

from wss_data.cosegmentation.imported import KnownImage, MaskFile, read_foreground
from wss_data.cosegmentation.score import score_folder
from wss_data.errors import MaskError, TrainingDataError
from wss_data.imaging import masks
from wss_data.imaging.masks import decode_mask, open_mask, read_mask
from wss_data.records import ExampleTable
from wss_data.sharing.layouts.base import copy_mask
from wss_train.data import read_class_mask
from wss_train.evaluate import evaluate_masks

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


def test_0_and_255_are_the_white_of_any_depth_where_foreground_is_wanted(tmp_path):
    for depth, white in ((1, 1), (2, 3), (4, 15), (8, 255)):
        path = png_files.write(tmp_path / "cow" / "a.png", png(shape(white), depth))
        image = KnownImage("a", "cow", "x/a.jpg", None, (20, 12), None, class_index=7)
        assert np.array_equal(read_foreground(MaskFile(image, path)).foreground, shape(1) == 1)


def told_by(command, tmp_path, data: bytes) -> str:
    """The reason for which a command refuses a mask file, or nothing."""
    good = png_files.write(tmp_path / "good" / "cow" / "a.png", png(shape(1)))
    path = png_files.write(tmp_path / "bad" / "cow" / "a.png", data)
    try:
        command(good, path)
    except MaskError as error:
        return error.reason
    except TrainingDataError:
        pass  # the mask was read; its values are no classes
    return ""


COMMANDS = {
    "score, masks": lambda good, bad: score_folder(bad.parents[1], good.parents[1]),
    "score, truth": lambda good, bad: score_folder(good.parents[1], bad.parents[1]),
    "score-masks, predictions": lambda good, bad: evaluate_masks([good], [bad], 255),
    "score-masks, truth": lambda good, bad: evaluate_masks([bad], [good], 255),
    "import-masks": lambda good, bad: read_foreground(
        MaskFile(KnownImage("a", "cow", "x/a.jpg", None, (20, 12), None), bad)
    ),
    "rebuild": lambda good, bad: decode_mask(bad.read_bytes(), "a manifest"),
    "export": lambda good, bad: copy_mask(bad, good.with_name("copy.png")),
    "training": lambda good, bad: read_class_mask(rows_of(bad), 0, (20, 12)),
}


def rows_of(path) -> ExampleTable:
    names = tuple(f"c{index}" for index in range(1, 255))
    return ExampleTable(("a",), ("x/a.jpg",), (str(path),), np.ones((1, 254), bool), names)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_reads_and_refuses_the_same_masks(tmp_path, command):
    for name, kind in KINDS.items():
        reason = told_by(COMMANDS[command], tmp_path, kind.data)
        if kind.reason or command != "import-masks":
            assert reason == kind.reason, name
        else:
            assert reason in ("", "values", "empty", "full"), f"{name}: foreground has two values"


def test_an_export_writes_what_other_programs_would_read_otherwise(tmp_path):
    for name, kind in KINDS.items():
        if not kind.reason and not name.startswith(("text", "profile")):  # Pillow opens no file with these
            path = png_files.write(tmp_path / "mask.png", kind.data)
            copy_mask(path, tmp_path / "copy.png")
            with Image.open(tmp_path / "copy.png") as image:
                assert np.array_equal(np.array(image), kind.values)


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
            decode_mask(broken, "mask.png", size)
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
