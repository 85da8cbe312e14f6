"""What a batch costs: eq. 4 with the recipe's loss a pixel, void pixels, weights of images, and pixels left out."""

from typing import NamedTuple

import torch
from torch import Tensor

from wss_train.data import Batch
from wss_train.losses import (
    at_one_resolution,
    classes_in_masks,
    multilabel_loss,
    pixel_losses,
    segmentation_loss,
    total_loss,
    weighted_mean,
)
from wss_train.models import ModelOutput
from wss_train.noise import share_at, smallest_losses
from wss_train.recipes import TrainRecipe


class Losses(NamedTuple):
    """The losses of one batch, each of shape ().

    Args:
        total: Eq. 4, to be made small.
        segmentation: Eq. 1, or what the recipe puts in its place.
        multilabel: Eq. 3; ``None`` without the branch.
    """

    total: Tensor
    segmentation: Tensor
    multilabel: Tensor | None

    def of_part(self, pixels: Tensor, images: float, multilabel_weight: float) -> "Losses":
        """What a part of a batch adds to the losses of the whole batch; the parts' sum is the whole.

        Args:
            pixels: The part's share of the whole batch's ``Objective.taught``. Shape ().
            images: Its share of the images, in [0, 1].
            multilabel_weight: Lambda of eq. 4.
        """
        segmentation = self.segmentation * pixels
        multilabel = None if self.multilabel is None else self.multilabel * images
        return Losses(total_loss(segmentation, multilabel, multilabel_weight), segmentation, multilabel)

    def detached(self) -> "Losses":
        """The same numbers, without what led to them."""
        multilabel = None if self.multilabel is None else self.multilabel.detach()
        return Losses(self.total.detach(), self.segmentation.detach(), multilabel)


class Objective:
    """Turns the network's output and a batch into its losses.

    Args:
        recipe: Says which losses.
        num_classes: C + 1.
        ignore_index: Value of void pixels.
        iterations: All iterations of the run: what is left out grows with the share of them that is done.
    """

    def __init__(self, recipe: TrainRecipe, num_classes: int, ignore_index: int, iterations: int) -> None:
        self.recipe = recipe
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.iterations = iterations

    def __call__(self, output: ModelOutput, batch: Batch, iteration: int) -> Losses:
        """The losses of one batch.

        Args:
            output: What the network says of ``batch.images``.
            batch: Masks, labels and weights.
            iteration: Iterations done before, from 0.
        """
        recipe = self.recipe
        logits, masks = at_one_resolution(output.pixel_logits, batch.masks, recipe.loss_resolution)
        segmentation = self._segmentation(logits, masks, batch.weights, iteration)
        multilabel = None
        if output.class_logits is not None:
            from_masks = recipe.branch_target == "mask_classes"
            labels = classes_in_masks(batch.masks, self.num_classes) if from_masks else batch.labels
            multilabel = multilabel_loss(output.class_logits, labels)
        return Losses(total_loss(segmentation, multilabel, recipe.multilabel_weight), segmentation, multilabel)

    def taught(self, batch: Batch) -> Tensor:
        """Number of pixels that teach, each as often as its image weighs: what eq. 1 divides by. Shape (), float32.

        With ``small_loss_share`` below 1 those before any is left out: each part of a batch then leaves out its own.
        """
        height, width = (-(-side // self.recipe.output_stride) for side in batch.masks.shape[-2:])
        # Nothing of the logits but their size is asked for.
        logits = torch.empty(1, 1, height, width, device="meta")
        _, masks = at_one_resolution(logits, batch.masks, self.recipe.loss_resolution)
        taught = (masks != self.ignore_index).flatten(1).sum(dim=1)
        return taught.sum().float() if batch.weights is None else (taught * batch.weights).sum()

    def _segmentation(self, logits: Tensor, masks: Tensor, weights: Tensor | None, iteration: int) -> Tensor:
        recipe = self.recipe
        if recipe.pixel_loss == "cross_entropy" and recipe.small_loss_share == 1 and weights is None:
            return segmentation_loss(logits, masks, self.ignore_index)
        losses = pixel_losses(logits, masks, recipe, self.ignore_index)
        taught = masks != self.ignore_index
        if recipe.small_loss_share < 1:
            share = share_at(iteration / self.iterations, recipe.small_loss_share, recipe.small_loss_ramp)
            taught = smallest_losses(losses, taught, share)
        return weighted_mean(losses, taught, weights)
