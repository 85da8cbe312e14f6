"""Training the mask generator and the final model: what a run is, and where it goes on.

A run folder holds ``run.json`` (what makes it this run), ``recipe.json``, ``data.json``, ``ledger.json``,
``metrics.csv``, ``tensorboard/``, ``checkpoints/`` and, at the end, ``model.safetensors`` and ``model.json``. The same
call on the same folder goes on where the last one stopped.

Source:
    Shen et al., BMVC 2017, sections 3.2, 3.3 and 4.2.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import torch

from wss_data.backbones.weights import load_weights
from wss_data.errors import CheckpointError, RecipeError, shown
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.reading import checked
from wss_data.reading.settings import only_known
from wss_data.records import ExampleTable
from wss_data.runtime.files import digest_of, is_ours, output_folder, remove_tables, write_json
from wss_data.runtime.home import read_for_long
from wss_train.checkpoints import (
    MODEL_FILE,
    ModelCard,
    clear_unfinished,
    find_model,
    read_card,
    read_shapes,
    read_training_state,
    read_weights,
    training_states,
    write_model,
)
from wss_train.data import INITIAL_WEIGHTS, DataSummary, as_table, check_training_table, class_problems, with_labelled
from wss_train.engine.descriptor_head import train_descriptor_head
from wss_train.engine.loop import Run, run_loop, seed_of
from wss_train.engine.processes import from_first, place
from wss_train.engine.step import training_precision
from wss_train.inference import device_of
from wss_train.model_card import write_model_readme
from wss_train.models import SegmentationModel, build_model, check_shapes, weights_ledger_entry
from wss_train.recipes import Kind, TrainRecipe, as_recipe, without_removed
from wss_train.selection.selection import FILES as SELECTION_FILES
from wss_train.selection.selection import (
    LOOKS,
    REPORT,
    SNAPSHOTS,
    Select,
    Selection,
    SelectionSettings,
    Selector,
    plan_selection,
)

if TYPE_CHECKING:
    from wss_train.data import Examples


class RunOptions(TypedDict, total=False):
    """Where and how a training runs: nothing of it changes the weights.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``None`` for the GPU if there is one. With several processes each
            takes the GPU of its own number.
        workers: Threads that read images ahead, in each process; 0 reads in between. ``None`` for 1, and 8 with a GPU.
        progress: Show what will happen, and a bar.
        overwrite: Throw away another run that the folder holds; files that no run wrote stay.
    """

    device: str | None
    workers: int | None
    progress: bool
    overwrite: bool


class TrainOptions(RunOptions, total=False):
    """``RunOptions``, and where the weights begin.

    Args:
        init: Run folder or ``model.safetensors`` whose weights training starts from, in place of ImageNet's alone: to
            train for longer, or on other images. The learning rate begins anew, as the recipe says.
    """

    init: Path | str | None


def train_generator(
    web: "Examples",
    out: Path | str,
    recipe: TrainRecipe | str = "cpu",
    mask_field: str = "cosegmentation",
    select: Select = "last",
    target: "Examples | None" = None,
    settings: SelectionSettings | None = None,
    **options: Unpack[TrainOptions],
) -> Path:
    """Train the mask generator on web images and their co-segmentation masks.

    Args:
        web: FiftyOne dataset or view, such as ``dataset.match_tags("kept")``, or a table.
        out: Run folder.
        recipe: Recipe, or the name of a preset.
        mask_field: Field with the masks to learn from.
        select: What chooses the model: ``last`` takes the last state; see ``wss_train.selection.selection``.
        target: For ``labels``, and for a recipe with ``label_weight``: target images with labels, such as
            ``target.match_tags("train")``.
        settings: How to look; ``None`` for the defaults.
        **options: See ``TrainOptions``.

    Returns:
        The run folder.

    Source:
        Shen et al., BMVC 2017, section 3.2.
    """
    recipe = as_recipe(recipe).of("generator")
    table, selection = from_first(
        lambda: plan_selection(select, as_table(web, mask_field), recipe, "generator", target, settings)
    )
    if recipe.label_weight:
        if target is None:
            raise RecipeError(
                f"recipe: label_weight is {recipe.label_weight}, and there is no target whose labels could teach. "
                "Name one (--target), or set label_weight=0."
            )
        table = from_first(lambda: with_labelled(table, as_table(target, None)))
    return train(table, recipe, out, "generator", selection=selection, **options)


def train_final(
    target: "Examples",
    out: Path | str,
    recipe: TrainRecipe | str = "cpu",
    mask_field: str = "pseudo_mask",
    multilabel: bool = True,
    select: Select = "last",
    settings: SelectionSettings | None = None,
    **options: Unpack[TrainOptions],
) -> Path:
    """Train the final model on target images, their image-level labels and the masks made from them.

    All but ``multilabel``, whether the network has the multi-label branch, is as in ``train_generator``.

    Source:
        Shen et al., BMVC 2017, section 3.3.
    """
    recipe = as_recipe(recipe)
    table, selection = from_first(
        lambda: plan_selection(select, as_table(target, mask_field), recipe, "final", settings=settings)
    )
    return train(table, recipe, out, "final", multilabel=multilabel, selection=selection, **options)


def train(
    table: ExampleTable,
    recipe: TrainRecipe | str,
    out: Path | str,
    kind: Kind = "generator",
    *,
    multilabel: bool | None = None,
    selection: Selection | None = None,
    **options: Unpack[TrainOptions],
) -> Path:
    """Train a network, or finish a run that was stopped.

    Where torchrun has started several processes, each calls this and trains on its part of every batch; all of them
    must see the run folder. The result is that of one process but for rounding, and for what dropout draws.

    Args:
        table: Images with masks, and labels where the branch learns from them.
        recipe: Recipe, or the name of a preset.
        out: Run folder. An unfinished run of the same recipe and data in it goes on; a finished one stays as it is.
        kind: Which of the two networks; decides the number of iterations.
        multilabel: Whether to add the multi-label branch; ``None`` for the recipe's choice (a generator has none).
        selection: What looks at the network now and then, and may stop the run or choose one of its states.
        **options: See ``TrainOptions``.

    Returns:
        The run folder.

    Raises:
        RecipeError: If the loss stops being a number; the last good checkpoint stays. If ``batch`` cannot be divided
            by the number of processes times ``accumulate``.
        TrainingDataError: If the table cannot teach.
        CheckpointError: If the folder holds another run, files of somebody else, or a damaged checkpoint.
        BusyError: If another process trains in the folder.
        WssError: If the backbone's weights cannot be had.
    """
    only_known(options, TrainOptions)
    init = options.get("init")
    recipe, out, here = as_recipe(recipe).of(kind), Path(out), place()
    if multilabel is None:
        multilabel = kind == "final" and recipe.multilabel
    if recipe.batch % (here.world * recipe.accumulate):
        raise RecipeError(
            f"batch is {recipe.batch}; {here.world} processes with accumulate={recipe.accumulate} want a multiple of "
            f"{here.world * recipe.accumulate}. Set batch or accumulate, or start another number of processes."
        )
    device = device_of(options.get("device"))
    if here.world > 1 and device.type == "cuda":
        device = torch.device("cuda", here.local_rank)
    if init is not None:
        _check_init(init, recipe, out)
    needs_labels = multilabel and recipe.branch_target == "image_labels"
    if recipe.head == "descriptors":
        _check_descriptors(recipe, kind, multilabel, selection, init)
    labels_teach = recipe.label_weight > 0
    summary = from_first(lambda: check_training_table(table, needs_labels, labels_teach))
    ledger = _ledger(table, recipe, needs_labels or labels_teach, init)
    if selection is not None:
        ledger = ledger.merged_with(selection.ledger)
    card = ModelCard(kind, table.classes, recipe, recipe.iterations(kind), multilabel, ledger)
    workers = options.get("workers")
    if workers is None:
        workers = 8 if device.type == "cuda" else 1
    run = Run(table, card, out, workers, options.get("progress", True) and here.first)
    identity = _identity(card, summary, init, selection)
    files = [str(path) for path in (*table.image_paths, *(table.mask_paths or ())) if path]
    with ExitStack() as owner:
        # By the first process alone: all that torchrun has started are one owner.
        from_first(lambda: owner.enter_context(output_folder(out)) and None)  # its handle cannot be sent to the others
        from_first(lambda: owner.enter_context(read_for_long(files)))
        goes_on, states = from_first(lambda: _found(out, identity, options.get("overwrite", False)))
        if goes_on and (out / "model.json").is_file() and (out / MODEL_FILE).is_file():
            run.say(f"{out}: this run has already ended; nothing to do.")
            return out
        selector = Selector(selection, card, out, run.say) if selection and here.first else None
        every = (selection.settings.every or card.iterations) if selection else 0
        # The caller's own random numbers go on as if nothing had happened.
        with torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []):
            torch.manual_seed(seed_of(recipe.seed, INITIAL_WEIGHTS, 0))
            # Before the folder is touched: weights that cannot be had leave nothing half made.
            model = build_model(recipe, card.num_classes, card.multilabel, pretrained=not states)
            from_first(lambda: _begin(run, summary, None if goes_on else identity))
            state = read_training_state(states[-1]) if states else None
            if state:
                load_weights(model, state.weights, str(states[-1]))
            elif init is not None:
                _start_from(model, init)
            for line in _announcement(model, run, summary, device, state.iteration if state else 0):
                run.say(line)
            if recipe.head == "descriptors":
                iterations, weights = card.iterations, train_descriptor_head(run, model, device)
            else:
                iterations, weights = run_loop(run, model.to(device), state, selector, every)
            ended = replace(card, iterations=iterations)
            from_first(lambda: write_model(weights, ended, out) and write_model_readme(out, ended, summary))
    if selector:
        run.say(selector.summary())
        run.say(f"strictly image-level: {'yes' if ledger.strictly_image_level else 'NO'}")
        for entry in ledger.entries:
            run.say(f"- {entry.what}: {entry.supervision}, for {entry.used_for}")
    run.say(f"{kind} done: {out / MODEL_FILE}")
    return out


def _check_descriptors(
    recipe: TrainRecipe, kind: Kind, multilabel: bool, selection: Selection | None, init: Path | str | None
) -> None:
    """Refuse what head=descriptors cannot do, with the way out."""
    problem = {
        "wants a backbone that has learned, and weights is none. Set weights=imagenet": recipe.weights == "none",
        "trains in one process, but torchrun has started several. Start one": place().world > 1,
        "is of the mask generator, and this is a final model. Set head=convolutions": kind != "generator",
        "has no multi-label branch. Leave it out": multilabel,
        "is never looked at while it is trained. Set --select last": selection is not None,
        "trains its head anew each time, in minutes. Set generator_iterations in place of --init": init is not None,
    }
    for words, found in problem.items():
        if found:
            raise RecipeError(f"recipe: head=descriptors {words}.")


def _check_init(init: Path | str, recipe: TrainRecipe, out: Path) -> None:
    """Refuse a model that a run cannot start from, before anything is touched."""
    if out.resolve() in find_model(init).resolve().parents:
        raise CheckpointError(f"{out}: this folder holds the model to start from ({init}). Choose another folder.")
    there = read_card(init).recipe
    for name in ("backbone", "head", "head_channels"):
        if (found := getattr(there, name)) != (wanted := getattr(recipe, name)):
            raise CheckpointError(
                f"{init}: training cannot start from this model: its {name} is {found}, and {wanted} is asked for. Add "
                f"--set {name}={found}, or leave --init out."
            )


def _begin(run: Run, summary: DataSummary, identity: dict[str, Any] | None) -> None:
    """Write what is known of a run; ``identity`` is given for a new one, and what was there goes."""
    if identity is not None:
        _clear_folder(run.out)
        write_json(run.out / "run.json", identity)
    for name, value in zip(
        _CARDS, (run.card.recipe.to_dict(), asdict(summary), run.card.ledger.to_dict()), strict=True
    ):
        write_json(run.out / name, value)
    clear_unfinished(run.out)


def _announcement(
    model: SegmentationModel, run: Run, summary: DataSummary, device: torch.device, start: int
) -> list[str]:
    """What will happen, in two or three lines, and what the classes' numbers hold against it."""
    card, recipe, world = run.card, run.card.recipe, place().world
    precision = training_precision(recipe.precision, device)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    branch = " + multi-label branch" if card.multilabel else ""
    epochs = card.iterations * recipe.batch / summary.images
    learns = f"{card.iterations:,} iterations of {recipe.batch} crops of {recipe.crop} px = {epochs:.1f} epochs"
    if recipe.head == "descriptors":
        without = run.table.mask_paths.count(None)
        learns = f"its head alone, {card.iterations:,} iterations on cells; {without:,} images teach by labels alone"
    lines = [
        f"{card.kind}: {summary.images:,} images of {summary.source or 'a table'}, {len(card.classes)} classes "
        f"({', '.join(card.classes[:6])}{', ...' if len(card.classes) > 6 else ''})",
        f"{recipe.backbone} at stride {recipe.output_stride}{branch}, {parameters:.1f} M parameters; "
        f"{learns}; "
        f"{f'{world} processes, ' if world > 1 else ''}{device}, {precision}; into {run.out}",
    ]
    if precision != recipe.precision:
        lines.append(f"{device} does not compute {recipe.precision}: training in {precision}, which is slower.")
    # A table without any label says nothing of its classes.
    if any(summary.images_labelled.values()):
        problems = class_problems(summary.images_labelled, summary.images_masked, recipe.balanced_sampling)
        lines += [f"warning: {problem}" for problem in problems]
    if start:
        lines.append(f"going on from iteration {start:,}")
    return lines


def _ledger(table: ExampleTable, recipe: TrainRecipe, labels_used: bool, init: Path | str | None) -> Ledger:
    entry = weights_ledger_entry(recipe)
    ledger = Ledger((entry,) if entry else ()).merged_with(table.ledger)
    if init is not None:
        ledger = ledger.merged_with(read_card(init, table.classes).ledger)
    if labels_used:
        what = f"image-level labels of {table.source or 'the training images'}"
        ledger = ledger.add(what, Supervision.IMAGE_LEVEL, UsedFor.TRAINING)
    return ledger


def _identity(
    card: ModelCard, summary: DataSummary, init: Path | str | None, selection: Selection | None
) -> dict[str, Any]:
    """What must agree for a stopped run to go on, and for one that has ended to be the one that is asked for."""
    weights = card.recipe.weights
    return {
        "kind": card.kind,
        "multilabel": card.multilabel,
        "init": None if init is None else hashlib.sha256(find_model(init).read_bytes()).hexdigest(),
        "data": summary.fingerprint,
        "images": summary.images_fingerprint,
        "weights": None if weights in ("imagenet", "none") else digest_of(weights),
        "selection": None if selection is None else selection.identity(),
        **{f"recipe.{name}": value for name, value in card.recipe.training_values(card.kind).items()},
    }


# What another run must not find; _CARDS are replaced. Nothing else in a run folder is ever touched.
_WRITTEN = ("checkpoints", "tensorboard", MODEL_FILE, "model.json", "metrics.csv", *SELECTION_FILES)

_CARDS = ("recipe.json", "data.json", "ledger.json")

_PARTS = {
    "checkpoints": ("iteration_*", ".writing-*"),
    "tensorboard": ("events.out.tfevents.*",),
    SNAPSHOTS: ("iteration_*", ".writing-*"),
    LOOKS: ("iteration_*.npz", ".writing-*"),
    REPORT: (),
}
"""Folder of a run -> what the run writes into it."""


def _found(out: Path, identity: dict[str, Any], overwrite: bool) -> tuple[bool, list[Path]]:
    """Whether the folder holds this very run, and its checkpoints; refuses another run, and files of no run."""
    found = checked.note(out / "run.json")
    if not (isinstance(found, dict) and found.keys() >= {"kind", "data", "recipe.seed"}):
        foreign = [name for name in ("run.json", *_WRITTEN, *_CARDS) if os.path.lexists(out / name)]
        if foreign:
            raise CheckpointError(
                f"{out}: the folder holds {', '.join(foreign)}, but no run of this program. They are left alone: move "
                "them away, or choose another folder."
            )
        return False, []
    if overwrite:
        return False, []
    recipe = {key.removeprefix("recipe."): value for key, value in found.items() if key.startswith("recipe.")}
    # Without what does not shape this network, which earlier versions noted, too.
    idle = {f"recipe.{name}" for name in recipe.keys() - without_removed(recipe).keys()}
    idle |= {f"recipe.{field.name}" for field in fields(TrainRecipe)} - identity.keys()
    found = {key: value for key, value in found.items() if key not in idle}
    wanted = {key: value for key, value in identity.items() if key in found or key not in ("images", "weights")}
    if wanted.get("weights") == "":  # the file is gone; a run that began does not need it
        wanted["weights"] = found["weights"]
    if isinstance(found.get("selection"), dict) and wanted["selection"] and "files" not in found["selection"]:
        wanted["selection"] = {key: value for key, value in wanted["selection"].items() if key != "files"}
    states = training_states(out)
    if different := [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]:
        begun = out if (out / MODEL_FILE).is_file() else states[-1] if states else None
        go_on = f" To go on from its weights, add --init {begun} to a run in another folder." if begun else ""
        raise CheckpointError(
            f"{out}: the folder holds another run: {_differences(different, found, wanted)}.{go_on} Choose another "
            "folder, or pass --overwrite to throw it away."
        )
    return True, states


_OTHER = {
    "data": "it learned from other images, masks or labels",
    "images": "it learned from other images, masks or labels",
    "init": "it started from other weights (--init)",
    "weights": "its file of backbone weights held others (--weights)",
    "selection": "its state was chosen otherwise (--select, the options with it, and what it looks at)",
}
"""What is to be compared by digests, and what it means if they differ."""


def _differences(different: Sequence[str], found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What a run has that is not what is asked for, in words; ``different``: keys of ``_identity``."""
    if "kind" in different:  # all else follows from it
        names = {"generator": "a mask generator", "final": "a final model"}
        return f"it is {names.get(str(found['kind']), 'of another kind')}, and {names[wanted['kind']]} is asked for"
    words = {_OTHER[key]: None for key in different if key in _OTHER}
    if "multilabel" in different:
        words[f"it has {'no' if wanted['multilabel'] else 'a'} multi-label branch"] = None
    for key in different:
        if key.startswith("recipe."):
            was, now = (shown(values.get(key)).strip("'") for values in (found, wanted))
            words[f"{key.removeprefix('recipe.')} is {was} there, {now} now"] = None
    return "; ".join(list(words)[:6]) + ("; ..." if len(words) > 6 else "")


def _clear_folder(out: Path) -> None:
    """Remove what a run wrote, and nothing else; the folder holds one, or nothing of these names."""
    for path in (out / name for name in _WRITTEN):
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            continue
        for part in [part for pattern in _PARTS[path.name] for part in path.glob(pattern)]:
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part)
            else:
                part.unlink()
        for file in [file for file in path.rglob("*") if is_ours(file)]:
            file.unlink()
        remove_tables(path)


def _start_from(model: SegmentationModel, init: Path | str) -> None:
    """Load another model's weights; a branch that it lacks stays new, one that is not wanted is left out."""
    own = model.state_dict()

    def trunk(tensors: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in tensors.items() if not name.startswith("branch.")}

    # Before a tensor is read: a file may promise any size.
    check_shapes(trunk(read_shapes(init)), trunk({name: tuple(t.shape) for name, t in own.items()}), str(init))
    weights = read_weights(init)
    load_weights(model, {name: weights.get(name, tensor) for name, tensor in own.items()}, str(init))
