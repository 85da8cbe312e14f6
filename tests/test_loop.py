"""What the loop does when something goes wrong, or is asked to do more than plain steps."""

import csv
import pickle
import random
import resource
import signal
import subprocess
import sys
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch
from limits import full_disk
from train_tables import TINY, rectangles

from wss_data.errors import CheckpointError, RecipeError
from wss_data.ledger import Ledger
from wss_train import training
from wss_train.checkpoints import (
    ModelCard,
    TrainingState,
    read_card,
    read_training_state,
    read_weights,
    training_states,
    write_training_state,
)
from wss_train.engine import loop, step
from wss_train.recipes import with_values
from wss_train.selection.selection import SelectionSettings
from wss_train.training import train, train_generator

WATCHED = with_values(TINY, {"generator_iterations": 14, "checkpoint_every": 2, "dropout": 0.5, "optimizer": "adamw"})
SLOW = with_values(WATCHED, {"backbone": "efficientnet_lite0"})  # enough to be killed twenty times on the way
LOOKS = SelectionSettings(every=3, probes=2)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return rectangles(tmp_path_factory.mktemp("images"))


def watched(table, out, recipe=WATCHED):
    return train_generator(table, out, recipe, select="agreement", settings=LOOKS, workers=2, progress=False)


@pytest.fixture(scope="module")
def whole(table, tmp_path_factory):
    """A run with a selector that nothing stopped."""
    return watched(table, tmp_path_factory.mktemp("runs") / "whole")


def same_bytes(first, second):
    return (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


def test_a_run_with_a_selector_resumes_in_the_middle_of_an_epoch_to_the_same_bytes(table, whole, tmp_path, monkeypatch):
    real = loop.learning_rate
    with monkeypatch.context() as patch:
        # 5 images are left to learn from: iteration 9 lies in the eighth epoch. The last look was at 9, the last
        # checkpoint at 8.
        patch.setattr(loop, "learning_rate", lambda r, k, i: real(r, k, i) if i < 9 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            watched(table, tmp_path / "run")
    assert training_states(tmp_path / "run")[-1].name == "iteration_000008"

    watched(table, tmp_path / "run")

    assert same_bytes(whole, tmp_path / "run")
    columns = [[line.rsplit(",", 1)[0] for line in (run / "signals.csv").open()] for run in (whole, tmp_path / "run")]
    assert columns[0] == columns[1], "the same signals, but for the seconds"


@pytest.mark.slow
def test_a_run_that_is_killed_twenty_times_at_any_moment_ends_in_the_same_bytes(table, tmp_path):
    (tmp_path / "values").write_bytes(pickle.dumps((table, SLOW, LOOKS)))
    script = f"""
import pickle, torch
from pathlib import Path
from wss_train.training import train_generator
torch.set_num_threads(1)
table, recipe, looks = pickle.loads(Path({str(tmp_path / "values")!r}).read_bytes())
print("ready", flush=True)
train_generator(table, {str(tmp_path / "run")!r}, recipe, select="agreement", settings=looks, workers=2, progress=False)
"""
    moments, kills = random.Random(0), 0
    while kills < 20 and not (tmp_path / "run" / "model.json").is_file():
        with subprocess.Popen(
            [sys.executable, "-c", script], cwd=Path(training.__file__).parents[1], stdout=subprocess.PIPE
        ) as process:
            process.stdout.read(1)
            # From before the first write to a little beyond the first checkpoint, so that twenty fit in.
            try:
                process.wait(moments.uniform(0.0, 1.0))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                kills += 1
    whole, killed = (watched(table, tmp_path / name, SLOW) for name in ("whole", "run"))

    assert kills >= 10
    assert same_bytes(whole, killed)


def test_control_c_tells_how_to_go_on_and_leaves_a_checkpoint_that_goes_on(table, whole, tmp_path):
    (tmp_path / "values").write_bytes(pickle.dumps((table, WATCHED, LOOKS)))
    script = f"""
import argparse, pickle, signal, os, sys, torch
from pathlib import Path
from wss_data.commands.run import run
from wss_train.engine import loop
from wss_train.training import train_generator
torch.set_num_threads(1)
table, recipe, looks = pickle.loads(Path({str(tmp_path / "values")!r}).read_bytes())
real = loop.learning_rate
def interrupted(recipe, kind, iteration):
    if iteration == 5:
        os.kill(os.getpid(), signal.SIGINT)
    return real(recipe, kind, iteration)
loop.learning_rate = interrupted
def command(options):
    train_generator(table, {str(tmp_path / "run")!r}, recipe, select="agreement", settings=looks, progress=False)
parser = argparse.ArgumentParser(prog="wss-train")
parser.set_defaults(command=command)
sys.exit(run(parser, []))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(training.__file__).parents[1], capture_output=True, text=True
    )

    assert done.returncode == 130, done.stderr
    assert "Run the same command again to go on" in done.stderr
    watched(table, tmp_path / "run")
    assert same_bytes(whole, tmp_path / "run")


def test_a_full_disk_stops_the_run_and_leaves_the_last_good_checkpoint(table, tmp_path, monkeypatch):
    recipe = with_values(TINY, {"checkpoint_every": 2})
    whole = train(table, recipe, tmp_path / "whole", workers=0, progress=False)
    real = loop.write_training_state

    def on_a_full_disk(state, *arguments):
        with full_disk(10_000 if state.iteration == 4 else resource.RLIM_INFINITY):
            return real(state, *arguments)

    monkeypatch.setattr(loop, "write_training_state", on_a_full_disk)
    run = tmp_path / "run"
    with pytest.raises(
        CheckpointError, match=r"iteration_000004: .*File too large.*good checkpoint is .*iteration_000002"
    ):
        train(table, recipe, run, workers=0, progress=False)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["iteration_000002"]
    assert not list(run.rglob(".*"))

    monkeypatch.setattr(loop, "write_training_state", real)
    train(table, recipe, run, workers=0, progress=False)
    assert same_bytes(whole, run)


def test_weights_that_are_no_numbers_are_never_kept(table, tmp_path, monkeypatch):
    real, calls = step.Step.__call__, count()

    def spoiled(self, batches):
        losses = real(self, batches)
        if next(calls) == 3:
            with torch.no_grad():
                self._model.head[0].weight[0] = float("inf")
        return losses

    monkeypatch.setattr(step.Step, "__call__", spoiled)
    with pytest.raises(RecipeError, match=r"iteration 4: the loss or a weight.*iteration_000002.*learning_rate"):
        train(table, with_values(TINY, {"checkpoint_every": 2}), tmp_path, workers=0, progress=False)

    assert [folder.name for folder in training_states(tmp_path)] == ["iteration_000002"]


def test_a_compiled_network_keeps_the_names_and_values_of_its_tensors(table, tmp_path, monkeypatch):
    recipe = with_values(TINY, {"generator_iterations": 2})
    plain = train(table, recipe, tmp_path / "plain", workers=0, progress=False)
    # Translated by a backend that changes nothing: the others need minutes.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))

    compiled = train(table, with_values(recipe, {"compile": True}), tmp_path / "compiled", workers=0, progress=False)

    first, second = read_weights(plain), read_weights(compiled)
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


def test_without_a_compiler_training_goes_on_and_says_why(table, tmp_path, monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("backend='inductor' raised:\nInvalidCxxCompiler: No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", broken)
    train(table, with_values(TINY, {"compile": True, "generator_iterations": 1}), tmp_path, workers=0)

    said = capsys.readouterr().err
    assert "torch.compile does not work here, training goes on without it: InvalidCxxCompiler: No working" in said
    assert read_card(tmp_path).iterations == 1


def test_fp16_without_a_gpu_is_float32_and_reported(table, tmp_path, capsys):
    train(table, with_values(TINY, {"precision": "fp16", "generator_iterations": 1}), tmp_path, workers=0, device="cpu")

    assert "cpu does not compute fp16: training in float32" in capsys.readouterr().err


def test_the_state_of_fp16s_scaler_is_saved_and_read(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    card = ModelCard("generator", ("red", "green"), TINY, 3, False, Ledger())
    tensors = {"a": torch.ones(2)}

    folder = write_training_state(
        TrainingState(3, tensors, tensors, scaler=scaler.state_dict()), card, tmp_path, keep=1
    )

    assert read_training_state(folder).scaler == scaler.state_dict()
    assert read_training_state(folder).scaler["scale"] == 1024.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_has_the_losses_of_the_processor_over_twenty_iterations(table, tmp_path):
    recipe = with_values(TINY, {"generator_iterations": 20, "precision": "float32", "dropout": 0})

    def losses(device):
        run = train(table, recipe, tmp_path / device, device=device, progress=False)
        return [float(row["loss"]) for row in csv.DictReader((run / "metrics.csv").open())]

    assert losses("cuda") == pytest.approx(losses("cpu"), rel=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fp16_goes_on_with_the_scale_that_it_had(table, tmp_path):
    recipe = with_values(TINY, {"precision": "fp16", "checkpoint_every": 5})

    run = train(table, recipe, tmp_path, device="cuda", progress=False)

    assert read_training_state(training_states(run)[-1]).scaler["scale"] > 1.0
    assert read_card(run).iterations == 5
