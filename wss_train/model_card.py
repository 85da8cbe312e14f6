"""The page beside the weights: what the model is, what it learned from, how to use it, where it fails."""

import os
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from string import Template

from wss_data.runtime.files import adopt, is_ours, write_output
from wss_train.checkpoints import ModelCard
from wss_train.data import DataSummary
from wss_train.recipes import TrainRecipe, presets

README_FILE = "README.md"

# Values of the recipe that a reader asks for first.
_NAMED = (
    "preset", "backbone", "weights", "output_stride", "long_side", "crop", "batch", "optimizer", "learning_rate",
    "rate_policy", "loss_resolution", "image_weighting", "balanced_sampling", "seed",
)  # fmt: skip

_KINDS = {
    "generator": (
        "Mask generator",
        "a network that learned from web images and the masks that co-segmentation found in them. It is meant to make "
        "masks for images whose classes are known (`wss-train masks`); the final model that learns from these is "
        "better on images about which nothing is known",
        "- It learned from noisy masks, and training longer can make it worse.\n",
    ),
    "final": (
        "Semantic segmentation model",
        "a network that learned from image-level labels and the masks that a mask generator made for them",
        "",
    ),
}


def write_model_readme(folder: Path, card: ModelCard, summary: DataSummary) -> Path:
    """Write ``README.md`` into a run folder, and return its path.

    A page that a person wrote or changed is left as it is.

    Args:
        folder: Where ``model.safetensors`` is.
        card: What the weights are.
        summary: What they learned from.
    """
    path = folder / README_FILE
    # The first line tells our page from one that a person put there.
    if path.is_file() and path.read_text(encoding="utf-8", errors="replace").startswith(_template().split("\n")[0]):
        adopt([path])
    if is_ours(path) or not os.path.lexists(path):
        write_output(path, model_readme(card, summary))
    return path


def model_readme(card: ModelCard, summary: DataSummary) -> str:
    """The page as Markdown (``model_card.md``), from what the weights are and what they learned from."""
    (title, what, noisy), recipe = _KINDS[card.kind], card.recipe
    values, started = recipe.to_dict(), presets().get(recipe.preset, TrainRecipe()).to_dict()
    changed = ", ".join(f"`{name}={value}`" for name, value in values.items() if value != started[name])
    planned = recipe.iterations(card.kind)
    trained = f"{card.iterations:,}" if card.iterations == planned else f"{card.iterations:,} of {planned:,}"
    branch = ", with a multi-label branch" if card.multilabel else ""
    return Template(_template()).substitute(
        title=title,
        number=len(card.classes),
        what=what,
        network=f"{recipe.backbone} at stride {recipe.output_stride}{branch}; {trained}",
        classes=", ".join(f"{index} {_plain(name)}" for index, name in enumerate(card.classes, 1)),
        strict="yes" if card.ledger.strictly_image_level else "**no**",
        ledger=_rows((_plain(e.what), e.supervision, e.used_for) for e in card.ledger.entries),
        images=f"{summary.images:,} images of {_plain(summary.source or 'a table')}",
        data=_rows(
            (_plain(name), f"{summary.images_labelled.get(name, 0):,}", f"{summary.images_masked.get(name, 0):,}")
            for name in summary.classes
        ),
        recipe=_rows((name, values[name]) for name in _NAMED),
        changed=f"It differs from the preset `{recipe.preset}` in {changed}." if changed else "It is the preset's own.",
        long_side=recipe.long_side,
        noisy=noisy,
    )


def _template() -> str:
    return (files("wss_train") / "model_card.md").read_text(encoding="utf-8")


def _rows(rows: Iterable[tuple[object, ...]]) -> str:
    """The lines of a table, each with its end."""
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)


def _plain(text: str) -> str:
    """Somebody's words in a table: on one line, without what would end a cell or start a tag."""
    return " ".join(text.split()).replace("|", "/").replace("<", "&lt;")
