"""From an image dataset with masks to a semantic segmentation model.

::

    import wss_data, wss_train

    web = wss_data.open_dataset("drawn").match_tags("kept")
    generator = wss_train.train_generator(web, "runs/generator", recipe="cpu")
    target = wss_data.open_dataset("drawn-target")
    wss_train.make_pseudo_masks(generator, target.match_tags("train"))
    final = wss_train.train_final(target.match_tags("train"), "runs/final", recipe="cpu")
    print(wss_train.evaluate_model(final, target.match_tags("val")))

Importing this package loads neither torch nor FiftyOne: each public name is
loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wss_train.evaluate import evaluate_model, score_masks
    from wss_train.export import export_model
    from wss_train.predict import predict_images
    from wss_train.pseudo_masks import make_pseudo_masks
    from wss_train.recipes import TrainRecipe, preset
    from wss_train.reports.ablation import run_ablation
    from wss_train.reports.seeds import run_ablation_over_seeds
    from wss_train.training import train_final, train_generator

_HOMES = {
    "TrainRecipe": "recipes",
    "evaluate_model": "evaluate",
    "export_model": "export",
    "make_pseudo_masks": "pseudo_masks",
    "predict_images": "predict",
    "preset": "recipes",
    "run_ablation": "reports.ablation",
    "run_ablation_over_seeds": "reports.seeds",
    "score_masks": "evaluate",
    "train_final": "training",
    "train_generator": "training",
}

__all__ = [
    "TrainRecipe",
    "evaluate_model",
    "export_model",
    "make_pseudo_masks",
    "predict_images",
    "preset",
    "run_ablation",
    "run_ablation_over_seeds",
    "score_masks",
    "train_final",
    "train_generator",
]


def __getattr__(name: str) -> Any:
    """Load a public name from the module where it lives, when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'wss_train' has no attribute '{name}'")
    return getattr(import_module(f"wss_train.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
