"""A head that is trained alone, on descriptors of cells: by masks of the web, by image-level labels of the target."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from train_tables import TINY, rectangles

from wss_data.errors import CheckpointError, RecipeError, TrainingDataError
from wss_data.imaging.masks import read_mask
from wss_train.checkpoints import ModelCard
from wss_train.data import with_labelled
from wss_train.engine.descriptor_head import Cells, describe, label_loss, presence, shown_most, statistics
from wss_train.engine.loop import Run
from wss_train.inference import InferenceSettings, predict_files
from wss_train.labelling import Presence, raise_present
from wss_train.models import DescriptorHead, load_network
from wss_train.pseudo_masks import make_pseudo_masks
from wss_train.recipes import TrainRecipe, preset, with_values
from wss_train.training import train, train_generator

HEAD = replace(
    TINY,
    backbone="efficientnet_lite0",
    weights="imagenet",
    head="descriptors",
    head_channels=32,
    long_side=128,
    generator_iterations=60,
    optimizer="adamw",
    learning_rate=5e-3,
    new_layer_std=0.03,
    mask_presence=0.5,
)
LABELS = replace(HEAD, label_weight=1.0)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Eight images: red and green rectangles by turns."""
    return rectangles(tmp_path_factory.mktemp("rectangles"), 8)


@pytest.fixture(scope="module")
def web(images):
    """The red ones alone have masks."""
    return images.take([0, 2, 4, 6])


@pytest.fixture(scope="module")
def by_masks(web, tmp_path_factory):
    return train(web, HEAD, tmp_path_factory.mktemp("runs") / "by_masks", progress=False)


@pytest.fixture(scope="module")
def by_labels(web, images, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "by_labels"
    return train_generator(web, out, LABELS, target=images, progress=False)


def most_probable(run, table):
    """Of each image, the largest probability of each class."""
    model, card = load_network(run)
    settings = InferenceSettings(long_side=card.recipe.long_side)
    found = {p.position: p.probabilities.amax(dim=(1, 2)) for p in predict_files(model, table.image_paths, settings)}
    return torch.stack([found[row] for row in range(len(table))])


def test_a_head_learns_from_masks_what_is_where(by_masks, web, tmp_path):
    made = make_pseudo_masks(by_masks, web, tmp_path / "masks", progress=False)
    agreed = [
        np.mean((read_mask(mine) == read_mask(truth))[read_mask(truth) != 255])
        for mine, truth in zip(made.mask_paths, web.mask_paths, strict=True)
    ]
    assert np.mean(agreed) > 0.8


def test_the_backbone_stays_as_it_was(by_masks):
    model, card = load_network(by_masks)
    from wss_train.models import build_model

    fresh = build_model(card.recipe, card.num_classes).state_dict()
    assert all(
        torch.equal(value, fresh[name]) for name, value in model.state_dict().items() if not name.startswith("head.")
    )


def test_labels_teach_a_class_that_no_mask_shows(by_masks, by_labels, images):
    green = [1, 3, 5, 7]
    assert most_probable(by_masks, images)[green, 2].max() < 0.2
    assert most_probable(by_labels, images)[green, 2].min() > 0.5


def test_a_class_that_masks_teach_well_is_hardly_taught_by_labels(by_masks, by_labels, images):
    red = [0, 2, 4, 6]
    assert torch.allclose(most_probable(by_masks, images)[red, 1], most_probable(by_labels, images)[red, 1], atol=0.1)


def test_the_same_seed_gives_the_same_weights(by_labels, web, images, tmp_path):
    again = train(with_labelled(web, images), LABELS, tmp_path / "again", progress=False)
    assert (again / "model.safetensors").read_bytes() == (by_labels / "model.safetensors").read_bytes()


def test_a_run_that_labels_taught_is_another_one_than_without_or_with_other_labels(by_labels, web, images):
    for other in (with_labelled(web, images.take([1, 2, 3])), with_labelled(web, images.take([*range(7)]))):
        with pytest.raises(CheckpointError, match=r"another run|other images"):
            train(other, LABELS, by_labels, progress=False)


def test_a_head_is_trained_in_bf16_too(web, images, tmp_path):
    short = replace(LABELS, precision="bf16", generator_iterations=3)
    assert (train(with_labelled(web, images), short, tmp_path, progress=False) / "model.safetensors").is_file()


def test_what_labels_taught_is_in_the_ledger(by_masks, by_labels):
    uses = {
        run: {entry["what"] for entry in json.loads((run / "ledger.json").read_text())["entries"]}
        for run in (by_masks, by_labels)
    }
    assert any("image-level labels" in what for what in uses[by_labels] - uses[by_masks])
    assert json.loads((by_labels / "ledger.json").read_text())["strictly_image_level"] is True


def test_every_labelled_class_is_somewhere_in_a_mask_that_presence_raised(by_masks, images, tmp_path):
    shows_both = replace(images, labels=np.ones_like(images.labels)).take([0])
    made = make_pseudo_masks(by_masks, shows_both, tmp_path / "masks", presence=Presence(1.0, 1.5), progress=False)
    assert set(np.unique(read_mask(made.mask_paths[0]))) == {0, 1, 2}


def test_masks_that_another_presence_made_are_made_again(by_masks, web, tmp_path):
    def noted(presence):
        make_pseudo_masks(by_masks, web, tmp_path / "masks", presence=presence, progress=False)
        return json.loads((tmp_path / "masks" / "made_by.json").read_text()).get("presence")

    assert noted(Presence(1.0, 2.0)) == [1.0, 2.0]
    assert noted(Presence()) is None


def test_raising_nothing_leaves_probabilities_as_they_are():
    maps = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0)).softmax(dim=0)
    assert torch.allclose(raise_present(maps, Presence()), maps)


def test_a_cell_in_which_none_of_the_labelled_classes_is_possible_still_has_probabilities():
    assert raise_present(torch.zeros(3, 1, 1), Presence(0.5, 3.0)).sum() == pytest.approx(1.0)


def test_label_loss_is_the_sum_over_classes_in_words(seed=0):
    random = np.random.default_rng(seed)
    found, labels, weights = random.random((4, 3)), random.random((4, 3)) < 0.5, random.random(3)
    total = 0.0
    for image in range(4):
        for c in range(3):
            if labels[image, c]:
                total += weights[c] * max(0.0, np.log(0.5) - np.log(found[image, c]))
            else:
                total -= weights[c] * np.log(1 - found[image, c])
    values = (torch.tensor(found), torch.tensor(labels, dtype=torch.float64), torch.tensor(weights))
    assert float(label_loss(*values)) == pytest.approx(total / 4)


def test_the_cells_that_show_a_class_most_are_a_tenth_and_at_least_one():
    cells = torch.linspace(0, 1, 25)[None, :, None].expand(1, 25, 2)
    assert shown_most(cells).item() == pytest.approx((24 + 23) / 2 / 24)
    assert shown_most(cells[:, :3]).item() == pytest.approx(2 / 24)


def test_statistics_are_those_of_all_cells_however_many():
    values = torch.rand(70_000, 2, generator=torch.Generator().manual_seed(0)).half()
    mean, deviation = statistics(values)
    assert torch.allclose(mean, values.double().mean(dim=0))
    assert torch.allclose(deviation, values.double().std(dim=0, correction=0))


def test_a_class_that_no_image_is_labelled_with_misses_nothing():
    head = DescriptorHead(4, 3, HEAD)
    cells = Cells(torch.zeros(6, 4), torch.zeros(6, 3), torch.ones(6), torch.tensor([0, 3, 6]))
    found = presence(head, cells, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert 0 < found[0] < 1
    assert found[1] == 1


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"weights": "none"}, "weights=imagenet"),
        ({"multilabel": True}, "no multi-label branch"),
        ({"kind": "final"}, "is of the mask generator"),
    ],
)
def test_what_a_head_of_descriptors_cannot_do_is_refused(changed, words, web, tmp_path):
    options = {"kind": "generator", **changed}
    recipe = replace(HEAD, weights=options.pop("weights", "imagenet"))
    with pytest.raises(RecipeError, match=words):
        train(web, recipe, tmp_path, progress=False, **options)
    assert not any(tmp_path.iterdir())


def test_labels_that_teach_need_a_target_with_labels_of_the_same_classes(web, images, tmp_path):
    with pytest.raises(RecipeError, match="--target"):
        train_generator(web, tmp_path, LABELS, progress=False)
    with pytest.raises(TrainingDataError, match="no image-level label"):
        with_labelled(web, replace(images, labels=np.zeros_like(images.labels)))
    with pytest.raises(TrainingDataError, match="different classes"):
        with_labelled(web, replace(images, classes=("red", "blue")))


def test_values_of_the_generator_are_in_place_for_it_alone():
    recipe = preset("cpu-labels")
    assert (recipe.of("generator").head, recipe.of("final").head) == ("descriptors", "convolutions")
    assert recipe.of("generator").of("generator") == recipe.of("generator")
    assert recipe.of("final").training_values("final") == replace(recipe, generator={}).training_values("final")


@pytest.mark.parametrize(
    ("generator", "words"),
    [
        ({"corp": 3}, "crop"),
        ({"crop": "3"}, "crop is '3'"),
        ({"generator": {"crop": 1}}, "generator"),
        ("crop", "values"),
    ],
)
def test_values_of_the_generator_are_checked_like_others(generator, words):
    with pytest.raises(RecipeError, match=words):
        TrainRecipe(generator=generator)


def test_labels_alone_teach_no_head_but_that_of_descriptors():
    with pytest.raises(RecipeError, match="head=descriptors"):
        with_values(preset("cpu"), {"generator.label_weight": "1"})


def test_cells_of_a_rare_class_count_as_much_as_those_of_a_frequent_one(images, tmp_path):
    three_to_one = images.take([0, 2, 4, 1])
    recipe = replace(HEAD, balanced_sampling=True)
    card = ModelCard("generator", images.classes, recipe, 60, False, images.ledger)
    cells = describe(Run(three_to_one, card, tmp_path, progress=False), range(4), torch.device("cpu"))
    red, green = cells.weights[: cells.images[3]], cells.weights[cells.images[3] :]
    assert float(red.sum()) == pytest.approx(float(green.sum()))
