"""Commands of ``wss-train`` that look at data before and while one trains; no true mask is needed."""

import argparse
from pathlib import Path

import wss_data
from wss_data.commands.arguments import Commands, add_command
from wss_train.commands import arguments


def add_commands(commands: Commands) -> None:
    """Add ``cooccurrence``, ``check`` and ``report``."""
    add = add_command(commands, _cooccurrence, "wss-train cooccurrence drawn-target --out runs/drawn/cooccurrence")
    add.add_argument("dataset", metavar="DATASET", help="web or target dataset")
    add.add_argument("--field", help="field of the masks (default: cosegmentation; of a target pseudo_mask)")
    add.add_argument("--split", help="tag of the images (default: kept images; of a target train)")
    add.add_argument(
        "--masks", metavar="FOLDER", type=Path, help="masks ID.png, such as predictions (default: those of the field)"
    )
    add.add_argument("--out", metavar="FOLDER", type=Path, help="write table, CSV and figure here (default: nowhere)")

    add = add_command(commands, _check, "wss-train check drawn --recipe cpu")
    add.add_argument("dataset", metavar="DATASET", help="web or target dataset")
    add.add_argument("--split", help="tag of the images (default: kept images of a web dataset, train of a target)")
    add.add_argument(
        "--field",
        help="field of the masks (default: cosegmentation of a web dataset; of a target pseudo_mask for train, "
        "ground_truth for other splits)",
    )
    arguments.add_recipe(add)
    add.add_argument("--out", metavar="RUN", type=Path, help="where the run will be, for its disk (default: .)")
    arguments.add_set(add)

    add = add_command(commands, _report, "wss-train report runs/drawn")
    add.add_argument("run", metavar="RUN", type=Path, help="folder of wss-train ablation, of one seed")


def _cooccurrence(options: argparse.Namespace) -> int:
    """Show which classes come together and which masks merge, from masks and labels alone."""
    from wss_train.reports.cooccurrence import cooccurrence, table_of

    table = table_of(wss_data.open_dataset(options.dataset), **arguments.passed(options, "field", "split", "masks"))
    print(cooccurrence(table, options.out).to_markdown())
    return 0


def _check(options: argparse.Namespace) -> int:
    """Check a dataset and this machine before training: one line for each finding, the most severe first, with what to
    do about it. Reads every image and mask, changes nothing. Exit status 1 where something is wrong.
    """
    from wss_train.reports.check import check_dataset, is_sound

    recipe = arguments.read_recipe(options)
    findings = check_dataset(options.dataset, recipe, **arguments.passed(options, "split", "field", "out"))
    print("\n".join(map(str, findings)))
    return 0 if is_sound(findings) else 1


def _report(options: argparse.Namespace) -> int:
    """Say per class what is wrong with an ablation, without a truth, and what to do next: too few images, missing,
    merged with another class. Writes report.md and report.json into RUN; trains nothing.
    """
    from wss_train.reports.findings import report_on_run

    print(report_on_run(options.run).to_markdown())
    print(f"report: {options.run / 'report.md'}")
    return 0
