"""The operators of the App: forms that ask, and the functions of ``wss_data`` that they call."""

import re
from abc import ABC, abstractmethod
from functools import partial
from typing import Any, ClassVar

import fiftyone.operators as foo
from fiftyone.operators import types

from wss_data import store
from wss_data.cosegmentation import ENGINES, PROGRAM_ENGINES, make_engine
from wss_data.errors import CosegmentationError, WssError, shown
from wss_data.filtering.filters import FilterReport, Verdict
from wss_data.filtering.verdicts import last_standing_act
from wss_data.pipeline import cosegment_again
from wss_data.reading.plain_yaml import plain_values
from wss_data.runtime.home import dataset_owner
from wss_data.spec import FilterSpec, read_filters
from wss_data.store.info import web_info
from wss_data.store.mask_fields import check_new_field, disagreement_view, other_mask_fields
from wss_data.store.verdicts import ChoiceChange

WHOLE_VIEW = "whole_view"  # parameter: whether all images of the view are meant where none is selected
_ALL_CLASSES = "all classes"
_SECOND_FIELD = f"{store.MASKS}_2"


class FormOperator(foo.Operator, ABC):
    """An operator that asks in a form, changes the dataset, and reports what it did in one sentence.

    The App shows the first line of the class's docstring as its description. An error of ours in ``_ask`` is shown in
    the form, which cannot be submitted then; one in ``_act`` is shown as a notification.
    """

    heading: ClassVar[str]
    icon: ClassVar[str]
    background: ClassVar[bool] = False  # whether it is run in the background, unless the user wants otherwise

    @property
    def config(self) -> foo.OperatorConfig:
        """What the App lists."""
        return foo.OperatorConfig(
            name=re.sub("(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower(),  # KeepImages: keep_images
            label=self.heading,
            # The App lists those that hold a typed word by their description's first letter: a blank comes first.
            description=" " + (type(self).__doc__ or "").splitlines()[0].rstrip("."),
            icon=self.icon,
            dynamic=True,  # asks `resolve_input` again when an input changes: previews follow
            allow_delegated_execution=self.background,
            default_choice_to_delegated=self.background,
        )

    @abstractmethod
    def _ask(self, ctx: Any, form: types.Object) -> None:
        """Add the form's inputs."""

    @abstractmethod
    def _act(self, ctx: Any) -> str:
        """Change the dataset; returns what was done."""

    def resolve_input(self, ctx: Any) -> types.Property:
        """Called by FiftyOne whenever the form is opened or changed."""
        form = types.Object()
        try:
            self._ask(ctx, form)
        except WssError as error:
            refused = form.view("refused", types.Error(label="This cannot be done here", description=str(error)))
            # With an invalid input the App lets nobody submit the form.
            refused.invalid, refused.error_message = True, str(error)
        return types.Property(form, view=types.View(label=self.heading))

    def execute(self, ctx: Any) -> dict[str, str]:
        """Called by FiftyOne; returns ``done`` or ``error`` with the sentence, for callers outside the App."""
        if ctx.delegated:
            return {"done": self._act(ctx)}  # in the background, the worker reports errors
        try:
            done = self._act(ctx)
        except WssError as error:
            ctx.ops.notify(str(error), variant="error")
            return {"error": str(error)}
        # A saved view may have its first image now, or none any more.
        store.bring_up_to_date(ctx.dataset, store.definition(ctx.dataset), "web")
        ctx.ops.clear_selected_samples()  # else the next form would be about the same images
        ctx.ops.reload_dataset()
        ctx.ops.notify(done, variant="success")
        return {"done": done}


def _ask_images(ctx: Any, form: types.Object) -> None:
    """Say which images are meant: the selected ones, or all of the view if that is ticked."""
    if ctx.selected:
        form.view("which", types.Notice(label=f"{_count(len(ctx.selected), 'selected image')}"))
        return
    form.bool(
        WHOLE_VIEW,
        default=False,
        label=f"All {len(ctx.view):,} images of the view",
        description="Nothing is selected. Tick this, or close the form and select images in the grid.",
    )


def _chosen_images(ctx: Any) -> list[str]:
    """Sample ids of the images that ``_ask_images`` asked about."""
    if ctx.selected:
        return list(ctx.selected)
    return ctx.view.values("id") if ctx.params.get(WHOLE_VIEW) else []


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


class _Judge(FormOperator):
    verdict: ClassVar[Verdict]

    def resolve_placement(self, ctx: Any) -> types.Placement:
        """A button above the grid."""
        button = types.Button(label=self.heading, icon=self.icon, prompt=True)  # opens the form first
        return types.Placement(types.Places.SAMPLES_GRID_ACTIONS, button)

    def _ask(self, ctx: Any, form: types.Object) -> None:
        web_info(ctx.dataset, "judged")
        _ask_images(ctx, form)
        form.str("reason", label="Reason", description="For those who come later; may stay empty.")

    def _act(self, ctx: Any) -> str:
        judged = store.judge(ctx.dataset, _chosen_images(ctx), self.verdict, ctx.params.get("reason") or "")
        return f"{self.verdict}: {_count(judged, 'image')}"


class KeepImages(_Judge):
    """The verdict of a person: it overrules whatever the program decided, permanently."""

    verdict = "keep"
    heading, icon = "Keep images", "thumb_up"


class DropImages(_Judge):
    """The verdict of a person: it overrules whatever the program decided, permanently."""

    verdict = "drop"
    heading, icon = "Drop images", "thumb_down"


class UndoVerdict(FormOperator):
    """Take back the last verdict on all of its images; again takes back the one before."""

    heading, icon = "Undo verdict", "undo"

    def _ask(self, ctx: Any, form: types.Object) -> None:
        acts = store.verdict_acts(ctx.dataset)
        number = last_standing_act(acts)
        line = "Nothing is left to undo." if number is None else f"{number}  {acts[number - 1]}"
        form.view("last", types.Notice(label=line))

    def _act(self, ctx: Any) -> str:
        return f"undone: {store.undo_verdict(ctx.dataset)}"


class SendToTraining(FormOperator):
    """Choose the images that are trained on."""

    heading, icon = "Send to training", "model_training"

    def _ask(self, ctx: Any, form: types.Object) -> None:
        web_info(ctx.dataset, "chosen from for training")
        chosen = len(ctx.dataset.match_tags(store.CHOSEN))
        now = f"{chosen:,} images are chosen now." if chosen else "No image is chosen: all kept images are trained on."
        form.view("now", types.Notice(label=now))
        choices = types.RadioGroup()
        choices.add_choice("replace", label="These images and no others")
        choices.add_choice("add", label="These as well")
        choices.add_choice("clear", label="End the choice: all kept images again")
        form.enum("how", choices.values(), default="replace", required=True, label="Train on", view=choices)
        if ctx.params.get("how") != "clear":
            _ask_images(ctx, form)

    def _act(self, ctx: Any) -> str:
        how: ChoiceChange = ctx.params.get("how") or "replace"
        count = store.choose_for_training(ctx.dataset, [] if how == "clear" else _chosen_images(ctx), how)
        return f"{count:,} images are chosen for training" if count else "all kept images are trained on"


class ChangeFilter(FormOperator):
    """Other thresholds for foreground and confidence, with a preview of the images of each class."""

    heading, icon = "Change the filter", "filter_alt"
    _THRESHOLDS: ClassVar = (
        ("min_foreground", "Smallest foreground fraction", "0 to 1; the paper has 0.2"),
        ("max_foreground", "Largest foreground fraction", "0 to 1; the paper has 0.8"),
        ("min_confidence", "Smallest confidence", "0 to 1; the paper has none"),
    )

    def _ask(self, ctx: Any, form: types.Object) -> None:
        now = store.apply_filter(ctx.dataset, dry_run=True)
        for name, label, about in self._THRESHOLDS:
            view = types.FieldView(space=4)  # of a row's 12: three beside each other
            form.float(name, label=label, description=about, default=getattr(now.filters, name), view=view)
        then = store.apply_filter(ctx.dataset, self._wanted(ctx, now.filters), dry_run=True)
        table = types.TableView(label="Images kept")
        for key, label in (("class", "class"), ("images", "images"), ("now", "kept now"), ("then", "kept then")):
            table.add_column(key, label=label)
        form.list("preview", types.Object(), default=preview_rows(now, then), read_only=True, view=table)

    def _act(self, ctx: Any) -> str:
        now = store.applied_filters(ctx.dataset) or store.definition(ctx.dataset).filters
        with dataset_owner(ctx.dataset.name):  # a build that runs now filters, too
            report = store.apply_filter(ctx.dataset, self._wanted(ctx, now))
        return f"the filter keeps {report.kept:,} of {report.images:,} images"

    def _wanted(self, ctx: Any, otherwise: FilterSpec) -> FilterSpec:
        given = {name: ctx.params.get(name) for name, _, _ in self._THRESHOLDS}
        # An empty input leaves its threshold as it is.
        return read_filters({name: getattr(otherwise, name) if v is None else v for name, v in given.items()}, "filter")


def preview_rows(now: FilterReport, then: FilterReport) -> list[dict[str, str]]:
    """A row for each class and one for all: images, how many are kept now, and how many would be (``then``)."""
    rows: list[dict[str, str]] = []
    pairs: list[tuple[Any, Any]] = [*zip(now.classes, then.classes, strict=True), (now, then)]
    for a, b in pairs:
        change = f" ({b.kept - a.kept:+,})" if b.kept != a.kept else ""
        kept = {"now": f"{a.kept:,}", "then": f"{b.kept:,}{change}"}
        rows.append({"class": getattr(a, "class_name", "all"), "images": f"{a.images:,}", **kept})
    return rows


class _WithMaskField(FormOperator):
    def _ask(self, ctx: Any, form: types.Object) -> None:
        form.enum("field", other_mask_fields(ctx.dataset), label="Mask field", required=True)


class CompareMasks(_WithMaskField):
    """Intersection over union with another mask field, and the images that differ most first."""

    heading, icon = "Compare masks", "compare"

    def _act(self, ctx: Any) -> str:
        found = store.compare_masks(ctx.dataset, ctx.params["field"])
        ctx.ops.set_view(view=disagreement_view(ctx.dataset, found))
        return str(found)


class AdoptMasks(_WithMaskField):
    """Use another field's masks, of the selected images or of all; the earlier ones stay in a field of their own."""

    heading, icon = "Adopt masks", "published_with_changes"

    def _ask(self, ctx: Any, form: types.Object) -> None:
        whose = _count(len(ctx.selected), "selected image") if ctx.selected else "all images"
        form.view("which", types.Notice(label=f"Adopt for {whose}"))
        super()._ask(ctx, form)

    def _act(self, ctx: Any) -> str:
        count = store.adopt_masks(ctx.dataset, ctx.params["field"], sample_ids=list(ctx.selected) or None)
        return f"{count:,} masks of '{ctx.params['field']}' are used from now on"


class CosegmentAgain(FormOperator):
    """Other settings or another engine: new masks beside those in use."""

    heading, icon = "Co-segment again", "auto_fix_high"
    background = True  # it takes minutes to hours, for which the App would wait

    def _ask(self, ctx: Any, form: types.Object) -> None:
        web_info(ctx.dataset, "co-segmented")
        classes, engine = store.class_names(ctx.dataset), store.definition(ctx.dataset).cosegmentation.method
        # Nothing that can reach the App may start a program: pages and databases of others can.
        offered = sorted(set(ENGINES).difference(PROGRAM_ENGINES))
        engine = engine if engine in offered else "common"
        form.enum("class_name", [*classes, _ALL_CLASSES], default=classes[0], label="Class", required=True)
        form.enum("method", offered, default=engine, label="Engine", required=True)
        about = "As in a definition, one a line, such as `long_side: 384`; may stay empty."
        # Not FiftyOne's view of code: the App loads its editor from the internet.
        lines = types.TextFieldView(componentsProps={"field": {"multiline": True, "minRows": 3}})
        form.str("options", label="Options", description=about, view=lines)
        form.str("field", default=_SECOND_FIELD, label="Mask field", required=True)
        check_new_field(ctx.params.get("field") or _SECOND_FIELD)
        make_engine(ctx.params.get("method") or engine, _options(ctx))

    def _act(self, ctx: Any) -> str:
        field, name = ctx.params.get("field") or _SECOND_FIELD, ctx.params.get("class_name")
        classes, progress = None if name in (None, _ALL_CLASSES) else [name], partial(_show_progress, ctx)
        method, options = ctx.params.get("method"), _options(ctx)
        made = cosegment_again(ctx.dataset, method, options, classes, field=field, progress=progress)
        return f"{made:,} masks in '{field}'; compare them with those in use by the operator Compare masks"


def _options(ctx: Any) -> dict[str, Any]:
    text = ctx.params.get("options") or ""
    try:
        found = plain_values(text) or {}
    except ValueError as error:
        raise CosegmentationError(f"the options are no YAML of plain values ({error}).") from error
    if not isinstance(found, dict):
        raise CosegmentationError(f"the options are {shown(text)}; lines like `long_side: 384` are wanted.")
    return found


def _show_progress(ctx: Any, class_name: str, done: int, wanted: int) -> None:
    # A hundred times a class at most: each time is a write to the database.
    if done == wanted or done % max(1, wanted // 100) == 0:
        ctx.set_progress(progress=done / wanted, label=f"{class_name}: {done:,} of {wanted:,} masks")


_JUDGING = (KeepImages, DropImages, UndoVerdict, SendToTraining, ChangeFilter)
OPERATORS = (*_JUDGING, CosegmentAgain, CompareMasks, AdoptMasks)
