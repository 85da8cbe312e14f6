"""The whole of the paper's Table 3 in one command, on whatever data it is given."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wss_data.ledger import Ledger
from wss_data.reading import checked
from wss_data.records import ExampleTable
from wss_data.runtime.files import (
    check_outputs,
    digests_of,
    output_folder,
    output_path,
    unfinished,
    write_json,
    write_output,
)
from wss_train.checkpoints import read_card
from wss_train.data import as_table
from wss_train.evaluate import Evaluation, evaluate_model, evaluation_of, truth_table
from wss_train.pseudo_masks import MADE_BY, fingerprint_of, make_pseudo_masks
from wss_train.recipes import TrainRecipe, as_recipe
from wss_train.reports.cooccurrence import OUTPUTS as COOCCURRENCE_FILES
from wss_train.reports.cooccurrence import cooccurrence
from wss_train.reports.memory import peak_megabytes, reset_peak
from wss_train.reports.published import FIELD, TABLE_2, TABLE_3, VOC_CLASSES, paper_val_iou
from wss_train.reports.report import write_masks, write_predictions
from wss_train.reports.tables import percent
from wss_train.training import train

if TYPE_CHECKING:
    from wss_train.data import Examples


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        stage: Its key, as in ``published.TABLE_3``.
        name: Its name in the table.
        run: Folder of the model that is scored, below the ablation's.
        multi_scale: Whether it is scored with the recipe's scales; otherwise with one.
        crf: Whether it is scored with the recipe's CRF.
    """

    stage: str
    name: str
    run: str
    multi_scale: bool = False
    crf: bool = False


MADE_FROM = "made_from.json"
"""Says in the folder of a score what was scored, and how."""

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
class StageCost:
    """What one stage cost.

    Args:
        seconds: Run time of the call that finished it; time lost to an interruption is not counted.
        peak_megabytes: Largest memory of the main process in it, in MB.
        result: Identifies what it made.
    """

    seconds: float
    peak_megabytes: float
    result: str


@dataclass(frozen=True)
class Ablation:
    """The table with all that is needed to read it.

    Args:
        evaluations: One for each row of the recipe, by its stage.
        recipe: What was trained.
        counts: Class -> images retrieved, stored, kept; images of the target by split.
        costs: Stage -> what it cost.
        ledger: What went into it.
        out: Folder with table, models, masks and pictures.
    """

    evaluations: dict[str, Evaluation]
    recipe: TrainRecipe
    counts: dict[str, Any]
    costs: dict[str, StageCost]
    ledger: Ledger
    out: Path

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes 1..C."""
        return next(iter(self.evaluations.values())).classes

    def __str__(self) -> str:
        cells = {row.name: _cells(self.evaluations[row.stage]) for row in ROWS}
        table = aligned(["mean", "background", *self.classes], cells)
        return "\n".join(["IoU in percent", *table, *partial_means(ROWS, [self.evaluations])])

    def to_markdown(self) -> str:
        """The table, and what stands behind it, as Markdown."""
        lines = [
            f"# Ablation: {self.counts['web']} to {self.counts['target']}",
            "",
            "Intersection over union in percent; one confusion matrix over the whole split, void ignored. "
            "No choice was made by these scores.",
            "",
            *iou_rows(self.classes, {row: _cells(self.evaluations[row.stage]) for row in ROWS}),
            *("\n" + line for line in partial_means(ROWS, [self.evaluations])),
        ]
        lines += ["", "## Data", "", "| class | retrieved | stored | kept |", "|---|---:|---:|---:|"]
        for name, count in self.counts["classes"].items():
            lines.append(f"| {name} | {count['retrieved']} | {count['stored']} | {count['kept']} |")
        lines += ["", f"Target: {self.counts['train']} images to train on, {self.counts['val']} to score on."]
        lines += ["", "## Cost", "", "| stage | seconds | peak memory, MB |", "|---|---:|---:|"]
        lines += [f"| {name} | {c.seconds:.0f} | {c.peak_megabytes:.0f} |" for name, c in self.costs.items()]
        strict = "yes" if self.ledger.strictly_image_level else "NO"
        lines += ["", "## Supervision", "", f"Strictly image-level: **{strict}**", ""]
        lines += [f"- {e.what}: {e.supervision}, for {e.used_for}" for e in self.ledger.entries]
        recipe = self.recipe
        changed = f"preset {recipe.preset}, backbone {recipe.backbone}, seed {recipe.seed}"
        lines += ["", "## Recipe", "", changed, "", "```json", json.dumps(recipe.to_dict(), indent=2), "```", ""]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "rows": {row.stage: self.evaluations[row.stage].to_dict() for row in ROWS},
            "paper": TABLE_3,
            "recipe": self.recipe.to_dict(),
            "seeds": [self.recipe.seed],
            "counts": self.counts,
            "costs": {name: vars(cost) for name, cost in self.costs.items()},
            "ledger": self.ledger.to_dict(),
        }


def iou_rows(classes: tuple[str, ...], cells: Mapping[Row, list[str]]) -> list[str]:
    """Lines of a Markdown table: mean, background and each class, beside what the paper and the field have.

    Args:
        classes: Names of the classes 1..C.
        cells: Row -> its mean, background and classes, as text.
    """
    names = ["mean", "background", *classes, "paper, VOC 2012 val"]
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    lines += [f"| {row.name} | " + " | ".join([*values, published(row)]) + " |" for row, values in cells.items()]
    return [*lines, *paper_row(classes), *context(classes)]


def partial_means(rows: Sequence[Row], runs: Sequence[Mapping[str, Evaluation]]) -> list[str]:
    """A line for each row whose mean is over some of the classes only; none where all are in truth or prediction.

    Args:
        rows: Rows of the table.
        runs: Stage -> evaluation, for each seed.
    """
    lines = []
    for row in rows:
        found = [run[row.stage] for run in runs]
        if fewest := [each for each in found if each.mean_over <= len(each.classes)]:
            lines.append(f"{row.name}: the mean is over {min(fewest, key=lambda each: each.mean_over).mean_of()}.")
    return lines


def aligned(names: list[str], cells: dict[str, list[str]]) -> list[str]:
    """Lines of a table for a terminal: the columns' names, then a line for each row of cells."""
    width = max(len(name) for name in cells)
    widths = [max(6, len(name), *(len(row[column]) for row in cells.values())) for column, name in enumerate(names)]
    lines = [" " * width + "".join(f"  {name:>{w}}" for name, w in zip(names, widths, strict=True))]
    for name, row in cells.items():
        lines.append(f"{name:<{width}}" + "".join(f"  {cell:>{w}}" for cell, w in zip(row, widths, strict=True)))
    return lines


def published(row: Row) -> str:
    """The paper's mean IoU for a row, or a dash."""
    return f"{TABLE_3[row.stage]:.1f}" if row.stage in TABLE_3 else "–"


def paper_row(classes: tuple[str, ...]) -> list[str]:
    """The paper's own row by class, where the classes are VOC's; otherwise a word on what its numbers are for."""
    known = paper_val_iou(classes)
    if known is None:
        return ["", "The paper's column is for VOC's twenty classes: context, not a comparison."]
    mean = f"{TABLE_3['multi_scale_crf']:.1f}"
    cells = [mean, *(f"{value:.1f}" for value in known.values()), mean]
    return ["| the paper, Table 1, val | " + " | ".join(cells) + " |"]


def context(classes: tuple[str, ...]) -> list[str]:
    """The paper's Table 2 and the field since then, where the classes are VOC's: Markdown lines."""
    if classes != VOC_CLASSES:
        return []
    lines = ["", "## What others reached on PASCAL VOC 2012", ""]
    lines += ["| method | learns from | val | test | where it stands |", "|---|---|---:|---:|---|"]
    for score in (*TABLE_2, *FIELD):
        val, test = ("–" if value is None else f"{value:.1f}" for value in (score.val, score.test))
        lines.append(f"| {score.method} | {score.supervision} | {val} | {test} | {score.source} |")
    return lines


def _cells(evaluation: Evaluation) -> list[str]:
    return [percent(evaluation.mean_iou), *(percent(value) for value in evaluation.per_class().values())]


def run_ablation(
    web: "Examples",
    target: "Examples",
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
    the last also with multi-scale inference and CRF. All are scored on val. Each stage
    that is done is found again when the command is repeated.

    Args:
        web: Web dataset or view with co-segmentation masks.
        target: Target dataset with the tags ``train`` and ``val``.
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
    train_images = as_table(_tagged(target, "train"), None)
    val = truth_table(_tagged(target, "val"))
    with output_folder(out):
        return _fill(web, target, recipe, out, web_table, train_images, val, device, workers, progress, overwrite)


def _fill(
    web: "Examples",
    target: "Examples",
    recipe: TrainRecipe,
    out: Path,
    web_table: ExampleTable,
    train_images: ExampleTable,
    val: ExampleTable,
    device: str | None,
    workers: int | None,
    progress: bool,
    overwrite: bool,
) -> Ablation:
    """Do the stages that are left, as the only owner of ``out``."""
    costs = _Costs(out / "costs.json")
    pictures = (out / "pictures").glob("*.png")
    reports = (out / "cooccurrence" / name for name in COOCCURRENCE_FILES)
    tables = (out / name for name in ("table.md", "ablation.json", "costs.json"))
    check_outputs([*tables, *pictures, *reports], proved=bool(costs.stages))
    options: dict[str, Any] = {"device": device, "workers": workers, "progress": progress}
    training = {**options, "overwrite": overwrite}

    with costs.of("generator", lambda: fingerprint_of(out / "generator")):
        generator = train(web_table, recipe, out / "generator", "generator", **training)
    masks: dict[str, Any] = {
        "scales": recipe.scales,
        "crf": recipe.crf_settings if recipe.mask_crf else False,
        **options,
    }
    with costs.of("pseudo masks", lambda: _hash_of(out / "pseudo_masks" / MADE_BY)):
        pseudo = make_pseudo_masks(generator, _tagged(target, "train"), out / "pseudo_masks", **masks)
    with costs.of("simple final model", lambda: fingerprint_of(out / "final_simple")):
        train(pseudo, recipe, out / "final_simple", "final", multilabel=False, **training)
    with costs.of("final model with multi-label branch", lambda: fingerprint_of(out / "final")):
        train(pseudo, recipe, out / "final", "final", multilabel=True, **training)

    evaluations = {}
    for row in ROWS:
        made_from = out / "evaluations" / row.stage / MADE_FROM
        with costs.of(f"evaluate: {row.name}", partial(_hash_of, made_from)):
            evaluations[row.stage] = _evaluate_once(row, val, recipe, out, options)

    counts = {
        "web": web_table.source,
        "target": train_images.source,
        "classes": _class_counts(web, web_table),
        "train": len(train_images),
        "val": len(val),
    }
    ledger = read_card(out / ROWS[-1].run).ledger.merged_with(val.ledger)
    ablation = Ablation(evaluations, recipe, counts, costs.stages, ledger, out)
    write_output(out / "table.md", ablation.to_markdown())
    finished = {"finished_at": datetime.now(UTC).isoformat(timespec="seconds")}
    write_output(out / "ablation.json", json.dumps(ablation.to_dict() | finished, indent=2, ensure_ascii=False) + "\n")
    folders = {row.name: out / "evaluations" / row.stage / "predictions" for row in ROWS}
    write_predictions(val, folders, out / "pictures" / "predictions.png")
    cooccurrence(pseudo, out / "cooccurrence")
    write_masks(pseudo, f"Pseudo masks of {pseudo.source}", out / "pictures" / "pseudo_masks.png")
    if not isinstance(web, ExampleTable):
        from wss_data.pipeline import write_dataset_pictures
        from wss_data.store import open_dataset

        drawn = unfinished(out)
        try:
            write_dataset_pictures(open_dataset(web_table.source), drawn)
            for picture in drawn.iterdir():
                with output_path(out / "pictures" / picture.name) as temporary:
                    picture.replace(temporary)
        finally:
            shutil.rmtree(drawn, ignore_errors=True)
    return ablation


def _hash_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _tagged(target: "Examples", tag: str) -> Any:
    if isinstance(target, ExampleTable):
        raise TypeError("run_ablation needs the target as a FiftyOne dataset: a table has no splits")
    return target.match_tags(tag)


def _evaluate_once(row: Row, val: ExampleTable, recipe: TrainRecipe, out: Path, options: dict[str, Any]) -> Evaluation:
    """Score one row, or read the score that the same model on the same images with the same settings had."""
    folder = out / "evaluations" / row.stage
    scales = recipe.scales if row.multi_scale else (1.0,)
    # This recipe's, not the model card's: the CRF may change after training.
    crf = recipe.crf_settings if row.crf else False
    made_from = {
        "model": fingerprint_of(out / row.run),
        "scales": list(scales),
        "crf": vars(crf) if crf else None,
        "images": dict(zip(val.ids, digests_of(val.image_paths), strict=True)),
        "masks": digests_of([str(path) for path in val.mask_paths]),
    }
    note = folder / MADE_FROM
    known = evaluation_of(checked.note(folder / "evaluation.json")) if checked.note(note) == made_from else None
    if known is not None:
        return known
    note.unlink(missing_ok=True)
    evaluation = evaluate_model(out / row.run, val, scales=scales, crf=crf, out=folder, **options)
    write_json(note, made_from)
    return evaluation


def _class_counts(web: "Examples", table: ExampleTable) -> dict[str, dict[str, int]]:
    """Images retrieved, stored and used for training, by class."""
    kept = dict(zip(table.classes, (int(n) for n in table.labels.sum(axis=0)), strict=True))
    if isinstance(web, ExampleTable):
        return {name: {"retrieved": count, "stored": count, "kept": count} for name, count in kept.items()}
    from wss_data.store import drops, open_dataset

    dataset = open_dataset(table.source)
    stored, lost = dataset.count_values("label.label"), drops(dataset)
    return {
        name: {
            "retrieved": stored.get(name, 0) + sum(lost.get(name, {}).values()),
            "stored": stored.get(name, 0),
            "kept": count,
        }
        for name, count in kept.items()
    }


class _Costs:
    """Run time and memory of the stages, kept on disk so that a resumed ablation still knows the first ones."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.stages = {name: StageCost(**value) for name, value in checked.note(path).items()}
        except (TypeError, AttributeError):
            self.stages = {}  # not there, or somebody else's: then it is refused when it is to be replaced

    @contextmanager
    def of(self, stage: str, result: Callable[[], str]) -> Iterator[None]:
        """Measure one stage; one that only found its result keeps what that cost when it was made.

        Args:
            stage: Its name.
            result: Identifies what the stage made, once it has.
        """
        reset_peak()
        start = time.monotonic()
        yield
        cost = StageCost(round(time.monotonic() - start, 1), round(peak_megabytes(), 1), result())
        before = self.stages.get(stage)
        if before is None or before.result != cost.result:
            self.stages[stage] = cost
            known = {name: vars(value) for name, value in self.stages.items()}
            write_output(self.path, json.dumps(known, indent=2) + "\n")
