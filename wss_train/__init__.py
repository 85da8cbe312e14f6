"""From an image dataset with masks to a semantic segmentation model.

::

    import wss_data, wss_train

    web = wss_data.open_dataset("drawn").match_tags("kept")
    generator = wss_train.train_generator(web, "runs/generator", recipe="cpu")
    target = wss_data.open_dataset("drawn-target")
    wss_train.make_pseudo_masks(generator, target.match_tags("train"))
    final = wss_train.train_final(target.match_tags("train"), "runs/final", recipe="cpu")
    print(wss_train.evaluate_model(final, target.match_tags("val")))
    mask = wss_train.load_model(final).predict("photo.jpg").mask

Importing this package loads neither torch nor FiftyOne: each public name is
loaded when it is first used.
"""

from typing import TYPE_CHECKING

from wss_data.runtime.lazy import names_when_used
from wss_data.runtime.openmp import short_spins

if TYPE_CHECKING:
    from wss_train import checkpoints, data, recipes
    from wss_train.evaluate import evaluate_model, score_masks
    from wss_train.export import export_model
    from wss_train.predict import load_model, predict_images
    from wss_train.pseudo_masks import make_pseudo_masks
    from wss_train.recipes import TrainRecipe, preset
    from wss_train.reports.ablation import run_ablation
    from wss_train.reports.seeds import run_ablation_over_seeds
    from wss_train.selection.selection import SelectionSettings
    from wss_train.training import train_final, train_generator

short_spins()  # before anything loads torch
__getattr__, __dir__, __all__ = names_when_used(__name__, __file__)
