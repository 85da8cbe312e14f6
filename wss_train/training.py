"""The one training loop, for the mask generator and the final model alike.

A run folder holds ``run.json`` (what makes it this run), ``recipe.json``,
``data.json``, ``ledger.json``, ``metrics.csv``, ``tensorboard/``, ``checkpoints/``
and, at the end, ``model.safetensors`` and ``model.json``. The same call on the same
folder goes on where the last one stopped.

Every iteration draws its random numbers from (seed, iteration) alone, so a run
that was killed and resumed ends, on a CPU, in the same weights bit for bit.

Source:
    Shen et al., BMVC 2017, sections 3.2, 3.3 and 4.2.
"""

import hashlib
import json
import logging
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from tqdm import tqdm

from wss_data.errors import CheckpointError, RecipeError
from wss_data.files import write_json
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.records import ExampleTable
from wss_train.checkpoints import (
    MODEL_FILE,
    ModelCard,
    TrainingState,
    clear_unfinished,
    find_model,
    read_card,
    read_training_state,
    read_weights,
    training_states,
    write_model,
    write_training_state,
)
from wss_train.data import Batch, DataSummary, TrainingDraws, as_table, batches, check_training_table
from wss_train.losses import at_one_resolution, classes_in_masks, multilabel_loss, segmentation_loss, total_loss
from wss_train.metrics_log import MetricsLog
from wss_train.models import SegmentationModel, build_model, load_weights, usable_precision, weights_ledger_entry
from wss_train.recipes import Kind, TrainRecipe, as_recipe

if TYPE_CHECKING:
    from wss_train.data import Examples

_INITIAL, _ITERATION = 2, 3
"""Names of the streams of random numbers, beside those of ``wss_train.data``."""

LOG_EVERY = 10
"""Iterations between two looks at the loss: each look waits for the device."""


def train_generator(
    web: "Examples",
    out: Path | str,
    recipe: TrainRecipe | str = "cpu",
    mask_field: str = "cosegmentation",
    **options: Any,
) -> Path:
    """Train the mask generator on web images and their co-segmentation masks.

    Args:
        web: FiftyOne dataset or view, such as ``dataset.match_tags("kept")``, or a table.
        out: Run folder.
        recipe: Recipe, or the name of a preset.
        mask_field: Field with the masks to learn from.
        **options: See ``train``.

    Returns:
        The run folder.

    Source:
        Shen et al., BMVC 2017, section 3.2.
    """
    return train(as_table(web, mask_field), recipe, out, "generator", **options)


def train_final(
    target: "Examples",
    out: Path | str,
    recipe: TrainRecipe | str = "cpu",
    mask_field: str = "pseudo_mask",
    multilabel: bool = True,
    **options: Any,
) -> Path:
    """Train the final model on target images, their image-level labels and the masks made from them.

    Args:
        target: FiftyOne dataset or view, such as ``target.match_tags("train")``, or a table.
        out: Run folder.
        recipe: Recipe, or the name of a preset.
        mask_field: Field with the masks to learn from.
        multilabel: Whether the network has the multi-label branch.
        **options: See ``train``.

    Returns:
        The run folder.

    Source:
        Shen et al., BMVC 2017, section 3.3.
    """
    return train(as_table(target, mask_field), recipe, out, "final", multilabel=multilabel, **options)


def train(
    table: ExampleTable,
    recipe: TrainRecipe | str,
    out: Path | str,
    kind: Kind = "generator",
    *,
    multilabel: bool | None = None,
    init: Path | str | None = None,
    device: str | None = None,
    workers: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> Path:
    """Train a network, or finish a run that was stopped.

    Args:
        table: Images with masks, and labels where the branch learns from them.
        recipe: Recipe, or the name of a preset.
        out: Run folder. If it holds an unfinished run of the same recipe and data, that one goes on; a finished one is
            left as it is.
        kind: Which of the two networks; decides the number of iterations.
        multilabel: Whether to add the multi-label branch; ``None`` for the recipe's choice (a generator has none).
        init: Checkpoint to start from in place of ImageNet weights alone.
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``None`` for the GPU if there is one.
        workers: Threads that read images ahead; 0 reads in between. ``None`` for 1, and 8 with a GPU.
        progress: Show what will happen, and a bar.
        overwrite: Throw away another run that the folder holds.

    Returns:
        The run folder.

    Raises:
        RecipeError: If the loss stops being a number; the last good checkpoint stays.
        TrainingDataError: If the table cannot teach.
        CheckpointError: If the folder holds another run, or a checkpoint is damaged.
        WssError: If the backbone's weights cannot be had.
    """
    recipe, out = as_recipe(recipe), Path(out)
    if multilabel is None:
        multilabel = kind == "final" and recipe.multilabel
    target_device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    summary = check_training_table(table, multilabel and recipe.branch_target == "image_labels")
    ledger = _ledger(table, recipe, multilabel, init)
    card = ModelCard(kind, table.classes, recipe, recipe.iterations(kind), multilabel, ledger)

    identity = _identity(card, summary, init)
    goes_on = _holds_this_run(out, identity, overwrite)
    if goes_on and (out / "model.json").is_file() and (out / MODEL_FILE).is_file():
        _say(progress, f"{out}: this run has already ended; nothing to do.")
        return out
    # The caller's own random numbers go on as if nothing had happened.
    cuda_devices = [target_device.index or 0] if target_device.type == "cuda" else []
    with torch.random.fork_rng(cuda_devices):
        states = training_states(out) if goes_on else []
        torch.manual_seed(_seed(recipe.seed, _INITIAL, 0))
        # Before the folder is touched: weights that cannot be had leave nothing half made.
        model = build_model(recipe, card.num_classes, card.multilabel, pretrained=not states)
        if not goes_on:
            _clear_folder(out)
            write_json(out / "run.json", identity)
        for name, value in (("recipe", recipe.to_dict()), ("data", asdict(summary)), ("ledger", ledger.to_dict())):
            write_json(out / f"{name}.json", value)
        clear_unfinished(out)
        _run(model, states, table, card, summary, out, init, target_device, workers, progress)
    return out


def learning_rate(recipe: TrainRecipe, kind: Kind, iteration: int) -> float:
    """Learning rate of the pretrained layers in an iteration, counted from 0.

    Source:
        Shen et al., BMVC 2017, section 4.2 (``step``); Chen et al., TPAMI 2018 (``poly``).
    """
    iterations = recipe.iterations(kind)
    if recipe.rate_policy == "poly":
        return recipe.learning_rate * (1.0 - iteration / iterations) ** recipe.poly_power
    low = iteration >= iterations - recipe.low_rate_iterations(kind)
    return recipe.learning_rate * (recipe.low_rate_factor if low else 1.0)


def parameter_groups(model: SegmentationModel) -> list[dict[str, Any]]:
    """The optimizer's groups: pretrained layers, weights of new layers, biases of new layers.

    Each carries ``rate_factor``, by which the learning rate is multiplied, and its ``weight_decay``.
    """
    recipe = model.recipe
    new = dict(model.new_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [], "rate_factor": 1.0, "weight_decay": recipe.weight_decay},
        {"params": [], "rate_factor": recipe.new_layer_rate_factor, "weight_decay": recipe.weight_decay},
        {
            "params": [],
            "rate_factor": recipe.new_layer_rate_factor * recipe.new_bias_rate_factor,
            "weight_decay": recipe.weight_decay if recipe.decay_new_biases else 0.0,
        },
    ]
    for name, parameter in model.named_parameters():
        groups[0 if name not in new else 2 if name.endswith("bias") else 1]["params"].append(parameter)
    return groups


def make_optimizer(model: SegmentationModel) -> torch.optim.Optimizer:
    """The optimizer that the model's recipe asks for."""
    recipe, groups = model.recipe, parameter_groups(model)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate)
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)


def losses_of_batch(
    model: torch.nn.Module, batch: Batch, recipe: TrainRecipe, num_classes: int, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The losses of one batch of normalised images.

    Returns:
        Eq. 4, eq. 1 and eq. 3; the last is ``None`` without the branch. Each of shape ().
    """
    output = model(batch.images)
    logits, masks = at_one_resolution(output.pixel_logits, batch.masks, recipe.loss_resolution)
    segmentation = segmentation_loss(logits, masks, ignore_index)
    multilabel = None
    if output.class_logits is not None:
        from_masks = recipe.branch_target == "mask_classes"
        labels = classes_in_masks(batch.masks, num_classes) if from_masks else batch.labels
        multilabel = multilabel_loss(output.class_logits, labels)
    return total_loss(segmentation, multilabel, recipe.multilabel_weight), segmentation, multilabel


def _run(
    model: SegmentationModel,
    states: Sequence[Path],
    table: ExampleTable,
    card: ModelCard,
    summary: DataSummary,
    out: Path,
    init: Path | str | None,
    device: torch.device,
    workers: int | None,
    progress: bool,
) -> None:
    recipe, kind = card.recipe, card.kind
    start = 0
    optimizer_tensors: Mapping[str, Tensor] = {}
    if states:
        state = read_training_state(states[-1])
        load_weights(model, state.weights, str(states[-1]))
        start, optimizer_tensors = state.iteration, state.optimizer
    elif init is not None:
        _start_from(model, init)
    model = model.to(device)
    optimizer = make_optimizer(model)
    _load_optimizer(optimizer, optimizer_tensors)

    precision = usable_precision(recipe.precision, device)
    if workers is None:
        workers = 8 if device.type == "cuda" else 1
    for line in _plan(model, card, summary, out, device, precision, start):
        _say(progress, line)

    # It announces the precision, which the plan above has just said.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    accelerator_devices: Any = [device.index or 0] if device.type == "cuda" else 1
    fabric = Fabric(
        accelerator=device.type,
        devices=accelerator_devices,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    wrapped, wrapped_optimizer = fabric.setup(model, optimizer, move_to_device=False)
    wrapped.train()

    def checkpoint(done: int) -> None:
        if not all(torch.isfinite(p).all() for p in model.parameters()):
            raise _diverged(done, out)
        state = TrainingState(done, model.state_dict(), _optimizer_tensors(optimizer))
        write_training_state(state, card, out, recipe.keep_checkpoints)

    last = card.iterations
    restart_at = last - recipe.low_rate_iterations(kind) if recipe.rate_policy == "restart" else None
    source = batches(TrainingDraws(table, recipe), recipe.batch, start, last, workers)
    bar = tqdm(
        total=last,
        initial=start,
        desc=kind,
        unit="it",
        disable=not progress,
        dynamic_ncols=True,
        # A log file wants a line now and then, a terminal a bar that moves.
        mininterval=0.5 if sys.stderr.isatty() else 10.0,
    )
    with MetricsLog(out, start) as log, bar:
        waiting: list[tuple[int, float, Tensor, Tensor, Tensor | None]] = []
        clock = time.perf_counter()
        for iteration, cpu_batch in enumerate(source, start):
            batch = cpu_batch.to(device)
            # Dropout draws from (seed, iteration), not from what went before.
            torch.manual_seed(_seed(recipe.seed, _ITERATION, iteration))
            if iteration == restart_at:
                optimizer.state.clear()
            rate = learning_rate(recipe, kind, iteration)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["rate_factor"]

            batch = Batch(model.normalise(batch.images), batch.masks, batch.labels, batch.ids)
            loss, segmentation, multilabel = losses_of_batch(
                wrapped, batch, recipe, card.num_classes, table.ignore_index
            )
            wrapped_optimizer.zero_grad()
            fabric.backward(loss)
            wrapped_optimizer.step()

            done = iteration + 1
            detached = None if multilabel is None else multilabel.detach()
            waiting.append((done, rate, loss.detach(), segmentation.detach(), detached))
            bar.update()
            due = done % recipe.checkpoint_every == 0 or done == last
            if due or done % LOG_EVERY == 0:
                seconds = (time.perf_counter() - clock) / len(waiting)
                mean_loss = _log(log, waiting, seconds, out)
                bar.set_postfix(loss=f"{mean_loss:.3f}")
                waiting, clock = [], time.perf_counter()
            if due:
                checkpoint(done)
    write_model(model.state_dict(), card, out)
    _say(progress, f"{kind} done: {out / MODEL_FILE}")


def _log(
    log: MetricsLog, waiting: list[tuple[int, float, Tensor, Tensor, Tensor | None]], seconds: float, out: Path
) -> float:
    """Write the rows that wait and return their mean loss; raise ``RecipeError`` at one that is no number."""
    losses = [float(row[2]) for row in waiting]
    for (done, rate, _, segmentation, multilabel), loss in zip(waiting, losses, strict=True):
        if not np.isfinite(loss):
            raise _diverged(done, out)
        log.write(done, loss, float(segmentation), None if multilabel is None else float(multilabel), rate, seconds)
    return sum(losses) / len(losses)


def _diverged(iteration: int, out: Path) -> RecipeError:
    states = training_states(out)
    kept = f"The last good checkpoint is {states[-1]}." if states else "There was no checkpoint yet."
    return RecipeError(
        f"training stopped at iteration {iteration}: the loss or a weight is no longer a finite number. {kept} "
        "Lower learning_rate (--set learning_rate=...) and train into another folder."
    )


def _plan(
    model: SegmentationModel,
    card: ModelCard,
    summary: DataSummary,
    out: Path,
    device: torch.device,
    precision: str,
    start: int,
) -> list[str]:
    """What will happen, in two or three lines."""
    recipe = card.recipe
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    branch = " + multi-label branch" if card.multilabel else ""
    epochs = card.iterations * recipe.batch / summary.images
    lines = [
        f"{card.kind}: {summary.images:,} images of {summary.source or 'a table'}, {len(card.classes)} classes "
        f"({', '.join(card.classes[:6])}{', ...' if len(card.classes) > 6 else ''})",
        f"{recipe.backbone} at stride {recipe.output_stride}{branch}, {parameters:.1f} M parameters; "
        f"{card.iterations:,} iterations of {recipe.batch} crops of {recipe.crop} px = {epochs:.1f} epochs; "
        f"{device}, {precision}; into {out}",
    ]
    if precision != recipe.precision:
        lines.append(f"{device} does not compute {recipe.precision}: training in {precision}, which is slower.")
    if start:
        lines.append(f"going on from iteration {start:,}")
    return lines


def _say(progress: bool, line: str) -> None:
    if progress:
        tqdm.write(line, file=sys.stderr)


def _seed(seed: int, stream: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, stream, number]).generate_state(1, np.uint64)[0])


def _ledger(table: ExampleTable, recipe: TrainRecipe, multilabel: bool, init: Path | str | None) -> Ledger:
    entry = weights_ledger_entry(recipe)
    ledger = Ledger((entry,) if entry else ()).merged_with(table.ledger)
    if init is not None:
        ledger = ledger.merged_with(read_card(init, table.classes).ledger)
    if multilabel and recipe.branch_target == "image_labels":
        what = f"image-level labels of {table.source or 'the training images'}"
        ledger = ledger.add(what, Supervision.IMAGE_LEVEL, UsedFor.TRAINING)
    return ledger


def _identity(card: ModelCard, summary: DataSummary, init: Path | str | None) -> dict[str, Any]:
    """What must agree for a stopped run to go on."""
    return {
        "kind": card.kind,
        "multilabel": card.multilabel,
        "init": None if init is None else hashlib.sha256(find_model(init).read_bytes()).hexdigest(),
        "data": summary.fingerprint,
        **{f"recipe.{name}": value for name, value in card.recipe.training_values().items()},
    }


_WRITTEN = ("checkpoints", "tensorboard", MODEL_FILE, "model.json", "metrics.csv")
"""What a run writes; nothing else in its folder is ever removed: it may hold the user's own files."""


def _holds_this_run(out: Path, identity: dict[str, Any], overwrite: bool) -> bool:
    """Whether the folder holds this very run, to go on with; refuses to touch another one."""
    file = out / "run.json"
    if overwrite:
        return False
    try:
        found = json.loads(file.read_text()) if file.is_file() else None
    except json.JSONDecodeError:
        found = {}
    if found is not None and found != identity:
        raise CheckpointError(f"{out}: {_difference(found, identity)} Choose another folder, or pass --overwrite.")
    foreign = [name for name in _WRITTEN if (out / name).exists()] if found is None else []
    if foreign:
        raise CheckpointError(
            f"{out}: the folder holds {', '.join(foreign)}, but no run that could go on. "
            "Choose another folder, or pass --overwrite to remove them."
        )
    return found is not None


def _clear_folder(out: Path) -> None:
    for path in (out / name for name in _WRITTEN):
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    different = [key for key in wanted if found.get(key) != wanted[key]]
    if different == ["data"]:
        return "the folder holds a run on other images, masks or labels."
    shown = [f"{key.removeprefix('recipe.')} {found.get(key)} there, {wanted[key]} now" for key in different[:4]]
    return f"the folder holds another run ({'; '.join(shown)})."


def _start_from(model: SegmentationModel, init: Path | str) -> None:
    """Load another model's weights; a branch that it lacks stays new, one that is not wanted is left out."""
    weights = read_weights(init)
    own = model.state_dict()
    taken = {name: weights.get(name, tensor) if name.startswith("branch.") else None for name, tensor in own.items()}
    others = {name: tensor for name, tensor in weights.items() if not name.startswith("branch.")}
    load_weights(model, {**{k: v for k, v in taken.items() if v is not None}, **others}, str(init))


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state, flat: ``<parameter number>.<name>`` -> tensor."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": value
        for number, values in state.items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put ``_optimizer_tensors`` back, each in its parameter's memory layout so that sums run in the same order."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        parameter = parameters[int(number)]
        if tensor.shape == parameter.shape and tensor.dim() > 0:
            tensor = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
        optimizer.state[parameter][name] = tensor
