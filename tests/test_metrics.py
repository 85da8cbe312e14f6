import json
import math

import numpy as np
import pytest

from wss_train.metrics import ConfusionMatrix


def literal_iou(pairs: list[tuple[np.ndarray, np.ndarray]], num_classes: int, ignore: int) -> list[float]:
    """Intersection and union counted pixel by pixel."""
    result = []
    for wanted in range(num_classes):
        intersection = union = 0
        for truth, prediction in pairs:
            for t, p in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
                if t == ignore:
                    continue
                intersection += t == wanted and p == wanted
                union += t == wanted or p == wanted
        result.append(intersection / union if union else math.nan)
    return result


def mask(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.uint8)


def test_iou_is_the_intersection_over_the_union_of_each_class():
    matrix = ConfusionMatrix(3)

    matrix.update(mask([0, 0, 1, 1], [0, 0, 1, 1]), mask([0, 1, 1, 1], [0, 0, 0, 1]))

    assert matrix.iou[:2].tolist() == [3 / 5, 3 / 5]
    assert math.isnan(matrix.iou[2])
    assert matrix.mean_iou == 3 / 5
    assert matrix.pixel_accuracy == 6 / 8


def test_rows_are_truth_and_columns_are_prediction():
    matrix = ConfusionMatrix(2)

    matrix.update(mask([0, 0, 0, 1]), mask([1, 1, 0, 0]))

    assert matrix.counts.tolist() == [[1, 2], [1, 0]]


def test_void_pixels_count_nowhere_whatever_is_predicted_there():
    matrix = ConfusionMatrix(2)

    matrix.update(mask([255, 255, 255, 1]), mask([0, 1, 255, 1]))

    assert matrix.counts.tolist() == [[0, 0], [0, 1]]


def test_a_class_that_is_only_predicted_counts_as_zero():
    matrix = ConfusionMatrix(3)

    matrix.update(mask([0, 0, 0, 0]), mask([0, 0, 0, 2]))

    assert matrix.mean_iou == pytest.approx((3 / 4 + 0) / 2)


def test_one_matrix_over_the_split_is_not_the_mean_over_images():
    whole = ConfusionMatrix(2)
    nearly_right = (np.ones((100, 100), np.uint8), np.ones((100, 100), np.uint8))
    tiny_and_wrong = (mask([1]), mask([0]))
    for truth, prediction in (nearly_right, tiny_and_wrong):
        whole.update(truth, prediction)

    per_image_mean = (1.0 + 0.0) / 2

    assert whole.iou[1] == 10_000 / 10_001
    assert abs(whole.iou[1] - per_image_mean) > 0.4


def test_the_counts_agree_with_a_literal_count_over_random_images():
    random = np.random.default_rng(0)
    pairs = []
    matrix = ConfusionMatrix(5, ignore_index=200)
    for height, width in ((3, 7), (11, 2), (1, 1)):
        truth = random.integers(0, 5, (height, width)).astype(np.uint8)
        truth[random.random(truth.shape) < 0.2] = 200
        prediction = random.integers(0, 4, (height, width)).astype(np.uint8)
        matrix.update(truth, prediction)
        pairs.append((truth, prediction))

    np.testing.assert_allclose(matrix.iou, literal_iou(pairs, 5, 200))


def test_int64_masks_are_counted_as_bytes_are():
    as_bytes, as_int64 = ConfusionMatrix(2), ConfusionMatrix(2)
    truth, prediction = mask([0, 1, 255]), mask([1, 1, 0])

    as_bytes.update(truth, prediction)
    as_int64.update(truth.astype(np.int64), prediction.astype(np.int64))

    assert as_bytes.counts.tolist() == as_int64.counts.tolist()


def test_counts_beyond_the_whole_numbers_of_float32_stay_exact():
    side = 4100  # 16,810,000 pixels of one class; float32 stops counting at 16,777,216
    matrix = ConfusionMatrix(2)
    zeros = np.zeros((side, side), np.uint8)

    matrix.update(zeros, zeros)

    assert matrix.counts[0, 0] == side * side


@pytest.mark.parametrize(
    ("truth", "prediction", "named"),
    [
        (mask([0, 7]), mask([0, 1]), "truth holds the value 7"),
        (mask([0, 1]), mask([0, 9]), "prediction holds the value 9"),
        (mask([0, 1]), mask([0, 1, 1]), "shape"),
        (np.array([[-1, 0]]), np.array([[0, 0]]), "truth holds values from -1"),
    ],
)
def test_a_value_that_is_no_class_is_refused_and_nothing_is_counted(truth, prediction, named):
    matrix = ConfusionMatrix(3)

    with pytest.raises(ValueError, match=named):
        matrix.update(truth, prediction)

    assert matrix.counts.sum() == 0


def test_the_ignore_index_cannot_be_a_class():
    with pytest.raises(ValueError, match="between 21 and 255"):
        ConfusionMatrix(21, ignore_index=20)


def test_nothing_counted_is_nan_and_not_zero():
    assert math.isnan(ConfusionMatrix(3).mean_iou)
    assert math.isnan(ConfusionMatrix(3).pixel_accuracy)


def test_merged_parts_equal_the_whole():
    first, second, whole = ConfusionMatrix(2), ConfusionMatrix(2), ConfusionMatrix(2)
    for parts in ((first, whole), (second, whole)):
        for part in parts:
            part.update(mask([0, 1, 1]), mask([0, 0, 1]))

    first.merge(second)

    assert first.counts.tolist() == whole.counts.tolist()


def test_a_matrix_survives_json():
    matrix = ConfusionMatrix(2)
    matrix.update(mask([0, 1]), mask([0, 0]))

    again = ConfusionMatrix.from_dict(json.loads(json.dumps(matrix.to_dict())))

    assert again.counts.tolist() == matrix.counts.tolist()
