"""What the forms of several operators need: whose images are meant, and errors as sentences."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fiftyone.operators import types

from wss_data.errors import WssError

WHOLE_VIEW = "whole_view"


def which_images(ctx: Any, form: types.Object) -> bool:
    """Say which images are meant: the selected ones, or all of the view if that is ticked. Returns whether any are.

    Args:
        ctx: FiftyOne's execution context.
        form: Gets a line about it, and the tick where nothing is selected.
    """
    if ctx.selected:
        form.view(
            "which", types.Notice(label=f"{len(ctx.selected):,} selected image{'' if len(ctx.selected) == 1 else 's'}")
        )
        return True
    shown = len(ctx.view)
    form.bool(
        WHOLE_VIEW,
        default=False,
        label=f"All {shown:,} images of the view",
        description="Nothing is selected. Tick this, or close the form and select images in the grid.",
    )
    return bool(ctx.params.get(WHOLE_VIEW)) and shown > 0


def meant_images(ctx: Any) -> list[str]:
    """Sample ids of the images that ``which_images`` asked about."""
    if ctx.selected:
        return list(ctx.selected)
    return ctx.view.values("id") if ctx.params.get(WHOLE_VIEW) else []


def told_or_failed(ctx: Any, action: Callable[[], str]) -> dict[str, str]:
    """Do something to the dataset, show the sentence that it returns, or that of its error, and load the grid anew.

    Args:
        ctx: FiftyOne's execution context.
        action: Returns what was done, as a sentence.

    Returns:
        ``done`` or ``error`` with the sentence, for callers outside the App.
    """
    try:
        done = action()
    except WssError as error:
        ctx.ops.notify(str(error), variant="error")
        return {"error": str(error)}
    ctx.ops.clear_selected_samples()
    ctx.ops.reload_dataset()
    ctx.ops.notify(done, variant="success")
    return {"done": done}


@contextmanager
def refusing(form: types.Object) -> Iterator[None]:
    """A form that shows the sentence of an error in its block, and cannot be sent then."""
    try:
        yield
    except WssError as error:
        prop = form.view("refused", types.Error(label="This cannot be done here", description=str(error)))
        prop.invalid, prop.error_message = True, str(error)


def form_of(form: types.Object, title: str) -> types.Property:
    """A finished form under a title."""
    return types.Property(form, view=types.View(label=title))
