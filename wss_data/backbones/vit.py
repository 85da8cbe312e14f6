"""A vision transformer whose sizes are read from the user's file of weights. Loads torch.

torchvision's own transformer takes one image size only and has neither layer scale nor registers.

Source:
    Dosovitskiy et al., ICLR 2021; Caron et al., ICCV 2021 (DINO); Oquab et al., 2023 (DINOv2, layer scale);
    Darcet et al., ICLR 2024 (registers).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from wss_data.backbones.dense import DenseBackbone, DenseMaps
from wss_data.backbones.weights import load_exactly, read_state_dict
from wss_data.errors import WssError

HEAD_CHANNELS = 64
"""Channels of one attention head: no file says it, but nearly all published networks of this kind have it so."""

HUGE_CHANNELS, HUGE_HEAD_CHANNELS = 1280, 80
"""The exception: "huge" networks (ViT-H) have 16 heads of 80 channels."""

NORM_EPSILON = 1e-6

OUTSIDE = ("head.", "mask_token", "masked_embed", "decoder_", "dino_head.", "ibot_head.")
"""Beginnings of names that training needs and describing does not."""


@dataclass(frozen=True)
class TransformerShape:
    """The sizes of a transformer.

    Args:
        channels: Of a token; a multiple of 64.
        depth: Number of blocks.
        patch_px: Side of a patch, pixels.
        grid: Patches along one side at which positions were learned.
        hidden: Channels inside a block's two-layer network.
        registers: Number of register tokens.
        layer_scale: Whether each block scales what it adds (DINOv2).
        qkv_bias: Whether queries, keys and values have a bias.
    """

    channels: int
    depth: int
    patch_px: int
    grid: int
    hidden: int
    registers: int = 0
    layer_scale: bool = False
    qkv_bias: bool = True


def shape_of(state: Mapping[str, Tensor]) -> TransformerShape:
    """Read a transformer's sizes from its weights.

    Args:
        state: Tensors by the names of DINO.

    Raises:
        WssError: If a name is missing or a shape makes no sense; the sentence lacks the file's name.
    """
    embedding, qkv, hidden = "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight"
    for name in ("cls_token", "pos_embed", embedding, qkv, hidden):
        if name not in state:
            raise WssError(
                f"'{name}' is missing. Wanted: a vision transformer with the names of DINO; "
                f"found {len(state)} tensors, such as {', '.join(sorted(state)[:3])}."
            )
    patches = state[embedding].shape
    if len(patches) != 4 or patches[1] != 3 or patches[2] != patches[3] or patches[0] % HEAD_CHANNELS:
        raise WssError(
            f"'{embedding}' has shape {tuple(patches)}, "
            f"expected (channels, 3, patch, patch) with channels a multiple of {HEAD_CHANNELS}."
        )
    positions = state["pos_embed"].shape
    grid = isqrt(max(positions[1] - 1, 0)) if len(positions) == 3 else 0
    if grid == 0 or grid * grid != positions[1] - 1:
        raise WssError(
            f"'pos_embed' has shape {tuple(positions)}, expected (1, 1 + n * n, channels): one for the class token "
            "and a square of patches."
        )
    numbers = {int(found[1]) for found in (re.match(r"blocks\.(\d+)\.", name) for name in state) if found}
    if max(numbers) >= len(numbers):
        raise WssError(f"there are {len(numbers)} blocks, but their numbers go up to {max(numbers)}: some are missing.")
    return TransformerShape(
        channels=patches[0],
        depth=max(numbers) + 1,
        patch_px=patches[2],
        grid=grid,
        hidden=state[hidden].shape[0],
        registers=state["register_tokens"].shape[1] if "register_tokens" in state else 0,
        layer_scale="blocks.0.ls1.gamma" in state,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
    )


class LayerScale(nn.Module):
    """Multiplies each channel by a number of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, tokens: Tensor) -> Tensor:
        """``tokens``: (N, T, C) -> the same shape."""
        return tokens * self.gamma


class Attention(nn.Module):
    """Attention of several heads among all tokens."""

    def __init__(self, channels: int, qkv_bias: bool) -> None:
        super().__init__()
        self.head_channels = HUGE_HEAD_CHANNELS if channels == HUGE_CHANNELS else HEAD_CHANNELS
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """``tokens``: (N, T, C), normalised -> the same shape."""
        queries, keys, values = self._heads_of(self.qkv(tokens.to(self.qkv.weight.dtype)))
        joined = functional.scaled_dot_product_attention(queries, keys, values)
        return self.proj(joined.transpose(1, 2).flatten(2))

    def _heads_of(self, joined: Tensor) -> Tensor:
        """(N, T, 3 C) -> queries, keys, values, each (N, heads, T, channels of a head)."""
        return joined.unflatten(2, (3, -1, self.head_channels)).permute(2, 0, 3, 1, 4)


class Perceptron(nn.Module):
    """Two layers with a GELU between them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """``tokens``: (N, T, C), normalised -> the same shape."""
        return self.fc2(functional.gelu(self.fc1(tokens.to(self.fc1.weight.dtype))))


class Block(nn.Module):
    """Attention and perceptron, each added to what it was given."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.channels, eps=NORM_EPSILON)
        self.attn = Attention(shape.channels, shape.qkv_bias)
        self.norm2 = nn.LayerNorm(shape.channels, eps=NORM_EPSILON)
        self.mlp = Perceptron(shape.channels, shape.hidden)
        self.ls1, self.ls2 = (LayerScale(shape.channels) if shape.layer_scale else nn.Identity() for _ in range(2))

    def forward(self, tokens: Tensor) -> Tensor:
        """``tokens``: (N, T, C), float32 -> the same shape."""
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))


class VisionTransformer(DenseBackbone):
    """A vision transformer with the names of DINO.

    Args:
        shape: Its sizes.

    Attributes:
        middle_block: Number of blocks after which ``DenseMaps.middle`` is taken: two thirds of them.
    """

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.shape = shape
        self.cell_px = self.side_multiple = shape.patch_px
        self.middle_block = max(1, round(shape.depth * 2 / 3))
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(3, shape.channels, shape.patch_px, stride=shape.patch_px)},
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.channels))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + shape.grid**2, shape.channels))
        if shape.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, shape.registers, shape.channels))
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.channels, eps=NORM_EPSILON)

    def dense(self, images: Tensor) -> DenseMaps:
        """The patches' tokens after the last block and after two thirds of them.

        Both go through the last layer norm, as in DINO's own code: it takes away the few channels with values in the
        hundreds.

        Args:
            images: Normalised. Shape (N, 3, H, W), sides multiples of the patch.
        """
        patches = self.patch_embed["proj"](images)
        rows, columns = patches.shape[2:]
        tokens = self._with_positions(patches.flatten(2).transpose(1, 2).float(), rows, columns)
        middle = tokens
        for number, block in enumerate(self.blocks, start=1):
            tokens = block(tokens)
            if number == self.middle_block:
                middle = self._map_of(tokens, rows, columns)
        return DenseMaps(self._map_of(tokens, rows, columns), middle)

    def _map_of(self, tokens: Tensor, rows: int, columns: int) -> Tensor:
        """The patches, which come last, as a map (N, C, rows, columns)."""
        patches = self.norm(tokens[:, -rows * columns :])
        return patches.transpose(1, 2).unflatten(2, (rows, columns))

    def _with_positions(self, patches: Tensor, rows: int, columns: int) -> Tensor:
        """Class token, registers and patches, (N, 1 + registers + rows * columns, C); registers have no position."""
        grid = self.shape.grid
        learned = self.pos_embed[:, 1:]
        if (rows, columns) != (grid, grid):
            square = learned.transpose(1, 2).unflatten(2, (grid, grid))
            learned = functional.interpolate(square, (rows, columns), mode="bicubic").flatten(2).transpose(1, 2)
        parts = [self.cls_token + self.pos_embed[:, :1]]
        if self.shape.registers:
            parts.append(self.register_tokens)
        images = patches.shape[0]
        return torch.cat([*(part.expand(images, -1, -1) for part in parts), patches + learned], dim=1)


def load(name: str, file: Path | None) -> VisionTransformer:
    """The transformer that a file holds, in evaluation mode.

    Args:
        name: ``vit``.
        file: Tensors with DINO's names.

    Raises:
        WssError: If there is no file, or it is damaged or holds another network.
    """
    if file is None:
        raise WssError(f"the backbone {name} needs a file of weights.")
    state = {_one_list(key): value for key, value in read_state_dict(file).items() if not key.startswith(OUTSIDE)}
    try:
        shape = shape_of(state)
    except WssError as error:
        raise WssError(f"{file}: {error}") from error
    # Memory comes with the file's tensors; to draw random weights first takes seconds.
    with torch.device("meta"):
        network = VisionTransformer(shape)
    load_exactly(network, state, file)
    return network.eval()


def _one_list(name: str) -> str:
    """DINOv2 trains with its blocks in chunks: ``blocks.1.7.norm1`` is block 7."""
    return re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name)
