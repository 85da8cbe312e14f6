"""The networks that describe images, all of them timm's, and what each of them learned from.

Importing this package loads no torch and no timm; a network does. Which is for what: docs/how_to/choose_a_backbone.md.
"""

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from pydantic import Strict

from wss_data.backbones.published import IMAGENET_DIGESTS
from wss_data.errors import WssError
from wss_data.ledger import LedgerEntry, Supervision, UsedFor
from wss_data.reading.settings import Expected, settings
from wss_data.runtime.files import digest_of

if TYPE_CHECKING:
    from wss_data.backbones.dense import DenseBackbone

Backbone = Literal[
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "vit",
]
BACKBONES: tuple[Backbone, ...] = get_args(Backbone)  # Names of all backbones

# A value of ``Supervision`` or its name, as a user writes it
SupervisionName = Annotated[Supervision, Strict(False), Expected(", ".join(Supervision))]


@settings("the backbone", WssError)
class BackboneChoice:
    """A backbone, its weights, and what these learned from."""

    backbone: Backbone = "efficientnet_lite0"
    # A file; ``None`` for the backbone's own ImageNet-classification weights.
    weights: Annotated[Path | str | None, Expected("a .pth or .safetensors file")] = None
    # What people had to give for the file. If nobody says, it counts as unknown, which is not strictly image-level.
    weights_supervision: SupervisionName | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and not os.path.isfile(self.weights):
            raise WssError(f"weights: there is no file {str(self.weights)[:500]!r}: give a .pth or .safetensors file.")
        if self.weights is None and self.backbone == "vit":
            raise WssError(
                "the backbone vit has no weights of its own: give a file in the option weights, such as a "
                "checkpoint of DINO. What may be in it: docs/how_to/choose_a_backbone.md."
            )
        if self.weights is None and self.weights_supervision is not None:
            raise WssError(
                f"weights_supervision is '{self.weights_supervision}', but no file is given in the option weights: "
                f"what {self.backbone}'s own weights learned from is known. Leave it out."
            )

    def ledger_entry(self, used_for: UsedFor = UsedFor.COSEGMENTATION) -> LedgerEntry:
        """What the weights learned from."""
        # A file that is one of the publishers' own is known by its content, whatever was said of it.
        if self.weights is None or self._digest().startswith(IMAGENET_DIGESTS[self.backbone] or ("-",)):
            return LedgerEntry(
                f"{self.backbone} weights, ImageNet-1k classification", Supervision.IMAGE_LEVEL, used_for
            )
        supervision = self.weights_supervision or Supervision.UNKNOWN
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
        state = os.stat(str(self.weights))
        return _digest_of(str(self.weights), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=16)
def _digest_of(path: str, size: int, modified_ns: int) -> str:
    # Size and time are only there to be part of the key: a file of a gigabyte takes seconds to read.
    return digest_of(path)
