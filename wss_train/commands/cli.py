"""The command ``wss-train``: from a dataset with masks to a semantic segmentation model.

Exit status: 0 done; 1 done, but some images could not be used and were reported; 2
refused, with one line that says why; 130 interrupted.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import cache

import wss_train
from wss_data.commands.arguments import program
from wss_data.commands.run import run
from wss_train.commands import check, label, score, train

RENAMED = {"doctor": "check"}
"""Old name of a command -> its name now. The old ones go on for one version, with a warning."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and (name := RENAMED.get(arguments[0])):
        print(
            f"wss-train: {arguments[0]} is called {name} now; the old name goes with the next version.", file=sys.stderr
        )
        arguments = [name, *arguments[1:]]
    return run(make_parser(), arguments, check=_check_checkpoint)


def _check_checkpoint(options: argparse.Namespace) -> None:
    """Refuse what is no checkpoint before torch is loaded, which takes seconds."""
    if (checkpoint := getattr(options, "checkpoint", None)) is not None:
        wss_train.checkpoints.read_card(checkpoint)


@cache  # for those who run many commands in one process
def make_parser() -> argparse.ArgumentParser:
    """The parser of ``wss-train``."""
    parser, commands = program(
        "wss-train",
        "From an image dataset with masks to a semantic segmentation model. Nobody draws a mask.",
        "Datasets are those of `wss-data list`; a checkpoint is a run folder or a model.safetensors.",
    )
    for group in (train, label, score, check):
        group.add_commands(commands)
    return parser
