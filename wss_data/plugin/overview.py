"""The panel ``overview``: the dataset in charts; clicking a bar shows its images."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import fiftyone as fo
import fiftyone.operators as foo
import numpy as np
from fiftyone.operators import types

from wss_data.errors import WssError
from wss_data.filtering.filters import DROPPED, KEPT
from wss_data.store.info import SCORE, applied_filters, class_names, kind_of
from wss_data.store.types import Dataset

EDGES = (*(number / 20 for number in range(20)), 1.000001)
"""Of a histogram's bars over [0, 1]; each holds its lower edge, the last one 1, too."""

MOST_BARS = 20
"""Sources or licences that get a bar; the rest share one."""

HEIGHT_PX = 280
"""Of a chart; FiftyOne gives it the panel's width."""

_COLOURS = {"kept": "#2a9d5c", "dropped": "#8a919c"}
_OTHER_COLOUR, _LINE_COLOUR = "#4c86d6", "#e4572e"

_HISTOGRAMS = {
    "foreground_ratio": "Foreground fraction of the mask",
    "confidence": "Confidence of the engine",
    SCORE: "Quality: 1 is the least suspicious",
}


@dataclass(frozen=True)
class Bar:
    """One bar of a chart: a number of images, and which, as MongoDB's ``$match`` wants it.

    ``label``: what is written below it; the middle of the interval in a histogram.
    """

    label: str | float
    count: int
    condition: Mapping[str, Any]


@dataclass(frozen=True)
class Chart:
    """One chart: name of each series of bars -> its bars; with ``matrix``, the series are rows of a matrix.

    ``name``: a word without blanks; ``lines``: positions of vertical lines, the filter's thresholds.
    """

    name: str
    title: str
    series: Mapping[str, Sequence[Bar]]
    lines: tuple[float, ...] = ()
    matrix: bool = False


class Overview(foo.Panel):
    """Counts, kept images, distributions, sources and licences of a dataset of ours."""

    config = foo.PanelConfig(
        name="overview",
        label="Overview",
        icon="insights",
        help_markdown="The dataset in numbers. Click a bar to see its images; *Show all images* undoes that.",
    )

    def on_load(self, ctx: Any) -> None:
        """Count; again for another dataset, or if the button is pressed: images or verdicts may have come since."""
        ctx.panel.state.clear()
        ctx.panel.data.clear()
        try:
            charts = overview(ctx.dataset)
        except WssError as error:
            ctx.panel.set_state("error", str(error))
            return
        ctx.panel.set_data({chart.name: traces(chart) for chart in charts})
        ctx.panel.set_state("layouts", {chart.name: layout(chart) for chart in charts})

    on_change_dataset = on_load

    def show_all(self, ctx: Any) -> None:
        """Show the whole dataset."""
        ctx.ops.clear_view()

    def show_images(self, ctx: Any) -> None:
        """Show the images of the bar that was clicked."""
        if condition := ctx.params.get("id"):
            ctx.ops.set_view(ctx.dataset.match(json.loads(condition)))

    def render(self, ctx: Any) -> types.Property:
        """Two buttons, and a chart below the other."""
        panel = types.Object()
        if error := ctx.panel.get_state("error"):
            panel.view("refused", types.Error(label="There is nothing to count", description=error))
            return types.Property(panel)
        buttons = panel.h_stack("buttons", gap=2)
        buttons.btn("show_all", label="Show all images", on_click=self.show_all)
        buttons.btn("count_again", label="Count again", on_click=self.on_load)
        config = {"displayModeBar": False}
        for name, shown in (ctx.panel.get_state("layouts") or {}).items():
            panel.plot(name, layout=shown, config=config, on_click=self.show_images, height=HEIGHT_PX)
        return types.Property(panel)


def overview(dataset: Dataset) -> list[Chart]:
    """The charts of a dataset; those without a single image are left out.

    Of a web dataset: classes and what is kept of them, why the others were dropped, foreground fractions with the
    filter's thresholds, confidence, quality, sources and licences. Of a target dataset: splits, classes, and which of
    them are shown together.

    Raises:
        StoreError: If the dataset is not ours.
    """
    charts = _web(dataset) if kind_of(dataset) == "web" else _target(dataset)
    return [chart for chart in charts if any(bar.count for bars in chart.series.values() for bar in bars)]


def _web(dataset: Dataset) -> list[Chart]:
    paths = ("label.label", "provenance.source", "provenance.license", "tags")
    by_class, sources, licences, tags = dataset.aggregate([fo.CountValues(path) for path in paths])
    kept = dataset.match_tags(KEPT).count_values("label.label")
    names = class_names(dataset)
    series = {
        "kept": [Bar(n, kept.get(n, 0), {"label.label": n, "tags": KEPT}) for n in names],
        "dropped": [
            Bar(n, by_class.get(n, 0) - kept.get(n, 0), {"label.label": n, "tags": {"$ne": KEPT}}) for n in names
        ],
    }
    charts = [Chart("classes", "Images of each class", series), _reasons(tags)]
    lines: dict[str, tuple[float, ...]] = {}
    if filters := applied_filters(dataset):
        lines["foreground_ratio"] = (filters.min_foreground, filters.max_foreground)
        lines["confidence"] = (filters.min_confidence,) if filters.min_confidence else ()
    numbers = [path for path in _HISTOGRAMS if dataset.has_field(path)]
    for path, values in zip(numbers, dataset.values(numbers), strict=True):
        charts.append(_histogram(path, values, lines.get(path, ())))
    charts.append(_counts("sources", "Sources", "provenance.source", sources))
    charts.append(_counts("licences", "Licences", "provenance.license", licences))
    return charts


def _target(dataset: Dataset) -> list[Chart]:
    names, tags, field = class_names(dataset), dataset.count_sample_tags(), "labels.classifications.label"
    pairs: Counter[tuple[str, str]] = Counter()
    # Each pair once, in the order of the alphabet, and each class with itself: its images.
    for labels in dataset.values(field):
        pairs.update(combinations_with_replacement(sorted(set(labels or ())), 2))
    rows = {
        one: [Bar(two, pairs[min(one, two), max(one, two)], {field: {"$all": [one, two]}}) for two in names]
        for one in names
    }
    splits = {tag: tags[tag] for tag in ("train", "val", "test") if tags.get(tag)}
    return [
        _counts("splits", "Splits", "tags", splits),
        _reasons(tags),
        Chart("classes", "Images of each class", {"images": [Bar(n, pairs[n, n], {field: n}) for n in names]}),
        Chart("cooccurrence", "Classes shown together (images)", rows, matrix=True),
    ]


def _reasons(tags: Mapping[str, int]) -> Chart:
    dropped = {tag: count for tag, count in tags.items() if tag.startswith(DROPPED)}
    return _counts("reasons", "Why images were dropped", "tags", dropped, "dropped")


def _counts(name: str, title: str, path: str, counts: Mapping[Any, int], series: str = "images") -> Chart:
    """A bar for each value of a field, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    shown, rest = ordered[:MOST_BARS], ordered[MOST_BARS:]
    bars = [Bar("unknown" if v is None else v.removeprefix(DROPPED), count, {path: v}) for v, count in shown]
    if rest:
        bars.append(Bar("others", sum(n for _, n in rest), {path: {"$nin": [v for v, _ in shown]}}))
    return Chart(name, title, {series: bars})


def _histogram(path: str, values: Sequence[float | None], lines: tuple[float, ...]) -> Chart:
    counts, _ = np.histogram([value for value in values if value is not None], EDGES)
    bars = [
        Bar(round((low + high) / 2, 4), int(count), {path: {"$gte": low, "$lt": high}})
        for count, low, high in zip(counts, EDGES[:-1], EDGES[1:], strict=True)
    ]
    return Chart(path.split(".")[-1], _HISTOGRAMS[path], {"images": bars}, lines)


def traces(chart: Chart) -> list[dict[str, Any]]:
    """A chart as Plotly's data. The condition of each bar goes along as its id, which a click sends back."""
    x = [[bar.label for bar in bars] for bars in chart.series.values()]
    y = [[bar.count for bar in bars] for bars in chart.series.values()]
    ids = [[json.dumps(bar.condition) for bar in bars] for bars in chart.series.values()]
    if chart.matrix:
        names = list(chart.series)
        shown = {"colorscale": "Blues", "texttemplate": "%{z}"}
        return [{"type": "heatmap", "x": x[0], "y": names, "z": y, "ids": ids, **shown}]
    return [
        {
            "type": "bar",
            "name": name,
            "x": x[row],
            "y": y[row],
            "ids": ids[row],
            "marker": {"color": _COLOURS.get(name, _OTHER_COLOUR)},
            "hovertemplate": "%{x}: %{y} images<extra>" + (name if len(chart.series) > 1 else "") + "</extra>",
        }
        for row, name in enumerate(chart.series)
    ]


def layout(chart: Chart) -> dict[str, Any]:
    """A chart's layout for Plotly; the filter's thresholds are lines."""
    dotted = {"color": _LINE_COLOUR, "width": 2, "dash": "dot"}
    return {
        "title": {"text": chart.title, "x": 0.02, "xanchor": "left"},
        "barmode": "stack",
        "bargap": 0.1,
        "showlegend": len(chart.series) > 1 and not chart.matrix,
        "legend": {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 50, "r": 20, "t": 50, "b": 40},
        "xaxis": {"automargin": True},
        "yaxis": {"automargin": True},
        "shapes": [
            {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": x, "x1": x, "line": dotted} for x in chart.lines
        ],
    }


OPERATORS = (Overview,)
