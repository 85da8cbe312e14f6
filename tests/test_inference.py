import numpy as np
import pytest
import torch
from pictures import ColourNetwork, rectangles

from wss_data.errors import RecipeError
from wss_data.images import read_image
from wss_data.masks import read_mask
from wss_train.inference import (
    InferenceSettings,
    network_size,
    predict_files,
    predict_probabilities,
)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return rectangles(tmp_path_factory.mktemp("rectangles"))


def test_the_networks_input_is_a_whole_number_of_cells_at_the_wanted_longer_side():
    assert network_size(300, 400, 320, 16) == (240, 320)
    assert network_size(400, 300, 320, 16) == (320, 240)
    assert network_size(1, 1000, 320, 16) == (16, 320)


def test_one_scale_gives_the_softmax_of_the_logits(table):
    image = read_image(table.image_paths[0])
    found = predict_probabilities(ColourNetwork(), image, InferenceSettings(long_side=40))
    colours = torch.from_numpy(image / 255.0).float()
    literal = torch.stack([torch.full((30, 40), 10.0), 20 * colours[..., 0], 20 * colours[..., 1]]).softmax(dim=0)
    assert found == pytest.approx(literal.numpy(), abs=1e-5)


def test_scales_are_averaged_as_probabilities_not_as_logits(table):
    image = read_image(table.image_paths[0])
    single = [
        predict_probabilities(ColourNetwork(), image, InferenceSettings((scale,), long_side=40)) for scale in (0.5, 1.0)
    ]
    both = predict_probabilities(ColourNetwork(), image, InferenceSettings((0.5, 1.0), long_side=40))
    assert both == pytest.approx((single[0] + single[1]) / 2, abs=1e-5)
    assert both.sum(axis=0) == pytest.approx(np.ones((30, 40)), abs=1e-5)


def test_what_is_found_lies_where_the_object_is_at_the_images_own_size(table):
    image, truth = read_image(table.image_paths[1]), read_mask(table.mask_paths[1])
    found = predict_probabilities(ColourNetwork(), image, InferenceSettings((0.7, 1.0, 1.3), long_side=80))
    assert (found.argmax(axis=0) == truth).mean() > 0.95


def test_files_come_back_by_position_whatever_their_sizes_and_an_unreadable_one_does_not_stop_the_rest(table, tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    paths = [table.image_paths[0], tmp_path / "broken.png", *table.image_paths[1:]]
    results = {r.position: r for r in predict_files(ColourNetwork(), paths, InferenceSettings(long_side=40, batch=2))}
    assert sorted(results) == list(range(7))
    assert results[1].probabilities is None and results[1].error.reason == "unreadable"
    alone = predict_probabilities(ColourNetwork(), read_image(paths[4]), InferenceSettings(long_side=40))
    assert results[4].probabilities.numpy() == pytest.approx(alone, abs=1e-5)


def test_scales_that_cannot_be_are_refused():
    for scales in ((), (0.0,), (-1.0,), (9.0,), (1.0, 1.0)):
        with pytest.raises(RecipeError, match="scales are"):
            InferenceSettings(scales)
