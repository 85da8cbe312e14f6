"""Outlines as arrays of points: curves, ribbons, ellipses, and moving them about.

An *outline* is an (N, 2) float64 array of (x, y), x to the right, y down, closed
by itself: the last point joins the first.
"""

from collections.abc import Sequence

import numpy as np

Points = Sequence[Sequence[float]] | np.ndarray


def smooth(points: Points, closed: bool = True, steps: int = 8) -> np.ndarray:
    """Draw a Catmull-Rom curve through the points.

    Args:
        points: Points to pass through. Shape (N, 2), N >= 3.
        closed: Whether the curve returns to its start.
        steps: Points put out for each point put in.

    Returns:
        The curve. Shape (N * steps, 2) if closed, else ((N - 1) * steps + 1, 2).
    """
    p = np.asarray(points, dtype=np.float64)
    if closed:
        before, after, beyond = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
        start = p
    else:
        padded = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
        before, start, after, beyond = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = (np.arange(steps) / steps)[None, :, None]
    a, b, c, d = (x[:, None, :] for x in (before, start, after, beyond))
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-1:]])


def bezier(points: Points, steps: int = 24) -> np.ndarray:
    """Sample the cubic Bezier curve of four control points. Returns shape (steps, 2)."""
    a, b, c, d = np.asarray(points, dtype=np.float64)
    t = np.linspace(0, 1, steps)[:, None]
    return (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d


def ribbon(line: np.ndarray, widths: float | Sequence[float] | np.ndarray) -> np.ndarray:
    """Thicken a line into an outline.

    Args:
        line: Points along the middle. Shape (N, 2), N >= 2.
        widths: Full width along the line: one number, or any number of them, spread evenly.

    Returns:
        The outline, down one side and back on the other. Shape (2 N, 2).
    """
    line = np.asarray(line, dtype=np.float64)
    widths = np.atleast_1d(np.asarray(widths, dtype=np.float64))
    along = np.linspace(0, 1, len(line))
    half = np.interp(along, np.linspace(0, 1, max(len(widths), 2)), widths if len(widths) > 1 else widths.repeat(2)) / 2
    forward = np.gradient(line, axis=0)
    forward /= np.maximum(np.hypot(forward[:, 0], forward[:, 1]), 1e-9)[:, None]
    side = np.stack([-forward[:, 1], forward[:, 0]], 1) * half[:, None]
    return np.concatenate([line + side, (line - side)[::-1]])


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0, steps: int = 32) -> np.ndarray:
    """An ellipse around (x, y) with half axes ``rx``, ``ry``, turned by ``angle`` radians. Shape (steps, 2)."""
    t = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    return rotate(np.stack([rx * np.cos(t), ry * np.sin(t)], 1), angle) + (x, y)


def rotate(points: np.ndarray, angle: float, about: Sequence[float] = (0.0, 0.0)) -> np.ndarray:
    """Turn points by ``angle`` radians (clockwise on the picture, as y points down) around ``about``. Shape (N, 2)."""
    c, s = np.cos(angle), np.sin(angle)
    centre = np.asarray(about, dtype=np.float64)
    return (np.asarray(points, dtype=np.float64) - centre) @ np.array([[c, s], [-s, c]]) + centre


def blob(rng: np.random.Generator, rx: float, ry: float, rough: float = 0.2, corners: int = 9) -> np.ndarray:
    """An irregular round outline around the origin, like a stone.

    Args:
        rng: Draws the irregularity.
        rx: Half width.
        ry: Half height.
        rough: How irregular, as a share of the radius.
        corners: Number of bumps.
    """
    t = np.linspace(0, 2 * np.pi, corners, endpoint=False) + rng.uniform(0, 2 * np.pi)
    r = 1 + rng.uniform(-rough, rough, corners)
    return smooth(np.stack([rx * r * np.cos(t), ry * r * np.sin(t)], 1))


def leaf(length: float, width: float, tip: float = 0.5) -> np.ndarray:
    """A pointed outline from the origin to (length, 0), widest at the share ``tip`` of its length."""
    upper = bezier([(0, 0), (length * tip * 0.6, -width * 0.7), (length * (tip + 0.2), -width * 0.7), (length, 0)], 14)
    lower = upper[::-1] * (1, -1)
    return np.concatenate([upper, lower[1:-1]])


def bounds(outlines: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest (x, y) over all the outlines; two arrays of shape (2,)."""
    low = np.min([o.min(0) for o in outlines], 0)
    high = np.max([o.max(0) for o in outlines], 0)
    return low, high


def transform(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply an affine map. ``matrix``: (2, 3), its last column the shift. Returns shape (N, 2)."""
    return points @ matrix[:, :2].T + matrix[:, 2]
