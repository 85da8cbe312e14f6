"""Which classes come together, and which masks merge: from masks and image-level labels alone.

A class that is always labelled together with another (boats with persons, say) cannot be told from it by image-level
labels. The masks show what became of such pairs: an image labelled with A and B whose mask shows A and no B was
swallowed by A. No truth is needed, so that this may be read while one trains.
"""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wss_data.errors import TrainingDataError
from wss_data.imaging.masks import read_mask
from wss_data.records import ExampleTable
from wss_data.runtime.files import check_outputs, output_path, write_output

if TYPE_CHECKING:
    from wss_data.store.types import Collection

FIRST_PAIRS = 20
"""Pairs in a report's tables; the CSV holds all."""


def counts_together(shown: np.ndarray) -> np.ndarray:
    """Images in which two classes come together; on the diagonal, those with the class.

    Args:
        shown: Which classes each image has. Shape (N, C), bool.

    Returns:
        Shape (C, C), int64, symmetric.
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
    """
    together = counts_together(shown).astype(np.float64)
    alone = np.diag(together)
    expected = np.outer(alone, alone) / max(len(shown), 1)
    result = np.full(together.shape, np.nan)
    np.divide(together, expected, out=result, where=expected > 0)
    np.fill_diagonal(result, np.nan)
    return result


def swallowed(labelled: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images labelled with A and B whose mask shows A and not B: A has swallowed B.

    Args:
        labelled: Which classes each image is labelled with. Shape (N, C), bool.
        predicted: Which classes each image's mask shows. Shape (N, C), bool.

    Returns:
        Images, entry [a, b] for A = a and B = b, shape (C, C), int64, 0 on the diagonal; and their share of the images
        labelled with both, shape (C, C), float64, nan where there are none and on the diagonal.
    """
    keeps = (labelled & predicted).astype(np.int64)
    loses = (labelled & ~predicted).astype(np.int64)
    images = keeps.T @ loses
    both = counts_together(labelled)
    share = np.full(both.shape, np.nan)
    np.divide(images, both, out=share, where=both > 0)
    np.fill_diagonal(share, np.nan)
    return images, share


def boundary_lengths(mask: np.ndarray, num_classes: int) -> np.ndarray:
    """Length of the boundary between each two classes of a mask: pairs of neighbouring pixels, one of each.

    Neighbours share a side. Pixels of other values, such as void, have no boundary.

    Args:
        mask: Label mask. Shape (H, W), uint8.
        num_classes: Number of classes with background, C + 1.

    Returns:
        Pixels. Shape (C + 1, C + 1), int64, symmetric, 0 on the diagonal; row 0 is background.
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


@dataclass(frozen=True)
class Pair:
    """What is known of an ordered pair of classes A, B.

    Args:
        a: Name of A.
        b: Name of B.
        labelled: Images labelled with both.
        predicted: Images whose mask shows both.
        labelled_lift: Times as often labelled together as by chance; nan where that is unknown.
        predicted_lift: The same of the masks.
        swallowed: Images labelled with both whose mask shows A and not B.
        share: Their share of the images labelled with both, in [0, 1]; nan where there are none.
        boundary_px: Length of the boundary between A and B in all masks, pixels.
    """

    a: str
    b: str
    labelled: int
    predicted: int
    labelled_lift: float
    predicted_lift: float
    swallowed: int
    share: float
    boundary_px: int


@dataclass(frozen=True)
class CooccurrenceReport:
    """Which classes come together in the labels and in the masks of a dataset.

    Args:
        classes: Names of the classes 1..C.
        labelled: Which classes each image is labelled with. Shape (N, C), bool.
        predicted: Which classes each image's mask shows. Shape (N, C), bool.
        boundaries: Length of the boundary between each two classes in all masks, background first.
            Shape (C + 1, C + 1), int64, pixels.
        source: Name of the dataset.
    """

    classes: tuple[str, ...]
    labelled: np.ndarray
    predicted: np.ndarray
    boundaries: np.ndarray
    source: str = ""

    @property
    def one_label(self) -> bool:
        """Whether no image has two labels, as in a web dataset: then nothing can be said of pairs of labels."""
        return bool((self.labelled.sum(axis=1) <= 1).all())

    def pairs(self) -> list[Pair]:
        """Every ordered pair of two classes, in the order of their indices."""
        labelled, predicted = counts_together(self.labelled), counts_together(self.predicted)
        labelled_lift, predicted_lift = lift(self.labelled), lift(self.predicted)
        if self.one_label:
            # Zero would say that the classes avoid each other, where nobody could have named both.
            labelled_lift = np.full_like(labelled_lift, np.nan)
        images, share = swallowed(self.labelled, self.predicted)
        return [
            Pair(
                self.classes[a],
                self.classes[b],
                int(labelled[a, b]),
                int(predicted[a, b]),
                float(labelled_lift[a, b]),
                float(predicted_lift[a, b]),
                int(images[a, b]),
                float(share[a, b]),
                int(self.boundaries[a + 1, b + 1]),
            )
            for a, b in permutations(range(len(self.classes)), 2)
        ]

    def to_csv(self) -> str:
        """One line for each ordered pair; a number that cannot be computed is empty."""
        lines = ["a,b,labelled,predicted,labelled_lift,predicted_lift,swallowed,swallowed_share,boundary_px"]
        for pair in self.pairs():
            shares = [_number(pair.labelled_lift, 4), _number(pair.predicted_lift, 4)]
            # Without a pair of labels nothing could be swallowed: 0 would say that nothing was.
            lost = [str(pair.swallowed) if pair.labelled else "", _number(pair.share, 4)]
            cells = [pair.a, pair.b, str(pair.labelled), str(pair.predicted), *shares, *lost, str(pair.boundary_px)]
            lines.append(",".join(cells))
        return "\n".join(lines) + "\n"

    def to_markdown(self) -> str:
        """Tables of the pairs that come together most and of those that merge most."""
        pairs = self.pairs()
        lines = [f"# Classes that come together in {self.source or 'a table'}", ""]
        lines += [f"{len(self.labelled)} images, {len(self.classes)} classes. No truth was used.", ""]
        if self.one_label:
            lines += [
                "Each image has one label, as the images of a web dataset do. So it cannot be computed which classes "
                "are labelled together, nor which swallow others, and masks made from one label show one class.",
                "For that, take a target dataset: its pseudo masks, or the masks that a model predicts.",
                "",
            ]
        # Of both orders of a pair these numbers are the same: one line.
        index = {name: i for i, name in enumerate(self.classes)}
        once = [p for p in pairs if index[p.a] < index[p.b]]
        together = sorted((p for p in once if p.labelled or p.predicted), key=lambda p: (-p.labelled, -p.predicted))
        lines += ["## Together", "", "Lift: how many times as often as by chance; 1 is independence.", ""]
        if together:
            lines += ["| classes | labelled | lift | in the masks | lift | boundary, px |"]
            lines += ["|---|---:|---:|---:|---:|---:|"]
        for p in together[:FIRST_PAIRS]:
            lifts = _number(p.labelled_lift, 2, "–"), _number(p.predicted_lift, 2, "–")
            lines.append(
                f"| {p.a}, {p.b} | {p.labelled} | {lifts[0]} | {p.predicted} | {lifts[1]} | {p.boundary_px:,} |"
            )
        lines += _more(len(together)) if together else ["No two classes come together."]

        if not self.one_label:
            merged = sorted((p for p in pairs if p.swallowed), key=lambda p: (-p.swallowed, -p.share))
            lines += ["", "## Merged", "", "Images labelled with A and B whose mask shows A and not B.", ""]
            if merged:
                lines += ["| A swallows B | images | of those labelled with both | boundary, px |"]
                lines += ["|---|---:|---:|---:|"]
            for p in merged[:FIRST_PAIRS]:
                share = f"{100 * p.share:.0f} % of {p.labelled}"
                lines.append(f"| {p.a} swallows {p.b} | {p.swallowed} | {share} | {p.boundary_px:,} |")
            lines += _more(len(merged)) if merged else ["No class swallows another."]
        return "\n".join([*lines, ""])


def _more(count: int) -> list[str]:
    return [] if count <= FIRST_PAIRS else ["", f"{count - FIRST_PAIRS} further pairs: see the CSV."]


def _number(value: float, digits: int, nothing: str = "") -> str:
    return nothing if np.isnan(value) else f"{value:.{digits}f}"


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
    return CooccurrenceReport(tuple(classes), np.asarray(labels, bool), predicted, boundaries, source)


OUTPUTS = ("cooccurrence.md", "cooccurrence.csv", "cooccurrence.png")
"""What ``cooccurrence`` writes."""


def cooccurrence(table: ExampleTable, out: Path | None = None, workers: int | None = None) -> CooccurrenceReport:
    """Report on the masks and labels of a table.

    Args:
        table: Images with masks and image-level labels; the images themselves are not read.
        out: Receives ``cooccurrence.md``, ``.csv`` and ``.png``; ``None`` to write nothing.
        workers: Threads that read masks; ``None`` for one a processor.

    Returns:
        The report.

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
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        masks = pool.map(lambda path: read_mask(str(path)), table.mask_paths)
        report = report_of(masks, table.labels, table.classes, table.source)
    if out is not None:
        write_output(out / "cooccurrence.md", report.to_markdown())
        write_output(out / "cooccurrence.csv", report.to_csv())
        write_picture(report, out / "cooccurrence.png")
    return report


def with_masks(table: ExampleTable, folder: Path) -> ExampleTable:
    """The table with the masks ``<id>.png`` of a folder, such as ``predictions`` of ``wss-train evaluate``.

    Raises:
        TrainingDataError: If the folder has no mask for an image.
    """
    paths = [folder / f"{name}.png" for name in table.ids]
    without = [path for path in paths if not path.is_file()]
    if without:
        raise TrainingDataError(
            f"{folder}: {len(without)} of {len(table)} images have no mask there, the first wanted is "
            f"{without[0].name}. Give the masks of the same split; another one is chosen with --split."
        )
    return replace(table, mask_paths=tuple(map(str, paths)))


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
    from wss_data.store import MASKS, example_table, kind_of

    web = kind_of(dataset) == "web"
    tag = split or (None if web else "train")
    view = dataset if tag is None else dataset.match_tags(tag)
    if masks is not None:
        return with_masks(example_table(view, None), masks)
    return example_table(view, field or (MASKS if web else "pseudo_mask"))


def write_picture(report: CooccurrenceReport, path: Path) -> Path:
    """Draw three matrices as a PNG: labelled together, together in the masks, swallowed."""
    # A figure without pyplot: no global state and no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from wss_data.imaging.pictures import FAINT, INK

    labelled, predicted = counts_together(report.labelled), counts_together(report.predicted)
    _, share = swallowed(report.labelled, report.predicted)
    count = len(report.classes)
    side = max(3.2, 0.34 * count + 1.6)
    figure = Figure(figsize=(3 * side + 0.6, side + 1.0), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    apart = ~np.eye(count, dtype=bool)
    titles = (
        ("labelled together, images", labelled.astype(float), "Blues"),
        ("together in the masks, images", predicted.astype(float), "Blues"),
        ("row swallows column, % of images", 100 * share, "Reds"),
    )
    # One scale for labels and masks, so that a pale second matrix says that pairs were lost.
    most = max(1, int(labelled[apart].max(initial=0)), int(predicted[apart].max(initial=0)))
    for panel, (title, values, colours), top in zip(panels, titles, (most, most, 100), strict=True):
        shown = np.where(apart, values, np.nan)
        panel.imshow(shown, cmap=colours, vmin=0, vmax=top)
        for a in range(count):
            for b in range(count):
                if np.isfinite(shown[a, b]) and (shown[a, b] > 0 or count <= 8):
                    colour = "white" if shown[a, b] > 0.6 * top else INK
                    panel.text(b, a, f"{shown[a, b]:.0f}", ha="center", va="center", fontsize=7.5, color=colour)
        panel.set_xticks(range(count), report.classes, rotation=90, fontsize=8.5, color=INK)
        panel.set_yticks(range(count), report.classes, fontsize=8.5, color=INK)
        panel.set_title(title, fontsize=9.5, color=INK, loc="left")
        panel.spines[:].set_color(FAINT)
    if report.one_label:
        panels[2].set_title("each image has one label: nothing to swallow", fontsize=9.5, color=INK, loc="left")
    figure.suptitle(f"Classes that come together in {report.source or 'a table'}", fontsize=12, color=INK)
    with output_path(path) as temporary:
        figure.savefig(temporary, format="png")
    return path
