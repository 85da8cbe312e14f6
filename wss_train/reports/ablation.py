"""The paper's Table 3 in one command, on whatever data it is given."""

import hashlib
import json
import math
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wss_data.ledger import Ledger
from wss_data.pipeline import write_dataset_sheets
from wss_data.reading import checked
from wss_data.records import ExampleTable
from wss_data.runtime.files import (
    check_outputs,
    output_folder,
    output_path,
    unfinished,
    write_output,
)
from wss_data.store import drops, group_names, open_dataset
from wss_train.checkpoints import fingerprint_of, read_card
from wss_train.data import as_table, with_labelled
from wss_train.evaluate import Evaluation, evaluated_once, truth_table
from wss_train.labelling import Presence
from wss_train.pseudo_masks import MADE_BY, make_pseudo_masks
from wss_train.recipes import TrainRecipe, as_recipe
from wss_train.reports.cooccurrence import OUTPUTS as COOCCURRENCE_FILES
from wss_train.reports.cooccurrence import cooccurrence
from wss_train.reports.published import TABLE_3, context, paper_row
from wss_train.reports.sheets import write_masks, write_predictions
from wss_train.reports.tables import aligned, ledger_lines, markdown_table, number, percent
from wss_train.training import train

if TYPE_CHECKING:
    from wss_data.store.types import Collection

MADE_FROM = "made_from.json"
"""Says in the folder of a score what was scored, and how."""

_COST = {"seconds", "cpu_seconds", "peak_megabytes", "result"}
_COST_BEFORE = _COST - {"cpu_seconds"}  # of runs that ended before the processor's time was measured
_COST_COLUMNS = ["seconds", "CPU seconds", "peak memory, MB"]
_COST_KEYS = ("seconds", "cpu_seconds", "peak_megabytes")
_FINISHED = "finished_at"  # of ``ablation.json``, which is written last
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    stage: str  # its key, as in ``published.TABLE_3``
    name: str  # its name in the table
    run: str  # folder of the model that is scored, below the ablation's
    multi_scale: bool = False  # whether it is scored with the recipe's scales; otherwise with one
    crf: bool = False  # whether it is scored with the recipe's CRF


ROWS = (
    Row("generator", "mask generator", "generator"),
    Row("simple_final", "simple final model", "final_simple"),
    Row("multi_label", "+ multi-label branch", "final"),
    Row("multi_scale", "+ multi-scale", "final", multi_scale=True),
    Row("multi_scale_crf", "+ multi-scale + CRF", "final", multi_scale=True, crf=True),
)
"""The paper's Table 3, and a row that tells its last two gains apart: a CRF can lower a score.

The paper does not say how its first three rows are scored: here with one scale and no CRF.
"""


@dataclass(frozen=True)
class Ablation:
    """The table with all that is needed to read it.

    Args:
        evaluations: One for each of ``ROWS``, by its stage.
        recipe: What was trained.
        counts: Class -> images retrieved, stored, kept; images of the target by split.
        costs: Stage -> its ``seconds`` (of the call that finished it; time lost to an interruption is not counted),
            ``cpu_seconds`` of the process and the workers that it waited for, ``peak_megabytes`` of the main process,
            and ``result``, which identifies what it made.
        ledger: What went into it.
        out: Folder with table, models, masks and figures.
    """

    evaluations: dict[str, Evaluation]
    recipe: TrainRecipe
    counts: dict[str, Any]
    costs: dict[str, dict[str, Any]]
    ledger: Ledger
    out: Path

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes 1..C."""
        return next(iter(self.evaluations.values())).classes

    def _cells(self) -> dict[str, list[str]]:
        return {
            stage: [percent(value) for value in (found.mean_iou, *found.per_class().values())]
            for stage, found in self.evaluations.items()
        }

    def __str__(self) -> str:
        text = iou_text("IoU in percent", self.classes, self._cells(), [self.evaluations])
        return "\n".join([text, *self.untaught()])

    def _cost_rows(self) -> dict[str, list[str]]:
        """Stage -> seconds, CPU seconds and peak memory as text; the last row is all of them."""
        known = [[cost.get(key, math.nan) for key in _COST_KEYS] for cost in self.costs.values()]
        seconds, cpu_seconds, peaks = zip(*known, strict=True)
        rows = dict(zip(self.costs, known, strict=True)) | {"all": [sum(seconds), sum(cpu_seconds), max(peaks)]}
        return {stage: [number(value, ",.0f") for value in row] for stage, row in rows.items()}

    def profile(self) -> str:
        """What each stage took, for a terminal: seconds, CPU seconds and peak memory when it was made."""
        return "\n".join(aligned(_COST_COLUMNS, self._cost_rows()))

    def untaught(self) -> list[str]:
        """A line on the classes of which no web image was kept, if there are any."""
        names = [name for name in self.classes if not self.counts["classes"][name]["kept"]]
        if not names:
            return []
        if self.recipe.of("generator").label_weight:
            return [f"no image was kept of {', '.join(names)}: the target's labels alone taught the generator these."]
        return [
            f"no image was kept of {', '.join(names)}: the generator never learned them, and their pixels in the "
            "target's train images became background or another class. Get images, or take them out of the definition."
        ]

    def to_markdown(self) -> str:
        """The table, and what stands behind it, as Markdown."""
        recipe, counts = self.recipe, self.counts["classes"]
        return "\n".join(
            [
                f"# Ablation: {self.counts['web']} to {self.counts['target']}",
                "",
                "Intersection over union in percent; one confusion matrix over the whole split, void ignored. "
                "No choice was made by these scores.",
                "",
                *iou_markdown(self.classes, self._cells(), [self.evaluations]),
                "",
                "## Data",
                "",
                *markdown_table(
                    ["class", "retrieved", "stored", "kept"],
                    ([name, *(str(of[key]) for key in ("retrieved", "stored", "kept"))] for name, of in counts.items()),
                ),
                "",
                *(f"{line}\n" for line in self.untaught()),
                f"Target: {self.counts['train']} images to train on, {self.counts['val']} to score on.",
                "",
                "## Cost",
                "",
                *markdown_table(["stage", *_COST_COLUMNS], ([name, *row] for name, row in self._cost_rows().items())),
                "",
                *ledger_lines(self.ledger),
                "",
                "## Recipe",
                "",
                f"preset {recipe.preset}, backbone {recipe.backbone}, seed {recipe.seed}",
                "",
                "```json",
                json.dumps(recipe.to_dict(), indent=2),
                "```",
                "",
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "rows": {stage: found.to_dict() for stage, found in self.evaluations.items()},
            "paper": TABLE_3,
            "recipe": self.recipe.to_dict(),
            "seeds": [self.recipe.seed],
            "counts": self.counts,
            "costs": self.costs,
            "ledger": self.ledger.to_dict(),
        }


def iou_text(
    title: str, classes: tuple[str, ...], cells: Mapping[str, list[str]], runs: Sequence[Mapping[str, Evaluation]]
) -> str:
    """The table for a terminal; arguments as of ``iou_markdown``."""
    table = aligned(["mean", "background", *classes], {row.name: cells[row.stage] for row in ROWS})
    return "\n".join([title, *table, *_partial_means(runs)])


def iou_markdown(
    classes: tuple[str, ...], cells: Mapping[str, list[str]], runs: Sequence[Mapping[str, Evaluation]]
) -> list[str]:
    """Lines of the Markdown table: mean, background and each class, beside what the paper and the field have.

    Args:
        classes: Names of the classes 1..C.
        cells: Stage -> its mean, background and classes, as text.
        runs: Stage -> evaluation, for each seed.
    """
    rows = [[row.name, *cells[row.stage], number(TABLE_3.get(row.stage), ".1f")] for row in ROWS]
    table = markdown_table(["", "mean", "background", *classes, "paper, VOC 2012 val"], rows)
    return [*table, *paper_row(classes), *context(classes), *("\n" + line for line in _partial_means(runs))]


def _partial_means(runs: Sequence[Mapping[str, Evaluation]]) -> list[str]:
    """A line for each row whose mean is over some of the classes only; none where all are in truth or prediction."""
    lines = []
    for row in ROWS:
        fewest = min((run[row.stage] for run in runs), key=lambda found: found.mean_over)
        if fewest.mean_over <= len(fewest.classes):
            lines.append(f"{row.name}: the mean is over {fewest.mean_of()}.")
    return lines


def run_ablation(
    web: "Collection",
    target: "Collection",
    out: Path | str,
    recipe: TrainRecipe | str = "cpu",
    *,
    device: str | None = None,
    workers: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> Ablation:
    """Train and score every row of the paper's Table 3.

    Generator on the web dataset; masks for the target's train images (eq. 2, the
    recipe's scales); final model on those without and with its multi-label branch;
    the last also with multi-scale inference and CRF. All are scored on val.
    Each stage that is done is found again when the command is repeated.

    Args:
        web: Web dataset or view of the store, with co-segmentation masks.
        target: Target dataset of the store, with the tags ``train`` and ``val``.
        out: Folder for everything: ``table.md``, ``ablation.json``, ``pictures/``, ``cooccurrence/`` of the pseudo
            masks, the runs and the masks.
        recipe: Recipe, or the name of a preset.
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``None`` for the GPU if there is one.
        workers: Threads of the loader and processes of the CRF; ``None`` for their defaults.
        progress: Whether to show progress bars.
        overwrite: Train again, and throw away runs of another recipe or other data that ``out`` holds.

    Returns:
        The table.

    Raises:
        CheckpointError: If ``out`` holds runs of another recipe or other data.
        TrainingDataError: If a dataset cannot teach or score.
        OutputError: If a file in ``out`` is in the way that this program did not write, or that was changed since.
        BusyError: If another process writes into ``out``.

    Source:
        Shen et al., BMVC 2017, Table 3.
    """
    recipe, out = as_recipe(recipe), Path(out)
    # Everything that can be missing is found before the first hour is spent.
    web_table = as_table(web, "cosegmentation")
    train_view = target.match_tags("train")
    train_images, val = as_table(train_view, None), truth_table(target.match_tags("val"))
    options: dict[str, Any] = {"device": device, "workers": workers, "progress": progress}
    training = {**options, "overwrite": overwrite}
    with output_folder(out):
        costs = _Costs(out / "costs.json")
        figures = (out / "pictures").glob("*.png")
        reports = (out / "cooccurrence" / name for name in COOCCURRENCE_FILES)
        tables = (out / name for name in ("table.md", "ablation.json", "costs.json"))
        check_outputs([*tables, *figures, *reports], proved=bool(costs.stages))
        with costs.of("generator", out / "generator"):
            # Images that only have labels teach, too, where the recipe says so.
            learned = with_labelled(web_table, train_images) if recipe.of("generator").label_weight else web_table
            generator = train(learned, recipe, out / "generator", "generator", **training)
        with costs.of("pseudo masks", out / "pseudo_masks" / MADE_BY):
            of = recipe.of("generator")
            masks = {
                "scales": of.scales,
                "crf": of.crf_settings if of.mask_crf else False,
                "presence": Presence(of.mask_presence, of.mask_background),
                **options,
            }
            pseudo = make_pseudo_masks(generator, train_view, out / "pseudo_masks", **masks)
        with costs.of("simple final model", out / "final_simple"):
            train(pseudo, recipe, out / "final_simple", "final", multilabel=False, **training)
        with costs.of("final model with multi-label branch", out / "final"):
            train(pseudo, recipe, out / "final", "final", multilabel=True, **training)
        evaluations = {}
        for row in ROWS:
            folder = out / "evaluations" / row.stage
            # This recipe's, not the model card's: the CRF may change after training.
            how: dict[str, Any] = {
                "scales": recipe.scales if row.multi_scale else (1.0,),
                "crf": row.crf and recipe.crf_settings,
            }
            with costs.of(f"evaluate: {row.name}", folder / MADE_FROM):
                evaluations[row.stage] = evaluated_once(
                    folder / MADE_FROM, out / row.run, val, folder, **how, **options
                )
        counts = {
            "web": web_table.source,
            "target": train_images.source,
            "classes": _class_counts(web_table),
            "train": len(train_images),
            "val": len(val),
        }
        ledger = read_card(out / ROWS[-1].run).ledger.merged_with(val.ledger)
        ablation = Ablation(evaluations, recipe, counts, costs.stages, ledger, out)
        if not _is_written(ablation):
            _write(ablation, val, pseudo)
    return ablation


def _is_written(ablation: Ablation) -> bool:
    """Whether the files in its folder show this table: every stage was found again, and no figure is missing."""
    out = ablation.out
    noted = checked.note(out / "ablation.json")
    if not isinstance(noted, dict) or noted.pop(_FINISHED, None) is None:
        return False
    classes = (name for name, counts in ablation.counts["classes"].items() if counts["stored"])
    sheets = ("predictions", "pseudo_masks", "cosegmentation", "foreground_ratio")
    figures = [*sheets, *(f"cosegmentation_{name}" for name in classes)]
    files = [out / "pictures" / f"{name}.png" for name in figures]
    files += [table := out / "table.md", *(out / "cooccurrence" / name for name in COOCCURRENCE_FILES)]
    same = noted == json.loads(json.dumps(ablation.to_dict())) and all(path.is_file() for path in files)
    return same and table.read_text(encoding="utf-8") == ablation.to_markdown()


def _write(ablation: Ablation, val: ExampleTable, pseudo: ExampleTable) -> None:
    """Write figures, then tables. ``val``: what was scored; ``pseudo``: train images with pseudo masks."""
    out, figures = ablation.out, ablation.out / "pictures"
    folders = {row.name: out / "evaluations" / row.stage / "predictions" for row in ROWS}
    write_predictions(val, folders, figures / "predictions.png")
    cooccurrence(pseudo, out / "cooccurrence")
    write_masks(pseudo, f"Pseudo masks of {pseudo.source}", figures / "pseudo_masks.png")
    drawn = unfinished(out)
    try:
        write_dataset_sheets(open_dataset(ablation.counts["web"]), drawn)
        for figure in drawn.iterdir():
            with output_path(figures / figure.name) as temporary:
                figure.replace(temporary)
    finally:
        shutil.rmtree(drawn, ignore_errors=True)
    finished = {_FINISHED: datetime.now(UTC).isoformat(timespec="seconds")}
    write_tables(out, ablation.to_markdown(), ablation.to_dict() | finished)


def write_tables(out: Path, markdown: str, values: Mapping[str, Any]) -> None:
    """Write ``table.md`` and ``ablation.json``."""
    write_output(out / "table.md", markdown)
    write_output(out / "ablation.json", json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _class_counts(table: ExampleTable) -> dict[str, dict[str, int]]:
    """Images of a stored web dataset that were retrieved, stored and used for training, by class and background."""
    dataset = open_dataset(table.source)
    stored, lost = dataset.count_values("label.label"), drops(dataset)
    counts = {}
    # Images without a label are those of the background, where the definition searches for them.
    used = (*table.labels.sum(axis=0), (~table.labels.any(axis=1)).sum())
    for name, kept in zip(group_names(dataset), used, strict=False):
        there = stored.get(name, 0)
        counts[name] = {"retrieved": there + sum(lost.get(name, {}).values()), "stored": there, "kept": int(kept)}
    return counts


class _Costs:
    """Run time and memory of the stages, kept on disk so that a resumed ablation still knows the first ones."""

    def __init__(self, path: Path) -> None:
        self.path = path
        known = checked.note(path)
        if not isinstance(known, dict) or not all(
            isinstance(c, dict) and c.keys() in (_COST, _COST_BEFORE) for c in known.values()
        ):
            known = {}  # not there, or somebody else's: then it is refused when it is to be replaced
        self.stages: dict[str, dict[str, Any]] = known

    @contextmanager
    def of(self, stage: str, made: Path) -> Iterator[None]:
        """Measure one stage; one that only found its result keeps what that cost when it was made.

        Args:
            stage: Its name.
            made: Run folder of the model, or file, that identifies what the stage makes.
        """
        with suppress(OSError):
            # Start counting the peak of memory anew, where the system can (Linux); elsewhere it goes on from before.
            _CLEAR.write_text("5")
        start, before = time.monotonic(), _cpu_seconds()
        yield
        result = fingerprint_of(made) if made.is_dir() else hashlib.sha256(made.read_bytes()).hexdigest()[:16]
        if stage not in self.stages or self.stages[stage]["result"] != result:
            self.stages[stage] = {
                "seconds": round(time.monotonic() - start, 1),
                "cpu_seconds": round(_cpu_seconds() - before, 1),
                "peak_megabytes": round(_peak_megabytes(), 1),
                "result": result,
            }
            write_output(self.path, json.dumps(self.stages, indent=2) + "\n")


def _cpu_seconds() -> float:
    """Processor time of this process and of the children that it has waited for, user and system."""
    return sum(os.times()[:4])


def _peak_megabytes() -> float:
    """Largest resident memory of this process since the stage began, in MB (10^6 bytes); no worker process counts."""
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
