"""The page beside the weights: what the model is, what it learned from, how to use it, where it fails."""

import os
from collections.abc import Iterable
from pathlib import Path

from wss_data.runtime.files import adopt, is_ours, write_output
from wss_train.checkpoints import ModelCard
from wss_train.data import DataSummary
from wss_train.recipes import TrainRecipe, presets

README_FILE = "README.md"

# First line: tells our page from one that a person put there.
_MARK = "<!-- Written by wss-train beside model.safetensors; written again when a run ends here. -->"

_TOLD = (
    "preset", "backbone", "weights", "output_stride", "long_side", "crop", "batch", "optimizer", "learning_rate",
    "rate_policy", "loss_resolution", "image_weighting", "balanced_sampling", "seed",
)  # fmt: skip
"""Values of the recipe that a reader asks for first."""

_KINDS = {
    "generator": (
        "Mask generator",
        "a network that learned from web images and the masks that co-segmentation found in them. It is meant to make "
        "masks for images whose classes are known (`wss-train masks`); the final model that learns from these is "
        "better on images about which nothing is known",
    ),
    "final": (
        "Semantic segmentation model",
        "a network that learned from image-level labels and the masks that a mask generator made for them",
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
    if path.is_file() and path.read_text(encoding="utf-8", errors="replace").startswith(_MARK):
        adopt([path])
    if is_ours(path) or not os.path.lexists(path):
        write_output(path, model_readme(card, summary))
    return path


def model_readme(card: ModelCard, summary: DataSummary) -> str:
    """The page as Markdown, from what the weights are and what they learned from."""
    title, what = _KINDS[card.kind]
    sections = (
        (f"{title}: {len(card.classes)} classes", _about(card, what)),
        ("Supervision", _supervision(card)),
        ("Data", _data(summary)),
        ("Recipe", _recipe(card)),
        ("Use", _use(card)),
        ("Known limits", _limits(card)),
    )
    pages = [f"{'#' if number == 0 else '##'} {head}\n\n{text}" for number, (head, text) in enumerate(sections)]
    return "\n\n".join([_MARK, *pages]) + "\n"


def _about(card: ModelCard, what: str) -> str:
    branch = ", with a multi-label branch" if card.multilabel else ""
    planned = card.recipe.iterations(card.kind)
    trained = f"{card.iterations:,}" if card.iterations == planned else f"{card.iterations:,} of {planned:,}"
    classes = ", ".join(f"{index} {_plain(name)}" for index, name in enumerate(card.classes, 1))
    return (
        f"This is {what}. Nobody drew a mask for it unless the ledger below says so. "
        f"{card.recipe.backbone} at stride {card.recipe.output_stride}{branch}; {trained} iterations.\n\n"
        f"Classes: 0 background, {classes}.\n\n"
        "Method: Shen, Lin, Liu, Shen and Reid, *Weakly Supervised Semantic Segmentation Based on Web Image "
        "Co-segmentation*, BMVC 2017."
    )


def _supervision(card: ModelCard) -> str:
    strict = "yes" if card.ledger.strictly_image_level else "**no**"
    entries = ((_plain(e.what), str(e.supervision), str(e.used_for)) for e in card.ledger.entries)
    table = _table(("learned from", "supervision", "used for"), entries)
    return f"Strictly image-level: {strict} (computed from the entries).\n\n{table}"


def _data(summary: DataSummary) -> str:
    rows = (
        (_plain(name), f"{summary.images_labelled.get(name, 0):,}", f"{summary.images_masked.get(name, 0):,}")
        for name in summary.classes
    )
    table = _table(("class", "images labelled with it", "images whose mask shows it"), rows)
    return f"{summary.images:,} images of {_plain(summary.source or 'a table')}.\n\n{table}"


def _recipe(card: ModelCard) -> str:
    values = card.recipe.to_dict()
    rows = [(name, str(values[name])) for name in _TOLD]
    started = presets().get(card.recipe.preset, TrainRecipe()).to_dict()
    changed = ", ".join(f"`{name}={value}`" for name, value in values.items() if value != started[name])
    told = f"It differs from the preset `{card.recipe.preset}` in {changed}." if changed else "It is the preset's own."
    return f"{_table(('value', 'is'), rows)}\n\n{told} All values stand in `model.json`."


def _use(card: ModelCard) -> str:
    return (
        "In this folder:\n\n"
        "```sh\n"
        "wss-train predict . PHOTOS --out predictions --overlay\n"
        "wss-train evaluate . TARGET\n"
        "wss-train export . --out model.onnx\n"
        "```\n\n"
        "```python\n"
        "from wss_data.imaging.images import read_image\n"
        "from wss_train.inference import InferenceSettings, predict_probabilities\n"
        "from wss_train.models import load_model\n\n"
        'model, card = load_model("model.safetensors")\n'
        f"settings = InferenceSettings(long_side={card.recipe.long_side})\n"
        'mask = predict_probabilities(model, read_image("photo.jpg"), settings).argmax(axis=0)\n'
        "```\n\n"
        f"Images are resized to a longer side of {card.recipe.long_side} px, as in training."
    )


def _limits(card: ModelCard) -> str:
    lines = [
        "It knows its classes only: everything else is background, or is taken for the class that looks most like it.",
        "Classes that nearly always appear together (chair and table, motorbike and person) tend to merge: image-level "
        "labels cannot tell them apart. `wss-train cooccurrence` shows which.",
        "Extent is often too small or too large: nobody told the network where objects end.",
        "Its images come from where they were searched for, with whatever is over- and under-represented there.",
        "Its probabilities are not calibrated.",
    ]
    if card.kind == "generator":
        lines.append("It learned from noisy masks, and training longer can make it worse.")
    return "\n".join(f"- {line}" for line in lines)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Somebody's words in a table: on one line, without what would end a cell or start a tag."""
    return " ".join(text.split()).replace("|", "/").replace("<", "&lt;")
