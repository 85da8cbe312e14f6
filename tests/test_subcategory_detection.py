"""Stages S1 to S4 of the subcategories engine: seed boxes, exemplar templates, detection, top boxes."""

from math import floor, sqrt

import cv2
import numpy as np
import pytest

from wss_data.cosegmentation.subcategories.boxes import areas, intersections, ioa_nms, iou
from wss_data.cosegmentation.subcategories.detect import Detections, TemplateBank, detect, similar_shapes
from wss_data.cosegmentation.subcategories.edges import edge_map, energy_interval, seed_box
from wss_data.cosegmentation.subcategories.exemplars import (
    LARGEST_OFFSET,
    BackgroundStatistics,
    background_sums,
    block_toeplitz,
    box_features,
    lda_templates,
    learn_templates,
    statistics_of,
    template_shape,
)
from wss_data.cosegmentation.subcategories.hog import (
    CHANNELS,
    Level,
    hog,
    mirror_template,
    pyramid,
    whole_hog,
)
from wss_data.cosegmentation.subcategories.top import sampled, top_boxes

RNG = np.random.default_rng


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smoothed coloured noise: gradients of all sizes and directions."""
    pixels = RNG(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(pixels, (0, 0), 1.5)


def ring(height: int, width: int, centre: tuple[int, int], radius: int) -> np.ndarray:
    """A white ring with a cross on grey."""
    image = np.full((height, width, 3), 120, np.uint8)
    x, y = centre
    cv2.circle(image, centre, radius, (250, 250, 250), 6)
    cv2.line(image, (x - radius // 2, y - radius), (x + radius // 2, y + radius), (20, 20, 20), 5)
    return image


# ---- boxes


def test_iou_of_two_unit_shifted_squares_is_one_seventh():
    a, b = np.array([[0, 0, 2, 2]]), np.array([[1, 1, 3, 3], [5, 5, 6, 6], [0, 0, 2, 2]])

    assert iou(a, b).tolist() == [[pytest.approx(1 / 7), 0.0, 1.0]]
    assert intersections(a, b).tolist() == [[1.0, 0.0, 4.0]]


def test_an_empty_box_overlaps_nothing_not_even_itself():
    empty = np.array([[3.0, 3.0, 3.0, 3.0], [5.0, 5.0, 4.0, 9.0]])

    assert areas(empty).tolist() == [0.0, 0.0]
    assert iou(empty, empty).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_a_large_box_around_a_better_small_one_stays_and_a_small_one_in_a_better_large_one_goes():
    small, large = [4, 4, 6, 6], [0, 0, 10, 10]

    assert ioa_nms(np.array([large, small]), np.array([1.0, 2.0]), 0.5).tolist() == [1, 0]
    assert ioa_nms(np.array([large, small]), np.array([2.0, 1.0]), 0.5).tolist() == [0]


def test_a_suppressed_box_suppresses_nobody():
    chain = np.array([[0, 0, 10, 1], [4, 0, 14, 1], [8, 0, 18, 1]])

    assert ioa_nms(chain, np.array([3.0, 2.0, 1.0]), 0.5).tolist() == [0, 2]
    assert ioa_nms(np.zeros((0, 4)), np.zeros(0), 0.5).tolist() == []


# ---- S1


def literal_interval(marginal: np.ndarray, energy: float) -> tuple[int, int]:
    squares = [float(value) ** 2 for value in marginal]
    total = sum(squares)
    first, running = 0, 0.0
    for index, value in enumerate(squares):
        running += value / total
        if running < 0.5:
            first = index
    last = first

    def held(a: int, b: int) -> float:
        return sum(squares[a : b + 1]) / total

    while held(first, last) < energy:
        before = squares[first - 1] if first else -1.0
        after = squares[last + 1] if last + 1 < len(squares) else -1.0
        first, last = (first - 1, last) if before > after else (first, last + 1)
    while held(first + 1, last) >= energy:
        first += 1
    while held(first, last - 1) >= energy:
        last -= 1
    return first, last + 1


def test_the_interval_is_that_of_the_slow_literal_version():
    for seed in range(20):
        marginal = RNG(seed).random(30) ** 4

        assert energy_interval(marginal, 0.9) == literal_interval(marginal, 0.9)


def test_the_interval_leaves_out_what_holds_less_than_a_hundredth():
    assert energy_interval(np.array([0.1, 0, 0, 5, 5, 5, 0, 0.1])) == (3, 6)
    assert energy_interval(np.array([5.0, 0, 0, 0])) == (0, 1)
    assert energy_interval(np.array([0, 0, 0, 5.0])) == (3, 4)
    assert energy_interval(np.ones(7), energy=1.0) == (0, 7)


def test_the_seed_box_of_a_lone_square_is_near_it():
    image = np.full((200, 300, 3), 128, np.uint8)
    image[60:140, 120:220] = (200, 40, 40)

    box = seed_box(edge_map(image), 300, 200)

    assert iou(box[None], np.array([[120, 60, 220, 140]]))[0, 0] > 0.7


def test_an_image_without_an_edge_has_the_whole_image_for_a_seed_box():
    assert seed_box(edge_map(np.full((40, 60, 3), 9, np.uint8)), 60, 40).tolist() == [0, 0, 60, 40]
    assert seed_box(np.full((5, 5), -1.0), 60, 40).tolist() == [0, 0, 60, 40]


# ---- HOG


def literal_hog(image: np.ndarray, cell: int = 8) -> np.ndarray:
    """``features.cc`` of the deformable-parts model, line by line."""
    uu = [1.0000, 0.9397, 0.7660, 0.500, 0.1736, -0.1736, -0.5000, -0.7660, -0.9397]
    vv = [0.0000, 0.3420, 0.6428, 0.8660, 0.9848, 0.9848, 0.8660, 0.6428, 0.3420]
    pixels = image.astype(float)
    height, width = image.shape[:2]
    rows, cols = floor(height / cell + 0.5), floor(width / cell + 0.5)
    hist = np.zeros((rows, cols, 18))
    for x in range(1, cols * cell - 1):
        for y in range(1, rows * cell - 1):
            sx, sy = min(x, width - 2), min(y, height - 2)
            best_v, dx, dy = -1.0, 0.0, 0.0
            for channel in (2, 1, 0):
                dy2 = pixels[sy + 1, sx, channel] - pixels[sy - 1, sx, channel]
                dx2 = pixels[sy, sx + 1, channel] - pixels[sy, sx - 1, channel]
                if dx2 * dx2 + dy2 * dy2 > best_v:
                    best_v, dx, dy = dx2 * dx2 + dy2 * dy2, dx2, dy2
            best_dot, best_o = 0.0, 0
            for o in range(9):
                dot = uu[o] * dx + vv[o] * dy
                if dot > best_dot:
                    best_dot, best_o = dot, o
                elif -dot > best_dot:
                    best_dot, best_o = -dot, o + 9
            xp, yp = (x + 0.5) / cell - 0.5, (y + 0.5) / cell - 0.5
            ixp, iyp = floor(xp), floor(yp)
            vx0, vy0 = xp - ixp, yp - iyp
            for row, share_y in ((iyp, 1 - vy0), (iyp + 1, vy0)):
                for col, share_x in ((ixp, 1 - vx0), (ixp + 1, vx0)):
                    if 0 <= row < rows and 0 <= col < cols:
                        hist[row, col, best_o] += share_y * share_x * sqrt(best_v)
    norm = ((hist[..., :9] + hist[..., 9:]) ** 2).sum(axis=2)
    out = np.zeros((max(rows - 2, 0), max(cols - 2, 0), 31))
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            n = [
                1 / sqrt(norm[a : a + 2, b : b + 2].sum() + 0.0001)
                for a, b in ((y + 1, x + 1), (y, x + 1), (y + 1, x), (y, x))
            ]
            cells, texture = hist[y + 1, x + 1], [0.0] * 4
            for o in range(18):
                h = [min(cells[o] * one, 0.2) for one in n]
                out[y, x, o] = 0.5 * sum(h)
                texture = [t + one for t, one in zip(texture, h, strict=True)]
            for o in range(9):
                out[y, x, 18 + o] = 0.5 * sum(min((cells[o] + cells[o + 9]) * one, 0.2) for one in n)
            out[y, x, 27:] = [0.2357 * t for t in texture]
    return out


@pytest.mark.parametrize(("height", "width"), [(40, 56), (43, 53), (45, 37), (66, 60)])
def test_hog_is_that_of_the_release_line_by_line(height, width):
    image = noise(height, width)
    image[: height // 2, : width // 3] = 77  # flat cells, which nothing but the epsilon normalises

    features = hog(image)

    assert features.shape == (floor(height / 8 + 0.5) - 2, floor(width / 8 + 0.5) - 2, CHANNELS)
    assert np.abs(features - literal_hog(image)).max() < 1e-5


def test_a_vertical_edge_votes_for_the_direction_across_it():
    image = np.zeros((24, 24, 3), np.uint8)
    image[:, 12:] = 200

    centre = hog(image)[0, 0]

    assert centre[:18].argmax() == 0 and centre[1:18].max() == 0.0
    assert hog(255 - image)[0, 0, :18].argmax() == 9


def test_an_image_of_less_than_three_cells_has_no_inner_cell():
    assert hog(noise(19, 60)).shape == (0, 6, CHANNELS)
    assert hog(noise(2, 2)).shape == (0, 0, CHANNELS)


@pytest.mark.parametrize("slope", [3, -3])
def test_a_mirrored_template_is_the_template_of_the_mirrored_image(slope):
    # Brightness always changes across: an upright gradient lies between two directions and has no mirror image.
    grey = 115 + slope * (np.arange(64) - 32) + (noise(48, 64)[..., :1].astype(int) - 128)[..., 0] // 16
    grey[10:20, 30:] += 20 * np.sign(slope)  # a step
    assert (np.sign(grey[:, 2:] - grey[:, :-2]) == np.sign(slope)).all()
    image = np.repeat(grey[..., None], 3, axis=2).clip(0, 255).astype(np.uint8)

    assert np.allclose(mirror_template(hog(image)), hog(image[:, ::-1]), atol=1e-5)
    assert not np.allclose(hog(image), hog(image[:, ::-1]), atol=1e-2)
    assert np.array_equal(mirror_template(mirror_template(hog(image))), hog(image))


def test_the_pyramid_halves_every_ten_levels_and_ends_before_40_px():
    levels = pyramid(noise(160, 240))

    assert len(levels) == 21
    assert levels[0].features.shape == (20, 30, CHANNELS)
    assert levels[10].features.shape == (10, 15, CHANNELS)
    assert levels[20].cell == (32.0, 32.0) and levels[20].features.shape == (5, 8, CHANNELS)
    assert levels[10].cell == (16.0, 16.0)


def test_the_pyramid_leaves_out_scales_where_no_box_could_count():
    image = noise(160, 240)
    scale = TemplateBank([np.zeros((5, 5, CHANNELS))]).largest_scale(240, 160)

    assert scale == 0.5  # 5 cells = 40 px are half of 80 px, which the height is at a scale of a half
    assert [level.cell for level in pyramid(image, largest_scale=scale)] == [
        level.cell for level in pyramid(image) if level.cell[0] >= 16
    ]


def test_an_image_smaller_than_the_last_level_still_has_one():
    assert [level.features.shape for level in pyramid(noise(20, 30))] == [(3, 4, CHANNELS)]


def test_padding_is_zeros_around_the_same_features():
    plain, padded = pyramid(noise(80, 80))[3], pyramid(noise(80, 80), padding=2)[3]

    assert np.array_equal(padded.features[2:-2, 2:-2], plain.features)
    assert padded.features[:2].max() == padded.features[:, -2:].max() == 0.0


# ---- S2


def literal_background(levels: list[np.ndarray], largest: int) -> tuple[np.ndarray, np.ndarray]:
    mean = np.concatenate([level.reshape(-1, CHANNELS) for level in levels]).astype(float).mean(axis=0)
    covariance = np.zeros((largest + 1, 2 * largest + 1, CHANNELS, CHANNELS))
    for down in range(largest + 1):
        for right in range(-largest, largest + 1):
            products, pairs = np.zeros((CHANNELS, CHANNELS)), 0
            for level in levels:
                rows, cols = level.shape[:2]
                for y in range(rows - down):
                    for x in range(max(0, -right), min(cols, cols - right)):
                        products += np.outer(level[y, x] - mean, level[y + down, x + right] - mean)
                        pairs += 1
            covariance[down, right + largest] = products / max(pairs, 1)
    return mean, covariance


def background_statistics(pyramids, largest_offset=LARGEST_OFFSET):
    """Over the pyramids of some images."""
    return statistics_of(sum(background_sums(features_of(levels), largest_offset) for levels in pyramids))


def features_of(levels):
    return [level.features if isinstance(level, Level) else level for level in levels]


def some_background(largest: int = 19) -> BackgroundStatistics:
    return background_statistics([pyramid(noise(96, 120, seed), levels_per_octave=3) for seed in range(6)], largest)


def test_the_background_is_that_of_the_slow_literal_version():
    levels = [whole_hog(noise(32, 40)), whole_hog(noise(24, 48, seed=1))]

    background = background_statistics([levels[:1], levels[1:]], largest_offset=4)
    mean, covariance = literal_background(levels, 4)

    assert np.allclose(background.mean, mean, atol=1e-6)
    assert np.allclose(background.covariance, covariance, atol=1e-6)


def test_the_background_of_shards_adds_up():
    images = [noise(64, 80, seed) for seed in range(4)]
    parts = [background_sums(features_of(pyramid(image)), 5) for image in images]

    together = background_statistics((pyramid(image) for image in images), 5)
    added = statistics_of((parts[0] + parts[1]) + (parts[2] + parts[3]))

    assert np.allclose(added.mean, together.mean, atol=1e-7)
    assert np.allclose(added.covariance, together.covariance, atol=1e-6)


def test_no_cell_is_no_background():
    assert background_statistics([[]]) is None


def test_the_big_matrix_holds_the_covariance_of_each_pair_of_cells():
    background = some_background(largest=2)
    rows, cols = 4, 3

    sigma = block_toeplitz(background.covariance, rows, cols).reshape(rows, cols, CHANNELS, rows, cols, CHANNELS)

    assert np.allclose(sigma, sigma.transpose(3, 4, 5, 0, 1, 2), atol=1e-7)
    for y, x, v, u in np.ndindex(rows, cols, rows, cols):
        down, right = v - y, u - x
        if abs(down) > 2 or abs(right) > 2:
            wanted = np.zeros((CHANNELS, CHANNELS))
        elif down > 0 or (down == 0 and right >= 0):
            wanted = background.covariance[down, right + 2]
        else:
            wanted = background.covariance[-down, -right + 2].T
        assert np.allclose(sigma[y, x, :, v, u], wanted, atol=1e-7)


def test_a_template_solves_the_regularised_system_and_has_unit_length():
    background = some_background()
    features = whole_hog(ring(40, 48, (24, 20), 15))

    template = lda_templates(features[None], background)[0]

    sigma = block_toeplitz(background.covariance, 5, 6).astype(float) + 0.01 * np.eye(5 * 6 * CHANNELS)
    wanted = np.linalg.solve(sigma, (features - background.mean).ravel())
    assert np.allclose(template.ravel(), wanted / np.linalg.norm(wanted), atol=1e-4)
    assert np.linalg.norm(template) == pytest.approx(1.0, abs=1e-5)


def test_a_matrix_that_is_not_positive_definite_is_regularised_until_it_is():
    covariance = np.zeros((2, 3, CHANNELS, CHANNELS))
    covariance[0, 0] = covariance[0, 2] = np.eye(CHANNELS)  # neighbours alike, each cell of no variance
    features = np.zeros((1, 2, CHANNELS))
    features[0, 0, 0] = 1.0

    template = lda_templates(features[None], BackgroundStatistics(np.zeros(CHANNELS), covariance))[0]

    # 0.01 and 0.1 and 1 do not do: the diagonal must be larger than the neighbour's 1. 10 does.
    assert template[0, :, 0] == pytest.approx(np.array([10.0, -1.0]) / np.sqrt(101.0), abs=1e-5)


def test_templates_learned_together_are_those_learned_one_by_one():
    background = some_background()
    boxes = [whole_hog(noise(40, 48, 7)), whole_hog(noise(48, 40, 8)), whole_hog(noise(40, 48, 9))]

    together = learn_templates(boxes, background)

    assert [template.shape for template in together] == [(5, 6, 31), (6, 5, 31), (5, 6, 31)]
    for template, features in zip(together, boxes, strict=True):
        assert np.allclose(template, lda_templates(features[None], background)[0], atol=1e-4)


def test_a_template_has_the_aspect_of_its_box_and_78_to_109_cells_before_rounding():
    assert template_shape(300, 300) == (10, 10)  # 7000 px: 83.7 px a side
    assert template_shape(20, 20) == (9, 9)  # 5000 px: 70.7 px
    assert template_shape(90, 70) == (9, 11)  # 6300 px is left as it is
    assert template_shape(300, 100) == (6, 18)


def test_boxes_of_which_one_side_is_four_times_the_other_teach_nothing():
    assert template_shape(400, 100) is None
    assert template_shape(0, 45) is None


def test_the_features_of_a_box_are_those_of_its_cells_in_the_image():
    image = noise(160, 160)

    features = box_features(image, np.array([40, 40, 120, 120]), template_shape(80, 80))  # 6400 px: nothing is resized

    assert np.allclose(features, hog(image[32:128, 32:128]), atol=1e-6)


# ---- S3


def literal_detect(templates, levels, threshold, nms):
    found = []
    for index, template in enumerate(templates):
        rows, cols = template.shape[:2]
        boxes, scores = [], []
        for level in levels:
            for y in range(level.features.shape[0] - rows + 1):
                for x in range(level.features.shape[1] - cols + 1):
                    score = float((level.features[y : y + rows, x : x + cols] * template).sum())
                    if score >= threshold:
                        left, top = (x - level.padding) * level.cell[0], (y - level.padding) * level.cell[1]
                        boxes.append([left, top, left + cols * level.cell[0], top + rows * level.cell[1]])
                        scores.append(score)
        kept = ioa_nms(np.array(boxes).reshape(-1, 4), np.array(scores), nms)
        found += [(index, boxes[place], scores[place]) for place in kept]
    return found


def test_detection_is_that_of_the_slow_literal_version():
    generator = RNG(3)
    templates = [generator.normal(size=(rows, cols, 31)) for rows, cols in ((5, 6), (3, 4), (6, 6), (5, 6))]
    assert len(TemplateBank(templates).groups) == 2  # 5 x 6 and 6 x 6 are sought together
    levels = pyramid(noise(64, 90), levels_per_octave=3, padding=1)

    found = detect(TemplateBank(templates), levels, threshold=1.0, most=1000, smallest_fraction=0.0)
    wanted = literal_detect(templates, levels, 1.0, 0.5)

    assert len(wanted) > 10
    assert found.templates.tolist() == [index for index, _, _ in wanted]
    assert np.allclose(found.boxes, [box for _, box, _ in wanted], atol=1e-3)
    assert np.allclose(found.scores, [score for _, _, score in wanted], atol=1e-4)


def test_similar_shapes_are_grouped_while_what_holds_them_stays_small():
    # 12 x 11 has 1.22 times the cells of 12 x 9; 12 x 12, which 9 x 12 would need as well, 1.33 times.
    assert similar_shapes([(9, 12), (12, 9), (9, 13), (10, 11)]) == [[(12, 9), (10, 11)], [(9, 12), (9, 13)]]
    assert similar_shapes([]) == []


def test_a_bank_finds_the_same_and_most_keeps_the_best():
    generator = RNG(4)
    templates = [generator.normal(size=(3, 3, 31)) for _ in range(5)]
    levels = pyramid(noise(90, 120), levels_per_octave=4)

    everything = detect(TemplateBank(templates), levels, 0.5, most=1000, smallest_fraction=0.0)
    some = detect(TemplateBank(templates), levels, 0.5, most=2, smallest_fraction=0.0)

    for index in range(5):
        best = everything.scores[everything.templates == index][:2]
        assert some.scores[some.templates == index].tolist() == best.tolist()


def test_levels_where_a_template_is_too_small_to_count_are_not_searched():
    template = RNG(5).normal(size=(4, 4, 31))
    levels = pyramid(noise(128, 192))

    bank = TemplateBank([template])
    found = detect(bank, levels, threshold=-100.0, most=1000)

    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    assert (sides / [192, 128]).max(axis=1).min() >= 0.5
    assert len(found.scores) < len(
        detect(TemplateBank([template]), levels, -100.0, most=1000, smallest_fraction=0.0).scores
    )


def test_no_template_and_no_level_large_enough_find_nothing():
    levels = pyramid(noise(64, 64))

    assert detect(TemplateBank([]), levels, 0.5).boxes.shape == (0, 4)
    assert detect(TemplateBank([np.ones((30, 30, 31))]), levels, threshold=-1e9).scores.shape == (0,)


def test_an_exemplar_finds_its_own_box_and_its_like_elsewhere_and_mirrored():
    background = background_statistics([pyramid(noise(80, 110, seed), 3) for seed in range(8)])
    here, there = ring(160, 200, (90, 80), 50), ring(160, 220, (130, 75), 50)
    box = np.array([36, 26, 144, 134])
    template = lda_templates(box_features(here, box, template_shape(108, 108))[None], background)[0]

    own = detect(TemplateBank([template]), pyramid(here, padding=1), 0.5)
    other = detect(TemplateBank([template]), pyramid(there, padding=1), 0.5)
    flipped = detect(TemplateBank([mirror_template(template)]), pyramid(there[:, ::-1], padding=1), 0.5)

    assert iou(own.boxes[:1], box[None])[0, 0] > 0.8
    assert iou(other.boxes[:1], np.array([[76, 21, 184, 129]]))[0, 0] > 0.75
    assert iou(flipped.boxes[:1], np.array([[220 - 184, 21, 220 - 76, 129]]))[0, 0] > 0.75
    assert own.scores[0] > detect(TemplateBank([template]), pyramid(noise(160, 200, 99)), -10.0).scores[0] + 0.5


# ---- S4


def found(rows: list[tuple[int, float, list[float]]]) -> Detections:
    """Detections of (template, score, box) rows."""
    return Detections(
        np.array([row[2] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], np.float32),
        np.array([row[0] for row in rows], np.int64),
    )


def test_only_the_best_box_counts_on_an_exemplars_own_image():
    rows = found([(0, 9.0, [0, 0, 60, 40]), (0, 8.0, [40, 60, 100, 100])])

    top = top_boxes([rows, rows], [(100, 100)] * 2, own=[0], count=3)

    assert top.images.tolist() == [0, 1, 1]
    assert top.boxes.tolist() == [[0, 0, 60, 40], [0, 0, 60, 40], [40, 60, 100, 100]]
    assert top.exemplars.tolist() == [0, 0, 0]


def test_small_boxes_do_not_count_after_they_were_clipped():
    rows = found([(0, 9.0, [-40, 0, 49, 49]), (0, 8.0, [0, 50, 20, 120])])

    top = top_boxes([rows], [(100, 100)], own=[3], count=1)

    assert top.boxes.tolist() == [[0, 50, 20, 100]]


def test_exemplars_with_too_few_boxes_are_dropped_and_the_best_four_fifths_kept():
    box = [0.0, 0.0, 80.0, 80.0]
    images = [found([(e, 1.0 + e, box) for e in range(5)] + ([(5, 99.0, box)] if i == 0 else [])) for i in range(2)]

    top = top_boxes(images, [(100, 100)] * 2, own=[0] * 6, count=2)

    assert top.kept.tolist() == [4, 3, 2, 1]  # 5 found one box only, 0 is the worst of the five that are left
    assert top.exemplars.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_top_boxes_of_nothing_are_empty():
    top = top_boxes([found([])], [(9, 9)], own=[0, 1], count=10)

    assert top.boxes.shape == (0, 4) and len(top.kept) == len(top.exemplars) == 0


def test_a_sample_depends_on_the_seed_alone_and_leaves_small_groups_whole():
    assert sampled(range(5), 10) == [0, 1, 2, 3, 4]
    drawn = sampled(range(1000), 20, seed=1)

    assert drawn == sampled(range(1000), 20, seed=1) == sorted(set(drawn))
    assert len(drawn) == 20 and drawn != sampled(range(1000), 20, seed=2)


def test_levels_say_how_large_a_cell_is_in_the_image():
    level = pyramid(noise(100, 141), largest_scale=0.5)[0]

    assert isinstance(level, Level)
    assert level.cell == (8 * 141 / 70, 8 * 100 / 50)
