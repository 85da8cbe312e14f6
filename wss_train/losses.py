"""Equations 1, 3 and 4: what a network is taught.

Source:
    Shen et al., BMVC 2017, section 3.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def segmentation_loss(
    pixel_logits: Tensor, masks: Tensor, ignore_index: int = 255, weights: Tensor | None = None
) -> Tensor:
    """Softmax cross-entropy, averaged over the pixels that have a class, those of an image by its weight.

    >>> two_pixels = torch.tensor([[[[0.0, 9.0]], [[0.0, 9.0]]]])  # both classes are equally likely at each
    >>> round(float(segmentation_loss(two_pixels, torch.tensor([[[1, 255]]]))), 3)  # log 2; the void pixel is left out
    0.693

    Args:
        pixel_logits: Class scores before the softmax. Shape (N, C + 1, H, W), float.
        masks: Class indices, 0..C, or ``ignore_index``. Shape (N, H, W), int64.
        ignore_index: Value of void, which does not contribute.
        weights: How much each image counts, at least 0; ``None`` for all alike. Shape (N,), float.

    Returns:
        The loss, at least 0; exactly 0, with a zero gradient, where nothing counts. Shape (), float32.

    Source:
        Shen et al., BMVC 2017, eq. (1); the weights are ours.
    """
    # Negated beside the paper, which prints eq. (1), as eq. (3), as a log-likelihood.
    logits = pixel_logits.float()
    # Summed and divided by hand: the built-in mean is NaN where no pixel is left.
    if weights is None:
        total = F.cross_entropy(logits, masks, ignore_index=ignore_index, reduction="sum")
        return total / (masks != ignore_index).sum().clamp(min=1)
    losses = F.cross_entropy(logits, masks, ignore_index=ignore_index, reduction="none")
    counts = (masks != ignore_index) * weights[:, None, None]
    total = counts.sum()
    return (losses * counts).sum() / torch.where(total > 0, total, 1.0)


def multilabel_loss(class_logits: Tensor, labels: Tensor) -> Tensor:
    """Binary logistic loss, averaged over the classes and the images: at least 0, shape (), float32.

    ``class_logits``: scores before the sigmoid; ``labels``: which classes an image shows, 0 or 1; (N, K), float.

    >>> round(float(multilabel_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))), 3)  # undecided: log 2
    0.693

    Source:
        Shen et al., BMVC 2017, eq. (3).
    """
    # Averaged over the classes, too, so that lambda keeps its meaning whatever their number.
    return F.binary_cross_entropy_with_logits(class_logits.float(), labels)


def total_loss(segmentation: Tensor, multilabel: Tensor | None, multilabel_weight: float) -> Tensor:
    """Segmentation loss plus lambda times the multi-label loss, where there is one.

    >>> float(total_loss(torch.tensor(2.0), torch.tensor(3.0), 0.5))
    3.5

    Source:
        Shen et al., BMVC 2017, eq. (4); lambda = 1.0 in section 4.2.
    """
    return segmentation if multilabel is None else segmentation + multilabel_weight * multilabel


def at_one_resolution(
    pixel_logits: Tensor, masks: Tensor, resolution: Literal["mask", "stride"]
) -> tuple[Tensor, Tensor]:
    """Bring logits, (N, C + 1, h, w), float, and masks, (N, H, W), int64, to the same size.

    ``resolution``: ``mask`` upsamples the logits bilinearly, ``stride`` samples the masks by nearest neighbour.
    """
    if resolution == "mask":
        # As float32: bilinear sums lose accuracy in bf16.
        return F.interpolate(pixel_logits.float(), masks.shape[-2:], mode="bilinear", align_corners=False), masks
    sampled = F.interpolate(masks[:, None].float(), pixel_logits.shape[-2:], mode="nearest")
    return pixel_logits, sampled[:, 0].long()


def classes_in_masks(masks: Tensor, num_classes: int) -> Tensor:
    """Which classes each mask, (N, H, W), int64, shows, background first: (N, C + 1), float32, 0 or 1.

    ``num_classes``: C + 1; any other value is void, and shows nothing.

    >>> classes_in_masks(torch.tensor([[[0, 2, 255], [2, 2, 255]]]), num_classes=4)
    tensor([[1., 0., 1., 0.]])
    """
    indices = torch.arange(num_classes, device=masks.device)
    return (masks.flatten(1)[:, None, :] == indices[None, :, None]).any(dim=2).float()
