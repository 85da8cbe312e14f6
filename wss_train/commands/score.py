"""Commands of ``wss-train`` that look at masks drawn by people: scores, and whether signals deserve trust."""

import argparse
from pathlib import Path

import wss_train
from wss_data.commands.arguments import Commands, add_command, workers
from wss_train.commands import arguments
from wss_train.engine.processes import only_alone


def add_commands(commands: Commands) -> None:
    """Add ``evaluate``, ``score-masks`` and ``selection-report``."""
    add = add_command(
        commands,
        _evaluate,
        "wss-train evaluate runs/final drawn-target --scales 0.7,1.0,1.3 --crf --out runs/final/val",
    )
    arguments.add_labelling(add)
    arguments.add_target(add, "val")
    add.add_argument("--out", metavar="FOLDER", type=Path, help="write scores and predictions here (default: nowhere)")

    add = add_command(commands, _score_masks, "wss-train score-masks runs/final/val/predictions drawn-target")
    add.add_argument("predictions", metavar="FOLDER", type=Path, help="folder of label masks: ID.png for each image")
    arguments.add_target(add, "val")
    add.add_argument("--out", metavar="FOLDER", type=Path, help="write the scores here (default: nowhere)")
    add.add_argument("--workers", type=workers, metavar="N", help="threads, 1 to 1,024 (default: one a processor)")

    add = add_command(commands, _selection_report, "wss-train selection-report runs/generator drawn-target")
    add.add_argument("run", metavar="RUN", type=Path, help="run folder, trained with --select and --keep-snapshots")
    arguments.add_target(add, "val")
    add.add_argument("--out", metavar="FOLDER", type=Path, help="where to write (default: RUN/selection_report)")
    arguments.add_device(add)


def _evaluate(options: argparse.Namespace) -> int:
    """Score a model against true masks: IoU per class and mean, from one confusion matrix over the split.
    Nothing is chosen by the score.
    """
    only_alone("wss-train evaluate")
    view = arguments.split_of(options.dataset, options.split)
    print(wss_train.evaluate_model(options.checkpoint, view, out=options.out, **arguments.labelling(options)))
    return 0


def _score_masks(options: argparse.Namespace) -> int:
    """Score label masks on disk, from whatever model, against true masks, as evaluate does."""
    view = arguments.split_of(options.dataset, options.split)
    print(wss_train.score_masks(options.predictions, view, **arguments.passed(options, "out", "workers")))
    return 0


def _selection_report(options: argparse.Namespace) -> int:
    """Show whether the signals that chose a run's state deserve trust: score each state that was kept against true
    masks, after the fact. Writes a table and a figure; the model stays as it is.
    """
    from wss_train.reports.selection_report import selection_report

    view = arguments.split_of(options.dataset, options.split)
    out = options.out or options.run / "selection_report"
    print(selection_report(options.run, view, out, device=options.device).to_markdown())
    print(f"figure: {out / 'selection.png'}")
    return 0
