"""The operator that co-segments a class once more, into a second mask field, in the background."""

from collections.abc import Callable
from typing import Any

import fiftyone.operators as foo
from fiftyone.operators import types

from wss_data import store
from wss_data.cosegmentation import ENGINES, PROGRAM_ENGINES, make_engine
from wss_data.errors import CosegmentationError, shown
from wss_data.pipeline import cosegment_again
from wss_data.plugin.forms import form_of, refusing, told_or_failed
from wss_data.reading.plain_yaml import plain_values
from wss_data.store.info import web_info
from wss_data.store.mask_fields import check_new_field

_ALL = "all classes"
_SECOND = f"{store.MASKS}_2"


class CosegmentAgain(foo.Operator):
    """Make other masks beside those in use, to be compared."""

    @property
    def config(self) -> foo.OperatorConfig:
        """What the App lists."""
        return foo.OperatorConfig(
            name="cosegment_again",
            label="Co-segment again",
            description="Other settings or another engine, into a second mask field; then compare, and adopt or forget",
            icon="auto_fix_high",
            dynamic=True,
            allow_immediate_execution=True,
            allow_delegated_execution=True,
            default_choice_to_delegated=True,
        )

    def resolve_input(self, ctx: Any) -> types.Property:
        """Class, engine, its options, and the field; what they would be refused for is told here."""
        form = types.Object()
        with refusing(form):
            web_info(ctx.dataset, "co-segmented")
            classes, engine = store.class_names(ctx.dataset), store.definition(ctx.dataset).cosegmentation.method
            # Nothing that can reach the App may start a program: pages and databases of others can.
            offered = sorted(set(ENGINES).difference(PROGRAM_ENGINES))
            engine = engine if engine in offered else "common"
            form.enum("class_name", [*classes, _ALL], default=classes[0], label="Class", required=True)
            form.enum("method", offered, default=engine, label="Engine", required=True)
            form.str(
                "options",
                label="Options",
                description="As in a definition, one a line, such as `long_side: 384`; may stay empty.",
                view=types.CodeView(language="yaml"),
            )
            form.str("field", default=_SECOND, label="Mask field", required=True)
            check_new_field(ctx.params.get("field") or _SECOND)
            make_engine(ctx.params.get("method") or engine, _options(ctx))
        return form_of(form, "Co-segment again")

    def execute(self, ctx: Any) -> dict[str, str]:
        """Make the masks."""

        def cosegment() -> str:
            field, name = ctx.params.get("field") or _SECOND, ctx.params.get("class_name")
            made = cosegment_again(
                ctx.dataset,
                ctx.params.get("method"),
                _options(ctx),
                None if name in (None, _ALL) else [name],
                field=field,
                progress=_progress(ctx),
            )
            return f"{made:,} masks in '{field}'; compare them with those in use by the operator Compare masks"

        # In the background, an error is shown by whoever runs it.
        return {"done": cosegment()} if ctx.delegated else told_or_failed(ctx, cosegment)


def _options(ctx: Any) -> dict[str, Any]:
    text = ctx.params.get("options") or ""
    try:
        found = plain_values(text) or {}
    except ValueError as error:
        raise CosegmentationError(f"the options are no YAML of plain values ({error}).") from error
    if not isinstance(found, dict):
        raise CosegmentationError(f"the options are {shown(text)}; lines like `long_side: 384` are wanted.")
    return found


def _progress(ctx: Any) -> Callable[[str, int, int], None]:
    """Tells FiftyOne how far it is, a hundred times a class at most: each time is a write to the database."""

    def watch(class_name: str, done: int, wanted: int) -> None:
        if done == wanted or done % max(1, wanted // 100) == 0:
            ctx.set_progress(progress=done / wanted, label=f"{class_name}: {done:,} of {wanted:,} masks")

    return watch


OPERATORS = (CosegmentAgain,)
