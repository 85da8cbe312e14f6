"""What grounds and walls are made of: a table of surfaces, each made by the same few steps."""

from typing import NamedTuple

import cv2
import numpy as np

from wss_data.retrieval.sources.drawing.canvas import hsv, mix


class Texture(NamedTuple):
    """How a surface is made: noise is bent, mixed with a structure, and coloured from dark to light."""

    hue: tuple[float, float]  # range, in turns
    saturation: tuple[float, float]  # range
    value: tuple[float, float]  # brightness at the dark and at the light end
    cell: float  # size of the largest features of the noise, pixels
    stretch: float = 1.0  # how much wider than high they are
    bend: float = 0.0  # how far larger noise shifts them, pixels: blades of grass lean, cloth folds
    structure: str = ""  # cells (pebbles, leaves), bricks, planks, waves, checks or none
    period: tuple[float, float] = (0.0, 0.0)  # range of the size of the structure, pixels


TEXTURES = {
    "grass": Texture((0.17, 0.31), (0.45, 0.7), (0.12, 0.65), 30, 0.12, 4),
    "straw": Texture((0.09, 0.14), (0.35, 0.55), (0.25, 0.85), 8, 6.0, 10),
    "sand": Texture((0.07, 0.13), (0.25, 0.4), (0.4, 0.9), 60, 1.0, 9, "waves", (9, 18)),
    "water": Texture((0.46, 0.62), (0.3, 0.7), (0.25, 0.95), 14, 4.0, 6),
    "gravel": Texture((0.05, 0.13), (0.03, 0.2), (0.15, 0.8), 8, 1.0, 0, "cells", (12, 24)),
    "wood": Texture((0.05, 0.1), (0.4, 0.6), (0.25, 0.75), 8, 18.0, 1.5, "planks", (30, 80)),
    "concrete": Texture((0.0, 1.0), (0.0, 0.12), (0.3, 0.75), 110),
    "cloth": Texture((0.0, 1.0), (0.1, 0.6), (0.35, 0.85), 130, 1.0, 6, "checks", (18, 60)),
    "snow": Texture((0.55, 0.65), (0.03, 0.12), (0.7, 1.0), 90),
    "sky": Texture((0.54, 0.61), (0.1, 0.5), (0.6, 0.98), 140, 1.8),
    "brick": Texture((0.0, 0.07), (0.2, 0.6), (0.3, 0.7), 10, 1.0, 0.7, "bricks", (16, 28)),
    "foliage": Texture((0.18, 0.36), (0.4, 0.65), (0.05, 0.6), 20, 1.0, 16, "cells", (9, 16)),
}

# What something can stand or lie on, and what can be seen behind something.
GROUNDS = ("grass", "sand", "water", "gravel", "wood", "concrete", "straw", "cloth", "snow")
BACKDROPS = ("sky", "brick", "foliage", "concrete", "wood", "cloth", "water")


def noise(rng: np.random.Generator, width: int, height: int, cell: float, stretch: float = 1.0) -> np.ndarray:
    """Smooth noise with features of ``cell`` pixels, ``stretch`` times as wide, and smaller; deviation about 1."""
    total = np.zeros((height, width), np.float32)
    for octave in range(4):  # each half as large and 0.6 times as strong as the one before
        rows, columns = (max(2, int(side / size) + 2) for side, size in ((height, cell), (width, cell * stretch)))
        grid = rng.standard_normal((rows, columns), dtype=np.float32)
        total += np.float32(0.6**octave) * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        cell /= 2
    return total


def texture(rng: np.random.Generator, name: str, width: int, height: int) -> np.ndarray:
    """One piece of a surface, another one for every state of ``rng``. Shape (height, width, 3), float32 in [0, 1]."""
    made = TEXTURES[name]
    shift = noise(rng, width, height, made.cell * 3) * np.float32(made.bend)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    values = noise(rng, width, height, made.cell, made.stretch)
    values = cv2.remap(values, x + shift, y + shift * np.float32(0.3), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    if made.structure:
        values = values / 2 + _structure(rng, made.structure, rng.uniform(*made.period), x + shift, y + shift)
    values += rng.standard_normal((height, width), dtype=np.float32) * np.float32(0.25)
    hue, saturation = rng.uniform(*made.hue), rng.uniform(*made.saturation)
    dark, light = (hsv(hue + rng.normal(0, 0.015), saturation, min(v * rng.uniform(0.85, 1.05), 1)) for v in made.value)
    return mix(dark, light, np.clip(values / 3 + 0.5, 0, 1)[:, :, None]).astype(np.float32)


def _structure(rng: np.random.Generator, kind: str, period: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A regular pattern at bent coordinates ``x``, ``y``, (H, W); about -1.5 to 1.5, (H, W)."""
    u, v = x / np.float32(period), y / np.float32(period)
    shades = rng.standard_normal(4096).astype(np.float32)
    if kind == "waves":
        return np.sin((v + u * rng.uniform(0, 0.3)) * 2 * np.pi) / 2
    if kind == "checks":
        bands = [np.clip(3 * np.sin(axis * 2 * np.pi), -1, 1) for axis in (u, v)]
        return bands[0] + bands[1] * rng.choice([0.0, 1.0])
    if kind == "cells":
        # The cell of each point is where it is the nearest: OpenCV labels every pixel with its nearest seed.
        count, seeds = int(x.size / period**2), np.ones(x.shape, np.uint8)
        seeds[rng.integers(0, x.shape[0], count), rng.integers(0, x.shape[1], count)] = 0
        distance, owner = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
        return shades[owner % 4096] - distance * (1.5 / period) + 0.5
    row = np.floor(v)
    across = u / np.float32(2.4) + row % 2 / 2 if kind == "bricks" else np.full_like(u, 0.5)
    column = np.floor(across)
    seam = np.minimum(v - row, (across - column) * 2.4) * period < 2
    return np.where(seam, -2, shades[(row * 61 + column).astype(int) % 4096])
