"""What a web dataset holds: its counts, what a build could not use, and its sheets."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from wss_data import store
from wss_data.filtering.filters import DROPPED, GONE, KEPT
from wss_data.imaging.sheets import DatasetImage, write_sheets
from wss_data.spec import FilterSpec

LOGGER = logging.getLogger(__name__)

# Reasons for which a file of a folder could not be read as an image
NOT_READ = frozenset(
    {
        "missing",
        "unreadable",
        "truncated",
        "corrupt",
        "too_large",
        "too_small",
        "decoder_timeout",
        "decoder_killed",
        "decoder_memory",
    }
)

if TYPE_CHECKING:
    from wss_data.store.types import Dataset


def summary_table(dataset: "Dataset") -> str:
    """What a web dataset holds: counts per class, what the filter keeps, and what was dropped before it was stored."""
    lines = [str(store.apply_filter(dataset, dry_run=True))]
    if any((screened := store.screened(dataset)).counts.values()):
        lines.append(f"other: left out before co-segmentation\n{screened}")
    if gone := len(dataset.match_tags(GONE)):
        lines.append(f"other: {gone:,} left the folder that they were read from (dropped:gone)")
    for class_name, reasons in store.drops(dataset).items():
        shown = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        lines.append(f"{class_name}: not stored: {shown}")
    lines += [f"{class_name}: {words}" for class_name, words in store.info_of(dataset).get("passed_over", {}).items()]
    return "\n".join(lines)


def left_out(dataset: "Dataset") -> int:
    """Images that a build could not use: files of a folder that could not be read, and images without a mask.

    What a search in the web brought and could not be read is no loss: there are always some.
    """
    own = any(source.name == "folder" for source in store.definition(dataset).sources)
    drops = store.drops(dataset).values() if own else ()
    unread = sum(count for reasons in drops for reason, count in reasons.items() if reason in NOT_READ)
    return unread + without_mask(dataset)


def without_mask(dataset: "Dataset") -> int:
    """Images of a web dataset that should have a mask and have none."""
    return sum(counts.no_mask for counts in store.apply_filter(dataset, dry_run=True).classes)


def write_dataset_sheets(dataset: "Dataset", folder: Path) -> None:
    """Write the sheets of a web dataset, with its images, masks and foreground ratios, into a folder."""
    filters = store.applied_filters(dataset) or FilterSpec()
    ignore_index = store.definition(dataset).ignore_index
    values = dataset.values(["label.label", "filepath", f"{store.MASKS}.mask_path", "foreground_ratio", "tags"])
    order = {name: position for position, name in enumerate(store.group_names(dataset))}
    rows = []
    for class_name, path, mask_path, ratio, tags in zip(*values, strict=True):
        reasons = [tag.removeprefix(DROPPED) for tag in tags if tag.startswith(DROPPED)]
        rows.append(DatasetImage(class_name, path, mask_path, ratio, KEPT in tags, ", ".join(reasons), ignore_index))
    rows.sort(key=lambda row: order[row.class_name])
    write_sheets(rows, folder, (filters.min_foreground, filters.max_foreground))
