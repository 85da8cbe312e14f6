"""A batch in parts: several processes, or several parts, train as one process with the whole batch does."""

import csv
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from train_tables import TINY, rectangles

from wss_data.errors import RecipeError, WssError
from wss_train.checkpoints import read_weights
from wss_train.data import TrainingDraws, batches
from wss_train.engine import processes
from wss_train.recipes import with_values
from wss_train.training import train, train_generator

REPOSITORY = Path(processes.__file__).parents[2]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return rectangles(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def whole(table, tmp_path_factory):
    """The final model, with its branch, trained by one process on whole batches."""
    return train(table, TINY, tmp_path_factory.mktemp("runs") / "whole", "final", workers=0, progress=False)


def losses(run):
    names = ("loss", "segmentation_loss", "multilabel_loss")
    with (run / "metrics.csv").open() as file:
        return np.array([[float(row[name]) for name in names] for row in csv.DictReader(file)])


def assert_same_training(first, second):
    np.testing.assert_allclose(losses(first), losses(second), rtol=2e-4)
    one, two = read_weights(first), read_weights(second)
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name], two[name], atol=2e-4) for name in one)


def in_two_processes(tmp_path, body, **values):
    """Run a script in two processes under torchrun; it finds ``values`` by their names."""
    (tmp_path / "values").write_bytes(pickle.dumps(values))
    script = tmp_path / "script.py"
    script.write_text(
        "import pickle, torch\nfrom pathlib import Path\n"
        f"globals().update(pickle.loads(Path({str(tmp_path / 'values')!r}).read_bytes()))\n"
        f"torch.set_num_threads(1)\n{body}\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["TMPDIR"] = str(tmp_path)  # torchrun leaves a folder there
    return subprocess.run([*torchrun, script], env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def two(table, tmp_path_factory):
    """What two processes did that first had no image, and then trained; their starting takes most of the time."""
    body = """
import wss_train.training
from wss_data.errors import WssError
from wss_train.engine.processes import place
try:
    wss_train.training.train(empty, recipe, out)
except WssError as error:
    Path(out, f"rank_{place().rank}").write_text(str(error))
if not place().first:
    def refused(*_, **__):
        raise AssertionError("only the first process reads the dataset")
    wss_train.training.as_table = refused
wss_train.training.train_final(table, out / "run", recipe, workers=1)
"""
    out = tmp_path_factory.mktemp("two")
    values = {"empty": table.take([]), "table": table, "recipe": with_values(TINY, {"accumulate": 2})}
    return in_two_processes(out, body, out=out, **values), out


def test_two_processes_train_as_one_with_the_whole_batch(whole, two):
    done, out = two

    assert done.returncode == 0, done.stderr
    assert done.stderr.count("2 processes, cpu, float32") == 1, "told once"
    assert_same_training(out / "run", whole)
    assert len(list((out / "run" / "tensorboard").iterdir())) == 1


def test_what_fails_in_the_first_process_ends_the_others(two):
    _, out = two

    assert (out / "rank_0").read_text().startswith("rectangles holds no image")
    assert (out / "rank_1").read_text().startswith("process 1 stops with the first one: rectangles holds no image")


@pytest.mark.parametrize("resolution", ["mask", "stride"])
def test_two_parts_train_as_the_whole_batch_does(table, tmp_path, resolution):
    # Quality tells weights apart: the parts' shares count them too.
    table = replace(table, quality=np.linspace(0.2, 1.0, len(table), dtype=np.float32))
    runs = [
        train_generator(
            table,
            tmp_path / f"{pieces}",
            with_values(TINY, {"accumulate": pieces, "loss_resolution": resolution, "image_weighting": "quality"}),
            workers=0,
            progress=False,
        )
        for pieces in (1, 2)
    ]
    first, second = ([row[:2] for row in read_rows(run)] for run in runs)
    np.testing.assert_allclose(first, second, rtol=2e-4)


def read_rows(run):
    with (run / "metrics.csv").open() as file:
        return [(float(row["loss"]), float(row["learning_rate"])) for row in csv.DictReader(file)]


def test_the_parts_of_a_batch_are_its_examples_each_once(table):
    draws = TrainingDraws(table, TINY)
    whole = [batch.ids for batch in batches(draws, 4, 3, 5, 0)]

    parts = [[batch.ids for batch in batches(draws, 4, 3, 5, 1, part, 2)] for part in (0, 1)]
    pieces = [batch.ids for batch in batches(draws, 4, 3, 5, 0, accumulate=4)]

    assert parts == [[ids[part::2] for ids in whole] for part in (0, 1)]
    assert pieces == [(name,) for ids in whole for name in ids]


def test_a_batch_that_the_processes_cannot_share_is_refused(table, tmp_path, monkeypatch):
    for name, value in {"RANK": 0, "WORLD_SIZE": 3, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 3}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a test")

    with pytest.raises(RecipeError, match=r"batch is 4; 3 processes with accumulate=1 want a multiple of 3"):
        train(table, TINY, tmp_path, progress=False)
    with pytest.raises(WssError, match=r"wss-train masks runs in one process, torchrun has started 3"):
        processes.only_alone("wss-train masks")


def test_alone_this_process_is_the_first_of_one():
    assert processes.place() == processes.Place(0, 1, 0, 1)
    assert processes.from_first(lambda: 5) == 5
    processes.only_alone("anything")
