"""Operators that take a person's word: keep, drop, undo, and which images to train on."""

from typing import Any, ClassVar

import fiftyone.operators as foo
from fiftyone.operators import types

from wss_data import store
from wss_data.filtering.filters import Verdict
from wss_data.filtering.verdicts import last_standing_act, told
from wss_data.plugin.forms import form_of, meant_images, refusing, told_or_failed, which_images
from wss_data.store.info import web_info
from wss_data.store.verdicts import ChoiceChange, act_told


class _Judge(foo.Operator):
    verdict: ClassVar[Verdict]
    icon: ClassVar[str]

    @property
    def config(self) -> foo.OperatorConfig:
        """What the App lists."""
        return foo.OperatorConfig(
            name=f"{self.verdict}_images",
            label=f"{self.verdict.capitalize()} images",
            description=f"The verdict {self.verdict}: it wins over every rule, for ever",
            icon=self.icon,
            dynamic=True,
        )

    def resolve_placement(self, ctx: Any) -> types.Placement:
        """A button above the grid."""
        label = f"{self.verdict.capitalize()} images"
        return types.Placement(
            types.Places.SAMPLES_GRID_ACTIONS, types.Button(label=label, icon=self.icon, prompt=True)
        )

    def resolve_input(self, ctx: Any) -> types.Property:
        """Which images, and why."""
        form = types.Object()
        with refusing(form):
            web_info(ctx.dataset, "judged")
            which_images(ctx, form)
            form.str("reason", label="Reason", description="For those who come later; may stay empty.")
        return form_of(form, f"{self.verdict.capitalize()} images")

    def execute(self, ctx: Any) -> dict[str, str]:
        """Judge them."""

        def judge() -> str:
            count = store.judge(ctx.dataset, meant_images(ctx), self.verdict, ctx.params.get("reason") or "")
            return f"{self.verdict}: {count:,} image{'' if count == 1 else 's'}"

        return told_or_failed(ctx, judge)


class KeepImages(_Judge):
    """Keep images, whatever the rules say."""

    verdict, icon = "keep", "thumb_up"


class DropImages(_Judge):
    """Drop images, whatever the rules say."""

    verdict, icon = "drop", "thumb_down"


class UndoVerdict(foo.Operator):
    """Take back what was judged last."""

    @property
    def config(self) -> foo.OperatorConfig:
        """What the App lists."""
        return foo.OperatorConfig(
            name="undo_verdict",
            label="Undo verdict",
            description="Take back what was judged last, as a whole; again takes back what came before",
            icon="undo",
            dynamic=True,
        )

    def resolve_input(self, ctx: Any) -> types.Property:
        """What would be taken back."""
        form = types.Object()
        with refusing(form):
            acts = store.verdict_acts(ctx.dataset)
            number = last_standing_act(acts)
            line = "Nothing is left to take back." if number is None else told(number, acts[number - 1])
            form.view("last", types.Notice(label=line))
        return form_of(form, "Undo the last verdict")

    def execute(self, ctx: Any) -> dict[str, str]:
        """Take it back."""
        return told_or_failed(ctx, lambda: f"taken back: {act_told(store.undo_verdict(ctx.dataset))}")


class SendToTraining(foo.Operator):
    """Choose the images of a web dataset that are trained on."""

    @property
    def config(self) -> foo.OperatorConfig:
        """What the App lists."""
        return foo.OperatorConfig(
            name="send_to_training",
            label="Send to training",
            description="Choose which of the kept images are trained on",
            icon="model_training",
            dynamic=True,
        )

    def resolve_input(self, ctx: Any) -> types.Property:
        """Which images, and what becomes of the choice there is."""
        form = types.Object()
        with refusing(form):
            web_info(ctx.dataset, "chosen from for training")
            chosen = len(ctx.dataset.match_tags(store.CHOSEN))
            now = (
                f"{chosen:,} images are chosen now."
                if chosen
                else "No image is chosen: all kept images are trained on."
            )
            form.view("now", types.Notice(label=now))
            hows = types.RadioGroup()
            hows.add_choice("replace", label="These images and no others")
            hows.add_choice("add", label="These as well")
            hows.add_choice("clear", label="End the choice: all kept images again")
            form.enum("how", hows.values(), default="replace", required=True, label="Train on", view=hows)
            if ctx.params.get("how") != "clear":
                which_images(ctx, form)
        return form_of(form, "Send to training")

    def execute(self, ctx: Any) -> dict[str, str]:
        """Choose them."""

        def choose() -> str:
            how: ChoiceChange = ctx.params.get("how") or "replace"
            count = store.choose_for_training(ctx.dataset, [] if how == "clear" else meant_images(ctx), how)
            return f"{count:,} images are chosen for training" if count else "all kept images are trained on"

        return told_or_failed(ctx, choose)


OPERATORS = (KeepImages, DropImages, UndoVerdict, SendToTraining)
