"""The operator that changes the filter, and shows beforehand what it would keep."""

from typing import Any

import fiftyone.operators as foo
from fiftyone.operators import types

from wss_data import store
from wss_data.filters import FilterReport
from wss_data.plugin.forms import form_of, refusing, told_or_failed
from wss_data.spec import FilterSpec, read_filters


class ChangeFilter(foo.Operator):
    """Apply the filter with other thresholds; a table shows what each class would keep."""

    @property
    def config(self) -> foo.OperatorConfig:
        """What the App lists."""
        return foo.OperatorConfig(
            name="change_filter",
            label="Change the filter",
            description="Other limits for the foreground share, with a preview of what each class would keep",
            icon="filter_alt",
            dynamic=True,
        )

    def resolve_input(self, ctx: Any) -> types.Property:
        """The two thresholds, and the preview."""
        form = types.Object()
        with refusing(form):
            now = store.apply_filter(ctx.dataset, dry_run=True)
            for name, label, paper in (("min", "Smallest", 0.2), ("max", "Largest", 0.8)):
                form.float(
                    f"{name}_foreground",
                    label=f"{label} foreground share",
                    description=f"0 to 1; the paper has {paper}",
                    default=getattr(now.filters, f"{name}_foreground"),
                    required=True,
                    view=types.FieldView(space=6),
                )
            then = store.apply_filter(ctx.dataset, _wanted(ctx, now.filters), dry_run=True)
            table = types.TableView(label="Images kept")
            for key, label in (("class", "class"), ("images", "images"), ("now", "kept now"), ("then", "kept then")):
                table.add_column(key, label=label)
            form.list("preview", types.Object(), default=preview_rows(now, then), read_only=True, view=table)
        return form_of(form, "Change the filter")

    def execute(self, ctx: Any) -> dict[str, str]:
        """Apply it."""

        def change() -> str:
            report = store.apply_filter(ctx.dataset, _wanted(ctx, FilterSpec()))
            return f"the filter keeps {report.kept:,} of {report.images:,} images"

        return told_or_failed(ctx, change)


def preview_rows(now: FilterReport, then: FilterReport) -> list[dict[str, str]]:
    """A row for each class and one for all: images, how many are kept now, and how many would be.

    Args:
        now: With the thresholds in force.
        then: With others.
    """
    rows = [
        {"class": a.class_name, "images": f"{a.images:,}", "now": f"{a.kept:,}", "then": _change(a.kept, b.kept)}
        for a, b in zip(now.classes, then.classes, strict=True)
    ]
    total = {"class": "all", "images": f"{now.images:,}", "now": f"{now.kept:,}", "then": _change(now.kept, then.kept)}
    return [*rows, total]


def _change(now: int, then: int) -> str:
    return f"{then:,}" + (f" ({then - now:+,})" if then != now else "")


def _wanted(ctx: Any, otherwise: FilterSpec) -> FilterSpec:
    given = {
        "min_foreground": ctx.params.get("min_foreground", otherwise.min_foreground),
        "max_foreground": ctx.params.get("max_foreground", otherwise.max_foreground),
    }
    return read_filters(given, "filter")


OPERATORS = (ChangeFilter,)
