"""A vision transformer of timm whose sizes are read from the user's file of weights. Loads torch and timm.

Source:
    Dosovitskiy et al., ICLR 2021; Caron et al., ICCV 2021 (DINO); Oquab et al., 2023 (DINOv2, layer scale);
    Darcet et al., ICLR 2024 (registers).
"""

import re
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from wss_data.backbones.dense import DenseBackbone, DenseMaps
from wss_data.backbones.lean import load_timm
from wss_data.backbones.weights import HEADS, load_weights, without_memory
from wss_data.errors import CheckpointError

# Channels of one attention head: no file says it, but nearly all published networks of this kind have it so
HEAD_CHANNELS = 64
HUGE_CHANNELS, HUGE_HEAD_CHANNELS = 1280, 80  # The exception: "huge" networks (ViT-H) have 16 heads of 80 channels


class TransformerShape(NamedTuple):
    """The sizes of a transformer."""

    channels: int  # Of a token; a multiple of 64.
    depth: int  # Number of blocks.
    patch_px: int  # Side of a patch, pixels.
    grid: int  # Patches along one side at which positions were learned.
    hidden: int  # Channels inside a block's two-layer network.
    registers: int = 0  # Number of register tokens.
    layer_scale: bool = False  # Whether each block scales what it adds (DINOv2).
    qkv_bias: bool = True  # Whether queries, keys and values have a bias.


def shape_of(state: Mapping[str, Tensor], name: object) -> TransformerShape:
    """Read a transformer's sizes from its weights, by the names of DINO, in the file ``name``.

    Raises:
        CheckpointError: If a tensor is missing or a shape makes no sense.
    """
    embedding, qkv, hidden = "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight"
    for key in ("cls_token", "pos_embed", embedding, qkv, hidden):
        if key not in state:
            raise CheckpointError(
                f"{name}: '{key}' is missing. Wanted: a vision transformer with the names of DINO; "
                f"found {len(state)} tensors, such as {', '.join(sorted(state)[:3])}."
            )
    patches, positions = state[embedding].shape, state["pos_embed"].shape
    if len(patches) != 4 or patches[1] != 3 or patches[2] != patches[3] or patches[0] % HEAD_CHANNELS:
        raise CheckpointError(
            f"{name}: '{embedding}' has shape {tuple(patches)}, "
            f"expected (channels, 3, patch, patch) with channels a multiple of {HEAD_CHANNELS}."
        )
    grid = isqrt(max(positions[1] - 1, 0)) if len(positions) == 3 else 0
    if grid == 0 or grid * grid != positions[1] - 1:
        raise CheckpointError(
            f"{name}: 'pos_embed' has shape {tuple(positions)}, expected (1, 1 + n * n, channels): one for the class "
            "token and a square of patches."
        )
    numbers = {int(found[1]) for found in (re.match(r"blocks\.(\d+)\.", key) for key in state) if found}
    if max(numbers) >= len(numbers):
        raise CheckpointError(
            f"{name}: there are {len(numbers)} blocks, but their numbers go up to {max(numbers)}: some are missing."
        )
    return TransformerShape(
        channels=patches[0],
        depth=len(numbers),
        patch_px=patches[2],
        grid=grid,
        hidden=state[hidden].shape[0],
        registers=state["register_tokens"].shape[1] if "register_tokens" in state else 0,
        layer_scale="blocks.0.ls1.gamma" in state,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
    )


class TransformerBackbone(DenseBackbone):
    """A vision transformer of timm's that describes an image patch by patch."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.shape = shape
        self.cell_px = self.side_multiple = shape.patch_px
        # Blocks after which ``DenseMaps.middle`` is taken.
        self.middle_block = max(1, round(shape.depth * 2 / 3))
        self.network: Any = load_timm().models.VisionTransformer(
            img_size=shape.grid * shape.patch_px,
            patch_size=shape.patch_px,
            embed_dim=shape.channels,
            depth=shape.depth,
            num_heads=shape.channels // (HUGE_HEAD_CHANNELS if shape.channels == HUGE_CHANNELS else HEAD_CHANNELS),
            # timm rounds the product down: half a channel more keeps it from losing one.
            mlp_ratio=(shape.hidden + 0.5) / shape.channels,
            qkv_bias=shape.qkv_bias,
            init_values=1.0 if shape.layer_scale else None,
            reg_tokens=shape.registers,
            num_classes=0,
            global_pool="",
        )
        # timm gives positions to registers, too; DINOv2 does not.
        self.network.pos_embed = nn.Parameter(torch.zeros(1, 1 + shape.grid**2, shape.channels))

    def dense(self, images: Tensor) -> DenseMaps:
        """The patches' tokens after the last block and after two thirds of them; see ``DenseBackbone``."""
        # Not timm's own first steps: they smooth the positions when they stretch them, which DINO does not.
        patches = self.network.patch_embed.proj(images)
        rows, columns = patches.shape[2:]
        tokens = self.with_positions(patches.flatten(2).transpose(1, 2).float(), rows, columns)
        middle = tokens
        for number, block in enumerate(self.network.blocks, start=1):
            tokens = block(tokens)
            if number == self.middle_block:
                middle = tokens
        # The patches come last. Both maps go through the last layer norm, as in DINO's own code: it removes the few
        # channels with values in the hundreds.
        last, middle = (self.network.norm(part[:, -rows * columns :]).transpose(1, 2) for part in (tokens, middle))
        return DenseMaps(last.unflatten(2, (rows, columns)), middle.unflatten(2, (rows, columns)))

    def with_positions(self, patches: Tensor, rows: int, columns: int) -> Tensor:
        """Class token, registers and patches, (N, 1 + registers + rows * columns, C); registers have no position."""
        grid, network = self.shape.grid, self.network
        learned = network.pos_embed[:, 1:]
        if (rows, columns) != (grid, grid):
            square = learned.transpose(1, 2).unflatten(2, (grid, grid))
            learned = functional.interpolate(square, (rows, columns), mode="bicubic").flatten(2).transpose(1, 2)
        registers = [] if network.reg_token is None else [network.reg_token]
        parts = [network.cls_token + network.pos_embed[:, :1], *registers]
        return torch.cat([*(part.expand(len(patches), -1, -1) for part in parts), patches + learned], dim=1)


def transformer(weights: Mapping[str, Tensor], path: Path) -> TransformerBackbone:
    """The transformer that weights with DINO's names, read from ``path``, make, in evaluation mode."""
    # DINOv2 trains with its blocks in chunks: blocks.1.7.norm1 is block 7.
    inside = ((key, value) for key, value in weights.items() if not key.startswith(HEADS))
    state = {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key): value for key, value in inside}
    shape = shape_of(state, path)
    # Memory comes with the file's tensors; to draw random weights first takes seconds.
    with without_memory():
        backbone = TransformerBackbone(shape)
    names = {"register_tokens": "reg_token"}
    load_weights(backbone.network, {names.get(key, key): value for key, value in state.items()}, path, assign=True)
    return backbone.eval()
