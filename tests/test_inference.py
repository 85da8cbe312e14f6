import numpy as np
import pytest
import torch
from drawings import ColourNetwork, plain_probabilities, rectangles
from PIL import Image

from wss_data.errors import RecipeError
from wss_data.imaging.images import read_image
from wss_data.imaging.masks import read_mask
from wss_train import inference
from wss_train.inference import (
    InferenceSettings,
    at_image_size,
    grid_size,
    network_size,
    predict_files,
)
from wss_train.models import ModelOutput


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return rectangles(tmp_path_factory.mktemp("rectangles"))


class CellNetwork(ColourNetwork):
    """Four classes from the mean colour of each cell of 16 px; remembers the shapes it was given."""

    output_stride = 16

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []
        self.mix = 6 * torch.randn(4, 3, generator=torch.Generator().manual_seed(1))

    def forward(self, images: torch.Tensor) -> ModelOutput:
        self.seen.append(tuple(images.shape))
        cells = torch.nn.functional.avg_pool2d(images, 16) - 0.5
        return ModelOutput(torch.einsum("kc,nchw->nkhw", self.mix, cells), None)


def blurred_noise(folder, sizes):
    """Images of coloured clouds, one of each size (width, height)."""
    paths = []
    for seed, (width, height) in enumerate(sizes):
        small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        paths.append(folder / f"{seed}.png")
        Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def test_the_networks_input_is_a_whole_number_of_cells_at_the_wanted_longer_side():
    assert network_size(300, 400, 320, 16) == (240, 320)
    assert network_size(400, 300, 320, 16) == (320, 240)
    assert network_size(1, 1000, 320, 16) == (16, 320)


def test_one_scale_gives_the_softmax_of_the_logits(table):
    image = read_image(table.image_paths[0])
    found = plain_probabilities(ColourNetwork(), image, InferenceSettings(long_side=40))
    colours = torch.from_numpy(image / 255.0).float()
    literal = torch.stack([torch.full((30, 40), 10.0), 20 * colours[..., 0], 20 * colours[..., 1]]).softmax(dim=0)
    assert found == pytest.approx(literal.numpy(), abs=1e-5)


def test_scales_are_averaged_as_probabilities_not_as_logits(table):
    image = read_image(table.image_paths[0])
    single = [
        plain_probabilities(ColourNetwork(), image, InferenceSettings((scale,), long_side=40)) for scale in (0.5, 1.0)
    ]
    both = plain_probabilities(ColourNetwork(), image, InferenceSettings((0.5, 1.0), long_side=40))
    assert both == pytest.approx((single[0] + single[1]) / 2, abs=1e-5)
    assert both.sum(axis=0) == pytest.approx(np.ones((30, 40)), abs=1e-5)


def test_what_is_found_lies_where_the_object_is_at_the_images_own_size(table):
    image, truth = read_image(table.image_paths[1]), read_mask(table.mask_paths[1])
    found = plain_probabilities(ColourNetwork(), image, InferenceSettings((0.7, 1.0, 1.3), long_side=80))
    assert (found.argmax(axis=0) == truth).mean() > 0.95


def test_files_come_back_by_position_whatever_their_sizes_and_an_unreadable_one_does_not_stop_the_rest(table, tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    paths = [table.image_paths[0], tmp_path / "broken.png", *table.image_paths[1:]]
    results = {r.position: r for r in predict_files(ColourNetwork(), paths, InferenceSettings(long_side=40, batch=2))}
    assert sorted(results) == list(range(7))
    assert results[1].probabilities is None and results[1].error.reason == "unreadable"
    alone = plain_probabilities(ColourNetwork(), read_image(paths[4]), InferenceSettings(long_side=40))
    assert results[4].probabilities.numpy() == pytest.approx(alone, abs=1e-5)


def test_the_grid_has_five_points_a_large_cell_three_a_small_one_and_is_never_finer_than_the_image():
    assert grid_size(375, 500, (30, 41), stride=16) == (150, 205)
    assert grid_size(375, 500, (61, 81), stride=8) == (183, 243)
    assert grid_size(60, 80, (30, 41), stride=16) == (60, 80)


def test_fusing_on_the_coarse_grid_finds_the_pixels_that_fusing_at_the_images_size_finds(tmp_path):
    paths = blurred_noise(tmp_path, [(400, 300)] * 3)
    settings = InferenceSettings((0.7, 1.0, 1.3), long_side=400)
    for result in predict_files(CellNetwork(), paths, settings):
        exact = plain_probabilities(CellNetwork(), result.image, settings)
        assert result.probabilities.shape == (4, 120, 160) and exact.shape == (4, 300, 400)
        coarse = at_image_size(result.probabilities, 300, 400).numpy()
        assert len(np.unique(exact.argmax(axis=0))) > 1
        assert (coarse.argmax(axis=0) == exact.argmax(axis=0)).mean() > 0.998
        assert np.abs(coarse - exact).max() < 0.02


def test_the_result_of_an_image_does_not_depend_on_those_that_share_its_pass(tmp_path):
    paths = blurred_noise(tmp_path, [(200, 150), (150, 200), (200, 149), (200, 150), (90, 40), (150, 200)])
    settings = InferenceSettings((0.7, 1.0), long_side=200)
    alone = [next(predict_files(CellNetwork(), [path], settings)).probabilities for path in paths]
    together = list(predict_files(CellNetwork(), paths, InferenceSettings((0.7, 1.0), long_side=200, batch=4)))
    assert sorted(result.position for result in together) == list(range(6))
    for result in together:
        assert torch.allclose(result.probabilities, alone[result.position], atol=1e-5)
        assert result.image.shape == read_image(paths[result.position]).shape


def test_images_that_differ_by_a_pixel_share_a_pass(tmp_path):
    paths = blurred_noise(tmp_path, [(200, 150), (200, 149), (200, 151), (199, 150)])
    network = CellNetwork()
    list(predict_files(network, paths, InferenceSettings(long_side=200, batch=4)))
    assert network.seen == [(4, 3, 144, 192)]


def test_images_wait_for_company_only_while_they_are_few(tmp_path, monkeypatch):
    sizes = [(200, 20 * n) for n in range(2, 10)]
    paths = blurred_noise(tmp_path, sizes)
    monkeypatch.setattr(inference, "_BUFFERED", 2 * 200 * 200)
    results = predict_files(CellNetwork(), paths, InferenceSettings(long_side=200, batch=100))
    first = next(results).position
    assert sorted([first, *(result.position for result in results)]) == list(range(8))
    network = CellNetwork()
    list(predict_files(network, paths, InferenceSettings(long_side=200, batch=100)))
    assert [shape[0] for shape in network.seen] == [1] * 8


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 2), (16, 5)])
def test_an_array_of_one_pixel_or_of_a_line_has_probabilities_like_any_other(height, width):
    image = np.full((height, width, 3), 200, np.uint8)
    found = plain_probabilities(CellNetwork(), image, InferenceSettings((0.7, 1.3), long_side=64))
    assert found.shape == (4, height, width)
    assert found.sum(axis=0) == pytest.approx(np.ones((height, width)), abs=1e-5)


def test_scales_that_cannot_be_are_refused():
    for scales in ((), (0.0,), (-1.0,), (9.0,), (1.0, 1.0)):
        with pytest.raises(RecipeError, match=r"scales (is|are)"):
            InferenceSettings(scales)
