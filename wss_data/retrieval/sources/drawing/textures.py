"""What grounds and walls are made of.

Each texture is a function ``(rng, width, height) -> (height, width, 3)`` float32
picture in [0, 1], another one for every state of ``rng``.
"""

from collections.abc import Callable

import cv2
import numpy as np

from wss_data.retrieval.sources.drawing.canvas import Colour, hsv, mix

Texture = Callable[[np.random.Generator, int, int], np.ndarray]


def noise(rng: np.random.Generator, width: int, height: int, cell: float, stretch: float = 1.0) -> np.ndarray:
    """Smooth random values with features of about ``cell`` pixels, ``stretch`` times as wide as high.

    Returns:
        Mean about 0, deviation about 1. Shape (height, width), float32.
    """
    columns = max(2, int(np.ceil(width / (cell * stretch))) + 1)
    rows = max(2, int(np.ceil(height / cell)) + 1)
    grid = rng.standard_normal((rows, columns), dtype=np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)


def fractal(
    rng: np.random.Generator, width: int, height: int, cell: float, octaves: int = 4, stretch: float = 1.0
) -> np.ndarray:
    """Noise of several sizes added up, each half as large and 0.6 times as strong as the one before.

    Returns:
        Mean about 0, deviation about 1. Shape (height, width), float32.
    """
    total = np.zeros((height, width), np.float32)
    norm = 0.0
    for octave in range(octaves):
        size = cell / 2**octave
        if size < 1:
            break
        total += np.float32(0.6**octave) * noise(rng, width, height, size, stretch)
        norm += 0.36**octave
    return total * np.float32(1.3 / np.sqrt(norm))


def tinted(values: np.ndarray, dark: Colour, light: Colour) -> np.ndarray:
    """Colours from ``dark`` (value -1.5) to ``light`` (1.5). ``values``: (h, w) -> (h, w, 3), float32 in [0, 1]."""
    t = np.clip(values / 3 + np.float32(0.5), 0, 1)[:, :, None]
    low = np.asarray(dark, np.float32)
    return low + (np.asarray(light, np.float32) - low) * t


def strokes(
    rng: np.random.Generator,
    image: np.ndarray,
    count: int,
    length: tuple[float, float],
    thickness: int | np.integer,
    angle: tuple[float, float],
    colours: tuple[Colour, Colour],
) -> None:
    """Draw many short lines in place, as grass or straw.

    Args:
        rng: Draws places, lengths, angles and shades.
        image: Shape (H, W, 3), uint8.
        count: Number of lines.
        length: Shortest and longest, pixels.
        thickness: Pixels.
        angle: Mean and deviation, radians; pi / 2 is upright.
        colours: Darkest and lightest colour.
    """
    height, width = image.shape[:2]
    x = rng.uniform(-10, width + 10, count)
    y = np.sort(rng.uniform(-10, height + 20, count))
    far = rng.uniform(*length, count)
    turn = rng.normal(angle[0], angle[1], count)
    ends = np.stack([x + far * np.cos(turn), y - far * np.sin(turn)], 1)
    starts = np.stack([x, y], 1)
    lines = np.rint(np.concatenate([starts, ends], 1) * 16).astype(int).tolist()
    low, high = (np.asarray(c) for c in colours)
    shades = ((low + (high - low) * rng.beta(1.6, 2.0, (count, 1))) * 255).tolist()
    for (x0, y0, x1, y1), shade in zip(lines, shades, strict=True):
        cv2.line(image, (x0, y0), (x1, y1), shade, int(thickness), cv2.LINE_AA, 4)


def grass(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Blades of grass, fresh to dry."""
    hue = rng.uniform(0.17, 0.31)
    dark, light = (
        hsv(hue, rng.uniform(0.5, 0.75), 0.16),
        hsv(hue - 0.03, rng.uniform(0.4, 0.65), rng.uniform(0.55, 0.75)),
    )
    ground = tinted(fractal(rng, width, height, 60), mix(dark, (0.2, 0.15, 0.1), 0.3), mix(dark, light, 0.6))
    image = (ground * 255).astype(np.uint8)
    strokes(rng, image, width * height // 190, (10, 32), rng.integers(1, 3), (np.pi / 2, 0.45), (dark, light))
    return image.astype(np.float32) / 255


def straw(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Dry stalks lying in all directions."""
    hue = rng.uniform(0.09, 0.14)
    dark, light = hsv(hue, 0.55, 0.3), hsv(hue, 0.35, 0.85)
    image = (tinted(fractal(rng, width, height, 40), hsv(hue, 0.5, 0.25), hsv(hue, 0.45, 0.55)) * 255).astype(np.uint8)
    strokes(rng, image, width * height // 220, (15, 45), 1, (0, 1.2), (dark, light))
    return image.astype(np.float32) / 255


def sand(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Sand with wind ripples and grains."""
    hue, value = rng.uniform(0.07, 0.13), rng.uniform(0.6, 0.85)
    bend = fractal(rng, width, height, 120, 2) * 1.6
    y = np.arange(height, dtype=np.float32)[:, None] / rng.uniform(7, 16)
    x = np.arange(width, dtype=np.float32)[None, :] / rng.uniform(40, 120)
    ripples = np.sin(y + x + bend) * rng.uniform(0, 0.7)
    grains = rng.standard_normal((height, width), dtype=np.float32) * 0.45
    values = ripples + fractal(rng, width, height, 90, 3) * 0.5 + grains
    return tinted(values, hsv(hue, 0.42, value - 0.25), hsv(hue - 0.01, 0.25, min(value + 0.15, 1)))


def water(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Rippled water with glints."""
    hue = rng.uniform(0.46, 0.62)
    low, high = hsv(hue, rng.uniform(0.4, 0.75), 0.32), hsv(hue - 0.03, rng.uniform(0.15, 0.4), rng.uniform(0.75, 0.95))
    waves = fractal(rng, width, height, rng.uniform(9, 20), 3, stretch=rng.uniform(2.5, 5))
    picture = tinted(waves + fractal(rng, width, height, 150, 2) * 0.6, low, high)
    glints = np.clip(waves - 1.7, 0, 1)[:, :, None] * np.float32(0.8)
    return picture + (1 - picture) * glints


def sky(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Sky with clouds, clear to overcast."""
    hue = rng.uniform(0.54, 0.61)
    down = np.linspace(-1.5, 1.5, height, dtype=np.float32)[:, None].repeat(width, 1)
    blue = tinted(down, hsv(hue, rng.uniform(0.25, 0.65), rng.uniform(0.6, 0.9)), hsv(hue, 0.12, 0.95))
    clouds = fractal(rng, width, height, rng.uniform(60, 140), 5, stretch=1.8) + rng.uniform(-1.2, 1.0)
    cover = np.clip(clouds * 0.7, 0, 1)[:, :, None] * np.float32(0.9)
    shade = tinted(fractal(rng, width, height, 70, 3), (0.68, 0.7, 0.74), (0.97, 0.97, 0.98))
    return blue + (shade - blue) * cover


def brick(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A wall of bricks, each of another shade."""
    bw, bh, gap = rng.uniform(34, 70), rng.uniform(15, 28), rng.uniform(2, 4)
    hue, saturation, value = rng.uniform(0.0, 0.07), rng.uniform(0.2, 0.6), rng.uniform(0.45, 0.75)
    wobble = fractal(rng, width, height, 24, 2)
    x = np.arange(width, dtype=np.float32)[None, :] + wobble
    y = np.arange(height, dtype=np.float32)[:, None] + wobble
    row = np.floor(y / bh)
    u = x / np.float32(bw) + (row % 2) * np.float32(0.5)
    column = np.floor(u)
    edge = np.minimum((u - column) * bw, y - row * bh)
    joint = np.clip((gap - edge) * 0.7, 0, 1).astype(np.float32)[:, :, None]
    table = rng.standard_normal((64, 64)).astype(np.float32)
    shade = table[row.astype(int) % 64, column.astype(int) % 64]
    values = shade * 0.8 + fractal(rng, width, height, 8, 3) * 0.5
    bricks = tinted(values, hsv(hue, saturation, value - 0.25), hsv(hue + 0.02, saturation, value + 0.15))
    mortar = tinted(fractal(rng, width, height, 6, 2), (0.5, 0.48, 0.45), (0.75, 0.73, 0.7))
    return bricks + (mortar - bricks) * joint


def gravel(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Pebbles side by side: the cells around strewn points, each of another shade."""
    cell = rng.uniform(11, 26)
    columns, rows = int(width / cell) + 3, int(height / cell) + 3
    jitter = rng.uniform(0.1, 0.9, (rows, columns, 2)).astype(np.float32)
    half_width, half_height = width // 2 + 1, height // 2 + 1
    # Half size is enough for pebbles and a quarter of the work.
    x = (np.arange(half_width, dtype=np.float32) * 2 / cell + 1)[None, :]
    y = (np.arange(half_height, dtype=np.float32) * 2 / cell + 1)[:, None]
    ix, iy = np.floor(x).astype(int), np.floor(y).astype(int)
    nearest = np.full((half_height, half_width), 9, np.float32)
    second, owner = nearest.copy(), np.zeros(nearest.shape, int)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            j = jitter[np.clip(iy + dy, 0, rows - 1), np.clip(ix + dx, 0, columns - 1)]
            d = (x - ix - dx - j[:, :, 0]) ** 2 + (y - iy - dy - j[:, :, 1]) ** 2
            closer = d < nearest
            second = np.where(closer, nearest, np.minimum(second, d))
            owner = np.where(closer, (iy + dy) * columns + ix + dx, owner)
            nearest = np.where(closer, d, nearest)
    dome = np.clip(np.sqrt(second) - np.sqrt(nearest), 0, 0.6) / np.float32(0.6)
    shades = rng.standard_normal(rows * columns + columns + 2).astype(np.float32)
    hue, saturation = rng.uniform(0.05, 0.13), rng.uniform(0.03, 0.2)
    values = shades[np.clip(owner, 0, len(shades) - 1)] + (dome - np.float32(0.5)) * 2
    picture = tinted(values, hsv(hue, saturation, 0.25), hsv(hue, saturation * 0.7, rng.uniform(0.7, 0.9)))
    picture *= np.minimum(dome * 3, 1)[:, :, None] * np.float32(0.6) + np.float32(0.4)
    return cv2.resize(picture, (half_width * 2, half_height * 2), interpolation=cv2.INTER_LINEAR)[:height, :width]


def wood(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Planks side by side, with grain."""
    plank = rng.uniform(30, 80)
    hue, value = rng.uniform(0.05, 0.1), rng.uniform(0.45, 0.75)
    y = np.arange(height, dtype=np.float32)[:, None]
    row = np.floor(y / plank).astype(int)
    shade = rng.standard_normal(64).astype(np.float32)[row % 64]
    grain = (
        fractal(rng, width, height, 5, 2, stretch=22) * 0.6 + np.sin(fractal(rng, width, height, 26, 2, 9) * 7) * 0.35
    )
    picture = tinted(grain + shade * 0.8, hsv(hue, 0.55, value - 0.22), hsv(hue + 0.01, 0.4, value + 0.12))
    seam = np.clip(1.6 - (y - row * np.float32(plank)), 0, 1)[:, :, None]
    return picture * (1 - seam * np.float32(0.7))


def concrete(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Plaster or asphalt: blotches, grains and a few cracks."""
    value, tint = rng.uniform(0.35, 0.8), hsv(rng.uniform(0, 1), rng.uniform(0, 0.12), 1.0)
    values = fractal(rng, width, height, 110, 5) * 0.7 + rng.standard_normal((height, width), dtype=np.float32) * 0.35
    cracks = np.abs(fractal(rng, width, height, 140, 4)) < 0.012
    picture = tinted(values, (value - 0.16,) * 3, (value + 0.14,) * 3) * np.asarray(tint, np.float32)
    return picture * (1 - cracks.astype(np.float32)[:, :, None] * np.float32(0.4))


def foliage(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A hedge: many leaves over the dark."""
    hue = rng.uniform(0.18, 0.36) if rng.random() < 0.75 else rng.uniform(0.03, 0.12)
    ground = tinted(fractal(rng, width, height, 50), hsv(hue, 0.6, 0.08), hsv(hue, 0.5, 0.35))
    image = (ground * 255).astype(np.uint8)
    count = width * height // 420
    centres = rng.uniform((-10, -10), (width + 10, height + 10), (count, 2)) * 16
    axes = rng.uniform((5, 2), (12, 5), (count, 2)) * 16
    angles = rng.uniform(0, 360, count)
    depth = np.sort(rng.beta(1.5, 1.5, count))
    dark, light = np.asarray(hsv(hue, 0.65, 0.2)), np.asarray(hsv(hue - 0.03, 0.5, rng.uniform(0.5, 0.8)))
    shades = (dark + (light - dark) * np.clip(depth[:, None] + rng.normal(0, 0.12, (count, 1)), 0, 1)) * 255
    for (cx, cy), (ax, ay), angle, shade in zip(
        np.rint(centres).astype(int).tolist(),
        np.rint(axes).astype(int).tolist(),
        angles.tolist(),
        shades.tolist(),
        strict=True,
    ):
        points = np.asarray(cv2.ellipse2Poly((cx, cy), (ax, ay), int(angle), 0, 360, 45))
        cv2.fillConvexPoly(image, points, shade, cv2.LINE_AA, 4)
    return image.astype(np.float32) / 255


def cloth(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Woven cloth: checks or stripes, with folds."""
    period = rng.uniform(18, 60)
    base, band = (
        hsv(rng.random(), rng.uniform(0.1, 0.6), rng.uniform(0.5, 0.9)),
        hsv(rng.random(), 0.3, rng.uniform(0.4, 0.9)),
    )
    fold = fractal(rng, width, height, 130, 3)
    x = np.arange(width, dtype=np.float32)[None, :] + fold * 5
    y = np.arange(height, dtype=np.float32)[:, None] + fold * 5
    turn = rng.uniform(-0.4, 0.4)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    lines = np.clip(np.sin(u * (2 * np.pi / period)) * 3, 0, 1)
    if rng.random() < 0.6:
        lines = (lines + np.clip(np.sin(v * (2 * np.pi / period)) * 3, 0, 1)) / 2
    weave = np.sin(u * 2.1) * np.sin(v * 2.1) * 0.03
    picture = tinted((lines * 3 - 1.5).astype(np.float32), base, band)
    return np.clip(picture * (1 + fold * 0.07 + weave)[:, :, None], 0, 1).astype(np.float32)


def snow(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Snow with soft hollows."""
    values = fractal(rng, width, height, 90, 4) + rng.standard_normal((height, width), dtype=np.float32) * 0.2
    return tinted(values, (0.68, 0.74, 0.84), (0.98, 0.98, 1.0))


GROUNDS: dict[str, Texture] = {
    "grass": grass, "sand": sand, "water": water, "gravel": gravel, "wood": wood, "concrete": concrete,
    "straw": straw, "cloth": cloth, "snow": snow,
}  # fmt: skip
"""What something can stand or lie on."""

BACKDROPS: dict[str, Texture] = {
    "sky": sky, "brick": brick, "foliage": foliage, "concrete": concrete, "wood": wood, "cloth": cloth, "water": water,
}  # fmt: skip
"""What can be seen behind something."""
