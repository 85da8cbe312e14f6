"""Teapots: round, tall, squat or angular, turned, tilted for pouring, plain or patterned."""

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
from wss_data.retrieval.sources.drawing.geometry import bezier, blob, ellipse, ribbon, rotate, smooth

# Radius of the pot at five heights from foot to mouth, and its height; unit: about the width of the whole.
_KINDS = {
    "round": ((0.17, 0.29, 0.32, 0.26, 0.13), 0.5),
    "tall": ((0.19, 0.25, 0.25, 0.21, 0.14), 0.66),
    "squat": ((0.2, 0.34, 0.35, 0.27, 0.12), 0.36),
    "conical": ((0.3, 0.28, 0.23, 0.18, 0.13), 0.52),
    "pear": ((0.2, 0.31, 0.29, 0.18, 0.13), 0.58),
}


def draw_teapot(rng: np.random.Generator) -> Sketch:
    """One teapot, spout to the right."""
    kind = str(rng.choice(sorted(_KINDS)))
    profile, high = _KINDS[kind]
    radii = np.array(profile) * rng.uniform(0.92, 1.1, 5)
    high *= rng.uniform(0.9, 1.1)
    pitch = rng.uniform(0.05, 0.5)
    flat = float(np.sin(pitch))
    yaw = rng.uniform(-0.9, 0.9)
    colour = _glaze(rng)
    trim = mix(colour, hsv(rng.random(), 0.5, rng.uniform(0.2, 0.95)), rng.uniform(0.2, 0.9))
    metal = rng.random() < 0.2
    gloss = 0.9 if metal else rng.uniform(0.15, 0.7)
    if metal:
        colour = mix((0.72, 0.72, 0.74), hsv(rng.uniform(0.04, 0.14), 0.6, 0.75), float(rng.choice([0.0, 0.8])))
        trim = mix(colour, (0.1, 0.1, 0.1), 0.3)
    dark = mix(colour, (0, 0, 0), 0.5)
    skin = Paint(colour, dark, 0.35, roundness=0.85, gloss=gloss)

    levels = np.linspace(0, 1, 25)
    radius = smooth(np.stack([np.linspace(0, 1, 5), radii], 1), closed=False, steps=6)[:, 1]
    rise = -(levels - 0.5) * high * np.cos(pitch)
    spout, handle = _spout(rng, radius, high, pitch, yaw), _handle(rng, radius, high, pitch, yaw)
    tube, ring = (
        Part(spout, skin),
        [Part(handle, Paint(trim if rng.random() < 0.4 else colour, dark, np.pi / 2, roundness=0.8, gloss=gloss))],
    )
    # Turned towards the viewer, the spout lies before the pot and the handle behind it; turned away, the reverse.
    parts = [*ring] if yaw >= 0 else [tube]
    parts += _belly(rng, levels, radius, rise, flat, colour, trim, skin)
    parts += _lid(rng, float(radius[-1]), float(rise[-1]), flat, skin, trim, gloss)
    parts += [tube] if yaw >= 0 else ring
    pour = rng.random() < 0.25
    if pour:
        turn = rng.uniform(0.3, 0.6)
        parts = [Part(rotate(p.outline, turn), p.paint) for p in parts]
    side = "near" if yaw > 0.3 else "far" if yaw < -0.3 else "aside"
    words = f"{kind}, {'pouring' if pour else 'standing'}, spout {side}"
    return Sketch(tuple(parts), words, not pour, 0.06)


def _glaze(rng: np.random.Generator) -> Colour:
    if rng.random() < 0.3:
        return mix((0.95, 0.93, 0.88), hsv(rng.random(), 0.3, 0.8), rng.uniform(0, 0.5))
    return hsv(rng.random(), rng.uniform(0.35, 0.9), rng.uniform(0.3, 0.85))


def _belly(
    rng: np.random.Generator,
    levels: np.ndarray,
    radius: np.ndarray,
    rise: np.ndarray,
    flat: float,
    colour: Colour,
    trim: Colour,
    skin: Paint,
) -> list[Part]:
    """The pot itself with foot and decoration."""
    t = np.linspace(0, np.pi, 20)
    foot = np.stack([radius[0] * np.cos(t), rise[0] + radius[0] * flat * np.sin(t)], 1)
    left, right = np.stack([-radius, rise], 1), np.stack([radius, rise], 1)[::-1]
    # A pot seen from above is rounder below than its profile: each level is an ellipse, and the lowest points count.
    outline = np.concatenate([left, right, foot])
    base = ellipse(0, rise[0] + 0.012, radius[0] * 1.03, radius[0] * flat + 0.015)
    parts = [Part(base, Paint(mix(colour, (0, 0, 0), 0.55), roundness=0.2))]
    decoration = str(rng.choice(["plain", "bands", "dots", "flowers", "ribs"], p=[0.25, 0.25, 0.15, 0.2, 0.15]))
    pattern: Pattern | None = None
    if decoration == "bands":
        pattern = _bands(rng, float(rise.min()), float(rise.max()), float(radius.max()), flat)
    elif decoration == "dots":
        pattern = spots(rng, 22, rng.uniform(0.025, 0.045), 0.34)
    elif decoration == "ribs":
        pattern = stripes(0.0, rng.uniform(8, 14), rng.random(), 1.2, 0.4)
    elif decoration == "plain" and rng.random() < 0.5:
        pattern = speckle(rng, 0.03, 0.5)
    second = mix(trim, (1, 1, 1), 0.3) if rng.random() < 0.5 else mix(trim, (0, 0, 0), 0.3)
    parts.append(Part(outline, Paint(skin.colour, skin.shade, skin.direction, pattern, second, 0.9, skin.gloss)))
    if decoration == "flowers":
        parts += _flowers(rng, float(radius.max()) * 0.62, float(np.ptp(rise)) * 0.26)
    return parts


def _bands(rng: np.random.Generator, top: float, bottom: float, half: float, flat: float) -> Pattern:
    """Painted rings: level lines of the pot, which bend down towards the viewer."""
    heights = rng.uniform(top + 0.1 * (bottom - top), bottom - 0.15 * (bottom - top), int(rng.integers(1, 4))).astype(
        np.float32
    )
    width = np.float32(rng.uniform(0.012, 0.045))

    def pattern(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        bow = np.float32(flat * half) * np.sqrt(np.maximum(1 - (x / np.float32(half)) ** 2, 0))
        weight = np.zeros(x.shape, np.float32)
        for height in heights:
            np.maximum(
                weight,
                np.clip((width - np.abs(y - bow - height + np.float32(flat * half * 0.6))) * 120, 0, 1),
                out=weight,
            )
        return weight

    return pattern


def _flowers(rng: np.random.Generator, reach: float, high: float) -> list[Part]:
    petal = hsv(rng.random(), rng.uniform(0.4, 0.9), rng.uniform(0.5, 1.0))
    parts = []
    for _ in range(int(rng.integers(2, 5))):
        x, y, size = rng.uniform(-reach, reach), rng.uniform(-high, high), rng.uniform(0.03, 0.055)
        for turn in np.linspace(0, 2 * np.pi, 5, endpoint=False) + rng.random():
            leafy = ellipse(size * 0.8, 0, size * 0.55, size * 0.4, steps=14)
            parts.append(Part(rotate(leafy, turn) + (x, y), Paint(petal, roundness=0, opacity=0.9)))
        parts.append(Part(ellipse(x, y, size * 0.4, size * 0.4, steps=14), Paint((0.95, 0.8, 0.2), roundness=0)))
        stalk = ribbon(
            bezier(
                [(x, y + size), (x + 0.01, y + size * 2), (x + 0.03, y + size * 2.4), (x + 0.05, y + size * 2.8)], 8
            ),
            0.01,
        )
        parts.append(Part(stalk, Paint((0.25, 0.5, 0.2), roundness=0)))
    return parts


def _lid(
    rng: np.random.Generator, mouth: float, level: float, flat: float, skin: Paint, trim: Colour, gloss: float
) -> list[Part]:
    high, wide = rng.uniform(0.05, 0.11), mouth * 1.12
    t = np.linspace(0, np.pi, 20)
    peak = level - high - wide * flat * 0.4
    front = np.stack([wide * np.cos(t), level + wide * flat * np.sin(t)], 1)
    left = bezier([(-wide, level), (-wide * 0.9, level - high), (-wide * 0.4, peak), (0, peak)], 10)
    dome = np.concatenate([front, left, left[::-1] * (-1, 1)])
    rim = np.concatenate(
        [
            np.stack([wide * 1.05 * np.cos(t), level + 0.014 + wide * flat * np.sin(t)], 1),
            np.stack([-wide * 1.05 * np.cos(t), level + wide * flat * np.sin(-t) * 0.2], 1),
        ]
    )
    top = level - high - wide * flat * 0.2
    size = rng.uniform(0.03, 0.05)
    knob = blob(rng, size, size * rng.uniform(0.8, 1.3), 0.04) + (0, top - size * 0.7)
    neck = np.array(
        [
            [-size * 0.5, top + 0.02],
            [-size * 0.4, top - size * 0.4],
            [size * 0.4, top - size * 0.4],
            [size * 0.5, top + 0.02],
        ]
    )
    return [
        Part(rim, Paint(mix(skin.colour, (0, 0, 0), 0.6), roundness=0)),
        Part(dome, Paint(skin.colour, skin.shade, skin.direction, roundness=0.7, gloss=gloss)),
        Part(neck, Paint(mix(trim, (0, 0, 0), 0.3), roundness=0.4)),
        Part(knob, Paint(trim, mix(trim, (0, 0, 0), 0.5), roundness=0.9, gloss=gloss)),
    ]


def _seen(x: float, level: float, high: float, pitch: float, yaw: float) -> tuple[float, float]:
    """Where a point ``x`` beside the axis (right is positive) at height ``level`` in [0, 1] of the pot is seen."""
    return x * np.cos(yaw), -(level - 0.5) * high * np.cos(pitch) + x * np.sin(yaw) * np.sin(pitch)


def _spout(rng: np.random.Generator, radius: np.ndarray, high: float, pitch: float, yaw: float) -> np.ndarray:
    low = rng.uniform(0.3, 0.45)
    start = float(np.interp(low, np.linspace(0, 1, len(radius)), radius)) * 0.85
    reach = rng.uniform(0.2, 0.3)
    points = [
        (start, low),
        (start + reach * 0.75, low),
        (start + reach * rng.uniform(0.3, 0.7), 0.85),
        (start + reach, rng.uniform(0.88, 1.02)),
    ]
    line = bezier([_seen(x, z, high, pitch, yaw) for x, z in points], 32)
    width = np.interp(
        np.linspace(0, 1, 40), [0, 0.33, 0.66, 1], [rng.uniform(0.15, 0.2), 0.11, 0.075, rng.uniform(0.05, 0.07)]
    )
    # Rounded where it meets the pot.
    return ribbon(line, width * np.sqrt(np.clip(np.linspace(0.02, 4, 40), 0, 1)))


def _handle(rng: np.random.Generator, radius: np.ndarray, high: float, pitch: float, yaw: float) -> np.ndarray:
    heights = np.linspace(0, 1, len(radius))
    upper, lower = rng.uniform(0.74, 0.88), rng.uniform(0.22, 0.36)
    a, b = -float(np.interp(upper, heights, radius)) * 0.9, -float(np.interp(lower, heights, radius)) * 0.9
    out = rng.uniform(0.24, 0.36)
    points = [(a, upper), (a - out, upper + rng.uniform(0.05, 0.3)), (b - out * 0.9, lower - 0.05), (b, lower)]
    line = bezier([_seen(x, z, high, pitch, yaw) for x, z in points], 28)
    return ribbon(line, [0.06, 0.055, 0.05, 0.045])
