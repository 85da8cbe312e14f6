"""The command ``wss-train``: from a dataset with masks to a semantic segmentation model.

Exit status: 0 done; 1 done, but some images could not be used and were told; 2
refused, with one line that says why; 130 interrupted.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wss_data.cli import add_command, run

if TYPE_CHECKING:
    from wss_train.recipes import TrainRecipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(make_parser(), arguments)


def make_parser() -> argparse.ArgumentParser:
    """The parser of ``wss-train``."""
    from wss_data import __version__

    parser = argparse.ArgumentParser(
        prog="wss-train",
        description="From an image dataset with masks to a semantic segmentation model. Nobody draws a mask.",
        epilog="Datasets are those of `wss-data list`; a checkpoint is a run folder or a model.safetensors.",
    )
    parser.add_argument("--version", action="version", version=f"wss {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    add = add_command(
        commands,
        "generator",
        _generator,
        """\
        Train the mask generator on a web dataset and its co-segmentation masks.
        Goes on where an earlier run in the same folder stopped.""",
        "wss-train generator drawn --recipe cpu --out runs/generator",
    )
    add.add_argument("dataset", metavar="DATASET", help="web dataset; its kept images are used")
    _add_training(add)

    add = add_command(
        commands,
        "masks",
        _masks,
        """\
        Make a pseudo mask for each train image of a target dataset from its image-level labels (eq. 2).
        The masks become a field of the dataset; masks of an earlier call in that field are replaced.""",
        "wss-train masks runs/generator drawn-target",
    )
    _add_checkpoint(add)
    add.add_argument("dataset", metavar="TARGET", help="target dataset")
    add.add_argument("--split", default="train", help="tag of the images (default: train)")
    add.add_argument("--field", default="pseudo_mask", help="field that receives the masks (default: pseudo_mask)")
    add.add_argument("--out", metavar="FOLDER", type=Path, help="folder for the masks (default: the dataset's own)")
    _add_inference(add, "the recipe's; paper: 0.7,1.0,1.3")

    add = add_command(
        commands,
        "final",
        _final,
        """\
        Train the final model on a target dataset, its image-level labels and its pseudo masks.
        Goes on where an earlier run in the same folder stopped.""",
        "wss-train final drawn-target --recipe cpu --out runs/final",
    )
    add.add_argument("dataset", metavar="TARGET", help="target dataset with pseudo masks")
    add.add_argument("--split", default="train", help="tag of the images (default: train)")
    add.add_argument("--field", default="pseudo_mask", help="field with the masks to learn from (default: pseudo_mask)")
    add.add_argument("--no-multilabel", action="store_true", help="leave the multi-label branch out")
    _add_training(add)

    add = add_command(
        commands,
        "evaluate",
        _evaluate,
        """\
        Score a model against true masks: IoU per class and mean, from one confusion matrix over the split.
        Nothing is chosen by the score.""",
        "wss-train evaluate runs/final drawn-target --scales 0.7,1.0,1.3 --crf --out runs/final/val",
    )
    _add_checkpoint(add)
    add.add_argument("dataset", metavar="TARGET", help="target dataset")
    add.add_argument("--split", default="val", help="tag of the images (default: val)")
    add.add_argument("--out", metavar="FOLDER", type=Path, help="write scores and predictions here (default: nowhere)")
    _add_inference(add, "1.0")

    add = add_command(
        commands,
        "predict",
        _predict,
        """\
        Write a palette PNG of class indices for every image of a folder; no database.
        Images that cannot be read are counted and told; the others go on.""",
        "wss-train predict runs/final photos --out predictions --overlay",
    )
    _add_checkpoint(add)
    add.add_argument("images", metavar="IMAGES", type=Path, help="folder of images, searched below too, or one image")
    add.add_argument("--out", metavar="DIR", type=Path, required=True, help="where the masks go")
    add.add_argument("--overlay", action="store_true", help="also write each mask drawn over its image")
    _add_inference(add, "1.0")

    add = add_command(
        commands,
        "ablation",
        _ablation,
        """\
        Train and score every row of the paper's Table 3 on your data, and write table, models and pictures.
        Stages that are done are not done again.""",
        "wss-train ablation drawn drawn-target --recipe cpu --out runs/drawn",
    )
    add.add_argument("web", metavar="WEB", help="web dataset; its kept images are used")
    add.add_argument("target", metavar="TARGET", help="target dataset, with train and val images")
    _add_training(add)

    add = add_command(
        commands,
        "recipe",
        _recipe,
        "Print a recipe: every value that a training run depends on.",
        "wss-train recipe paper --set crop=256",
    )
    add.add_argument("recipe", metavar="NAME", help="paper, authors-code, modern or cpu")
    _add_set(add)
    return parser


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="run folder or model.safetensors")
    _add_device(parser)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: the GPU if there is one)")


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="values",
        help="change one value of the recipe; may be given again (see: wss-train recipe cpu)",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", default="cpu", help="paper, authors-code, modern or cpu (default: cpu)")
    parser.add_argument("--out", metavar="RUN", type=Path, required=True, help="run folder")
    parser.add_argument("--backbone", help="resnet50, efficientnet_lite0, ... (default: the recipe's)")
    parser.add_argument("--weights", metavar="FILE", help="file with the backbone's weights (default: ImageNet's)")
    parser.add_argument("--seed", type=int, help="seed of everything random (default: the recipe's, 0)")
    parser.add_argument("--workers", type=int, metavar="N", help="threads that read images ahead (default: 1, GPU: 8)")
    parser.add_argument("--overwrite", action="store_true", help="throw away what another run left in the folder")
    _add_device(parser)
    _add_set(parser)


def _add_inference(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--scales",
        type=_scales,
        metavar="S,S,...",
        help=f"image scales whose probabilities are averaged (default: {default})",
    )
    parser.add_argument("--crf", action="store_true", help="sharpen with a dense CRF; measure whether it helps")
    parser.add_argument("--workers", type=int, metavar="N", help="processes of the CRF (default: one a processor)")


def _scales(text: str) -> tuple[float, ...]:
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = ()
    if not scales or min(scales) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers above 0, such as 0.7,1.0,1.3")
    return scales


def _read_recipe(options: argparse.Namespace) -> "TrainRecipe":
    from wss_data.errors import RecipeError
    from wss_train.recipes import preset, with_values

    values: dict[str, Any] = {}
    for text in options.values:
        key, equals, value = text.partition("=")
        if not equals:
            raise RecipeError(f"--set {text}: KEY=VALUE is wanted, such as --set crop=256.")
        values[key.strip()] = value.strip()
    for name in ("backbone", "weights", "seed"):
        if (value := getattr(options, name, None)) is not None:
            values[name] = value
    recipe = with_values(preset(options.recipe), values)
    if Path(recipe.weights).suffix and not recipe.weights.startswith("/"):
        # A run may be resumed from another folder.
        recipe = replace(recipe, weights=str(Path(recipe.weights).expanduser().absolute()))
    return recipe


def _split(options: argparse.Namespace) -> Any:
    """The images of a dataset with the tag in ``--split``."""
    from wss_data.errors import TrainingDataError
    from wss_data.store import open_dataset

    view = open_dataset(options.dataset).match_tags(options.split)
    if not len(view):
        raise TrainingDataError(
            f"dataset '{options.dataset}' has no image with the tag '{options.split}'. "
            "Target datasets have train and val; make one with wss-data import-target."
        )
    return view


def _generator(options: argparse.Namespace) -> int:
    recipe = _read_recipe(options)
    from wss_data.store import open_dataset
    from wss_train.training import train_generator

    run_folder = train_generator(
        open_dataset(options.dataset),
        options.out,
        recipe,
        device=options.device,
        workers=options.workers,
        overwrite=options.overwrite,
    )
    print(f"model: {run_folder / 'model.safetensors'}")
    return 0


def _masks(options: argparse.Namespace) -> int:
    view = _split(options)
    from wss_train.pseudo_masks import make_pseudo_masks

    table = make_pseudo_masks(
        options.checkpoint,
        view,
        options.out,
        scales=options.scales,
        crf=options.crf or None,
        field=options.field,
        device=options.device,
        workers=options.workers,
    )
    print(f"{len(table)} masks in field '{options.field}' of dataset '{options.dataset}'")
    return 0


def _final(options: argparse.Namespace) -> int:
    recipe = _read_recipe(options)
    view = _split(options)
    from wss_train.training import train_final

    run_folder = train_final(
        view,
        options.out,
        recipe,
        mask_field=options.field,
        multilabel=recipe.multilabel and not options.no_multilabel,
        device=options.device,
        workers=options.workers,
        overwrite=options.overwrite,
    )
    print(f"model: {run_folder / 'model.safetensors'}")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    view = _split(options)
    from wss_train.evaluate import evaluate_model

    evaluation = evaluate_model(
        options.checkpoint,
        view,
        scales=options.scales or (1.0,),
        crf=options.crf,
        out=options.out,
        device=options.device,
        workers=options.workers,
    )
    print(evaluation)
    return 0


def _predict(options: argparse.Namespace) -> int:
    from wss_train.predict import predict_images

    summary = predict_images(
        options.checkpoint,
        options.images,
        options.out,
        scales=options.scales or (1.0,),
        crf=options.crf,
        overlays=options.overlay,
        device=options.device,
        workers=options.workers,
    )
    print(summary)
    return 1 if summary.failed else 0


def _ablation(options: argparse.Namespace) -> int:
    recipe = _read_recipe(options)
    from wss_data.home import dataset_folder
    from wss_data.store import open_dataset
    from wss_train.ablation import run_ablation

    result = run_ablation(
        open_dataset(options.web),
        open_dataset(options.target),
        options.out,
        recipe,
        device=options.device,
        workers=options.workers,
        overwrite=options.overwrite,
    )
    print(f"\n{result}\n")
    print(f"table:     {result.out / 'table.md'}")
    print(f"pictures:  {result.out / 'pictures'}  and  {dataset_folder(options.web) / 'pictures'}")
    print(f"datasets:  {options.web} (wss-data view {options.web}), {options.target}")
    return 0


def _recipe(options: argparse.Namespace) -> int:
    print(json.dumps(_read_recipe(options).to_dict(), indent=2))
    return 0
