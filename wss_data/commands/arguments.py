"""Arguments that several commands of ``wss-data`` take, and the values that the arguments of both programs accept.

Every value of a command line passes one of the functions below, also where an argument names no type, ``Path``, ``int``
or ``float``: ``Parser`` sees to it.
"""

import argparse
import inspect
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from wss_data.errors import WssError, shown
from wss_data.runtime.files import expanded
from wss_data.runtime.version import __version__

Command = Callable[[argparse.Namespace], int | None]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

LONGEST_NAME = 255  # bytes of a file's name: what the usual file systems take
LONGEST_PATH = 4096  # bytes of a path, or of any other argument: PATH_MAX of Linux
MOST_WORKERS = 1024  # processes or threads that may be asked for
LARGEST_NUMBER = 2**32 - 1  # where nothing tighter is said: a seed must fit into 32 bits

# Stricter than int() and float(), which take 1_000, other scripts' digits, nan and blanks around.
_DIGITS = re.compile(r"[0-9]{1,10}")
_DECIMAL = re.compile(r"[+-]?([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})([eE][+-]?[0-9]{1,3})?")


class Parser(argparse.ArgumentParser):
    """A parser that looks at every value, and whose errors are one line.

    ``argparse`` prints the usage before each error: twenty lines that hide the one that helps.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register("type", None, text)  # arguments that name no type
        self.register("type", Path, path)
        self.register("type", int, natural)
        self.register("type", float, number)

    def error(self, message: str) -> NoReturn:
        """Print what is wrong in one line, and where help is; exit with status 2."""
        message = message.replace("\n", " ")
        self.exit(2, f"{self.prog}: {message}. See: {self.prog} --help\n")


def program(name: str, description: str, epilog: str) -> tuple[argparse.ArgumentParser, Commands]:
    """The parser of a program, and what its commands are added to."""
    parser: argparse.ArgumentParser = Parser(prog=name, description=description, epilog=epilog)
    parser.add_argument("--version", action="version", version=f"wss {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    commands.type = str  # it takes all words of the command, whose own parser says which argument is wrong
    return parser, commands


def add_command(commands: Commands, command: Command, example: str) -> argparse.ArgumentParser:
    """Add a subcommand named as its function, with the docstring as its help, which ends with a line one can paste."""
    text = inspect.cleandoc(str(command.__doc__))
    parser = commands.add_parser(
        command.__name__.strip("_").replace("_", "-"),
        help=text.split("\n")[0],
        description=text,
        epilog=f"example:  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command)
    return parser


def text(value: str) -> str:
    """Words of a command line: a name, an address, a sentence; not empty."""
    if not value.strip():
        raise argparse.ArgumentTypeError("it is empty")
    return free_text(value)


def free_text(value: str) -> str:
    """Words of a command line that may be empty."""
    if any(character < " " or character == "\x7f" for character in value.replace("\t", " ")):
        raise argparse.ArgumentTypeError(f"{shown(value)} holds control characters")
    if len(os.fsencode(value)) > LONGEST_PATH:
        raise argparse.ArgumentTypeError(f"{shown(value)} has more than {LONGEST_PATH:,} bytes")
    return value


def path(value: str) -> Path:
    """A file or folder of a command line, ``~`` and ``~name`` replaced by that user's home."""
    value = text(value)
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in value.split("/")):
        raise argparse.ArgumentTypeError(f"{shown(value)} holds a name of more than {LONGEST_NAME} bytes")
    try:
        return expanded(value)
    except WssError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error


def path_text(value: str) -> str:
    """As ``path``, where a word may stand in its place: the name of a definition or a dataset, say."""
    return str(path(value))


def natural(value: str) -> int:
    """A whole number from 0 to ``LARGEST_NUMBER``, written in the digits 0 to 9."""
    return _whole(value, 0, LARGEST_NUMBER)


def positive(value: str) -> int:
    """A whole number from 1 to ``LARGEST_NUMBER``."""
    return _whole(value, 1, LARGEST_NUMBER)


def workers(value: str) -> int:
    """A number of processes or threads."""
    return _whole(value, 1, MOST_WORKERS)


def port(value: str) -> int:
    """A TCP port."""
    return _whole(value, 1, 65_535)


def _whole(value: str, least: int, most: int) -> int:
    if not _DIGITS.fullmatch(value) or not least <= int(value) <= most:
        raise argparse.ArgumentTypeError(f"{shown(value)} is no whole number from {least} to {most:,}")
    return int(value)


def number(value: str) -> float:
    """A finite number, written as 0.7 or 1e-3."""
    if not _DECIMAL.fullmatch(value) or not math.isfinite(float(value)):
        raise argparse.ArgumentTypeError(f"{shown(value)} is no number such as 0.7")
    return float(value)


def fraction(value: str) -> float:
    """A fraction, in [0, 1]."""
    if not _DECIMAL.fullmatch(value) or not 0 <= float(value) <= 1:
        raise argparse.ArgumentTypeError(f"{shown(value)} is no fraction between 0 and 1")
    return float(value)


class _OldName(argparse.Action):
    """Takes an option by the name that it had, with a warning."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        new = f"--{self.dest.replace('_', '-')}"
        print(f"{parser.prog}: {option} is called {new} now; the old name goes with the next version.", file=sys.stderr)
        setattr(namespace, self.dest, values)


def add_old_name(parser: argparse.ArgumentParser, old: str, new: str, **options: Any) -> None:
    """Take an option by its old name for one version more; it stands in no help text."""
    parser.add_argument(
        old,
        dest=new.lstrip("-").replace("-", "_"),
        action=_OldName,
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
        **options,
    )


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """Add ``DATASET``, a FiftyOne dataset of ours."""
    parser.add_argument("dataset", metavar="DATASET", help="FiftyOne dataset, as listed by `wss-data list`")


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add ``--workers``."""
    parser.add_argument("--workers", type=workers, metavar="N", help="worker processes (default: one a processor)")


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add ``--workers``, ``--executor`` and ``--address``: where co-segmentation runs."""
    add_workers(parser)
    parser.add_argument(
        "--executor",
        choices=["process", "dask"],
        default="process",
        help="where co-segmentation runs: processes of this machine, or a Dask cluster; the masks are the same "
        "(default: process)",
    )
    add_old_name(parser, "--engine", "--executor", choices=["process", "dask"])
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="scheduler of the cluster, with --executor dask; --workers is then decided by the cluster "
        "(default: start N workers on this machine)",
    )


def add_engine(parser: argparse.ArgumentParser, default: str) -> None:
    """Add ``--method`` and ``--option``; ``default``: the engine where none is given, for the help."""
    parser.add_argument("--method", metavar="METHOD", help=f"co-segmentation engine (default: {default})")
    parser.add_argument(
        "--option",
        dest="options",
        metavar="NAME=VALUE",
        type=option,
        action="append",
        help="an option of the engine, the value as in a definition: 512, 0.3, true, a word; repeat it for more",
    )


def add_programs(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-programs``: without it, nothing that stands in a file or a database starts a program."""
    parser.add_argument(
        "--allow-programs",
        action="store_true",
        help="run the program that the co-segmentation method 'external' names, with all that you may do; look at its "
        "command first where the definition is not your own (default: refuse)",
    )


def option(given: str) -> tuple[str, object]:
    """NAME=VALUE as (name, value): the value as in a definition (YAML), and what is none as it stands."""
    name, equals, value = text(given).partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{shown(given)} is no NAME=VALUE")
    from wss_data.reading.plain_yaml import plain_values  # YAML takes longer to load than a help text may

    try:
        return name, plain_values(value)
    except ValueError:
        return name, value  # a command line with braces and quotes, say


def add_filter(parser: argparse.ArgumentParser) -> None:
    """Add ``--min-foreground`` and ``--max-foreground``."""
    parser.add_argument(
        "--min-foreground",
        type=fraction,
        default=0.2,
        metavar="RATIO",
        help="smallest foreground fraction kept, 0 to 1 (default: 0.2, as in the paper)",
    )
    parser.add_argument(
        "--max-foreground",
        type=fraction,
        default=0.8,
        metavar="RATIO",
        help="largest foreground fraction kept, 0 to 1 (default: 0.8, as in the paper)",
    )
