"""ResNet-50 at stride 16. Loads torch and torchvision.

Source:
    He, Zhang, Ren and Sun, CVPR 2016; torchvision's network and weights.
"""

from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor
from torchvision.models import ResNet50_Weights, resnet50
from torchvision.models.resnet import Bottleneck

from wss_data.backbones.dense import DenseBackbone, DenseMaps, fold
from wss_data.backbones.weights import load_exactly, read_state_dict
from wss_data.errors import WssError

HEADS = ("fc.", "head.")
"""Names of what comes after the last stage, in torchvision's file and in self-supervised ones."""


class DilatedResNet50(DenseBackbone):
    """torchvision's ResNet-50 without classifier; the last stage keeps its resolution and is dilated by 2."""

    cell_px = 16
    side_multiple = 32

    def __init__(self) -> None:
        super().__init__()
        self.network = resnet50(weights=None, replace_stride_with_dilation=[False, False, True])
        del self.network.fc

    def dense(self, images: Tensor) -> DenseMaps:
        """Stages 4 (2,048 channels) and 3 (1,024), both after their ReLU.

        Args:
            images: Normalised. Shape (N, 3, H, W), sides multiples of 32.
        """
        network = self.network
        features = network.maxpool(network.relu(network.bn1(network.conv1(images))))
        middle = network.layer3(network.layer2(network.layer1(features)))
        return DenseMaps(network.layer4(middle), middle)

    def fold_batch_norms(self) -> None:
        """See ``DenseBackbone``."""
        fold(self.network, "conv1", "bn1")
        for block in self.network.modules():
            if isinstance(block, Bottleneck):
                for number in "123":
                    fold(block, f"conv{number}", f"bn{number}")
                if block.downsample is not None:
                    fold(block.downsample, "0", "1")


def load(name: str, file: Path | None) -> DilatedResNet50:
    """ResNet-50 with torchvision's ImageNet weights or those of a file, in evaluation mode.

    Args:
        name: ``resnet50``.
        file: Tensors with torchvision's names; ``None`` to let torchvision download its own, once.

    Raises:
        WssError: If the weights cannot be had, are damaged, or belong to another network.
    """
    # Memory comes with the file's tensors.
    with torch.device("meta"):
        backbone = DilatedResNet50()
    state = _downloaded() if file is None else read_state_dict(file)
    source = file or Path(ResNet50_Weights.IMAGENET1K_V1.url).name
    load_exactly(backbone.network, {k: v for k, v in state.items() if not k.startswith(HEADS)}, Path(source))
    return backbone.eval()


def _downloaded() -> dict[str, Tensor]:
    # Version 1 as in wss_train: one file serves both.
    weights = ResNet50_Weights.IMAGENET1K_V1
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True))
    except (URLError, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", error)
        raise WssError(
            f"the ImageNet weights of resnet50 cannot be downloaded from {weights.url} ({reason}). Download that file "
            "on another machine and name it in the option weights, or take efficientnet_lite0, whose weights are "
            "installed."
        ) from error
