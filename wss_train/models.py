"""The network: a dilated backbone, the segmentation head, the multi-label branch.

Source:
    Shen et al., BMVC 2017, sections 3.2 and 3.3; Chen et al., ICLR 2015, for dilation.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wss_data.backbones import BackboneChoice
from wss_data.backbones.dense import Parts, clip_whole_numbers, make_fast
from wss_data.backbones.depthwise import speed_up_training
from wss_data.backbones.networks import ConvolutionalBackbone, WholeBackbone, dilate_first_blocks, load_backbone
from wss_data.backbones.weights import load_weights, without_memory
from wss_data.errors import CheckpointError, shown
from wss_data.ledger import LedgerEntry, Supervision, UsedFor
from wss_train.checkpoints import ModelCard, find_model, read_card, read_shapes, read_weights
from wss_train.recipes import TrainRecipe

CLIP = 6.0  # standard deviations that descriptors are held within, as in the self-training of co-segmentation


class Backbone(NamedTuple):
    """A classification network in two parts."""

    low: nn.Module  # image to features at stride 8; to itself, where a network cannot be parted
    high: Parts | WholeBackbone  # these to the last features, at the recipe's output stride, and to the middle ones
    # The same layers with weights of their own, which start equal, at their usual stride, for the multi-label branch
    branch_high: nn.Module | None
    channels: int  # of the last features


def build_backbone(recipe: TrainRecipe, weights: str, multilabel: bool) -> Backbone:
    """Build the network below the head, and below the branch, if there is to be one.

    ``weights``: ``imagenet``, ``none`` for random ones, or a file.

    Raises:
        WssError: If the weights cannot be had; the message says how to go on.
        CheckpointError: If a file of weights is damaged or fits another network.
    """
    main = load_backbone(recipe.backbone, weights, recipe.output_stride)
    plain = load_backbone(recipe.backbone, weights, 32) if multilabel else None
    if plain is not None and weights == "none":  # random ones, too, are the same in both
        plain.load_state_dict(main.state_dict())
    for network in filter(None, (main, plain)):
        speed_up_training(network)
    if isinstance(main, WholeBackbone):
        main.cell_px = recipe.output_stride
        return Backbone(nn.Identity(), main, plain, main.channels)
    assert isinstance(main, ConvolutionalBackbone)
    if recipe.dilate_first_block and recipe.backbone.startswith("resnet"):
        dilate_first_blocks(main)
    high = Parts(*main.parts[main.fork :])
    high.middle = main.parts.middle - main.fork
    of_branch = Parts(*plain.parts[plain.fork :]) if isinstance(plain, ConvolutionalBackbone) else None
    return Backbone(nn.Sequential(*main.parts[: main.fork]), high, of_branch, main.channels)


def weights_ledger_entry(recipe: TrainRecipe) -> LedgerEntry | None:
    """What the backbone's first weights learned from; ``None`` for random ones, unknown for a file that is gone."""
    if recipe.weights == "none":
        return None
    if recipe.weights == "imagenet" or Path(recipe.weights).is_file():
        file = None if recipe.weights == "imagenet" else recipe.weights
        return BackboneChoice(recipe.backbone, file).ledger_entry(UsedFor.WEIGHTS)
    what = f"{recipe.backbone} weights from {Path(recipe.weights).name}"
    return LedgerEntry(what, Supervision.UNKNOWN, UsedFor.WEIGHTS)


class ModelOutput(NamedTuple):
    """What the network says of a batch."""

    # Class scores before the softmax, at the output stride, with score fusion the branch's included. (N, C + 1, h, w).
    pixel_logits: Tensor
    # Scores of the branch before the sigmoid, if there is one. (N, C); (N, C + 1) with branch_target=mask_classes.
    class_logits: Tensor | None


class SegmentationHead(nn.Sequential):
    """3x3 dilated convolution, ReLU, dropout, 1x1 convolution, ReLU, 1x1 convolution to the classes (authors' code)."""

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


class DescriptorHead(nn.Module):
    """Two 1x1 convolutions on standardised descriptors: what a network that stays as it is says at two depths."""

    mean: Tensor
    scale: Tensor

    def __init__(self, in_channels: int, num_classes: int, recipe: TrainRecipe) -> None:
        super().__init__()
        # Of the descriptors that it was trained on.
        self.register_buffer("mean", torch.zeros(in_channels))
        self.register_buffer("scale", torch.ones(in_channels))
        self.hidden = nn.Linear(in_channels, recipe.head_channels)
        self.dropout = nn.Dropout(recipe.dropout)
        self.last = nn.Linear(recipe.head_channels, num_classes)

    def forward(self, cells: Tensor) -> Tensor:
        """Class scores before the softmax. ``cells``: descriptors, middle ones first, (..., D) -> (..., C + 1)."""
        standardised = ((cells.float() - self.mean) * self.scale).clamp(-CLIP, CLIP)
        return self.last(self.dropout(self.hidden(standardised).relu()))


class MultiLabelBranch(nn.Module):
    """Which classes the whole image shows: high-level layers of its own, global max pooling, two hidden layers.

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

    Batch normalisation keeps the statistics of its pretrained weights, also in training mode; its scale and shift are
    trained. ``num_classes``: C + 1.
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
        self.head: nn.Module
        if recipe.head == "descriptors":
            with torch.no_grad():
                middle = self.high.dense(self.low(torch.zeros(1, 3, 64, 64))).middle
            self.head = DescriptorHead(middle.shape[1] + backbone.channels, num_classes, recipe)
        else:
            self.head = SegmentationHead(backbone.channels, num_classes, recipe)
        self.branch: MultiLabelBranch | None = None
        if multilabel:
            num_scores = num_classes if recipe.branch_target == "mask_classes" else num_classes - 1
            assert backbone.branch_high is not None
            self.branch = MultiLabelBranch(backbone.branch_high, backbone.channels, num_scores, recipe)
        self.set_pixel_statistics()

    def set_pixel_statistics(self) -> None:
        """Take the recipe's mean and divisor of pixels, which no checkpoint holds."""
        mean, divisor = (torch.tensor(values).view(3, 1, 1) for values in self.recipe.pixel_statistics)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_divisor", divisor, persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """Pixels as the backbone's weights want them. ``images``: (N, 3, H, W), float, RGB in [0, 255]."""
        images = (images - self.pixel_mean) / self.pixel_divisor
        return images.contiguous(memory_format=torch.channels_last) if self.recipe.channels_last else images

    def forward(self, images: Tensor) -> ModelOutput:
        """Score classes at each cell of the output stride, and of the whole image; ``images``: from ``normalise``."""
        low_features = self.low(images)
        if self.recipe.head == "descriptors":
            maps = self.high.dense(low_features)
            cells = torch.cat([maps.middle, maps.last], dim=1).movedim(1, -1)
            pixel_logits = self.head(cells).movedim(-1, 1)
        else:
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

    def make_fast(self, precision: str = "float32") -> None:
        """Save what can be saved of inference in a precision, ``float32`` or ``bf16``. Not for training.

        In float32 batch norms and ReLU6 are folded into the convolutions before them: exact but for the last digits of
        logits. In bf16 as many digits fall away as there are, and pixels at the borders of objects, 0.3 % of all, would
        change: there the weights are only cast once, as autocast does for every batch, and ReLU6 is taken as integers.
        """
        parts = [self.low, self.high, self.head, *([] if self.branch is None else [self.branch.high])]
        for part in parts:
            if isinstance(part, WholeBackbone):  # which norm follows which convolution is not known
                continue
            if precision == "float32":
                make_fast(part)
                continue
            for module in part.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.to(torch.bfloat16)
            clip_whole_numbers(part)

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
        The network, in evaluation mode. What fails is what ``build_backbone`` says.
    """
    weights = recipe.weights if pretrained else "none"
    model = SegmentationModel(build_backbone(recipe, weights, multilabel), num_classes, recipe, multilabel)
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


def load_network(
    checkpoint: Path | str,
    expect_classes: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
) -> tuple[SegmentationModel, ModelCard]:
    """A trained model in evaluation mode, and what it is. Nothing is downloaded.

    Args:
        checkpoint: Run folder, checkpoint folder, or ``model.safetensors``.
        expect_classes: The classes 1..C that the caller's dataset has; ``None`` to accept any.
        device: Where to put it.

    Raises:
        CheckpointError: If it is missing, truncated, foreign, of another format version, or for other classes.
    """
    path = find_model(checkpoint)
    card = read_card(path, expect_classes)
    # A card that its own weights do not fit is refused before a network of the size that it names takes any memory.
    try:
        with without_memory():
            model = build_model(card.recipe, card.num_classes, card.multilabel, pretrained=False)
        wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: no network can be built as the model card says ({first[:200]}).") from error
    check_shapes(read_shapes(path), wanted, str(path))
    # Copies, because the file may be mapped into memory, and be written anew while the model is in use.
    if any(name not in wanted and not name.startswith("pixel_") for name, _ in model.named_buffers()):
        # What no file holds, such as the positions of a window's pixels, is made with the network.
        model = build_model(card.recipe, card.num_classes, card.multilabel, pretrained=False)
    load_weights(model, {name: tensor.clone() for name, tensor in read_weights(path).items()}, str(path), assign=True)
    model.set_pixel_statistics()
    model = model.to(memory_format=torch.channels_last) if card.recipe.channels_last else model
    return model.to(device), card


def check_shapes(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], name: str) -> None:
    """Refuse tensors that are not those of a network, by name and shape; ``name`` is for the ``CheckpointError``."""
    for key in sorted(wanted.keys() | found.keys()):
        if wanted.get(key) != found.get(key):
            raise CheckpointError(
                f"{name}: the weights do not fit the network that is wanted: {shown(key)} has the shape "
                f"{shown(found.get(key))}, wanted is {shown(wanted.get(key))}."
            )


def usable_precision(precision: str, device: torch.device | str) -> str:
    """``bf16`` where it was asked for and the device computes it, else ``float32``."""
    if precision != "bf16":
        return "float32"
    if torch.device(device).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "float32"
    flags = Path("/proc/cpuinfo")  # a processor without bf16 instructions emulates them many times more slowly
    return "bf16" if flags.is_file() and "bf16" in flags.read_text() else "float32"
