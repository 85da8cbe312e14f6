"""Cross-fitted self-training: a small network learns from a group's own masks what its objects have in common.

It learns from the masks of some images to tell foreground cells from background cells, and predicts the others, so
that no image confirms its own mistakes. torch is loaded only when something is learned.

Source:
    Our own; cross-fitting after Chernozhukov et al., *Double/debiased machine learning*, The Econometrics Journal 2018.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from wss_data.backbones.lean import lean_optimizer
from wss_data.runtime.parallel import map_images

if TYPE_CHECKING:
    from torch import nn

FEW_CELLS = 20_000  # with fewer cells to learn from, starting processes takes longer than learning


@dataclass(frozen=True)
class SelfTrainingSettings:
    """How a group's networks are trained."""

    folds: int = 3  # parts of the group, each predicted by a network trained on the others; below 2: no self-training
    hidden: int = 64  # units between descriptors and answer
    thinning: int = 3  # one cell in so many of an image is learned from: neighbours look alike
    epochs: int = 8  # times that each of these cells is seen
    batch_cells: int = 1024  # cells of a step
    learning_rate: float = 2e-3  # highest of AdamW; it rises over the first 30 % of the steps, then falls
    weight_decay: float = 0.01  # of AdamW
    dropout: float = 0.3  # fraction of the hidden units that are dropped in a step
    clip: float = 6.0  # descriptors are held within so many standard deviations
    most_images: int = 150  # that train a network: its cost does not grow with the group beyond them
    least_images: int = 6  # with fewer images to learn from, nothing is trained
    # An image is learned from only if its mask has a foreground fraction between these: the others are failures more
    # often than not.
    min_foreground: float = 0.02
    max_foreground: float = 0.8
    seed: int = 0  # of the network's first weights, of the order of cells and of dropout


def log_odds(network: nn.Module, cells: np.ndarray) -> np.ndarray:
    """What a network says for the foreground. ``cells``: (..., C), standardised -> (...), float32."""
    import torch

    with torch.inference_mode():
        return network(torch.from_numpy(np.ascontiguousarray(cells, np.float32)))[..., 0].numpy()


def fold_numbers(contents: Sequence[str], folds: int) -> list[int]:
    """The fold of each image: equal images share one, the others are dealt out evenly.

    ``contents`` tell the images' contents apart, such as digests: the fold depends on nothing else, neither on the
    order of the group nor on its names.

    >>> fold_numbers(["b", "a", "b", "c"], folds=2)
    [1, 0, 1, 0]
    """
    dealt = {content: number % folds for number, content in enumerate(sorted(set(contents)))}
    return [dealt[content] for content in contents]


def train_cells(cells: np.ndarray, targets: np.ndarray, settings: SelfTrainingSettings) -> nn.Module:
    """Learn to tell foreground cells from background cells. The same cells in the same order give the same network.

    ``cells`` are standardised, within ``settings.clip``, (N, C); ``targets`` how much of each is foreground, (N,), in
    [0, 1]. The network has one hidden layer; it takes (..., C) and gives log-odds for the foreground, (..., 1).
    """
    import torch
    from torch import nn
    from torch.nn.functional import binary_cross_entropy_with_logits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of several threads differ from run to run
    try:
        random = torch.Generator().manual_seed(settings.seed)
        network = nn.Sequential(nn.Linear(cells.shape[1], settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, 1))
        for parameter, inputs in zip(
            network.parameters(), np.repeat([cells.shape[1], settings.hidden], 2), strict=True
        ):
            # As torch begins itself, but from our generator: torch's own would follow whatever ran before.
            drawn = torch.rand(parameter.shape[::-1], generator=random).movedim(0, -1) * 2 - 1
            parameter.data.copy_(drawn / inputs**0.5)
        batches, rate = max(1, round(len(cells) / settings.batch_cells)), settings.learning_rate
        optimizer = lean_optimizer("AdamW")(network.parameters(), lr=rate, weight_decay=settings.weight_decay)
        steps = max(2, settings.epochs * batches)  # the schedule takes no fewer
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
        with warnings.catch_warnings():
            # A worker maps the cells read-only; nothing writes to them.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            values = torch.from_numpy(cells)
        wanted = torch.from_numpy(targets.astype(np.float32))
        for _ in range(settings.epochs):
            for chosen in torch.randperm(len(cells), generator=random).tensor_split(batches):
                inside = network[:2](values[chosen].float())
                # nn.Dropout takes no generator.
                kept = torch.rand(inside.shape, generator=random) >= settings.dropout
                logits = network[2](inside * kept / (1 - settings.dropout))[:, 0]
                loss = binary_cross_entropy_with_logits(logits, wanted[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return network.requires_grad_(False)
    finally:
        torch.set_num_threads(threads)


def train_group(
    read_cells: Callable[[int, int], np.ndarray],
    targets: Sequence[np.ndarray],
    contents: Sequence[str],
    settings: SelfTrainingSettings,
    workers: int | None = None,
) -> list[nn.Module | None]:
    """For each image the network that predicts it, trained on the images of the other folds.

    ``None`` where there is too little to learn from: in a small group, one of equal images, or one whose masks are all
    too small or too large.

    Args:
        read_cells: Position of an image and n -> its standardised descriptors at every n-th cell, row by row,
            (cells, C) float, within ``settings.clip``.
        targets: Foreground fraction of each cell of each image. Each (h, w), float, in [0, 1].
        contents: See ``fold_numbers``.
        settings: How to train.
        workers: Worker processes; the networks do not depend on their number.
    """
    if settings.folds < 2:
        return [None] * len(targets)
    numbers = fold_numbers(contents, settings.folds)
    # By content, so that the choice among many does not depend on their order.
    usable = [
        position
        for position in sorted(range(len(targets)), key=contents.__getitem__)
        if settings.min_foreground <= float(targets[position].mean()) <= settings.max_foreground
    ]
    training = {}
    for fold in range(settings.folds):
        others = [position for position in usable if numbers[position] != fold]
        if len(others) >= settings.least_images:
            places = np.linspace(0, len(others) - 1, min(len(others), settings.most_images)).round()
            training[fold] = [others[int(place)] for place in places]

    def cells_of(chosen: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        thinned, wanted = [], []
        for position in chosen:
            thinned.append(read_cells(position, settings.thinning).astype(np.float16))
            wanted.append(targets[position].ravel()[:: settings.thinning])
        return np.concatenate(thinned), np.concatenate(wanted)

    cells = sum(targets[position].size for chosen in training.values() for position in chosen)
    few = cells < FEW_CELLS * settings.thinning
    packed = (cells_of(chosen) for chosen in training.values())
    networks = map_images(partial(_train, settings=settings), packed, workers=1 if few else workers, local=True)
    by_fold = dict(zip(training, networks, strict=True))
    return [by_fold.get(number) for number in numbers]


def _train(cells: tuple[np.ndarray, np.ndarray], settings: SelfTrainingSettings) -> nn.Module:
    return train_cells(*cells, settings)
