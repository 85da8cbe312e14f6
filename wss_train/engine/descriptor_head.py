"""Training the head on descriptors: of cells of the web's images by their masks, of the target's by their labels.

The backbone stays as it is, so that it describes each image once, and an iteration costs milliseconds. What it says of
a cell at two depths is what the engine ``common`` co-segments with; here one network learns from the masks of all
groups at once, so that what chairs share with tables is neither.

The target's images have no masks. Their labels say which classes must be somewhere and which are nowhere: the mean
probability of a class over the tenth of an image's cells that show it most is to be high or low. That alone finds
objects by what goes along with them (cows by grass), so a class is taught by labels only as far as the web's masks
failed to teach it: by the square of how much is missing in its images to a probability of 1, as measured with a head
that has learned from the masks alone. No truth is looked at.

Source:
    Ours. Image-level labels as constraints on what a network says somewhere in an image: Pinheiro and Collobert,
    *From image-level to pixel-level labeling with convolutional networks*, CVPR 2015; Pathak et al., *Constrained
    convolutional neural networks for weakly supervised segmentation*, ICCV 2015.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from wss_data.cosegmentation.features import DescriptorNetwork
from wss_data.errors import RecipeError, TrainingDataError
from wss_data.imaging.images import read_image
from wss_train.data import CELLS, image_weights, read_class_mask
from wss_train.engine.loop import Run, seed_of
from wss_train.models import DescriptorHead, SegmentationModel

CELLS_AN_IMAGE = 192  # that are kept of each image, drawn at random: a quarter of those of an image of 512 x 384
FEW_CELLS = 1_000_000  # kept of all images together where that is more: few images are learned by heart otherwise
MOST_CELLS = 6_000_000  # kept of all images together: some 6 GB with EfficientNet-Lite2
CELLS_AN_ITERATION = 4096  # with a mask
IMAGES_AN_ITERATION, CELLS_A_LABELLED = 16, 128  # with labels alone, and how many of each one's cells
SHOWN_MOST = 0.1  # fraction of an image's cells in which a class that it shows is expected
ENOUGH = 0.5  # probability there from which on a class counts as found


class Cells(NamedTuple):
    """Cells of some images that were drawn to learn from."""

    descriptors: Tensor  # Shape (N, D), float16.
    masks: Tensor  # How much of a cell is of each class, 0 in void. Shape (N, C + 1), float16.
    weights: Tensor  # How much a cell counts. Shape (N,), float32.
    images: Tensor  # First cell of each image, and the end. Shape (images + 1,), int64.


def train_descriptor_head(run: Run, model: SegmentationModel, device: torch.device) -> Mapping[str, Tensor]:
    """Train the head of a model with ``head=descriptors``, and return the model's weights.

    Args:
        run: What is trained; images without a mask teach by their labels.
        model: The network; its backbone stays as it is.
        device: Where images are described.

    Raises:
        TrainingDataError: If no image with a mask can teach.
        RecipeError: If the loss stops being a number.
    """
    table, recipe = run.table, run.card.recipe
    with_mask = [row for row, path in enumerate(table.mask_paths) if path is not None]
    labelled = [row for row, path in enumerate(table.mask_paths) if path is None] if recipe.label_weight else []
    if not with_mask:
        raise TrainingDataError(f"{table.source or 'the table'} holds no image with a mask to learn from.")
    cells = describe(run, [*with_mask, *labelled], device)
    taught, shown = cells_of(cells, range(len(with_mask))), cells_of(cells, range(len(with_mask), len(table)))
    labels = torch.from_numpy(np.asarray(table.labels[labelled], np.float32))
    head = model.head
    assert isinstance(head, DescriptorHead), "a model with head=descriptors"
    # Of all that it will see, also of the target's images.
    mean, deviation = statistics(cells.descriptors)
    head.mean.copy_(mean)
    head.scale.copy_(1 / deviation.clamp(min=1e-3))
    first = {name: value.clone() for name, value in head.state_dict().items()}
    fit_head(run, head, taught)
    if labelled:
        found = presence(head, shown, labels)
        run.say(
            "found in the target's images by the web's masks alone: "
            + ", ".join(f"{name} {value:.2f}" for name, value in zip(table.classes, found.tolist(), strict=True))
        )
        head.load_state_dict(first)
        fit_head(run, head, taught, shown, labels, (1 - found).square() * recipe.label_weight)
    return model.state_dict()


def describe(run: Run, rows: Sequence[int], device: torch.device) -> Cells:
    """Describe images, and keep some cells of each, drawn at random from the recipe's seed."""
    table, recipe = run.table, run.card.recipe
    weights = None if recipe.weights == "imagenet" else recipe.weights
    network = DescriptorNetwork(
        recipe.long_side, "float32" if recipe.precision == "float32" else "auto", recipe.backbone, weights, str(device)
    )
    counted = image_weights(table, recipe.image_weighting)
    counted = np.ones(len(table), np.float32) if counted is None else counted
    if recipe.balanced_sampling:
        # As often as it would be drawn if all classes came equally often, and images without one like one of them.
        groups = np.column_stack([table.labels, ~table.labels.any(axis=1)])
        often = groups / np.maximum(groups.sum(axis=0), 1)
        counted = counted * often.max(axis=1) * len(table) / np.count_nonzero(groups.any(axis=0))
    most = min(max(CELLS_AN_IMAGE, FEW_CELLS // len(rows)), max(16, MOST_CELLS // len(rows)))
    descriptors, masks, counts = torch.empty(0), [], [0]
    images = (read_image(table.image_paths[row]) for row in rows)
    described = network.describe_all(images)
    bar = tqdm(described, total=len(rows), desc="describe", unit="image", disable=not run.progress)
    for row, (image, features) in zip(rows, bar, strict=True):
        maps = np.concatenate([features.middle, features.descriptors], axis=-1)
        size = maps.shape[1], maps.shape[0]
        random = np.random.default_rng(seed_of(recipe.seed, CELLS, row))
        if not len(descriptors):  # all at once: joining them in the end would take twice the memory
            most = min(most, (max(size) + 1) ** 2)  # all images are brought to one long side
            descriptors = torch.empty(len(rows) * most, maps.shape[-1], dtype=torch.float16)
        chosen = random.permutation(size[0] * size[1])[:most]
        counts.append(counts[-1] + len(chosen))
        descriptors[counts[-2] : counts[-1]] = torch.from_numpy(maps.reshape(-1, maps.shape[-1])[chosen])
        fractions = np.zeros((len(chosen), table.num_classes), np.float16)
        if table.mask_paths[row] is not None:
            mask = read_class_mask(table, row, (image.shape[1], image.shape[0]))
            for value in np.unique(mask[mask < table.num_classes]):
                on_cells = cv2.resize((mask == value).astype(np.float32), size, interpolation=cv2.INTER_AREA)
                fractions[:, value] = on_cells.ravel()[chosen]
        masks.append(torch.from_numpy(fractions))
    ends = torch.tensor(counts)
    weights_of_cells = torch.from_numpy(counted[list(rows)]).repeat_interleave(ends.diff())
    return Cells(descriptors[: counts[-1]], torch.cat(masks), weights_of_cells.float(), ends)


def statistics(descriptors: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, (N, D), float16 -> (D,) each, float64."""
    # Part by part: all at once in float32 would take twice as much memory as the descriptors, three times over.
    total, squares = torch.zeros(2, descriptors.shape[1], dtype=torch.float64)
    for part in descriptors.split(65_536):
        total += part.double().sum(dim=0)
        squares += part.double().square().sum(dim=0)
    mean = total / len(descriptors)
    return mean, (squares / len(descriptors) - mean.square()).clamp(min=0).sqrt()


def cells_of(cells: Cells, images: range) -> Cells:
    """Cells of a run of images."""
    start, stop = int(cells.images[images.start]), int(cells.images[images.stop])
    part = slice(start, stop)
    ends = cells.images[images.start : images.stop + 1] - start
    return Cells(cells.descriptors[part], cells.masks[part], cells.weights[part], ends)


def shown_most(probabilities: Tensor) -> Tensor:
    """Mean probability of each class over the tenth of an image's cells that show it most, at least one.

    >>> cells = torch.tensor([[0.75, 0.25]] * 18 + [[0.5, 0.5], [0.0, 1.0]])  # background and a class, 20 cells
    >>> shown_most(cells[None]).tolist()  # of two cells
    [[0.75]]

    ``probabilities``: (N, cells, C + 1), background first -> (N, C).
    """
    count = max(1, int(SHOWN_MOST * probabilities.shape[1]))
    return probabilities[..., 1:].topk(count, dim=1).values.mean(dim=1)


def label_loss(found: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """What labels say against what was found: shown classes are to reach ``ENOUGH``, the others nothing.

    >>> found, labels = torch.tensor([[0.5, 0.25, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    >>> round(float(label_loss(found, labels, torch.ones(3))), 3)  # the second lacks a factor of 2: log 2
    0.693

    Args:
        found: See ``shown_most``. Shape (N, C).
        labels: Which classes each image shows, 0 or 1. Shape (N, C), float.
        weights: How much each class counts. Shape (C,).

    Returns:
        At least 0; summed over the classes, averaged over the images. Shape ().
    """
    found = found.clamp(1e-4, 1 - 1e-4)
    missing = labels * (ENOUGH / found).log().clamp(min=0)
    extra = -(1 - labels) * (1 - found).log()
    return ((missing + extra) * weights).sum(dim=1).mean()


@torch.inference_mode()
def presence(head: DescriptorHead, cells: Cells, labels: Tensor) -> Tensor:
    """Mean of ``shown_most`` of each class over the images that show it; 1, nothing is missing, without any. (C,)."""
    head.eval()
    found = torch.cat(
        [
            shown_most(head(cells.descriptors[start:stop].float()).softmax(dim=1)[None])
            for start, stop in zip(cells.images[:-1].tolist(), cells.images[1:].tolist(), strict=True)
        ]
    )
    return torch.where(labels.sum(0) > 0, (found * labels).sum(0) / labels.sum(0).clamp(min=1), 1.0)


def fit_head(
    run: Run,
    head: DescriptorHead,
    taught: Cells,
    shown: Cells | None = None,
    labels: Tensor | None = None,
    class_weights: Tensor | None = None,
) -> None:
    """Train a head from where it stands; ``shown``, ``labels`` and ``class_weights`` are given together or not.

    Every random number is drawn from the recipe's seed. The number of threads changes nothing but rounding.
    """
    recipe = run.card.recipe
    random = torch.Generator().manual_seed(seed_of(recipe.seed, CELLS, 2**31))
    steps, done = run.card.iterations, 0
    optimizer = torch.optim.AdamW(head.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=max(2, steps))
    order, bar = torch.empty(0, dtype=torch.int64), tqdm(total=steps, desc="head", unit="it", disable=not run.progress)
    head.train()
    with bar, torch.random.fork_rng([]):
        torch.manual_seed(seed_of(recipe.seed, CELLS, 2**31 + 1))  # for dropout
        while done < steps:
            picked = torch.randint(len(taught.descriptors), (CELLS_AN_ITERATION,), generator=random)
            cells = [taught.descriptors[picked]]
            if shown is not None:
                if len(order) < IMAGES_AN_ITERATION:
                    order = torch.cat([order, torch.randperm(len(shown.images) - 1, generator=random)])
                images, order = order[:IMAGES_AN_ITERATION], order[IMAGES_AN_ITERATION:]
                starts, counts = shown.images[images], shown.images[images + 1] - shown.images[images]
                within = (torch.rand(len(images), CELLS_A_LABELLED, generator=random) * counts[:, None]).long()
                cells.append(shown.descriptors[(starts[:, None] + within).flatten()])
            inputs = torch.cat(cells).float()
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision != "float32"):
                logits = head(inputs)
            logits, taken = logits.float(), taught.weights[picked]
            masks = taught.masks[picked].float()
            losses = -(masks * logits[: len(picked)].log_softmax(dim=1)).sum(dim=1)
            loss = (losses * taken).sum() / (masks.sum(dim=1) * taken).sum().clamp(min=1e-6)
            if shown is not None:
                assert labels is not None and class_weights is not None, "given together"
                found = shown_most(logits[len(picked) :].softmax(dim=1).unflatten(0, (len(images), -1)))
                loss = loss + label_loss(found, labels[images], class_weights)
            if not torch.isfinite(loss):
                raise RecipeError(
                    f"training stopped at iteration {done}: the loss is no longer a finite number. Lower learning_rate "
                    "(--set generator.learning_rate=...)."
                )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            done += 1
            bar.update()
            if done % 10 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}")
    head.eval()
