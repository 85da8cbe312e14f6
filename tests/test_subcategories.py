from collections import Counter
from dataclasses import asdict
from itertools import permutations

import cv2
import numpy as np
import pytest

from wss_data.cosegmentation.score import jaccard
from wss_data.cosegmentation.subcategories.engine import SubcategoriesEngine, learn_group
from wss_data.cosegmentation.subcategories.exemplars import BackgroundStatistics, box_features, lda_templates
from wss_data.cosegmentation.subcategories.joint_cut import border_background, cut_window, joint_cut
from wss_data.cosegmentation.subcategories.merge import (
    Cluster,
    find_subcategories,
    link,
    merge_exemplars,
    without_small_clusters,
)
from wss_data.cosegmentation.subcategories.mixture import colour_cost, fit_mixture
from wss_data.cosegmentation.subcategories.segment import cleaned, refused, segment
from wss_data.cosegmentation.subcategories.settings import SubcategorySettings
from wss_data.cosegmentation.subcategories.top import TopBoxes
from wss_data.cosegmentation.subcategories.transfer import (
    centred_prior,
    location_prior,
    pick_detections,
    subcategory_average,
)
from wss_data.errors import CosegmentationError
from wss_data.ledger import Supervision

# S5: link


def linked_by(boxes, images, exemplars, columns):
    return link(TopBoxes(boxes, images, exemplars, np.arange(columns)))


def test_overlapping_boxes_of_one_image_become_their_median_and_are_counted_by_exemplar():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 8], [50, 50, 60, 60], [0, 0, 10, 10]], float)
    images = np.array([3, 3, 3, 3, 7])
    exemplars = np.array([0, 1, 1, 2, 2])

    linked = linked_by(boxes, images, exemplars, columns=4)

    assert linked.images.tolist() == [3, 3, 7]
    assert linked.boxes.tolist() == [[0, 0, 10, 9], [50, 50, 60, 60], [0, 0, 10, 10]]
    assert linked.counts.tolist() == [[1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]]


def test_the_largest_box_takes_first_so_a_chain_of_overlaps_is_not_one_detection():
    # Each overlaps the next by half or more, the first and the last do not.
    chain = np.array([[0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 4]], float)

    linked = linked_by(chain, np.zeros(3, int), np.arange(3), columns=3)

    assert linked.counts.tolist() == [[1, 1, 0], [0, 0, 1]]


def test_no_boxes_link_to_no_detection():
    linked = linked_by(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, int), columns=5)

    assert linked.counts.shape == (0, 5)


# S6, S7: merge


def literal_merge(counts, least_iterations, least_similarity):
    """As the text says it, with sets, slowly."""
    sums = {c: counts[:, c].copy() for c in range(counts.shape[1])}
    members = {c: [c] for c in sums}
    iterations = 0
    while len(sums) > 1:
        best = (-1.0, 0, 0)
        for r, c in permutations(sorted(sums), 2):
            in_r, in_c = set(np.flatnonzero(sums[r])), set(np.flatnonzero(sums[c]))
            similarity = len(in_r & in_c) / max(len(in_r), 1)
            if similarity > best[0] + 1e-12:
                best = (similarity, r, c)
        similarity, r, c = best
        if not (iterations < least_iterations * counts.shape[1] or similarity >= least_similarity):
            break
        sums[r] = sums[r] + sums.pop(c)
        members[r] += members.pop(c)
        iterations += 1
    return [(sorted(members[c]), np.flatnonzero(sums[c] > 1).tolist()) for c in sorted(sums)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("iterations", "similarity"), [(0.0, 0.6), (0.5, 0.6), (0.8, 0.2), (1.0, 1.0)])
def test_merging_agrees_with_the_literal_version(seed, iterations, similarity):
    counts = np.random.default_rng(seed).poisson(0.4, (12, 8))

    merged = merge_exemplars(counts, iterations, similarity)

    assert [(c.members.tolist(), c.detections.tolist()) for c in merged] == literal_merge(
        counts, iterations, similarity
    )


def test_exemplars_that_find_the_same_things_merge_and_others_stay_apart():
    horses, cows = [3, 3, 3, 0, 0], [0, 0, 0, 2, 2]
    counts = np.array([horses, cows, horses, cows]).T

    merged = merge_exemplars(counts, least_iterations=0, least_similarity=0.6)

    assert [(c.members.tolist(), c.detections.tolist()) for c in merged] == [([0, 2], [0, 1, 2]), ([1, 3], [3, 4])]


def test_exemplars_that_share_nothing_are_merged_too_until_the_number_is_reached():
    counts = np.eye(10, dtype=int)

    assert len(merge_exemplars(counts, least_iterations=0.8, least_similarity=0.2)) == 2
    assert len(merge_exemplars(counts, least_iterations=0.0, least_similarity=0.2)) == 10


def test_a_detection_that_one_box_found_is_not_the_clusters():
    (cluster,) = merge_exemplars(np.array([[1], [2]]), 0, 1)

    assert cluster.detections.tolist() == [1]


def clusters_of(*sizes):
    return [Cluster(np.array([i]), np.arange(size)) for i, size in enumerate(sizes)]


def test_small_clusters_go_until_a_fifth_of_the_detections_is_lost():
    kept = without_small_clusters(clusters_of(60, 5, 15, 20))

    assert [len(cluster.detections) for cluster in kept] == [60, 20]


def test_a_cluster_above_the_limit_stays_although_it_is_the_smallest():
    assert [len(c.detections) for c in without_small_clusters(clusters_of(71, 900))] == [71, 900]
    assert [len(c.detections) for c in without_small_clusters(clusters_of(70, 900))] == [900]


def test_two_planted_subcategories_are_found_and_the_noise_is_cleaned_away():
    counts = np.zeros((40, 18), int)
    counts[:20, :7] = 1
    counts[20:36, 7:14] = 1
    counts[36:, 14:] = np.eye(4, dtype=int)

    found = find_subcategories(counts, least_detections=5)

    assert [(c.members.tolist(), c.detections.tolist()) for c in found] == [
        (list(range(7)), list(range(20))),
        (list(range(7, 14)), list(range(20, 36))),
    ]


def test_no_exemplars_make_no_subcategory():
    assert find_subcategories(np.zeros((0, 0), int), 5) == []
    assert find_subcategories(np.ones((3, 1), int), 5) == []


# Colours


def test_five_gaussians_price_a_colour_as_the_literal_formula_does():
    random = np.random.default_rng(0)
    colours = np.concatenate([random.normal(mean, 6, (200, 3)) for mean in (40, 90, 130, 170, 220)]).astype(np.float32)
    mixture = fit_mixture(colours)
    probe = np.array([[40.0, 42.0, 39.0], [128.0, 131.0, 120.0], [250.0, 0.0, 0.0]])

    costs = []
    for colour in probe:
        values = []
        for k in range(5):
            own = colours[200 * k : 200 * (k + 1)].astype(float)
            covariance = np.cov(own.T, bias=True) + 4 * np.eye(3)
            off = colour - own.mean(axis=0)
            log = -0.5 * off @ np.linalg.inv(covariance) @ off - 0.5 * np.log(np.linalg.det(2 * np.pi * covariance))
            values.append(-(np.log(0.2) + log))
        costs.append(min(values))

    np.testing.assert_allclose(colour_cost(mixture, probe), costs, rtol=1e-3)


@pytest.mark.parametrize("count", [1, 2, 4, 30])
def test_colours_that_are_few_or_all_equal_have_a_mixture(count):
    mixture = fit_mixture(np.full((count, 3), 7.0, np.float32))

    near, far = colour_cost(mixture, np.array([[7, 7, 7], [90, 7, 7]], np.uint8))
    assert np.isfinite([near, far]).all()
    assert far > near + 100


# S8: joint cut


def discs(count, seed=0, size=80):
    """Grey noise, each with an orange disc of radius 20 in its middle."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    disc = (rows - size / 2) ** 2 + (columns - size / 2) ** 2 < 20**2
    images = []
    for _ in range(count):
        image = random.integers(60, 120, (size, size, 3), dtype=np.uint8)
        image[disc] = (220, 120, 30)
        images.append(image)
    return images, disc


def test_the_average_of_a_joint_cut_is_the_disc_that_all_boxes_show():
    images, disc = discs(5)
    box = np.array([10.0, 10.0, 70.0, 70.0])
    windows = [cut_window(image, box) for image in images]

    average = joint_cut(windows)

    assert average.shape == (200, 200)
    truth = cv2.resize(disc[10:70, 10:70].astype(np.uint8), (200, 200), interpolation=cv2.INTER_NEAREST) > 0
    assert average[truth].mean() > 0.9
    assert average[~truth].mean() < 0.1


def test_boxes_without_any_object_have_no_average():
    flat = np.full((60, 60, 3), 90, np.uint8)
    windows = [cut_window(flat, np.array([10.0, 10.0, 50.0, 50.0]))] * 3

    assert joint_cut(windows) is None


def test_one_image_without_the_object_does_not_spoil_the_average():
    images, disc = discs(4)
    images.append(np.full((80, 80, 3), 90, np.uint8))
    windows = [cut_window(image, np.array([10.0, 10.0, 70.0, 70.0])) for image in images]

    truth = cv2.resize(disc[10:70, 10:70].astype(np.uint8), (200, 200), interpolation=cv2.INTER_NEAREST) > 0
    assert joint_cut(windows)[truth].mean() > 0.9


def test_a_window_keeps_inside_and_outside_apart_and_shrinks_to_the_grid():
    image = np.zeros((100, 200, 3), np.uint8)
    image[20:80, 40:160] = 255

    window = cut_window(image, np.array([40, 20, 160, 80]))

    assert window.inside.shape == (24, 48, 3)
    assert window.inside.min() == 255
    assert window.outside.max() == 0
    assert 2000 <= len(window.outside) <= 4000
    assert window.scale == 0.4
    assert cut_window(image, np.array([198, 0, 230, 50])) is None


def test_border_background_counts_the_ring_once():
    mask = np.zeros((3, 4), bool)
    mask[0, 0] = mask[1, 1] = True

    assert border_background(mask) == pytest.approx(9 / 10)


# S10: transfer


def test_a_pick_counts_the_boxes_that_lie_in_it():
    boxes = np.array([[0, 0, 10, 10], [1, 1, 9, 9], [2, 2, 12, 12], [50, 50, 60, 60], [51, 51, 59, 59]], float)
    scores = np.array([3.0, 1.0, 2.0, 2.5, 0.1])

    assert pick_detections(boxes, scores) == [0]  # stands for three, the box at 50 for two: less than 0.7 of that
    assert pick_detections(boxes[[0, 1, 3, 4]], scores[[0, 1, 3, 4]]) == [0, 2]  # two each


def test_if_no_two_boxes_agree_the_best_is_picked():
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60]], float)

    assert pick_detections(boxes, np.array([0.1, 0.9])) == [1]
    assert pick_detections(np.zeros((0, 4)), np.zeros(0)) == []


def test_average_masks_are_brought_to_one_height_and_full_ones_left_out():
    high, low, full = np.zeros((3, 20, 20), np.float32)
    high[4:8], low[12:16], full[:] = 1, 1, 1

    average = subcategory_average([high, low, full])

    assert np.array_equal(np.flatnonzero(average[:, 0] == 1), [8, 9, 10, 11])
    assert average.sum() == pytest.approx(4 * 20)
    assert subcategory_average([full]) is None


def test_the_location_prior_fills_the_box_mirrored_and_holds_its_minimum_outside():
    average = np.full((4, 4), 0.1, np.float32)
    average[:, :2] = 0.9

    prior = location_prior(average, np.array([2, 1, 6, 5]), (8, 6))
    mirrored = location_prior(average, np.array([2, 1, 6, 5]), (8, 6), mirrored=True)

    assert prior.shape == (6, 8)
    np.testing.assert_allclose(prior[1:5, 2:6], average)
    np.testing.assert_allclose(mirrored[1:5, 2:6], average[:, ::-1])
    prior[1:5, 2:6] = 0.1
    np.testing.assert_allclose(prior, 0.1)


def test_a_box_beyond_the_image_shows_the_part_of_the_mask_that_is_inside():
    average = np.tile(np.linspace(0, 1, 10, dtype=np.float32), (10, 1))

    prior = location_prior(average, np.array([-5, 0, 5, 10]), (10, 10))

    np.testing.assert_allclose(prior[:, :5], average[:, 5:])
    assert not prior[:, 5:].any()
    assert not location_prior(average, np.array([20, 20, 30, 30]), (10, 10)).any()


def test_the_centred_prior_falls_to_one_over_root_e_at_its_spread():
    prior = centred_prior(np.array([0, 0, 41, 21]), (41, 21))

    assert prior[10, 20] == prior.max() == 1
    assert prior[10, 20 + 9] == pytest.approx(np.exp(-0.5 * (9 / (0.45 * 20.5)) ** 2))


# S11: segment


def test_a_prior_in_the_right_place_finds_the_disc():
    (image,), disc = discs(1)
    prior = centred_prior(np.array([5, 5, 75, 75]), (80, 80))

    mask, soft = segment(image, prior, scale=0.25)

    assert jaccard(mask, disc) > 0.95
    assert soft[disc].mean() > 0.9
    assert soft[~disc].mean() < 0.1


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_prior_without_two_sides_decides_by_itself(value):
    (image,), _ = discs(1)

    mask, _ = segment(image, np.full((80, 80), value), 0.25)

    assert mask.all() or not mask.any()


def test_cleaning_closes_gaps_fills_holes_and_keeps_the_largest_part():
    mask = np.zeros((30, 40), bool)
    mask[5:25, 5:25] = True
    mask[12:16, 12:16] = False
    mask[6:24, 15] = False
    mask[2:5, 35:38] = True

    expected = np.zeros((30, 40), bool)
    expected[5:25, 5:25] = True
    assert (cleaned(mask, 2) ^ expected).sum() <= 12  # only the corners are rounded
    assert not cleaned(np.zeros((5, 5), bool), 1).any()
    assert cleaned(np.ones((5, 5), bool), 1).all()


def test_a_mask_that_fills_its_boxs_border_is_refused():
    mask = np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True

    assert refused(mask, np.array([5, 5, 15, 15]))
    assert not refused(mask, np.array([3, 3, 17, 17]))
    assert refused(mask, np.array([30, 30, 40, 40]))


# S9: the detector


def flat_background():
    covariance = np.zeros((2, 3, 31, 31))
    covariance[0, 1] = np.eye(31)
    return BackgroundStatistics(np.full(31, 0.1), covariance)


def test_on_a_background_of_unit_covariance_the_detector_is_the_mean_less_the_backgrounds():
    members = np.random.default_rng(0).uniform(0, 0.4, (5, 3, 4, 31)).astype(np.float32)

    template = lda_templates(members.mean(axis=0)[None], flat_background())[0]

    expected = members.mean(axis=0) - 0.1
    np.testing.assert_allclose(template, expected / np.linalg.norm(expected), rtol=1e-4)


def test_a_box_is_stretched_to_the_shape_that_is_asked_for():
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)

    assert box_features(image, np.array([10.0, 5.0, 50.0, 30.0]), (7, 9)).shape == (7, 9, 31)
    assert box_features(image, np.array([-20.0, -20.0, 200.0, 100.0]), (3, 3)).shape == (3, 3, 31)


# Settings and engine


@pytest.mark.parametrize(
    "option",
    [
        {"seed": -1},
        {"exemplars_cap": 0},
        {"exemplars_cap": 2.5},
        {"exemplars_cap": True},
        {"detector_threshold": "half"},
        {"uncertain_band": 1},
        {"seed": 1, "search_levels": 21},
        {"no_such": 1},
    ],
)
def test_an_option_out_of_its_range_is_refused_by_name(option):
    with pytest.raises(CosegmentationError, match=list(option)[-1]):
        SubcategoriesEngine(**option)


def test_every_setting_is_checked():
    for name, value in asdict(SubcategorySettings()).items():
        with pytest.raises(CosegmentationError, match=name):
            SubcategorySettings(**{name: "x"})
        assert SubcategorySettings(**{name: value})


def test_the_ledger_is_strict_and_the_fingerprint_follows_the_settings():
    engine = SubcategoriesEngine()

    assert engine.ledger.strictly_image_level
    assert {entry.supervision for entry in engine.ledger.entries} == {Supervision.NONE}
    # That of the time when all numbers were settings: masks made then are not made once more.
    assert engine.fingerprint() == SubcategoriesEngine().fingerprint() == "subcategories-758d27aa7d07"
    assert engine.fingerprint() != SubcategoriesEngine(seed=1).fingerprint()
    assert engine.name == "subcategories"


def planted(count, seed=0, side=96):
    """Soft clouds, each with the same spoked wheel of two colours somewhere near the middle; and where."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    images, truths = [], []
    for _ in range(count):
        image = cv2.resize(random.normal(90, 25, (6, 6, 3)), (side, side), interpolation=cv2.INTER_CUBIC)
        down, right = rows - random.integers(38, 58), columns - random.integers(38, 58)
        wheel = down**2 + right**2 < 26**2
        spokes = np.sin(6 * np.arctan2(down, right)) > 0
        image[wheel & spokes] = (230, 120, 30)
        image[wheel & ~spokes] = (120, 30, 20)
        images.append(image.clip(0, 255).astype(np.uint8))
        truths.append(wheel)
    return images, truths


QUICK = {"search_levels": 5, "exemplars_cap": 4}
SMALL = QUICK | {"top_count": 4, "least_detections": 3}
"""For groups of a dozen images."""


@pytest.fixture(scope="module")
def wheels():
    images, truths = planted(18)
    return images, truths, list(SubcategoriesEngine(**SMALL).segment_group(images, workers=1))


def same(first, second):
    assert [position for position, _ in first] == [position for position, _ in second]
    for (_, a), (_, b) in zip(first, second, strict=True):
        assert np.array_equal(a.mask, b.mask) and a.confidence == b.confidence


def test_an_object_that_all_images_show_becomes_a_subcategory_with_its_shape():
    images, _ = planted(18)

    average = learn_group(images, SubcategorySettings(**SMALL), workers=1).averages[0]

    assert average[90:110, 90:110].mean() > 0.9
    assert average[:8, :8].mean() < 0.1


def test_a_planted_object_is_cut_out_of_its_images(wheels):
    _, truths, segmented = wheels

    assert np.mean([jaccard(found.mask, truth) for (_, found), truth in zip(segmented, truths, strict=True)]) > 0.8
    assert all(0 <= found.confidence <= 1 for _, found in segmented)
    assert all(found.uncertain is None for _, found in segmented)


def test_wanted_images_get_the_masks_that_they_get_among_all(wheels):
    images, _, segmented = wheels

    some = list(SubcategoriesEngine(**SMALL).segment_group(images, wanted=[7, 2, 99], workers=1))

    same(some, [segmented[2], segmented[7]])
    assert list(SubcategoriesEngine().segment_group(images, wanted=[])) == []


def test_two_worker_processes_give_the_masks_of_one(wheels):
    images, _, segmented = wheels

    same(list(SubcategoriesEngine(**SMALL).segment_group(images, workers=2)), segmented)


def test_each_image_is_read_at_most_twice_and_only_the_sample_is_searched():
    class Counting(list):
        def __init__(self, images):
            super().__init__(images)
            self.reads = Counter()

        def __getitem__(self, position):
            self.reads[position] += 1
            return super().__getitem__(position)

    group = Counting(planted(8)[0])
    list(SubcategoriesEngine(**SMALL, images_cap=6).segment_group(group, wanted=[0, 1], workers=1))

    assert max(group.reads.values()) <= 2
    assert 6 <= len(group.reads) <= 8


def test_the_band_holds_what_soft_map_and_mask_disagree_on_and_changes_no_mask(wheels):
    images, _, segmented = wheels

    banded = list(SubcategoriesEngine(**SMALL, uncertain_band=True).segment_group(images, wanted=range(2), workers=1))

    same(banded, segmented[:2])
    assert all(found.uncertain.shape == found.mask.shape and found.uncertain.dtype == bool for _, found in banded)
    assert all(found.uncertain.mean() < 0.3 for _, found in banded)


def black(count, height=40, width=60):
    return [np.zeros((height, width, 3), np.uint8)] * count


@pytest.mark.parametrize(
    "images",
    [
        planted(1)[0],
        planted(2)[0],
        planted(5)[0],
        planted(1)[0] * 10,
        black(1),
        black(10),
        black(10, 16, 16),
        [image[:16, :16] for image in planted(10)[0]],
        black(9, 1, 1) + black(1, 1, 90),
        planted(9)[0] + black(1, 16, 300),
    ],
    ids=["one", "two", "five", "identical", "black", "blacks", "tiny-black", "tiny", "one-pixel", "mixed"],
)
@pytest.mark.filterwarnings("error")
def test_every_group_has_an_answer(images):
    segmented = list(SubcategoriesEngine(**QUICK).segment_group(images, workers=1))

    assert [position for position, _ in segmented] == list(range(len(images)))
    for image, (_, found) in zip(images, segmented, strict=True):
        assert found.mask.shape == image.shape[:2]
        assert found.mask.dtype == bool
        assert 0 <= found.confidence <= 1


def test_a_single_image_is_cut_by_the_centred_prior_alone():
    (image,), (truth,) = planted(1)

    ((_, found),) = SubcategoriesEngine().segment_group([image])

    assert jaccard(found.mask, truth) > 0.8
    assert found.confidence <= 0.5


def test_equal_images_have_equal_masks():
    segmented = list(SubcategoriesEngine(**SMALL).segment_group(planted(1)[0] * 6, workers=1))

    assert all(np.array_equal(found.mask, segmented[0][1].mask) for _, found in segmented)


def test_an_empty_group_is_an_error():
    with pytest.raises(CosegmentationError, match="empty"):
        list(SubcategoriesEngine().segment_group([]))
