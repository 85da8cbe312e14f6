"""Clip art: what a web search returns beside photographs."""

import numpy as np

from wss_data.retrieval.sources.drawing.canvas import Canvas, Light, Paint, Part, hsv, mix
from wss_data.retrieval.sources.drawing.geometry import ellipse, ribbon
from wss_data.retrieval.sources.drawing.surroundings import placement

_ARROW = ((-0.5, -0.12), (0.05, -0.12), (0.05, -0.32), (0.5, 0), (0.05, 0.32), (0.05, 0.12), (-0.5, 0.12))
_WALLS = ((-0.38, 0.42), (-0.38, -0.05), (0, -0.42), (0.38, -0.05), (0.38, 0.42))
_DOOR = ((0.1, 0.42), (0.1, 0.1), (-0.1, 0.1), (-0.1, 0.42))


def _symbols() -> dict[str, np.ndarray]:
    """Outlines about one unit large around the origin. Each (N, 2)."""
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    points = np.stack([np.sin(t[::6]), -np.cos(t[::6])], 1)
    heart_height = -0.42 * np.cos(t) + 0.16 * np.cos(2 * t) + 0.06 * np.cos(3 * t)
    return {
        "star": points * np.tile([[0.5], [0.21]], (5, 1)),
        "heart": np.stack([0.5 * np.sin(t) ** 3, heart_height], 1),
        "arrow": np.array(_ARROW),
        "house": np.array(_WALLS + _DOOR),
        "ring": np.concatenate([ellipse(0, 0, 0.45, 0.45), ellipse(0, 0, 0.28, 0.28)]),
    }


def draw_clip_art(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A flat symbol with lines of make-believe text on plain ground. Shape (H, W, 3), uint8."""
    ground = mix((1, 1, 1), hsv(rng.random(), 0.5, 0.95), float(rng.choice([0.0, 0.0, 0.5])))
    canvas = Canvas(np.full((height, width, 3), ground, np.float32), Light((0, 0, 1)))
    tone = hsv(rng.random(), rng.uniform(0.5, 1), rng.uniform(0.4, 0.95))
    shapes = _symbols()
    shape = shapes[str(rng.choice(sorted(shapes)))]
    size = min(width, height) * rng.uniform(0.45, 0.75)
    matrix = placement(size, rng.uniform(-0.2, 0.2), False, (width / 2, height * 0.42))
    outline = Part(ribbon(np.concatenate([shape, shape[:1]]), 0.035), Paint(mix(tone, (0, 0, 0), 0.7), roundness=0))
    canvas.draw([Part(shape, Paint(tone, roundness=0)), outline], matrix)
    for number in range(int(rng.integers(0, 4))):
        y, half = height * (0.84 + 0.05 * number), width * rng.uniform(0.15, 0.4)
        line = np.array([[width / 2 - half, y], [width / 2 + half, y]])
        canvas.draw([Part(ribbon(line, height * 0.02), Paint((0.3, 0.3, 0.3), roundness=0))], np.eye(2, 3))
    return (np.clip(canvas.image, 0, 1) * 255).astype(np.uint8)
