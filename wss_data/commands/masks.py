"""What ``wss-data cosegment`` can do with a second mask field."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wss_data.store.types import Dataset


def add_mask_fields(command: argparse.ArgumentParser) -> None:
    """Add ``--field``, ``--compare`` and ``--adopt``."""
    what = command.add_mutually_exclusive_group()
    what.add_argument(
        "--field",
        default="cosegmentation",
        help="put the masks into this field, such as cosegmentation_2, beside those in use (default: cosegmentation)",
    )
    what.add_argument(
        "--compare", metavar="FIELD", help="make no mask: compare those of this field with those in use, class by class"
    )
    what.add_argument(
        "--adopt",
        metavar="FIELD",
        help="make no mask: use those of this field from now on; the earlier ones stay in a field of their own",
    )


def compare_or_adopt(options: argparse.Namespace, dataset: "Dataset") -> int:
    """Run ``cosegment --compare`` or ``--adopt``."""
    from wss_data.store import adopt_masks, compare_masks

    if options.compare:
        print(compare_masks(dataset, options.compare, classes=options.classes))
        return 0
    count = adopt_masks(dataset, options.adopt, options.classes)
    print(f"{count:,} masks of '{options.adopt}' are used from now on.")
    return 0
