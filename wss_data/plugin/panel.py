"""The panel ``overview``: the dataset in charts; clicking a bar shows its images."""

import json
from typing import Any

import fiftyone.operators as foo
from fiftyone.operators import types

from wss_data.errors import WssError
from wss_data.store.overview import Chart, overview

_KEPT, _DROPPED, _PLAIN, _LINE = "#2a9d5c", "#8a919c", "#4c86d6", "#e4572e"
HEIGHT_PX = 280
"""Of a chart; FiftyOne gives it the panel's width."""

_COLOURS = {"kept": _KEPT, "dropped": _DROPPED}


class Overview(foo.Panel):
    """Counts, kept shares, distributions, sources and licences of a dataset of ours."""

    @property
    def config(self) -> foo.PanelConfig:
        """What the App lists."""
        return foo.PanelConfig(
            name="overview",
            label="Overview",
            icon="insights",
            help_markdown="The dataset in numbers. Click a bar to see its images; *Show all images* takes that back.",
        )

    def on_load(self, ctx: Any) -> None:
        """Count."""
        self._count(ctx)

    def on_change_dataset(self, ctx: Any) -> None:
        """Count the other dataset."""
        self._count(ctx)

    def count_again(self, ctx: Any) -> None:
        """Count once more: images or verdicts may have come since."""
        self._count(ctx)

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
        buttons.btn("count_again", label="Count again", on_click=self.count_again)
        for name, layout in (ctx.panel.get_state("layouts") or {}).items():
            panel.plot(
                name, layout=layout, config={"displayModeBar": False}, on_click=self.show_images, height=HEIGHT_PX
            )
        return types.Property(panel)

    def _count(self, ctx: Any) -> None:
        ctx.panel.state.clear()
        ctx.panel.data.clear()
        try:
            charts = overview(ctx.dataset)
        except WssError as error:
            ctx.panel.set_state("error", str(error))
            return
        ctx.panel.set_data({chart.name: traces(chart) for chart in charts})
        ctx.panel.set_state("layouts", {chart.name: layout(chart) for chart in charts})


def traces(chart: Chart) -> list[dict[str, Any]]:
    """A chart as Plotly's data. The condition of each bar goes along as its id, which a click sends back."""
    if chart.matrix:
        rows = list(chart.series.items())
        return [
            {
                "type": "heatmap",
                "z": [[bar.count for bar in bars] for _, bars in rows],
                "x": [bar.label for bar in rows[0][1]],
                "y": [name for name, _ in rows],
                "ids": [[json.dumps(bar.condition) for bar in bars] for _, bars in rows],
                "colorscale": "Blues",
                "texttemplate": "%{z}",
            }
        ]
    return [
        {
            "type": "bar",
            "name": name,
            "x": [bar.label for bar in bars],
            "y": [bar.count for bar in bars],
            "ids": [json.dumps(bar.condition) for bar in bars],
            "marker": {"color": _COLOURS.get(name, _PLAIN)},
            "hovertemplate": "%{x}: %{y} images<extra>" + (name if len(chart.series) > 1 else "") + "</extra>",
        }
        for name, bars in chart.series.items()
    ]


def layout(chart: Chart) -> dict[str, Any]:
    """A chart's layout for Plotly; the filter's thresholds are lines."""
    across = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "line": {"color": _LINE, "width": 2, "dash": "dot"}}
    return {
        "title": {"text": chart.title, "x": 0.02, "xanchor": "left"},
        "barmode": "stack",
        "bargap": 0.1,
        "showlegend": len(chart.series) > 1 and not chart.matrix,
        "legend": {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 50, "r": 20, "t": 50, "b": 40},
        "xaxis": {"automargin": True},
        "yaxis": {"automargin": True},
        "shapes": [{**across, "x0": x, "x1": x} for x in chart.lines],
    }


OPERATORS = (Overview,)
