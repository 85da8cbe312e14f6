import csv
import json
import pickle
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from drawings import SMALLEST, rectangles
from PIL import Image
from safetensors.torch import save_file

from wss_data.errors import BusyError, CheckpointError, RecipeError, TrainingDataError
from wss_data.imaging.masks import write_mask
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.records import ExampleTable
from wss_data.runtime.files import digests_of
from wss_data.runtime.home import read_by_nobody
from wss_train import training
from wss_train.checkpoints import read_card, read_weights, training_states
from wss_train.engine import loop, step
from wss_train.engine.step import batch_losses, learning_rate, parameter_groups
from wss_train.evaluate import evaluate_model
from wss_train.models import build_model
from wss_train.pseudo_masks import make_pseudo_masks
from wss_train.recipes import preset, with_values
from wss_train.training import train, train_final, train_generator

TINY = with_values(
    preset("cpu"),
    {
        **SMALLEST,
        "head_channels": 8,
        "branch_channels": 8,
        "long_side": 40,
        "crop": 32,
        "batch": 2,
        "generator_iterations": 8,
        "final_iterations": 8,
        "checkpoint_every": 3,
        "dropout": 0.5,
    },
)
LITE0 = "efficientnet_lite0"
CLASSES = ("red", "green")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Six images with a red or green rectangle on grey."""
    folder, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(6):
        image, mask = np.full((30, 40, 3), 90, np.uint8), np.zeros((30, 40), np.uint8)
        left = int(generator.integers(0, 20))
        image[5:25, left : left + 20, i % 2] = 230
        mask[5:25, left : left + 20] = i % 2 + 1
        Image.fromarray(image).save(folder / f"{i}.png")
        write_mask(mask, folder / f"mask_{i}.png")
    images, masks = ([str(folder / f"{name}{i}.png") for i in range(6)] for name in ("", "mask_"))
    labels = np.array([[i % 2 == 0, i % 2 == 1] for i in range(6)])
    ledger = Ledger().add("co-segmentation masks", Supervision.NONE, UsedFor.COSEGMENTATION)
    return ExampleTable(tuple("abcdef"), tuple(images), tuple(masks), labels, CLASSES, ledger=ledger, source="six")


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory):
    """An uninterrupted run of the final model."""
    return train(table, TINY, tmp_path_factory.mktemp("runs") / "whole", "final", progress=False)


def rows(run):
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_holds_the_datasets_that_it_reads_until_it_has_ended(table, tmp_path, monkeypatch):
    monkeypatch.setenv("WSS_HOME", str(Path(table.image_paths[0]).parents[1]))
    folder = Path(table.image_paths[0]).parent
    with read_by_nobody(folder), pytest.raises(BusyError, match=f"'{folder.name}' is being deleted or renamed"):
        train(table, TINY, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_run_folder_holds_all_that_is_known_of_the_run(finished):
    assert {path.name for path in finished.iterdir()} == {
        "run.json",
        "recipe.json",
        "data.json",
        "ledger.json",
        "metrics.csv",
        "tensorboard",
        "checkpoints",
        "model.safetensors",
        "model.json",
        "README.md",
        ".wss-written",
    }
    assert json.loads((finished / "recipe.json").read_text()) == TINY.to_dict()
    assert json.loads((finished / "data.json").read_text())["images_masked"] == {"red": 3, "green": 3}
    assert len(list((finished / "tensorboard").iterdir())) == 1
    card = read_card(finished, CLASSES)
    assert (card.kind, card.iterations, card.multilabel) == ("final", 8, True)


def test_the_ledger_says_what_was_learned_from(finished):
    ledger = read_card(finished).ledger

    assert [(e.what, e.supervision) for e in ledger.entries] == [
        ("co-segmentation masks", Supervision.NONE),
        ("image-level labels of six", Supervision.IMAGE_LEVEL),
    ]
    assert json.loads((finished / "ledger.json").read_text())["strictly_image_level"] is True


def test_metrics_hold_one_row_an_iteration_and_equation_4(finished):
    found = rows(finished)

    assert [int(row["iteration"]) for row in found] == list(range(1, 9))
    for row in found:
        assert float(row["loss"]) == pytest.approx(
            float(row["segmentation_loss"]) + float(row["multilabel_loss"]), rel=1e-4
        )


def test_a_second_call_leaves_a_finished_run_as_it_is(table, finished):
    before = (finished / "model.safetensors").stat().st_mtime_ns

    train(table, TINY, finished, "final", progress=False)

    assert (finished / "model.safetensors").stat().st_mtime_ns == before


# In iteration 7 (the last checkpoint is that of 6), and while the checkpoint of 6 is being written.
KILL_IN_ITERATION_7 = """
real = loop.learning_rate
def deadly(recipe, kind, iteration):
    return kill() if iteration == 7 else real(recipe, kind, iteration)
loop.learning_rate = deadly
"""
KILL_IN_CHECKPOINT = """
real = checkpoints.write_json
def deadly(path, value):
    if path.name == "state.json" and value["iteration"] == 6:
        kill()
    real(path, value)
checkpoints.write_json = deadly
"""


@pytest.mark.parametrize(("deadly", "left"), [(KILL_IN_ITERATION_7, 6), (KILL_IN_CHECKPOINT, 3)])
def test_a_killed_run_resumes_to_the_same_bytes(table, finished, tmp_path, deadly, left):
    (tmp_path / "arguments").write_bytes(pickle.dumps((table, TINY)))
    script = f"""
import os, pickle, signal, torch
from pathlib import Path
from wss_train import checkpoints, training
from wss_train.engine import loop
def kill():
    os.kill(os.getpid(), signal.SIGKILL)
{deadly}
table, recipe = pickle.loads(Path({str(tmp_path / "arguments")!r}).read_bytes())
loop.LOG_EVERY = 1
torch.set_num_threads(1)
training.train(table, recipe, {str(tmp_path / "run")!r}, "final", workers=1, progress=False)
"""
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(training.__file__).parents[1], capture_output=True, text=True
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert training_states(tmp_path / "run")[-1].name == f"iteration_{left:06d}"

    train(table, TINY, tmp_path / "run", "final", workers=0, progress=False)

    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()
    resumed = [(row["iteration"], row["loss"]) for row in rows(tmp_path / "run")]
    assert resumed == [(row["iteration"], row["loss"]) for row in rows(finished)]
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


def test_momentum_and_a_restart_survive_a_resume(table, tmp_path, monkeypatch):
    recipe = with_values(
        TINY,
        {
            "optimizer": "sgd",
            "rate_policy": "restart",
            "generator_low_rate_iterations": 4,
            "learning_rate": 1e-3,
        },
    )
    whole = train(table, recipe, tmp_path / "whole", progress=False)

    real = loop.learning_rate
    with monkeypatch.context() as patch:
        patch.setattr(loop, "learning_rate", lambda r, k, i: real(r, k, i) if i < 7 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(table, recipe, tmp_path / "broken", progress=False)
    train(table, recipe, tmp_path / "broken", progress=False)

    first, second = read_weights(whole), read_weights(tmp_path / "broken")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_seed_gives_other_weights(table, finished, tmp_path):
    other = train(table, with_values(TINY, {"seed": 1}), tmp_path / "run", "final", progress=False)

    assert not torch.equal(read_weights(other)["head.0.weight"], read_weights(finished)["head.0.weight"])


def test_a_folder_with_another_run_is_refused_unless_it_may_be_overwritten(table, tmp_path):
    short = with_values(TINY, {"generator_iterations": 1})
    train(table, short, tmp_path, progress=False)
    other = with_values(short, {"learning_rate": 0.5})

    with pytest.raises(CheckpointError, match=r"learning_rate is 0\.0001 there, 0\.5 now\. To go on.*--overwrite"):
        train(table, other, tmp_path, progress=False)
    with pytest.raises(CheckpointError, match="other images, masks or labels"):
        train(table.take([0, 1]), short, tmp_path, progress=False)
    train(table, other, tmp_path, progress=False, overwrite=True)

    assert read_card(tmp_path).recipe.learning_rate == 0.5


def replaced_image(table):
    shutil.copy(table.image_paths[2], table.image_paths[0])
    return table


def replaced_mask(table):
    shutil.copy(table.mask_paths[1], table.mask_paths[0])
    return table


def other_label(table):
    return replace(table, labels=~table.labels)


@pytest.mark.parametrize("change", [replaced_image, replaced_mask, other_label])
@pytest.mark.parametrize("kind", ["generator", "final"])
def test_a_finished_run_of_other_images_masks_or_labels_is_not_reported_as_done(tmp_path, change, kind):
    table = rectangles(tmp_path)
    train(table, TINY, tmp_path / "run", kind, progress=False)
    with pytest.raises(CheckpointError, match=r"it learned from other images, masks or labels\. To go on.*--overwrite"):
        train(change(table), TINY, tmp_path / "run", kind, progress=False)


def test_a_finished_run_of_an_earlier_version_which_did_not_note_its_images_is_still_done(tmp_path):
    table = rectangles(tmp_path)
    out = train(table, TINY, tmp_path / "run", "generator", progress=False)
    noted = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({key: value for key, value in noted.items() if key != "images"}))
    before = (out / "model.safetensors").stat().st_mtime_ns
    train(table, TINY, tmp_path / "run", "generator", progress=False)
    assert (out / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(("decay", "goes_on"), [(0.0, True), (0.9, False)])
def test_a_run_of_an_earlier_version_goes_on_where_what_was_removed_since_was_off(tmp_path, decay, goes_on):
    table = rectangles(tmp_path)
    out = train(table, TINY, tmp_path / "run", "generator", progress=False)
    noted = json.loads((out / "run.json").read_text())
    removed = {"recipe.average_decay": decay, "recipe.boundary_band_px": 0, "recipe.pixel_loss": "cross_entropy"}
    (out / "run.json").write_text(json.dumps({**noted, **removed}))
    before = (out / "model.safetensors").stat().st_mtime_ns
    if goes_on:
        train(table, TINY, out, "generator", progress=False)
        assert (out / "model.safetensors").stat().st_mtime_ns == before
    else:
        with pytest.raises(RecipeError, match=r"average_decay is 0\.9; this value was removed"):
            train(table, TINY, out, "generator", progress=False)


def test_a_run_on_a_file_of_weights_is_another_run_once_the_file_holds_others(table, tmp_path):
    from efficientnet_lite_pytorch import EfficientNet

    file = tmp_path / "lite0.safetensors"
    recipe = with_values(TINY, {"backbone": LITE0, "weights": str(file), "generator_iterations": 1})
    save_file(EfficientNet.from_name("efficientnet-lite0").state_dict(), file)
    for _ in range(2):
        train(table, recipe, tmp_path / "run", progress=False)
    save_file(EfficientNet.from_name("efficientnet-lite0").state_dict(), file)  # drawn anew
    with pytest.raises(CheckpointError, match=r"another run: its file of backbone weights held others.*--overwrite"):
        train(table, recipe, tmp_path / "run", progress=False)
    file.unlink()
    train(table, recipe, tmp_path / "run", progress=False)


def test_an_image_that_is_not_the_one_imported_is_refused(tmp_path):
    table = rectangles(tmp_path)
    table = replace(table, sha256=tuple(digests_of(table.image_paths)))
    train(table, TINY, tmp_path / "run", "generator", progress=False)
    with pytest.raises(TrainingDataError, match=r"1 of 6 image files changed since they were imported.*import-target"):
        train(replaced_image(table), TINY, tmp_path / "other", "generator", progress=False)


@pytest.mark.parametrize("use", [make_pseudo_masks, evaluate_model])
def test_neither_masks_nor_scores_are_made_of_an_image_that_is_not_the_one_imported(tmp_path, use):
    table = rectangles(tmp_path)
    run = train(table, TINY, tmp_path / "run", "generator", progress=False)
    table = replaced_image(replace(table, sha256=tuple(digests_of(table.image_paths))))
    with pytest.raises(TrainingDataError, match="1 of 6 image files changed since they were imported"):
        use(run, table, out=tmp_path / "out", progress=False)


def test_files_of_others_are_not_thrown_away(table, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "mine.txt").write_text("mine")

    with pytest.raises(CheckpointError, match="holds checkpoints, but no run"):
        train(table, TINY, tmp_path, progress=False)

    assert (tmp_path / "checkpoints" / "mine.txt").read_text() == "mine"


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(table, tmp_path, monkeypatch):
    calls = count()

    def diverging(*arguments):
        losses = batch_losses(*arguments)
        return losses._replace(total=losses.total * float("nan")) if next(calls) == 4 else losses

    monkeypatch.setattr(step, "batch_losses", diverging)

    with pytest.raises(RecipeError, match=r"iteration 5.*iteration_000003.*learning_rate"):
        train(table, TINY, tmp_path, progress=False)

    assert [folder.name for folder in training_states(tmp_path)] == ["iteration_000003"]
    assert all(torch.isfinite(tensor).all() for tensor in read_weights(training_states(tmp_path)[0]).values())


def test_training_learns_what_it_is_shown(table, tmp_path):
    recipe = with_values(
        TINY,
        {
            "backbone": LITE0,
            "weights": "imagenet",
            "generator_iterations": 30,
            "batch": 4,
            "crop": 48,
            "head_channels": 32,
            "dropout": 0,
            "learning_rate": 1e-3,
            "checkpoint_every": 100,
        },
    )

    found = rows(train(table, recipe, tmp_path, progress=False))

    first, last = (np.mean([float(row["loss"]) for row in part]) for part in (found[:3], found[-3:]))
    assert last < 0.7 * first


def test_a_generator_has_no_branch_and_needs_no_labels(table, tmp_path):
    unlabelled = replace(table, labels=np.zeros_like(table.labels))
    short = with_values(TINY, {"generator_iterations": 1, "final_iterations": 1})

    run = train_generator(unlabelled, tmp_path / "generator", short, progress=False)

    assert read_card(run).multilabel is False
    assert rows(run)[0]["multilabel_loss"] == ""
    with pytest.raises(TrainingDataError, match="no image-level label"):
        train_final(unlabelled, tmp_path / "final", short, progress=False)


def test_the_simple_final_model_is_the_final_model_without_its_branch(table, tmp_path):
    short = with_values(TINY, {"final_iterations": 1})

    card = read_card(train_final(table, tmp_path, short, multilabel=False, progress=False))

    assert (card.kind, card.multilabel) == ("final", False)


def test_a_model_can_start_from_another_and_takes_over_its_ledger(table, finished, tmp_path):
    short = with_values(TINY, {"generator_iterations": 1, "learning_rate": 1e-9, "weight_decay": 0})
    other = replace(table, ledger=Ledger())

    run = train(other, short, tmp_path, init=finished, progress=False)

    before, after = read_weights(finished), read_weights(run)
    assert torch.allclose(before["low.0.0.weight"], after["low.0.0.weight"], atol=1e-6)
    assert read_card(run).ledger == read_card(finished).ledger


def test_a_refusal_names_what_differs_in_words_and_nothing_of_the_other_network(table, finished, tmp_path):
    run = tmp_path / "run"
    train(table, TINY, run, "generator", progress=False)
    longer = with_values(TINY, {"generator_iterations": 9, "final_iterations": 3, "branch_channels": 16})
    with pytest.raises(CheckpointError) as refused:
        train(table, longer, run, "generator", progress=False)
    assert str(refused.value) == (
        f"{run}: the folder holds another run: generator_iterations is 8 there, 9 now. To go on from its weights, add "
        f"--init {run} to a run in another folder. Choose another folder, or pass --overwrite to throw it away."
    )
    before = (run / "model.safetensors").stat().st_mtime_ns
    train(table, with_values(longer, {"generator_iterations": 8}), run, "generator", progress=False)
    assert (run / "model.safetensors").stat().st_mtime_ns == before, "the other network's values change nothing"
    with pytest.raises(CheckpointError, match="it is a mask generator, and a final model is asked for"):
        train(table, TINY, run, "final", progress=False)
    with pytest.raises(CheckpointError, match=r"it started from other weights \(--init\)"):
        train(table, TINY, run, "generator", init=finished, progress=False)
    with pytest.raises(CheckpointError, match=r"it has a multi-label branch\. To go on"):
        train(table, TINY, finished, "final", multilabel=False, progress=False)


def test_a_run_cannot_start_from_itself_or_from_another_network_and_stays_as_it_is(table, finished, tmp_path):
    before = (finished / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="this folder holds the model to start from"):
        train(table, TINY, finished, "final", init=finished, overwrite=True, progress=False)
    assert (finished / "model.safetensors").read_bytes() == before
    wider = with_values(TINY, {"head_channels": 16})
    with pytest.raises(CheckpointError, match=r"its head_channels is 8, and 16 is asked for\. Add --set"):
        train(table, wider, tmp_path / "wider", "final", init=finished, progress=False)
    assert not (tmp_path / "wider" / "run.json").exists()


def test_starting_from_other_classes_is_refused(table, finished, tmp_path):
    with pytest.raises(CheckpointError, match="knows the classes red, green; the dataset has cow, green"):
        train(replace(table, classes=("cow", "green")), TINY, tmp_path, init=finished, progress=False)


def test_training_leaves_the_callers_random_numbers_alone(table, tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)

    train(table, with_values(TINY, {"generator_iterations": 1}), tmp_path, progress=False)

    assert torch.rand(1) == expected


def test_what_will_happen_is_said_before_it_happens(table, tmp_path, capsys):
    train(table, with_values(TINY, {"generator_iterations": 1}), tmp_path)

    said = capsys.readouterr().err
    assert "generator: 6 images of six, 2 classes (red, green)" in said
    assert "test_efficientnet at stride 16" in said
    assert "1 iterations of 2 crops of 32 px" in said


def test_a_class_without_images_is_named_and_the_others_are_learned(table, tmp_path, capsys):
    more = replace(table, classes=(*table.classes, "yak"), labels=np.pad(table.labels, ((0, 0), (0, 1))))
    train(more, with_values(TINY, {"generator_iterations": 1}), tmp_path)
    assert "warning: 1 classes have no image: yak. The model cannot learn them" in capsys.readouterr().err


def test_the_step_policy_divides_the_rate_by_ten_once():
    paper = preset("paper")

    assert learning_rate(paper, "generator", 0) == 16e-4
    assert learning_rate(paper, "generator", 3_999) == 16e-4
    assert learning_rate(paper, "generator", 4_000) == pytest.approx(16e-5)
    assert learning_rate(paper, "final", 10_999) == 16e-4
    assert learning_rate(paper, "final", 12_999) == pytest.approx(16e-5)


def test_the_poly_policy_falls_to_zero():
    recipe = with_values(preset("cpu"), {"final_iterations": 100, "learning_rate": 1.0})

    assert learning_rate(recipe, "final", 0) == 1.0
    assert learning_rate(recipe, "final", 50) == pytest.approx(0.5**0.9)
    assert 0 < learning_rate(recipe, "final", 99) < 0.02


def test_new_layers_and_their_biases_learn_at_their_own_rates():
    factors = {"new_layer_rate_factor": 10, "new_bias_rate_factor": 2}
    recipe = with_values(TINY, {"backbone": LITE0, **factors, "decay_new_biases": "no", "weight_decay": 0.5})
    model = build_model(recipe, 3, multilabel=True)

    pretrained, weights, biases = parameter_groups(model)

    assert [group["rate_factor"] for group in (pretrained, weights, biases)] == [1, 10, 20]
    assert [group["weight_decay"] for group in (pretrained, weights, biases)] == [0.5, 0.5, 0]
    assert len(weights["params"]) == len(biases["params"]) == 6
    assert sum(len(g["params"]) for g in (pretrained, weights, biases)) == len(list(model.parameters()))
    assert any(p is model.branch.high[0]._expand_conv.weight for p in pretrained["params"])
