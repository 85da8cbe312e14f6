"""The command ``wss-data verdict``."""

import argparse
import sys
from pathlib import Path

from wss_data.commands.arguments import add_dataset, free_text
from wss_data.errors import StoreError
from wss_data.filtering.filters import Verdict
from wss_data.reading.tables import decode_text, lines_of, read_text


def add_verdict_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``verdict``."""
    from wss_data.commands.cli import add_command

    add = add_command(
        commands,
        "verdict",
        _verdict,
        """\
        Keep or drop images by a person's verdict, take the last one back, or list them.
        A verdict wins over every rule, is kept in verdicts.jsonl beside the images, and comes back when the dataset is
        built again. Without an option, all that was ever judged is listed, the oldest first.""",
        "wss-data verdict drawn --drop bird/9f2c1a --reason 'a drawing'",
    )
    add_dataset(add)
    what = add.add_mutually_exclusive_group()
    for verdict, meaning in (
        ("keep", "images to keep: image_id, sha256, or the start of one"),
        ("drop", "images to drop, named in the same way"),
        ("clear", "images whose verdict is taken away"),
    ):
        what.add_argument(f"--{verdict}", metavar="IMAGE", nargs="*", help=meaning)
    what.add_argument("--undo", action="store_true", help="take back what was judged last, as a whole")
    add.add_argument(
        "--from",
        dest="listed",
        metavar="FILE",
        nargs="?",
        const=True,
        help="take the images from a text file, one a line, or from standard input (-); without FILE, IMAGE names such "
        "files",
    )
    add.add_argument("--reason", metavar="TEXT", type=free_text, default="", help="why, for those who come later")


def _verdict(options: argparse.Namespace) -> int:
    from wss_data import store
    from wss_data.filtering.verdicts import told
    from wss_data.store.verdicts import act_told

    dataset = store.open_dataset(options.dataset)
    if options.undo:
        print(f"taken back: {act_told(store.undo_verdict(dataset))}")
        return 0
    orders: tuple[tuple[str, Verdict | None], ...] = (("keep", "keep"), ("drop", "drop"), ("clear", None))
    for name, verdict in orders:
        images = getattr(options, name)
        if images is not None:
            if options.listed is not None:
                files, images = (images, []) if options.listed is True else ([options.listed], images)
                images = [*images, *(line for file in files for line in _lines(file))]
            count = store.judge(dataset, store.find_images(dataset, images), verdict, options.reason)
            print(f"{name}: {count:,} image{'' if count == 1 else 's'} of {dataset.name}")
            return 0
    if options.listed is not None or options.reason:
        raise StoreError("--from and --reason go with --keep, --drop or --clear; nothing was judged.")
    acts = store.verdict_acts(dataset)
    for number, act in enumerate(acts, start=1):
        print(told(number, act))
    if not acts:
        print(f"nothing was judged in {dataset.name} yet.")
    return 0


def _lines(name: str) -> list[str]:
    text = decode_text(sys.stdin.buffer.read(), "standard input") if name == "-" else read_text(Path(name))
    return [line for line in lines_of(text) if line]
