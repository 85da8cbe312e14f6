"""The operator that changes the filter, and shows beforehand what it would keep."""

from typing import Any

import fiftyone.operators as foo
from fiftyone.operators import types

from wss_data import store
from wss_data.filtering.filters import FilterReport
from wss_data.plugin.forms import form_of, refusing, told_or_failed
from wss_data.runtime.home import dataset_owner
from wss_data.spec import FilterSpec, read_filters

_THRESHOLDS = (
    ("min_foreground", "Smallest foreground share", "0 to 1; the paper has 0.2"),
    ("max_foreground", "Largest foreground share", "0 to 1; the paper has 0.8"),
    ("min_confidence", "Smallest confidence", "0 to 1; the paper has none"),
)


class ChangeFilter(foo.Operator):
    """Apply the filter with other thresholds; a table shows what each class would keep."""

    @property
    def config(self) -> foo.OperatorConfig:
        """What the App lists."""
        return foo.OperatorConfig(
            name="change_filter",
            label="Change the filter",
            description="Other limits for foreground and confidence, with a preview of what each class would keep",
            icon="filter_alt",
            dynamic=True,
        )

    def resolve_input(self, ctx: Any) -> types.Property:
        """The three thresholds, and the preview."""
        form = types.Object()
        with refusing(form):
            now = store.apply_filter(ctx.dataset, dry_run=True)
            for name, label, told in _THRESHOLDS:
                form.float(
                    name,
                    label=label,
                    description=told,
                    default=getattr(now.filters, name),
                    view=types.FieldView(space=4),
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
            now = store.applied_filters(ctx.dataset) or store.definition(ctx.dataset).filters
            with dataset_owner(ctx.dataset.name):
                report = store.apply_filter(ctx.dataset, _wanted(ctx, now))
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
    given = {name: ctx.params.get(name) for name, _, _ in _THRESHOLDS}
    # What is left empty stays as it is.
    return read_filters({name: getattr(otherwise, name) if v is None else v for name, v in given.items()}, "filter")


OPERATORS = (ChangeFilter,)
