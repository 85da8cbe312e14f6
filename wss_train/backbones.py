"""Classification networks as backbones: dilated to a stride, in two parts, with a second copy for the branch.

Source:
    Shen et al., BMVC 2017, sections 3.2 and 3.3; Chen et al., ICLR 2015, for dilation.
"""

import hashlib
import pickle
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn

from wss_data.backbones.efficientnet_lite import EfficientNetLite, efficientnet_lite
from wss_data.errors import CheckpointError, WssError
from wss_data.ledger import LedgerEntry, Supervision, UsedFor
from wss_train.checkpoints import read_tensors
from wss_train.recipes import TrainRecipe

_LITE_CHANNELS = {"efficientnet_lite0": 320, "efficientnet_lite1": 320, "efficientnet_lite2": 352}
"""Channels of the last block's output."""


class Backbone(NamedTuple):
    """A classification network in two parts.

    Args:
        low: Image to features at stride 8.
        high: These to the last features, dilated to the recipe's output stride.
        branch_high: A copy of its own of the same layers at their usual stride, 32.
        channels: Channels of the last features.
    """

    low: nn.Module
    high: nn.Module
    branch_high: nn.Module
    channels: int


def build_backbone(recipe: TrainRecipe, weights: str) -> Backbone:
    """Build the network below the head.

    Args:
        recipe: Gives ``backbone``, ``output_stride`` and ``dilate_first_block``.
        weights: ``imagenet``, ``none`` for random ones, or a file.

    Returns:
        Both parts, and a copy of the second one, which starts from the same weights.

    Raises:
        WssError: If the weights cannot be had; the message says how to go on.
        CheckpointError: If a file of weights is damaged or fits another network.
    """
    make = _resnet_backbone if recipe.backbone.startswith("resnet") else _lite_backbone
    return make(recipe, weights)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Put tensors into a model whose parts they must fit exactly; ``name`` is for the ``CheckpointError`` if not."""
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{name}: the weights do not fit the network that is wanted ({first[:200]}).") from error


def weights_ledger_entry(recipe: TrainRecipe) -> LedgerEntry | None:
    """What the backbone's first weights learned from; ``None`` for random ones.

    A file is unknown, unless it is one of torchvision's own, which carry the
    start of their hash in their name.

    Raises:
        WssError: If the file is missing.
    """
    if recipe.weights == "none":
        return None
    known = LedgerEntry(
        f"{recipe.backbone} weights, ImageNet-1k classification", Supervision.IMAGE_LEVEL, UsedFor.WEIGHTS
    )
    if recipe.weights == "imagenet" or _is_torchvision_file(recipe):
        return known
    return LedgerEntry(
        f"{recipe.backbone} weights from {Path(recipe.weights).name}", Supervision.UNKNOWN, UsedFor.WEIGHTS
    )


def _is_torchvision_file(recipe: TrainRecipe) -> bool:
    if not recipe.backbone.startswith("resnet"):
        return False
    path = _weights_file(recipe.weights)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    urls = [weights.url for weights in torchvision.models.get_model_weights(recipe.backbone)]
    return any(digest.startswith(Path(url).stem.rsplit("-", 1)[-1]) for url in urls)


def _lite_backbone(recipe: TrainRecipe, weights: str) -> Backbone:
    def network(stride: int) -> EfficientNetLite:
        net = efficientnet_lite(recipe.backbone, stride, pretrained=weights == "imagenet")
        if weights not in ("imagenet", "none"):
            load_weights(net, _lite_names(_read_state_dict(weights)), weights)
        return net

    main, plain = network(recipe.output_stride), network(32)
    for net in (main, plain):
        for module in net.modules():
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                # Set on the instance: a wrapping module would change the names of the weights.
                setattr(module, "forward", partial(_depthwise, module.forward))  # noqa: B010
    if weights == "none":
        plain.load_state_dict(main.state_dict())
    # The first block above stride 8: where ResNet ends its stage 3.
    fork = main.stage_starts[16]
    return Backbone(
        low=nn.Sequential(main.stem, *main.blocks[:fork]),
        high=nn.Sequential(*main.blocks[fork:]),
        branch_high=nn.Sequential(*plain.blocks[fork:]),
        channels=_LITE_CHANNELS[recipe.backbone],
    )


def _depthwise(forward: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """A depthwise convolution, in float32 where a processor is to train it in bf16.

    oneDNN's bf16 gradient of strided, dilated and 5x5 depthwise convolutions is 3
    to 16 times slower than the float32 one; all else is faster in bf16. Together
    that is 0.54 s for a training step that takes 0.98 s in bf16 alone.
    """
    if features.device.type != "cpu" or features.dtype != torch.bfloat16 or not torch.is_grad_enabled():
        return forward(features)
    with torch.autocast("cpu", enabled=False):
        return forward(features.float()).to(features.dtype)


def _lite_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names that the index package's file uses, as ours."""
    names = {"_conv_stem": "stem.0", "_bn0": "stem.1", "_blocks": "blocks", "_conv_head": "head.0", "_bn1": "head.1"}
    renamed = {}
    for key, tensor in state.items():
        first, _, rest = key.partition(".")
        if first != "_fc":
            renamed[f"{names.get(first, first)}.{rest}"] = tensor
    return renamed


def _resnet_backbone(recipe: TrainRecipe, weights: str) -> Backbone:
    state = _torchvision_state_dict(recipe.backbone) if weights == "imagenet" else None
    if weights not in ("imagenet", "none"):
        state = {k: v for k, v in _read_state_dict(weights).items() if not k.startswith("fc.")}

    def network() -> torchvision.models.ResNet:
        net = torchvision.models.get_model(recipe.backbone, weights=None)
        del net.fc
        if state is not None:
            load_weights(net, state, recipe.weights)
        return net

    main, plain = network(), network()
    if state is None:
        plain.load_state_dict(main.state_dict())
    channels = 512 if recipe.backbone in ("resnet18", "resnet34") else 2048
    _trade_stride_for_dilation(main, recipe.output_stride, recipe.dilate_first_block)
    return Backbone(
        low=nn.Sequential(main.conv1, main.bn1, main.relu, main.maxpool, main.layer1, main.layer2),
        high=nn.Sequential(main.layer3, main.layer4),
        branch_high=nn.Sequential(plain.layer3, plain.layer4),
        channels=channels,
    )


def _trade_stride_for_dilation(
    network: torchvision.models.ResNet, output_stride: int, dilate_first_block: bool
) -> None:
    """Dilate stages 4 and 5 where they would go beyond the output stride.

    torchvision's ``replace_stride_with_dilation`` does the same, but not for the blocks of ResNet-18 and 34.

    Args:
        network: Is changed in place.
        output_stride: 8, 16 or 32.
        dilate_first_block: Whether the convolution that loses its stride gets the dilation of its stage; otherwise
            that of the stage before, so that its weights meet the grid that they met in training.
    """
    dilation = 1
    for stage, stride in ((network.layer3, 16), (network.layer4, 32)):
        before = dilation
        if stride > output_stride:
            dilation *= 2
        for convolution in (m for m in stage.modules() if isinstance(m, nn.Conv2d)):
            loses_stride = convolution.stride == (2, 2) and stride > output_stride
            if loses_stride:
                convolution.stride = (1, 1)
            if convolution.kernel_size == (3, 3):
                own = before if loses_stride and not dilate_first_block else dilation
                convolution.dilation = convolution.padding = (own, own)


def _torchvision_state_dict(name: str) -> dict[str, Tensor]:
    """ImageNet weights of torchvision (version 1, of the paper's time), downloaded once."""
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if cached.is_file():
        # torch.hub checks the hash of what it downloads, but not of what it finds; a damaged file is told as one.
        state = _read_state_dict(str(cached))
    else:
        try:
            state = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
        except (URLError, OSError, RuntimeError) as error:
            reason = getattr(error, "reason", error)
            raise WssError(
                f"the ImageNet weights of {name} cannot be downloaded from {weights.url} ({reason}). Download that "
                f"file on another machine and put it at {cached} or give it with --weights FILE, or take "
                "--recipe cpu, whose weights are installed."
            ) from error
    return {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}


def _weights_file(weights: str) -> Path:
    path = Path(weights)
    if not path.is_file():
        raise WssError(
            f"weights={weights}: there is no such file. Wanted: imagenet, none, or a .pth or .safetensors file."
        )
    return path


def _read_state_dict(weights: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a .pth file that holds nothing but tensors."""
    path = _weights_file(weights)
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path}: the file is damaged, or holds more than tensors ({first[:200]}). A state dict is wanted: "
            "tensors by name, as torch.save(network.state_dict(), FILE) writes."
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: the file holds no state dict (tensors by name).")
    return state
