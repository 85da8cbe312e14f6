"""Networks: a dilated backbone, the segmentation head, the multi-label branch.

Source:
    Shen et al., BMVC 2017, sections 3.2 and 3.3; Chen et al., ICLR 2015, for dilation.
"""

import hashlib
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn

from wss_data.backbones import EfficientNetLite0, efficientnet_lite0
from wss_data.errors import CheckpointError, WssError
from wss_data.ledger import LedgerEntry, Supervision, UsedFor
from wss_train.checkpoints import ModelCard, find_model, read_card, read_tensors, read_weights
from wss_train.recipes import TrainRecipe

_LITE0_FORK = 5
"""The first block of efficientnet_lite0 above stride 8, where the multi-label branch forks (ResNet: after stage 3)."""


class ModelOutput(NamedTuple):
    """What the network says of a batch.

    Args:
        pixel_logits: Class scores before the softmax, at the output stride; with score fusion the branch's scores are
            already added. Shape (N, C + 1, h, w).
        class_logits: Class scores of the branch before the sigmoid; ``None`` without the branch. Shape (N, C), or
            (N, C + 1) with background first where ``branch_target`` is ``mask_classes``.
    """

    pixel_logits: Tensor
    class_logits: Tensor | None


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


class SegmentationHead(nn.Sequential):
    """3x3 dilated convolution, ReLU, dropout, 1x1 convolution, ReLU, 1x1 convolution to the classes.

    Args:
        in_channels: Channels of the backbone's features.
        num_classes: C + 1.
        recipe: Gives ``head_channels``, ``head_dilation`` and ``dropout``.

    Source:
        The authors' code.
    """

    def __init__(self, in_channels: int, num_classes: int, recipe: TrainRecipe) -> None:
        width, dilation = recipe.head_channels, recipe.head_dilation
        super().__init__(
            nn.Conv2d(in_channels, width, 3, padding=dilation, dilation=dilation),
            nn.ReLU(inplace=True),
            nn.Dropout(recipe.dropout),
            nn.Conv2d(width, width, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, num_classes, 1),
        )


class MultiLabelBranch(nn.Module):
    """Which classes the whole image shows.

    Own high-level layers at stride 32, global max pooling, two hidden layers.

    Args:
        high: Its copy of the backbone's high-level layers.
        in_channels: Channels of their output.
        num_scores: C, or C + 1 with background.
        recipe: Gives ``branch_channels`` and ``dropout``.

    Source:
        Shen et al., BMVC 2017, section 3.3; layer sizes from the authors' code.
    """

    def __init__(self, high: nn.Module, in_channels: int, num_scores: int, recipe: TrainRecipe) -> None:
        super().__init__()
        width = recipe.branch_channels
        self.high = high
        self.classifier = nn.Sequential(
            nn.Linear(in_channels, width),
            nn.ReLU(inplace=True),
            nn.Dropout(recipe.dropout),
            nn.Linear(width, width),
            nn.ReLU(inplace=True),
            nn.Dropout(recipe.dropout),
            nn.Linear(width, num_scores),
        )

    def forward(self, low_features: Tensor) -> Tensor:
        """Class scores before the sigmoid. ``low_features``: (N, D, H/8, W/8) -> (N, ``num_scores``)."""
        return self.classifier(self.high(low_features).amax(dim=(2, 3)))


class SegmentationModel(nn.Module):
    """The mask generator, or, with the branch, the final model.

    Batch normalisation keeps the statistics of its pretrained weights, also in
    training mode; its scale and shift are trained.

    Args:
        backbone: The two parts of the backbone.
        num_classes: C + 1.
        recipe: How it is built.
        multilabel: Whether it has the multi-label branch.

    Attributes:
        recipe: As given.
        num_classes: As given.
        output_stride: Pixels of the image per cell of ``pixel_logits``.
    """

    pixel_mean: Tensor
    pixel_divisor: Tensor

    def __init__(self, backbone: Backbone, num_classes: int, recipe: TrainRecipe, multilabel: bool) -> None:
        super().__init__()
        self.recipe = recipe
        self.num_classes = num_classes
        self.output_stride = recipe.output_stride
        self.low = backbone.low
        self.high = backbone.high
        self.head = SegmentationHead(backbone.channels, num_classes, recipe)
        self.branch: MultiLabelBranch | None = None
        if multilabel:
            num_scores = num_classes if recipe.branch_target == "mask_classes" else num_classes - 1
            self.branch = MultiLabelBranch(backbone.branch_high, backbone.channels, num_scores, recipe)
        mean, divisor = (torch.tensor(values).view(3, 1, 1) for values in recipe.pixel_statistics)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_divisor", divisor, persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """Pixels as the backbone's weights want them. ``images``: (N, 3, H, W), float, RGB in [0, 255]."""
        images = (images - self.pixel_mean) / self.pixel_divisor
        return images.contiguous(memory_format=torch.channels_last) if self.recipe.channels_last else images

    def forward(self, images: Tensor) -> ModelOutput:
        """Score classes at each cell, and of the whole image.

        Args:
            images: From ``normalise``. Shape (N, 3, H, W), float.

        Returns:
            Scores at H and W divided by the output stride, rounded up.
        """
        low_features = self.low(images)
        pixel_logits = self.head(self.high(low_features))
        if self.branch is None:
            return ModelOutput(pixel_logits, None)
        class_logits = self.branch(low_features)
        if self.recipe.score_fusion:
            missing = self.num_classes - class_logits.shape[1]
            # Without a score of its own background gets 0: it is neither raised nor lowered.
            padded = nn.functional.pad(class_logits, (missing, 0))
            pixel_logits = pixel_logits + padded[:, :, None, None]
        return ModelOutput(pixel_logits, class_logits)

    def train(self, mode: bool = True) -> "SegmentationModel":
        """Training or evaluation mode; batch normalisation stays in the latter, so that its statistics are frozen."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def new_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Name and value of the parameters that no pretrained weights exist for: the head's and the classifier's."""
        for name, parameter in self.named_parameters():
            if name.startswith(("head.", "branch.classifier.")):
                yield name, parameter


def build_model(
    recipe: TrainRecipe, num_classes: int, multilabel: bool = False, pretrained: bool = True
) -> SegmentationModel:
    """Build a network; new layers are random, so seed torch first where a result must be repeatable.

    Args:
        recipe: How to build it.
        num_classes: Number of classes with background, C + 1.
        multilabel: Whether to add the multi-label branch.
        pretrained: Load ``recipe.weights``; otherwise the backbone is random, for a checkpoint that is loaded next.

    Returns:
        The network, in evaluation mode.

    Raises:
        WssError: If the backbone's weights cannot be had; the message says how to go on.
        CheckpointError: If a file of weights is damaged or fits another network.
    """
    weights = recipe.weights if pretrained else "none"
    make = _lite0_backbone if recipe.backbone == "efficientnet_lite0" else _resnet_backbone
    model = SegmentationModel(make(recipe, weights), num_classes, recipe, multilabel)
    with torch.no_grad():
        for name, parameter in model.new_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.normal_(0.0, recipe.new_layer_std)
    if recipe.batch_norm_epsilon is not None:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = recipe.batch_norm_epsilon
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model.eval()


def load_model(
    checkpoint: Path | str,
    expect_classes: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
) -> tuple[SegmentationModel, ModelCard]:
    """Load a trained model. Nothing is downloaded.

    Args:
        checkpoint: Run folder, checkpoint folder, or ``model.safetensors``.
        expect_classes: The classes 1..C that the caller's dataset has; ``None`` to accept any.
        device: Where to put it.

    Returns:
        The model in evaluation mode, and what it is.

    Raises:
        CheckpointError: If it is missing, truncated, foreign, of another format version, or for other classes.
    """
    path = find_model(checkpoint)
    card = read_card(path, expect_classes)
    model = build_model(card.recipe, card.num_classes, card.multilabel, pretrained=False)
    load_weights(model, read_weights(path), str(path))
    return model.to(device), card


def usable_precision(precision: str, device: torch.device | str) -> str:
    """``bf16`` where it was asked for and the device computes it, else ``float32``.

    A processor without bf16 instructions emulates them many times more slowly.
    """
    if precision != "bf16":
        return "float32"
    if torch.device(device).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "float32"
    flags = Path("/proc/cpuinfo")
    return "bf16" if flags.is_file() and "bf16" in flags.read_text() else "float32"


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


def _lite0_backbone(recipe: TrainRecipe, weights: str) -> Backbone:
    def network(stride: int) -> EfficientNetLite0:
        net = efficientnet_lite0(stride, pretrained=weights == "imagenet")
        if weights not in ("imagenet", "none"):
            load_weights(net, _lite0_names(_read_state_dict(weights)), weights)
        return net

    main, plain = network(recipe.output_stride), network(32)
    for net in (main, plain):
        for module in net.modules():
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                # Set on the instance: a wrapping module would change the names of the weights.
                setattr(module, "forward", partial(_depthwise, module.forward))  # noqa: B010
    if weights == "none":
        plain.load_state_dict(main.state_dict())
    return Backbone(
        low=nn.Sequential(main.stem, *main.blocks[:_LITE0_FORK]),
        high=nn.Sequential(*main.blocks[_LITE0_FORK:]),
        branch_high=nn.Sequential(*plain.blocks[_LITE0_FORK:]),
        channels=320,
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


def _lite0_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
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

    def network(dilated: list[bool]) -> torchvision.models.ResNet:
        net = torchvision.models.get_model(
            recipe.backbone, weights=None, **({"replace_stride_with_dilation": dilated} if any(dilated) else {})
        )
        del net.fc
        if state is not None:
            load_weights(net, state, recipe.weights)
        return net

    main = network([False, recipe.output_stride == 8, recipe.output_stride <= 16])
    plain = network([False, False, False])
    if state is None:
        plain.load_state_dict(main.state_dict())
    if recipe.dilate_first_block:
        _dilate_first_blocks(main)
    return Backbone(
        low=nn.Sequential(main.conv1, main.bn1, main.relu, main.maxpool, main.layer1, main.layer2),
        high=nn.Sequential(main.layer3, main.layer4),
        branch_high=nn.Sequential(plain.layer3, plain.layer4),
        channels=512 if recipe.backbone in ("resnet18", "resnet34") else 2048,
    )


def _dilate_first_blocks(network: torchvision.models.ResNet) -> None:
    """Give the first block of a dilated stage the dilation of the stage's other blocks."""
    for stage in (network.layer3, network.layer4):
        if len(stage) > 1:
            dilation = stage[1].conv2.dilation
            stage[0].conv2.dilation, stage[0].conv2.padding = dilation, dilation


def _torchvision_state_dict(name: str) -> dict[str, Tensor]:
    """ImageNet weights of torchvision (version 1, of the paper's time), downloaded once."""
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", error)
        raise WssError(
            f"the ImageNet weights of {name} cannot be downloaded from {weights.url} ({reason}). Download that file on "
            "another machine and give it with --weights FILE, or take --recipe cpu, whose weights are installed."
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
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path}: the file is damaged, or holds more than tensors ({first[:200]}). A state dict is wanted: "
            "tensors by name, as torch.save(network.state_dict(), FILE) writes."
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: the file holds no state dict (tensors by name).")
    return state
