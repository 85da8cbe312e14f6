"""Fish: slim, oval, tall or ball-shaped, straight or bent, side on."""

import numpy as np

from wss_data.retrieval.sources.drawing.canvas import (
    Paint,
    Part,
    Pattern,
    Sketch,
    hsv,
    mix,
    rays,
    scales,
    speckle,
    spots,
    stripes,
)
from wss_data.retrieval.sources.drawing.geometry import bezier, ellipse, leaf, ribbon, rotate, smooth

_KINDS = {"slim": (0.13, 0.75, 0.55), "oval": (0.21, 0.7, 0.6), "tall": (0.31, 0.62, 0.75), "round": (0.27, 0.8, 0.5)}
"""Half height, how far forward the fullest place lies, bluntness."""


def draw_fish(rng: np.random.Generator) -> Sketch:
    """One fish, nose to the right."""
    kind = str(rng.choice(sorted(_KINDS)))
    high, forward, blunt = _KINDS[kind]
    high *= rng.uniform(0.85, 1.15)
    bend = rng.normal(0, 0.07) * min(1, 0.16 / high) if rng.random() < 0.6 else 0.0
    hue = rng.choice([rng.uniform(0.0, 0.16), rng.uniform(0.45, 0.68), rng.uniform(0, 1)])
    back = hsv(hue, rng.uniform(0.35, 0.9), rng.uniform(0.4, 0.85))
    belly = mix(back, (1.0, 0.98, 0.9), rng.uniform(0.4, 0.85))
    second = mix(hsv(hue + rng.uniform(-0.5, 0.5), 0.6, rng.uniform(0.1, 0.9)), (0, 0, 0), rng.uniform(0, 0.5))
    fin = mix(back, second, rng.uniform(0, 0.6))

    s = np.linspace(0, 1, 34) ** 1.35
    middle = _midline(s, bend)
    root = rng.uniform(0.035, 0.06)
    profile = np.sin(np.pi * s**forward) ** blunt * high * (1 - 0.25 * s) + root * s
    up, down = profile * rng.uniform(0.9, 1.1), profile * rng.uniform(0.85, 1.15)
    upper, lower = middle - np.stack([0 * s, up], 1), middle + np.stack([0 * s, down], 1)
    body = np.concatenate([upper, lower[::-1]])

    def rayed(x: float, y: float, count: float) -> Paint:
        return Paint(
            fin, mix(fin, (1, 1, 1), 0.35), np.pi, rays(x, y, count), mix(fin, (0, 0, 0), 0.55), 0.25, 0.05, 0.97
        )

    end = middle[-1]
    parts = [
        Part(_tail(rng, middle[-1], middle[-1] - middle[-4], root), rayed(end[0] + 0.1, end[1], 110)),
        Part(_long_fin(rng, upper, -1, high), rayed(0.25, 0.45, 190)),
        Part(_long_fin(rng, lower, 1, high, short=True), rayed(0.15, -0.4, 190)),
    ]
    parts.append(Part(body, Paint(back, belly, np.pi / 2, roundness=0.75, gloss=rng.uniform(0.1, 0.35))))
    parts.append(
        Part(
            body,
            Paint(
                back,
                belly,
                pattern=scales(rng.uniform(0.03, 0.05), 0.35),
                second=mix(back, (0, 0, 0), 0.45),
                roundness=0.75,
                gloss=0.2,
            ),
        )
    )
    marking = _marking(rng)
    if marking is not None:
        parts.append(Part(body[2:-2], Paint(mix(back, belly, 0.3), belly, np.pi / 2, marking, second, 0.75, 0.2, 0.9)))

    gill = s.searchsorted(rng.uniform(0.24, 0.3))
    arc = bezier(
        [
            upper[gill] * 0.8 + middle[gill] * 0.2,
            middle[gill] + (-0.05, -high * 0.4),
            middle[gill] + (-0.05, high * 0.4),
            lower[gill] * 0.8 + middle[gill] * 0.2,
        ],
        14,
    )
    parts.append(Part(ribbon(arc, [0.004, 0.012, 0.004]), Paint(mix(back, (0, 0, 0), 0.6), roundness=0)))
    bulge = bezier(
        [upper[gill - 2], middle[gill] + (-0.03, -high * 0.5), middle[gill] + (-0.03, high * 0.5), lower[gill - 2]], 12
    )
    head = np.concatenate([upper[: gill - 2], bulge, lower[: gill - 2][::-1]])
    parts.append(Part(head, Paint(mix(back, second, 0.4), belly, np.pi / 2, roundness=0.3, gloss=0.1, opacity=0.45)))
    parts += _face(rng, middle, high, back)
    side = leaf(rng.uniform(0.13, 0.2), rng.uniform(0.1, 0.16), 0.6)
    side = rotate(side, np.pi + rng.uniform(-0.6, 0.3)) + middle[gill] + (-0.03, high * 0.25)
    parts.append(Part(side, rayed(middle[gill][0] + 0.02, middle[gill][1] + high * 0.25, 60)))
    words = f"{kind}, {'bent' if abs(bend) > 0.04 else 'straight'}"
    return Sketch(tuple(parts), words, False, 0.6)


def _midline(s: np.ndarray, bend: float) -> np.ndarray:
    """From the nose (0.42, 0) to the root of the tail, bent into a C. ``s``: (N,) in [0, 1] -> (N, 2)."""
    return np.stack([0.42 - 0.72 * s, bend * np.sin(np.pi * s) * 1.3 + bend * s * 0.8], 1)


def _tail(rng: np.random.Generator, root: np.ndarray, backward: np.ndarray, half: float) -> np.ndarray:
    spread, length = rng.uniform(0.12, 0.24), rng.uniform(0.16, 0.26)
    notch = length * (rng.choice([0.35, 0.7, 1.05]) + rng.uniform(-0.08, 0.08))
    lower = spread * rng.uniform(0.8, 1.1)
    along = (-0.04, length * 0.5, length, notch, length, length * 0.5, -0.04)
    across = (-half, -spread * 0.7, -spread, 0.0, lower, spread * 0.7, half)
    outline = smooth(np.stack([along, across], 1))
    return rotate(outline, float(np.arctan2(backward[1], backward[0]))) + root


def _long_fin(rng: np.random.Generator, edge: np.ndarray, way: int, high: float, short: bool = False) -> np.ndarray:
    first, last = (19, 30) if short else (int(rng.integers(12, 15)), int(rng.integers(25, 31)))
    along = edge[first:last]
    rise = high * rng.uniform(0.3, 0.75)
    t = np.linspace(0, 1, len(along))
    shape = np.sin(np.pi * np.clip(t * 0.85 + 0.12, 0, 1)) ** 0.6
    if rng.random() < 0.5:
        shape = shape * (0.85 + 0.15 * np.cos(np.arange(len(along)) * np.pi))
    away = along + np.stack([-0.05 * t, way * rise * shape], 1)
    inner = along - (0, way * high * 0.25)
    return np.concatenate([away, inner[::-1]])


def _marking(rng: np.random.Generator) -> Pattern | None:
    kind = rng.choice(["bars", "lines", "spots", "blotches", "none"], p=[0.3, 0.2, 0.2, 0.15, 0.15])
    if kind == "bars":
        return stripes(rng.normal(0, 0.12), rng.uniform(3, 8), rng.random(), 5, rng.uniform(0.25, 0.5))
    if kind == "lines":
        return stripes(np.pi / 2 + rng.normal(0, 0.08), rng.uniform(5, 11), rng.random(), 4, rng.uniform(0.25, 0.5))
    if kind == "spots":
        return spots(rng, int(rng.integers(10, 22)), rng.uniform(0.02, 0.05), 0.4)
    return speckle(rng, rng.uniform(0.03, 0.07), 0.8) if kind == "blotches" else None


def _face(rng: np.random.Generator, middle: np.ndarray, high: float, back: tuple[float, float, float]) -> list[Part]:
    size = rng.uniform(0.024, 0.042)
    eye = middle[6] + (0.0, -high * rng.uniform(0.1, 0.28))
    ring = hsv(rng.choice([0.13, 0.1, 0.0]), rng.uniform(0, 0.8), 0.95)
    mouth = bezier(
        [
            middle[0] + (0.005, 0.02),
            middle[0] + (-0.02, 0.03),
            middle[0] + (-0.04, 0.035),
            middle[0] + (-0.07, 0.05 + rng.uniform(-0.02, 0.03)),
        ],
        10,
    )
    return [
        Part(ribbon(mouth, [0.016, 0.006]), Paint(mix(back, (0.1, 0, 0), 0.75), roundness=0)),
        Part(ellipse(eye[0], eye[1], size, size), Paint(ring, roundness=0.4)),
        Part(ellipse(eye[0], eye[1], size * 0.6, size * 0.6), Paint((0.03, 0.03, 0.05), roundness=0.4, gloss=0.8)),
        Part(
            ellipse(eye[0] - size * 0.2, eye[1] - size * 0.25, size * 0.18, size * 0.18), Paint((1, 1, 1), roundness=0)
        ),
    ]
