"""Things, surroundings and camera put together: one image and its mask from (seed, class, index)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import cv2
import numpy as np

from wss_data.retrieval.sources.drawing.canvas import Canvas, fill, hsv, mix, turned
from wss_data.retrieval.sources.drawing.textures import BACKDROPS, GROUNDS, noise, texture
from wss_data.retrieval.sources.drawing.things import THINGS, Sketch, clip_art, clutter

DRAWN_CLASSES = tuple(THINGS)
"""The classes that can be drawn; a drawn label mask holds 1 for the first, 2 for the second, and so on."""

_WEB, _TARGET = 1, 2  # Two families of images that have no random number in common.
_PLACE, _OBJECT, _CAMERA, _CLUTTER, _WRONG = range(5)  # Streams within one image, so that parts of it can be redrawn.


@dataclass(frozen=True)
class Drawing:
    """One drawn image with its truth."""

    image: np.ndarray  # (H, W, 3), uint8, RGB
    mask: np.ndarray  # (H, W), uint8: 0 background, i + 1 for DRAWN_CLASSES[i]
    is_wrong: bool  # does not show the class that was searched for
    description: str

    @property
    def shown(self) -> tuple[str, ...]:
        """Classes with at least one pixel, in the order of ``DRAWN_CLASSES``."""
        return tuple(name for number, name in enumerate(DRAWN_CLASSES, start=1) if (self.mask == number).any())


# An object to draw: its class, how it looks, the fraction of the image to cover, its slice of the width.
_Wanted = tuple[str, Sketch, float, tuple[float, float]]


def is_wrong_image(class_name: str, seed: int, index: int, wrong_share: float) -> bool:
    """Whether an image is one of the wrong ones, a fraction ``wrong_share`` of all.

    Among the first n images their number is within 2 of ``wrong_share * n``; one that is wrong at one fraction stays
    wrong at every larger one.
    """
    start = _stream(_WEB, seed, class_name, 0, _WRONG).random()
    # Multiples of the golden ratio, modulo 1, spread evenly however many there are.
    return (start + index * 0.6180339887498949) % 1.0 < wrong_share


def draw_web_image(class_name: str, seed: int, index: int, wrong_share: float, with_object: bool = True) -> Drawing:
    """Draw what an image search for a class could return. The image depends on nothing but the arguments.

    A fraction ``wrong_share`` shows something else: another class, only a place, or clip art. False for ``with_object``
    leaves out the object and its shadow, and changes nothing else.
    """
    streams = partial(_stream, _WEB, seed, class_name, index)
    rng, shown = streams(_WRONG), class_name
    wrong = is_wrong_image(class_name, seed, index, wrong_share)
    if wrong:
        kind = rng.choice(["another class", "place", "clip art"], p=[0.4, 0.4, 0.2])
        if kind == "clip art":
            width, height = _frame(rng, rng.uniform(0.8, 1.4))
            sheet = Canvas(np.full((height, width, 3), hsv(rng.random(), 0.1, 0.95), np.float32), np.array([0, 0, 1]))
            sheet.draw(clip_art(rng), np.array([[height / 2, 0, width / 2], [0, height / 2, height * 0.42]]))
            return Drawing((sheet.image * 255).astype(np.uint8), np.zeros((height, width), np.uint8), True, "clip art")
        shown = str(rng.choice([name for name in DRAWN_CLASSES if name != class_name]))
        with_object = with_object and kind == "another class"
    rng = streams(_OBJECT)
    sketch = _individual(rng, THINGS[shown](rng))
    wide, high = np.ptp(_points(sketch), axis=0)
    # People frame what they photograph: a wide thing gets a wide image, more or less.
    aspect = (wide / high) ** rng.uniform(0.4, 1.0) * rng.uniform(0.9, 1.25)
    # Most fill a quarter to a half of the frame; some are too small or too large for the 20-80 % filter.
    sizes = (rng.uniform(0.05, 0.14), rng.uniform(0.85, 1.6), 0.2 + 0.38 * rng.beta(2, 2))
    wanted = [(shown, sketch, float(rng.choice(sizes, p=[0.08, 0.06, 0.86])), (0.0, 1.0))]
    return _compose(streams, _frame(rng, float(np.clip(aspect, 0.66, 1.6))), wanted if with_object else [], wrong)


def draw_target_image(seed: int, index: int, classes: Sequence[str] = DRAWN_CLASSES) -> Drawing:
    """Draw a scene with one to three objects of one to three of the ``classes``, as a target dataset has them."""
    streams = partial(_stream, _TARGET, seed, None, index)
    rng = streams(_OBJECT)
    count = int(rng.choice([1, 2, 3], p=[0.45, 0.35, 0.2]))
    most = (0.5, 0.26, 0.15)[count - 1]
    # Each object has its own slice of the frame.
    edges = np.cumsum([0, *rng.uniform(0.8, 1.25, count)])
    wanted = []
    for columns in pairwise(edges / edges[-1]):
        name = str(rng.choice(list(classes)))
        wanted.append((name, _individual(rng, THINGS[name](rng)), most * rng.uniform(0.4, 1.2), columns))
    return _compose(streams, _frame(rng, rng.uniform(1.1, 1.5)), wanted, False)


def _stream(family: int, seed: int, class_name: str | None, index: int, stream: int) -> np.random.Generator:
    """Random numbers that depend on the arguments alone, never on what was drawn before or by which process."""
    number = 0 if class_name is None else DRAWN_CLASSES.index(class_name) + 1
    return np.random.default_rng(np.random.SeedSequence([family, seed, number, index, stream]))


def _frame(rng: np.random.Generator, aspect: float) -> tuple[int, int]:
    """(width, height) in pixels with a long side of 360 to 520."""
    long = int(rng.integers(360, 521))
    return (long, max(240, round(long / aspect))) if aspect >= 1 else (max(240, round(long * aspect)), long)


def _individual(rng: np.random.Generator, sketch: Sketch) -> Sketch:
    """One of its kind: stretched, sheared and gently bent, every part alike, turned, facing left or right."""
    stretch = np.diag(rng.uniform(0.9, 1.12, 2)) + [[0, rng.normal(0, 0.05)], [0, 0]]
    bend, phase = rng.normal(0, 0.02, (2, 2)), rng.uniform(0, 2 * np.pi, 2)
    mirror, turn = (rng.choice([-1, 1]), 1), rng.uniform(-1, 1) * sketch.turn

    def changed(outline: np.ndarray) -> np.ndarray:
        waves = np.sin(outline * 2 * np.pi / 0.9 + phase)
        return turned((outline @ stretch + waves @ bend) * mirror, turn)

    return replace(sketch, parts=[replace(part, outline=changed(part.outline)) for part in sketch.parts])


def _points(sketch: Sketch) -> np.ndarray:
    return np.concatenate([part.outline for part in sketch.parts if part.is_object])


def _compose(
    streams: Callable[[int], np.random.Generator], frame: tuple[int, int], wanted: Sequence[_Wanted], is_wrong: bool
) -> Drawing:
    """Draw a place, in it each wanted object, and photograph it."""
    rng, strewn = streams(_PLACE), streams(_CLUTTER)
    place, horizon, where = _surroundings(rng, *frame)
    light = np.array([rng.uniform(-0.6, 0.6), -rng.uniform(0.35, 0.8), rng.uniform(0.5, 0.8)])
    canvas = Canvas(place, light / np.linalg.norm(light))
    _scatter(strewn, canvas, (horizon or 0) + 0.05 * frame[1], int(strewn.integers(0, 5)))
    mask = np.zeros(canvas.alpha.shape, np.uint8)
    for one in wanted:
        (name, sketch, *_), matrix = one, _placement(rng, one, horizon, frame)
        outlines = [part.outline @ matrix[:, :2].T + matrix[:, 2] for part in sketch.parts if part.is_object]
        _cast_shadow(canvas, fill(outlines, *frame), horizon is not None, sketch.stands, rng.uniform(0.3, 0.6))
        canvas.alpha[:] = 0
        canvas.draw(sketch.parts, matrix)
        mask[canvas.alpha > 0.5] = DRAWN_CLASSES.index(name) + 1
    # What lies before an object takes its pixels out of the mask.
    canvas.alpha[:] = mask > 0
    _scatter(strewn, canvas, 0.85 * frame[1], int(strewn.integers(0, 3)))
    mask[canvas.alpha < 0.5] = 0
    words = " and ".join(f"{name} ({sketch.pose})" for name, sketch, _, _ in wanted)
    return Drawing(_photograph(streams(_CAMERA), canvas.image), mask, is_wrong, f"{words} {where}")


def _surroundings(rng: np.random.Generator, width: int, height: int) -> tuple[np.ndarray, int | None, str]:
    """A ground before a backdrop, or one surface: the place, the row where the ground begins if it does, and words."""
    ground, backdrop = str(rng.choice(GROUNDS)), str(rng.choice(BACKDROPS))
    behind = _out_of_focus(rng, texture(rng, backdrop, width, height), 3.0)
    kind = rng.random()
    if kind < 0.15:
        return behind, None, f"before {backdrop}"
    image = texture(rng, ground, width, height)
    if kind < 0.4:
        return _out_of_focus(rng, image, 1.8), None, f"on {ground}"
    horizon = int(height * rng.uniform(0.2, 0.62))
    # Lying back towards the horizon: the texture is pinched at the top.
    pinch = rng.uniform(0.3, 0.8) * width
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    ends = corners + np.array([[0, horizon], [0, horizon], [pinch, 0], [-pinch, 0]], np.float32)
    matrix = cv2.getPerspectiveTransform(corners, ends)
    image = cv2.warpPerspective(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
    below = np.arange(height, dtype=np.float32)[:, None] - horizon
    edge = noise(rng, width, 2, rng.uniform(20, 120))[0] * rng.uniform(0, 5)
    image = mix(image, behind, np.clip((edge - below) / 2 + 0.5, 0, 1)[:, :, None])
    return image.astype(np.float32), horizon, f"on {ground} before {backdrop}"


def _out_of_focus(rng: np.random.Generator, image: np.ndarray, most: float) -> np.ndarray:
    """Blurred by up to ``most`` pixels, as what lies behind an object often is."""
    return cv2.GaussianBlur(image, (0, 0), 0.1 + most * rng.beta(1.2, 1.5))


def _placement(rng: np.random.Generator, one: _Wanted, horizon: int | None, frame: tuple[int, int]) -> np.ndarray:
    """Size and place by which an object covers about its fraction of the frame and mostly stays inside it. (2, 3)."""
    (_, sketch, fraction, columns), (width, height) = one, frame
    low, high = _points(sketch).min(0), _points(sketch).max(0)
    extent = high - low
    unit = 100 / extent.max()
    small = fill([(part.outline - low) * unit for part in sketch.parts if part.is_object], 101, 101)
    room = np.array([(columns[1] - columns[0]) * width * 1.06, height])
    # A large object may run out of the frame.
    largest = (room / extent).min() * (1.0 if fraction < 0.7 else 2.2)
    scale = min(np.sqrt(fraction * width * height / (small > 0).sum()) * unit, largest)
    centre = np.array([sum(columns) / 2 * width, height / 2])
    centre = centre + rng.uniform(-0.4, 0.4, 2) * np.maximum(room - extent * scale, 0)
    if sketch.stands and horizon is not None:
        # Its foot rests on the ground, in front of the horizon.
        foot = np.clip(centre[1] + extent[1] * scale / 2, horizon + 0.3 * (height - horizon), height * 0.97)
        centre[1] = foot - extent[1] * scale / 2
    return np.column_stack([np.eye(2) * scale, centre - (low + high) / 2 * scale])


def _cast_shadow(canvas: Canvas, silhouette: np.ndarray, upright: bool, touches: bool, strength: float) -> None:
    """Darken where the object, ``silhouette`` (H, W) uint8, keeps light from the ground or the surface behind it."""
    _, top, _, extent = cv2.boundingRect(silhouette)
    x, y, _ = canvas.light
    matrix = np.array([[1, 0, -x * extent * 0.12], [0, 1, -y * extent * 0.09]])
    if upright:
        # The silhouette falls over: squashed towards its lowest row and leaning away from the light.
        squash, drop = (0.22, 0.0) if touches else (0.12, 0.16 * extent)
        base = top + extent
        matrix = np.array([[1, x * 0.9, -x * 0.9 * base], [0, squash, base * (1 - squash) + drop]])
    shadow = cv2.GaussianBlur(cv2.warpAffine(silhouette, matrix, silhouette.shape[::-1]), (0, 0), 2 + extent * 0.03)
    canvas.image *= (1 - shadow.astype(np.float32) / 255 * np.float32(strength))[:, :, None]


def _scatter(rng: np.random.Generator, canvas: Canvas, top: float, count: int) -> None:
    """Strew small things that are no class over the ground from row ``top`` downwards, far ones first."""
    height, width = canvas.alpha.shape
    for bottom in np.sort(rng.uniform(top, height * 1.02, count)):
        fraction, parts = clutter(rng)
        size = fraction * max(width, height) * rng.uniform(0.6, 1.2)
        matrix = np.array([[size, 0, rng.uniform(0, width)], [0, size, bottom - size / 2]])
        canvas.draw([replace(part, is_object=False) for part in parts], matrix)


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """What the camera makes of it: exposure, colour cast, contrast, blur, noise. Returns (H, W, 3) uint8."""
    cast, (left, right) = rng.normal(1, 0.035, 3), rng.uniform(0.8, 1.1, 2)
    seen = image * cast * np.linspace(left, right, image.shape[1])[:, None]
    seen = (seen - 0.5) * rng.uniform(0.85, 1.15) + 0.5 + rng.uniform(-0.03, 0.03)
    seen = _out_of_focus(rng, seen.astype(np.float32), 1.3) * 255
    seen += rng.standard_normal((*image.shape[:2], 1), dtype=np.float32) * np.float32(rng.uniform(1, 6))
    return np.clip(seen, 0, 255).astype(np.uint8)
