"""Outlines and paint: from a few control points to pixels with smooth edges, a pattern, relief and highlights.

An outline is a closed polygon, (N, 2) float64, of (x, y) with y pointing down. A colour is (3,) float in [0, 1], RGB.
"""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

Points = Sequence[Sequence[float]] | np.ndarray

BLACK, WHITE = np.array([0.04, 0.04, 0.05]), np.array([0.97, 0.97, 0.95])

_SHIFT = 4  # OpenCV takes coordinates as integers with this many binary digits behind the point.


@dataclass(frozen=True)
class Pattern:
    """A repeated marking in a second colour."""

    kind: str  # stripes, spots, scales, or rays around the centre
    colour: np.ndarray
    size: float = 0.1  # distance from one stripe, spot or scale to the next, in the object's unit; of rays: how many
    angle: float = 0.0  # radians; at 0 stripes stand upright
    threshold: float = 0.0  # larger values leave less of the second colour: -1 all of it, 1 none
    centre: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Part:
    """One part of an object: an outline in the object's own unit, and how it is painted."""

    outline: np.ndarray
    colour: np.ndarray
    shade: np.ndarray | None = None  # colour at the lower end; None for a darker tone
    pattern: Pattern | None = None
    roundness: float = 0.6  # 0 flat .. 1 as round as a ball
    gloss: float = 0.15  # strength of the highlight, 0 to 1
    opacity: float = 1.0  # what shows through a fin counts as the object all the same
    is_object: bool = True  # the branch under a bird is not


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """A colour from hue (turns; wraps), saturation and value in [0, 1]."""
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


def mix(a: np.ndarray, b: np.ndarray, fraction: float | np.ndarray) -> np.ndarray:
    """What lies ``fraction`` of the way from ``a`` to ``b``: colours, images or points.

    >>> mix(np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0]), 0.25)
    array([0.75, 0.  , 0.25])
    """
    return a + (b - a) * fraction


def limb(points: Points, widths: Sequence[float], ends: float = 0.15, steps: int = 40) -> np.ndarray:
    """The outline of a smooth curve with a thickness: a body, a leg, a wing. Shape (2 * steps, 2).

    ``points`` (N, 2) lie on the curve; ``widths``, at least two, are spread evenly along it; ``ends`` is the length of
    each rounded end as a fraction of the whole, 0 for blunt ends.
    """
    # Here, because every command comes by this module, and few draw.
    from scipy.interpolate import CubicSpline, PchipInterpolator

    along = (1 - np.cos(np.linspace(0, np.pi, steps))) / 2  # denser at the ends, which are round
    p = np.asarray(points, np.float64)
    # Root of the distance ("centripetal"): a uniform parameter overshoots where points lie close together.
    knots = np.concatenate([[0], np.cumsum(np.sqrt(np.linalg.norm(np.diff(p, axis=0), axis=1)))])
    line = CubicSpline(knots, p, bc_type="natural")(along * knots[-1])
    half = PchipInterpolator(np.linspace(0, 1, len(widths)), widths)(along) / 2
    if ends > 0:
        half = half * np.sqrt(1 - (1 - np.minimum(np.minimum(along, 1 - along) / ends, 1)) ** 2)
    forward = np.gradient(line, axis=0)
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    side = np.stack([-forward[:, 1], forward[:, 0]], 1) * half[:, None]
    return np.concatenate([line + side, (line - side)[::-1]])


def ellipse(x: float, y: float, rx: float, ry: float | None = None, stop: float = 2.0) -> np.ndarray:
    """36 points on an ellipse around (x, y), clockwise from the right as far as ``stop`` half turns. (36, 2)."""
    t = np.linspace(0, stop, 36) * np.pi
    return np.stack([x + rx * np.cos(t), y + (rx if ry is None else ry) * np.sin(t)], 1)


def turned(points: Points, angle: float) -> np.ndarray:
    """Points turned about the origin by ``angle`` radians, clockwise on the image as y points down.

    >>> turned([(2, 0)], np.pi / 2).round().tolist()  # from the right to the bottom
    [[0.0, 2.0]]
    """
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray(points, np.float64) @ np.array([[c, s], [-s, c]])


def fill(outlines: Sequence[np.ndarray], width: int, height: int) -> np.ndarray:
    """What lies inside outlines given in pixels, smooth at the edge. Shape (height, width), uint8, 0 to 255."""
    covered = np.zeros((height, width), np.uint8)
    # An edge reaches up to a pixel too far, which closes the seams between parts, in image and mask alike.
    for outline in outlines:
        # OpenCV puts whole numbers at the middle of a pixel, we at its upper left corner.
        points = np.rint((outline - 0.5) * 2**_SHIFT).astype(np.int32)
        cv2.fillPoly(covered, [points], 255, cv2.LINE_AA, _SHIFT)
    return covered


@dataclass
class Canvas:
    """An image that parts are laid on; ``alpha`` holds how much of each pixel belongs to the object."""

    image: np.ndarray  # changed in place; (H, W, 3), float32 in [0, 1]
    light: np.ndarray  # unit vector (x, y, z) towards the light; y points down, z towards the viewer

    def __post_init__(self) -> None:
        self.alpha: np.ndarray = np.zeros(self.image.shape[:2], np.float32)

    def draw(self, parts: Sequence[Part], matrix: np.ndarray) -> None:
        """Lay parts on the image, the first lowest. ``matrix``: from the object's unit to pixels, (2, 3)."""
        for part in parts:
            outline = part.outline @ matrix[:, :2].T + matrix[:, 2]
            low = np.maximum(np.floor(outline.min(0)).astype(int) - 1, 0)
            width, height = np.minimum(np.ceil(outline.max(0)).astype(int) + 2, self.alpha.shape[::-1]) - low
            if width < 1 or height < 1:
                continue
            box = np.s_[low[1] : low[1] + height, low[0] : low[0] + width]
            covered = fill([outline - low], width, height).astype(np.float32) / 255
            pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), 2).astype(np.float32) + low + 0.5
            own = (pixels - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
            colour = _colours(part, own, covered, self.light)
            self.image[box] += (colour - self.image[box]) * (covered * part.opacity)[:, :, None]
            before = self.alpha[box]
            self.alpha[box] = np.maximum(before, covered) if part.is_object else before * (1 - covered)


def _colours(part: Part, own: np.ndarray, covered: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Colours of a box. ``own``: its pixels in the object's unit, (h, w, 2); ``covered``: (h, w) -> (h, w, 3)."""
    top, bottom = part.outline[:, 1].min(), part.outline[:, 1].max()
    shade = mix(part.colour, BLACK, 0.35) if part.shade is None else part.shade
    colour = mix(part.colour, shade, np.clip((own[:, :, 1:] - top) / (bottom - top), 0, 1))
    if part.pattern is not None:
        colour = mix(colour, part.pattern.colour, _weight(part.pattern, own)[:, :, None])
    if part.roundness > 0:
        brightness, highlight = _relief(covered, part.roundness, light)
        colour = colour * brightness[:, :, None] + part.gloss * highlight[:, :, None]
    return np.clip(colour, 0, 1)


def _weight(pattern: Pattern, own: np.ndarray) -> np.ndarray:
    """How much of the second colour each pixel takes, in [0, 1]. ``own``: (h, w, 2) -> (h, w)."""
    u, v = np.moveaxis(turned(own - pattern.centre, -pattern.angle) / pattern.size * 2 * np.pi, 2, 0)
    row = np.floor(v / np.pi)
    wave = {
        "stripes": lambda: np.cos(u),
        "rays": lambda: np.sin(np.arctan2(v, u) * round(pattern.size)),
        "spots": lambda: np.cos(u + np.sin(v * 0.7)) * np.cos(v + np.sin(u * 0.6)),  # a grid, bent to hide it
        "scales": lambda: 1 - 4 * np.abs(np.hypot(np.sin((u + np.pi * row) / 2), v / np.pi - row) - 0.75),
    }[pattern.kind]()
    return np.clip((wave - pattern.threshold) * 3, 0, 1)


def _relief(covered: np.ndarray, roundness: float, towards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Brightness (1 faces the viewer) and highlight of a flat shape as if blown up like a cushion; (h, w) float32."""
    height, width = covered.shape
    # Relief is smooth: a quarter of the size is enough.
    small = cv2.resize(covered, (max(3, width // 4), max(3, height // 4)), interpolation=cv2.INTER_AREA)
    inside = cv2.copyMakeBorder((small > 0.5).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3)
    radius = max(float(distance.max()), 1.0)
    t = distance / radius
    surface = cv2.GaussianBlur(np.sqrt(t * (2 - t)) * (radius * roundness), (0, 0), max(0.8, radius * 0.22))
    slope_y, slope_x = np.gradient(surface)
    norm, halfway = np.sqrt(1 + slope_x**2 + slope_y**2), towards + (0, 0, 1)
    facing, shine = (np.maximum(z - x * slope_x - y * slope_y, 0) / norm for x, y, z in (towards, halfway))
    # Half of the light comes from all around.
    planes = np.stack([(1 + facing / towards[2]) / 2, (shine / np.linalg.norm(halfway)) ** 30], 2)[1:-1, 1:-1]
    enlarged = cv2.resize(np.ascontiguousarray(planes, np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return enlarged[:, :, 0], enlarged[:, :, 1]
