"""The panel ``overview``: the dataset in charts; clicking a bar shows its images."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, pairwise
from typing import Any, NamedTuple

import fiftyone as fo
import fiftyone.operators as foo
import numpy as np
from fiftyone.operators import types

from wss_data.errors import WssError
from wss_data.filtering.filters import DROPPED, KEPT
from wss_data.store.appearance import DROPPED_COLOUR, KEPT_COLOUR
from wss_data.store.info import SCORE, applied_filters, class_names, group_names, kind_of
from wss_data.store.types import Dataset

# Edges of a histogram's bars over [0, 1]. Each bar holds its lower edge alone, so the last ends just above 1.
EDGES = (*(number / 20 for number in range(20)), 1.000001)
MOST_BARS = 20  # sources or licences that get a bar; the rest share one, so that the labels stay readable
HEIGHT_PX = 280  # of a chart; FiftyOne gives it the panel's width

_COLOURS = {"kept": KEPT_COLOUR, "dropped": DROPPED_COLOUR}
_OTHER_COLOUR, _LINE_COLOUR = "#4c86d6", "#e4572e"

_HISTOGRAMS = {
    "foreground_ratio": "Foreground fraction of the mask: suspicious if low or high",
    "confidence": "Confidence of the engine: suspicious if low",
    SCORE: "Quality: suspicious if low",
}


@dataclass(frozen=True)
class Bar:
    """One bar of a chart: what is written below it, a number of images, and which, for MongoDB's ``$match``."""

    label: str | float
    count: int
    condition: Mapping[str, Any]


class Chart(NamedTuple):
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
        """Two buttons, and one chart below the other."""
        panel = types.Object()
        if error := ctx.panel.get_state("error"):
            panel.view("refused", types.Error(label="There is nothing to count", description=error))
            return types.Property(panel)
        buttons = panel.h_stack("buttons", gap=2)
        buttons.btn("show_all", label="Show all images", on_click=self.show_all)
        buttons.btn("count_again", label="Count again", on_click=self.on_load)
        config = {"displayModeBar": False}  # Plotly's own buttons hide the title
        for name, shown in (ctx.panel.get_state("layouts") or {}).items():
            panel.plot(name, layout=shown, config=config, on_click=self.show_images, height=HEIGHT_PX)
        return types.Property(panel)


def overview(dataset: Dataset) -> list[Chart]:
    """The charts of a dataset; those without a single image are left out.

    Raises:
        StoreError: If the dataset is not ours.
    """
    charts = _web(dataset) if kind_of(dataset) == "web" else _target(dataset)
    return [chart for chart in charts if any(bar.count for bars in chart.series.values() for bar in bars)]


def _web(dataset: Dataset) -> list[Chart]:
    """What is kept of each class, why the others were dropped, numbers of the masks, sources and licences."""
    paths = ("label.label", "provenance.source", "provenance.license", "tags")
    images, sources, licences, tags = dataset.aggregate([fo.CountValues(path) for path in paths])
    kept = dataset.match_tags(KEPT).count_values("label.label")
    series: dict[str, list[Bar]] = {"kept": [], "dropped": []}
    for name in group_names(dataset):
        series["kept"].append(Bar(name, kept.get(name, 0), {"label.label": name, "tags": KEPT}))
        dropped = images.get(name, 0) - kept.get(name, 0)
        series["dropped"].append(Bar(name, dropped, {"label.label": name, "tags": {"$ne": KEPT}}))
    charts = [Chart("classes", "Images of each class", series), _reasons(tags)]
    lines: dict[str, tuple[float, ...]] = {}
    if filters := applied_filters(dataset):
        lines["foreground_ratio"] = (filters.min_foreground, filters.max_foreground)
        # 0 drops nothing: no line for it.
        lines["confidence"] = (filters.min_confidence,) if filters.min_confidence else ()
    for path in filter(dataset.has_field, _HISTOGRAMS):
        counts, _ = np.histogram([value for value in dataset.values(path) if value is not None], EDGES)
        bars = [
            Bar(round((low + high) / 2, 4), int(count), {path: {"$gte": low, "$lt": high}})
            for count, (low, high) in zip(counts, pairwise(EDGES), strict=True)
        ]
        charts.append(Chart(path.split(".")[-1], _HISTOGRAMS[path], {"images": bars}, lines.get(path, ())))
    charts.append(_counts("sources", "Sources", "provenance.source", sources))
    charts.append(_counts("licences", "Licences", "provenance.license", licences))
    return charts


def _target(dataset: Dataset) -> list[Chart]:
    """Splits, what was dropped, classes, and which of them are shown together."""
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


def traces(chart: Chart) -> list[dict[str, Any]]:
    """A chart as Plotly's data."""
    # A click sends back the id of its bar, which is why a bar's condition goes along as its id.
    rows = {
        name: {"x": [bar.label for bar in bars], "y": [bar.count for bar in bars]}
        | {"ids": [json.dumps(bar.condition) for bar in bars]}
        for name, bars in chart.series.items()
    }
    if chart.matrix:
        x, z, ids = ([row[key] for row in rows.values()] for key in ("x", "y", "ids"))
        shown = {"colorscale": "Blues", "texttemplate": "%{z}"}
        return [{"type": "heatmap", "x": x[0], "y": list(rows), "z": z, "ids": ids, **shown}]
    return [
        {
            **{"type": "bar", "name": name, **row, "marker": {"color": _COLOURS.get(name, _OTHER_COLOUR)}},
            "hovertemplate": f"%{{x}}: %{{y}} images<extra>{name if len(rows) > 1 else ''}</extra>",
        }
        for name, row in rows.items()
    ]


def layout(chart: Chart) -> dict[str, Any]:
    """A chart's layout for Plotly; the filter's thresholds are lines."""
    dotted = {"type": "line", "line": {"color": _LINE_COLOUR, "width": 2, "dash": "dot"}}
    return {
        "title": {"text": chart.title, "x": 0.02, "xanchor": "left"},
        "barmode": "stack",
        "bargap": 0.1,
        "showlegend": len(chart.series) > 1 and not chart.matrix,
        "legend": {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 50, "r": 20, "t": 50, "b": 40},
        "xaxis": {"automargin": True},  # long names of classes and licences would be cut off
        "yaxis": {"automargin": True},
        # "paper": from the bottom of the chart to its top, whatever the counts.
        "shapes": [{**dotted, "yref": "paper", "y0": 0, "y1": 1, "x0": x, "x1": x} for x in chart.lines],
    }


OPERATORS = (Overview,)
