"""From an outline and a paint to pixels: smooth edges, gradients, patterns, roundness, gloss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from wss_data.retrieval.sources.drawing.geometry import transform

Colour = tuple[float, float, float]
"""Red, green, blue in [0, 1]."""

Pattern = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Takes the object's own coordinates x, y of the pixels (each (h, w)) and returns weights in [0, 1], (h, w)."""

SUPERSAMPLING = 4
"""Samples a side in each pixel; an edge pixel then has one of 17 coverages."""

_RELIEF_SIDE = 80
"""Relief is worked out at most this large (pixels) and enlarged: it is smooth, and this is what keeps it cheap."""


@dataclass(frozen=True)
class Paint:
    """How a part looks.

    Args:
        colour: Main colour.
        shade: Colour at the far end of the gradient; ``None`` for no gradient.
        direction: Where the gradient runs to, in radians; 0 is right, pi / 2 is down.
        pattern: Where the second colour shows.
        second: The second colour.
        roundness: 0 flat .. 1 as round as a ball.
        gloss: Strength of the highlight, 0 dull .. 1 polished.
        opacity: 0 clear .. 1 opaque. What shows through glass or a fin counts as the object all the same.
    """

    colour: Colour
    shade: Colour | None = None
    direction: float = np.pi / 2
    pattern: Pattern | None = None
    second: Colour = (1.0, 1.0, 1.0)
    roundness: float = 0.6
    gloss: float = 0.15
    opacity: float = 1.0


@dataclass(frozen=True)
class Part:
    """One piece of an object.

    Args:
        outline: Closed outline in the object's own coordinates. Shape (N, 2).
        paint: How it looks.
        is_object: Whether its pixels belong to the object; a branch under a bird does not.
    """

    outline: np.ndarray
    paint: Paint
    is_object: bool = True


@dataclass(frozen=True)
class Sketch:
    """An object in its own coordinates, about one unit long, origin near its middle.

    Args:
        parts: Lowest first.
        pose: Kind and view in words, such as ``flying``.
        stands: Whether it rests on the ground and so keeps upright; else it may be turned freely and need not touch.
        turn: Largest turn that still looks natural, radians.
    """

    parts: tuple[Part, ...]
    pose: str
    stands: bool
    turn: float


@dataclass(frozen=True)
class Light:
    """Where light comes from.

    Args:
        direction: Unit vector (x, y, z) towards the light; y points down, z towards the viewer.
        ambient: Share of the light that comes from all around, in [0, 1].
    """

    direction: tuple[float, float, float]
    ambient: float = 0.55


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """The colour ``share`` of the way from ``a`` to ``b``; beyond 0..1 it goes on, clipped to [0, 1]."""
    return tuple(float(np.clip(x + (y - x) * share, 0, 1)) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """A colour from hue (turns, wraps), saturation and value in [0, 1]."""
    k = (np.array([5.0, 3.0, 1.0]) + (hue % 1.0) * 6) % 6
    rgb = value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)
    return tuple(float(x) for x in rgb)  # type: ignore[return-value]


def coverage(outline: np.ndarray, size: tuple[int, int]) -> tuple[int, int, np.ndarray] | None:
    """Share of each pixel that lies inside an outline.

    OpenCV also fills the samples that the outline touches: a shape may come out
    a quarter of a pixel too large, which keeps seams between parts closed.

    Args:
        outline: In pixels; pixel (0, 0) covers [0, 1) x [0, 1). Shape (N, 2).
        size: (width, height) of the picture in pixels.

    Returns:
        Left and top pixel of the smallest box around it inside the picture, and the shares there, (h, w), float32 in
        [0, 1]; ``None`` if it lies outside.
    """
    low = np.maximum(np.floor(outline.min(0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(outline.max(0)).astype(int) + 1, size)
    width, height = (int(v) for v in high - low)
    if width <= 0 or height <= 0:
        return None
    fine = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
    # Sample k lies at (k + 0.5) / SUPERSAMPLING; OpenCV counts from sample centres, here in sixteenths.
    points = np.rint(((outline - low) * SUPERSAMPLING - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(fine, [points], 255, cv2.LINE_8, 4)
    share = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    share *= 1 / 255
    return int(low[0]), int(low[1]), share


def relief(share: np.ndarray, light: Light, roundness: float) -> tuple[np.ndarray, np.ndarray]:
    """Light on a flat shape as if it were blown up like a cushion.

    Args:
        share: Coverage of the shape. Shape (h, w), float32 in [0, 1].
        light: Where light comes from.
        roundness: 0 flat .. 1 as high as half its width.

    Returns:
        Brightness factor around 1, and highlight in [0, 1]; each (h, w), float32.
    """
    height, width = share.shape
    scale = min(1.0, _RELIEF_SIDE / max(height, width))
    size = (max(2, round(width * scale)), max(2, round(height * scale)))
    small = cv2.resize(share, size, interpolation=cv2.INTER_AREA) if scale < 1 else share
    distance = cv2.distanceTransform((small > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    radius = float(min(distance.max(), max(size)))
    if radius < 1:
        return np.ones_like(share), np.zeros_like(share)
    t = np.minimum(distance / radius, 1)
    surface = np.sqrt(t * (2 - t)) * (radius * roundness)
    surface = cv2.GaussianBlur(surface, (0, 0), max(0.8, radius * 0.22))
    gx = cv2.Sobel(surface, cv2.CV_32F, 1, 0, scale=1 / 8)
    gy = cv2.Sobel(surface, cv2.CV_32F, 0, 1, scale=1 / 8)
    lx, ly, lz = light.direction
    norm = 1 / np.sqrt(1 + gx * gx + gy * gy)
    lambert = np.maximum((lz - gx * lx - gy * ly) * norm, 0)
    # A flat shape facing the viewer keeps its colour: factor 1.
    factor = light.ambient + (1 - light.ambient) * lambert / max(lz, 0.2)
    hx, hy, hz = lx, ly, lz + 1
    halfway = np.maximum((hz - gx * hx - gy * hy) * norm / np.sqrt(hx * hx + hy * hy + hz * hz), 0)
    highlight = halfway**30
    if (size[0], size[1]) != (width, height):
        factor = cv2.resize(factor, (width, height), interpolation=cv2.INTER_LINEAR)
        highlight = cv2.resize(highlight, (width, height), interpolation=cv2.INTER_LINEAR)
    return factor.astype(np.float32), highlight.astype(np.float32)


class Canvas:
    """A picture that parts are laid on, with a record of which pixels belong to the object.

    Args:
        image: What to draw on; changed in place. Shape (H, W, 3), float32 in [0, 1].
        light: Where light comes from.
    """

    def __init__(self, image: np.ndarray, light: Light) -> None:
        self.image = image
        self.light = light
        self.alpha: np.ndarray = np.zeros(image.shape[:2], np.float32)

    def draw(self, parts: Sequence[Part], matrix: np.ndarray) -> None:
        """Lay parts on the picture, first part lowest.

        Args:
            parts: In the object's own coordinates.
            matrix: From those to pixels. Shape (2, 3).
        """
        height, width = self.alpha.shape
        inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
        for part in parts:
            box = coverage(transform(part.outline, matrix), (width, height))
            if box is None:
                continue
            left, top, share = box
            h, w = share.shape
            colour = self._colours(part, share, left, top, inverse)
            area = np.s_[top : top + h, left : left + w]
            opaque = share if part.paint.opacity == 1 else share * part.paint.opacity
            self.image[area] += (colour - self.image[area]) * opaque[:, :, None]
            if part.is_object:
                self.alpha[area] = np.maximum(self.alpha[area], share)
            else:
                self.alpha[area] *= 1 - share

    def _colours(self, part: Part, share: np.ndarray, left: int, top: int, inverse: np.ndarray) -> np.ndarray:
        paint = part.paint
        colour: np.ndarray = np.asarray(paint.colour, np.float32)
        if paint.shade is not None or paint.pattern is not None:
            h, w = share.shape
            px = (np.arange(w, dtype=np.float32) + (left + 0.5))[None, :]
            py = (np.arange(h, dtype=np.float32) + (top + 0.5))[:, None]
            (a, b, c), (d, e, f) = inverse.astype(np.float32)
            x, y = a * px + b * py + c, d * px + e * py + f
            if paint.shade is not None:
                dx, dy = np.cos(paint.direction), np.sin(paint.direction)
                along = part.outline @ (dx, dy)
                span = max(float(np.ptp(along)), 1e-6)
                t = np.clip(
                    (x * np.float32(dx) + y * np.float32(dy) - np.float32(along.min())) / np.float32(span), 0, 1
                )
                colour = colour + (np.asarray(paint.shade, np.float32) - colour) * t[:, :, None]
            if paint.pattern is not None:
                weight = paint.pattern(x, y).astype(np.float32)[:, :, None]
                colour = colour + (np.asarray(paint.second, np.float32) - colour) * weight
        if paint.roundness > 0 and min(share.shape) > 3:
            factor, highlight = relief(share, self.light, paint.roundness)
            colour = colour * factor[:, :, None]
            if paint.gloss > 0:
                colour = colour + (paint.gloss * highlight)[:, :, None]
            np.clip(colour, 0, 1, out=colour)
        return colour


def stripes(angle: float, count: float, phase: float = 0.0, sharp: float = 4.0, share: float = 0.5) -> Pattern:
    """Parallel stripes.

    Args:
        angle: Direction across the stripes, radians.
        count: Stripes for each unit of the object's own length.
        phase: Shift, in stripes.
        sharp: Steepness of their edges.
        share: Share of the second colour.
    """
    dx, dy = np.float32(np.cos(angle) * count), np.float32(np.sin(angle) * count)
    level = np.float32(np.cos(np.pi * share))

    def pattern(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        wave = np.cos((x * dx + y * dy + np.float32(phase)) * np.float32(2 * np.pi))
        return np.clip((wave - level) * np.float32(sharp) + np.float32(0.5), 0, 1)

    return pattern


def spots(rng: np.random.Generator, count: int, radius: float, reach: float = 0.5) -> Pattern:
    """Round spots of about ``radius``, ``count`` of them strewn over [-reach, reach] in both directions."""
    centres = rng.uniform(-reach, reach, (count, 2)).astype(np.float32)
    radii = (radius * rng.uniform(0.5, 1.3, count)).astype(np.float32)

    def pattern(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        weight = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
        for (cx, cy), r in zip(centres, radii, strict=True):
            np.maximum(weight, np.clip((1 - ((x - cx) ** 2 + (y - cy) ** 2) / r**2) * 3, 0, 1), out=weight)
        return weight

    return pattern


def scales(size: float, strength: float = 0.5) -> Pattern:
    """Overlapping fish scales or feathers, ``size`` in the object's own length."""
    inverse = np.float32(1 / size)

    def pattern(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        u, v = x * inverse, y * inverse * np.float32(1.6)
        row = np.floor(v)
        u = u + np.float32(0.5) * (row % 2)
        fu, fv = u - np.floor(u) - np.float32(0.5), v - row
        edge = np.sqrt(fu * fu * 2 + fv * fv)
        return np.clip(1 - np.abs(edge - np.float32(0.72)) * 6, 0, 1) * np.float32(strength)

    return pattern


def rays(x0: float, y0: float, count: float, strength: float = 0.5) -> Pattern:
    """Fine rays that spread from (x0, y0), ``count`` in a full turn."""

    def pattern(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        angle = np.arctan2(y - np.float32(y0), x - np.float32(x0))
        return np.clip(np.sin(angle * np.float32(round(count))) * 1.3 + 0.1, 0, 1) * np.float32(strength)

    return pattern


def speckle(rng: np.random.Generator, size: float, strength: float = 0.6) -> Pattern:
    """Soft irregular blotches of about ``size`` in the object's own length."""
    f = rng.uniform(0.6, 1.4, (4, 2)) / size
    phase = rng.uniform(0, 2 * np.pi, 4)

    def pattern(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        total = sum(
            np.sin(x * np.float32(a * np.cos(k * 1.1)) + y * np.float32(b * np.sin(k * 1.1 + 0.5)) + np.float32(p))
            for k, ((a, b), p) in enumerate(zip(f, phase, strict=True))
        )
        return np.clip(total * np.float32(0.8), 0, 1) * np.float32(strength)

    return pattern
