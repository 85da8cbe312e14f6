from functools import reduce

import numpy as np
import pytest

from wss_data.cosegmentation.discriminant import (
    TargetSums,
    centred_gaussian,
    discriminant,
    project,
    standardised,
    target_sums,
)


def planted_group(seed=0, images=6, channels=5):
    """Descriptors of noise; a blob near the middle of each image stands out in channel 2, downwards."""
    random = np.random.default_rng(seed)
    group, blobs = [], []
    for _ in range(images):
        blob = np.zeros((8, 10), bool)
        top, left = random.integers(1, 4), random.integers(2, 4)
        blob[top : top + 3, left : left + 4] = True
        descriptors = random.normal(7, 0.3, (8, 10, channels))
        descriptors[blob, 2] -= 4
        group.append(descriptors)
        blobs.append(blob)
    return group, blobs


def summed(group, targets):
    sums = [target_sums(image, target) for image, target in zip(group, targets, strict=True)]
    return reduce(TargetSums.plus, sums)


def test_sums_over_shards_are_those_of_the_whole_group():
    group, blobs = planted_group()
    cells = np.concatenate([image.reshape(-1, 5) for image in group])
    flat = np.concatenate([blob.ravel() for blob in blobs]).astype(float)

    together = summed(group[:2], blobs[:2]).plus(summed(group[2:], blobs[2:]))

    assert together.cells == 480 and together.target == flat.sum()
    np.testing.assert_allclose(together.total, cells.sum(axis=0), rtol=1e-6)
    np.testing.assert_allclose(together.squares, (cells**2).sum(axis=0), rtol=1e-6)
    np.testing.assert_allclose(together.products, cells.T @ flat, rtol=1e-6)


def test_weights_are_the_literal_covariance_with_the_target_over_the_variance():
    group, blobs = planted_group(seed=1)
    cells = np.concatenate([image.reshape(-1, 5) for image in group])
    flat = np.concatenate([blob.ravel() for blob in blobs]).astype(float)

    found = discriminant(summed(group, blobs))

    for channel in range(5):
        x = cells[:, channel]
        literal = sum((a - x.mean()) * (t - flat.mean()) for a, t in zip(x, flat, strict=True)) / len(x) / x.var()
        assert found.weights[channel] == pytest.approx(literal, abs=1e-4)
    np.testing.assert_allclose(found.mean, cells.mean(axis=0), rtol=1e-6)


def test_the_place_alone_finds_what_stands_in_the_middle_of_the_group():
    group, blobs = planted_group()
    places = [centred_gaussian((8, 10), 0.3)] * len(group)

    found = discriminant(summed(group, places))

    assert np.abs(found.weights).argmax() == 2 and found.weights[2] < 0
    maps = [project(image, found) for image in group]
    assert np.mean([m[blob].min() > m[~blob].max() for m, blob in zip(maps, blobs, strict=True)]) == 1


def test_a_channel_without_variance_has_no_weight():
    group, blobs = planted_group(images=2)
    for image in group:
        image[..., 4] = 1234.5

    found = discriminant(summed(group, blobs))

    assert found.weights[4] == 0 and found.weights[2] != 0


def test_images_of_one_colour_have_no_direction():
    found = discriminant(target_sums(np.full((4, 4, 3), 5.0, np.float16), centred_gaussian((4, 4), 0.3)))

    assert not found.weights.any()
    assert not project(np.full((4, 4, 3), 5.0), found).any()


def test_project_is_the_literal_product():
    random = np.random.default_rng(1)
    found = discriminant(target_sums(random.normal(size=(6, 7, 4)), random.uniform(size=(6, 7))))
    descriptors = random.normal(size=(2, 3, 4)).astype(np.float16)

    projected = project(descriptors, found)

    for row in range(2):
        for column in range(3):
            away = [float(x) - m for x, m in zip(descriptors[row, column], found.mean, strict=True)]
            expected = sum(a * v for a, v in zip(away, found.weights, strict=True))
            assert projected[row, column] == pytest.approx(expected, abs=1e-5)


def test_standardised_maps_have_mean_zero_and_deviation_one_over_the_whole_group():
    random = np.random.default_rng(2)
    maps = standardised([random.normal(3, 2, (4, 5)), random.normal(9, 1, (6, 3))])

    cells = np.concatenate([values.ravel() for values in maps])
    assert cells.mean() == pytest.approx(0, abs=1e-6) and cells.std() == pytest.approx(1, abs=1e-6)
    assert maps[0].shape == (4, 5) and maps[0].dtype == np.float32
    assert maps[0].mean() < maps[1].mean()


def test_equal_maps_are_standardised_to_zeros():
    assert not np.concatenate(standardised([np.full((2, 2), 7.1), np.full((3, 1), 7.1)]), axis=None).any()


def test_the_prior_is_highest_in_the_middle_and_symmetric():
    prior = centred_gaussian((5, 7), 0.35)

    assert prior[2, 3] == prior.max() == 1.0
    np.testing.assert_allclose(prior, prior[::-1, ::-1])
    assert prior[0, 3] == pytest.approx(np.exp(-(0.4**2) / (2 * 0.35**2)))
