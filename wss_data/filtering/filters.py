"""Step 3: which images are kept, by foreground share, confidence and a person's verdict. Pure functions."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from wss_data.spec import FilterSpec

KEPT = "kept"
DROPPED = "dropped:"
"""Start of every tag that says why an image is left out."""

TOO_SMALL, TOO_LARGE = f"{DROPPED}too_small", f"{DROPPED}too_large"
LOW_CONFIDENCE = f"{DROPPED}low_confidence"
NO_MASK, BY_VERDICT = f"{DROPPED}no_mask", f"{DROPPED}verdict"

FILTER_TAGS = (KEPT, TOO_SMALL, TOO_LARGE, LOW_CONFIDENCE, NO_MASK, BY_VERDICT)
"""Tags that the filter sets, and takes away when it is applied again. Other ``dropped:`` tags are not its business."""

NEAR_DUPLICATE, AMBIGUOUS = f"{DROPPED}near_duplicate", f"{DROPPED}ambiguous"
LEAK, PLACEHOLDER = f"{DROPPED}leak", f"{DROPPED}placeholder"

SCREENING_TAGS = (NEAR_DUPLICATE, AMBIGUOUS, LEAK, PLACEHOLDER)
"""Tags that screening sets: such images take no part in co-segmentation, and the filter leaves their reason alone."""

UNREADABLE = f"{DROPPED}unreadable"
"""Tag of an image whose file is gone or broken: it takes no part in co-segmentation until it can be read again."""

GONE = f"{DROPPED}gone"
"""Tag of an image whose original is no longer in the folder that it came from; no verdict keeps it."""

Verdict = Literal["keep", "drop"]


def decide(
    foreground_ratio: float | None,
    verdict: str | None,
    tags: Collection[str],
    filters: FilterSpec,
    confidence: float | None = None,
) -> str | None:
    """The filter's tag for one image.

    In this order: a person's ``drop`` wins over everything, then that the original is gone; then a reason found
    elsewhere (a duplicate, say) stands, unless a person says ``keep``; without a mask
    nothing can be kept; ``keep`` wins over the thresholds; then the foreground share
    decides, then the confidence, thresholds included in what is kept.

    Args:
        foreground_ratio: Share of the pixels that are foreground, in [0, 1]; ``None`` without a mask.
        verdict: A person's word, ``keep`` or ``drop``, or ``None``.
        tags: The image's tags; those of an earlier filter are ignored.
        filters: The thresholds.
        confidence: The engine's, in [0, 1]; ``None`` where it is not known, which drops nothing.

    Returns:
        One of ``FILTER_TAGS``, or ``None`` if the image is dropped for another reason already.

    Source:
        Shen et al., BMVC 2017, section 4.1.
    """
    if verdict == "drop":
        return BY_VERDICT
    if GONE in tags:
        return None
    if verdict != "keep" and any(tag.startswith(DROPPED) and tag not in FILTER_TAGS for tag in tags):
        return None
    if foreground_ratio is None:
        return NO_MASK
    if verdict == "keep":
        return KEPT
    if foreground_ratio < filters.min_foreground:
        return TOO_SMALL
    if foreground_ratio > filters.max_foreground:
        return TOO_LARGE
    if confidence is not None and confidence < filters.min_confidence:
        return LOW_CONFIDENCE
    return KEPT


def retagged(tags: Sequence[str], decision: str | None) -> list[str]:
    """The image's tags after a decision: an earlier filter's are gone, others stay in their order."""
    return [tag for tag in tags if tag not in FILTER_TAGS] + ([decision] if decision else [])


def is_left_out(tags: Collection[str], verdict: str | None) -> bool:
    """Whether an image must not teach.

    A person dropped it, its original is gone, or it has another ``dropped:`` tag and nobody said to keep it.
    """
    return verdict == "drop" or GONE in tags or (verdict != "keep" and any(tag.startswith(DROPPED) for tag in tags))


@dataclass(frozen=True)
class ClassCounts:
    """What the filter does to one class, in images.

    Args:
        class_name: The class.
        images: All images stored.
        kept: Those kept.
        too_small: Dropped: foreground share below the lower threshold.
        too_large: Dropped: foreground share above the upper threshold.
        low_confidence: Dropped: the engine's confidence is below the threshold.
        no_mask: Dropped: there is no mask.
        other: Dropped for a reason that is not the filter's, such as a duplicate.
        verdict_keep: Among the kept, those that a person kept against or with the rule.
        verdict_drop: Dropped by a person.
    """

    class_name: str
    images: int = 0
    kept: int = 0
    too_small: int = 0
    too_large: int = 0
    low_confidence: int = 0
    no_mask: int = 0
    other: int = 0
    verdict_keep: int = 0
    verdict_drop: int = 0


@dataclass(frozen=True)
class FilterReport:
    """What a filter does to a dataset; prints as a table.

    Args:
        classes: One entry a class, in order of the class index.
        filters: The thresholds.
        median_foreground: Class -> median foreground share of its masks, in [0, 1]; ``None`` without masks.
    """

    classes: tuple[ClassCounts, ...]
    filters: FilterSpec
    median_foreground: dict[str, float | None]

    @property
    def images(self) -> int:
        """Number of images in all classes."""
        return sum(counts.images for counts in self.classes)

    @property
    def kept(self) -> int:
        """Number of images kept in all classes."""
        return sum(counts.kept for counts in self.classes)

    def __str__(self) -> str:
        columns = ("kept", "too_small", "too_large", "low_confidence", "no_mask", "other", "verdict_drop")
        # A column without a single image would only be in the way.
        shown = [c for c in columns if c in columns[:3] or any(getattr(counts, c) for counts in self.classes)]
        rows = [["class", "images", *(name.replace("_", " ") for name in shown)]]
        for counts in self.classes:
            rows.append([counts.class_name, f"{counts.images:,}", *(f"{getattr(counts, c):,}" for c in shown)])
        totals = [sum(getattr(counts, c) for counts in self.classes) for c in shown]
        rows.append(["all", f"{self.images:,}", *(f"{total:,}" for total in totals)])
        lines = aligned(rows)
        lines.append(
            f"kept: foreground between {100 * self.filters.min_foreground:g} % and "
            f"{100 * self.filters.max_foreground:g} % of the image{self._confidence_told}"
        )
        return "\n".join(lines + self.warnings())

    @property
    def _confidence_told(self) -> str:
        return f", confidence of {self.filters.min_confidence:g} or more" if self.filters.min_confidence else ""

    def warnings(self) -> list[str]:
        """One line for each class of which nothing is kept, with what its masks look like."""
        found = []
        for counts in self.classes:
            if counts.kept or not counts.images:
                continue
            median = self.median_foreground.get(counts.class_name)
            looks = "it has no masks" if median is None else f"median foreground {100 * median:.1f} %"
            low, high = 100 * self.filters.min_foreground, 100 * self.filters.max_foreground
            found.append(
                f"{counts.class_name}: 0 of {counts.images} images kept by the {low:g}-{high:g} % filter"
                f"{self._confidence_told}; {looks}. "
                "Look at its masks before training."
            )
        return found


def filter_report(
    classes: Sequence[str],
    class_names: Sequence[str],
    ratios: Sequence[float | None],
    verdicts: Sequence[str | None],
    decisions: Sequence[str | None],
    filters: FilterSpec,
) -> FilterReport:
    """Count what was decided.

    Args:
        classes: Names of all classes, in order of their index.
        class_names: Class of each image.
        ratios: Foreground share of each image, in [0, 1], or ``None``.
        verdicts: A person's word on each image, or ``None``.
        decisions: What ``decide`` returned for each image.
        filters: The thresholds.
    """
    keys = {
        KEPT: "kept",
        TOO_SMALL: "too_small",
        TOO_LARGE: "too_large",
        LOW_CONFIDENCE: "low_confidence",
        NO_MASK: "no_mask",
        BY_VERDICT: "verdict_drop",
    }
    counts = {name: dict.fromkeys(("images", *keys.values(), "other", "verdict_keep"), 0) for name in classes}
    shares: dict[str, list[float]] = {name: [] for name in classes}
    for name, ratio, verdict, decision in zip(class_names, ratios, verdicts, decisions, strict=True):
        counts[name]["images"] += 1
        counts[name][keys[decision] if decision else "other"] += 1
        counts[name]["verdict_keep"] += decision == KEPT and verdict == "keep"
        if ratio is not None:
            shares[name].append(ratio)
    return FilterReport(
        tuple(ClassCounts(name, **values) for name, values in counts.items()),
        filters,
        {name: sorted(values)[len(values) // 2] if values else None for name, values in shares.items()},
    )


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
