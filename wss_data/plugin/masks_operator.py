"""The operators that compare two masks of each image, and adopt others than those in use."""

from typing import Any

import fiftyone.operators as foo
from fiftyone.operators import types

from wss_data import store
from wss_data.plugin.forms import form_of, refusing, told_or_failed
from wss_data.store.mask_fields import disagreement_view, other_mask_fields


class CompareMasks(foo.Operator):
    """Sort the images by how little another field's masks agree with those in use."""

    @property
    def config(self) -> foo.OperatorConfig:
        """What the App lists."""
        return foo.OperatorConfig(
            name="compare_masks",
            label="Compare masks",
            description="Intersection over union with another mask field, and the images that differ most first",
            icon="compare",
            dynamic=True,
        )

    def resolve_input(self, ctx: Any) -> types.Property:
        """The other field."""
        return _ask_field(ctx, "Compare with the masks in use")

    def execute(self, ctx: Any) -> dict[str, str]:
        """Compare, then show what differs most."""

        def compare() -> str:
            found = store.compare_masks(ctx.dataset, ctx.params["field"])
            ctx.ops.set_view(view=disagreement_view(ctx.dataset, found))
            return str(found)

        return told_or_failed(ctx, compare)


class AdoptMasks(foo.Operator):
    """Use the masks of another field from now on."""

    @property
    def config(self) -> foo.OperatorConfig:
        """What the App lists."""
        return foo.OperatorConfig(
            name="adopt_masks",
            label="Adopt masks",
            description="Use another field's masks; the earlier ones stay in a field of their own",
            icon="published_with_changes",
            dynamic=True,
        )

    def resolve_input(self, ctx: Any) -> types.Property:
        """The field; selected images only, if any are."""
        return _ask_field(ctx, f"Adopt for {len(ctx.selected):,} selected images" if ctx.selected else "Adopt for all")

    def execute(self, ctx: Any) -> dict[str, str]:
        """Adopt them."""

        def adopt() -> str:
            count = store.adopt_masks(ctx.dataset, ctx.params["field"], sample_ids=list(ctx.selected) or None)
            return f"{count:,} masks of '{ctx.params['field']}' are used from now on"

        return told_or_failed(ctx, adopt)


def _ask_field(ctx: Any, title: str) -> types.Property:
    form = types.Object()
    with refusing(form):
        form.enum("field", other_mask_fields(ctx.dataset), label="Mask field", required=True)
    return form_of(form, title)


OPERATORS = (CompareMasks, AdoptMasks)
