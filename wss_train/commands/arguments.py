"""Command-line arguments that several commands of ``wss-train`` share, and the recipe that they name."""

import argparse
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import wss_data
import wss_train
from wss_data.commands.arguments import (
    fraction,
    natural,
    number,
    path_text,
    positive,
    workers,
)
from wss_data.errors import RecipeError, TrainingDataError, shown
from wss_data.runtime.files import expanded

if TYPE_CHECKING:
    from wss_data.store.types import Collection
    from wss_train.recipes import TrainRecipe

MAX_SCALE = 4.0
"""Largest image scale accepted: memory grows with its square."""

MAX_PIXELS = 100_000_000
"""Pixels of an exported model's images at most: what is read of an image."""


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """``CHECKPOINT``."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="run folder or model.safetensors")


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--device``."""
    parser.add_argument("--device", type=to_device, help="cpu, cuda or cuda:N (default: the GPU if there is one)")


def add_target(parser: argparse.ArgumentParser, split: str, what: str = "target dataset") -> None:
    """``TARGET``, and ``--split`` with its default."""
    parser.add_argument("dataset", metavar="TARGET", help=what)
    add_split(parser, split)


def add_split(parser: argparse.ArgumentParser, default: str) -> None:
    """``--split``."""
    parser.add_argument("--split", default=default, help=f"tag of the images (default: {default})")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """``--recipe``."""
    parser.add_argument("--recipe", default="cpu", help="paper, authors-code, modern, cpu or cpu-labels (default: cpu)")


def add_set(parser: argparse.ArgumentParser) -> None:
    """``--set KEY=VALUE``, again and again."""
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="values",
        help="change one value of the recipe; may be given again (see: wss-train recipe cpu)",
    )


def add_training(parser: argparse.ArgumentParser) -> None:
    """What every command that trains takes."""
    add_recipe(parser)
    parser.add_argument("--out", metavar="RUN", type=Path, required=True, help="run folder")
    parser.add_argument("--backbone", help="resnet50, a network of timm, ... (default: the recipe's)")
    parser.add_argument(
        "--weights", metavar="FILE", type=path_text, help="file with the backbone's weights (default: its own)"
    )
    parser.add_argument("--seed", type=int, help="seed of everything random (default: the recipe's, 0)")
    parser.add_argument(
        "--workers", type=workers, metavar="N", help="threads that read images ahead, 1 to 1,024 (default: 1, GPU: 8)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="throw away what another run left in the folder (default: refuse)"
    )
    add_device(parser)
    add_set(parser)


def add_init(parser: argparse.ArgumentParser) -> None:
    """``--init``: where the weights begin."""
    parser.add_argument(
        "--init",
        metavar="RUN",
        type=Path,
        help="run whose weights training starts from: to train for longer, or on other images; the learning rate "
        "begins anew (default: the backbone's weights alone)",
    )


def add_selection(parser: argparse.ArgumentParser) -> None:
    """What chooses the state that becomes the model."""
    parser.add_argument(
        "--select",
        choices=("last", "labels", "agreement"),
        default="last",
        help="what chooses the model's state: nothing, so that it is the last; image-level labels; or agreement with "
        "masks held out of training (default: last). True masks never do",
    )
    parser.add_argument(
        "--look-every", type=positive, metavar="N", help="iterations between two looks (default: 1/20 run)"
    )
    parser.add_argument(
        "--look-images", type=positive, metavar="N", help="images a look predicts (default: 32-200 by cost)"
    )
    parser.add_argument(
        "--patience", type=positive, metavar="N", help="stop after N looks without a better one (default: never)"
    )
    parser.add_argument(
        "--settle",
        type=fraction,
        metavar="FRACTION",
        help="stop once looks differ in this fraction of the pixels, 0 to 1 (default: never)",
    )
    parser.add_argument(
        "--keep-snapshots", action="store_true", help="keep each look's weights, for selection-report (default: no)"
    )


def add_labelling(parser: argparse.ArgumentParser, scales: str = "1.0", crf: str = "no CRF") -> None:
    """A model, and how it labels images; ``scales`` and ``crf`` say in the help what is done without the option."""
    add_checkpoint(parser)
    add_device(parser)
    parser.add_argument(
        "--scales",
        type=to_scales,
        metavar="S,S,...",
        help=f"image scales whose probabilities are averaged, each up to {MAX_SCALE:g} (default: {scales})",
    )
    parser.add_argument(
        "--crf", action="store_true", help=f"sharpen with a dense CRF; measure whether it helps (default: {crf})"
    )
    parser.add_argument(
        "--workers", type=workers, metavar="N", help="processes of the CRF, 1 to 1,024 (default: one a processor)"
    )


def labelling(options: argparse.Namespace) -> dict[str, Any]:
    """The values of ``LabellingOptions`` that a command line gives."""
    return {**passed(options, "scales", "device", "workers"), "crf": options.crf or None}


def passed(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options that a function takes by the same names."""
    return {name: getattr(options, name) for name in names}


def split_of(dataset: str, split: str) -> "Collection":
    """The images of a stored dataset with the tag ``split``.

    Raises:
        StoreError: If there is no such dataset.
        TrainingDataError: If it has none with that tag.
    """
    view = wss_data.open_dataset(dataset).match_tags(split)
    if not len(view):
        raise TrainingDataError(
            f"dataset '{dataset}' has no image with the tag '{split}'. "
            "Target datasets have train and val; make one with wss-data import-target."
        )
    return view


def to_scales(given: str) -> tuple[float, ...]:
    """Image scales as ``0.7,1.0,1.3`` gives them; for ``argparse``."""
    try:
        scales = tuple(number(part.strip()) for part in given.split(","))
    except argparse.ArgumentTypeError:
        scales = ()
    if not scales or not 0 < min(scales) <= max(scales) <= MAX_SCALE or len(set(scales)) < len(scales):
        raise argparse.ArgumentTypeError(
            f"{shown(given)} is no list of numbers above 0 and up to {MAX_SCALE:g}, each once, such as 0.7,1.0,1.3"
        )
    return scales


def to_seeds(given: str) -> tuple[int, ...]:
    """Seeds as ``0,1,2`` gives them; for ``argparse``."""
    try:
        return tuple(natural(part.strip()) for part in given.split(","))
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(
            f"{shown(given)} is no list of whole numbers from 0, such as 0,1,2 ({error})"
        ) from error


def to_size(given: str) -> tuple[int, int]:
    """(height, width) in pixels as ``375x500`` gives them; for ``argparse``."""
    found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", given)
    height, width = (int(found[1]), int(found[2])) if found else (0, 0)
    if not (height and width) or height * width > MAX_PIXELS:
        raise argparse.ArgumentTypeError(
            f"{shown(given)} is no height and width in pixels, such as 375x500, of {MAX_PIXELS:,} pixels at most"
        )
    return height, width


def to_device(given: str) -> str:
    """``cpu``, ``cuda`` or ``cuda:N``; for ``argparse``. Whether there is such a GPU shows when it is used."""
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", given):
        raise argparse.ArgumentTypeError(f"{shown(given)} is no device; known are cpu, cuda and cuda:N, such as cuda:0")
    return given


def read_recipe(options: argparse.Namespace) -> "TrainRecipe":
    """The recipe that ``--recipe`` names, with ``--set``, ``--backbone``, ``--weights`` and ``--seed`` in it.

    Raises:
        RecipeError: If there is no such preset or value, or a value is out of its range.
    """
    values: dict[str, Any] = {}
    for text in options.values:
        key, equals, value = text.partition("=")
        if not equals:
            raise RecipeError(f"--set {shown(text)}: KEY=VALUE is wanted, such as --set crop=256.")
        values[key.strip()] = value.strip()
    for name in ("backbone", "weights", "seed"):
        if (value := getattr(options, name, None)) is not None:
            values[name] = value
    recipe = wss_train.recipes.with_values(wss_train.preset(options.recipe), values)
    if Path(recipe.weights).suffix and not recipe.weights.startswith("/"):
        # A run may be resumed from another folder.
        recipe = replace(recipe, weights=str(expanded(recipe.weights).absolute()))
    return recipe
