"""Choosing a state of a network without a mask drawn by a person.

A network that learns from noisy masks gets better, then learns the noise. Here a ``Selector`` looks at it now and then
during training and computes signals:

- ``labels``: do the predicted masks name the classes that the images show? Needs image-level labels.
- ``agreement``: do they agree with co-segmentation masks that were kept out of training?
- ``change``: how much did they change since the last look?

The state whose ``labels`` or ``agreement`` is best becomes the model. Whether a signal deserves that trust is what
``wss_train.reports.selection_report`` shows, after the fact.
"""

import math
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

from wss_data.errors import CheckpointError, RecipeError, TrainingDataError
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.reading import checked
from wss_data.reading.settings import Rule
from wss_data.reading.settings import settings as checked_settings
from wss_data.records import ExampleTable
from wss_data.runtime.files import atomic_path, digests_of, remove_unfinished, write_text
from wss_train.checkpoints import MODEL_FILE, ModelCard, read_weights, write_model
from wss_train.data import as_table
from wss_train.models import SegmentationModel, usable_precision
from wss_train.recipes import Kind, TrainRecipe
from wss_train.selection.probes import (
    Probes,
    best_look,
    class_fractions,
    hash_order,
    label_average_precision,
    label_f1,
    settled_look,
    smoothed,
)

if TYPE_CHECKING:
    from wss_train.data import Examples

# What chooses the model: nothing (the last state), or one of the signals
Select = Literal["last", "labels", "agreement"]
# Columns of ``signals.csv``, beside ``iteration`` and ``seconds``; empty where a look had no such number
SIGNALS = ("labels", "labels_ap", "agreement", "change")
# What a selector writes into a run folder: the signals, weights, and what the network predicted at each look
SIGNALS_FILE, SNAPSHOTS, LOOKS = "signals.csv", "snapshots", "looks"
REPORT = "selection_report"  # Folder in a run folder that ``wss_train.reports.selection_report`` writes
FILES = (SIGNALS_FILE, SNAPSHOTS, LOOKS, REPORT)  # All of them: thrown away with the run

SMOOTH = 3  # Looks whose mean is compared: a single look is noisy. Odd. Ours
HELD_OUT = 0.1  # Largest fraction of the images with masks that is kept out; never more than are looked at. Ours

_RANGE = -1e15, 1e15  # Of the numbers in ``signals.csv``; what is beyond was not written here
# Looks of a run, what they may cost of the training's arithmetic, and the images of a look in any case. Ours
_LOOKS, _LOOK_FRACTION, _FEWEST_PROBES, _MOST_PROBES = 20, 0.05, 32, 200

_Count = Annotated[int, Rule(ge=1)]


@checked_settings("the selection", RecipeError)
class SelectionSettings:
    """How a run is looked at."""

    every: _Count | None = None  # Iterations between two looks; ``None`` for a twentieth of the run.
    # Images that a look predicts for each signal; ``None`` for as many as a twentieth of the training's arithmetic pays
    # for, but 32 to 200.
    probes: _Count | None = None
    patience: _Count | None = None  # Looks without a new best after which the run stops; ``None`` for no such stop.
    # Fraction of the pixels: the run stops when the last ``SMOOTH`` looks together changed no more than this from one
    # to the next; ``None`` for no such stop.
    settle: Annotated[float, Rule(ge=0, le=1)] | None = None
    keep_snapshots: bool = False  # Whether the weights of every look are kept, for the report.

    def resolved(self, recipe: TrainRecipe, kind: Kind) -> "SelectionSettings":
        """The settings with numbers for ``every`` and ``probes``."""
        every = self.every or max(1, math.ceil(recipe.iterations(kind) / _LOOKS))
        # Forward and backward together cost about three times the forward pass; photographs are about 4:3.
        pixels = _LOOK_FRACTION * every * 3 * recipe.batch * recipe.crop**2
        probes = round(pixels / (0.75 * recipe.long_side**2))
        return replace(self, every=every, probes=self.probes or min(max(probes, _FEWEST_PROBES), _MOST_PROBES))


@dataclass(frozen=True)
class Selection:
    """What a selector looks at, and which signal chooses."""

    by: Literal["labels", "agreement"]  # the signal that chooses
    settings: SelectionSettings  # with numbers for ``every`` and ``probes``
    labelled: ExampleTable | None  # images whose labels are compared; ``None`` for none
    held_out: ExampleTable | None  # images whose masks are compared, and that training does not see; ``None`` for none

    @property
    def ledger(self) -> Ledger:
        """What choosing adds to what the model learned from. The held-out masks' own entry is the training's."""
        if self.by == "agreement" or self.labelled is None:
            return Ledger()
        what = f"image-level labels of the target images ({self.labelled.source or 'a table'})"
        return Ledger().add(what, Supervision.IMAGE_LEVEL, UsedFor.SELECTION)

    def identity(self) -> dict[str, Any]:
        """Plain values that must agree for a stopped run to go on."""
        digest, files = sha256(), sha256()
        for table in (self.labelled, self.held_out):
            if table is not None:
                files.update("".join(digests_of(table.image_paths)).encode())
                digest.update(repr((table.ids, table.classes, table.labels.astype(int).tolist())).encode())
        for path in self.held_out.mask_paths if self.held_out else ():
            digest.update(Path(str(path)).read_bytes())
        settings = asdict(self.settings) | {"smooth": SMOOTH, "held_out": HELD_OUT}
        # Whether weights are kept changes nothing in the run.
        del settings["keep_snapshots"]
        return {"by": self.by, **settings, "images": digest.hexdigest(), "files": files.hexdigest()}


def plan_selection(
    select: Select,
    table: ExampleTable,
    recipe: TrainRecipe,
    kind: Kind,
    target: "Examples | None" = None,
    settings: SelectionSettings | None = None,
) -> tuple[ExampleTable, Selection | None]:
    """Which images training sees, and which are looked at.

    A generator's ``labels`` come from ``target``, which it does not learn from and whose masks are not asked for; a
    final model learns from its target's labels, so its ``labels`` are those of held-out images of ``table``.

    Returns:
        The images that are left to learn from, and the plan; ``None`` for ``last``.

    Raises:
        RecipeError: If ``select`` is unknown, or ``labels`` is asked for without a target.
        TrainingDataError: If the target has other classes or no labels, or no image can be held out.
    """
    if select not in ("last", "labels", "agreement"):
        raise RecipeError(f"select is {select!r}; last, labels or agreement is wanted.")
    if select == "last":
        return table, None
    chosen = (settings or SelectionSettings()).resolved(recipe, kind)
    probes = chosen.probes or _FEWEST_PROBES
    labelled, held_out, rest = None, None, table
    if kind == "final" or select == "agreement":
        count = min(probes, max(1, round(HELD_OUT * len(table))))
        if count >= len(table):
            raise TrainingDataError(
                f"{table.source or 'the table'} has {len(table)} images with masks; at least 2 are wanted, to hold one "
                "out of training for the selection. Use --select last."
            )
        # The same images are held out wherever they stand in the table.
        order = hash_order(table.ids)
        held_out, rest = table.take(sorted(order[:count])), table.take(sorted(order[count:]))
    if kind == "final":
        labelled = held_out
    elif target is not None:
        images = as_table(target, None)
        if images.classes != table.classes:
            raise TrainingDataError(
                f"{images.source or 'the target'} has the classes {', '.join(images.classes)}; the images to learn "
                f"from have {', '.join(table.classes)}. Names and order must agree."
            )
        labelled = images.take(sorted(hash_order(images.ids)[:probes]))
    elif select == "labels":
        raise RecipeError(
            "selecting by labels looks at the image-level labels of a target dataset: name it with --target "
            "(target=...), or select by agreement, which needs web images only."
        )
    if select == "labels" and labelled is not None and not labelled.labels.any():
        raise TrainingDataError(
            f"none of the {len(labelled)} images of {labelled.source or 'the target'} that would be looked at has an "
            "image-level label. Import the target with its labels, or select by agreement."
        )
    return rest, Selection(select, chosen, labelled, held_out)


class Look(NamedTuple):
    """What was seen after some iterations."""

    iteration: int  # iterations done
    values: Mapping[str, float]  # the numbers named in ``SIGNALS``; nan where there is none
    seconds: float  # wall time of the look


def read_signals(run: Path | str) -> list[Look]:
    """The looks of a run, in their order; none if nobody looked. A damaged file is a ``CheckpointError``."""
    path = Path(run) / SIGNALS_FILE
    if not path.is_file():
        return []
    number, looks = 0, []
    try:
        lines = checked.table_lines(path)
        number, header = next(lines, (1, []))
        for number, cells in lines:  # noqa: B007 - the error names the line
            row = dict(zip(header, cells, strict=True))
            iteration, seconds = checked.whole_of(row["iteration"], "iteration", 0), row["seconds"]
            values = {name: checked.number_of(row[name], name, *_RANGE) if row[name] else math.nan for name in SIGNALS}
            looks.append(Look(iteration, values, checked.number_of(seconds, "seconds", *_RANGE)))
        return looks
    except (OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path}, line {number}: the signals cannot be read ({error}). Train again into another folder, or pass "
            "--overwrite."
        ) from error


def signal(looks: list[Look], name: str) -> np.ndarray:
    """One signal of all looks, float64, nan where there is none."""
    return np.array([look.values[name] for look in looks], np.float64)


def snapshots(run: Path | str) -> dict[int, Path]:
    """The weights that are kept of a run: iterations -> folder."""
    folders = sorted((Path(run) / SNAPSHOTS).glob("iteration_*"))
    named = ((re.fullmatch(r"iteration_([0-9]{6,12})", folder.name), folder) for folder in folders)
    return {int(name[1]): folder for name, folder in named if name and (folder / MODEL_FILE).is_file()}


class Selector:
    """Looks at a network during training, keeps its best state, and may stop the run.

    A look draws no random numbers and changes no weight, so training goes the same way with and without one. What an
    earlier, stopped call noted in the run folder is gone on from. ``say`` receives one line a look. Errors: ``Probes``.
    """

    def __init__(
        self, selection: Selection, card: ModelCard, run: Path, say: Callable[[str], None] | None = None
    ) -> None:
        self._selection, self._card, self._run, self._say = selection, card, run, say
        self._noted: list[Look] | None = None
        self._labelled = None if selection.labelled is None else Probes(selection.labelled, card)
        self._held_out = None if selection.held_out is None else Probes(selection.held_out, card, masked=True)
        if selection.labelled is selection.held_out:
            self._labelled = self._held_out

    @property
    def _looks(self) -> list[Look]:
        """The looks so far; read late, as the folder may still hold those of a run that is thrown away."""
        if self._noted is None:
            remove_unfinished(self._run / SNAPSHOTS)
            self._noted = read_signals(self._run)
        return self._noted

    def look(self, iteration: int, model: SegmentationModel) -> bool:
        """Compute the signals, keep the weights while they may still be chosen; true to stop the run."""
        started = time.monotonic()
        # A run that was resumed before this iteration may have noted it, and more.
        looks = [look for look in self._looks if look.iteration < iteration]
        precision = usable_precision(self._card.recipe.precision, next(model.parameters()).device)
        seen = {id(probes): probes.predict(model, precision) for probes in (self._labelled, self._held_out) if probes}
        values = dict.fromkeys(SIGNALS, math.nan)
        if self._labelled is not None:
            cells, means = seen[id(self._labelled)]
            labels = np.asarray(self._labelled.table.labels, bool)
            fractions = np.stack([class_fractions(image, self._card.num_classes) for image in cells])
            values["labels"] = label_f1(fractions, labels)
            values["labels_ap"] = label_average_precision(means, labels)
        if self._held_out is not None:
            values["agreement"] = self._held_out.agreement(seen[id(self._held_out)][0])
        predicted = np.concatenate([image.ravel() for cells, _ in seen.values() for image in cells])
        before = self._read_cells(looks[-1].iteration) if looks else None
        if before is not None and before.shape == predicted.shape:
            values["change"] = float(np.mean(before != predicted))

        with atomic_path(self._cells_file(iteration)) as temporary:
            np.savez_compressed(temporary, cells=predicted)
        write_model(model.state_dict(), replace(self._card, iterations=iteration), self._snapshot(iteration))
        self._noted = [*looks, Look(iteration, values, time.monotonic() - started)]
        self._write_signals()
        # After the look is noted: a run that is killed in between still has all weights that it may choose.
        self._tidy()
        return self._shall_stop()

    def chosen(self) -> tuple[int, Mapping[str, Tensor]] | None:
        """Iterations and weights of the best state; ``None`` if no look gave a number."""
        best = self._best_of(self._looks)
        return None if best is None else (best.iteration, read_weights(self._snapshot(best.iteration)))

    def _best_of(self, looks: list[Look]) -> Look | None:
        """The look with the best running mean of the signal that chooses, among those whose weights are there."""
        means, kept = self._means()[: len(looks)], snapshots(self._run)
        means[[look.iteration not in kept for look in looks]] = math.nan
        position = best_look(means, 1)
        return None if position is None else looks[position]

    def summary(self) -> str:
        """One line: which state was chosen, and by what."""
        best = self._best_of(self._looks)
        if best is None:
            return f"selected by {self._selection.by}: no look gave a number, the last state is taken"
        means = self._means()
        return (
            f"selected by {self._selection.by}: iteration {best.iteration:,} "
            f"({means[self._looks.index(best)]:.3f} over {SMOOTH} looks; the last, {self._looks[-1].iteration:,}, has "
            f"{means[-1]:.3f})"
        )

    def _means(self) -> np.ndarray:
        return smoothed(signal(self._looks, self._selection.by), SMOOTH)

    def _shall_stop(self) -> bool:
        """Report the last look; whether the run shall stop."""
        now, settings = self._looks[-1], self._selection.settings
        best = best_look(self._means(), 1)
        since = 0 if best is None else len(self._looks) - 1 - best
        lost = settings.patience is not None and since >= settings.patience
        changes = signal(self._looks, "change")
        settled = settings.settle is not None and settled_look(changes, settings.settle, SMOOTH) is not None
        why = f"; no better for {since} looks, stopping" if lost else "; settled, stopping" if settled else ""
        if self._say:
            numbers = ", ".join(f"{name} {value:.3f}" for name, value in now.values.items() if not math.isnan(value))
            self._say(f"iteration {now.iteration:,}: {numbers}{why}")
        return lost or settled

    def _tidy(self) -> None:
        """Remove weights that can be chosen no more, and those beyond the last look."""
        now = self._looks[-1].iteration
        # The running mean of the last looks still moves; of those before it only the best can be chosen one day.
        moving = max(1, SMOOTH // 2)
        firm = self._best_of(self._looks[:-moving])
        wanted = {look.iteration for look in [*self._looks[-moving:], *([firm] if firm else [])]}
        for iteration, folder in snapshots(self._run).items():
            if iteration > now or (iteration not in wanted and not self._selection.settings.keep_snapshots):
                shutil.rmtree(folder)

    def _snapshot(self, iteration: int) -> Path:
        return self._run / SNAPSHOTS / f"iteration_{iteration:06d}"

    def _cells_file(self, iteration: int) -> Path:
        return self._run / LOOKS / f"iteration_{iteration:06d}.npz"

    def _read_cells(self, iteration: int) -> np.ndarray | None:
        """What the network predicted at a look; ``None`` where the file is gone or damaged: then no change is known."""
        try:
            with np.load(self._cells_file(iteration), allow_pickle=False) as file:
                return np.asarray(file["cells"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def _write_signals(self) -> None:
        lines = [",".join(("iteration", *SIGNALS, "seconds"))]
        for look in self._looks:
            # All digits, so that a resumed run compares what an uninterrupted one compares.
            numbers = ("" if math.isnan(value) else repr(value) for value in look.values.values())
            lines.append(",".join([str(look.iteration), *numbers, f"{look.seconds:.3f}"]))
        write_text(self._run / SIGNALS_FILE, "\n".join(lines) + "\n")
