"""The command ``wss-train``: from a dataset with masks to a semantic segmentation model.

Exit status: 0 done; 1 done, but some images could not be used and were told; 2
refused, with one line that says why; 130 interrupted.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wss_data.commands.arguments import Parser, add_command, path_text, workers
from wss_data.commands.run import run
from wss_train.commands.arguments import (
    add_checkpoint,
    add_device,
    add_inference,
    add_selection,
    add_set,
    add_training,
    read_recipe,
    to_seeds,
    to_size,
)
from wss_train.commands.check_commands import add_check_commands
from wss_train.engine.processes import only_alone

RENAMED = {"doctor": "check"}
"""Old name of a command -> its name now. The old ones go on for one version, with a warning."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and (name := RENAMED.get(arguments[0])):
        print(f"wss-train: {arguments[0]} is now called {name}; the old name will go.", file=sys.stderr)
        arguments = [name, *arguments[1:]]
    return run(make_parser(), arguments, check=_check_checkpoint)


def _check_checkpoint(options: argparse.Namespace) -> None:
    """Refuse what is no checkpoint before torch is loaded, which takes seconds."""
    if (checkpoint := getattr(options, "checkpoint", None)) is not None:
        from wss_train.checkpoints import read_card

        read_card(checkpoint)


def make_parser() -> argparse.ArgumentParser:
    """The parser of ``wss-train``."""
    from wss_data.runtime.version import __version__

    parser: argparse.ArgumentParser = Parser(
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
    add.add_argument("--target", metavar="TARGET", help="target dataset whose train images' labels --select looks at")
    add.add_argument(
        "--mask-field",
        metavar="FIELD",
        default="cosegmentation",
        help="field with the masks to learn from, such as cosegmentation_before_import (default: cosegmentation)",
    )
    add_selection(add)
    add_training(add)

    add = add_command(
        commands,
        "masks",
        _masks,
        """\
        Make a pseudo mask for each train image of a target dataset from its image-level labels (eq. 2).
        The masks become a field of the dataset; masks of an earlier call in that field are replaced.""",
        "wss-train masks runs/generator drawn-target",
    )
    add_checkpoint(add)
    add.add_argument("dataset", metavar="TARGET", help="target dataset")
    add.add_argument("--split", default="train", help="tag of the images (default: train)")
    add.add_argument("--field", default="pseudo_mask", help="field that receives the masks (default: pseudo_mask)")
    add.add_argument("--out", metavar="FOLDER", type=Path, help="folder for the masks (default: the dataset's own)")
    add_inference(add, "the recipe's; paper: 0.7,1.0,1.3")

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
    add_selection(add)
    add_training(add)

    add = add_command(
        commands,
        "evaluate",
        _evaluate,
        """\
        Score a model against true masks: IoU per class and mean, from one confusion matrix over the split.
        Nothing is chosen by the score.""",
        "wss-train evaluate runs/final drawn-target --scales 0.7,1.0,1.3 --crf --out runs/final/val",
    )
    add_checkpoint(add)
    add.add_argument("dataset", metavar="TARGET", help="target dataset")
    add.add_argument("--split", default="val", help="tag of the images (default: val)")
    add.add_argument("--out", metavar="FOLDER", type=Path, help="write scores and predictions here (default: nowhere)")
    add_inference(add, "1.0")

    add = add_command(
        commands,
        "score-masks",
        _score_masks,
        """\
        Score label masks on disk, from whatever model, against true masks, as evaluate does.""",
        "wss-train score-masks runs/final/val/predictions drawn-target",
    )
    add.add_argument("predictions", metavar="FOLDER", type=Path, help="folder of label masks: ID.png for each image")
    add.add_argument("dataset", metavar="TARGET", help="target dataset")
    add.add_argument("--split", default="val", help="tag of the images (default: val)")
    add.add_argument("--out", metavar="FOLDER", type=Path, help="write the scores here (default: nowhere)")
    add.add_argument("--workers", type=workers, metavar="N", help="threads (default: one a processor)")

    add = add_command(
        commands,
        "predict",
        _predict,
        """\
        Write a palette PNG of class indices for every image: of folders, by name, or by a pattern; no database.
        Images that cannot be read are counted and told; the others go on.""",
        "wss-train predict runs/final photos --out predictions --overlay",
    )
    add_checkpoint(add)
    add.add_argument(
        "images",
        metavar="IMAGES",
        nargs="+",
        type=path_text,
        help="folders of images, searched below too; images; or quoted patterns such as 'photos/**/*.jpg'",
    )
    add.add_argument("--out", metavar="DIR", type=Path, required=True, help="where the masks go")
    add.add_argument("--overlay", action="store_true", help="also write each mask drawn over its image")
    add_inference(add, "1.0")

    add = add_command(
        commands,
        "export",
        _export,
        """\
        Write a model as one file that runs without this program: ONNX or TorchScript. Pixels go in, class
        probabilities at the image's size come out. The file is compared with the PyTorch model; one that differs is
        not kept.""",
        "wss-train export runs/final --out model.onnx",
    )
    add.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="run folder or model.safetensors")
    add.add_argument("--out", metavar="FILE", type=Path, required=True, help="the file; .onnx, or .pt for TorchScript")
    add.add_argument("--format", choices=("onnx", "torchscript"), help="its format (default: what its name ends with)")
    add.add_argument("--size", type=to_size, metavar="HxW", help="only this height and width, in pixels (default: any)")
    add.add_argument("--logits", action="store_true", help="scores before the softmax in place of probabilities")
    add.add_argument("--float-input", action="store_true", help="ONNX: float32 pixels (0 to 255) in place of uint8")

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
    add.add_argument(
        "--seeds",
        type=to_seeds,
        metavar="N,N,...",
        help="train with each of these seeds and report mean and deviation; each in OUT/seed_N (default: --seed alone)",
    )
    add_training(add)

    add = add_command(
        commands,
        "selection-report",
        _selection_report,
        """\
        Show whether the signals that chose a run's state deserve trust: score each state that was kept against true
        masks, after the fact. Writes a table and a picture; the model stays as it is.""",
        "wss-train selection-report runs/generator drawn-target",
    )
    add.add_argument("run", metavar="RUN", type=Path, help="run folder, trained with --select and --keep-snapshots")
    add.add_argument("dataset", metavar="TARGET", help="target dataset")
    add.add_argument("--split", default="val", help="tag of the images with true masks (default: val)")
    add.add_argument("--out", metavar="FOLDER", type=Path, help="where to write (default: RUN/selection_report)")
    add_device(add)

    add_check_commands(commands)

    add = add_command(
        commands,
        "recipe",
        _recipe,
        "Print a recipe: every value that a training run depends on.",
        "wss-train recipe paper --set crop=256",
    )
    add.add_argument("recipe", metavar="NAME", help="paper, authors-code, modern or cpu")
    add_set(add)
    return parser


def _split(dataset: str, split: str) -> Any:
    """The images of a dataset with the tag ``split``."""
    from wss_data.errors import TrainingDataError
    from wss_data.store import open_dataset

    view = open_dataset(dataset).match_tags(split)
    if not len(view):
        raise TrainingDataError(
            f"dataset '{dataset}' has no image with the tag '{split}'. "
            "Target datasets have train and val; make one with wss-data import-target."
        )
    return view


def _table(view: Callable[[], Any], mask_field: str | None) -> Any:
    """Plain values of a view that ``view`` opens; where torchrun has started several processes, only the first does."""
    from wss_train.data import as_table
    from wss_train.engine.processes import from_first

    return from_first(lambda: as_table(view(), mask_field))


def _selection_settings(options: argparse.Namespace) -> Any:
    from wss_data.errors import RecipeError
    from wss_train.selection.selection import SelectionSettings

    settings = SelectionSettings(
        every=options.look_every,
        probes=options.look_images,
        patience=options.patience,
        settle=options.settle,
        keep_snapshots=options.keep_snapshots,
    )
    if options.select == "last" and (settings != SelectionSettings() or getattr(options, "target", None)):
        raise RecipeError(
            "--select last looks at nothing, so --target, --look-every, --look-images, --patience, --settle and "
            "--keep-snapshots have no effect. Add --select labels or --select agreement."
        )
    return settings


def _generator(options: argparse.Namespace) -> int:
    recipe = read_recipe(options)
    settings = _selection_settings(options)
    from wss_data.store import open_dataset
    from wss_train.training import train_generator

    run_folder = train_generator(
        _table(lambda: open_dataset(options.dataset), options.mask_field),
        options.out,
        recipe,
        select=options.select,
        target=_table(lambda: _split(options.target, "train"), None) if options.target else None,
        settings=settings,
        device=options.device,
        workers=options.workers,
        overwrite=options.overwrite,
    )
    print(f"model: {run_folder / 'model.safetensors'}")
    return 0


def _masks(options: argparse.Namespace) -> int:
    only_alone("wss-train masks")
    view = _split(options.dataset, options.split)
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
    recipe = read_recipe(options)
    settings = _selection_settings(options)
    from wss_train.training import train_final

    run_folder = train_final(
        _table(lambda: _split(options.dataset, options.split), options.field),
        options.out,
        recipe,
        mask_field=options.field,
        multilabel=recipe.multilabel and not options.no_multilabel,
        select=options.select,
        settings=settings,
        device=options.device,
        workers=options.workers,
        overwrite=options.overwrite,
    )
    print(f"model: {run_folder / 'model.safetensors'}")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    only_alone("wss-train evaluate")
    view = _split(options.dataset, options.split)
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


def _score_masks(options: argparse.Namespace) -> int:
    view = _split(options.dataset, options.split)
    from wss_train.evaluate import score_masks

    print(score_masks(options.predictions, view, out=options.out, workers=options.workers))
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


def _export(options: argparse.Namespace) -> int:
    from wss_train.export import export_model

    exported = export_model(
        options.checkpoint,
        options.out,
        file_format=options.format,
        output="logits" if options.logits else "probabilities",
        input_type="float32" if options.float_input else "uint8",
        size=options.size,
    )
    print(exported)
    return 0


def _ablation(options: argparse.Namespace) -> int:
    only_alone("wss-train ablation")
    recipe = read_recipe(options)
    from wss_data.errors import RecipeError
    from wss_data.runtime.home import dataset_folder
    from wss_data.store import open_dataset
    from wss_train.reports.ablation import run_ablation
    from wss_train.reports.seeds import run_ablation_over_seeds

    datasets = open_dataset(options.web), open_dataset(options.target)
    training: dict[str, Any] = {
        "device": options.device,
        "workers": options.workers,
        "overwrite": options.overwrite,
    }
    result: Any
    if options.seeds and len(options.seeds) > 1:
        if options.seed is not None:
            raise RecipeError("--seed and --seeds are both given: --seeds names all of them.")
        result = run_ablation_over_seeds(*datasets, options.out, recipe, options.seeds, **training)
        pictures = result.out / "seed_*" / "pictures"
    else:
        recipe = replace(recipe, seed=options.seeds[0]) if options.seeds else recipe
        result = run_ablation(*datasets, options.out, recipe, **training)
        pictures = result.out / "pictures"
    print(f"\n{result}\n")
    print(f"table:     {result.out / 'table.md'}")
    print(f"pictures:  {pictures}  and  {dataset_folder(options.web) / 'pictures'}")
    print(f"datasets:  {options.web} (wss-data view {options.web}), {options.target}")
    return 0


def _selection_report(options: argparse.Namespace) -> int:
    view = _split(options.dataset, options.split)
    from wss_train.selection.selection import REPORT
    from wss_train.selection.selection_report import selection_report

    print(selection_report(options.run, view, options.out, device=options.device).to_markdown())
    out = options.out or options.run / REPORT
    print(f"picture: {out / 'selection.png'}")
    return 0


def _recipe(options: argparse.Namespace) -> int:
    print(json.dumps(read_recipe(options).to_dict(), indent=2))
    return 0
