"""Commands of ``wss-data`` that decide which images take part in training."""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import wss_data
from wss_data.commands.arguments import Commands, add_command, add_dataset, add_filter, add_workers, fraction, free_text
from wss_data.errors import StoreError
from wss_data.reading.tables import decode_text, lines_of, read_text
from wss_data.runtime.home import dataset_owner

if TYPE_CHECKING:
    from wss_data.filtering.filters import Verdict


def add_commands(commands: Commands) -> None:
    """Add ``filter``, ``leaks``, ``verdict``, ``embed``."""
    example = "wss-data filter voc-animals --min-foreground 0.2 --max-foreground 0.8 --dry-run"
    add = add_command(commands, _filter, example)
    add_dataset(add)
    add_filter(add)
    add.add_argument(
        "--min-confidence",
        type=fraction,
        default=0.0,
        metavar="CONFIDENCE",
        help="smallest confidence kept, 0 to 1: 0.5 drops most images that show nothing of their class (default: 0, "
        "as in the paper)",
    )
    add.add_argument(
        "--dry-run", action="store_true", help="print how many images each class would keep; change nothing"
    )

    add = add_command(commands, _leaks, "wss-data leaks voc-animals --against voc-animals-target --dry-run")
    add_dataset(add)
    add.add_argument(
        "--against",
        metavar="SPLIT",
        required=True,
        help="a target dataset (its val), NAME:TAG for other images of it, a folder of images, or a file of hashes",
    )
    add.add_argument("--dry-run", action="store_true", help="list the leaks; change nothing")

    add = add_command(commands, _verdict, "wss-data verdict drawn --drop bird/9f2c1a --reason 'a drawing'")
    add_dataset(add)
    what = add.add_mutually_exclusive_group()
    for verdict, meaning in (
        ("keep", "images to keep: image_id, sha256, or the start of one"),
        ("drop", "images to drop, named in the same way"),
        ("clear", "images whose verdict is taken away"),
    ):
        what.add_argument(f"--{verdict}", metavar="IMAGE", nargs="*", help=meaning)
    what.add_argument("--undo", action="store_true", help="undo what was judged last, on all of its images")
    add.add_argument(
        "--from",
        dest="listed",
        metavar="FILE",
        nargs="?",
        const=True,  # without FILE: IMAGE names the files then
        help="take the images from a text file, one a line, or from standard input (-); without FILE, IMAGE names such "
        "files",
    )
    add.add_argument("--reason", metavar="TEXT", type=free_text, default="", help="why, for those who come later")

    add = add_command(commands, _embed, "wss-data embed drawn")
    add_dataset(add)
    add.add_argument(
        "--method", choices=["tsne", "pca"], help="what draws the map (default: t-SNE up to 10,000 images, else PCA)"
    )
    add_workers(add)


def _filter(options: argparse.Namespace) -> None:
    """Keep the images whose co-segmentation mask covers a plausible fraction of the frame.
    Nothing is deleted: the others stay, tagged with the reason. A person's verdict wins.
    """
    thresholds = {name: getattr(options, name) for name in ("min_foreground", "max_foreground", "min_confidence")}
    filters = wss_data.read_filters(thresholds, "wss-data filter")
    with nullcontext() if options.dry_run else dataset_owner(options.dataset):
        report = wss_data.apply_filter(wss_data.open_dataset(options.dataset), filters, dry_run=options.dry_run)
    print(report)
    if options.dry_run:
        print("nothing was changed (--dry-run).")


def _leaks(options: argparse.Namespace) -> None:
    """Drop web images that stand in an evaluation split, too: exact and near copies.
    They stay visible, tagged dropped:leak. A build checks its own target dataset by itself.
    """
    dataset = wss_data.open_dataset(options.dataset)
    spec = wss_data.store.definition(dataset)
    with nullcontext() if options.dry_run else dataset_owner(dataset.name):
        print(wss_data.store.leaks(dataset, options.against, spec.duplicates.max_distance, dry_run=options.dry_run))
        if not options.dry_run:
            wss_data.apply_filter(dataset)
    if options.dry_run:
        print("nothing was changed (--dry-run).")


def _verdict(options: argparse.Namespace) -> None:
    """Keep or drop images by a person's verdict, undo the last one, or list them.
    A verdict wins over every rule, is kept in verdicts.jsonl beside the images, and comes back when the dataset is
    built again. Without an option, all that was ever judged is listed, the oldest first.
    """
    dataset = wss_data.store.open_dataset(options.dataset)
    if options.undo:
        print(f"undone: {wss_data.store.undo_verdict(dataset)}")
        return
    orders: tuple[tuple[str, Verdict | None], ...] = (("keep", "keep"), ("drop", "drop"), ("clear", None))
    for name, verdict in orders:
        images = getattr(options, name)
        if images is not None:
            if options.listed is not None:
                files, images = (images, []) if options.listed is True else ([options.listed], images)
                images = [*images, *(line for file in files for line in _lines(file))]
            count = wss_data.store.judge(dataset, wss_data.store.find_images(dataset, images), verdict, options.reason)
            print(f"{name}: {count:,} image{'' if count == 1 else 's'} of {dataset.name}")
            return
    if options.listed is not None or options.reason:
        raise StoreError("--from and --reason go with --keep, --drop or --clear; nothing was judged.")
    acts = wss_data.store.verdict_acts(dataset)
    for number, act in enumerate(acts, start=1):
        print(f"{number}  {act}")
    if not acts:
        print(f"nothing was judged in {dataset.name} yet.")


def _embed(options: argparse.Namespace) -> None:
    """Draw a map of the images, index them for search by example, and find those that are odd in their class.
    Uses what the co-segmentation saw of each image; others are looked at now. Nothing is downloaded or dropped.
    """
    dataset = wss_data.store.open_dataset(options.dataset)
    print(wss_data.embed(dataset, options.method, options.workers))
    view = wss_data.store.ODD_VIEW
    print(f"wss-data view {dataset.name}:  + > Embeddings shows the map; the view '{view}' sorts by oddness.")


def _lines(name: str) -> list[str]:
    text = decode_text(sys.stdin.buffer.read(), "standard input") if name == "-" else read_text(Path(name))
    return [line for line in lines_of(text) if line]
