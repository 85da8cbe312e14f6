"""After the fact: whether the signals that chose a state of a network deserve trust.

The one place where signals meet true masks. It is for a run that has ended, changes
nothing in its model, and its scores must not choose a state: that would be the
pixel supervision that ``wss_train.selection.selection`` does without.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from wss_data.errors import CheckpointError, shown
from wss_data.imaging.sheets import FAINT, INK, KEPT
from wss_data.ledger import Ledger
from wss_data.reading import checked
from wss_data.reading.cells import csv_text
from wss_data.runtime.files import check_outputs, output_folder, output_path, write_output
from wss_train.checkpoints import read_card
from wss_train.evaluate import evaluated_once, truth_table
from wss_train.labelling import LabellingOptions
from wss_train.reports.tables import ledger_lines, markdown_table, number, percent
from wss_train.selection.probes import best_look, settled_look, smoothed
from wss_train.selection.selection import REPORT, SIGNALS, Look, read_signals, signal, snapshots

if TYPE_CHECKING:
    from wss_train.data import Examples

SETTLED = 0.02  # Fraction of changed pixels below which ``change`` would have stopped the run, in the table. Ours.

_NAMES = {
    "labels": "labels: F1 of predicted classes",
    "labels_ap": "labels: average precision",
    "agreement": "agreement with held-out masks",
    "change": f"change: settled at {100 * SETTLED:g} %",
}


class Choice(NamedTuple):
    """What one way to choose a state would have taken; nan where there is no such number."""

    name: str  # the signal, or ``last``
    correlation: float  # Spearman's, of signal and true mean IoU over the looks; of ``change`` with its sign turned
    iteration: int | None  # the state it takes; ``None`` if it takes none
    mean_iou: float  # true mean IoU of that state, in [0, 1]
    lost: float  # the best true mean IoU less this one


@dataclass(frozen=True)
class SelectionReport:
    """Signals beside the truth."""

    looks: list[Look]  # the looks of the run, in their order
    mean_iou: np.ndarray  # true mean IoU of each, in [0, 1]; nan where the weights were not kept. Not all are nan
    chosen_by: str  # the signal that chose the model
    chosen: int  # iterations of the model
    smooth: int  # looks that are averaged
    images: int  # images with true masks
    source: str  # name of their dataset
    ledger: Ledger  # what the model learned from, and that these masks gave scores

    @property
    def iterations(self) -> list[int]:
        """Iterations of the looks."""
        return [look.iteration for look in self.looks]

    def choices(self) -> list[Choice]:
        """Each signal that the run has, then the last state."""
        found = []
        for name in SIGNALS:
            values = signal(self.looks, name)
            if np.isnan(values).all():
                continue
            if name == "change":
                correlation = rank_correlation(-values, self.mean_iou)
                position = settled_look(values, SETTLED, self.smooth)
            else:
                correlation = rank_correlation(values, self.mean_iou)
                # As a run chooses: the means are over all looks, the choice is among those whose weights are there.
                means = np.where(np.isnan(self.mean_iou), np.nan, smoothed(values, self.smooth))
                position = best_look(means, 1)
            found.append(self._choice(name, correlation, position))
        return [*found, self._choice("last", math.nan, len(self.looks) - 1)]

    def _choice(self, name: str, correlation: float, position: int | None) -> Choice:
        if position is None:
            return Choice(name, correlation, None, math.nan, math.nan)
        value = float(self.mean_iou[position])
        return Choice(name, correlation, self.iterations[position], value, float(np.nanmax(self.mean_iou)) - value)

    def to_markdown(self) -> str:
        """The table and how to read it."""
        best = int(np.nanargmax(self.mean_iou))
        missing = int(np.isnan(self.mean_iou).sum())
        reached, end = (float(self.mean_iou[position]) for position in (best, -1))
        last = "no score" if math.isnan(end) else f"{percent(end)} %, {100 * (reached - end):.1f} points less"
        rows = []
        for choice in self.choices():
            name = _NAMES.get(choice.name, "nothing: the last state")
            rows.append(
                [
                    f"**{name}**" if choice.name == self.chosen_by else name,
                    number(choice.correlation, "+.2f"),
                    number(choice.iteration, ","),
                    percent(choice.mean_iou),
                    percent(choice.lost),
                ]
            )
        lines = [
            "# Signals beside the truth",
            "",
            f"The true masks of {self.images} images of {self.source or 'a table'} were looked at for this report "
            "only, after the run had ended. They chose nothing; a state chosen by the last column of `selection.csv` "
            "would have learned from masks.",
            "",
            f"The best of {len(self.looks) - missing} looks by the truth: iteration {self.iterations[best]:,} with "
            f"mean IoU {percent(reached)} %. The last, {self.iterations[-1]:,}, has {last}.",
            "",
            *markdown_table(["chosen by", "rank correlation", "iteration", "true mean IoU, %", "lost, points"], rows),
            "",
            f"Bold: what the run chose by; its model is iteration {self.chosen:,}. Each signal takes the "
            f"state whose mean over {self.smooth} looks is best. The correlation is Spearman's, over the looks; that "
            "of change has its sign turned. Small differences may be no more than another seed gives.",
        ]
        if missing:
            lines += [
                "",
                f"{missing} looks have no score: their weights were not kept. Train with `--keep-snapshots` to "
                "have all; of the few that are left correlation and loss say little.",
            ]
        return "\n".join([*lines, "", *ledger_lines(self.ledger), ""])

    def to_csv(self) -> str:
        """One row a look: iteration, signals, true mean IoU."""
        rows = (
            [look.iteration, *(number(value, ".6g", "") for value in (*look.values.values(), score))]
            for look, score in zip(self.looks, self.mean_iou, strict=True)
        )
        return csv_text(["iteration", *SIGNALS, "true_mean_iou"], rows, str)  # Numbers: nothing to take for a formula.


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation over the looks where both are numbers, shape (N,); nan where it is not defined."""
    both = ~(np.isnan(one) | np.isnan(other))
    # SciPy warns of fewer than two numbers, and where all of one are equal.
    if any(len(np.unique(values[both])) < 2 for values in (one, other)):
        return math.nan
    return float(spearmanr(one[both], other[both]).statistic)


def selection_report(
    run: Path | str, target: "Examples", out: Path | str | None = None, **options: Unpack[LabellingOptions]
) -> SelectionReport:
    """Score every state of a run that was kept against true masks, beside what the signals said of it.

    Scores are kept, so a call that was stopped goes on.

    Args:
        run: Run folder of a run that has ended, trained with ``select``, best with ``keep_snapshots``.
        target: FiftyOne dataset or view with true masks, such as ``target.match_tags("val")``, or a table.
        out: Folder for ``selection.md``, ``selection.csv``, ``selection.png`` and the scores; ``None`` for
            ``selection_report`` in the run folder.
        **options: See ``LabellingOptions``; one scale and no CRF by default.

    Raises:
        CheckpointError: If the run has not ended, nobody looked at it, or no weights are left.
        TrainingDataError: If the split cannot be scored.
        OutputError: If a file in ``out`` is in the way that this program did not write, or that was changed since.
    """
    run = Path(run)
    out = run / REPORT if out is None else Path(out)
    # Of the model, not of a checkpoint: an unfinished run might still be changed by what is seen here.
    card = read_card(run)
    looks, kept = read_signals(run), snapshots(run)
    if not any(look.iteration in kept for look in looks):
        raise CheckpointError(
            f"{run}: the run holds no {'weights of a look' if looks else 'signals'} to compare with the truth. Train "
            "with --select labels or --select agreement, and --keep-snapshots."
        )
    plan = _plan(run)
    table = truth_table(target)
    with output_folder(out):
        csv_file = out / "selection.csv"
        proved = csv_file.is_file() and csv_file.read_bytes().startswith(",".join(("iteration", *SIGNALS)).encode())
        notes = [out / "scores" / f"{kept[look.iteration].name}.json" for look in looks if look.iteration in kept]
        check_outputs([csv_file, *(out / f"selection.{kind}" for kind in ("md", "png")), *notes], proved=proved)
        scores, ledger = [], Ledger()
        for look in looks:
            if look.iteration not in kept:
                scores.append(math.nan)
                continue
            snapshot = kept[look.iteration]
            evaluation = evaluated_once(out / "scores" / f"{snapshot.name}.json", snapshot, table, **options)
            scores.append(evaluation.mean_iou)
            ledger = ledger.merged_with(evaluation.ledger)
        report = SelectionReport(
            looks=looks,
            mean_iou=np.array(scores),
            chosen_by=plan["by"],
            chosen=card.iterations,
            smooth=plan["smooth"],
            images=len(table),
            source=table.source,
            ledger=ledger,
        )
        write_output(out / "selection.md", report.to_markdown())
        write_output(out / "selection.csv", report.to_csv())
        write_chart(report, out / "selection.png")
    return report


def _plan(run: Path) -> dict[str, Any]:
    """How the run's state was chosen: ``by`` and ``smooth``."""
    path = run / "run.json"
    try:
        plan = checked.an_object(checked.an_object(checked.read_json(path))["selection"])
        if plan["by"] not in SIGNALS:
            raise ValueError(f"by is {shown(plan['by'])}, one of {', '.join(SIGNALS)} is wanted")
        return {"by": plan["by"], "smooth": checked.whole(plan["smooth"], "smooth", 1)}
    except (OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path}: how the run chose its state cannot be read ({error}). Train it again."
        ) from error


def write_chart(report: SelectionReport, path: Path) -> Path:
    """Draw each signal and the true mean IoU over the iterations, with what each would choose, as a PNG."""
    choices = {choice.name: choice for choice in report.choices() if choice.name != "last"}
    # Not by pyplot: it keeps figures in a global list and asks for a display.
    figure = Figure(figsize=(8.4, 2.5 * len(choices) + 0.9), dpi=110, layout="constrained")
    panels = figure.subplots(len(choices), 1, sharex=True, squeeze=False).ravel()
    best = report.iterations[int(np.nanargmax(report.mean_iou))]
    scored = ~np.isnan(report.mean_iou)
    truth_at, truth_values = np.array(report.iterations)[scored], 100 * report.mean_iou[scored]
    for panel, (name, choice) in zip(panels, choices.items(), strict=True):
        values = signal(report.looks, name)
        panel.plot(report.iterations, values, "o", color=FAINT, markersize=3.5)
        panel.plot(report.iterations, smoothed(values, report.smooth), color=INK, linewidth=1.6)
        panel.set_ylabel(name, color=INK, fontsize=9.5)
        truth = panel.twinx()
        truth.plot(truth_at, truth_values, ".-", color=KEPT, linewidth=1.6)
        truth.set_ylabel("true mean IoU, %", color=KEPT, fontsize=9.5)
        panel.axvline(best, color=KEPT, linewidth=1, linestyle=(0, (4, 3)))
        verdict = "chooses nothing"
        if choice.iteration is not None:
            lost = "" if math.isnan(choice.lost) else f": {100 * choice.lost:.1f} points below the best"
            panel.axvline(choice.iteration, color=INK, linewidth=1, linestyle=(0, (1, 2)))
            verdict = f"chooses {choice.iteration:,}{lost}"
        correlation = "" if math.isnan(choice.correlation) else f", rank correlation {choice.correlation:+.2f}"
        panel.set_title(f"{_NAMES[name]}{correlation}", loc="left", fontsize=10, color=INK, y=1)
        panel.set_title(verdict, loc="right", fontsize=9, color=FAINT, y=1)
        for axes in (panel, truth):
            axes.spines["top"].set_visible(False)
            axes.tick_params(labelsize=8.5, colors=INK)
    panels[-1].set_xlabel("iterations (green, dashed: best by the truth; dotted: chosen)", fontsize=9.5, color=INK)
    figure.suptitle(f"Signals and the truth on {report.source or 'a table'}", fontsize=12.5, color=INK)
    with output_path(path) as temporary:
        figure.savefig(temporary, format="png", pil_kwargs={"compress_level": 1})
    return path
