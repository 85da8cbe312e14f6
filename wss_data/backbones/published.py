"""Which networks there are, which weights their publishers gave out, and what these learned from.

timm, which takes seconds, is loaded for its own names only.
"""

import re
from difflib import get_close_matches
from typing import Any

from wss_data.backbones.lean import load_timm
from wss_data.ledger import Supervision
from wss_data.reading.settings import Expected

IMAGENET_DIGESTS = {
    "efficientnet_lite0": ("57934424",),
    "efficientnet_lite1": ("77cc7160",),
    "efficientnet_lite2": ("9656183e",),
    "resnet18": ("f37072fd",),
    "resnet34": ("b627a593",),
    "resnet50": ("0676ba61", "11ad3fa6"),
    "resnet101": ("63fe2227", "cd907fc2"),
}
"""Name -> how the SHA-256 of its ImageNet-classification weights begins, as their publishers' file names say it.

The first is what the backbone takes unless a file is given (version 1 of torchvision's, of the paper's time).
"""

LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
BACKBONES = (*IMAGENET_DIGESTS, "vit")
"""Names that are known without timm: backbones that keep the weights of earlier versions, and ``vit``, whose sizes are
read from a file."""

Pixels = tuple[tuple[float, float, float], tuple[float, float, float]]

# (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225) of 255
IMAGENET_PIXELS: Pixels = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# With ImageNet's mean and deviation top-1 falls from 0.89 to 0.77
LITE_PIXELS: Pixels = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)


def _known_network(value: str) -> str:
    if value in BACKBONES:
        return value
    if not re.fullmatch(r"\w{1,100}(\.\w{1,100})?", value, re.ASCII):
        raise ValueError
    timm = load_timm()
    name, _, tag = value.partition(".")
    tags = timm.list_pretrained(f"{name}.*")
    if not timm.is_model(name) or timm.get_pretrained_cfg(name) is None:
        close = get_close_matches(name, sorted({*BACKBONES, *timm.list_models()}), n=3, cutoff=0.7)
        raise ValueError(f"the nearest are {', '.join(close)}" if close else "")
    if tag and value not in tags:
        raise ValueError(f"the weights of {name} are {', '.join(tags[:8]) or 'none'}")
    return value


NETWORK_NAME = Expected(f"{', '.join(BACKBONES)}, or a network of timm, such as convnext_tiny", _known_network)
"""A note on a text: it is one of ``BACKBONES``, or a network of timm's, with or without the tag of its weights."""


def published_name(name: str) -> str:
    """The name of a network of timm's with the tag of its weights: of those that it takes if none are named."""
    found: Any = load_timm().get_pretrained_cfg(name)  # a name that was checked has one
    return f"{found.architecture}.{found.tag}" if found.tag else name


def pixel_statistics(name: str) -> Pixels:
    """Mean and divisor, each (R, G, B), that turn pixels of 0..255 into what the weights of a backbone want."""
    if name in LITES:
        return LITE_PIXELS
    if name in BACKBONES:
        return IMAGENET_PIXELS
    found: Any = load_timm().get_pretrained_cfg(name)
    mean, deviation = ([255.0 * value for value in values] for values in (found.mean, found.std))
    return (mean[0], mean[1], mean[2]), (deviation[0], deviation[1], deviation[2])


_TAUGHT: tuple[tuple[str, str, Supervision], ...] = (
    # Outlines, also at second hand: SAM, Florence-2, PaliGemma, and networks that learned to give SAM's maps.
    (r"^samvit|^sam2_|_spatial_|radio|florence2|\.pali", "masks, also at second hand", Supervision.MASKS),
    (
        r"openai|laion|datacomp|\.dfn|_dfn|metaclip|webli|merged2b|cc12m|yfcc15m|mclip|_clip_|\.clip|_pe_core_|\.apple_pt"
        r"|dist_in22k",
        "images with texts (CLIP and its kind)",
        Supervision.IMAGE_LEVEL,
    ),
    (r"jft", "ImageNet-1k classification, and JFT images labelled by that network", Supervision.IMAGE_LEVEL),
    (r"ig1b|swag", "hashtags of photographs", Supervision.IMAGE_LEVEL),
    (r"in2[12]k|in12k|inw21k", "ImageNet-21k (or 12k) classification", Supervision.IMAGE_LEVEL),
    (r"in1k", "ImageNet-1k classification", Supervision.IMAGE_LEVEL),
    (r"lvd142m", "images alone (DINOv2 on LVD-142M)", Supervision.NONE),
    (r"lvd1689m|sat493m", "images alone (DINOv3)", Supervision.NONE),
    (r"dino$|\.mae$|\.fcmae$|\.seer$|\.mim_m38m", "images alone", Supervision.NONE),
)


def learned_from(weights: str) -> tuple[str, Supervision] | None:
    """What timm's weights learned from, in words and as the ledger has it; ``None`` where that is not written down.

    ``weights``: the network's name with the tag of its weights, as timm writes it. The strongest teacher counts.

    >>> learned_from("vit_small_patch14_dinov2.lvd142m")
    ('images alone (DINOv2 on LVD-142M)', <Supervision.NONE: 'none'>)
    >>> learned_from("convnext_tiny.in12k_ft_in1k")[0]
    'ImageNet-21k (or 12k) classification'
    """
    for pattern, words, supervision in _TAUGHT:
        if re.search(pattern, weights):
            return words, supervision
    return None
