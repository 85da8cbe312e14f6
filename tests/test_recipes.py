import dataclasses
import inspect
import json

import pytest

from wss_data.errors import RecipeError
from wss_train import recipes
from wss_train.recipes import TrainRecipe, as_recipe, preset, presets, with_values


def test_paper_has_the_numbers_of_section_4_2():
    paper = preset("paper")

    assert paper.backbone == "resnet50"
    assert paper.output_stride == 8
    assert (paper.long_side, paper.crop, paper.batch) == (500, 320, 16)
    assert paper.optimizer == "sgd"
    assert (paper.learning_rate, paper.momentum, paper.weight_decay) == (16e-4, 0.9, 5e-4)
    assert paper.rate_policy == "step"
    assert paper.low_rate_factor == 0.1
    assert paper.generator_iterations == 5_000
    assert paper.final_iterations - paper.final_low_rate_iterations == 11_000
    assert paper.multilabel_weight == 1.0


@pytest.mark.parametrize("name", ["paper", "authors-code"])
def test_nothing_against_noise_is_on_where_the_paper_is_followed(name):
    recipe = preset(name)

    assert (recipe.image_weighting, recipe.pixel_loss) == ("none", "cross_entropy")
    assert (recipe.boundary_band_px, recipe.average_decay, recipe.small_loss_share) == (0, 0, 1)
    assert (recipe.balanced_sampling, recipe.rounds) == (False, 1)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"accumulate": 3}, r"accumulate=3 is out of range: a divisor of batch \(16\)"),
        ({"small_loss_share": 0}, r"small_loss_share=0.0 is out of range: a share in \(0, 1\]"),
        ({"average_decay": 1}, r"average_decay=1.0 is out of range"),
        ({"bootstrap_weight": 1.5}, r"bootstrap_weight=1.5 is out of range"),
        ({"rounds": 3}, "rounds=3 is out of range: 1 or 2 is wanted"),
        ({"pixel_loss": "focal"}, "pixel_loss='focal' is not one of cross_entropy, bootstrapped, symmetric"),
        ({"boundary_band_px": -1}, "boundary_band_px=-1 is out of range"),
    ],
)
def test_a_value_against_noise_that_makes_no_sense_is_refused(values, told):
    with pytest.raises(RecipeError, match=told):
        with_values(preset("paper"), values)


def test_authors_code_differs_from_paper_in_what_the_authors_did_differently():
    paper, authors = preset("paper").to_dict(), preset("authors-code").to_dict()

    different = {name: value for name, value in authors.items() if value != paper[name]}

    assert different == {
        "preset": "authors-code",
        "normalisation": "subtract_mean",
        "dilate_first_block": True,
        "batch_norm_epsilon": 1.001e-5,
        "loss_resolution": "stride",
        "rate_policy": "restart",
        "final_iterations": 16_100,
        "final_low_rate_iterations": 4_900,
        "new_bias_rate_factor": 2.0,
        "decay_new_biases": False,
        "branch_target": "mask_classes",
        "crf_position_px": 2.0,
    }


def test_no_code_of_the_package_asks_for_a_presets_name():
    source = inspect.getsource(recipes)

    assert "preset ==" not in source
    assert all(name == recipe.preset for name, recipe in presets().items())


@pytest.mark.parametrize("name", ["paper", "authors-code", "modern", "cpu"])
def test_a_recipe_survives_json(name):
    assert TrainRecipe.from_dict(json.loads(json.dumps(preset(name).to_dict()))) == preset(name)


def test_a_recipe_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset("cpu").crop = 1


def test_text_is_read_by_the_type_of_its_field():
    changed = with_values(
        preset("cpu"),
        {
            "crop": "64",
            "learning_rate": "1e-3",
            "scale_range": "0.5,2",
            "multilabel": "no",
            "batch_norm_epsilon": "none",
            "optimizer": "sgd",
        },
    )

    assert changed.crop == 64
    assert changed.learning_rate == 0.001
    assert changed.scale_range == (0.5, 2.0)
    assert changed.multilabel is False
    assert changed.batch_norm_epsilon is None
    assert changed.optimizer == "sgd"
    assert preset("cpu").crop == 256


def test_an_unknown_key_is_refused_with_the_known_ones():
    with pytest.raises(RecipeError, match=r"no value 'learningrate'.*learning_rate.*crop|.*crop.*learning_rate"):
        with_values(preset("cpu"), {"learningrate": "1"})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("crop", "wide", "crop='wide' is not a whole number"),
        ("crop", "0", "crop=0 is out of range"),
        ("crop", "64.5", "not a whole number"),
        ("learning_rate", "nan", "not a number"),
        ("optimizer", "lion", "one of sgd, adamw"),
        ("multilabel", "maybe", "true or false"),
        ("scale_range", "1.3,0.7", "the smaller first"),
        ("scales", "", "numbers separated by commas"),
        ("dropout", "1", "share in"),
        ("output_stride", "4", "8, 16 or 32"),
        ("final_low_rate_iterations", "99999", "at most final_iterations"),
    ],
)
def test_a_bad_value_is_refused_in_the_users_words(key, value, message):
    with pytest.raises(RecipeError, match=message):
        with_values(preset("paper"), {key: value})


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(RecipeError, match=r"no preset 'papr'\. Known presets: paper, authors-code, modern, cpu"):
        as_recipe("papr")


def test_only_values_that_shape_the_weights_make_another_run():
    changed = with_values(preset("cpu"), {"scales": "1", "crf_iterations": "5", "checkpoint_every": "7"})

    assert changed.training_values() == preset("cpu").training_values()
    assert with_values(preset("cpu"), {"seed": "1"}).training_values() != preset("cpu").training_values()


def test_each_backbone_gets_the_pixels_that_its_weights_were_trained_with():
    assert preset("cpu").pixel_statistics == ((127.0,) * 3, (128.0,) * 3)
    assert preset("paper").pixel_statistics[0] == pytest.approx((0.485 * 255, 0.456 * 255, 0.406 * 255))
    assert preset("paper").pixel_statistics[1] == pytest.approx((0.229 * 255, 0.224 * 255, 0.225 * 255))
    assert preset("authors-code").pixel_statistics == ((123.0, 117.0, 104.0), (1.0, 1.0, 1.0))


def test_the_crf_settings_are_the_recipes():
    settings = preset("authors-code").crf_settings

    assert (settings.position_px, settings.position_weight, settings.iterations) == (2.0, 3.0, 10)
    assert (settings.bilateral_px, settings.bilateral_rgb, settings.bilateral_weight) == (55.0, 3.0, 4.0)
