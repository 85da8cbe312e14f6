"""A dataset in numbers, as charts: each bar knows which images it stands for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any

import numpy as np

from wss_data.filtering.filters import DROPPED, KEPT
from wss_data.store.connection import fiftyone
from wss_data.store.info import SCORE, applied_filters, class_names, kind_of

if TYPE_CHECKING:
    import fiftyone as fo

EDGES = (*(number / 20 for number in range(20)), 1.000001)
"""Of a histogram's bars over [0, 1]; each holds its lower edge, the last one 1, too."""

MOST_BARS = 20
"""Sources or licences that get a bar; the rest share one."""

_HISTOGRAMS = {
    "foreground_ratio": "Foreground share of the mask",
    "confidence": "Confidence of the engine",
    SCORE: "Quality: 1 is the least suspicious",
}


@dataclass(frozen=True)
class Bar:
    """One bar of a chart.

    Args:
        label: What stands below it; the middle of the interval in a histogram.
        count: Number of images.
        condition: Which images, as MongoDB's ``$match`` wants it.
    """

    label: str | float
    count: int
    condition: Mapping[str, Any]


@dataclass(frozen=True)
class Chart:
    """One chart.

    Args:
        name: A word without blanks.
        title: Line above it.
        series: Name of each series of bars -> its bars.
        lines: Where vertical lines stand: the filter's thresholds.
        matrix: Whether the series are rows of a matrix.
    """

    name: str
    title: str
    series: Mapping[str, tuple[Bar, ...]]
    lines: tuple[float, ...] = ()
    matrix: bool = False


def overview(dataset: "fo.Dataset") -> list[Chart]:
    """The charts of a dataset.

    Of a web dataset: classes and what is kept of them, why the others were dropped, foreground shares with the filter's
    thresholds, confidence, quality, sources and licences. Of a target dataset: splits, classes, and which of them are
    shown together.

    Args:
        dataset: A dataset of ours. Charts without a single image are left out.

    Raises:
        StoreError: If it is not ours.
    """
    charts = _web(dataset) if kind_of(dataset) == "web" else _target(dataset)
    return [chart for chart in charts if any(bar.count for bars in chart.series.values() for bar in bars)]


def _web(dataset: "fo.Dataset") -> list[Chart]:
    fo = fiftyone()
    texts = ("label.label", "provenance.source", "provenance.license")
    numbers = [path for path in _HISTOGRAMS if dataset.has_field(path)]
    by_class, sources, licences, tags = dataset.aggregate([fo.CountValues(path) for path in (*texts, "tags")])
    kept = dataset.match_tags(KEPT).count_values("label.label")
    names = class_names(dataset)
    charts = [
        Chart(
            "classes",
            "Images of each class",
            {
                "kept": tuple(Bar(n, kept.get(n, 0), {"label.label": n, "tags": KEPT}) for n in names),
                "dropped": tuple(
                    Bar(n, by_class.get(n, 0) - kept.get(n, 0), {"label.label": n, "tags": {"$ne": KEPT}})
                    for n in names
                ),
            },
        ),
        _counts("reasons", "Why images were dropped", "tags", _reasons(tags), "dropped"),
    ]
    filters = applied_filters(dataset)
    for path, values in zip(numbers, dataset.values(numbers), strict=True):
        chart = _histogram(path, values)
        if path == "foreground_ratio" and filters:
            chart = replace(chart, lines=(filters.min_foreground, filters.max_foreground))
        if path == "confidence" and filters and filters.min_confidence:
            chart = replace(chart, lines=(filters.min_confidence,))
        charts.append(chart)
    charts.append(_counts("sources", "Sources", "provenance.source", sources, "images"))
    charts.append(_counts("licences", "Licences", "provenance.license", licences, "images"))
    return charts


def _target(dataset: "fo.Dataset") -> list[Chart]:
    names = class_names(dataset)
    tags = dataset.count_sample_tags()
    shown = dataset.values("labels.classifications.label")
    pairs = Counter(pair for labels in shown for pair in combinations_with_replacement(sorted(set(labels or ())), 2))
    field = "labels.classifications.label"
    rows = {
        one: tuple(Bar(two, pairs[min(one, two), max(one, two)], {field: {"$all": [one, two]}}) for two in names)
        for one in names
    }
    splits = {tag: tags.get(tag, 0) for tag in ("train", "val", "test") if tags.get(tag)}
    return [
        _counts("splits", "Splits", "tags", splits, "images"),
        _counts("reasons", "Why images were dropped", "tags", _reasons(tags), "dropped"),
        Chart("classes", "Images of each class", {"images": tuple(Bar(n, pairs[n, n], {field: n}) for n in names)}),
        Chart("cooccurrence", "Classes shown together (images)", rows, matrix=True),
    ]


def _reasons(tags: Mapping[str, int]) -> dict[str, int]:
    return {tag: count for tag, count in tags.items() if tag.startswith(DROPPED)}


def _counts(name: str, title: str, path: str, counts: Mapping[Any, int], series: str) -> Chart:
    """A bar for each value of a field, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    shown, rest = ordered[:MOST_BARS], ordered[MOST_BARS:]
    bars = [Bar("unknown" if v is None else v.removeprefix(DROPPED), count, {path: v}) for v, count in shown]
    if rest:
        bars.append(Bar("others", sum(n for _, n in rest), {path: {"$nin": [v for v, _ in shown]}}))
    return Chart(name, title, {series: tuple(bars)})


def _histogram(path: str, values: Sequence[float | None]) -> Chart:
    counts, _ = np.histogram([value for value in values if value is not None], EDGES)
    bars = tuple(
        Bar(round((low + high) / 2, 4), int(count), {path: {"$gte": low, "$lt": high}})
        for count, low, high in zip(counts, EDGES[:-1], EDGES[1:], strict=True)
    )
    return Chart(path.split(".")[-1], _HISTOGRAMS[path], {"images": bars})
