"""Each class as a table of parts, in one of its kinds and poses.

An object is about one unit long, its origin near its middle, its front to the right. Nearly every part is a *limb*: a
curve with a thickness. ``scene`` then stretches and bends all the parts of an object together: no two are alike.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from wss_data.retrieval.sources.drawing.canvas import BLACK, WHITE, Part, Pattern, ellipse, hsv, limb, mix, turned


@dataclass(frozen=True)
class Sketch:
    """An object in its own unit."""

    parts: list[Part]  # lowest first
    pose: str  # kind and pose in words
    stands: bool  # on the ground; else it may be anywhere
    turn: float  # largest that still looks natural, radians


def _colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A main colour, another that goes with it, and a pale tone of the first."""
    hue = rng.random()
    main = hsv(hue, rng.uniform(0.25, 0.85), rng.uniform(0.35, 0.85))
    second = hsv(hue + rng.uniform(0.2, 0.8), rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.95))
    return main, second, mix(main, WHITE, rng.uniform(0.4, 0.7))


def _marking(rng: np.random.Generator, colour: np.ndarray, *kinds: str) -> Pattern | None:
    """One of the kinds of markings, or none."""
    kind = str(rng.choice(["", *kinds]))
    size, angle = rng.uniform(0.05, 0.12), rng.normal(0, 0.15)
    return Pattern(kind, colour, size, angle, rng.uniform(0.0, 0.5)) if kind else None


def _eye(x: float, y: float, size: float, ring: np.ndarray) -> list[Part]:
    return [Part(ellipse(x, y, size), ring), Part(ellipse(x, y, size * 0.6), BLACK, roundness=0.3, gloss=0.8)]


def bird(rng: np.random.Generator) -> Sketch:
    """A bird that stands, perches, flies or soars."""
    pose = str(rng.choice(["standing", "perched", "flying", "soaring"]))
    on_legs, in_air, soars = pose in ("standing", "perched"), pose in ("flying", "soaring"), pose == "soaring"
    main, second, pale = _colours(rng)
    horn = hsv(rng.uniform(0.0, 0.14), rng.uniform(0.3, 0.9), rng.uniform(0.2, 0.9))
    plumage = _marking(rng, mix(main, second, 0.6), "spots", "scales")
    quills = Pattern("stripes", mix(second, BLACK, 0.5), 0.05, rng.uniform(-0.5, 0.5), 0.5)
    slope, neck, size, bill = rng.uniform((0.0, 0.05, 0.08, 0.08), (0.5 * on_legs, 0.25, 0.11, 0.22))
    x, y = 0.3 + neck * 0.4, -0.1 - neck - slope * 0.2  # of the head
    beak = np.array([(size * 0.6, -size * 0.45), (size + bill, bill * 0.2), (size * 0.6, size * 0.5)]) + (x, y)
    body = limb([(0.25, -0.04), (0.05, 0.02), (-0.3, slope * 0.4)], [0.16, rng.uniform(0.28, 0.36), 0.08], 0.25)
    raised = [(0.1, 0), (rng.uniform(0, 0.12), -0.35), (rng.uniform(-0.4, 0.1), -0.65)]
    wing = limb(raised if in_air else [(0.2, -0.02), (0, 0), (-0.4, slope * 0.5)], [0.18, 0.26, 0.05], 0.12)
    near = Part(wing, second, pattern=quills, roundness=0.25)
    far = replace(near, outline=wing * (1, -1) if soars else wing + (0.12, 0))
    leg = limb([(-0.02, 0.1), (-0.05, 0.26), (-0.01, 0.42), (0.07, 0.43)], [0.05, 0.025, 0.03])
    branch = limb([(-0.8, 0.5), (-0.1, 0.46), (0.9, 0.4)], [0.05, 0.07, 0.04])
    parts = [
        *([Part(branch, hsv(0.07, 0.4, 0.35), is_object=False)] if pose == "perched" else []),
        *([Part(leg, horn), Part(leg + (0.09, 0), horn)] if on_legs else [far] if in_air else []),
        Part(limb([(-0.2, slope * 0.3), (-0.55, slope * 0.75)], [0.08, 0.1, 0.15], 0.05), second, pattern=quills),
        *([near] if soars else []),
        Part(body, main, pale, plumage),
        Part(limb([(0.17, -0.03), (x * 0.6 + 0.1, y * 0.6), (x, y)], [0.22, 0.13, 0.14], 0.1), main, pale, plumage),
        Part(beak, horn, roundness=0.3),
        Part(ellipse(x, y, size), mix(main, second, rng.choice([0.0, 0.7])), mix(main, pale, 0.5)),
        *_eye(x + size * 0.35, y - size * 0.2, size * 0.25, horn),
        *([] if soars else [near]),
    ]
    return Sketch(parts, pose, on_legs, 0.7 if in_air else 0.08)


_CARS = (  # kind, height of the bonnet and of the body, x of the cabin's corners from front to rear, its height
    ("saloon", 0.14, 0.18, (0.22, 0.04, -0.2, -0.36), 0.13),
    ("hatchback", 0.15, 0.2, (0.26, 0.1, -0.34, -0.47), 0.15),
    ("van", 0.18, 0.22, (0.38, 0.24, -0.46, -0.49), 0.19),
    ("pickup", 0.18, 0.2, (0.24, 0.12, -0.1, -0.14), 0.14),
    ("sports car", 0.1, 0.15, (0.18, 0.0, -0.15, -0.38), 0.1),
)


def _solid(front: np.ndarray, depth: np.ndarray, colour: np.ndarray, glass: tuple[int, ...] = ()) -> list[Part]:
    """What an outline drawn out to the far side by ``depth`` shows behind it; the edges ``glass`` carry a pane."""
    parts = [Part(front + depth, mix(colour, BLACK, 0.8), roundness=0)]
    for number, (a, b) in enumerate(pairwise([*front, front[0]])):
        across, rise = b - a
        if across * depth[1] - rise * depth[0] > 0:  # its outer side looks at the viewer
            # The more it looks upwards, the brighter.
            tone = mix(mix(colour, BLACK, 0.4), mix(colour, WHITE, 0.25), abs(across) / np.hypot(across, rise))
            face = np.array([a, b, b + depth, a + depth])
            parts.append(Part(face, tone, tone, roundness=0))
            if number in glass:
                parts.append(Part(mix(face.mean(0), face, 0.85), hsv(0.55, 0.2, 0.5), BLACK, roundness=0))
    return parts


def car(rng: np.random.Generator) -> Sketch:
    """A saloon, hatchback, van, pickup or sports car, from the side, a front or a rear quarter."""
    kind, bonnet, belt, roof, rise = _CARS[rng.integers(len(_CARS))]
    view = int(rng.integers(3))
    yaw = (rng.uniform(-0.2, 0.2), rng.uniform(0.3, 0.9), -rng.uniform(0.3, 0.9))[view]
    squeeze, depth = np.array((np.cos(yaw), 1)), np.array((np.sin(yaw) * 0.42, -rng.uniform(0.02, 0.14)))
    main, second, _ = _colours(rng)
    paint = mix(main, (BLACK, WHITE)[rng.integers(2)], rng.choice([0.0, 0.0, 0.8]))
    glass = hsv(rng.uniform(0.5, 0.62), 0.3, 0.3)
    body = np.array([(0.5, 0), (0.49, -bonnet), (roof[0], -belt), (-0.48, -belt), (-0.5, 0)]) * squeeze
    cabin = np.stack([np.array(roof), -belt - rise * np.array([0, 1, 1, 0])], 1) * squeeze
    # A window is a slice of the cabin between two fractions of its length.
    sills = [(s + 0.02, e - 0.02) for s, e in pairwise(np.linspace(0.08, 0.92, int(rng.integers(2, 4))))]
    windows = [[mix(cabin[n], cabin[3 - n], at) for n, at in ((0, s), (1, s), (1, e), (0, e))] for s, e in sills]
    seam = limb([(0, -belt), (0, -0.02)], [0.006, 0.006], 0)
    lamps = [(body[1] * 0.98, hsv(0.13, 0.2, 1.0)), (body[3] * (0.98, 0.9), hsv(0.0, 0.85, 0.8))]
    wheel, axles = ellipse(0, 0, rng.uniform(0.075, 0.09)) * squeeze, np.array([(0.3, 0.02), (-0.3, 0.02)]) * squeeze
    parts = [
        *(Part(wheel + at + depth * 0.95, BLACK, roundness=0) for at in axles),
        *_solid(body, depth, paint),
        *_solid(cabin + depth * 0.06, depth * 0.88, paint, glass=(0, 2)),
        Part(cabin, mix(paint, WHITE, 0.1), roundness=0.1),
        *(Part(np.array(w) * (1, 0.86) - (0, belt * 0.14), glass, WHITE * 0.6, roundness=0) for w in windows),
        Part(body, paint, mix(paint, BLACK, 0.45), roundness=0.2, gloss=0.3),
        *(Part(ellipse(x, y, 0.03 * squeeze[0], 0.02), tone, gloss=0.6) for (x, y), tone in lamps),
        *(Part(seam + (x, 0), mix(paint, BLACK, 0.6), roundness=0) for x in cabin[[0, 3], 0]),
        Part(limb([body[0] * 0.95, body[-1] * 0.95], [0.03, 0.03]), mix(second, BLACK, 0.7), roundness=0),
        *(Part(wheel * 1.15 + at, BLACK, roundness=0) for at in axles),
        *(Part(wheel + at, mix(BLACK, WHITE, 0.1), roundness=0.3) for at in axles),
        *(Part(wheel * 0.6 + at, WHITE * 0.8, None, Pattern("rays", BLACK, 5, 0, 0.3, tuple(at))) for at in axles),
    ]
    return Sketch(parts, f"{kind}, {('side', 'front quarter', 'rear quarter')[view]}", True, 0.05)


def fish(rng: np.random.Generator) -> Sketch:
    """A slim, oval, tall or round fish, straight or bent."""
    kinds = (("slim", 0.2, 0.16), ("oval", 0.34, 0.2), ("tall", 0.52, 0.25), ("round", 0.46, 0.4))
    kind, high, blunt = kinds[rng.integers(4)]
    bend, back = rng.normal(0, 0.06), high / 2
    main, second, pale = _colours(rng)
    rayed = Pattern("rays", mix(second, BLACK, 0.6), int(rng.integers(60, 120)), 0, 0.2, (0.35, 0))
    fin: dict[str, Any] = {"colour": second, "pattern": rayed, "roundness": 0.05, "opacity": 0.95}
    spread, notch = rng.uniform(0.22, 0.4), rng.choice([-0.36, -0.42, -0.5])
    upper = np.array([(-0.27, -0.03), (-0.42, -spread * 0.45), (-0.55, -spread * 0.6)])
    tail = np.concatenate([upper, [(notch, bend)], upper[::-1] * (1, -1)])
    spine = [(0.45, 0), (0.2, -bend / 2), (-0.05, -bend), (-0.32, bend / 2)]
    body = limb(spine, [blunt * high, 0.75 * high, high, 0.6 * high, 0.07], 0.25)
    ridge = np.array([(0.2, -0.5), (0.1, -1.1), (-0.15, -rng.uniform(1.1, 1.6)), (-0.22, -0.5)]) * (1, back)
    side = turned(limb([(0, 0), (-0.1, 0.02), (-0.2, 0)], [0.03, 0.1, 0.12], 0.3), rng.uniform(-0.8, 0.2))
    parts = [
        Part(tail, **fin),
        Part(ridge, **fin),
        Part(ridge[1:] * (0.8, -0.9), **fin),
        Part(body, main, pale, Pattern("scales", mix(main, BLACK, 0.2), 0.07), 0.7),
        Part(body, main, pale, _marking(rng, second, "stripes", "spots"), 0.7, 0.3, 0.8),
        Part(limb([(0.22, -back * 0.6), (0.16, 0), (0.22, back * 0.6)], [0.003, 0.012, 0.003]), BLACK, opacity=0.7),
        Part(limb([(0.44, back * 0.1), (0.37, back * 0.16)], [0.01, 0.005]), BLACK, roundness=0),
        *_eye(0.33, -back * 0.3, rng.uniform(0.025, 0.045), hsv(0.13, rng.uniform(0, 0.8), 0.95)),
        Part(side + (0.12, back * 0.25), **fin),
    ]
    return Sketch(parts, f"{kind}, {'bent' if abs(bend) > 0.04 else 'straight'}", False, 0.6)


def mushroom(rng: np.random.Generator) -> Sketch:
    """One to three mushrooms with domed, flat, pointed or hollow caps, from above or below."""
    kinds = (("domed", 0.3, 0), ("flat", 0.14, 0), ("pointed", 0.42, 0), ("hollow", 0.1, 0.06))
    (kind, high, dip), below = kinds[rng.integers(4)], bool(rng.random() < 0.5)
    main, _, pale = _colours(rng)
    tone, warts = mix(WHITE, hsv(0.1, 0.5, 0.6), rng.uniform(0, 0.7)), _marking(rng, pale, "spots")
    parts: list[Part] = []
    for x, y, scale in [(0, 0, 1), (-0.5, 0.2, 0.7), (0.55, 0.25, 0.6)][: rng.choice([1, 1, 2, 3])]:
        half, thick, lean = rng.uniform(0.28, 0.42), rng.uniform(0.1, 0.2), rng.normal(0, 0.06)
        flat = half * (rng.uniform(0.18, 0.35) if below else 0.08)
        side = np.array([(-1, 0), (-0.8, -0.6), (-0.35, -1)]) * (half, high)
        crown = limb([*side, (0, dip - high), *(side[::-1] * (-1, 1))], [0, 0])[:40]
        dome = np.concatenate([crown, ellipse(0, 0, half, flat, 1)])
        rays = Pattern("rays", mix(tone, BLACK, 0.6), int(rng.integers(40, 70)), centre=(0, flat * 0.3))
        cap = Part(dome, main, None, warts, 0.7, rng.uniform(0, 0.4))
        gills = Part(ellipse(0, 0, half, flat), mix(tone, BLACK, 0.3), None, rays, 0.1)
        foot = limb([(0, 0), (lean, 0.3), (lean * 0.5, 0.62)], [thick * 0.8, thick, thick * 1.4], 0.06)
        ring = limb([(-thick * 0.6, 0.2), (0, 0.23), (thick * 0.6, 0.2)], [0.04, 0.07, 0.04])
        stem = [Part(foot, tone), Part(ring, mix(tone, WHITE, 0.5))][: rng.integers(1, 3)]
        one = [cap, gills, *stem] if below else [*stem, cap]
        parts = [replace(part, outline=part.outline * scale + (x, y)) for part in one] + parts
    return Sketch(parts, f"{kind}, seen from {'below' if below else 'above'}", True, 0.12)


THINGS = {thing.__name__: thing for thing in (bird, car, fish, mushroom)}


def clutter(rng: np.random.Generator) -> tuple[float, list[Part]]:
    """A small thing that is no class, over its shadow, and its size as a fraction of the image's longer side."""
    tone, second = (hsv(rng.random(), rng.uniform(0.05, 0.7), rng.uniform(0.3, 0.8)) for _ in range(2))
    square = np.array([(-0.4, -0.5), (0.4, -0.5), (0.4, 0.5), (-0.4, 0.5)])
    lines, boards = Pattern("stripes", second, 0.4), Pattern("stripes", BLACK, 0.25, np.pi / 2, 0.8)
    blades = []
    for root, lean, high in zip(rng.normal(0, 0.15, 9), rng.normal(0, 0.3, 9), rng.uniform(0.4, 1, 9), strict=True):
        line = [(root, 0.5), (root + lean * 0.3, 0.5 - high * 0.6), (root + lean, 0.5 - high)]
        blades.append(Part(limb(line, [0.06, 0.05, 0.01], 0, 9), hsv(0.25, 0.6, 0.2 + high * 0.4), roundness=0))
    things = (
        (0.1, [Part(ellipse(0, 0, 0.5, 0.35) * rng.uniform(0.9, 1.1, (36, 1)), tone, roundness=0.8)]),  # a stone
        (0.12, [Part(limb([(-0.5, 0), (0, 0.1), (0.5, 0)], [0.05, 0.5, 0.02]), tone)]),  # a leaf
        (0.2, [Part(limb([(-0.5, 0), (-0.1, 0.05), (0.5, -0.1)], [0.07, 0.03]), tone)]),  # a stick
        (0.1, [Part(ellipse(0, 0, 0.45), tone, None, lines, 0.9, 0.4)]),  # a ball
        (0.2, [Part(square, tone, tone, boards, 0)]),  # a crate
        (0.3, [Part(limb([(0, -0.5), (0, 0.5)], [0.12, 0.14], 0.02), tone)]),  # a post
        (0.15, blades),
    )
    size, parts = things[rng.choice(7, p=[0.2, 0.2, 0.15, 0.1, 0.1, 0.05, 0.2])]
    return size, [Part(ellipse(0.1, 0.42, 0.45, 0.12), BLACK, roundness=0, opacity=0.3), *parts]


def clip_art(rng: np.random.Generator) -> list[Part]:
    """A flat star or heart above two lines of make-believe text."""
    tone, t = hsv(rng.random(), rng.uniform(0.5, 1), rng.uniform(0.4, 0.95)), np.linspace(0, 2 * np.pi, 61)
    star = np.stack([np.sin(t[::6]), -np.cos(t[::6])], 1) * np.resize([0.5, 0.21], 11)[:, None]
    heart = np.stack([0.5 * np.sin(t) ** 3, -0.42 * np.cos(t) + 0.16 * np.cos(2 * t) + 0.06 * np.cos(3 * t)], 1)
    symbol = (star, heart)[rng.integers(2)]
    text = [Part(limb([(-0.5, y), (0.4, y)], [0.04, 0.04]), BLACK, roundness=0) for y in (0.62, 0.72)]
    return [Part(symbol * 1.08, BLACK, roundness=0), Part(symbol, tone, tone, roundness=0), *text]
