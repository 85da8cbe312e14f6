"""Score a model on a split: one confusion matrix, IoU per class and their mean."""

import json
import math
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from tqdm import tqdm

from wss_data.crf.settings import CrfSettings
from wss_data.errors import TrainingDataError
from wss_data.imaging.masks import IGNORE_INDEX, read_mask, write_mask
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.reading import checked
from wss_data.records import ExampleTable
from wss_data.runtime.files import check_outputs, digests_of, output_folder, output_path, write_output
from wss_data.runtime.threads import in_threads
from wss_train.checkpoints import fingerprint_of
from wss_train.data import as_table, check_imported
from wss_train.labelling import LabelledImage, LabellingOptions, open_labeller
from wss_train.metrics import ConfusionMatrix
from wss_train.reports.sheets import write_failures
from wss_train.reports.tables import markdown_table, percent

if TYPE_CHECKING:
    from wss_train.data import Examples


@dataclass(frozen=True)
class Evaluation:
    """How well a model segments a split."""

    classes: tuple[str, ...]  # names of the classes 1..C
    matrix: ConfusionMatrix  # all pixels of the split that are not void
    images: int  # number of images
    scales: tuple[float, ...]  # image scales whose probabilities were averaged; none where masks from files were scored
    crf: bool  # whether a dense CRF sharpened the masks
    seconds: float  # run time
    source: str  # name of the dataset
    ledger: Ledger  # what the model learned from, and that these masks gave the score

    @property
    def mean_iou(self) -> float:
        """Mean IoU of ``mean_over`` classes, in [0, 1]."""
        return self.matrix.mean_iou

    @property
    def mean_over(self) -> int:
        """Classes, with background, that the mean is taken over: those in the truth or in the prediction."""
        return sum(value is not None for value in self.per_class().values())

    def mean_of(self) -> str:
        """What the mean is taken over: ``4 classes``, or ``2 of 4 classes (cat, dog are in no mask)``."""
        absent = [name for name, value in self.per_class().items() if value is None]
        if not absent:
            return f"{self.mean_over} classes"
        named = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        verb = "is" if len(absent) == 1 else "are"
        return f"{self.mean_over} of {len(self.classes) + 1} classes ({named} {verb} in no mask)"

    def per_class(self) -> dict[str, float | None]:
        """IoU in [0, 1] of background and each class; ``None`` for a class in neither truth nor prediction."""
        names = ("background", *self.classes)
        values = (float(value) for value in self.matrix.iou)
        return {name: None if math.isnan(value) else value for name, value in zip(names, values, strict=True)}

    def __str__(self) -> str:
        lines = [f"{name:<16}{percent(value):>6}" for name, value in self.per_class().items()]
        return "\n".join([*lines, self._last_line()])

    def to_markdown(self) -> str:
        """The scores as a Markdown table."""
        of = "" if self.mean_over > len(self.classes) else f" of {self.mean_over}"
        rows = [(name, percent(value)) for name, value in self.per_class().items()]
        table = markdown_table(["class", "IoU, %"], [*rows, (f"**mean{of}**", f"**{percent(self.mean_iou)}**")])
        return "\n".join([*table, "", self._last_line(), ""])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "mean_iou": self.mean_iou,
            "mean_over_classes": self.mean_over,
            "iou": self.per_class(),
            "pixel_accuracy": self.matrix.pixel_accuracy,
            "images": self.images,
            "source": self.source,
            "scales": list(self.scales),
            "crf": self.crf,
            "seconds": round(self.seconds, 1),
            "confusion_matrix": self.matrix.to_dict(),
            "classes": list(self.classes),
            "ledger": self.ledger.to_dict(),
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Evaluation":
        """The evaluation that ``to_dict`` wrote."""
        return cls(
            tuple(value["classes"]),
            ConfusionMatrix.from_dict(value["confusion_matrix"]),
            scales=tuple(value["scales"]),
            ledger=Ledger.from_dict(value["ledger"]),
            **{name: value[name] for name in ("images", "crf", "seconds", "source")},
        )

    def write(self, out: Path, notes: dict[str, Any]) -> None:
        """Write ``evaluation.json``, with ``notes`` in it, and ``evaluation.md``."""
        write_output(out / "evaluation.json", json.dumps(self.to_dict() | notes, indent=2, ensure_ascii=False) + "\n")
        write_output(out / "evaluation.md", self.to_markdown())

    def _last_line(self) -> str:
        how = "masks from files"
        if self.scales:
            scales = "one scale" if len(self.scales) == 1 else f"{len(self.scales)} scales"
            how = f"{scales}, {'with' if self.crf else 'no'} CRF"
        return f"mean IoU {percent(self.mean_iou)} % over {self.mean_of()}, {self.images} images; {how}"


def evaluate_model(
    checkpoint: Path | str,
    target: "Examples",
    *,
    out: Path | str | None = None,
    **options: Unpack[LabellingOptions],
) -> Evaluation:
    """Score a model against masks drawn by people. Nothing is chosen by the score.

    Args:
        checkpoint: Run folder or ``model.safetensors``.
        target: FiftyOne dataset or view, such as ``target.match_tags("val")``, with true masks in the field
            ``ground_truth``, or a table (``truth_table`` reads another field); images without one are left out.
        out: Folder for ``evaluation.json``, ``evaluation.md``, ``failures.png`` and ``predictions/<id>.png``; ``None``
            to keep none.
        **options: See ``LabellingOptions``; one scale and no CRF by default.

    Raises:
        CheckpointError: If the model is missing or knows other classes than the dataset.
        TrainingDataError: If an image cannot be read, or a mask does not fit its image or the classes.
        OutputError: If a file in ``out`` is in the way that this program did not write, or that was changed since.
        BusyError: If another process writes into ``out``.

    Source:
        Shen et al., BMVC 2017, section 4: mean IoU as PASCAL VOC counts it.
    """
    start = time.monotonic()
    table = truth_table(target)
    if table.sha256 is not None:
        check_imported(table, digests_of(table.image_paths))
    labeller = open_labeller(checkpoint, options, table.classes)
    folder = None if out is None else Path(out)
    with nullcontext() if folder is None else output_folder(folder):
        if folder is not None:
            _check_outputs(folder, ["failures.png", *(f"predictions/{name}.png" for name in table.ids)])
        matrix = ConfusionMatrix(table.num_classes, table.ignore_index)

        def score(result: LabelledImage) -> ConfusionMatrix:
            if result.mask is None:
                raise TrainingDataError(f"the split cannot be scored: {result.error}")
            truth = str(table.mask_paths[result.position])
            part = _counted(matrix, truth, result.mask, f"{truth}: the mask cannot be scored")
            if folder is not None:
                with output_path(folder / "predictions" / f"{table.ids[result.position]}.png") as temporary:
                    write_mask(result.mask, temporary)
            return part

        for part in labeller.label(table.image_paths, score, "evaluate"):
            matrix.merge(part)
        evaluation = Evaluation(
            classes=table.classes,
            matrix=matrix,
            images=len(table),
            scales=labeller.settings.scales,
            crf=labeller.crf is not None,
            seconds=time.monotonic() - start,
            source=table.source,
            ledger=labeller.card.ledger.merged_with(table.ledger),
        )
        if folder is not None:
            evaluation.write(folder, {"checkpoint": str(checkpoint), "inference": asdict(labeller.settings)})
            write_failures(table, folder / "predictions", folder / "failures.png")
    return evaluation


def evaluated_once(
    note: Path, checkpoint: Path, table: ExampleTable, out: Path | None = None, **options: Unpack[LabellingOptions]
) -> Evaluation:
    """The score of a model, or the one that ``note`` holds of the same model, images, masks and settings.

    ``note``: JSON file that remembers the score and what it was made from. The others: see ``evaluate_model``.
    """
    crf = options.get("crf")
    made_from = {
        "model": fingerprint_of(checkpoint),
        "scales": list(options.get("scales") or (1.0,)),
        "crf": vars(crf) if isinstance(crf, CrfSettings) else crf,
        "classes": list(table.classes),
        "images": dict(zip(table.ids, digests_of(table.image_paths), strict=True)),
        "masks": digests_of([str(path) for path in table.mask_paths]),
    }
    known = checked.note(note)
    same = isinstance(known, dict) and known.get("made_from") == made_from
    if same and (found := evaluation_of(known.get("evaluation"))) is not None:
        return found
    # First of all: whoever is stopped in between must not find the old score beside new predictions.
    note.unlink(missing_ok=True)
    evaluation = evaluate_model(checkpoint, table, out=out, **options)
    write_output(note, json.dumps({"made_from": made_from, "evaluation": evaluation.to_dict()}, indent=2) + "\n")
    return evaluation


def _check_outputs(out: Path, names: Sequence[str] = ()) -> None:
    """Refuse to replace what this program did not write: the scores, and the files ``names``."""
    known = evaluation_of(checked.note(out / "evaluation.json"))
    check_outputs([out / name for name in ("evaluation.json", "evaluation.md", *names)], proved=known is not None)


def evaluation_of(value: Any) -> Evaluation | None:
    """The evaluation in the values of a JSON file, or ``None`` if ``Evaluation.to_dict`` did not write them."""
    try:
        return Evaluation.from_dict(value)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None


def _counted(of: ConfusionMatrix, truth: Path | str, prediction: np.ndarray, problem: str) -> ConfusionMatrix:
    """One prediction against a mask file, by the classes ``of`` a split; ``problem`` begins an error's sentence."""
    matrix = ConfusionMatrix(of.num_classes, of.ignore_index)
    try:
        matrix.update(read_mask(truth), prediction)
    except ValueError as error:
        raise TrainingDataError(f"{problem}: {error}.") from error
    return matrix


def with_masks(table: ExampleTable, folder: Path) -> ExampleTable:
    """The table with the masks ``<id>.png`` of a folder, such as ``predictions`` of ``wss-train evaluate``.

    Raises:
        TrainingDataError: If the folder has no mask for an image.
    """
    paths = [folder / f"{name}.png" for name in table.ids]
    # All of them are wanted: the score of some images would say little of all.
    if missing := [path for path in paths if not path.is_file()]:
        raise TrainingDataError(
            f"{folder}: {len(missing)} of {len(paths)} masks are missing, the first is {missing[0].name}. Masks of all "
            "images of the split are wanted: predict all of them, or choose the split that they belong to (--split)."
        )
    return replace(table, mask_paths=tuple(map(str, paths)))


def score_masks(
    predictions: Path | str,
    target: "Examples",
    *,
    out: Path | str | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """Score masks on disk, from whatever model, against masks drawn by people.

    Scales and CRF are not known, and what the masks were made from is unknown supervision.

    Args:
        predictions: Folder of label masks, ``<id>.png``, such as the ``predictions`` that ``evaluate_model`` writes.
        target: See ``evaluate_model``.
        out: Folder for ``evaluation.json`` and ``evaluation.md``; ``None`` to keep none.
        workers: Threads that read and count; ``None`` for one a processor.
        progress: Whether to show a progress bar.

    Raises:
        TrainingDataError: If a mask is missing, or does not fit its image or the classes.
        MaskError: If a mask cannot be read.
    """
    start = time.monotonic()
    table, folder = truth_table(target), Path(predictions)
    if out is not None:
        _check_outputs(Path(out))
    truths, found = ([str(path) for path in each.mask_paths] for each in (table, with_masks(table, folder)))
    matrix = evaluate_masks(truths, found, table.num_classes, table.ignore_index, workers, progress)
    ledger = table.ledger.add(f"masks in {folder.name}", Supervision.UNKNOWN, UsedFor.TRAINING)
    evaluation = Evaluation(
        table.classes, matrix, len(table), (), False, time.monotonic() - start, table.source, ledger
    )
    if out is not None:
        evaluation.write(Path(out), {"predictions": str(folder)})
    return evaluation


def evaluate_masks(
    truths: Sequence[Path | str],
    predictions: Sequence[Path | str],
    num_classes: int,
    ignore_index: int = IGNORE_INDEX,
    workers: int | None = None,
    progress: bool = False,
) -> ConfusionMatrix:
    """One confusion matrix of mask files against others: no database, no model.

    Args:
        truths: Label masks drawn by people: palette or greyscale PNGs of class indices.
        predictions: As many label masks, in the same order.
        num_classes: Number of classes with background, C + 1.
        ignore_index: Value of void pixels in the truths.
        workers: As in ``score_masks``, whose errors it raises.
        progress: Likewise.
    """
    if len(truths) != len(predictions):
        raise TrainingDataError(
            f"{len(truths)} true masks and {len(predictions)} predictions; one prediction for each is wanted."
        )

    matrix = ConfusionMatrix(num_classes, ignore_index)

    def count(pair: tuple[Path | str, Path | str]) -> ConfusionMatrix:
        truth, prediction = pair
        return _counted(
            matrix, truth, read_mask(prediction), f"{prediction}: the mask cannot be scored against {truth}"
        )

    threads = workers or len(os.sched_getaffinity(0))
    parts = in_threads(count, zip(truths, predictions, strict=True), threads, ahead=4 * threads)
    for part in tqdm(parts, total=len(truths), desc="score", unit="image", disable=not progress):
        matrix.merge(part)
    return matrix


def truth_table(target: "Examples", mask_field: str = "ground_truth") -> ExampleTable:
    """The images of a dataset or view that have a true mask, with a ledger that says it is for the final score."""
    return as_table(target, mask_field, UsedFor.FINAL_SCORE)
