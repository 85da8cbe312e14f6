"""Birds: standing, perched on a branch, swimming, flying past, soaring overhead."""

import numpy as np

from wss_data.retrieval.sources.drawing.canvas import (
    Colour,
    Paint,
    Part,
    Sketch,
    hsv,
    mix,
    rays,
    scales,
    speckle,
    stripes,
)
from wss_data.retrieval.sources.drawing.geometry import bezier, ellipse, leaf, ribbon, rotate, smooth

POSES = ("standing", "perched", "swimming", "flying", "soaring")


class _Plumage:
    """The colours that all parts of one bird share."""

    def __init__(self, rng: np.random.Generator) -> None:
        hue = rng.random()
        dull = rng.random() < 0.45
        self.back: Colour = hsv(
            rng.uniform(0.05, 0.12) if dull else hue,
            rng.uniform(0.15, 0.5) if dull else rng.uniform(0.4, 0.85),
            rng.uniform(0.25, 0.85),
        )
        self.belly = mix(self.back, (0.97, 0.94, 0.88), rng.uniform(0.3, 0.9))
        self.head = (
            self.back if rng.random() < 0.5 else hsv(rng.random(), rng.uniform(0.1, 0.8), rng.uniform(0.15, 0.95))
        )
        self.wing = mix(self.back, (0.05, 0.05, 0.08), rng.uniform(0.15, 0.6))
        self.tip = (
            mix(self.wing, (0, 0, 0), rng.uniform(0.3, 0.7)) if rng.random() < 0.6 else mix(self.wing, (1, 1, 1), 0.6)
        )
        self.beak = hsv(rng.uniform(0.02, 0.14), rng.uniform(0.3, 0.9), rng.uniform(0.25, 0.95))
        self.leg = hsv(rng.uniform(0.02, 0.12), rng.uniform(0.2, 0.8), rng.uniform(0.25, 0.8))
        self.feather = scales(rng.uniform(0.03, 0.05), 0.3)
        self.spotted = speckle(rng, rng.uniform(0.015, 0.03), 0.7) if rng.random() < 0.4 else None

    def body(self) -> Paint:
        pattern = self.spotted or self.feather
        return Paint(self.back, self.belly, np.pi / 2, pattern, mix(self.back, (0, 0, 0), 0.4), 0.8, 0.08)

    def feathers(self, angle: float, count: float) -> Paint:
        """Flight feathers as fine stripes across ``angle``."""
        return Paint(
            self.wing,
            self.tip,
            np.pi - angle,
            stripes(angle + np.pi / 2, count, 0, 1.2, 0.25),
            mix(self.wing, (0, 0, 0), 0.45),
            0.35,
            0.05,
        )


def draw_bird(rng: np.random.Generator) -> Sketch:
    """One bird in one of ``POSES``, beak to the right."""
    pose = str(rng.choice(POSES))
    plumage = _Plumage(rng)
    if pose == "soaring":
        return Sketch(tuple(_soaring(rng, plumage)), pose, False, np.pi)
    if pose == "flying":
        return Sketch(tuple(_flying(rng, plumage)), pose, False, 0.35)
    return Sketch(tuple(_at_rest(rng, plumage, pose)), pose, True, 0.08)


def _at_rest(rng: np.random.Generator, plumage: _Plumage, pose: str) -> list[Part]:
    swims = pose == "swimming"
    lean = rng.uniform(-0.15, 0.15) if swims else rng.uniform(0.2, 0.95)
    long, thick = 0.34, rng.uniform(0.15, 0.2)
    body = smooth(
        [(0.34, -0.03), (0.2, -thick * 1.02), (-0.1, -thick * 0.85), (-0.36, -0.08), (-0.4, 0.0), (-0.15, thick * 0.75),
         (0.1, thick * 1.05), (0.27, thick * 0.75)]
    )  # fmt: skip
    body = rotate(body, -lean)
    chest = rotate(np.array([[0.26, -0.05]]), -lean)[0]
    rear = rotate(np.array([[-long, -0.02]]), -lean)[0]

    neck = rng.uniform(0.18, 0.42) if swims or rng.random() < 0.25 else rng.uniform(0.05, 0.13)
    tilt = -np.pi / 2 + rng.uniform(0.15, 0.5)
    head = chest + neck * np.array([np.cos(tilt), np.sin(tilt)]) + (0.02, -0.07)
    size = rng.uniform(0.085, 0.125) * (0.85 if neck > 0.2 else 1.1)

    parts: list[Part] = []
    tail_turn = np.pi - lean + rng.uniform(-0.25, 0.25)
    parts.append(
        Part(
            rotate(_fan(rng, rng.uniform(0.2, 0.42), rng.uniform(0.05, 0.11)), tail_turn) + rear + (0.05, 0),
            plumage.feathers(tail_turn, 40),
        )
    )
    if not swims:
        parts += _legs(rng, plumage, body, perched=pose == "perched")
    s_curve = bezier(
        [chest + (-0.03, 0.05), chest + (0.09, -neck * 0.45), head + (-0.12 * (neck > 0.2), neck * 0.4), head], 18
    )
    parts.append(
        Part(
            ribbon(s_curve, [thick * 1.3, size * 1.5, size * 1.45]),
            Paint(plumage.head, plumage.back, np.pi / 2, plumage.feather, mix(plumage.back, (0, 0, 0), 0.3), 0.7, 0.05),
        )
    )
    if swims:
        # The water line cuts the belly off.
        body = np.stack([body[:, 0], np.minimum(body[:, 1], thick * 0.62)], 1)
    parts.append(Part(body, plumage.body()))
    parts += _folded_wing(rng, plumage, lean, thick)
    parts += _head(rng, plumage, head, size)
    return parts


def _legs(rng: np.random.Generator, plumage: _Plumage, body: np.ndarray, perched: bool) -> list[Part]:
    low = float(body[:, 1].max())
    foot = low + (0.06 if perched else rng.uniform(0.12, 0.28))
    paint = Paint(plumage.leg, mix(plumage.leg, (0, 0, 0), 0.4), roundness=0.5)
    parts = []
    if perched:
        bark = hsv(0.07, rng.uniform(0.15, 0.5), rng.uniform(0.2, 0.5))
        sag = rng.uniform(-0.1, 0.1)
        branch = smooth(
            [(-0.85, foot + sag), (-0.3, foot + 0.03), (0.25, foot + 0.04), (0.9, foot - sag)], closed=False
        )
        parts.append(
            Part(
                ribbon(branch, [0.1, 0.07, 0.05]),
                Paint(
                    bark,
                    mix(bark, (0, 0, 0), 0.5),
                    pattern=stripes(1.2, 22, 0, 1, 0.3),
                    second=mix(bark, (0, 0, 0), 0.5),
                    roundness=0.8,
                    gloss=0,
                ),
                False,
            )
        )
    for x, shade in ((rng.uniform(-0.06, 0.0), 0.3), (rng.uniform(0.04, 0.1), 0.0)):
        belly = float(body[np.abs(body[:, 0] - x) < 0.12, 1].max())
        knee = np.array([x - 0.03, (belly + foot) / 2])
        line = np.array([[x + 0.02, belly - 0.06], knee, [x, foot]])
        parts.append(Part(ribbon(line, [0.05, 0.024, 0.022]), Paint(mix(plumage.leg, (0, 0, 0), shade), roundness=0.5)))
        for toe in (-0.06, 0.05, 0.08):
            parts.append(Part(ribbon(np.array([[x, foot - 0.01], [x + toe, foot + 0.014]]), [0.022, 0.01]), paint))
    return parts


def _folded_wing(rng: np.random.Generator, plumage: _Plumage, lean: float, thick: float) -> list[Part]:
    reach = rng.uniform(0.34, 0.46)
    outline = smooth(
        [(0.2, -thick * 0.25), (0.1, -thick * 0.75), (-0.12, -thick * 0.65), (-reach * 0.8, -0.03), (-reach, 0.03),
         (-0.14, thick * 0.45), (0.08, thick * 0.4)]
    )  # fmt: skip
    cover = smooth(
        [(0.19, -thick * 0.22), (0.1, -thick * 0.68), (-0.05, -thick * 0.55), (-0.1, 0.0), (0.06, thick * 0.3)]
    )
    paint = Paint(
        mix(plumage.wing, plumage.back, 0.5),
        plumage.wing,
        np.pi / 2,
        scales(0.035, 0.6),
        mix(plumage.wing, (1, 1, 1), 0.3),
        0.5,
        0.08,
    )
    bar = ribbon(
        bezier([(-0.08, -thick * 0.6), (-0.15, -thick * 0.2), (-0.13, 0.0), (-0.06, thick * 0.3)], 12),
        [0.01, 0.035, 0.01],
    )
    return [
        Part(rotate(outline, -lean), plumage.feathers(-lean, 26)),
        Part(rotate(bar, -lean), Paint(plumage.tip, roundness=0)),
        Part(rotate(cover, -lean), paint),
    ]


def _head(rng: np.random.Generator, plumage: _Plumage, at: np.ndarray, size: float) -> list[Part]:
    nod = rng.uniform(-0.3, 0.3)
    kind = rng.choice(["cone", "long", "hooked", "flat"])
    length, depth = {"cone": (0.9, 0.55), "long": (1.9, 0.3), "hooked": (0.9, 0.75), "flat": (1.2, 0.45)}[str(kind)]
    length, depth = length * size * rng.uniform(0.85, 1.15), depth * size
    drop = depth * {"cone": 0.1, "long": 0.3, "hooked": 1.0, "flat": 0.2}[str(kind)]
    upper = np.concatenate([
        bezier([(0, -depth * 0.5), (length * 0.5, -depth * 0.5), (length, -depth * 0.3), (length, drop)], 10),
        bezier([(length, drop), (length * 0.7, depth * 0.1), (length * 0.4, depth * 0.1), (0, depth * 0.1)], 8),
    ])  # fmt: skip
    lower = np.array([[0, depth * 0.05], [length * 0.8, depth * 0.12], [length * 0.5, depth * 0.4], [0, depth * 0.5]])
    where = at + rotate(np.array([[size * 0.8, size * 0.1]]), nod)[0]
    parts = [
        Part(rotate(lower, nod) + where, Paint(mix(plumage.beak, (0, 0, 0), 0.25), roundness=0.3)),
        Part(
            rotate(upper, nod) + where,
            Paint(plumage.beak, mix(plumage.beak, (0, 0, 0), 0.25), roundness=0.5, gloss=0.3),
        ),
    ]
    if rng.random() < 0.25:
        for turn in (0.0, 0.35, 0.7):
            plume = rotate(leaf(size * rng.uniform(1.5, 2.3), size * 0.5, 0.6), -2.2 - turn + nod)
            parts.append(
                Part(
                    plume + at,
                    Paint(mix(plumage.head, plumage.tip, 0.4), mix(plumage.tip, (0, 0, 0), 0.2), np.pi, roundness=0.4),
                )
            )
    parts.append(
        Part(
            ellipse(at[0], at[1], size * 1.05, size * 0.95, nod),
            Paint(
                plumage.head,
                mix(plumage.head, plumage.belly, 0.4),
                np.pi / 2,
                plumage.feather,
                mix(plumage.head, (0, 0, 0), 0.3),
                0.8,
                0.1,
            ),
        )
    )
    eye = at + rotate(np.array([[size * 0.42, -size * 0.18]]), nod)[0]
    ring = hsv(rng.choice([0.12, 0.0, 0.05]), rng.uniform(0, 0.9), 0.9)
    if rng.random() < 0.35:
        streak = ribbon(
            np.array([eye + (size * 0.4, size * 0.05), eye, eye + (-size * 1.1, size * 0.15)]),
            [0.01, size * 0.35, 0.01],
        )
        parts.append(Part(streak, Paint(plumage.tip, roundness=0)))
    parts += [
        Part(ellipse(eye[0], eye[1], size * 0.23, size * 0.23), Paint(ring, roundness=0.3)),
        Part(ellipse(eye[0], eye[1], size * 0.16, size * 0.16), Paint((0.03, 0.03, 0.04), roundness=0.4, gloss=0.8)),
        Part(
            ellipse(eye[0] - size * 0.05, eye[1] - size * 0.06, size * 0.05, size * 0.05), Paint((1, 1, 1), roundness=0)
        ),
    ]
    return parts


def _fan(rng: np.random.Generator, length: float, half: float) -> np.ndarray:
    """A tail from the origin towards +x, its end round, straight or forked."""
    end = length * rng.uniform(0.75, 1.1)
    return smooth(
        [
            (-0.03, -half * 0.5),
            (length * 0.6, -half * 0.9),
            (length, -half * 1.2),
            (end, 0),
            (length, half * 1.2),
            (length * 0.6, half * 0.9),
            (-0.03, half * 0.5),
        ],
        steps=6,
    )


def _wing(rng: np.random.Generator, length: float, chord: float, fingers: int) -> tuple[np.ndarray, np.ndarray]:
    """A spread wing from the shoulder at the origin towards -y, front edge at +x: the whole of it, and its coverts."""
    sweep = rng.uniform(-0.05, 0.3) * length
    front = bezier(
        [
            (chord * 0.5, 0),
            (chord * 0.75, -length * 0.35),
            (chord * 0.5 - sweep * 0.2, -length * 0.7),
            (-sweep, -length),
        ],
        16,
    )
    back = bezier(
        [
            (-sweep - chord * 0.1, -length * 0.98),
            (-chord * 0.45 - sweep, -length * 0.65),
            (-chord * 0.65, -length * 0.4),
            (-chord * 0.55, 0),
        ],
        fingers * 2 + 1,
    )
    deep = np.where(np.arange(len(back)) % 2 == 0, 0.0, chord * 0.09)
    back = back + np.stack([-deep, deep * 0.2], 1)
    coverts = np.concatenate(
        [front[:13], bezier([front[12], (0, -length * 0.55), (-chord * 0.15, -length * 0.3), (-chord * 0.2, 0)], 8)]
    )
    return np.concatenate([front, back]), coverts


def _wing_parts(
    plumage: _Plumage,
    shapes: tuple[np.ndarray, np.ndarray],
    turn: float,
    at: tuple[float, float],
    dark: float,
    flip: int = 1,
) -> list[Part]:
    whole, coverts = (rotate(shape * (1, flip), turn) + at for shape in shapes)
    angle = turn if flip > 0 else turn + np.pi
    quills = Paint(
        mix(plumage.wing, (0, 0, 0), dark),
        mix(plumage.tip, (0, 0, 0), dark),
        angle + np.pi,
        rays(*at, 150, 0.45),
        mix(plumage.wing, (0, 0, 0), 0.6),
        0.3,
        0.03,
    )
    cover = Paint(
        mix(plumage.back, (0, 0, 0), dark),
        mix(plumage.wing, (0, 0, 0), dark),
        angle + np.pi,
        scales(0.04, 0.5),
        mix(plumage.wing, (1, 1, 1), 0.25),
        0.4,
        0.05,
    )
    return [Part(whole, quills), Part(coverts, cover)]


def _flying(rng: np.random.Generator, plumage: _Plumage) -> list[Part]:
    thick = rng.uniform(0.1, 0.14)
    body = smooth(
        [
            (0.3, -0.04),
            (0.16, -thick),
            (-0.12, -thick * 0.8),
            (-0.34, -0.03),
            (-0.32, 0.02),
            (-0.05, thick * 0.8),
            (0.17, thick),
            (0.29, 0.05),
        ]
    )
    length, chord = rng.uniform(0.42, 0.68), rng.uniform(0.24, 0.34)
    up = rng.choice([rng.uniform(-0.5, 0.5), np.pi + rng.uniform(-0.5, 0.4)])
    fingers = int(rng.integers(4, 8))
    shapes = _wing(rng, length, chord, fingers)
    size = rng.uniform(0.08, 0.11)
    parts = _wing_parts(
        plumage, shapes, up + rng.uniform(0.25, 0.6) * (1 if np.cos(up) > 0 else -1), (0.1, -0.02), 0.35, 1
    )
    if np.cos(up) < 0:
        # Wings beating down: the front edge must still look forward.
        shapes = (shapes[0] * (-1, 1), shapes[1] * (-1, 1))
        parts = _wing_parts(plumage, shapes, up - rng.uniform(0.25, 0.6), (0.1, -0.02), 0.35, 1)
    parts.append(
        Part(
            rotate(_fan(rng, rng.uniform(0.2, 0.32), rng.uniform(0.06, 0.12)), np.pi + rng.uniform(-0.2, 0.2))
            + (-0.28, 0),
            plumage.feathers(0, 40),
        )
    )
    parts.append(Part(body, plumage.body()))
    parts += _head(rng, plumage, np.array([0.34, -0.05]), size)
    parts += _wing_parts(plumage, shapes, up, (0.06, -thick * 0.2), 0.0, 1)
    return parts


def _soaring(rng: np.random.Generator, plumage: _Plumage) -> list[Part]:
    length, chord = rng.uniform(0.5, 0.72), rng.uniform(0.22, 0.34)
    shapes = _wing(rng, length, chord, int(rng.integers(4, 8)))
    sweep = rng.uniform(-0.3, 0.25)
    parts = [
        Part(
            rotate(_fan(rng, rng.uniform(0.18, 0.3), rng.uniform(0.08, 0.17)), np.pi) + (-0.22, 0),
            plumage.feathers(0, 40),
        )
    ]
    parts += _wing_parts(plumage, shapes, -sweep, (0.05, -0.03), 0.0)
    parts += _wing_parts(plumage, shapes, sweep, (0.05, 0.03), 0.1, -1)
    body = smooth(
        [
            (0.27, -0.05),
            (0.1, -0.09),
            (-0.12, -0.075),
            (-0.27, -0.03),
            (-0.27, 0.03),
            (-0.12, 0.075),
            (0.1, 0.09),
            (0.27, 0.05),
        ]
    )
    parts.append(Part(body, plumage.body()))
    parts.append(Part(np.array([[0.38, -0.025], [0.47, 0.0], [0.38, 0.025]]), Paint(plumage.beak, roundness=0.3)))
    parts.append(
        Part(
            ellipse(0.31, 0, 0.085, 0.068),
            Paint(
                plumage.head,
                mix(plumage.head, plumage.back, 0.5),
                np.pi,
                plumage.feather,
                mix(plumage.head, (0, 0, 0), 0.3),
                0.8,
                0.1,
            ),
        )
    )
    for y in (-0.045, 0.045):
        parts.append(Part(ellipse(0.345, y, 0.014, 0.011), Paint((0.03, 0.03, 0.04), roundness=0)))
    return parts
