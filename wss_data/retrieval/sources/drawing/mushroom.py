"""Mushrooms: domed, flat, pointed or hollow caps, alone or in a clump, seen from the side, above or below."""

import numpy as np

from wss_data.retrieval.sources.drawing.canvas import (
    Colour,
    Paint,
    Part,
    Pattern,
    Sketch,
    hsv,
    mix,
    speckle,
    spots,
    stripes,
)
from wss_data.retrieval.sources.drawing.geometry import bezier, blob, ellipse, ribbon, rotate

_CAPS = {"domed": (0.62, 0.95), "flat": (0.3, 0.8), "pointed": (0.95, 0.45), "hollow": (0.34, 0.95)}
"""Height for each half width, and how full the curve is."""


def draw_mushroom(rng: np.random.Generator) -> Sketch:
    """One to three mushrooms growing together."""
    kind = str(rng.choice(sorted(_CAPS)))
    hue = rng.choice([rng.uniform(0.98, 1.1), rng.uniform(0.05, 0.13), rng.uniform(0.0, 1.0)], p=[0.4, 0.4, 0.2])
    cap = hsv(hue, rng.uniform(0.3, 0.9), rng.uniform(0.35, 0.9))
    stem = mix(hsv(rng.uniform(0.08, 0.14), rng.uniform(0.05, 0.3), rng.uniform(0.7, 0.95)), cap, rng.uniform(0, 0.25))
    view = rng.uniform(-0.3, 0.45)
    marks = str(rng.choice(["warts", "plain", "blotches"], p=[0.4, 0.35, 0.25]))
    count = int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))
    parts: list[Part] = []
    for number in range(count):
        size = 1.0 if number == count - 1 else rng.uniform(0.5, 0.8)
        side = 0.0 if number == count - 1 else (0.36 + 0.1 * rng.random()) * (1 if number else -1)
        lean = rng.normal(0, 0.1) + side * 0.5
        one = _one(rng, kind, cap, stem, view, marks)
        parts += [
            Part(
                rotate(p.outline, lean, (0, 0.5)) * size + (side, 0.5 * (1 - size) + rng.uniform(-0.02, 0.02)), p.paint
            )
            for p in one
        ]
    seen = "from below" if view < -0.06 else "from above" if view > 0.2 else "from the side"
    return Sketch(tuple(parts), f"{kind}, {seen}" + (f", clump of {count}" if count > 1 else ""), True, 0.12)


def _one(rng: np.random.Generator, kind: str, cap: Colour, stem: Colour, view: float, marks: str) -> list[Part]:
    """A single mushroom, foot at (0, 0.5)."""
    rise, full = _CAPS[kind]
    half = rng.uniform(0.28, 0.46)
    high = half * rise * rng.uniform(0.85, 1.2)
    rim = rng.uniform(-0.25, 0.05)
    thick = rng.uniform(0.1, 0.2) * (0.8 if half < 0.34 else 1.0)
    bulge = rng.uniform(1.0, 1.7)
    curve = bezier(
        [(0, rim - min(0.02, high * 0.3)), (rng.normal(0, 0.04), rim + 0.2), (rng.normal(0, 0.03), 0.3), (0, 0.5)], 20
    )
    shaft = ribbon(curve, [thick * 0.85, thick * 0.9, thick, thick * bulge, thick * bulge * 0.8])
    bottom = ellipse(0, 0.49, thick * bulge * 0.4, 0.03)
    flesh = Paint(
        stem,
        mix(stem, (0.3, 0.22, 0.12), 0.45),
        np.pi / 2,
        stripes(0.0, 26, rng.random(), 1.0, 0.25),
        mix(stem, (0.3, 0.25, 0.2), 0.3),
        0.85,
        0.05,
    )
    parts = [Part(bottom, Paint(mix(stem, (0.3, 0.22, 0.12), 0.6), roundness=0)), Part(shaft, flesh)]
    if rng.random() < 0.45:
        y = rim + 0.13
        skirt = np.array(
            [
                [-thick * 0.45, y - 0.03],
                [thick * 0.45, y - 0.03],
                [thick * 0.75, y + 0.035],
                [0, y + 0.055],
                [-thick * 0.75, y + 0.035],
            ]
        )
        parts.append(
            Part(skirt, Paint(mix(stem, (1, 1, 1), 0.35), mix(stem, (0.2, 0.2, 0.1), 0.3), roundness=0.5, gloss=0.05))
        )

    # The rim is a circle: looked at from below (view < 0) its near edge lies higher and the gills show.
    tip = float(np.sin(abs(view))) * half
    gills = Paint(
        mix(stem, (0.55, 0.4, 0.28), 0.45),
        mix(stem, (0.15, 0.1, 0.06), 0.6),
        np.pi / 2,
        _gills(rim, half, max(tip, 0.02)),
        mix(stem, (0.12, 0.08, 0.05), 0.75),
        0.1,
        0.0,
    )
    sag = high * rng.uniform(0.02, 0.12)
    left = bezier(
        [
            (-half, rim),
            (-half, rim - high * full),
            (-half * 0.55, rim - high),
            (0, rim - high * (0.6 if kind == "hollow" else 1)),
        ],
        16,
    )
    right = left[::-1][1:] * (-1, 1)
    over = np.concatenate([left, right])
    t = np.linspace(0, np.pi, 24)
    if view < -0.06:
        edge = np.stack([half * np.cos(t), rim - tip * np.sin(t) * 0.35], 1)
        parts = [Part(ellipse(0, rim, half * 0.995, tip), gills), *parts] if tip > 0.01 else parts
        front = [Part(np.concatenate([over, edge[1:-1]]), _skin(rng, cap, marks))]
        # The gills reach down in front of the stem's top: draw them over the cap's lower edge but behind the stem.
        return [*front, *parts]
    edge = np.stack([half * np.cos(t), rim + (tip * 0.8 + sag) * np.sin(t)], 1)
    parts.append(Part(np.concatenate([over, edge[1:-1]]), _skin(rng, cap, marks)))
    if kind == "hollow" and tip > 0.05:
        bowl = ellipse(0, rim - high * 0.6, half * 0.72, min(tip * 0.6, high * 0.3))
        parts.append(Part(bowl, Paint(mix(cap, (0, 0, 0), 0.45), mix(cap, (0, 0, 0), 0.1), np.pi / 2, roundness=0)))
    elif marks == "warts":
        parts += _warts(rng, half, high, rim, tip, rise)
    return parts


def _gills(y0: float, rx: float, ry: float) -> Pattern:
    """Dark lines that run from the stem outward."""
    count = 30

    def pattern(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        angle = np.arctan2((y - np.float32(y0)) / np.float32(ry), x / np.float32(rx))
        return np.clip(np.sin(angle * count) * 1.2 + 0.2, 0, 1) * np.float32(0.8)

    return pattern


def _skin(rng: np.random.Generator, cap: Colour, marks: str) -> Paint:
    edge = (
        mix(cap, (0.1, 0.05, 0.0), rng.uniform(0.2, 0.5))
        if rng.random() < 0.6
        else mix(cap, (1, 0.95, 0.8), rng.uniform(0.2, 0.6))
    )
    pattern = speckle(rng, rng.uniform(0.02, 0.05), 0.7) if marks == "blotches" else spots(rng, 12, 0.012, 0.4)
    second = mix(cap, (0.1, 0.06, 0.02), 0.5) if marks == "blotches" else mix(cap, (1, 1, 1), 0.25)
    return Paint(cap, edge, np.pi / 2, pattern, second, rng.uniform(0.75, 0.95), rng.uniform(0.05, 0.4))


def _warts(rng: np.random.Generator, half: float, high: float, rim: float, tip: float, rise: float) -> list[Part]:
    white = mix((0.97, 0.95, 0.88), (0.8, 0.7, 0.5), rng.uniform(0, 0.6))
    parts = []
    for _ in range(int(rng.integers(8, 17))):
        angle, away = rng.uniform(-np.pi, np.pi), np.sqrt(rng.uniform(0, 0.85))
        x, up = away * np.cos(angle), np.sqrt(max(0.0, 1 - away**2))
        y = rim - high * up * 0.92 + tip * 0.8 * away * np.sin(angle) * (1 if np.sin(angle) > 0 else 0.3)
        size = half * rng.uniform(0.05, 0.12)
        flat = max(0.35, 1 - abs(x) * 0.6)
        wart = blob(rng, size * flat, size * min(0.7, 0.25 + rise * 0.6), 0.2, 7) + (x * half * 0.94, y)
        parts.append(Part(wart, Paint(white, mix(white, (0.4, 0.3, 0.2), 0.4), roundness=0.5, gloss=0)))
    return parts
