"""Score a model on a split: one confusion matrix, IoU per class and their mean."""

import json
import math
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from wss_data.crf.dense_crf import CrfSettings
from wss_data.errors import TrainingDataError
from wss_data.imaging.masks import IGNORE_INDEX, read_mask, write_mask
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.reading import checked
from wss_data.records import ExampleTable
from wss_data.runtime.files import check_outputs, digests_of, output_folder, output_path, write_output
from wss_train.data import check_imported
from wss_train.engine.threads import in_threads
from wss_train.inference import device_of, predict_files, settings_for
from wss_train.labelling import LabelledImage, chosen_crf, label_images, pixels_of
from wss_train.metrics import ConfusionMatrix
from wss_train.models import load_model
from wss_train.reports.failures import write_failures

if TYPE_CHECKING:
    from wss_train.data import Examples


@dataclass(frozen=True)
class Evaluation:
    """How well a model segments a split.

    Args:
        classes: Names of the classes 1..C.
        matrix: All pixels of the split that are not void.
        images: Number of images.
        scales: Image scales whose probabilities were averaged; none where masks from files were scored.
        crf: Whether a dense CRF sharpened the masks.
        seconds: Run time.
        source: Name of the dataset.
        ledger: What the model learned from, and that these masks gave the score.
    """

    classes: tuple[str, ...]
    matrix: ConfusionMatrix
    images: int
    scales: tuple[float, ...]
    crf: bool
    seconds: float
    source: str
    ledger: Ledger

    @property
    def mean_iou(self) -> float:
        """Mean of the classes' intersection over union, background included, in [0, 1]; over ``mean_over`` of them."""
        return self.matrix.mean_iou

    @property
    def mean_over(self) -> int:
        """Classes, with background, that the mean is taken over: those in the truth or in the prediction."""
        return sum(value is not None for value in self.per_class().values())

    def mean_of(self) -> str:
        """What the mean is taken over: ``4 classes``, or ``2 of 4 classes (cat, dog are in no mask)``."""
        absent = [name for name, value in self.per_class().items() if value is None]
        if not absent:
            return f"{len(self.classes) + 1} classes"
        named = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        verb = "is" if len(absent) == 1 else "are"
        return f"{self.mean_over} of {len(self.classes) + 1} classes ({named} {verb} in no mask)"

    def per_class(self) -> dict[str, float | None]:
        """IoU in [0, 1] of background and each class; ``None`` for a class in neither truth nor prediction."""
        names = ("background", *self.classes)
        values = (float(value) for value in self.matrix.iou)
        return {name: None if math.isnan(value) else value for name, value in zip(names, values, strict=True)}

    def __str__(self) -> str:
        return "\n".join([*(_line(name, value) for name, value in self.per_class().items()), self._last_line()])

    def to_markdown(self) -> str:
        """The scores as a Markdown table."""
        rows = ["| class | IoU, % |", "|---|---:|"]
        rows += [f"| {name} | {percent(value)} |" for name, value in self.per_class().items()]
        of = "" if self.mean_over > len(self.classes) else f" of {self.mean_over}"
        return "\n".join([*rows, f"| **mean{of}** | **{percent(self.mean_iou)}** |", "", self._last_line(), ""])

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
            classes=tuple(value["classes"]),
            matrix=ConfusionMatrix.from_dict(value["confusion_matrix"]),
            images=value["images"],
            scales=tuple(value["scales"]),
            crf=value["crf"],
            seconds=value["seconds"],
            source=value["source"],
            ledger=Ledger.from_dict(value["ledger"]),
        )

    def _last_line(self) -> str:
        how = "masks from files"
        if self.scales:
            scales = "one scale" if len(self.scales) == 1 else f"{len(self.scales)} scales"
            how = f"{scales}, {'with' if self.crf else 'no'} CRF"
        return f"mean IoU {percent(self.mean_iou)} % over {self.mean_of()}, {self.images} images; {how}"


def percent(value: float | None) -> str:
    """A share in [0, 1] as percent with one digit; a dash for ``None`` or nan."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def _line(name: str, value: float | None) -> str:
    return f"{name:<16}{percent(value):>6}"


def evaluate_model(
    checkpoint: Path | str,
    target: "Examples",
    *,
    scales: Sequence[float] = (1.0,),
    crf: bool | CrfSettings = False,
    out: Path | str | None = None,
    mask_field: str = "ground_truth",
    device: str | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """Score a model against masks drawn by people. Nothing is chosen by the score.

    Args:
        checkpoint: Run folder or ``model.safetensors``.
        target: FiftyOne dataset or view, such as ``target.match_tags("val")``, or a table; images without a true mask
            are left out.
        scales: Image scales whose probabilities are averaged; one scale by default.
        crf: Whether a dense CRF sharpens the masks; ``True`` takes the settings of the model's recipe.
        out: Folder for ``evaluation.json``, ``evaluation.md``, ``failures.png`` and ``predictions/<id>.png``; ``None``
            to keep none.
        mask_field: Field that holds the true masks.
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``None`` for the GPU if there is one.
        workers: Threads or processes of the CRF; ``None`` for one a processor.
        progress: Whether to show a progress bar.

    Returns:
        The scores.

    Raises:
        CheckpointError: If the model is missing or knows other classes than the dataset.
        TrainingDataError: If an image cannot be read, or a mask does not fit its image or the classes.
        OutputError: If a file in ``out`` is in the way that this program did not write, or that was changed since.
        BusyError: If another process writes into ``out``.

    Source:
        Shen et al., BMVC 2017, section 4: mean IoU as PASCAL VOC counts it.
    """
    start = time.monotonic()
    table = truth_table(target, mask_field)
    if table.sha256 is not None:
        check_imported(table, digests_of(table.image_paths))
    place = device_of(device)
    model, card = load_model(checkpoint, table.classes, place)
    settings = settings_for(card, scales, place)
    with nullcontext() if out is None else output_folder(Path(out)):
        if out is not None:
            _check_outputs(Path(out), table, predictions=True)
        matrix = ConfusionMatrix(table.num_classes, table.ignore_index)
        images = predict_files(model, table.image_paths, settings)
        labelled = label_images(images, None, chosen_crf(crf, card.recipe), workers)
        score = partial(_score, table=table, predictions=None if out is None else Path(out) / "predictions")
        parts = in_threads(score, labelled, pixels=pixels_of)
        for part in tqdm(parts, total=len(table), desc="evaluate", unit="image", disable=not progress):
            matrix.merge(part)
        evaluation = Evaluation(
            classes=table.classes,
            matrix=matrix,
            images=len(table),
            scales=settings.scales,
            crf=bool(crf),
            seconds=time.monotonic() - start,
            source=table.source,
            ledger=card.ledger.merged_with(table.ledger),
        )
        if out is not None:
            settings_of_run = {"checkpoint": str(checkpoint), "inference": asdict(settings)}
            _write(evaluation, settings_of_run, Path(out))
            write_failures(table, Path(out) / "predictions", Path(out) / "failures.png")
    return evaluation


def _check_outputs(out: Path, table: ExampleTable, predictions: bool) -> None:
    """Refuse to replace what this program did not write."""
    names = ["evaluation.json", "evaluation.md"]
    if predictions:
        names += ["failures.png", *(f"predictions/{name}.png" for name in table.ids)]
    known = evaluation_of(checked.note(out / "evaluation.json"))
    check_outputs([out / name for name in names], proved=known is not None)


def evaluation_of(value: Any) -> Evaluation | None:
    """The evaluation in the values of a JSON file, or ``None`` if ``Evaluation.to_dict`` did not write them."""
    try:
        return Evaluation.from_dict(value)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None


def _write(evaluation: Evaluation, settings: dict[str, Any], out: Path) -> None:
    value = json.dumps(evaluation.to_dict() | settings, indent=2, ensure_ascii=False)
    write_output(out / "evaluation.json", f"{value}\n")
    write_output(out / "evaluation.md", evaluation.to_markdown())


def _score(result: LabelledImage, table: ExampleTable, predictions: Path | None) -> ConfusionMatrix:
    """Count one image, and keep its mask below ``predictions``. Raises as ``evaluate_model``."""
    if result.mask is None:
        raise TrainingDataError(f"the split cannot be scored: {result.error}")
    mask_path = str(table.mask_paths[result.position])
    matrix = ConfusionMatrix(table.num_classes, table.ignore_index)
    try:
        matrix.update(read_mask(mask_path), result.mask)
    except ValueError as error:
        raise TrainingDataError(f"{mask_path}: the mask cannot be scored: {error}.") from error
    if predictions is not None:
        with output_path(predictions / f"{table.ids[result.position]}.png") as temporary:
            write_mask(result.mask, temporary)
    return matrix


def score_masks(
    predictions: Path | str,
    target: "Examples",
    *,
    out: Path | str | None = None,
    mask_field: str = "ground_truth",
    workers: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """Score masks on disk, from whatever model, against masks drawn by people.

    Args:
        predictions: Folder of label masks, ``<id>.png``, such as the ``predictions`` that ``evaluate_model`` writes.
        target: FiftyOne dataset or view, or a table; images without a true mask are left out.
        out: Folder for ``evaluation.json`` and ``evaluation.md``; ``None`` to keep none.
        mask_field: Field that holds the true masks.
        workers: Threads that read and count; ``None`` for one a processor.
        progress: Whether to show a progress bar.

    Returns:
        The scores. Scales and CRF are not known, and what the masks were made from is unknown supervision.

    Raises:
        TrainingDataError: If a mask is missing, or does not fit its image or the classes.
        MaskError: If a mask cannot be read.

    Source:
        Shen et al., BMVC 2017, section 4: mean IoU as PASCAL VOC counts it.
    """
    start = time.monotonic()
    table, folder = truth_table(target, mask_field), Path(predictions)
    if out is not None:
        _check_outputs(Path(out), table, predictions=False)
    found = [folder / f"{name}.png" for name in table.ids]
    if missing := [path for path in found if not path.is_file()]:
        raise TrainingDataError(
            f"{folder}: {len(missing)} of {len(found)} masks are missing, the first is {missing[0].name}. A score over "
            "some of the images means nothing; predict all of them, or take the others out of the split."
        )
    truths = [str(path) for path in table.mask_paths]
    matrix = evaluate_masks(truths, found, table.num_classes, table.ignore_index, workers, progress)
    ledger = table.ledger.add(f"masks in {folder.name}", Supervision.UNKNOWN, UsedFor.TRAINING)
    evaluation = Evaluation(
        table.classes, matrix, len(table), (), False, time.monotonic() - start, table.source, ledger
    )
    if out is not None:
        _write(evaluation, {"predictions": str(folder)}, Path(out))
    return evaluation


def evaluate_masks(
    truths: Sequence[Path | str],
    predictions: Sequence[Path | str],
    num_classes: int,
    ignore_index: int = IGNORE_INDEX,
    workers: int | None = None,
    progress: bool = False,
) -> ConfusionMatrix:
    """Count the pixels of mask files against those of others; no database, no model.

    Args:
        truths: Label masks drawn by people: palette or greyscale PNGs of class indices.
        predictions: As many label masks, in the same order.
        num_classes: Number of classes with background, C + 1.
        ignore_index: Value of void pixels in the truths.
        workers: Threads that read and count; ``None`` for one a processor.
        progress: Whether to show a progress bar.

    Returns:
        One confusion matrix over all pairs.

    Raises:
        TrainingDataError: If the numbers of files differ, or a pair does not fit together or to the classes.
        MaskError: If a mask is missing or cannot be read.

    Source:
        Everingham et al., The PASCAL Visual Object Classes Challenge 2012 development kit, ``VOCevalseg.m``.
    """
    if len(truths) != len(predictions):
        raise TrainingDataError(
            f"{len(truths)} true masks and {len(predictions)} predictions; one prediction for each is wanted."
        )
    matrix = ConfusionMatrix(num_classes, ignore_index)
    count = partial(_matrix_of, num_classes=num_classes, ignore_index=ignore_index)
    threads = workers or len(os.sched_getaffinity(0))
    parts = in_threads(count, zip(truths, predictions, strict=True), threads, ahead=4 * threads)
    for part in tqdm(parts, total=len(truths), desc="score", unit="image", disable=not progress):
        matrix.merge(part)
    return matrix


def _matrix_of(pair: tuple[Path | str, Path | str], num_classes: int, ignore_index: int) -> ConfusionMatrix:
    truth, prediction = pair
    matrix = ConfusionMatrix(num_classes, ignore_index)
    try:
        matrix.update(read_mask(truth), read_mask(prediction))
    except ValueError as error:
        raise TrainingDataError(f"{prediction}: the mask cannot be scored against {truth}: {error}.") from error
    return matrix


def truth_table(target: "Examples", mask_field: str = "ground_truth") -> ExampleTable:
    """The images of a dataset or view that have a true mask, with a ledger that says it is for the final score."""
    if isinstance(target, ExampleTable):
        return target
    from wss_data.store import example_table

    return example_table(target, mask_field, used_for=UsedFor.FINAL_SCORE)
