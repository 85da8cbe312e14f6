"""The networks that describe images, all of them timm's, and what each of them learned from.

Importing this package loads no torch and no timm; a network does. Which is for what: docs/how_to/choose_a_backbone.md.
"""

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from wss_data.backbones.published import BACKBONES, IMAGENET_DIGESTS, NETWORK_NAME, learned_from, published_name
from wss_data.errors import WssError
from wss_data.ledger import LedgerEntry, Supervision, UsedFor
from wss_data.reading.settings import Expected, Rule, settings
from wss_data.runtime.files import digest_of

if TYPE_CHECKING:
    from wss_data.backbones.dense import DenseBackbone

Backbone = Annotated[str, NETWORK_NAME]

# A value of ``Supervision`` or its name, as a user writes it
SupervisionName = Annotated[Supervision, Rule(strict=False), Expected(", ".join(Supervision))]


@settings("the backbone", WssError)
class BackboneChoice:
    """A backbone, its weights, and what these learned from."""

    backbone: Backbone = "efficientnet_lite0"
    # A file; ``None`` for the backbone's own weights, those of timm or, for ``BACKBONES``, of earlier versions.
    weights: Annotated[Path | str | None, Expected("a .pth or .safetensors file")] = None
    # What people had to give for the file, or for weights of timm's that the ledger does not know. If nobody says, it
    # counts as unknown, which is not strictly image-level.
    weights_supervision: SupervisionName | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and not os.path.isfile(self.weights):
            raise WssError(f"weights: there is no file {str(self.weights)[:500]!r}: give a .pth or .safetensors file.")
        if self.weights is None and self.backbone == "vit":
            raise WssError(
                "the backbone vit has no weights of its own: give a file in the option weights, such as a "
                "checkpoint of DINO. What may be in it: docs/how_to/choose_a_backbone.md."
            )
        if self.weights_supervision is not None and self.weights is None and self._own() is not None:
            raise WssError(
                f"weights_supervision is '{self.weights_supervision}', but no file is given in the option weights: "
                f"what {self.backbone}'s own weights learned from is known. Leave it out."
            )

    def ledger_entry(self, used_for: UsedFor = UsedFor.COSEGMENTATION) -> LedgerEntry:
        """What the weights learned from."""
        if own := self._own():
            words, supervision = own
            name = self.backbone if self.backbone in BACKBONES else published_name(self.backbone)
            return LedgerEntry(f"{name} weights, {words}", supervision, used_for)
        supervision = self.weights_supervision or Supervision.UNKNOWN
        source = "timm" if self.weights is None else Path(self.weights).name
        return LedgerEntry(f"{self.backbone} weights from {source}", supervision, used_for)

    def _own(self) -> tuple[str, Supervision] | None:
        """What the publishers' own weights learned from; ``None`` for others, and where nobody wrote it down."""
        # A file that is one of them is known by its content, whatever was said of it.
        if self.backbone in IMAGENET_DIGESTS:
            if self.weights is None or self._digest().startswith(IMAGENET_DIGESTS[self.backbone]):
                return "ImageNet-1k classification", Supervision.IMAGE_LEVEL
            return None
        return learned_from(published_name(self.backbone)) if self.weights is None else None

    def fingerprint(self) -> str:
        """Name and start of the weights' SHA-256, such as ``resnet50-0676ba61``: changes whenever the network does."""
        if self.weights is not None:
            return f"{self.backbone}-{self._digest()[:12]}"
        own = IMAGENET_DIGESTS.get(self.backbone)
        return f"{self.backbone}-{own[0]}" if own else published_name(self.backbone)

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
