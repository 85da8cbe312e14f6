"""Equations 1, 3 and 4: what a network is taught.

Source:
    Shen et al., BMVC 2017, section 3.
"""

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from wss_train.recipes import TrainRecipe

LOG_OF_ZERO = -4.0
"""What stands for the logarithm of zero in the reverse cross-entropy. Wang et al., ICCV 2019, section 4: A = -4."""


def segmentation_loss(pixel_logits: Tensor, masks: Tensor, ignore_index: int = 255) -> Tensor:
    """Softmax cross-entropy, averaged over the pixels that have a class.

    Negated: the paper prints eq. (1) as a log-likelihood.

    Args:
        pixel_logits: Class scores before the softmax. Shape (N, C + 1, H, W), float.
        masks: Class indices, 0..C, or ``ignore_index``. Shape (N, H, W), int64.
        ignore_index: Pixels of this value teach nothing.

    Returns:
        The loss, at least 0; exactly 0, with a zero gradient, where every pixel is void. Shape (), float32.

    Source:
        Shen et al., BMVC 2017, eq. (1).
    """
    # Summed and divided by hand: the built-in mean is NaN where no pixel is left.
    total = F.cross_entropy(pixel_logits.float(), masks, ignore_index=ignore_index, reduction="sum")
    return total / (masks != ignore_index).sum().clamp(min=1)


def pixel_losses(pixel_logits: Tensor, masks: Tensor, recipe: "TrainRecipe", ignore_index: int = 255) -> Tensor:
    """The loss of each pixel, in the recipe's way.

    ``cross_entropy`` is eq. 1. ``bootstrapped`` believes the network's own choice in part: its target is
    ``bootstrap_weight`` parts mask, the rest what the network thinks most likely. ``symmetric`` adds the reverse
    cross-entropy, which is bounded, so that a wrong pixel cannot pull for ever:
    ``symmetric_alpha`` CE + ``symmetric_beta`` RCE, and RCE = 4 (1 - p) for the probability p of the mask's class.

    Args:
        pixel_logits: Class scores before the softmax. Shape (N, C + 1, H, W), float.
        masks: Class indices, 0..C, or ``ignore_index``. Shape (N, H, W), int64.
        recipe: Gives ``pixel_loss`` and its weights.
        ignore_index: Pixels of this value have loss 0.

    Returns:
        At least 0. Shape (N, H, W), float32.

    Source:
        Shen et al., BMVC 2017, eq. (1). Reed et al., *Training Deep Neural Networks on Noisy Labels with
        Bootstrapping*, ICLR workshop 2015, eq. (7), the hard one. Wang et al., *Symmetric Cross Entropy for Robust
        Learning with Noisy Labels*, ICCV 2019, eqs. (7) and (9).
    """
    logits = pixel_logits.float()
    cross_entropy = F.cross_entropy(logits, masks, ignore_index=ignore_index, reduction="none")
    if recipe.pixel_loss == "cross_entropy":
        return cross_entropy
    if recipe.pixel_loss == "bootstrapped":
        # The network's own choice is its target here, not something to learn.
        own = F.cross_entropy(logits, logits.detach().argmax(dim=1), reduction="none")
        mixed = recipe.bootstrap_weight * cross_entropy + (1.0 - recipe.bootstrap_weight) * own
        return mixed * (masks != ignore_index)
    # exp(-CE) is the probability of the mask's class; it is 1 at void pixels, whose reverse loss so is 0.
    reverse = -LOG_OF_ZERO * (1.0 - torch.exp(-cross_entropy))
    return recipe.symmetric_alpha * cross_entropy + recipe.symmetric_beta * reverse


def weighted_mean(losses: Tensor, taught: Tensor, weights: Tensor | None) -> Tensor:
    """Mean loss over the pixels that teach, those of an image weighed with its weight.

    Args:
        losses: Shape (N, H, W), float.
        taught: Which pixels count. Shape (N, H, W), bool.
        weights: One an image, at least 0; ``None`` for 1 each. Shape (N,), float.

    Returns:
        Sum of weight times loss over sum of weights; 0 where nothing counts. Shape (), float32.
    """
    share = taught.float() if weights is None else taught * weights[:, None, None]
    total = share.sum()
    return (losses * share).sum() / torch.where(total > 0, total, 1.0)


def multilabel_loss(class_logits: Tensor, labels: Tensor) -> Tensor:
    """Binary logistic loss, averaged over the classes and the images.

    Negated: the paper prints eq. (3) as a log-likelihood. Averaged over the
    classes, so that lambda keeps its meaning whatever their number.

    Args:
        class_logits: Class scores before the sigmoid. Shape (N, K), float.
        labels: Which classes an image shows, 0 or 1. Shape (N, K), float.

    Returns:
        The loss, at least 0. Shape (), float32.

    Source:
        Shen et al., BMVC 2017, eq. (3).
    """
    return F.binary_cross_entropy_with_logits(class_logits.float(), labels)


def total_loss(segmentation: Tensor, multilabel: Tensor | None, multilabel_weight: float) -> Tensor:
    """Segmentation loss plus lambda times the multi-label loss, where there is one.

    Args:
        segmentation: Eq. 1. Shape ().
        multilabel: Eq. 3, or ``None`` for a network without the branch. Shape ().
        multilabel_weight: Lambda, at least 0.

    Source:
        Shen et al., BMVC 2017, eq. (4); lambda = 1.0 in section 4.2.
    """
    return segmentation if multilabel is None else segmentation + multilabel_weight * multilabel


def at_one_resolution(
    pixel_logits: Tensor, masks: Tensor, resolution: Literal["mask", "stride"]
) -> tuple[Tensor, Tensor]:
    """Bring logits and masks to the same size, one way or the other.

    Args:
        pixel_logits: Class scores at the network's output stride. Shape (N, C + 1, h, w), float.
        masks: Class indices. Shape (N, H, W), int64.
        resolution: ``mask``: logits are upsampled bilinearly to (H, W); ``stride``: the masks are sampled by nearest
            neighbour to (h, w).

    Returns:
        Logits and masks of one size; logits as float32, because bilinear sums lose accuracy in bf16.
    """
    if resolution == "mask":
        return F.interpolate(pixel_logits.float(), masks.shape[-2:], mode="bilinear", align_corners=False), masks
    sampled = F.interpolate(masks[:, None].float(), pixel_logits.shape[-2:], mode="nearest")
    return pixel_logits, sampled[:, 0].long()


def classes_in_masks(masks: Tensor, num_classes: int) -> Tensor:
    """Which classes each mask shows, background first; void shows nothing.

    Args:
        masks: Class indices, 0..C; anything else is void. Shape (N, H, W), int64.
        num_classes: C + 1.

    Returns:
        0 or 1. Shape (N, C + 1), float32.
    """
    indices = torch.arange(num_classes, device=masks.device)
    return (masks.flatten(1)[:, None, :] == indices[None, :, None]).any(dim=2).float()
