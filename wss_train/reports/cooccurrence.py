"""Which classes come together, and which masks merge: from masks and image-level labels alone.

A class that is always labelled together with another (boats with persons, say) cannot be distinguished from it by
image-level labels. The masks show what became of such pairs: an image labelled with A and B whose mask shows A and no
B was swallowed by A. No truth is needed, so that this may be read while one trains.
"""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations, permutations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from wss_data.errors import TrainingDataError
from wss_data.imaging.masks import read_mask
from wss_data.imaging.sheets import FAINT, INK
from wss_data.reading.cells import csv_text
from wss_data.records import ExampleTable
from wss_data.runtime.files import check_outputs, output_path, write_output
from wss_data.store import MASKS, example_table, kind_of
from wss_train.evaluate import with_masks
from wss_train.reports.tables import markdown_table, number

if TYPE_CHECKING:
    from wss_data.store.types import Collection

FIRST_PAIRS = 20  # Pairs in a report's tables; the CSV holds all.
OUTPUTS = ("cooccurrence.md", "cooccurrence.csv", "cooccurrence.png")


def counts_together(shown: np.ndarray) -> np.ndarray:
    """Images in which two classes come together; on the diagonal, those with the class.

    Args:
        shown: Which classes each image has. Shape (N, C), bool.

    Returns:
        Shape (C, C), int64, symmetric.

    >>> counts_together(np.array([[True, True], [True, False]])).tolist()
    [[2, 1], [1, 1]]
    """
    numbers = shown.astype(np.int64)
    return numbers.T @ numbers


def lift(shown: np.ndarray) -> np.ndarray:
    """How many times as often as by chance two classes come together: P(A and B) / (P(A) P(B)).

    1 is independence, 0 never together. The diagonal, where a class meets itself, says nothing and is nan.

    Args:
        shown: Which classes each image has. Shape (N, C), bool.

    Returns:
        Shape (C, C), float64, at least 0; nan on the diagonal and for a class without images.

    >>> lift(np.array([[1, 1], [1, 0], [0, 1], [0, 0]], bool))[0, 1]  # each in a half, both in a quarter
    np.float64(1.0)
    """
    together = counts_together(shown)
    alone = np.diag(together).astype(np.float64)
    return _divided(together, np.outer(alone, alone) / max(len(shown), 1))


def swallowed(labelled: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images labelled with A and B whose mask shows A and not B: A has swallowed B.

    Args:
        labelled: Which classes each image is labelled with. Shape (N, C), bool.
        predicted: Which classes each image's mask shows. Shape (N, C), bool.

    Returns:
        Images, entry [a, b] for A = a and B = b, shape (C, C), int64, 0 on the diagonal; and their fraction of the
        images labelled with both, shape (C, C), float64, nan where there are none and on the diagonal.
    """
    images = (labelled & predicted).astype(np.int64).T @ (labelled & ~predicted).astype(np.int64)
    return images, _divided(images, counts_together(labelled))


def _divided(counts: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Quotients of two (C, C) matrices; nan where the divisor is 0, and on the diagonal."""
    result = np.full(counts.shape, np.nan)
    np.divide(counts, by, out=result, where=(by > 0) & ~np.eye(len(counts), dtype=bool))
    return result


def boundary_lengths(mask: np.ndarray, num_classes: int) -> np.ndarray:
    """Length of the boundary between each two classes of a mask: pairs of neighbouring pixels, one of each.

    Neighbours share a side. Pixels of other values, such as void, have no boundary.

    Args:
        mask: Label mask. Shape (H, W), uint8.
        num_classes: Number of classes with background, C + 1.

    Returns:
        Pixels. Shape (C + 1, C + 1), int64, symmetric, 0 on the diagonal; row 0 is background.

    >>> boundary_lengths(np.array([[0, 1, 1], [0, 0, 1]], np.uint8), 2).tolist()
    [[0, 3], [3, 0]]
    """
    total = np.zeros(num_classes * num_classes, np.int64)
    for one, other in ((mask[:, :-1], mask[:, 1:]), (mask[:-1], mask[1:])):
        # Few neighbours differ: the index is computed for those alone.
        differs = one != other
        first, second = one[differs].astype(np.int64), other[differs].astype(np.int64)
        known = (first < num_classes) & (second < num_classes)
        total += np.bincount(first[known] * num_classes + second[known], minlength=len(total))
    ordered = total.reshape(num_classes, num_classes)
    return ordered + ordered.T


_FORMATS = {
    "labelled": ".0f",  # images labelled with both
    "predicted": ".0f",  # images whose mask shows both
    "labelled_lift": ".4f",
    "predicted_lift": ".4f",
    "swallowed": ".0f",  # images labelled with A and B whose mask shows A and not B
    "swallowed_share": ".4f",  # their fraction of the images labelled with both
    "boundary_px": ".0f",  # length of the boundary between A and B in all masks, pixels
}
"""What is known of a pair of classes A, B: columns of the CSV, and how their numbers are written."""


@dataclass(frozen=True)
class CooccurrenceReport:
    """Which classes come together in the labels and in the masks of a dataset."""

    classes: tuple[str, ...]  # names of the classes 1..C
    pairs: dict[str, np.ndarray]  # column of the CSV -> (C, C), float64; nan where a number cannot be known
    images: int  # number of images
    one_label: bool  # whether no image has two labels, as in a web dataset: then nothing can be said of their pairs
    source: str  # name of the dataset

    def to_csv(self) -> str:
        """One line for each ordered pair; a number that cannot be computed is empty."""
        rows = (
            [self.classes[a], self.classes[b]]
            + [number(self.pairs[name][a, b], form, "") for name, form in _FORMATS.items()]
            for a, b in permutations(range(len(self.classes)), 2)
        )
        return csv_text(["a", "b", *_FORMATS], rows, str)

    def to_markdown(self) -> str:
        """Tables of the pairs that come together most and of those that merge most."""
        lines = [f"# Classes that come together in {self.source or 'a table'}", ""]
        lines += [f"{self.images} images, {len(self.classes)} classes. No truth was used.", ""]
        if self.one_label:
            lines += [
                "Each image has one label, as the images of a web dataset do. So it cannot be computed which classes "
                "are labelled together, nor which swallow others, and masks made from one label show one class.",
                "For that, take a target dataset: its pseudo masks, or the masks that a model predicts.",
                "",
            ]
        lines += ["## Together", "", "Lift: how many times as often as by chance; 1 is independence.", ""]
        lines += self._together() or ["No two classes come together."]
        if not self.one_label:
            lines += ["", "## Merged", "", "Images labelled with A and B whose mask shows A and not B.", ""]
            lines += self._merged() or ["No class swallows another."]
        return "\n".join([*lines, ""])

    def _together(self) -> list[str]:
        labelled, predicted = self.pairs["labelled"], self.pairs["predicted"]
        # Of both orders of a pair these numbers are the same: one line.
        pairs = [p for p in combinations(range(len(self.classes)), 2) if labelled[p] or predicted[p]]
        pairs.sort(key=lambda p: (-labelled[p], -predicted[p]))
        shown = {"labelled": ".0f", "labelled_lift": ".2f", "predicted": ".0f", "predicted_lift": ".2f"}
        cells = [[number(self.pairs[name][p], form) for name, form in shown.items()] for p in pairs]
        return self._table(", ", ["classes", "labelled", "lift", "in the masks", "lift"], pairs, cells)

    def _merged(self) -> list[str]:
        images, fraction, both = (self.pairs[name] for name in ("swallowed", "swallowed_share", "labelled"))
        pairs = [p for p in permutations(range(len(self.classes)), 2) if images[p] > 0]
        pairs.sort(key=lambda p: (-images[p], -fraction[p]))
        cells = [[f"{images[p]:.0f}", f"{100 * fraction[p]:.0f} % of {both[p]:.0f}"] for p in pairs]
        return self._table(" swallows ", ["A swallows B", "images", "of those labelled with both"], pairs, cells)

    def _table(
        self, between: str, columns: list[str], pairs: Sequence[tuple[int, int]], cells: list[list[str]]
    ) -> list[str]:
        """Markdown lines on the first pairs: their names, cells and boundary; nothing without pairs."""
        names = [between.join(self.classes[i] for i in p) for p in pairs]
        boundaries = [f"{self.pairs['boundary_px'][p]:,.0f}" for p in pairs]
        rows = [[name, *row, boundary] for name, row, boundary in zip(names, cells, boundaries, strict=True)]
        more = [] if len(rows) <= FIRST_PAIRS else ["", f"{len(rows) - FIRST_PAIRS} further pairs: see the CSV."]
        return [*markdown_table([*columns, "boundary, px"], rows[:FIRST_PAIRS]), *more] if rows else []


def report_of(
    masks: Iterable[np.ndarray], labels: np.ndarray, classes: Sequence[str], source: str = ""
) -> CooccurrenceReport:
    """Count classes and boundaries over masks.

    Args:
        masks: Label masks in the order of ``labels``, each (H, W), uint8.
        labels: Which classes each image is labelled with. Shape (N, C), bool.
        classes: Names of the classes 1..C.
        source: Name of the dataset.
    """
    num_classes = len(classes) + 1
    boundaries = np.zeros((num_classes, num_classes), np.int64)
    predicted = np.zeros((len(labels), len(classes)), bool)
    for row, mask in enumerate(masks):
        predicted[row] = np.bincount(mask.ravel(), minlength=256)[1:num_classes] > 0
        boundaries += boundary_lengths(mask, num_classes)
    labelled = np.asarray(labels, bool)
    together, labelled_lift = counts_together(labelled), lift(labelled)
    one_label = bool((labelled.sum(axis=1) <= 1).all())
    if one_label:
        # Zero would say that the classes avoid each other, where nobody could have named both.
        labelled_lift[:] = np.nan
    images, fraction = swallowed(labelled, predicted)
    # Without a pair of labels nothing could be swallowed: 0 would say that nothing was.
    known_images = np.where(together > 0, images, np.nan)
    shown_together, predicted_lift = counts_together(predicted), lift(predicted)
    columns = (together, shown_together, labelled_lift, predicted_lift, known_images, fraction, boundaries[1:, 1:])
    pairs = {name: matrix.astype(np.float64) for name, matrix in zip(_FORMATS, columns, strict=True)}
    return CooccurrenceReport(tuple(classes), pairs, len(labelled), one_label, source)


def cooccurrence(table: ExampleTable, out: Path | None = None) -> CooccurrenceReport:
    """Report on the masks and labels of a table.

    Args:
        table: Images with masks and image-level labels; the images themselves are not read.
        out: Receives ``cooccurrence.md``, ``.csv`` and ``.png``; ``None`` to write nothing.

    Raises:
        TrainingDataError: If an image has no mask.
        MaskError: If a mask cannot be read.
        OutputError: If a file in ``out`` is in the way that this program did not write, or that was changed since.
    """
    if out is not None:
        check_outputs([out / name for name in OUTPUTS])
    without = [name for name, path in zip(table.ids, table.mask_paths, strict=True) if path is None]
    if without or not len(table):
        first = f", the first is {without[0]}" if without else ""
        raise TrainingDataError(
            f"{len(without)} of {len(table)} images of {table.source or 'the table'} have no mask{first}; every image "
            "needs one. Make masks first: wss-train masks, or wss-data cosegment."
        )
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        masks = pool.map(lambda path: read_mask(str(path)), table.mask_paths)
        report = report_of(masks, table.labels, table.classes, table.source)
    if out is not None:
        write_output(out / "cooccurrence.md", report.to_markdown())
        write_output(out / "cooccurrence.csv", report.to_csv())
        write_chart(report, out / "cooccurrence.png")
    return report


def table_of(
    dataset: "Collection", field: str | None = None, split: str | None = None, masks: Path | None = None
) -> ExampleTable:
    """Labels and masks of a stored dataset.

    Args:
        dataset: A web or target dataset.
        field: Field of the masks; ``None`` for ``cosegmentation`` of a web dataset, ``pseudo_mask`` of a target.
        split: Tag of the images; ``None`` for the kept images of a web dataset, ``train`` of a target.
        masks: A folder of masks ``<id>.png`` that take the field's place.

    Raises:
        StoreError: If there is no such field.
        TrainingDataError: If no image has the tag and a mask, or the folder lacks one.
    """
    web = kind_of(dataset) == "web"
    tag = split or (None if web else "train")
    view = dataset if tag is None else dataset.match_tags(tag)
    if masks is not None:
        return with_masks(example_table(view, None), masks)
    return example_table(view, field or (MASKS if web else "pseudo_mask"))


def write_chart(report: CooccurrenceReport, path: Path) -> Path:
    """Draw three matrices as a PNG: labelled together, together in the masks, swallowed."""
    of, count = report.pairs, len(report.classes)
    side = max(3.2, 0.34 * count + 1.6)
    # Not by pyplot: it keeps figures in a global list and asks for a display.
    figure = Figure(figsize=(3 * side + 0.6, side + 1.0), dpi=110, layout="constrained")
    panels = figure.subplots(1, 3)
    apart = ~np.eye(count, dtype=bool)
    # One scale for labels and masks, so that a pale second matrix says that pairs were lost.
    most = max(1, of["labelled"][apart].max(initial=0), of["predicted"][apart].max(initial=0))
    titles = (
        ("labelled together, images", of["labelled"], "Blues", most),
        ("together in the masks, images", of["predicted"], "Blues", most),
        ("row swallows column, % of images", 100 * of["swallowed_share"], "Reds", 100),
    )
    for panel, (title, values, colours, top) in zip(panels, titles, strict=True):
        shown = np.where(apart, values, np.nan)
        panel.imshow(shown, cmap=colours, vmin=0, vmax=top)
        for a in range(count):
            for b in range(count):
                if np.isfinite(shown[a, b]) and (shown[a, b] > 0 or count <= 8):
                    colour = "white" if shown[a, b] > 0.6 * top else INK
                    # Of hundreds, none asks for room.
                    style = {"color": colour, "fontsize": 7.5, "in_layout": False}
                    panel.text(b, a, f"{shown[a, b]:.0f}", ha="center", va="center", **style)
        panel.set_xticks(range(count), report.classes, rotation=90, fontsize=8.5, color=INK)
        panel.set_yticks(range(count), report.classes, fontsize=8.5, color=INK)
        panel.set_title(title, fontsize=9.5, color=INK, loc="left", y=1)
        panel.spines[:].set_color(FAINT)
    if report.one_label:
        panels[2].set_title("each image has one label: nothing to swallow", fontsize=9.5, color=INK, loc="left", y=1)
    figure.suptitle(f"Classes that come together in {report.source or 'a table'}", fontsize=12, color=INK)
    with output_path(path) as temporary:
        figure.savefig(temporary, format="png", pil_kwargs={"compress_level": 1})
    return path
