import numpy as np
import pytest
import torch
from drawings import ColourNetwork, plain_probabilities, rectangles

from wss_data.crf.dense_crf import CrfSettings, dense_crf
from wss_data.imaging.masks import read_mask
from wss_train.inference import InferenceSettings, Predicted, predict_files
from wss_train.labelling import candidate_classes, label_constrained_argmax, label_images
from wss_train.models import build_model
from wss_train.recipes import preset, with_values


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
    from wss_data.crf.dense_crf import dense_crf
    from wss_data.imaging.images import read_image

    image = read_image(table.image_paths[0])
    settings = CrfSettings(iterations=5)
    few = next(
        iter(
            label_images(predict_files(ColourNetwork(), table.image_paths[:1], InferenceSettings()), None, settings, 1)
        )
    )
    every = dense_crf(plain_probabilities(ColourNetwork(), image, InferenceSettings()), image, settings).argmax(0)
    assert (few.mask == every).mean() > 0.99
    assert (few.mask == read_mask(table.mask_paths[0])).mean() > 0.9


def test_an_absent_class_that_the_network_sees_takes_no_part_in_eq_2_until_the_crf_has_weighed_it():
    """As with all labels in the CRF and the absent ones excluded at its end, and unlike without them."""
    image = np.full((24, 32, 3), 90, np.uint8)
    image[:, 16:] = 200
    maps = np.full((4, 24, 32), 0.02, np.float32)
    maps[0, :, :16] = 0.94
    maps[2, :, 16:], maps[1, :, 16:] = 0.90, 0.05  # a present class that is barely seen where an absent one is
    allowed = np.array([True, True, False, False])

    (found,) = label_images([Predicted(0, image, torch.from_numpy(maps))], lambda _: allowed, CrfSettings(), workers=1)

    marginals = dense_crf(maps, image, CrfSettings())
    marginals[~allowed] = -1
    assert np.array_equal(found.mask, marginals.argmax(axis=0))


@pytest.mark.parametrize("crf", [None, CrfSettings(iterations=2)])
def test_an_image_that_could_not_be_read_keeps_its_reason(table, crf):
    from wss_data.errors import ImageError

    broken = Predicted(0, None, None, ImageError("truncated", "half of it"))
    good = next(predict_files(ColourNetwork(), table.image_paths[:1], InferenceSettings(long_side=40)))
    results = list(label_images([broken, Predicted(1, good.image, good.probabilities)], None, crf, workers=1))
    assert sorted((r.position, r.mask is None) for r in results) == [(0, True), (1, False)]
    assert next(r for r in results if r.position == 0).error.reason == "truncated"


def fine(maps: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return torch.nn.functional.interpolate(maps[None], (height, width), mode="bilinear", align_corners=False)[0]


def test_leaving_out_the_classes_that_cannot_win_changes_no_pixel():
    generator = torch.Generator().manual_seed(0)
    maps = (3 * torch.randn((21, 12, 16), generator=generator)).softmax(dim=0)
    maps[7:18] *= 0.001
    maps /= maps.sum(dim=0)
    image = np.zeros((48, 64, 3), np.uint8)
    (labelled,) = label_images([Predicted(0, image, maps)])
    assert len(candidate_classes(maps, None, 1 / 21)) < 21
    assert labelled.mask.tolist() == fine(maps, 48, 64).argmax(dim=0).tolist()


def test_equation_2_is_taken_on_the_softmax_over_all_classes_brought_to_the_images_size():
    logits = 3 * torch.randn((5, 6, 8), generator=torch.Generator().manual_seed(1))
    maps = logits.softmax(dim=0)
    shows = np.array([False, True, False, True, False])
    (labelled,) = label_images([Predicted(0, np.zeros((24, 32, 3), np.uint8), maps)], lambda _: shows)
    expected = label_constrained_argmax(fine(maps, 24, 32), torch.from_numpy(shows))
    assert labelled.mask.tolist() == expected.tolist()
    assert set(np.unique(labelled.mask)) == {0, 1, 3}


def test_background_and_the_classes_that_reach_the_support_are_candidates():
    maps = torch.tensor([0.01, 0.9, 0.05, 0.04])[:, None, None].expand(4, 2, 2)
    assert candidate_classes(maps, None, 0.05).tolist() == [0, 1, 2]
    assert candidate_classes(maps, np.array([True, False, False, True]), 0.05).tolist() == [0]
    assert candidate_classes(maps, np.array([False, False, False, True]), 0.0).tolist() == [0, 3]


@pytest.mark.parametrize("crf", [None, CrfSettings(iterations=1)])
def test_every_mask_that_is_made_passes_equation_2(table, crf, monkeypatch):
    asked = []

    def recorded(scores, labels):
        asked.append(tuple(scores.shape[1:]))
        return label_constrained_argmax(scores, labels)

    monkeypatch.setattr("wss_train.labelling.label_constrained_argmax", recorded)
    images = predict_files(ColourNetwork(), table.image_paths[:2], InferenceSettings(long_side=40))
    masks = [result.mask.shape for result in label_images(images, lambda _: np.array([True, True, False]), crf, 1)]
    assert asked == masks == [(30, 40)] * 2


@pytest.mark.parametrize(("backend", "in_processes"), [("builtin", False), ("pydensecrf", True)])
def test_a_crf_that_holds_pythons_lock_runs_in_processes_and_the_built_in_one_in_threads(
    table, monkeypatch, backend, in_processes
):
    asked = []

    def here(function, items, workers):
        asked.append(workers)
        return map(function, items)

    monkeypatch.setattr("wss_train.labelling.backend", lambda: backend)
    monkeypatch.setattr("wss_train.labelling.map_images", here)
    images = predict_files(ColourNetwork(), table.image_paths[:2], InferenceSettings(long_side=40))
    assert [r.position for r in label_images(images, None, CrfSettings(iterations=1), 3)] == [0, 1]
    assert asked == ([3] if in_processes else [])


@pytest.mark.parametrize("multilabel", [False, True])
def test_a_network_made_fast_gives_the_logits_of_the_one_that_was_trained(multilabel):
    recipe = with_values(preset("cpu"), {"weights": "none", "precision": "float32"})
    model = build_model(recipe, 4, multilabel, pretrained=False)
    images = model.normalise(255 * torch.rand(2, 3, 64, 96))
    with torch.inference_mode():
        wanted = model(images).pixel_logits

        model.make_fast()

        torch.testing.assert_close(model(images).pixel_logits, wanted, atol=1e-3, rtol=1e-3)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("head", ["convolutions", "descriptors"])
def test_weights_that_are_cast_once_give_the_same_bits_in_bf16(head):
    recipe = with_values(preset("cpu"), {"weights": "none", "head": head})
    model = build_model(recipe, 4, head == "convolutions", pretrained=False)
    images = model.normalise(255 * torch.rand(2, 3, 64, 96))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        wanted = model(images).pixel_logits

        model.make_fast("bf16")

        assert torch.equal(model(images).pixel_logits, wanted)
    assert model.low[0][0].weight.dtype == torch.bfloat16
