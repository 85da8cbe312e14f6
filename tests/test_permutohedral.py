import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wss_data.crf import permutohedral
from wss_data.crf.permutohedral import bilateral_lattice, make_lattice, normalised, position_lattice


def literal_filter(features, signal):
    """The paper's section 4 step by step: the rotated points, their simplices in a dictionary, blur along each axis."""
    d = features.shape[1]
    # Columns of E, each orthogonal to the others and to (1, ..., 1).
    basis = np.array([[1] * (i + 1) + [-(i + 1)] + [0] * (d - i - 1) for i in range(d)], float).T
    basis /= np.sqrt((basis**2).sum(axis=0))
    elevated = features @ basis.T * np.sqrt(2 / 3) * (d + 1)
    values, simplices = {}, []
    for point, amount in zip(elevated, signal, strict=True):
        nearest = np.rint(point / (d + 1)) * (d + 1)
        order = np.argsort(-(point - nearest), kind="stable")
        surplus = round(nearest.sum() / (d + 1))
        # Off the plane sum = 0: the coordinates that were rounded most go back by a cell.
        if surplus > 0:
            nearest[order[d + 1 - surplus :]] -= d + 1
        elif surplus < 0:
            nearest[order[:-surplus]] += d + 1
        beyond = point - nearest
        order = np.argsort(-beyond, kind="stable")
        corners = {}
        for colour in range(d + 1):
            corner = nearest + colour
            corner[order[d + 1 - colour :]] -= d + 1
            following = beyond[order[d - colour]] - (beyond[order[d - colour + 1]] if colour else 0)
            share = following / (d + 1) if colour else 1 - (beyond[order[0]] - beyond[order[d]]) / (d + 1)
            corners[tuple(corner.astype(int))] = share
        simplices.append(corners)
        for corner, share in corners.items():
            values[corner] = values.get(corner, 0) + share * amount
    for axis in range(d + 1):
        step = np.ones(d + 1, int)
        step[axis] -= d + 1
        ahead = {c: values.get(tuple(np.add(c, step)), 0) for c in values}
        behind = {c: values.get(tuple(np.subtract(c, step)), 0) for c in values}
        values = {c: v + 0.5 * (ahead[c] + behind[c]) for c, v in values.items()}
    gain = 1 / (1 + 2.0**-d)
    return gain * np.array([sum(share * values[c] for c, share in corners.items()) for corners in simplices])


def literal_gauss(features, signal):
    apart = ((features[:, None] - features[None]) ** 2).sum(axis=-1)
    return np.exp(-apart / 2) @ signal


@pytest.mark.parametrize("dimensions", [2, 5])
def test_the_filter_is_that_of_the_paper_step_by_step(dimensions):
    random = np.random.default_rng(dimensions)
    features = random.normal(0, 2, (300, dimensions)).astype(np.float32)
    signal = random.random((300, 4)).astype(np.float32)

    filtered = make_lattice(features).filter(signal)

    for lane in range(4):
        np.testing.assert_allclose(filtered[:, lane], literal_filter(features, signal[:, lane]), rtol=2e-5)


def test_barycentric_coordinates_are_shares_and_sum_to_one():
    features = np.random.default_rng(0).normal(0, 30, (1000, 5)).astype(np.float32)

    lattice = make_lattice(features)

    np.testing.assert_allclose(lattice.weights.sum(axis=1), 1, atol=1e-4)
    assert lattice.weights.min() > -1e-4
    assert lattice.corners.min() == 1 and len(np.unique(lattice.corners)) == lattice.size == lattice.corners.max()


def test_it_comes_near_a_sum_over_all_pairs_of_pixels():
    height, width, deviation = 10, 12, 3.0
    signal = np.random.default_rng(1).random((height * width, 1)).astype(np.float32)
    rows, columns = np.mgrid[:height, :width]
    features = (np.stack([columns.ravel(), rows.ravel()], axis=1) / deviation).astype(np.float32)

    lattice, of_ones = normalised(make_lattice(features))
    filtered = lattice.filter(signal)[:, 0]

    norms = 1 / np.sqrt(literal_gauss(features, np.ones(height * width)))
    truth = norms * literal_gauss(features, norms * signal[:, 0])
    # The lattice is an approximation; 10 % is what it is worth.
    np.testing.assert_allclose(filtered, truth, rtol=0.1)
    np.testing.assert_allclose(of_ones, norms * literal_gauss(features, norms), rtol=0.1)


def test_the_bilateral_filter_does_not_look_across_an_edge():
    image = np.zeros((6, 8, 3), np.uint8)
    image[:, 4:] = 200
    signal = np.where(np.arange(8) < 4, 1.0, 0.0)[None].repeat(6, 0).reshape(-1, 1).astype(np.float32)

    lattice, of_ones = bilateral_lattice(image, 5.0, 10.0)
    filtered = lattice.filter(signal).reshape(6, 8)

    np.testing.assert_allclose(filtered[:, :4], of_ones.reshape(6, 8)[:, :4], rtol=1e-5)
    assert (filtered[:, 4:] == 0).all()


def test_equal_points_share_their_corners():
    lattice = make_lattice(np.tile(np.array([[0.3, -1.2, 7.0, 2.5, 1.1]], np.float32), (5000, 1)))

    assert lattice.size == 6
    assert (lattice.corners == lattice.corners[0]).all()


def test_corners_are_numbered_in_the_order_in_which_points_meet_them():
    lattice = make_lattice(np.random.default_rng(3).normal(0, 40, (3000, 5)).astype(np.float32))

    _, firsts = np.unique(lattice.corners, return_index=True)
    assert (np.diff(firsts) > 0).all() and lattice.size == len(firsts) > 10_000


def test_each_line_holds_neighbours_along_one_axis():
    features = np.random.default_rng(4).normal(0, 1.5, (200, 2)).astype(np.float32)
    lattice = make_lattice(features)
    blurred = set()
    for ends, line in itertools.groupby(lattice.path, key=lambda corner: corner == 0):
        corners = list(line)
        assert len(corners) == 1 if ends else len(corners) > 1
        blurred |= {tuple(pair) for pair in itertools.pairwise(corners)}

    # In a simplex each corner is the neighbour of the next: all of these must be there, in one direction.
    for corners in lattice.corners:
        for first, second in zip(corners, np.roll(corners, -1), strict=True):
            assert (first, second) in blurred or (second, first) in blurred


def test_the_position_lattice_of_a_size_is_made_once():
    assert position_lattice(5, 7, 3.0)[0] is position_lattice(5, 7, 3.0)[0]
    assert position_lattice(5, 7, 3.0)[0] is not position_lattice(7, 5, 3.0)[0]


def test_a_very_large_image_is_not_kept(monkeypatch):
    monkeypatch.setattr(permutohedral, "LARGEST_KEPT", 34)

    assert position_lattice(5, 7, 2.0)[0] is not position_lattice(5, 7, 2.0)[0]


def test_it_runs_where_no_folder_can_be_written():
    # numba looks for a folder when a function is declared, and says RuntimeError if there is none.
    code = """
import numpy as np
from numba.core import caching
caching.CacheImpl._locator_classes = []
from wss_data.crf.mean_field import _exp
print(_exp(np.float32(0)))
"""
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert (done.stdout.strip(), done.returncode) == ("1.0", 0), done.stderr
