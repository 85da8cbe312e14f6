"""Objects, surroundings and camera put together: one picture and its mask from (seed, class, index)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from wss_data.retrieval.sources.drawing.bird import draw_bird
from wss_data.retrieval.sources.drawing.canvas import Canvas, Paint, Part, Sketch, hsv
from wss_data.retrieval.sources.drawing.car import draw_car
from wss_data.retrieval.sources.drawing.clip_art import draw_clip_art
from wss_data.retrieval.sources.drawing.fish import draw_fish
from wss_data.retrieval.sources.drawing.geometry import bounds, ribbon, smooth, transform
from wss_data.retrieval.sources.drawing.mushroom import draw_mushroom
from wss_data.retrieval.sources.drawing.surroundings import (
    Background,
    cast_shadow,
    draw_background,
    draw_light,
    photograph,
    placement,
    scatter_clutter,
)
from wss_data.retrieval.sources.drawing.teapot import draw_teapot

_SKETCHERS: dict[str, Callable[[np.random.Generator], Sketch]] = {
    "bird": draw_bird,
    "car": draw_car,
    "fish": draw_fish,
    "mushroom": draw_mushroom,
    "teapot": draw_teapot,
}

DRAWN_CLASSES = tuple(_SKETCHERS)
"""The classes that can be drawn; a drawn label mask holds 1 for the first, 2 for the second, and so on."""

_WEB, _TARGET = 1, 2  # Two families of pictures that share no random number.
_PLACE, _OBJECT, _CAMERA, _CLUTTER, _WRONG = range(5)  # Streams within one picture, so that parts of it can be redrawn.

_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Drawing:
    """One drawn picture with its truth.

    Args:
        image: Shape (H, W, 3), uint8, RGB.
        mask: What is where: 0 background, i + 1 for ``DRAWN_CLASSES[i]``. Shape (H, W), uint8.
        shown: Classes with at least one pixel, in the order of ``DRAWN_CLASSES``.
        is_wrong: Whether it does not show the class that was searched for.
        description: What is drawn, in words.
    """

    image: np.ndarray
    mask: np.ndarray
    shown: tuple[str, ...]
    is_wrong: bool
    description: str


def is_wrong_image(class_name: str, seed: int, index: int, wrong_share: float) -> bool:
    """Whether the picture with this index is one of the wrong ones.

    Spread evenly instead of drawn by lot: among the first n pictures of a class
    the number of wrong ones is within 2 of ``wrong_share * n``, and a picture
    that is wrong at one share stays wrong at every larger one.

    Args:
        class_name: One of ``DRAWN_CLASSES``.
        seed: Which set of pictures.
        index: Which picture of the set.
        wrong_share: Share of wrong pictures, 0 to 1.
    """
    start = _stream(_WEB, seed, class_name, 0, _WRONG).random()
    return (start + index * _GOLDEN) % 1.0 < wrong_share


def draw_web_image(class_name: str, seed: int, index: int, wrong_share: float, with_object: bool = True) -> Drawing:
    """Draw what an image search for a class could return.

    Most pictures show one object of the class, filling a quarter to a half of
    the frame; some are too small or too large for the 20-80 % filter, and
    ``wrong_share`` of them show something else: another class, only a place,
    a texture, or clip art.

    Args:
        class_name: One of ``DRAWN_CLASSES``.
        seed: Which set of pictures, 0 or more.
        index: Which picture of the set, 0 or more.
        wrong_share: Share of wrong pictures, 0 to 1.
        with_object: False leaves out the object, its shadow and what grows before it; place, clutter, light and camera
            stay the same, so that the difference of the two pictures is the object.

    Returns:
        The picture; it depends on nothing but the arguments. Long side 360 to 520 pixels.
    """
    if not is_wrong_image(class_name, seed, index, wrong_share):
        return _web_scene(class_name, seed, index, class_name, with_object)
    rng = _stream(_WEB, seed, class_name, index, _WRONG)
    kind = rng.choice(["another class", "place", "texture", "clip art"], p=[0.4, 0.25, 0.15, 0.2])
    if kind == "another class":
        other = str(rng.choice([name for name in DRAWN_CLASSES if name != class_name]))
        return _web_scene(class_name, seed, index, other, with_object)
    if kind == "clip art":
        width, height = _frame(rng, rng.uniform(0.8, 1.4))
        image = draw_clip_art(rng, width, height)
    else:
        width, height = _frame(rng, 1.3)
        place = draw_background(rng, width, height)
        canvas = Canvas(place.image, draw_light(rng))
        if kind == "place":
            scatter_clutter(rng, canvas, place, 8)
        image = photograph(rng, canvas.image)
    return Drawing(image, np.zeros(image.shape[:2], np.uint8), (), True, str(kind))


def draw_target_image(seed: int, index: int, classes: Sequence[str] = DRAWN_CLASSES) -> Drawing:
    """Draw a scene with one to three objects of one to three classes, as a target dataset has them.

    Args:
        seed: Which set of pictures, 0 or more.
        index: Which picture of the set, 0 or more.
        classes: Classes to choose from.

    Returns:
        The picture and its mask, in the indices of ``DRAWN_CLASSES``. Long side 360 to 520 pixels.
    """
    rng = _stream(_TARGET, seed, None, index, _OBJECT)
    count = int(rng.choice([1, 2, 3], p=[0.45, 0.35, 0.2]))
    names = [str(name) for name in rng.choice(list(classes), count)]
    width, height = _frame(rng, rng.uniform(1.1, 1.5))
    sketches = [_SKETCHERS[name](rng) for name in names]
    # Each has its own slice of the frame; slices may overlap a little.
    edges = np.cumsum([0, *rng.uniform(0.8, 1.25, count)])
    edges = edges / edges[-1] * width
    order = rng.permutation(count)
    share = {1: rng.uniform(0.15, 0.5), 2: rng.uniform(0.12, 0.26), 3: rng.uniform(0.08, 0.15)}[count]
    wanted = []
    for number in order:
        left, right = edges[number] - width * 0.03, edges[number + 1] + width * 0.03
        wanted.append((names[number], sketches[number], share * rng.uniform(0.7, 1.3), (left, right)))
    return _compose(partial(_stream, _TARGET, seed, None, index), width, height, wanted, False, most_clutter=5)


def _stream(family: int, seed: int, class_name: str | None, index: int, stream: int) -> np.random.Generator:
    """Random numbers that depend on the arguments alone, never on what was drawn before or by which process."""
    number = 0 if class_name is None else DRAWN_CLASSES.index(class_name) + 1
    return np.random.default_rng(np.random.SeedSequence([family, seed, number, index, stream]))


def _web_scene(class_name: str, seed: int, index: int, shown: str, with_object: bool) -> Drawing:
    rng = _stream(_WEB, seed, class_name, index, _OBJECT)
    sketch = _SKETCHERS[shown](rng)
    low, high = bounds([part.outline for part in sketch.parts if part.is_object])
    # People frame what they photograph: a wide thing gets a wide picture, more or less.
    aspect = float(np.clip((high - low)[0] / (high - low)[1], 0.6, 1.7)) ** rng.uniform(0.4, 1.0) * rng.uniform(
        0.9, 1.25
    )
    width, height = _frame(rng, float(np.clip(aspect, 0.66, 1.6)))
    size = rng.random()
    if size < 0.08:
        share = rng.uniform(0.05, 0.14)
    elif size < 0.14:
        share = rng.uniform(0.85, 1.6)
    else:
        share = 0.2 + 0.38 * rng.beta(2.0, 2.0)
    wanted = [(shown, sketch, share, (0.0, float(width)))]
    streams = partial(_stream, _WEB, seed, class_name, index)
    return _compose(streams, width, height, wanted, shown != class_name, most_clutter=4, with_objects=with_object)


def _frame(rng: np.random.Generator, aspect: float) -> tuple[int, int]:
    """(width, height) in pixels with a long side of 360 to 520."""
    long = int(rng.integers(360, 521))
    return (long, max(240, round(long / aspect))) if aspect >= 1 else (max(240, round(long * aspect)), long)


def _compose(
    streams: Callable[[int], np.random.Generator],
    width: int,
    height: int,
    wanted: Sequence[tuple[str, Sketch, float, tuple[float, float]]],
    is_wrong: bool,
    most_clutter: int,
    with_objects: bool = True,
) -> Drawing:
    """Draw a place, in it each wanted object (class, sketch, share of the picture, columns), and photograph it."""
    rng = streams(_PLACE)
    place, light = draw_background(rng, width, height), draw_light(rng)
    canvas = Canvas(place.image, light)
    clutter = streams(_CLUTTER)
    scatter_clutter(clutter, canvas, place, most_clutter)
    mask = np.zeros((height, width), np.uint8)
    words = []
    strength = float(rng.uniform(0.25, 0.6))
    for name, sketch, share, columns in wanted:
        matrix = _place_object(rng, sketch, share, columns, place, (width, height))
        if not with_objects:
            continue
        _draw_object(canvas, sketch, matrix, place, strength)
        mask[canvas.alpha > 0.5] = DRAWN_CLASSES.index(name) + 1
        words.append(f"{name} ({sketch.pose})")
    stands = any(sketch.stands for _, sketch, _, _ in wanted)
    if with_objects and stands and place.upright and clutter.random() < 0.45:
        canvas.alpha[:] = mask > 0
        _foreground_tufts(clutter, canvas, mask)
    image = photograph(streams(_CAMERA), canvas.image)
    shown = tuple(name for number, name in enumerate(DRAWN_CLASSES, start=1) if (mask == number).any())
    return Drawing(image, mask, shown, is_wrong, f"{' and '.join(words)} {place.description}")


def _place_object(
    rng: np.random.Generator,
    sketch: Sketch,
    share: float,
    columns: tuple[float, float],
    place: Background,
    size: tuple[int, int],
) -> np.ndarray:
    """Choose size, turn and place so that the object covers about ``share`` of the picture and mostly stays inside it.

    Returns:
        From the object's own coordinates to pixels. Shape (2, 3).
    """
    width, height = size
    turn = float(np.clip(rng.normal(0, sketch.turn / 2), -sketch.turn, sketch.turn))
    mirrored = bool(rng.random() < 0.5)
    matrix = placement(1.0, turn, mirrored, (0, 0))
    outlines = [transform(part.outline, matrix) for part in sketch.parts if part.is_object]
    low, high = bounds(outlines)
    extent = high - low
    scale = np.sqrt(share * width * height / _area(outlines, low, high))
    room = (columns[1] - columns[0], float(height))
    # A large object may run out of the frame a little, a very large one a lot.
    fit = min(room[0] / extent[0], room[1] / extent[1])
    scale = min(scale, fit * (1.0 if share < 0.7 else 2.2))
    centre = (low + high) / 2
    slack = np.maximum(np.array(room) - extent * scale, 0) / 2
    x = (columns[0] + columns[1]) / 2 + rng.uniform(-0.8, 0.8) * slack[0]
    y = height / 2 + rng.uniform(-0.7, 0.7) * slack[1]
    if sketch.stands and place.upright:
        # Its foot rests on the ground, in front of the horizon.
        bottom = max(y + extent[1] * scale / 2, place.horizon + 0.3 * (height - place.horizon))
        y = min(bottom, height * 0.97) - extent[1] * scale / 2
    return placement(scale, turn, mirrored, (x - centre[0] * scale, y - centre[1] * scale))


def _area(outlines: Sequence[np.ndarray], low: np.ndarray, high: np.ndarray) -> float:
    """Area of the union of the outlines, in their own units, from a small picture of it."""
    scale = 96 / float((high - low).max())
    picture = np.zeros((98, 98), np.uint8)
    for outline in outlines:
        cv2.fillPoly(picture, [np.rint((outline - low) * scale * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
    return float(picture.sum()) / scale**2


def _draw_object(canvas: Canvas, sketch: Sketch, matrix: np.ndarray, place: Background, strength: float) -> None:
    """Draw one object with its shadow; ``canvas.alpha`` holds its coverage afterwards."""
    silhouette = np.zeros(canvas.alpha.shape, np.uint8)
    for part in sketch.parts:
        if part.is_object:
            cv2.fillPoly(
                silhouette, [np.rint(transform(part.outline, matrix) * 16).astype(np.int32)], 255, cv2.LINE_8, 4
            )
    cast_shadow(canvas.image, silhouette, canvas.light, place.upright, sketch.stands, strength)
    canvas.alpha[:] = 0
    canvas.draw(sketch.parts, matrix)


def _foreground_tufts(rng: np.random.Generator, canvas: Canvas, mask: np.ndarray) -> None:
    """Blades of grass before the foot of the object, which take their pixels out of the mask."""
    height, width = mask.shape
    columns = np.flatnonzero(mask.any(0))
    if len(columns) == 0:
        return
    lowest = height - 1 - np.argmax(mask[::-1] > 0, axis=0)
    columns = columns[lowest[columns] > lowest[columns].max() - 0.06 * height]
    for _ in range(int(rng.integers(1, 4))):
        x = float(rng.choice(columns))
        bottom = float(lowest[int(x)]) + 4
        size = 0.12 * max(width, height) * rng.uniform(0.6, 1.2)
        hue = rng.uniform(0.12, 0.32)
        for _ in range(int(rng.integers(7, 14))):
            root, lean, high = x + rng.normal(0, size * 0.2), rng.normal(0, 0.3) * size, rng.uniform(0.4, 1.0) * size
            line = smooth(
                [(root, bottom), (root + lean * 0.3, bottom - high * 0.6), (root + lean, bottom - high)], closed=False
            )
            paint = Paint(hsv(hue, 0.6, rng.uniform(0.25, 0.65)), roundness=0)
            canvas.draw([Part(ribbon(line, [size * 0.05, size * 0.04, 1.0]), paint, False)], np.eye(2, 3))
    mask[canvas.alpha < 0.5] = 0
