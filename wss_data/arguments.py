"""Arguments that several commands of ``wss-data`` take, and the values that they accept."""

import argparse

from wss_data.errors import shown


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """Add ``DATASET``, a FiftyOne dataset of ours."""
    parser.add_argument("dataset", metavar="DATASET", help="FiftyOne dataset, as listed by `wss-data list`")


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add ``--workers``."""
    parser.add_argument("--workers", type=positive, metavar="N", help="worker processes (default: one a processor)")


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add ``--workers``, ``--engine`` and ``--address``: where co-segmentation runs."""
    add_workers(parser)
    parser.add_argument(
        "--engine",
        choices=["process", "dask", "ray"],
        default="process",
        help="where co-segmentation runs: processes of this machine, or a Dask or Ray cluster; the masks are the same "
        "(default: process)",
    )
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="scheduler of the cluster, with --engine dask or ray; --workers is then the cluster's affair "
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
        help="run the program that the co-segmentation method 'outside' names, with all that you may do; look at its "
        "command first where the definition is not your own (default: refuse)",
    )


def option(text: str) -> tuple[str, object]:
    """NAME=VALUE as (name, value): the value as in a definition (YAML), and what is none as it stands."""
    from wss_data.plain_yaml import plain_values

    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{shown(text)} is no NAME=VALUE")
    try:
        return name, plain_values(value)
    except ValueError:
        return name, value  # a command line with braces and quotes, say


def add_filter(parser: argparse.ArgumentParser) -> None:
    """Add ``--min-foreground`` and ``--max-foreground``."""
    parser.add_argument(
        "--min-foreground",
        type=share,
        default=0.2,
        metavar="RATIO",
        help="smallest foreground share kept, 0 to 1 (default: 0.2, as in the paper)",
    )
    parser.add_argument(
        "--max-foreground",
        type=share,
        default=0.8,
        metavar="RATIO",
        help="largest foreground share kept, 0 to 1 (default: 0.8, as in the paper)",
    )


def share(text: str) -> float:
    """A share of something, in [0, 1], from the command line."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share between 0 and 1")
    return value


def positive(text: str) -> int:
    """A whole number of at least 1 from the command line."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)
