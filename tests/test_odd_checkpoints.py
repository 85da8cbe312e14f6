"""Checkpoints that somebody changed: refused in one sentence, quickly, before a network of their size takes memory."""

import json
import os
import random
import resource
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from limits import bare_loops
from safetensors.torch import save_file

from wss_data.errors import CheckpointError, WssError
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_train.checkpoints import (
    ModelCard,
    TrainingState,
    read_card,
    read_training_state,
    training_states,
    write_model,
    write_training_state,
)
from wss_train.commands.cli import main
from wss_train.engine.step import load_optimizer, make_optimizer
from wss_train.models import build_model, load_network
from wss_train.recipes import preset, with_values
from wss_train.selection.selection import read_signals, snapshots

RECIPE = with_values(preset("cpu"), {"weights": "none", "head_channels": "8", "branch_channels": "8"})
LEDGER = Ledger().add("labels of a test", Supervision.IMAGE_LEVEL, UsedFor.TRAINING)
CARD = ModelCard("final", ("cow", "sheep"), RECIPE, 7, True, LEDGER)
DEEP = json.loads("[" * 60 + "]" * 60)
SCALER = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 0}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_model(RECIPE, 3, multilabel=True)


@pytest.fixture(scope="module")
def weights(network):
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}


def write(path: Path, tensors: dict, card: object) -> Path:
    save_file(tensors, path, metadata={"wss_train": card if isinstance(card, str) else json.dumps(card)})
    return path


def refused_quickly(call, match: str | None = None) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with bare_loops(500), pytest.raises((CheckpointError, WssError), match=match) as caught:
        call()
    words = str(caught.value)
    assert words.isprintable() and len(words) < 1_500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 << 10  # KiB


def changes() -> list[tuple[str, str, object]]:
    """What is put into a card or its recipe, and under which key."""
    wrong = {
        "kind": ["best", None, ["final"], 10**30],
        "classes": [
            *([], "cow", None, [1, 2], ["cow", "cow"], ["a\x1b[31m", "b"], ["../../x", "b"], ["", "b"], ["a/b", "c"]),
            *(["."] * 2, [f"c{i}" for i in range(10**6)], ["x" * 10**6, "b"], ["\ud800", "b"], {"a": 1}),
        ],
        "multilabel": ["yes", 1, None, []],
        "iterations": [-1, 1.5, "7", 10**40, None, True, DEEP],
        "format_version": [2, "1", None, 10**400, DEEP],
        "ledger": [None, [1], {"entries": 5}, {"entries": [{}]}, {"entries": [{"what": 1}]}, DEEP],
        "recipe": [None, [], DEEP, {"colour": 1}, {"\x1b[31m": 1}, "paper"],
    }
    wrong_recipe = {
        "backbone": ["resnet9000", None, 5, ["x"], "../../x", "\x1b[31m"],
        "head_channels": [2**31, 10**30, -1, 0.5, "x", DEEP, float("nan"), float("inf")],
        "branch_channels": [10**12],
        "output_stride": [0, 7, 10**30],
        "crop": [10**9],
        "learning_rate": [float("nan"), float("inf"), -1, "1e999"],
        "scales": [[], [0], [1e308], [1.0] * 10**5, DEEP, "nan", [float("nan")]],
        "seed": [10**40, -1],
        "crf_iterations": [10**12],
    }
    return [
        *(("", key, value) for key, values in wrong.items() for value in values),
        *(("recipe", key, value) for key, values in wrong_recipe.items() for value in values),
    ]


def test_no_odd_value_in_a_card_is_taken(tmp_path):
    for place, key, value in changes():
        card = CARD.to_dict()
        (card[place] if place else card)[key] = value
        path = write(tmp_path / "model.safetensors", {"a": torch.zeros(1)}, card)
        refused_quickly(lambda path=path: read_card(path))


@pytest.mark.parametrize(
    ("key", "value"),
    [("classes", ["cow"]), ("multilabel", False), ("head_channels", 16_384), ("backbone", "resnet152")],
)
def test_a_card_that_its_weights_do_not_fit_is_refused_before_a_network_is_built(weights, tmp_path, key, value):
    card = CARD.to_dict()
    (card if key in card else card["recipe"])[key] = value
    path = write(tmp_path / "model.safetensors", weights, card)
    refused_quickly(lambda: load_network(path), "do not fit the network|backbone")


@pytest.mark.parametrize(
    "card",
    ["", "[]", "null", "NaN", "{", "[" * 10**6, '{"a":' * 10**5, "9" * 10**6, '{"kind": 1, "kind": 2}', "\ud83d{"],
    ids=["empty", "list", "null", "nan", "cut off", "deep", "deep objects", "digits", "twice", "no JSON"],
)
def test_a_card_that_is_none_is_refused(weights, tmp_path, card):
    path = write(tmp_path / "model.safetensors", weights, card.encode("utf-8", "replace").decode())
    refused_quickly(lambda: read_card(path))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(weights, tmp_path, number):
    name = max(weights, key=lambda name: weights[name].numel())
    broken = weights[name].clone()
    broken.view(-1)[5] = number
    path = write(tmp_path / "model.safetensors", {**weights, name: broken}, CARD.to_dict())
    refused_quickly(lambda: load_network(path), "not finite")


def test_weights_of_another_shape_or_name_are_refused_before_a_network_is_built(weights, tmp_path):
    name = next(iter(weights))
    for others in (
        {**weights, name: torch.zeros(3)},
        {**weights, "more": torch.zeros(1)},
        {key: tensor for key, tensor in weights.items() if key != name},
        {name: torch.zeros(0, 10**12)},
        {},
    ):
        path = write(tmp_path / "model.safetensors", others, CARD.to_dict())
        refused_quickly(lambda path=path: load_network(path), "do not fit the network")


def headed(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Q", 2**33) + b"{}",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 90 << 20) + b" " * 1000,
        headed(b"[" * 10**6),
        headed(b'{"a":' * 10**5),
        headed(b'{"a":{"dtype":"F32","shape":[1000000000000,1000000000000],"data_offsets":[0,4]}}', b"1234"),
        headed(b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', b"1234"),
        headed(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,999999999999]}}', b"1234"),
        headed(b'{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}', b"1234"),
        headed(b'{"__metadata__":{"wss_train":5}}'),
        headed(b"\xff" * 100),
        b"",
        b"PK\x03\x04" + b"x" * 100,
        b"\x80\x02}q\x00." * 10,
    ],
    ids=[
        *("header of GB", "header of EB", "cut off", "deep", "deep objects", "shape", "negative", "offsets", "type"),
        *("metadata", "bytes", "empty", "zip", "pickle"),
    ],
)
def test_a_file_that_is_no_sound_safetensors_file_is_refused(tmp_path, data):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    refused_quickly(lambda: load_network(path))


@pytest.mark.parametrize(("size", "told"), [(20 << 30, "do not fit the network"), (1 << 40, "no model has as many")])
def test_a_large_file_of_nothing_is_refused(tmp_path, size, told):
    path = tmp_path / "model.safetensors"
    tensor = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
    header = {"__metadata__": {"wss_train": json.dumps(CARD.to_dict())}, "a": tensor}
    path.write_bytes(headed(json.dumps(header).encode()))
    try:
        os.truncate(path, path.stat().st_size + size)
    except OSError:
        pytest.skip("this disk has no files of that size")
    refused_quickly(lambda: load_network(path), told)


def test_a_model_that_somebody_changed_is_read_or_refused_in_one_sentence(weights, tmp_path):
    path = write(tmp_path / "model.safetensors", weights, CARD.to_dict())
    whole = path.read_bytes()
    head = 8 + int.from_bytes(whole[:8], "little")
    for seed in range(80):
        draw, data = random.Random(seed), bytearray(whole)
        for _ in range(draw.choice([1, 3, 20])):
            data[draw.randrange(head)] = draw.randrange(256)
        path.write_bytes(data[: draw.randrange(head)] if seed % 4 == 0 else data)
        try:
            read_card(path)
            if seed % 8 == 1:
                load_network(path)
        except WssError as error:
            assert str(error).isprintable() and len(str(error)) < 1_000, seed
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error


@pytest.fixture
def state(tmp_path):
    tensors = {"a": torch.zeros(2)}
    return write_training_state(TrainingState(5, tensors, tensors, SCALER), CARD, tmp_path / "run", 2)


def test_a_sound_state_is_read(state):
    read = read_training_state(state)
    assert (read.iteration, read.scaler) == (5, SCALER)


STATES = [
    *({"iteration": -1}, {"iteration": "5"}, {"iteration": 10**40}, {"iteration": True}, {"format_version": 2}),
    *(
        {"scaler": [1]},
        {"scaler": {"scale": 1}},
        {"scaler": SCALER | {"scale": "x"}},
        {"scaler": SCALER | {"scale": -1}},
    ),
]


@pytest.mark.parametrize("value", STATES, ids=repr)
def test_no_odd_value_of_a_state_is_taken(state, value):
    known = json.loads((state / "state.json").read_text())
    (state / "state.json").write_text(json.dumps(known | value))
    refused_quickly(lambda: read_training_state(state))


@pytest.mark.parametrize(
    "data", [b"\xff\xfe", b"[" * 10**6, b"1" * (70 << 20), b"NaN", b"", b"[]", b"{}"], ids=lambda d: repr(d[:4])
)
def test_no_odd_file_of_a_state_is_taken(state, data):
    (state / "state.json").write_bytes(data)
    refused_quickly(lambda: read_training_state(state), "cannot be read|format version")


@pytest.mark.parametrize("name", ["99999.exp_avg", "x.exp_avg", "-1.exp_avg", "0.__class__", "0", "٣.exp_avg"])
def test_no_odd_tensor_of_an_optimizer_is_taken(network, name):
    with pytest.raises(CheckpointError, match="none of this run's"):
        load_optimizer(make_optimizer(network), {name: torch.zeros(2)})


def test_an_optimizer_that_is_not_finite_or_a_pickle_is_refused(state):
    path = state / "optimizer.safetensors"
    save_file({"0.momentum_buffer": torch.tensor([float("nan")])}, path)
    refused_quickly(lambda: read_training_state(state), "not finite")
    torch.save({"a": torch.zeros(1)}, path)
    refused_quickly(lambda: read_training_state(state), "pickle")


@pytest.mark.parametrize(
    "line", ["x,1,,,,1", "1,x,,,,1", "1,1,,,1", "1,1,,,,1,1,1", "1" * 50 + ",1,,,,1", "1,1e999,,,,1", '1,"1,,,,1', "\0"]
)
def test_no_odd_line_of_signals_is_taken(tmp_path, line):
    (tmp_path / "signals.csv").write_text(f"iteration,labels,labels_ap,agreement,change,seconds\n{line}\n")
    refused_quickly(lambda: read_signals(tmp_path), "signals.csv, line [12]: the signals cannot be read")


def test_folders_that_only_look_like_snapshots_are_none(tmp_path):
    for name in ("iteration_x", "iteration_", "iteration_000005"):
        write_model({"a": torch.zeros(1)}, CARD, tmp_path / "snapshots" / name)
    assert list(snapshots(tmp_path)) == [5]
    assert training_states(tmp_path) == []


@pytest.mark.parametrize("command", ["predict", "export", "masks", "evaluate", "voc-submission"])
def test_every_command_that_reads_a_checkpoint_ends_with_status_2_and_one_line(command, weights, tmp_path, capsys):
    card = CARD.to_dict()
    card["classes"] = ["a\x1b[31m", "b"]
    run = tmp_path / "run"
    run.mkdir()
    write(run / "model.safetensors", weights, card)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"no image")
    more = {
        "predict": [str(tmp_path / "photos"), "--out", str(tmp_path / "out")],
        "export": ["--out", str(tmp_path / "m.onnx")],
        # No dataset is looked for before that.
        "masks": ["nowhere"],
        "evaluate": ["nowhere"],
        "voc-submission": [str(tmp_path / "photos"), "--out", str(tmp_path / "results.tgz")],
    }
    try:
        status = main([command, str(run), *more[command]])
    except SystemExit as error:
        raise AssertionError(capsys.readouterr().err) from error
    printed = capsys.readouterr()
    assert status == 2 and "\x1b" not in printed.err and "model card" in printed.err
    assert len(printed.err.strip().splitlines()) == 1


def test_what_is_no_checkpoint_is_refused_before_torch_is_loaded(tmp_path):
    script = "import sys; from wss_train.commands.cli import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", script, "predict", tmp_path, tmp_path, "--out", tmp_path / "out"],
        capture_output=True,
        text=True,
    )
    assert ran.stdout == "2 False\n"
