"""The command ``wss-data``: from class names to an image dataset with masks.

Exit status: 0 done; 1 done, but something was left out and reported (a folder with unreadable images), or nothing was
found to forget; 2 refused, with one line that says why; 130 interrupted. docs/reference/commands.md has it by command.
"""

import argparse
from collections.abc import Sequence
from functools import cache

from wss_data.commands import build, judge, masks, share
from wss_data.commands.arguments import program
from wss_data.commands.run import run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(make_parser(), arguments)


@cache  # for those who run many commands in one process
def make_parser() -> argparse.ArgumentParser:
    """The parser of ``wss-data``."""
    parser, commands = program(
        "wss-data",
        "From class names to an image dataset with masks, kept in FiftyOne. Nobody draws a mask.",
        "Files go to the folder in WSS_HOME (default: ~/wss), records to FiftyOne's database.",
    )
    for group in (build, masks, judge, share):  # the order of the help: that of the work
        group.add_commands(commands)
    return parser
