import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from wss_data.cosegmentation import self_training
from wss_data.cosegmentation.self_training import (
    SelfTrainingSettings,
    fold_numbers,
    log_odds,
    train_cells,
    train_group,
)

SETTINGS = SelfTrainingSettings(hidden=8, epochs=20, batch_cells=50, learning_rate=0.02, dropout=0.1)


def group(seed=0, images=9):
    """Standardised descriptors of images whose object differs in one channel, and targets that are right."""
    random = np.random.default_rng(seed)
    cells, targets = [], []
    for _ in range(images):
        target = np.zeros((6, 8), np.float32)
        target[2:5, 2:6] = 1
        values = random.normal(size=(6, 8, 4)).astype(np.float32)
        values[..., 1] += 5 * (target - 0.5)
        cells.append(values)
        targets.append(target)
    return cells, targets


def every_cell(cells):
    """What reads the cells of images, each (h, w, C), for ``train_group``."""
    return lambda position, every: cells[position].reshape(-1, cells[position].shape[-1])[::every]


def test_equal_images_share_a_fold_and_the_others_are_dealt_out_evenly():
    numbers = fold_numbers(["b", "a", "b", "d", "c", "f", "e"], folds=3)

    assert numbers[0] == numbers[2]
    assert sorted(numbers[i] for i in (0, 1, 3, 4, 5, 6)) == [0, 0, 1, 1, 2, 2]


def test_the_fold_depends_on_the_content_and_not_on_the_order():
    contents = ["b", "a", "d", "c"]
    reordered = dict(zip(reversed(contents), fold_numbers(contents[::-1], 3), strict=True))

    assert [reordered[content] for content in contents] == fold_numbers(contents, 3)


@pytest.mark.parametrize(("share", "expected"), [(0.0, False), (0.019, False), (0.3, True), (0.81, False)])
def test_only_masks_of_a_plausible_size_are_learned_from(share, expected):
    cells, targets = group(images=12)
    odd = [np.full((6, 8), share, np.float32), *targets[1:]]
    read = []

    train_group(
        lambda position, every: read.append(position) or every_cell(cells)(position, every),
        odd,
        [f"{i:02}" for i in range(12)],
        replace(SETTINGS, epochs=1),
        workers=1,
    )

    assert (0 in read) is expected


def test_what_was_learned_tells_cells_of_other_images_apart():
    cells, targets = group()
    network = train_cells(np.concatenate(cells).reshape(-1, 4), np.concatenate(targets).ravel(), SETTINGS)
    unseen, truth = group(seed=5, images=1)

    right = (log_odds(network, unseen[0]) > 0) == (truth[0] > 0)

    assert right.mean() > 0.9


def test_learning_is_the_same_whatever_torch_did_before_and_with_any_number_of_threads():
    cells, targets = group()
    flat, wanted = np.concatenate(cells).reshape(-1, 4), np.concatenate(targets).ravel()
    first = train_cells(flat, wanted, SETTINGS)
    torch.rand(7)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        second = train_cells(flat, wanted, SETTINGS)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)

    assert np.array_equal(log_odds(first, flat), log_odds(second, flat))
    assert not np.array_equal(
        log_odds(first, flat), log_odds(train_cells(flat, wanted, replace(SETTINGS, seed=1)), flat)
    )


def test_the_optimizer_that_keeps_the_compiler_away_learns_the_bits_of_torchs_own(monkeypatch):
    cells, targets = group()
    flat, wanted = np.concatenate(cells).reshape(-1, 4), np.concatenate(targets).ravel()
    lean = train_cells(flat, wanted, SETTINGS)
    monkeypatch.setattr(self_training, "lean_optimizer", lambda name: getattr(torch.optim, name))

    assert np.array_equal(log_odds(lean, flat), log_odds(train_cells(flat, wanted, SETTINGS), flat))


def test_learning_loads_no_compiler():
    code = """
import sys
import numpy as np
from wss_data.cosegmentation.self_training import SelfTrainingSettings, train_cells
train_cells(np.ones((9, 4), np.float32), np.ones(9), SelfTrainingSettings(epochs=1))
print("torch" in sys.modules, "torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_cells_that_a_worker_may_not_write_to_are_learned_from_without_a_warning():
    cells, targets = group()
    flat = np.concatenate(cells).reshape(-1, 4)
    flat.flags.writeable = False
    torch.set_warn_always(True)  # torch tells of this once a process otherwise
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train_cells(flat, np.concatenate(targets).ravel(), SETTINGS)
    finally:
        torch.set_warn_always(False)


def test_no_image_is_asked_of_a_network_that_learned_from_it():
    cells, targets = group()
    contents = [f"{i}" for i in range(9)]
    read = []

    def read_cells(position, every):
        read.append(position)
        return every_cell(cells)(position, every)

    networks = train_group(read_cells, targets, contents, replace(SETTINGS, least_images=2), workers=1)

    numbers = fold_numbers(contents, 3)
    chosen = [set(read[fold * 6 : fold * 6 + 6]) for fold in range(3)]
    for fold in range(3):
        own = {i for i in range(9) if numbers[i] == fold}
        assert chosen[fold] == set(range(9)) - own
    assert all((networks[i] is networks[j]) == (numbers[i] == numbers[j]) for i in range(9) for j in range(9))


def test_one_wrong_mask_is_outvoted_by_the_others():
    cells, targets = group(images=12)
    wrong = [np.zeros_like(target) for target in targets[:1]] + targets[1:]
    wrong[0][0, :5] = 1

    networks = train_group(every_cell(cells), wrong, [f"{i}" for i in range(12)], SETTINGS, workers=1)

    found = log_odds(networks[0], cells[0]) > 0
    assert (found == (targets[0] > 0)).mean() > 0.9 > (wrong[0] == targets[0]).mean()


@pytest.mark.parametrize(
    ("contents", "shares"),
    [(["a"], [0.3]), (["a"] * 30, [0.3] * 30), ([f"{i:02}" for i in range(30)], [0.0] * 30)],
    ids=["one image", "equal images", "empty masks"],
)
def test_where_there_is_nothing_to_learn_from_nothing_is_trained(contents, shares):
    targets = [np.full((4, 4), share, np.float32) for share in shares]

    networks = train_group(lambda _, every: np.zeros((16, 2))[::every], targets, contents, SETTINGS, workers=1)

    assert networks == [None] * len(contents)


def test_one_cell_in_three_is_learned_from_with_its_own_target(monkeypatch):
    learned = []
    monkeypatch.setattr(self_training, "train_cells", lambda cells, targets, settings: learned.append((cells, targets)))
    cells, targets = group(images=3)
    numbered = [np.arange(48 * 4, dtype=float).reshape(6, 8, 4) / 100 for _ in cells]

    settings = replace(SETTINGS, least_images=1)
    train_group(every_cell(numbered), targets, ["a", "b", "c"], settings, workers=1)

    assert len(learned) == 3
    for found, wanted in learned:
        assert found.shape == (2 * 16, 4) and np.allclose(found[:16, 0] * 100, 12 * np.arange(16), atol=1)
        assert np.array_equal(wanted[:16], targets[0].ravel()[::3])


def test_the_images_that_are_learned_from_are_capped():
    cells, targets = group(images=30)
    read = []

    def read_cells(position, every):
        read.append(position)
        return every_cell(cells)(position, every)

    contents = [f"{i:02}" for i in range(30)]
    train_group(read_cells, targets, contents, replace(SETTINGS, most_images=7, epochs=1), workers=1)

    assert len(read) == 3 * 7
