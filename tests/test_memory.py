"""Large images take bounded memory, and small ones are labelled as ever."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from drawings import ColourNetwork

import wss_data.crf.dense_crf as crf
import wss_train.inference as inference
import wss_train.labelling as labelling
from wss_data.crf.dense_crf import CrfSettings, crf_tiles, dense_crf
from wss_data.crf.mean_field import mean_field
from wss_data.imaging.images import strips, write_jpeg
from wss_data.imaging.sheets import overlay
from wss_data.runtime.threads import HELD, Room, in_threads
from wss_train.inference import InferenceSettings, at_image_size, predict_files, window_at_image_size
from wss_train.labelling import label_images

SETTINGS = CrfSettings(bilateral_px=15, iterations=5)


def scene(height, width, labels=3, seed=0):
    """An image of soft patches, and soft maps that follow others: like a photograph and a network's doubt."""
    random = np.random.default_rng(seed)
    image = cv2.resize(random.integers(0, 256, (height // 20, width // 20, 3)).astype(np.uint8), (width, height))
    image = np.clip(image + random.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    coarse = np.exp(2 * random.normal(0, 1, (labels, height // 15, width // 15))).astype(np.float32)
    maps = np.stack([cv2.resize(plane, (width, height)) for plane in coarse / coarse.sum(axis=0)])
    return maps / maps.sum(axis=0), image


def test_up_to_two_megapixels_the_crf_sees_the_whole_image_and_gives_the_same_bits():
    maps, image = scene(60, 80)
    energies = -np.log(np.maximum(maps, 1e-5))
    whole = mean_field(energies, image, SETTINGS)

    assert len(crf_tiles(1000, 2000, 55)) == 1 and len(crf_tiles(1000, 2001, 55)) > 1
    assert np.array_equal(dense_crf(maps, image, SETTINGS), whole)


@pytest.mark.parametrize(("height", "width"), [(300, 420), (420, 300), (64, 2000)])
def test_the_labels_of_tiles_are_those_of_the_whole_image(height, width, monkeypatch):
    maps, image = scene(height, width)
    whole = dense_crf(maps, image, SETTINGS).argmax(axis=0)
    monkeypatch.setattr(crf, "LARGEST_WHOLE", 50_000)
    monkeypatch.setattr(crf, "TILE_PIXELS", 40_000)

    tiled = dense_crf(maps, image, SETTINGS)

    assert len(crf_tiles(height, width, 15)) > 3
    assert (whole != maps.argmax(axis=0)).mean() > 0.02, "the CRF has something to do"
    assert (tiled.argmax(axis=0) == whole).mean() >= 0.999
    np.testing.assert_allclose(tiled.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(10_000, 10_000), (16, 6_250_000), (4_000, 15_000), (6_000, 400)])
def test_tiles_cover_every_pixel_once_and_none_sees_more_than_a_megapixel(height, width):
    tiles = crf_tiles(height, width, 55)
    assert sum((t.rows.stop - t.rows.start) * (t.columns.stop - t.columns.start) for t in tiles) == height * width
    assert len({(t.rows.start, t.columns.start) for t in tiles}) == len(tiles)
    for t in tiles:
        rows, columns = t.seen_rows, t.seen_columns
        assert (rows.stop - rows.start) * (columns.stop - columns.start) <= 1_000_000
        assert 0 <= rows.start <= t.rows.start < t.rows.stop <= rows.stop <= height
        assert 0 <= columns.start <= t.columns.start < t.columns.stop <= columns.stop <= width


PEAK = """
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""

PEAK_OF_CRF = """
import numpy as np
import wss_data.crf.dense_crf as crf
crf.LARGEST_WHOLE = crf.TILE_PIXELS = 10**5
settings = crf.CrfSettings(bilateral_px=9, iterations=1)
random = np.random.default_rng(0)
image = np.repeat(np.repeat(random.integers(0, 256, (70, 100, 3)).astype(np.uint8), 20, 0), 20, 1)
maps = random.random((2, 1400, 2000), np.float32)
crf.dense_crf(maps[:, :30, :30], image[:30, :30], settings)
before = peak()
crf.dense_crf(maps, image, settings)
print((peak() - before) // 1024)
"""


def megabytes(script):
    done = subprocess.run(
        [sys.executable, "-c", PEAK + script], capture_output=True, text=True, timeout=300, check=True
    )
    return int(done.stdout.split()[-1])


def test_a_crf_takes_the_memory_of_a_tile_and_not_of_the_image():
    # In one piece it would be 1,270 MB.
    assert megabytes(PEAK_OF_CRF) < 150


PEAK_OF_PREDICTION = """
import torch
from wss_train.inference import Predicted
from wss_train.labelling import label_images
maps = torch.rand(21, 60, 40).softmax(0)
before = peak()
(labelled,) = label_images([Predicted(0, None, maps, None, "not read", (6000, 4000))])
assert labelled.mask.shape == (6000, 4000) and len(set(labelled.mask[::50, ::50].ravel().tolist())) > 10
print((peak() - before) // 1024)
"""


def test_scores_of_21_classes_are_never_held_at_the_size_of_a_large_image():
    # They would be 2,016 MB; the mask is 24.
    assert megabytes(PEAK_OF_PREDICTION) < 300


@pytest.mark.parametrize(("height", "width"), [(50, 90), (90, 50), (17, 200)])
def test_windows_are_parts_of_the_maps_at_the_images_size(height, width):
    maps = torch.rand(3, 7, 9, generator=torch.Generator().manual_seed(0))
    whole = at_image_size(maps, height, width)
    for rows, columns in [*strips(height, width, 300), (slice(3, 11), slice(20, 49))]:
        part = window_at_image_size(maps, (height, width), rows, columns)
        torch.testing.assert_close(part, whole[:, rows, columns], atol=1e-6, rtol=0)


@pytest.mark.parametrize("settings", [None, SETTINGS])
def test_a_large_image_is_labelled_in_parts_as_it_would_be_in_one_piece(settings, tmp_path, monkeypatch):
    write_jpeg(scene(300, 400)[1], tmp_path / "x.jpg")

    def mask():
        images = predict_files(ColourNetwork(), [tmp_path / "x.jpg"], InferenceSettings(long_side=160))
        return next(iter(label_images(images, None, settings, workers=2))).mask

    whole = mask()
    monkeypatch.setattr(crf, "LARGEST_WHOLE", 50_000)
    monkeypatch.setattr(crf, "TILE_PIXELS", 40_000)
    monkeypatch.setattr(inference, "LARGEST_WHOLE", 50_000)
    monkeypatch.setattr(labelling, "LARGEST_WHOLE", 50_000)
    monkeypatch.setattr(labelling, "_STRIP", 9_000)

    assert len(np.unique(whole)) > 1 and (mask() == whole).mean() >= 0.999


def test_a_large_image_that_goes_while_the_network_runs_is_reported_like_any_other(tmp_path, monkeypatch):
    write_jpeg(scene(60, 80)[1], tmp_path / "x.jpg")
    monkeypatch.setattr(inference, "LARGEST_WHOLE", 1000)
    (predicted,) = predict_files(ColourNetwork(), [tmp_path / "x.jpg"], InferenceSettings(long_side=40))
    assert predicted.image is None and predicted.shape == (60, 80)
    (tmp_path / "x.jpg").unlink()

    (labelled,) = label_images([predicted], None, SETTINGS, workers=1)

    assert labelled.mask is None and labelled.error.reason == "missing"


def test_an_overlay_drawn_in_strips_is_the_one_drawn_at_once_but_for_a_pixel_of_a_contour(monkeypatch):
    image = scene(200, 300)[1]
    mask = np.zeros((200, 300), np.uint8)
    cv2.circle(mask, (150, 100), 70, 3, -1)
    cv2.circle(mask, (150, 100), 20, 0, -1)
    cv2.circle(mask, (60, 60), 30, 255, -1)
    whole = overlay(image, mask)
    monkeypatch.setattr(strips, "__defaults__", (6000,))
    assert (overlay(image, mask) != whole).any(axis=2).mean() < 0.001


def test_items_wait_while_those_before_them_hold_too_many_pixels():
    taken = []

    def items():
        for size in (HELD, HELD, 10, 10, HELD // 2):
            taken.append(size)
            yield size

    left = [len(taken) for _ in in_threads(lambda size: size, items(), ahead=8, pixels=lambda size: size)]
    # Never more than one beyond those that fit: it is known by then how large it is.
    assert left == [2, 3, 5, 5, 5]


def test_a_room_lets_in_who_fits_and_who_is_larger_than_it_alone():
    room, inside = Room(10), []

    def enter(size):
        with room.taken(size):
            inside.append(min(size, 10))
            most = sum(inside)
            inside.remove(min(size, 10))
            return most

    assert max(in_threads(enter, [4, 4, 99, 3, 10, 1] * 20, threads=6)) <= 10
