"""Commands of ``wss-train`` that train: the generator, the final model, every row of the ablation; and recipes."""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import wss_data
import wss_train
from wss_data.commands.arguments import Commands, add_command
from wss_data.errors import RecipeError
from wss_data.runtime.home import dataset_folder
from wss_train.commands import arguments
from wss_train.engine.processes import from_first, only_alone


def add_commands(commands: Commands) -> None:
    """Add ``generator``, ``final``, ``ablation`` and ``recipe``."""
    add = add_command(commands, _generator, "wss-train generator drawn --recipe cpu --out runs/generator")
    add.add_argument("dataset", metavar="DATASET", help="web dataset; its kept images are used")
    add.add_argument("--target", metavar="TARGET", help="target dataset whose train images' labels --select looks at")
    add.add_argument(
        "--mask-field",
        metavar="FIELD",
        default="cosegmentation",
        help="field with the masks to learn from, such as cosegmentation_before_import (default: cosegmentation)",
    )
    arguments.add_selection(add)
    arguments.add_init(add)
    arguments.add_training(add)

    add = add_command(commands, _final, "wss-train final drawn-target --recipe cpu --out runs/final")
    arguments.add_target(add, "train")
    add.add_argument("--field", default="pseudo_mask", help="field with the masks to learn from (default: pseudo_mask)")
    add.add_argument(
        "--no-multilabel",
        action="store_true",
        help="train without the multi-label branch (default: as the recipe says)",
    )
    arguments.add_selection(add)
    arguments.add_init(add)
    arguments.add_training(add)

    add = add_command(commands, _ablation, "wss-train ablation drawn drawn-target --recipe cpu --out runs/drawn")
    add.add_argument("web", metavar="WEB", help="web dataset; its kept images are used")
    add.add_argument("target", metavar="TARGET", help="target dataset, with train and val images")
    add.add_argument(
        "--seeds",
        type=arguments.to_seeds,
        metavar="N,N,...",
        help="train with each of these seeds, whole numbers from 0, and report mean and standard deviation; each in "
        "RUN/seed_N (default: --seed alone)",
    )
    add.add_argument(
        "--profile", action="store_true", help="print what each stage took when it was made: time and memory"
    )
    arguments.add_training(add)

    add = add_command(commands, _recipe, "wss-train recipe paper --set crop=256")
    add.add_argument("recipe", metavar="NAME", help="paper, authors-code, modern, cpu or cpu-labels")
    arguments.add_set(add)


def _generator(options: argparse.Namespace) -> int:
    """Train the mask generator on a web dataset and its co-segmentation masks.
    Goes on where an earlier run in the same folder stopped; --init starts from the weights of another run.
    """
    recipe = arguments.read_recipe(options)
    settings = _selection_settings(options, recipe)
    run_folder = wss_train.train_generator(
        _table(lambda: wss_data.open_dataset(options.dataset), options.mask_field),
        options.out,
        recipe,
        target=_table(lambda: arguments.split_of(options.target, "train"), None) if options.target else None,
        settings=settings,
        **arguments.passed(options, "select", "init", "device", "workers", "overwrite"),
    )
    print(f"model: {run_folder / 'model.safetensors'}")
    return 0


def _final(options: argparse.Namespace) -> int:
    """Train the final model on a target dataset, its image-level labels and its pseudo masks.
    Goes on where an earlier run in the same folder stopped; --init starts from the weights of another run.
    """
    recipe = arguments.read_recipe(options)
    settings = _selection_settings(options, recipe)
    run_folder = wss_train.train_final(
        _table(lambda: arguments.split_of(options.dataset, options.split), options.field),
        options.out,
        recipe,
        mask_field=options.field,
        multilabel=recipe.multilabel and not options.no_multilabel,
        settings=settings,
        **arguments.passed(options, "select", "init", "device", "workers", "overwrite"),
    )
    print(f"model: {run_folder / 'model.safetensors'}")
    return 0


def _table(view: Callable[[], Any], mask_field: str | None) -> Any:
    """Plain values of a view that ``view`` opens; where torchrun has started several processes, only the first does."""
    return from_first(lambda: wss_train.data.as_table(view(), mask_field))


def _selection_settings(options: argparse.Namespace, recipe: Any) -> Any:
    settings = wss_train.SelectionSettings(
        every=options.look_every,
        probes=options.look_images,
        **arguments.passed(options, "patience", "settle", "keep_snapshots"),
    )
    useless = getattr(options, "target", None) and not recipe.of("generator").label_weight
    if options.select == "last" and (settings != wss_train.SelectionSettings() or useless):
        raise RecipeError(
            "--select last looks at nothing, so --target, --look-every, --look-images, --patience, --settle and "
            "--keep-snapshots have no effect. Add --select labels or --select agreement."
        )
    return settings


def _ablation(options: argparse.Namespace) -> int:
    """Train and score every row of the paper's Table 3 on your data, and write table, models and figures.
    Stages that are done are not done again.
    """
    only_alone("wss-train ablation")
    recipe = arguments.read_recipe(options)
    datasets = wss_data.open_dataset(options.web), wss_data.open_dataset(options.target)
    training = arguments.passed(options, "device", "workers", "overwrite")
    result: Any
    if options.seeds and len(options.seeds) > 1:
        if options.seed is not None:
            raise RecipeError("--seed and --seeds are both given: --seeds names all of them.")
        result = wss_train.run_ablation_over_seeds(*datasets, options.out, recipe, options.seeds, **training)
        figures = result.out / "seed_*" / "pictures"
    else:
        recipe = replace(recipe, seed=options.seeds[0]) if options.seeds else recipe
        result = wss_train.run_ablation(*datasets, options.out, recipe, **training)
        figures = result.out / "pictures"
    print(f"\n{result}\n")
    if options.profile:
        print(f"{result.profile()}\n")
    print(f"table:     {result.out / 'table.md'}")
    print(f"sheets:    {figures}  and  {dataset_folder(options.web) / 'pictures'}")
    print(f"datasets:  {options.web} (wss-data view {options.web}), {options.target}")
    return 0


def _recipe(options: argparse.Namespace) -> int:
    """Print a recipe: every value that a training run depends on."""
    print(json.dumps(arguments.read_recipe(options).to_dict(), indent=2))
    return 0
