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

    assert (recipe.image_weighting, recipe.balanced_sampling) == ("none", False)


OFF = {
    "pixel_loss": "cross_entropy",
    "bootstrap_weight": 0.8,
    "symmetric_alpha": 0.1,
    "symmetric_beta": 1.0,
    "small_loss_share": 1.0,
    "small_loss_ramp": 0.1,
    "boundary_band_px": 0,
    "average_decay": 0.0,
    "rounds": 1,
}
"""What recipes of earlier versions hold beside today's values, as their presets had it."""


def test_a_recipe_of_an_earlier_version_is_read_without_what_was_removed():
    old = {**preset("cpu").to_dict(), **OFF}

    assert TrainRecipe.from_dict(json.loads(json.dumps(old))) == preset("cpu")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pixel_loss", "symmetric"),
        ("small_loss_share", 0.9),
        ("boundary_band_px", 3),
        ("average_decay", 0.99),
        ("rounds", 2),
    ],
)
def test_a_removed_value_that_was_in_use_is_refused_in_one_sentence(name, value):
    with pytest.raises(RecipeError, match=rf"{name} is '?{value}'?; this value was removed.*is still read"):
        TrainRecipe.from_dict({**OFF, name: value})
    with pytest.raises(RecipeError, match=f"no option '{name}'"):
        with_values(preset("cpu"), {name: str(value)})


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


@pytest.mark.parametrize("name", presets())
def test_a_preset_is_what_the_check_makes_of_its_values(name):
    recipe = preset(name)

    assert repr(recipe) == repr(TrainRecipe(**vars(recipe)))  # 1 and 1.0 are equal, their texts are not


def test_what_somebody_writes_into_a_presets_values_stays_in_that_recipe():
    preset("cpu-labels").generator["crop"] = 8

    assert "crop" not in preset("cpu-labels").generator
    assert "crop" not in preset("modern").generator


@pytest.mark.parametrize("name", ["paper", "authors-code", "modern", "cpu", "cpu-labels"])
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


def test_an_unknown_key_is_refused_with_the_nearest_one():
    with pytest.raises(RecipeError, match=r"no option 'learningrate' .is learning_rate meant"):
        with_values(preset("cpu"), {"learningrate": "1"})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("crop", "wide", "crop is 'wide', expected a whole number over 0 and of at most 20000"),
        ("crop", "0", "crop is 0, expected a whole number over 0"),
        ("crop", "64.5", "a whole number"),
        ("learning_rate", "nan", "learning_rate is nan, expected a number over 0"),
        ("optimizer", "lion", "optimizer is 'lion', expected sgd or adamw"),
        ("accumulate", "3", r"accumulate is 3, expected a divisor of batch \(16\)"),
        ("multilabel", "maybe", "true or false"),
        ("scale_range", "1.3,0.7", "the smaller factor first"),
        ("scales", "", "scales is '', expected a list of at least 1, each a number over 0"),
        ("dropout", "1", "dropout is 1.0, expected a number of at least 0 and under 1"),
        ("output_stride", "4", "output_stride is '4', expected 8, 16 or 32"),
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

    assert changed.training_values("final") == preset("cpu").training_values("final")
    assert with_values(preset("cpu"), {"seed": "1"}).training_values("final") != preset("cpu").training_values("final")


def test_each_backbone_gets_the_pixels_that_its_weights_were_trained_with():
    assert preset("cpu").pixel_statistics == ((127.0,) * 3, (128.0,) * 3)
    assert preset("paper").pixel_statistics[0] == pytest.approx((0.485 * 255, 0.456 * 255, 0.406 * 255))
    assert preset("paper").pixel_statistics[1] == pytest.approx((0.229 * 255, 0.224 * 255, 0.225 * 255))
    assert preset("authors-code").pixel_statistics == ((123.0, 117.0, 104.0), (1.0, 1.0, 1.0))


def test_the_crf_settings_are_the_recipes():
    settings = preset("authors-code").crf_settings

    assert (settings.position_px, settings.position_weight, settings.iterations) == (2.0, 3.0, 10)
    assert (settings.bilateral_px, settings.bilateral_rgb, settings.bilateral_weight) == (55.0, 3.0, 4.0)
