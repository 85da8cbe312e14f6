"""The commands of wss-train on the real database, and no traceback for bad input."""

import json

import pytest
import torch
import yaml

from wss_data.commands.cli import main as data_main
from wss_data.imaging.masks import read_mask
from wss_data.ledger import Ledger
from wss_data.runtime.home import dataset_folder
from wss_data.spec import read_spec
from wss_train.checkpoints import ModelCard, write_model
from wss_train.commands.cli import main, make_parser
from wss_train.recipes import preset

pytestmark = pytest.mark.usefixtures("small_maps")

CLASSES = list(read_spec("drawn").class_names[:2])
torch.set_num_threads(1)
QUICK = (
    "backbone=test_efficientnet weights=none new_layer_std=1 head_channels=32 branch_channels=8 dropout=0 "
    "long_side=128 crop=96 batch=4 precision=float32 learning_rate=3e-4 generator_iterations=6 final_iterations=2"
)
SETTINGS = [part for value in QUICK.split() for part in ("--set", value)]


@pytest.fixture(scope="module")
def zoo(database, tmp_path_factory):
    """Built datasets zoo-train and zoo-train-target, and a folder for runs."""
    folder = tmp_path_factory.mktemp("zoo")
    definition = {
        "name": "zoo-train",
        "classes": CLASSES,
        "sources": [{"name": "drawn", "limit": 4}],
        "longest_side": 128,
        "target": {"layout": "drawn", "options": {"train": 4, "val": 2, "seed": 1}},
    }
    (folder / "zoo.yaml").write_text(yaml.safe_dump(definition))
    assert data_main(["build", str(folder / "zoo.yaml")]) == 0
    assert data_main(["import-target", str(folder / "zoo.yaml")]) == 0
    return folder


def refused(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("wss-train: ") and "Traceback" not in message
    return message


def test_every_command_has_help_that_ends_with_a_line_to_paste():
    commands = make_parser()._subparsers._group_actions[0].choices
    assert set(commands) == {
        "generator",
        "masks",
        "final",
        "evaluate",
        "predict",
        "ablation",
        "recipe",
        "selection-report",
        "score-masks",
        "export",
        "check",
        "cooccurrence",
        "report",
        "voc-submission",
    }
    for name, parser in commands.items():
        assert parser.format_help().rstrip().splitlines()[-1].startswith(f"example:  wss-train {name}")


def test_a_recipe_is_printed_with_its_values_changed(capsys):
    assert main(["recipe", "paper", "--set", "crop=256", "--set", "scales=1.0,2.0"]) == 0
    recipe = json.loads(capsys.readouterr().out)
    assert (recipe["crop"], recipe["scales"], recipe["batch"]) == (256, [1.0, 2.0], 16)


def test_the_road_from_generator_to_prediction(zoo, capsys):
    run, final = str(zoo / "generator"), str(zoo / "final")
    assert main(["generator", "zoo-train", "--out", run, *SETTINGS]) == 0
    assert main(["masks", run, "zoo-train-target", "--scales", "1.0"]) == 0
    assert main(["final", "zoo-train-target", "--out", final, *SETTINGS]) == 0
    assert json.loads((zoo / "final" / "model.json").read_text())["multilabel"] is True
    capsys.readouterr()
    assert main(["evaluate", final, "zoo-train-target", "--crf", "--scales", "0.7,1.0", "--workers", "1"]) == 0
    assert "mean IoU" in capsys.readouterr().out
    images = dataset_folder("zoo-train") / "images" / CLASSES[0]
    assert main(["predict", final, str(images), "--out", str(zoo / "out")]) == 0
    masks = sorted((zoo / "out").glob("*.png"))
    assert [p.stem for p in masks] == sorted(p.stem for p in images.glob("*.jpg"))
    assert read_mask(masks[0]).max() <= 2


def test_a_state_is_chosen_without_true_masks_and_compared_with_them_afterwards(zoo, capsys):
    run, target = str(zoo / "selected"), ["--target", "zoo-train-target"]
    quick = [*SETTINGS, "--set", "generator_iterations=4", "--look-every", "2", "--look-images", "2"]
    command = ["generator", "zoo-train", "--out", run, "--select", "agreement", *target, "--keep-snapshots", *quick]
    assert main(command) == 0
    assert "selected by agreement: iteration" in capsys.readouterr().err
    assert main(["selection-report", run, "zoo-train-target"]) == 0
    page = capsys.readouterr().out
    assert "| **agreement with held-out masks** |" in page and "labels: F1 of predicted classes" in page
    assert (zoo / "selected" / "selection_report" / "selection.png").is_file()
    out = str(zoo / "refused")
    assert "name it with --target" in refused(capsys, "generator", "zoo-train", "--out", out, "--select", "labels")
    assert "--select last looks at nothing" in refused(capsys, "generator", "zoo-train", "--out", out, *target)
    with pytest.raises(SystemExit):
        main(["generator", "zoo-train", "--out", out, "--select", "agreement", "--patience", "0"])
    assert "--patience: '0' is no whole number from 1" in capsys.readouterr().err


def test_an_unreadable_image_is_reported_and_ends_with_status_1(zoo, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_text("no image")
    run = str(zoo / "other")
    assert main(["generator", "zoo-train", "--out", run, *SETTINGS, "--set", "generator_iterations=1"]) == 0
    assert main(["predict", run, str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "1 unreadable" in capsys.readouterr().out


def test_bad_input_is_one_line_that_says_what_to_do(zoo, tmp_path, capsys):
    out = str(tmp_path / "run")
    assert "no preset 'fast'. Known presets: paper" in refused(
        capsys, "generator", "zoo-train", "--recipe", "fast", "--out", out
    )
    assert "KEY=VALUE is wanted" in refused(capsys, "recipe", "cpu", "--set", "crop")
    assert "colour" in refused(capsys, "recipe", "cpu", "--set", "colour=1")
    assert "there is no dataset 'nothing'" in refused(capsys, "generator", "nothing", "--out", out)
    assert "no masks in a field 'absent'" in refused(
        capsys, "final", "zoo-train-target", "--field", "absent", "--out", out
    )
    model = write_model(
        {}, ModelCard("generator", tuple(CLASSES), preset("cpu"), 1, False, Ledger()), tmp_path / "model"
    )
    assert "no image with the tag 'test'" in refused(capsys, "masks", str(model), "zoo-train-target", "--split", "test")
    assert "no such checkpoint" in refused(capsys, "evaluate", out, "zoo-train-target")
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04pickle")
    images = str(dataset_folder("zoo-train") / "images")
    assert "pickle" in refused(capsys, "predict", str(tmp_path / "model.safetensors"), images, "--out", out)
    weights = ["--weights", str(tmp_path / "nowhere.pth")]
    assert "nowhere.pth" in refused(capsys, "generator", "zoo-train", "--out", out, *SETTINGS, *weights)
    assert not (tmp_path / "run").exists(), "nothing is left half made"


def test_a_dataset_with_nothing_kept_says_why(zoo, capsys):
    assert data_main(["filter", "zoo-train", "--min-foreground", "0.98", "--max-foreground", "0.99"]) == 0
    message = refused(capsys, "generator", "zoo-train", "--out", str(zoo / "none"), *SETTINGS)
    assert "no image is left to learn from" in message and "dropped:too_small" in message
    assert data_main(["filter", "zoo-train"]) == 0


def test_scales_that_are_no_numbers_are_refused_by_the_parser(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", "run", "zoo", "--scales", "big"])
    assert caught.value.code == 2
    assert "'big' is no list of numbers" in capsys.readouterr().err
