import numpy as np
import pytest
import torch
from pictures import ColourNetwork, rectangles

from wss_data.crf import CrfSettings
from wss_data.masks import read_mask
from wss_train.inference import InferenceSettings, Predicted, predict_files
from wss_train.labelling import label_constrained_argmax, label_images


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return rectangles(tmp_path_factory.mktemp("rectangles"))


def literal_equation_2(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Pixel by pixel, class by class."""
    num_classes, height, width = scores.shape
    mask = np.zeros((height, width), int)
    for y in range(height):
        for x in range(width):
            best = None
            for c in range(num_classes):
                present = c == 0 or labels[c]
                if present and (best is None or scores[c, y, x] > scores[best, y, x]):
                    best = c
            mask[y, x] = best
    return mask


def test_absent_class_never_wins_even_when_every_present_score_is_negative():
    background, cow = 0, 1
    scores = torch.tensor([-3.0, -2.0, 5.0])[:, None, None].expand(3, 2, 2)
    shows_only_cow = torch.tensor([False, True, False])
    assert label_constrained_argmax(scores, shows_only_cow).tolist() == [[cow, cow], [cow, cow]]
    shows_nothing = torch.tensor([False, False, False])
    assert label_constrained_argmax(scores, shows_nothing).tolist() == [[background] * 2] * 2


def test_equation_2_agrees_with_its_literal_version_on_negative_logits():
    generator = np.random.default_rng(0)
    for _ in range(20):
        scores = generator.normal(-3, 2, (5, 4, 3))
        labels = generator.random(5) < 0.4
        found = label_constrained_argmax(torch.from_numpy(scores), torch.from_numpy(labels))
        assert found.tolist() == literal_equation_2(scores, labels).tolist()


def test_a_product_with_the_labels_agrees_for_probabilities_and_not_for_logits():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((5, 30, 30), generator=generator) - 3
    labels = torch.tensor([True, True, False, True, False])

    def product(scores):
        return (scores * labels[:, None, None]).argmax(dim=0)

    probabilities = logits.softmax(dim=0)
    assert torch.equal(product(probabilities), label_constrained_argmax(probabilities, labels))
    assert (product(logits) != label_constrained_argmax(logits, labels)).float().mean() > 0.5


def test_the_callers_labels_are_left_as_they_are_and_a_wrong_number_is_refused():
    labels = torch.tensor([False, True])
    label_constrained_argmax(torch.zeros(2, 1, 1), labels)
    assert labels.tolist() == [False, True]
    with pytest.raises(ValueError, match="one entry per class: scores has 2 classes"):
        label_constrained_argmax(torch.zeros(2, 1, 1), torch.tensor([True]))


@pytest.mark.parametrize("crf", [None, CrfSettings(iterations=2)])
def test_allowed_classes_hold_with_and_without_crf(table, crf):
    only_green = np.array([True, False, True])
    images = predict_files(ColourNetwork(), table.image_paths, InferenceSettings(long_side=40))
    masks = {r.position: r.mask for r in label_images(images, lambda _: only_green, crf, workers=1)}
    assert set(np.unique(masks[0])) == {0}, "the red one may not be red"
    assert set(np.unique(masks[1])) == {0, 2}


def test_the_crf_runs_beside_the_network_in_processes_with_the_same_result(table):
    def labelled(workers):
        images = predict_files(ColourNetwork(), table.image_paths, InferenceSettings(long_side=40))
        return {r.position: r.mask.tolist() for r in label_images(images, None, CrfSettings(iterations=2), workers)}

    assert labelled(1) == labelled(2)


def test_the_crf_sees_few_classes_and_finds_the_same_pixels_as_with_all(table):
    from wss_data.crf import dense_crf
    from wss_data.images import read_image
    from wss_train.inference import predict_probabilities

    image = read_image(table.image_paths[0])
    settings = CrfSettings(iterations=5)
    few = next(
        iter(
            label_images(predict_files(ColourNetwork(), table.image_paths[:1], InferenceSettings()), None, settings, 1)
        )
    )
    every = dense_crf(predict_probabilities(ColourNetwork(), image, InferenceSettings()), image, settings).argmax(0)
    assert (few.mask == every).mean() > 0.99
    assert (few.mask == read_mask(table.mask_paths[0])).mean() > 0.9


@pytest.mark.parametrize("crf", [None, CrfSettings(iterations=2)])
def test_an_image_that_could_not_be_read_keeps_its_reason(table, crf):
    from wss_data.errors import ImageError

    broken = Predicted(0, None, None, ImageError("truncated", "half of it"))
    good = next(predict_files(ColourNetwork(), table.image_paths[:1], InferenceSettings(long_side=40)))
    results = list(label_images([broken, Predicted(1, good.image, good.probabilities)], None, crf, workers=1))
    assert sorted((r.position, r.mask is None) for r in results) == [(0, True), (1, False)]
    assert next(r for r in results if r.position == 0).error.reason == "truncated"
