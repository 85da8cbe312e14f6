"""The networks of timm as backbones: in parts where training can share them, else as a whole. Loads torch and timm.

Source:
    Tan and Le, ICML 2019 (EfficientNet); the Lite variant drops squeeze-and-excitation and swish.
    He, Zhang, Ren and Sun, CVPR 2016 (ResNet). Yu and Koltun, ICLR 2016, for trading stride against dilation.
"""

import re
import sys
from contextlib import nullcontext
from functools import cache
from itertools import chain, product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from wss_data.backbones.dense import DenseBackbone, DenseMaps, Parts
from wss_data.backbones.lean import load_timm
from wss_data.backbones.published import IMAGENET_DIGESTS, LITES, pixel_statistics
from wss_data.backbones.vit import transformer
from wss_data.backbones.weights import (
    HEADS,
    imagenet_file,
    load_weights,
    published_weights,
    read_state_dict,
    without_memory,
)
from wss_data.errors import CheckpointError, WssError

timm = load_timm()

LITE_HEAD = ("_conv_head.", "_bn1.", "_fc.")  # Names of what comes after the last stage in the index packages
PLAIN = 32  # Pixels per cell of a network that is not dilated


class ConvolutionalBackbone(DenseBackbone):
    """A network that runs part after part.

    ``parts`` lead from the image to the last features, which have ``channels``, a cell every ``output_stride`` pixels;
    ``fork`` of them are at strides up to 8.
    """

    side_multiple = PLAIN

    def __init__(self, parts: Parts, fork: int, channels: int, output_stride: int) -> None:
        super().__init__()
        self.parts, self.fork, self.channels = parts, fork, channels
        self.output_stride = self.cell_px = output_stride

    def forward(self, images: Tensor) -> Tensor:
        """The last features. ``images``: normalised, (N, 3, H, W) -> (N, C, h, w), sides rounded up."""
        return self.parts(images)

    def dense(self, images: Tensor) -> DenseMaps:
        """The last features and those before the last halving; see ``DenseBackbone``."""
        # Lite0 and Lite1 have 320 and 112 channels, Lite2 352 and 120, both linear; ResNet-50 and 101 2,048 and 1,024,
        # the smaller ones 512 and 256, both after their ReLU.
        return self.parts.dense(images)


class WholeBackbone(DenseBackbone):
    """A network that only gives its maps all at once, such as a transformer.

    ``cell_px``: where the network cannot be dilated to it, its maps are interpolated to cells of this side.
    """

    def __init__(self, network: nn.Module, plan: "Plan", cell_px: int) -> None:
        super().__init__()
        self.network: Any = network
        self.cell_px, self.channels, self.side_multiple = cell_px, plan.channels, plan.side_multiple
        self._taken, self._norm, self._one_size = plan.taken, plan.patch_px is not None, plan.one_size
        self._dtype = torch.float32

    def make_fast(self, dtype: torch.dtype) -> None:
        """Compute in ``dtype``; see ``DenseBackbone``."""
        self._dtype = dtype  # Which norm follows which convolution is not known.

    def forward(self, images: Tensor) -> Tensor:
        """The last features. ``images``: normalised, (N, 3, H, W) -> (N, C, h, w), sides rounded up."""
        return self.dense(images).last

    def dense(self, images: Tensor) -> DenseMaps:
        """The last features and those before the last halving, or after two thirds of the blocks."""
        multiple = self.side_multiple
        sides = [multiple if self._one_size else -(-n // multiple) * multiple for n in images.shape[2:]]
        grid = [-(-side // self.cell_px) for side in images.shape[2:]]
        if sides != list(images.shape[2:]):  # it takes no others
            images = functional.interpolate(images, sides, mode="bilinear")
        with nullcontext() if self._dtype == torch.float32 else torch.autocast(images.device.type, self._dtype):
            middle, last = intermediates(self.network, images, self._taken, self._norm)
        return DenseMaps(*(functional.interpolate(one, grid, mode="bilinear") for one in (last, middle)))


def intermediates(network: Any, images: Tensor, taken: list[int], norm: bool = False) -> list[Tensor]:
    """The maps of some stages or blocks of a network of timm's, (N, C, h, w) each."""
    if not hasattr(network, "forward_intermediates"):  # made with features_only: all of them
        maps = network(images)
        return [maps[number] for number in taken]
    # Blocks of a transformer of one resolution add up: the norm removes the few channels with values in the hundreds.
    return network.forward_intermediates(images, taken, norm=norm, intermediates_only=True, output_fmt="NCHW")


class Plan(NamedTuple):
    """How a network of timm's is made, and asked for its maps."""

    keywords: dict[str, Any]  # Of ``timm.create_model``, the stride left out.
    dilates: bool  # Whether it takes a stride.
    side_multiple: int  # The sides of an image must be multiples of it ...
    one_size: bool  # ... or this and no other: all images are stretched to a square.
    taken: list[int]  # Which stages or blocks are the middle and the last map.
    channels: int  # Of the last map.
    patch_px: int | None  # Pixels per cell, if it has one resolution throughout.


# What networks must be given to take images of any size, and dilation; none says which of these it understands.
_WAYS: tuple[dict[str, Any], ...] = (
    {"output_stride": PLAIN},
    {"features_only": True, "output_stride": PLAIN},
    {"dynamic_img_size": True},
    {"strict_img_size": False},
    {},
    {"features_only": True},
)


@cache
def plan_of(name: str) -> Plan:
    """Find out how a network of timm's gives maps of images of any size, on shapes alone: no number is computed.

    Raises:
        WssError: If it gives none.
    """
    reason = ""
    for one_size, keywords in product((False, True), _WAYS):
        # What a network says to a word or a size that it does not take is not agreed on.
        try:
            network = _on_meta(name, **keywords)
        except Exception:
            continue
        own = network.default_cfg["input_size"][-1]
        for multiple in (own,) if one_size else dict.fromkeys((PLAIN, 2 * PLAIN, own)):
            try:
                sides = (own, own) if one_size else (2 * multiple, 3 * multiple)
                plan = _plan(network, keywords, sides, multiple)
                if "output_stride" in keywords:
                    for stride in (8, 16):
                        dilated = _on_meta(name, **{**keywords, "output_stride": stride})
                        if _cells(dilated, sides)[1][-1] != stride:
                            raise ValueError(f"it cannot be dilated to stride {stride}")
                return plan._replace(one_size=one_size)
            except Exception as error:
                reason = reason or (str(error) or type(error).__name__).splitlines()[0][:160]
    raise WssError(
        f"the network {name} of timm cannot be a backbone: it gives no feature maps of an image "
        f"({reason or 'it cannot be made'}). Take another, such as convnext_tiny, or efficientnet_lite0."
    )


def _on_meta(name: str, **keywords: Any) -> Any:
    with without_memory():
        return timm.create_model(name, num_classes=0, **keywords).eval()


def _cells(
    network: Any, sides: tuple[int, int], taken: list[int] | None = None, norm: bool = False
) -> tuple[list[Tensor], list[int]]:
    """Maps of an image of such sides, and the pixels per cell of each."""
    every = list(range(len(getattr(network.feature_info, "info", network.feature_info))))
    with torch.no_grad(), without_memory():
        maps = intermediates(network, torch.zeros(1, 3, *sides), taken or every, norm)
    for one in maps:
        if one.ndim != 4 or abs(one.shape[3] / one.shape[2] - sides[1] / sides[0]) > 0.3:
            raise ValueError(f"a map of an image of {sides[0]} x {sides[1]} px is {tuple(one.shape)}")
    return maps, [sides[0] // one.shape[2] for one in maps]


def _plan(network: Any, keywords: dict[str, Any], sides: tuple[int, int], multiple: int) -> Plan:
    maps, cells = _cells(network, sides)
    flat = len(set(cells)) == 1
    last = len(maps) - 1
    middle = max(1, round(len(maps) * 2 / 3)) - 1 if flat else max(n for n, px in enumerate(cells) if px < cells[-1])
    channels = _cells(network, sides, [middle, last], flat)[0][-1].shape[1]
    stride = keywords.get("output_stride")
    others = {key: value for key, value in keywords.items() if key != "output_stride"}
    if flat and "dynamic_img_size" in keywords:
        multiple = cells[-1]
    return Plan(others, stride is not None, multiple, False, [middle, last], channels, cells[-1] if flat else None)


class LiteBlock(nn.Module):
    """A block of timm's ``tf_efficientnet_lite*`` with the names of the index packages, which checkpoints have."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.has_skip = block.has_skip
        expands = hasattr(block, "conv_pwl")
        if expands:
            self._expand_conv, self._bn0 = block.conv_pw, block.bn1
        self._depthwise_conv, self._bn1 = block.conv_dw, block.bn2 if expands else block.bn1
        self._project_conv, self._bn2 = (block.conv_pwl, block.bn3) if expands else (block.conv_pw, block.bn2)

    def forward(self, features: Tensor) -> Tensor:
        """``features``: (N, C, h, w) -> (N, C', h', w')."""
        result = features
        # In the order in which they were set; a norm of timm's applies its activation, too.
        for part in self.children():
            result = part(result)
        return result + features if self.has_skip else result


def load_backbone(name: str, weights: Path | str = "imagenet", output_stride: int = 16) -> DenseBackbone:
    """One of ``BACKBONES``, or of timm's networks, without its classifier, in evaluation mode, on the CPU.

    Below stride 32 the last strides become dilations. A convolution that loses its stride keeps the dilation before it,
    so that its weights still meet the grid that they met in training; only what follows must reach twice as far. The
    maps of a network that cannot be dilated are interpolated; those of a transformer of one resolution are its patches.

    ``weights``: ``imagenet`` for its own, ``none`` for random ones, or a file with the names of timm, of the index
    packages, of torchvision or of DINO. ``output_stride``: pixels of the image per cell, 8, 16 or 32.

    Raises:
        WssError: If the network gives no maps, or the weights cannot be had, are damaged, or are another network's.
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"the output stride must be 8, 16 or 32, not {output_stride}")
    if name == "vit":
        return transformer(read_state_dict(Path(weights)), Path(weights))
    if name not in IMAGENET_DIGESTS or weights == "none":
        network = _network(name, output_stride, pretrained=weights == "imagenet")
        if weights not in ("imagenet", "none"):
            load_weights(network, _with_timms_names(name, network, Path(weights)), weights)
        return _as_backbone(name, network, output_stride)
    path = imagenet_file(name, IMAGENET_DIGESTS[name][0]) if weights == "imagenet" else Path(weights)
    state = read_state_dict(path)
    # Memory comes with the file's tensors; to draw random weights first takes seconds.
    with without_memory():
        network = _network(name, output_stride)
        backbone = _as_backbone(name, network, output_stride)
    if name in LITES:
        network = backbone.parts
        state = {_lite_name(key): value for key, value in state.items() if not key.startswith(LITE_HEAD)}
    else:
        state = {key: value for key, value in state.items() if not key.startswith(HEADS)}
    load_weights(network, state, path, assign=True)
    return backbone


def _network(name: str, output_stride: int, pretrained: bool = False) -> Any:
    """A network of timm's, dilated where it can be, with random weights or its own."""
    more: dict[str, Any]
    if name in IMAGENET_DIGESTS:
        # timm would start the last norm of each block of a ResNet from 0.
        more = {} if name in LITES else {"zero_init_last": False}
        return timm.create_model(_timms_name(name), num_classes=0, output_stride=output_stride, **more)
    plan = plan_of(name)
    more = {**plan.keywords, **({"output_stride": output_stride} if plan.dilates else {})}
    with published_weights(name) if pretrained else nullcontext():
        return timm.create_model(name, num_classes=0, pretrained=pretrained, **more)


def _timms_name(name: str) -> str:
    return f"tf_{name}" if name in LITES else name


def _as_backbone(name: str, network: Any, output_stride: int) -> ConvolutionalBackbone | WholeBackbone:
    backbone: ConvolutionalBackbone | WholeBackbone
    steps = _steps(network) if name in IMAGENET_DIGESTS or plan_of(name).dilates else None
    if steps is None:
        plan = plan_of(name)
        backbone = WholeBackbone(network, plan, plan.patch_px or output_stride)
    else:
        fork, middle, channels = _places(name)
        parts = Parts(*(LiteBlock(step) if name in LITES and hasattr(step, "conv_dw") else step for step in steps))
        parts.middle = middle
        backbone = ConvolutionalBackbone(parts, fork, channels, output_stride)
    backbone.pixel_mean, backbone.pixel_divisor = pixel_statistics(name)
    return backbone.eval()


def _steps(network: Any) -> list[nn.Module] | None:
    """The modules that lead from the image to the last map one after the other, if the network is made so.

    Only of networks that round sides up, and take the smallest image.
    """
    kind = type(network)
    if issubclass(kind, timm.models.ResNet):
        stages = [network.layer1, network.layer2, network.layer3, network.layer4]
        return [network.conv1, network.bn1, network.act1, network.maxpool, *stages]
    if issubclass(kind, timm.models.RegNet):
        return [network.stem, network.s1, network.s2, network.s3, network.s4]
    if issubclass(kind, (timm.models.EfficientNet, timm.models.MobileNetV3Features)):
        after = [network.act1] if hasattr(network, "act1") else []
        return [nn.Sequential(network.conv_stem, network.bn1, *after), *chain(*network.blocks)]
    return None


@cache
def _places(name: str) -> tuple[int, int, int]:
    """How many steps are at strides up to 8, and how many before the last halving; and the channels of the last map."""
    with without_memory():
        network = _network(name, PLAIN)
    stages, steps = network.feature_info, _steps(network) or ()
    inside = {stage["reduction"]: set(network.get_submodule(stage["module"]).modules()) for stage in stages}
    at_8, at_16 = (max(n for n, step in enumerate(steps, 1) if step in inside[stride]) for stride in (8, 16))
    return at_8, at_16, stages[-1]["num_chs"]


def _with_timms_names(name: str, network: nn.Module, path: Path) -> dict[str, Tensor]:
    """Weights for a network of timm's: those that their publishers named otherwise are renamed as timm does it."""
    state = read_state_dict(path)
    rename = getattr(sys.modules[timm.models.model_entrypoint(name).__module__], "checkpoint_filter_fn", None)
    if rename is not None:
        # It was not written for files of other networks, and fails as it happens to.
        try:
            state = rename(state, network)
        except Exception as error:
            raise CheckpointError(f"{path}: these are no weights of {name} ({str(error)[:160]}).") from error
    there = network.state_dict().keys()
    return {key: value for key, value in state.items() if key in there or not key.startswith(HEADS)}


def _lite_name(name: str) -> str:
    """The name of an index package's tensor in ``ConvolutionalBackbone.parts``.

    >>> _lite_name("_conv_stem.weight"), _lite_name("_bn0.bias"), _lite_name("_blocks.4._bn2.bias")
    ('0.0.weight', '0.1.bias', '5._bn2.bias')
    """
    name = re.sub(r"^_conv_stem\.", "0.0.", re.sub(r"^_bn0\.", "0.1.", name))
    return re.sub(r"^_blocks\.(\d+)\.", lambda found: f"{int(found[1]) + 1}.", name)


def dilate_first_blocks(backbone: ConvolutionalBackbone) -> None:
    """Give the convolution that lost its stride the dilation of its stage, as the authors of the paper do. ResNet only.

    In each of the stages above stride 8 it is the first one of 3x3, and the last one of 3x3 has the stage's dilation.
    """
    for stage in backbone.parts[backbone.fork :]:
        convolutions = [m for m in stage.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        if convolutions[0].stride == (1, 1):
            convolutions[0].dilation = convolutions[0].padding = convolutions[-1].dilation
