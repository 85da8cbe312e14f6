"""What is wrong with each class of an ablation, without a truth, and what to do next.

Looked at are the labels and pseudo masks of the train images, the kept web masks, and what the final model predicts on
the val images: neither the masks nor the labels of those. Whether the findings were right can be said after the fact,
where val has true masks (``check_findings``); that is kept apart, so that nothing is found by it.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from wss_data.errors import TrainingDataError
from wss_data.imaging.masks import read_mask
from wss_data.reading import checked
from wss_data.records import ExampleTable
from wss_data.runtime.files import check_outputs, output_folder, write_output
from wss_data.store import MASKS, open_dataset
from wss_train.checkpoints import read_card
from wss_train.data import UNEQUAL, as_table, check_training_table, with_labelled
from wss_train.evaluate import evaluation_of, with_masks
from wss_train.metrics import ConfusionMatrix
from wss_train.reports.check import FEW_IMAGES
from wss_train.reports.cooccurrence import counts_together
from wss_train.reports.failures import SMALLEST_OBJECT
from wss_train.reports.tables import markdown_table, number

Kind = Literal["few images", "missing", "merged"]

# A class is compared with the median of the others, so that a target or a recipe that is hard for all of them gives no
# finding; and it must be bad by itself, so that the last of many good ones gives none. The numbers are ours.
FEWER = 3  # times fewer images than the others: an image would have to be shown three times to make up for it
LOW_KEPT = 0.25  # fraction of the web images kept; in groups without trouble it is a half or more
FAR = 2  # times the others': poses and places alone make a class differ by half
NOT_SHOWN = 0.2, 0.5  # fraction of its images whose mask lacks a class: above the first if others are far below
EXCESS = 0.2  # fraction of the predictions that show both of two classes, beyond that of the labels that name both
ENOUGH = 10  # images below which a fraction is an anecdote

STAGE = "multi_label"  # row of the table that is looked at and checked: the final model, one scale, no CRF
HALF = 0.5  # recall below which "missing" was right
OUTPUTS = ("report.md", "report.json")

_QUERIES = "Add queries or photographs for {name} to the definition of {web}, and build it again (wss-data build)"
_LIKE_TARGET = f"{_QUERIES}: objects as the target shows them, small, cut off, beside others. Look at {{sheet}}."
_ALONE = f"{_QUERIES}: {{name}} without {{other}}, and {{other}} without {{name}}. Look at {{run}}/cooccurrence."
_KEEP = "See why in {sheet}, and keep what is good: wss-data verdict {web} --keep IMAGE."
_LABEL = "Label more images that show {name}; `--set balanced_sampling=true` repeats those there are."


def areas(masks: Sequence[Path | str | None], num_classes: int) -> np.ndarray:
    """Measure label masks on disk: the fraction of the decided pixels that each of the classes 1..C covers.

    ``num_classes``: with background, C + 1. Shape (N, C), float64, in [0, 1]. ``MaskError`` if one cannot be read.
    """

    def of_one(path: Path | str | None) -> np.ndarray:
        counts = np.bincount(read_mask(str(path)).ravel(), minlength=256)[:num_classes]
        return counts[1:] / max(int(counts.sum()), 1)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return np.array([*pool.map(of_one, masks)]).reshape(-1, num_classes - 1)


@dataclass(frozen=True)
class Signals:
    """What is known of each class without a truth. Shape (C,), float64, nan where unknown; fractions are in [0, 1]."""

    stored: np.ndarray  # web images
    kept: np.ndarray  # those that teach
    labelled: np.ndarray  # train images that are labelled with it
    not_shown: np.ndarray  # fraction of those whose mask does not show it
    area: np.ndarray  # mean fraction that it covers of those
    web_area: np.ndarray  # mean fraction that it covers of its kept web images
    together: np.ndarray  # (C, C): how much more often B is predicted beside A (row) than labelled beside it


def signals_of(
    stored: Sequence[int],
    web: np.ndarray,
    web_labels: np.ndarray,
    train: np.ndarray,
    labels: np.ndarray,
    seen: np.ndarray,
) -> Signals:
    """Signals of the classes 1..C. A mask shows a class of which it has more than a few pixels.

    Args:
        stored: Web images of each class, kept or not.
        web: ``areas`` of the kept web images' masks. Shape (N, C).
        web_labels: Classes of those. Shape (N, C), bool.
        train: ``areas`` of the train images' pseudo masks. Shape (M, C).
        labels: Image-level labels of those. Shape (M, C), bool.
        seen: ``areas`` of predictions that were made without labels; may be of no image. Shape (K, C).
    """
    both, shown = counts_together(labels), counts_together(seen >= SMALLEST_OBJECT)
    together = _divided(shown, np.diag(shown)[:, None], ENOUGH) - _divided(both, np.diag(both)[:, None])
    np.fill_diagonal(together, np.nan)
    return Signals(
        stored=np.asarray(stored, np.float64),
        kept=web_labels.sum(axis=0).astype(np.float64),
        labelled=labels.sum(axis=0).astype(np.float64),
        not_shown=_mean(labels & (train < SMALLEST_OBJECT), labels),
        area=_mean(train, labels),
        web_area=_mean(web, web_labels),
        together=together,
    )


def _divided(values: np.ndarray, by: np.ndarray, least: float = 1e-9) -> np.ndarray:
    """Quotients; nan where the divisor is below ``least``, or unknown."""
    return values / np.where(by >= least, by, np.nan)


def _mean(values: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Mean of each column over the rows that ``of`` chooses in it; nan without any. (N, C) each -> (C,)."""
    return _divided(np.where(of, values, 0).sum(axis=0), of.sum(axis=0))


@dataclass(frozen=True)
class ClassFinding:
    """One thing that is wrong with a class."""

    class_name: str
    kind: Kind
    why: str  # the numbers
    advice: str
    other: str | None = None  # the class that it merges with

    @property
    def what(self) -> str:
        """Its kind in words: ``merged with horse``."""
        return f"{self.kind} with {self.other}" if self.other else self.kind


def findings_of(signals: Signals, classes: Sequence[str], web: str = "WEB", run: str = "RUN") -> list[ClassFinding]:
    """What is wrong with each class, in their order; several signs of the same are one finding.

    ``web`` and ``run``: names of the web dataset and of the ablation's folder, for the advice.
    """
    signs: dict[tuple[str, Kind, str | None], dict[str, str]] = {}
    for position, name in enumerate(classes):
        sheet = f"{run}/pictures/cosegmentation_{name}.png"
        for kind, why, advice, place in _signs(signals, position):
            other = None if place is None else classes[place]
            filled = advice.format(name=name, other=other, web=web, run=run, sheet=sheet)
            signs.setdefault((name, kind, other), {})[why] = filled
    return [
        ClassFinding(name, kind, "; ".join(found), " ".join(dict.fromkeys(found.values())), other)
        for (name, kind, other), found in signs.items()
    ]


def _signs(s: Signals, c: int) -> Iterator[tuple[Kind, str, str, int | None]]:
    """What speaks of a fault of the class at position ``c``: kind, numbers, advice and position of the other class."""

    def others(values: np.ndarray) -> float:
        known = np.delete(values, c)
        return float(np.median(known[~np.isnan(known)])) if not np.isnan(known).all() else np.nan

    # What is unknown is nan, and no comparison with it is true.
    for counts, fewest, what, way_out in (
        (s.kept, FEW_IMAGES, "kept web images", f"{_QUERIES}."),
        (s.labelled, 1, "labelled train images", _LABEL),
    ):
        if counts[c] < fewest or FEWER * counts[c] < others(counts) or UNEQUAL * counts[c] <= counts.max():
            usual = f"the others have {number(others(counts), '.0f')}, the most frequent class {counts.max():.0f}"
            yield "few images", f"{counts[c]:.0f} {what}; {usual}", way_out, None
    effort, enlarged = _divided(s.stored, s.kept), _divided(s.web_area, s.area)
    # Kind; a measure, what it must exceed beside twice the others', and what alone; how it is said; advice.
    rules: tuple[tuple[Kind, np.ndarray, float, float, str, str, str], ...] = (
        ("few images", effort, 0, 1 / LOW_KEPT, ".1f", "{} web images were looked at for each kept", _KEEP),
        ("missing", s.not_shown, *NOT_SHOWN, ".0%", "{} of the masks of its images do not show it", _LIKE_TARGET),
        ("missing", enlarged, 0, np.inf, ".1f", "its web masks are {} times as large", _LIKE_TARGET),
    )
    for kind, values, least, much, form, words, way_out in rules:
        if values[c] > much or (values[c] > least and values[c] > FAR * others(values)):
            own, usual = number(values[c], form), number(others(values), form)
            yield kind, f"{words.format(own)} (the others: {usual})", way_out, None
    if (excess := np.nanmax(s.together[c], initial=0)) > EXCESS:
        why = f"{excess:.0%} more of its predictions show both than of its labels name both"
        yield "merged", why, _ALONE, int(np.nanargmax(s.together[c]))


class Check(NamedTuple):
    """How often the findings of one kind were right."""

    right: int
    found: int  # findings that the truth says something of
    faulty: int | None  # classes that have the fault, found or not; ``None`` for merged: each class has a worst other
    classes: int  # classes in the truth

    def __str__(self) -> str:
        of_all = "" if self.faulty is None else f"; {self.faulty} of {self.classes} classes have the fault"
        return f"{self.right} of {self.found} right{of_all}"


def check_findings(
    findings: Sequence[ClassFinding], matrix: ConfusionMatrix, classes: Sequence[str]
) -> dict[Kind, Check]:
    """How often findings were right, by a truth that they were made without. For people: nothing is chosen by it.

    Right is *missing* where less than half of the class's true pixels are found, *merged* where of all other classes
    the one named gets most of its pixels. *Few images* is a count, which needs no truth.
    """
    counts = matrix.counts.astype(np.float64)
    there = counts.sum(axis=1)[1:] > 0
    missing = there & (_divided(np.diag(counts)[1:], counts.sum(axis=1)[1:]) < HALF)
    taken = counts[1:, 1:]
    np.fill_diagonal(taken, 0)

    def judged(kind: Kind) -> list[tuple[int, str | None]]:
        places = [(classes.index(f.class_name), f.other) for f in findings if f.kind == kind]
        return [(c, other) for c, other in places if there[c]]

    lost, merged, known = judged("missing"), judged("merged"), int(there.sum())
    right = sum(bool(taken[c].any()) and classes[int(taken[c].argmax())] == other for c, other in merged)
    return {
        "missing": Check(sum(bool(missing[c]) for c, _ in lost), len(lost), int(missing.sum()), known),
        "merged": Check(right, len(merged), None, known),
    }


_COLUMNS = {
    "kept": ("web images", ".0f"),
    "labelled": ("labelled", ".0f"),
    "not_shown": ("not shown", ".0%"),
    "area": ("area", ".0%"),
    "web_area": ("web area", ".0%"),
}
"""Signal -> its column of the table, and how its numbers are written."""


@dataclass(frozen=True)
class RunReport:
    """The findings of an ablation, and, apart from them, how often they were right."""

    web: str
    target: str
    classes: tuple[str, ...]
    signals: Signals
    findings: tuple[ClassFinding, ...]
    checks: Mapping[Kind, Check]  # empty without a truth

    def to_markdown(self) -> str:
        """Table, findings with advice, and the check in a section of its own, as Markdown."""
        rows = [
            [name, *(number(getattr(self.signals, key)[c], form) for key, (_, form) in _COLUMNS.items())]
            for c, name in enumerate(self.classes)
        ]
        found = [f"- **{f.class_name}: {f.what}.** {f.why}. {f.advice}" for f in self.findings]
        lines = [
            f"# What is wrong with the classes: {self.web} to {self.target}",
            "",
            "No truth was used for the table and the findings.",
            "",
        ]
        lines += markdown_table(["class", *(column for column, _ in _COLUMNS.values())], rows)
        lines += ["", "## Findings, and what to do next", "", *(found or ["Nothing was found."]), ""]
        if self.checks:
            lines += [
                "## Checked against the val truth",
                "",
                "Everything above was found before, and without, the val masks. Right means: recall below a half for "
                "*missing*, the largest confusion for *merged*; of the final model at one scale.",
                "",
                *(f"- {kind}: {check}" for kind, check in self.checks.items()),
                "",
            ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``null`` where a number is not known."""
        columns = {key: values for key, values in vars(self.signals).items() if values.ndim == 1}
        return {
            "web": self.web,
            "target": self.target,
            "signals": {
                name: {k: None if np.isnan(values[c]) else round(float(values[c]), 4) for k, values in columns.items()}
                for c, name in enumerate(self.classes)
            },
            "findings": [asdict(finding) for finding in self.findings],
            "checked_against_the_val_truth": {kind: check._asdict() for kind, check in self.checks.items()},
        }


def report_on_run(run: Path | str) -> RunReport:
    """Say what is wrong with each class of an ablation, and what to do next; write ``report.md`` and ``report.json``.

    Args:
        run: Folder of ``wss-train ablation``, of one seed.

    Raises:
        TrainingDataError: If ``run`` is no finished ablation, or its datasets changed since.
        StoreError: If a dataset is gone.
        MaskError: If a mask cannot be read.
        OutputError: If a file is in the way that this program did not write, or that was changed since.
        BusyError: If the ablation is running.
    """
    run = Path(run)
    web, target, stored = _read_ablation(run)
    with output_folder(run):
        check_outputs([run / name for name in OUTPUTS])
        web_table, train = as_table(open_dataset(web), MASKS), as_table(open_dataset(target).match_tags("train"), None)
        labels_taught = read_card(run / "generator").recipe.label_weight > 0
        _check_unchanged(with_labelled(web_table, train) if labels_taught else web_table, run / "generator")
        pseudo = with_masks(train, run / "pseudo_masks")
        _check_unchanged(pseudo, run / "final")
        classes, predictions = pseudo.classes, sorted((run / "evaluations" / STAGE / "predictions").glob("*.png"))
        signals = signals_of(
            [stored.get(name, 0) for name in classes],
            areas(web_table.mask_paths, web_table.num_classes),
            web_table.labels,
            areas(pseudo.mask_paths, pseudo.num_classes),
            pseudo.labels,
            areas(predictions, pseudo.num_classes),
        )
        findings = findings_of(signals, classes, web, str(run))
        # From here on a truth is looked at, and nothing is found any more.
        scored = evaluation_of(checked.note(run / "evaluations" / STAGE / "evaluation.json"))
        checks = check_findings(findings, scored.matrix, classes) if scored and scored.classes == classes else {}
        report = RunReport(web, target, classes, signals, tuple(findings), checks)
        write_output(run / "report.md", report.to_markdown())
        write_output(run / "report.json", json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n")
    return report


def _read_ablation(run: Path) -> tuple[str, str, dict[str, int]]:
    """Names of the web and the target dataset of an ablation, and web images that each class had."""
    path = run / "ablation.json"
    if not path.is_file():
        begun = (run / "generator").is_dir() or (run / "costs.json").is_file()
        raise TrainingDataError(
            f"{run}: the ablation has not ended. Repeat its command: stages that are done are found again."
            if begun
            else f"{run}: holds no ablation. Name the folder of one: wss-train ablation WEB TARGET --out {run}."
        )
    try:
        value = checked.an_object(checked.read_json(path))
        if "by_seed" in value:
            raise TrainingDataError(f"{run}: is an ablation over seeds. Name the folder of one, such as {run}/seed_0.")
        counts = checked.an_object(value["counts"])
        stored = {
            name: checked.whole(checked.an_object(of)["stored"], f"stored of {name}", 0)
            for name, of in checked.an_object(counts["classes"]).items()
        }
        return checked.identity(counts["web"], "web"), checked.identity(counts["target"], "target"), stored
    except (ValueError, KeyError) as error:
        raise TrainingDataError(
            f"{path}: is no table of an ablation ({error}). Run wss-train ablation again."
        ) from error


def _check_unchanged(table: ExampleTable, trained: Path) -> None:
    """Refuse a table that is not the one that the model in the run folder ``trained`` learned from."""
    known = checked.note(trained / "data.json")
    fingerprint = check_training_table(table, labels_teach=None in table.mask_paths).fingerprint
    if not isinstance(known, dict) or known.get("fingerprint") != fingerprint:
        raise TrainingDataError(
            f"dataset '{table.source}': images, labels or masks are not those that {trained} learned from. Run "
            "wss-train ablation again; what is wrong with the new ones cannot be seen before."
        )
