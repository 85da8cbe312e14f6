"""What is around an object: ground and wall, clutter, cast shadows, and what the camera does to it all."""

from dataclasses import dataclass

import cv2
import numpy as np

from wss_data.retrieval.sources.drawing import textures
from wss_data.retrieval.sources.drawing.canvas import Canvas, Light, Paint, Part, hsv, mix, stripes
from wss_data.retrieval.sources.drawing.geometry import blob, ellipse, leaf, ribbon, rotate, smooth


@dataclass(frozen=True)
class Background:
    """A place without its object.

    Args:
        image: Shape (H, W, 3), float32 in [0, 1].
        horizon: Row where the ground begins, in pixels; 0 where the ground (or wall) fills the picture.
        description: Words for a title, such as ``on sand before brick``.
        upright: Whether things stand on the ground (else it is looked at from above, or there is none).
    """

    image: np.ndarray
    horizon: int
    description: str
    upright: bool


def draw_light(rng: np.random.Generator) -> Light:
    """Light from above, left or right, hard or soft."""
    x, y = rng.uniform(-0.6, 0.6), -rng.uniform(0.35, 0.8)
    z = rng.uniform(0.5, 0.8)
    norm = float(np.sqrt(x * x + y * y + z * z))
    return Light((x / norm, y / norm, z / norm), float(rng.uniform(0.35, 0.65)))


def draw_background(rng: np.random.Generator, width: int, height: int) -> Background:
    """Draw a ground with a backdrop behind it, or one texture that fills the picture.

    Nothing here knows which class the object has, so that a background gives no class away.

    Args:
        rng: Draws everything.
        width: Pixels.
        height: Pixels.
    """
    if rng.random() < 0.4:
        both = {**textures.GROUNDS, **textures.BACKDROPS}
        name = str(rng.choice(sorted(both)))
        scale = rng.uniform(0.7, 1.0)
        image = both[name](rng, max(8, int(width * scale)), max(8, int(height * scale)))
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        image = _soften(rng, image, 1.8)
        return Background(image, 0, f"{'before' if name == 'sky' else 'on'} {name}", False)
    ground_name, wall_name = str(rng.choice(sorted(textures.GROUNDS))), str(rng.choice(sorted(textures.BACKDROPS)))
    horizon = int(height * rng.uniform(0.2, 0.62))
    ground = textures.GROUNDS[ground_name](rng, width, height)
    wall = _soften(rng, textures.BACKDROPS[wall_name](rng, width, max(horizon, 8)), 3.5)
    # Lying back towards the horizon: a trapezium of the texture fills the ground.
    pinch = rng.uniform(0.15, 0.4) * width
    from_corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    to_corners = np.array(
        [[-pinch * 0.2, horizon], [width + pinch * 0.2, horizon], [width + pinch * 2, height], [-pinch * 2, height]]
    )
    matrix = cv2.getPerspectiveTransform(from_corners, to_corners.astype(np.float32))
    image = cv2.warpPerspective(ground, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    wavy = textures.noise(rng, width, 2, rng.uniform(20, 120))[0] * rng.uniform(0, 5) + horizon
    rows = np.arange(height, dtype=np.float32)[:, None]
    is_wall = np.clip((wavy[None, :] - rows) / 2 + np.float32(0.5), 0, 1)[:, :, None]
    stretched = cv2.resize(wall, (width, height), interpolation=cv2.INTER_LINEAR) if horizon < 8 else None
    behind = np.empty_like(image)
    top = min(wall.shape[0], height)
    behind[:top] = wall[:top] if stretched is None else stretched[:top]
    behind[top:] = behind[top - 1]
    image += (behind - image) * is_wall
    haze = np.exp(-np.maximum(rows - horizon, 0) / (height * 0.15))[:, :, None] * np.float32(rng.uniform(0, 0.35))
    image += (behind[:top].mean((0, 1)) - image) * haze * (1 - is_wall)
    return Background(image, horizon, f"on {ground_name} before {wall_name}", True)


def _soften(rng: np.random.Generator, image: np.ndarray, most: float) -> np.ndarray:
    """Out of focus, as what lies behind an object often is: blurred by up to ``most`` pixels."""
    sigma = most * rng.beta(1.2, 1.5)
    return cv2.GaussianBlur(image, (0, 0), sigma) if sigma > 0.3 else image


def _stone(rng: np.random.Generator) -> list[Part]:
    tone = hsv(rng.uniform(0.03, 0.15), rng.uniform(0.03, 0.2), rng.uniform(0.3, 0.7))
    return [
        Part(
            blob(rng, 0.5, rng.uniform(0.25, 0.4), 0.16),
            Paint(tone, mix(tone, (0, 0, 0), 0.4), roundness=0.8, gloss=0.05),
        )
    ]


def _leaf(rng: np.random.Generator) -> list[Part]:
    tone = hsv(
        rng.choice([rng.uniform(0.02, 0.14), rng.uniform(0.2, 0.33)]), rng.uniform(0.5, 0.8), rng.uniform(0.35, 0.7)
    )
    shape, width = leaf(1.0, rng.uniform(0.3, 0.6)) - (0.5, 0), 0.02
    vein = ribbon(np.array([[-0.55, 0.0], [0.0, 0.01], [0.45, 0.0]]), [width * 1.5, width, width * 0.3])
    return [
        Part(shape, Paint(tone, mix(tone, (0, 0, 0), 0.3), roundness=0.3)),
        Part(vein, Paint(mix(tone, (1, 1, 0.8), 0.3), roundness=0)),
    ]


def _stick(rng: np.random.Generator) -> list[Part]:
    tone = hsv(0.07, rng.uniform(0.2, 0.5), rng.uniform(0.2, 0.5))
    line = smooth(
        [(-0.5, 0), (-0.15, rng.uniform(-0.08, 0.08)), (0.2, rng.uniform(-0.08, 0.08)), (0.5, 0)], closed=False
    )
    twig = np.array([line[14], line[14] + rotate(np.array([[0.22, 0]]), rng.uniform(-1, 1))[0]])
    paint = Paint(tone, mix(tone, (0, 0, 0), 0.4), roundness=0.8, gloss=0)
    return [Part(ribbon(line, [0.07, 0.05, 0.03]), paint), Part(ribbon(twig, [0.035, 0.015]), paint)]


def _tuft(rng: np.random.Generator) -> list[Part]:
    hue, parts = rng.uniform(0.16, 0.32), []
    for _ in range(int(rng.integers(6, 13))):
        lean, high = rng.normal(0, 0.3), rng.uniform(0.4, 1.0)
        root = rng.uniform(-0.18, 0.18)
        line = smooth([(root, 0.5), (root + lean * 0.3, 0.5 - high * 0.6), (root + lean, 0.5 - high)], closed=False)
        parts.append(
            Part(ribbon(line, [0.06, 0.045, 0.008]), Paint(hsv(hue, 0.6, rng.uniform(0.3, 0.65)), roundness=0))
        )
    return parts


def _post(rng: np.random.Generator) -> list[Part]:
    tone = hsv(rng.uniform(0, 0.12), rng.uniform(0.0, 0.5), rng.uniform(0.25, 0.75))
    half = rng.uniform(0.03, 0.07)
    shape = np.array([[-half, 0.5], [-half, -0.5], [half, -0.5], [half, 0.5]])
    paint = Paint(tone, mix(tone, (0, 0, 0), 0.35), 0.0, roundness=0.5, gloss=0.05)
    if rng.random() < 0.3:
        paint = Paint(tone, pattern=stripes(np.pi / 2, 4), second=(0.9, 0.9, 0.88), roundness=0.5, gloss=0.1)
    return [Part(shape, paint)]


def _crate(rng: np.random.Generator) -> list[Part]:
    tone, dark = hsv(rng.uniform(0.05, 0.12), rng.uniform(0.2, 0.5), rng.uniform(0.4, 0.7)), (0.12, 0.1, 0.08)
    box = np.array([[-0.5, -0.32], [0.5, -0.32], [0.5, 0.32], [-0.5, 0.32]])
    boards = stripes(np.pi / 2, int(rng.integers(4, 7)), 0.2, 5, 0.14)
    lid = np.array([[-0.5, -0.32], [-0.36, -0.46], [0.62, -0.46], [0.5, -0.32]])
    side = np.array([[0.5, -0.32], [0.62, -0.46], [0.62, 0.2], [0.5, 0.32]])
    return [
        Part(box, Paint(tone, mix(tone, dark, 0.2), pattern=boards, second=mix(tone, dark, 0.7), roundness=0)),
        Part(lid, Paint(mix(tone, (1, 1, 1), 0.25), roundness=0)),
        Part(side, Paint(mix(tone, dark, 0.45), roundness=0)),
    ]


def _ball(rng: np.random.Generator) -> list[Part]:
    tone = hsv(rng.random(), rng.uniform(0.3, 0.8), rng.uniform(0.4, 0.85))
    paint = Paint(
        tone, pattern=stripes(rng.uniform(0, 3), 2.2), second=mix(tone, (1, 1, 1), 0.6), roundness=0.9, gloss=0.3
    )
    return [Part(ellipse(0, 0, 0.4, 0.4), paint)]


CLUTTER = {
    "stone": (_stone, 0.11), "leaf": (_leaf, 0.12), "stick": (_stick, 0.2), "tuft": (_tuft, 0.15), "post": (_post, 0.6),
    "crate": (_crate, 0.2), "ball": (_ball, 0.09),
}  # fmt: skip
"""Small things that are no class: how to draw one, and its size as a share of the picture's longer side."""


def scatter_clutter(rng: np.random.Generator, canvas: Canvas, background: Background, most: int) -> None:
    """Strew 0 to ``most`` small things over the ground, far ones first; each casts a small shadow."""
    height, width = canvas.alpha.shape
    kinds = rng.choice(sorted(CLUTTER), int(rng.integers(0, most + 1)), p=_clutter_shares())
    bottoms = np.sort(rng.uniform(background.horizon + 0.05 * height, height * 1.02, len(kinds)))
    for kind, bottom in zip(kinds, bottoms, strict=True):
        draw, share = CLUTTER[str(kind)]
        near = 0.6 + 0.6 * (bottom - background.horizon) / max(height - background.horizon, 1)
        size = share * max(width, height) * rng.uniform(0.6, 1.2) * (near if background.upright else 1)
        x = rng.uniform(0, width)
        if kind == "post":
            # Posts stand far back or at the side, where they hide nothing.
            x = width * rng.choice([rng.uniform(0, 0.12), rng.uniform(0.88, 1)])
        turn = rng.uniform(0, 2 * np.pi) if kind in ("leaf", "stick") else rng.uniform(-0.1, 0.1)
        matrix = placement(size, turn, bool(rng.random() < 0.5), (x, bottom - size * 0.4))
        low = 0.12 if background.upright else 0.4
        shadow = ellipse(
            x + size * 0.1, bottom - size * (0.05 if kind != "leaf" else 0.35), size * 0.4, size * low * 0.5
        )
        if kind != "post":
            canvas.draw([Part(shadow, Paint((0, 0, 0), roundness=0, opacity=0.3), False)], np.eye(2, 3))
        canvas.draw([Part(p.outline, p.paint, False) for p in draw(rng)], matrix)


def _clutter_shares() -> np.ndarray:
    weights = {"stone": 3, "leaf": 3, "stick": 2, "tuft": 3, "post": 1, "crate": 1, "ball": 1}
    total = np.array([weights[kind] for kind in sorted(CLUTTER)], float)
    return total / total.sum()


def placement(size: float, turn: float, mirrored: bool, centre: tuple[float, float]) -> np.ndarray:
    """From an object's own coordinates to pixels.

    Args:
        size: Pixels for one unit of the object's own length.
        turn: Clockwise, radians.
        mirrored: Whether left and right are swapped (before turning).
        centre: Where the object's origin comes to lie, in pixels.

    Returns:
        Shape (2, 3).
    """
    c, s = np.cos(turn) * size, np.sin(turn) * size
    flip = -1 if mirrored else 1
    return np.array([[c * flip, -s, centre[0]], [s * flip, c, centre[1]]])


def cast_shadow(
    image: np.ndarray, silhouette: np.ndarray, light: Light, upright: bool, touches: bool, strength: float
) -> None:
    """Darken the ground where the object keeps the light away.

    Args:
        image: The background, changed in place. Shape (H, W, 3), float32.
        silhouette: 255 where the object will be. Shape (H, W), uint8.
        light: Where light comes from.
        upright: Whether there is a ground to stand on; else the object is close before a surface.
        touches: Whether it stands on that ground; else it hangs in the air above.
        strength: 0 none .. 1 black.
    """
    height, width = silhouette.shape
    rows = np.flatnonzero(silhouette.any(1))
    if len(rows) == 0 or strength <= 0:
        return
    extent = float(rows[-1] - rows[0] + 1)
    lx, ly, _ = light.direction
    if upright:
        # The silhouette falls over: squashed towards its lowest row and leaning away from the light.
        base, squash, lean = float(rows[-1]), 0.22 if touches else 0.12, -lx * 0.9
        drop = 0.0 if touches else 0.16 * extent
        strength *= 1.0 if touches else 0.6
        matrix = np.array([[1, -lean, lean * base], [0, squash, base * (1 - squash) - 1 + drop]], np.float32)
        sigma = max(1.5, extent * 0.02)
    else:
        matrix = np.array([[1, 0, -lx * extent * 0.12], [0, 1, -ly * extent * 0.09]], np.float32)
        sigma = max(2.0, extent * 0.035)
    # A shadow is soft: half size is enough.
    small = cv2.resize(
        cv2.warpAffine(silhouette, matrix, (width, height)), (width // 2, height // 2), interpolation=cv2.INTER_AREA
    )
    soft = cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma / 2), (width, height), interpolation=cv2.INTER_LINEAR)
    image *= (1 - np.float32(strength / 255) * soft)[:, :, None]


def photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """What the camera makes of it: exposure, colour cast, vignette, blur, noise.

    Args:
        rng: Draws all of it.
        image: Shape (H, W, 3), float32 in [0, 1].

    Returns:
        Shape (H, W, 3), uint8.
    """
    height, width = image.shape[:2]
    cast = rng.normal(1, 0.035, 3) * rng.uniform(0.85, 1.12)
    gain = np.asarray(cast, np.float32)
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :] - np.float32(rng.uniform(-0.4, 0.4))
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] - np.float32(rng.uniform(-0.4, 0.4))
    falloff = 1 - np.float32(rng.uniform(0, 0.14)) * (x * x + y * y)
    slope = 1 + np.float32(rng.uniform(-0.12, 0.12)) * x
    picture = np.clip(image, 0, 1) * gain * (falloff * slope)[:, :, None]
    contrast = np.float32(rng.uniform(0.85, 1.15))
    picture = (picture - np.float32(0.5)) * contrast + np.float32(0.5 + rng.uniform(-0.03, 0.03))
    sigma = rng.beta(1.2, 2.5) * 1.4
    if sigma > 0.25:
        picture = cv2.GaussianBlur(picture, (0, 0), sigma)
    grain = rng.standard_normal((height, width), dtype=np.float32) * np.float32(rng.uniform(1.0, 6.0))
    picture = picture * 255 + grain[:, :, None]
    return np.clip(picture, 0, 255).astype(np.uint8)
