"""Step 3: which images are kept, by foreground fraction, confidence and a person's verdict. Pure functions."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Literal

from wss_data.spec import FilterSpec

KEPT = "kept"
DROPPED = "dropped:"  # start of every tag that says why an image is left out
TOO_SMALL, TOO_LARGE = f"{DROPPED}too_small", f"{DROPPED}too_large"
LOW_CONFIDENCE = f"{DROPPED}low_confidence"
NO_MASK, BY_VERDICT = f"{DROPPED}no_mask", f"{DROPPED}verdict"

# What the filter sets, and takes away when it is applied again. Other `dropped:` tags are not its business.
FILTER_TAGS = (KEPT, TOO_SMALL, TOO_LARGE, LOW_CONFIDENCE, NO_MASK, BY_VERDICT)

NEAR_DUPLICATE, AMBIGUOUS = f"{DROPPED}near_duplicate", f"{DROPPED}ambiguous"
LEAK, PLACEHOLDER = f"{DROPPED}leak", f"{DROPPED}placeholder"

# What screening sets: such images take no part in co-segmentation, and the filter leaves their reason alone.
SCREENING_TAGS = (NEAR_DUPLICATE, AMBIGUOUS, LEAK, PLACEHOLDER)
UNREADABLE = f"{DROPPED}unreadable"  # the file is gone or broken: not co-segmented until it can be read again
GONE = f"{DROPPED}gone"  # the original is no longer in the folder that it came from; no verdict keeps it

Verdict = Literal["keep", "drop"]


def decide(
    foreground_ratio: float | None,
    verdict: str | None,
    tags: Collection[str],
    filters: FilterSpec,
    confidence: float | None = None,
) -> str | None:
    """The filter's tag for one image: one of ``FILTER_TAGS``, or ``None`` if it is dropped for another reason already.

    ``foreground_ratio`` is ``None`` without a mask; tags of an earlier filter are ignored; values equal to a threshold
    are kept; a ``confidence`` that is not known drops nothing.

    Source:
        Shen et al., BMVC 2017, section 4.1.

    >>> paper = FilterSpec(min_foreground=0.2, max_foreground=0.8)
    >>> [decide(ratio, None, [], paper) for ratio in (0.1, 0.2, 0.9)]
    ['dropped:too_small', 'kept', 'dropped:too_large']
    >>> decide(0.9, "keep", [], paper)
    'kept'
    """
    if verdict == "drop":  # wins over everything
        return BY_VERDICT
    if GONE in tags:
        return None
    # A reason found elsewhere, such as a duplicate, counts, unless a person says otherwise.
    if verdict != "keep" and any(tag.startswith(DROPPED) and tag not in FILTER_TAGS for tag in tags):
        return None
    if foreground_ratio is None:
        return NO_MASK
    if verdict == "keep":  # wins over the thresholds, but nothing can be kept without a mask
        return KEPT
    if foreground_ratio < filters.min_foreground:
        return TOO_SMALL
    if foreground_ratio > filters.max_foreground:
        return TOO_LARGE
    if confidence is not None and confidence < filters.min_confidence:
        return LOW_CONFIDENCE
    return KEPT


def retagged(tags: Sequence[str], decision: str | None) -> list[str]:
    """The image's tags after a decision: an earlier filter's are gone, others stay in their order.

    >>> retagged(["mine", "dropped:too_small", "dropped:leak"], "kept")
    ['mine', 'dropped:leak', 'kept']
    """
    return [tag for tag in tags if tag not in FILTER_TAGS] + ([decision] if decision else [])


def is_left_out(tags: Collection[str], verdict: str | None) -> bool:
    """Whether an image must not teach: dropped by a person, gone, or with a ``dropped:`` tag that no verdict keeps."""
    return verdict == "drop" or GONE in tags or (verdict != "keep" and any(tag.startswith(DROPPED) for tag in tags))


@dataclass(frozen=True)
class ClassCounts:
    """What the filter does to the images of one class: all, those kept, and those dropped, by reason."""

    class_name: str
    images: int
    kept: int
    too_small: int
    too_large: int
    low_confidence: int
    no_mask: int
    other: int  # for reasons that are not the filter's, such as a duplicate
    verdict: int  # by a person
    median_foreground: float | None  # median foreground fraction of the masks, in [0, 1]; None without masks


@dataclass(frozen=True)
class FilterReport:
    """What a filter does to a dataset, for its classes in order of their index; prints as a table."""

    classes: tuple[ClassCounts, ...]
    filters: FilterSpec

    @property
    def images(self) -> int:
        """Number of images in all classes."""
        return sum(counts.images for counts in self.classes)

    @property
    def kept(self) -> int:
        """Number of images kept in all classes."""
        return sum(counts.kept for counts in self.classes)

    def __str__(self) -> str:
        columns = ("kept", "too_small", "too_large", "low_confidence", "no_mask", "other", "verdict")
        # A column without a single image would only be in the way.
        shown = [c for c in columns if c in columns[:3] or any(getattr(counts, c) for counts in self.classes)]
        rows = [["class", "images", *(name.replace("_", " ") for name in shown)]]
        for counts in self.classes:
            rows.append([counts.class_name, *(f"{getattr(counts, c):,}" for c in ("images", *shown))])
        totals = [sum(getattr(counts, c) for counts in self.classes) for c in shown]
        rows.append(["all", f"{self.images:,}", *(f"{total:,}" for total in totals)])
        low, high, sure = (100 * self.filters.min_foreground, 100 * self.filters.max_foreground, "")
        if self.filters.min_confidence:
            sure = f", confidence of {self.filters.min_confidence:g} or more"
        lines = [*aligned(rows), f"kept: foreground between {low:g} % and {high:g} % of the image{sure}"]
        for counts in self.classes:
            if counts.images and not counts.kept:
                median = counts.median_foreground
                looks = "it has no masks" if median is None else f"median foreground {100 * median:.1f} %"
                lines.append(
                    f"{counts.class_name}: 0 of {counts.images} images kept by the {low:g}-{high:g} % filter{sure}; "
                    f"{looks}. Look at its masks before training."
                )
        return "\n".join(lines)


def filter_report(
    classes: Sequence[str],
    class_names: Sequence[str],
    ratios: Sequence[float | None],
    decisions: Sequence[str | None],
    filters: FilterSpec,
) -> FilterReport:
    """Count what was decided, for ``classes`` in order of their index.

    The next three have an entry an image: its class, foreground fraction, and what ``decide`` returned for it.
    """
    counts: dict[str, Counter[str]] = {name: Counter() for name in classes}
    fractions: dict[str, list[float]] = {name: [] for name in classes}
    for name, ratio, decision in zip(class_names, ratios, decisions, strict=True):
        counts[name][(decision or "other").removeprefix(DROPPED)] += 1
        if ratio is not None:
            fractions[name].append(ratio)
    # The names of the tags, without what they begin with, are those of the counts.
    columns = [field.name for field in fields(ClassCounts)[2:-1]]
    found = []
    for name, of_class in fractions.items():
        values = {column: counts[name][column] for column in columns}
        median = sorted(of_class)[len(of_class) // 2] if of_class else None
        found.append(ClassCounts(name, counts[name].total(), **values, median_foreground=median))
    return FilterReport(tuple(found), filters)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: first column to the left, the others to the right.

    >>> aligned([["class", "images"], ["aeroplane", "7"]])
    ['class      images', 'aeroplane       7']
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
