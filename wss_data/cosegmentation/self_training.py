"""Cross-fitted self-training: what a group's own masks teach about its images.

First masks are noisy, each in its own way; what they have in common is the object. A
small network learns from the masks of some images to tell foreground cells from
background cells, and is asked about the others, so that no image confirms its own
mistakes. torch is loaded only when something is learned.

Source:
    Our own; cross-fitting after Chernozhukov et al., *Double/debiased machine learning*, The Econometrics Journal 2018.
    The network's sizes are our own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from wss_data.runtime.parallel import map_images

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TeachSettings:
    """How a group is taught.

    Args:
        folds: Parts of the group; each is predicted by a network that learned from the others. 0 switches teaching off.
        hidden: Units between descriptors and answer.
        epochs: Times that every cell is seen.
        batch_cells: Cells of a step.
        learning_rate: Highest learning rate of AdamW; it rises over the first 30 % of the steps, then falls.
        weight_decay: Of AdamW.
        dropout: Share of the hidden units that are silent in a step.
        clip: Descriptors are held within so many standard deviations.
        most_images: Images at most that teach a network: its cost does not grow with the group beyond them.
        least_images: With fewer images to learn from, nothing is taught.
        min_foreground: An image teaches only if its mask has at least this foreground share ...
        max_foreground: ... and at most this one: the others are failures more often than not.
        seed: Of the network's first weights, of the order of cells and of the silent units.
    """

    folds: int = 3
    hidden: int = 64
    epochs: int = 8
    batch_cells: int = 3072
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    dropout: float = 0.3
    clip: float = 6.0
    most_images: int = 150
    least_images: int = 6
    min_foreground: float = 0.02
    max_foreground: float = 0.8
    seed: int = 0


@dataclass(frozen=True)
class CellNetwork:
    """A network of one hidden layer over the descriptors of a cell.

    Args:
        hidden_weights: Shape (C, H), float32.
        hidden_bias: Shape (H,), float32.
        weights: Shape (H,), float32.
        bias: Of the answer.
    """

    hidden_weights: np.ndarray
    hidden_bias: np.ndarray
    weights: np.ndarray
    bias: float

    def __call__(self, cells: np.ndarray) -> np.ndarray:
        """Log-odds for the foreground. ``cells``: (..., C), standardised -> (...), float32."""
        hidden = np.maximum(cells.astype(np.float32) @ self.hidden_weights + self.hidden_bias, 0)
        return hidden @ self.weights + np.float32(self.bias)


def fold_numbers(contents: Sequence[str], folds: int) -> list[int]:
    """The fold of each image: equal images share one, the others are dealt out evenly.

    Args:
        contents: What tells the images' contents apart, such as digests; the fold depends on nothing else, neither on
            the order of the group nor on its names.
        folds: Number of folds.
    """
    dealt = {content: number % folds for number, content in enumerate(sorted(set(contents)))}
    return [dealt[content] for content in contents]


def teaches(target: np.ndarray, settings: TeachSettings) -> bool:
    """Whether an image's mask is of a size to learn from. ``target``: (h, w), foreground share of each cell."""
    return settings.min_foreground <= float(target.mean()) <= settings.max_foreground


def learn_cells(cells: np.ndarray, targets: np.ndarray, settings: TeachSettings) -> CellNetwork:
    """Learn to tell foreground cells from background cells.

    The same cells in the same order give the same network, whatever else runs: one thread, and a random generator
    of its own.

    Args:
        cells: Standardised descriptors, within ``settings.clip``. Shape (N, C), float16 or float32.
        targets: How much of each cell is foreground. Shape (N,), float, in [0, 1].
        settings: Size of the network and length of the training.

    Returns:
        The network.
    """
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        random = torch.Generator().manual_seed(settings.seed)
        channels, hidden = cells.shape[1], settings.hidden
        parameters = [
            _uniform((channels, hidden), channels, random),
            _uniform((hidden,), channels, random),
            _uniform((hidden,), hidden, random),
            _uniform((), hidden, random),
        ]
        batches = max(1, round(len(cells) / settings.batch_cells))
        optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, total_steps=max(2, settings.epochs * batches)
        )
        with warnings.catch_warnings():
            # A worker maps the cells read-only; nothing writes to them.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            values = torch.from_numpy(cells)
        wanted = torch.from_numpy(targets.astype(np.float32))
        for _ in range(settings.epochs):
            for chosen in torch.randperm(len(cells), generator=random).tensor_split(batches):
                inside = torch.relu(values[chosen].float() @ parameters[0] + parameters[1])
                awake = torch.rand(inside.shape, generator=random) >= settings.dropout
                logits = (inside * awake / (1 - settings.dropout)) @ parameters[2] + parameters[3]
                loss = binary_cross_entropy_with_logits(logits, wanted[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        first, bias, second, last = (parameter.detach().numpy() for parameter in parameters)
        return CellNetwork(first, bias, second, float(last))
    finally:
        torch.set_num_threads(threads)


def _uniform(shape: tuple[int, ...], inputs: int, random: object) -> Tensor:
    """Weights as torch's own linear layers begin: uniform within 1 / sqrt(inputs)."""
    import torch

    values = torch.rand(shape, generator=random) * 2 - 1  # type: ignore[call-overload]
    return (values / np.sqrt(inputs)).requires_grad_()


def teach_group(
    read_cells: Callable[[int], np.ndarray],
    targets: Sequence[np.ndarray],
    contents: Sequence[str],
    settings: TeachSettings,
    workers: int | None = None,
) -> list[CellNetwork | None]:
    """One network a fold, learned from the images of the other folds.

    Args:
        read_cells: Position of an image -> its standardised descriptors, (h, w, C) float, within ``settings.clip``.
        targets: Foreground share of each cell of each image. Each (h, w), float, in [0, 1].
        contents: See ``fold_numbers``.
        settings: How to teach.
        workers: Worker processes; ``None`` for one a processor. The networks do not depend on it.

    Returns:
        For each image the network to ask about it; ``None`` where there is too little to learn from: in a small group,
        one of equal images, or one whose masks are all too small or too large.
    """
    if settings.folds < 2:
        return [None] * len(targets)
    numbers = fold_numbers(contents, settings.folds)
    lessons = []
    for fold in range(settings.folds):
        teachers = [i for i in range(len(targets)) if numbers[i] != fold and teaches(targets[i], settings)]
        # By content, so that the choice among many does not depend on their order.
        teachers.sort(key=lambda i: contents[i])
        lessons.append(_evenly(teachers, settings.most_images))
    able = [fold for fold, lesson in enumerate(lessons) if len(lesson) >= settings.least_images]
    small = sum(targets[i].size for fold in able for i in lessons[fold]) < 20_000
    packed = (_pack(read_cells, targets, lessons[fold]) for fold in able)
    networks = map_images(partial(_learn, settings=settings), packed, workers=1 if small else workers, local=True)
    by_fold = dict(zip(able, networks, strict=True))
    return [by_fold.get(number) for number in numbers]


def _pack(
    read_cells: Callable[[int], np.ndarray], targets: Sequence[np.ndarray], lesson: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    cells = [read_cells(position) for position in lesson]
    flat = [values.reshape(-1, values.shape[-1]).astype(np.float16) for values in cells]
    return np.concatenate(flat), np.concatenate([targets[position].ravel() for position in lesson])


def _learn(lesson: tuple[np.ndarray, np.ndarray], settings: TeachSettings) -> CellNetwork:
    return learn_cells(*lesson, settings)


def _evenly(items: Sequence[int], most: int) -> list[int]:
    if len(items) <= most:
        return list(items)
    return [items[int(place)] for place in np.linspace(0, len(items) - 1, most).round()]
