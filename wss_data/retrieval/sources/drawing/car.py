"""Cars as solids: saloon, hatchback, van, pickup, sports car, turned and seen from any side and from slightly above."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from wss_data.retrieval.sources.drawing.canvas import Colour, Paint, Part, Sketch, hsv, mix
from wss_data.retrieval.sources.drawing.geometry import ellipse, ribbon, smooth

_DISTANCE = 3.2
"""From the camera to the middle of the car, in lengths of the car: sets the perspective."""


@dataclass(frozen=True)
class _Kind:
    """A kind of car seen from the side, nose to the right; unit: its length, height 0 is the ground.

    Args:
        body: Outline of the body from the nose's foot over the top to the tail's foot, (forward, up).
        cabin: Foot and head of the windscreen, head and foot of the rear window.
        panes: Side windows.
    """

    body: tuple[tuple[float, float], ...]
    cabin: tuple[tuple[float, float], ...]
    panes: int


def _upright(forward: Sequence[float], up: Sequence[float]) -> tuple[tuple[float, float], ...]:
    return tuple(zip(forward, up, strict=True))


_KINDS = {
    "saloon": _Kind(
        _upright(
            (0.49, 0.5, 0.475, 0.22, -0.05, -0.32, -0.48, -0.5, -0.49),
            (0.07, 0.14, 0.205, 0.235, 0.245, 0.245, 0.225, 0.14, 0.07),
        ),
        ((0.22, 0.235), (0.06, 0.36), (-0.18, 0.36), (-0.35, 0.245)),
        panes=2,
    ),
    "hatchback": _Kind(
        _upright(
            (0.49, 0.5, 0.47, 0.24, -0.1, -0.4, -0.49, -0.5, -0.48),
            (0.07, 0.15, 0.22, 0.255, 0.265, 0.27, 0.24, 0.14, 0.07),
        ),
        ((0.25, 0.25), (0.08, 0.4), (-0.32, 0.4), (-0.46, 0.265)),
        panes=2,
    ),
    "van": _Kind(
        _upright(
            (0.49, 0.5, 0.48, 0.36, 0.0, -0.4, -0.495, -0.5, -0.49),
            (0.07, 0.17, 0.25, 0.285, 0.29, 0.29, 0.285, 0.16, 0.07),
        ),
        ((0.38, 0.28), (0.24, 0.47), (-0.46, 0.47), (-0.49, 0.285)),
        panes=3,
    ),
    "pickup": _Kind(
        _upright(
            (0.49, 0.5, 0.47, 0.24, 0.0, -0.3, -0.49, -0.5, -0.49),
            (0.09, 0.18, 0.245, 0.265, 0.27, 0.27, 0.27, 0.16, 0.09),
        ),
        ((0.23, 0.265), (0.11, 0.4), (-0.1, 0.4), (-0.14, 0.27)),
        panes=1,
    ),
    "sports car": _Kind(
        _upright(
            (0.49, 0.5, 0.46, 0.2, -0.05, -0.3, -0.48, -0.5, -0.48),
            (0.05, 0.1, 0.155, 0.205, 0.215, 0.225, 0.21, 0.13, 0.05),
        ),
        ((0.18, 0.205), (0.0, 0.3), (-0.15, 0.3), (-0.38, 0.22)),
        panes=1,
    ),
}


class _View:
    """Turns points of a solid car into points of the picture."""

    def __init__(self, yaw: float, pitch: float, middle: float) -> None:
        self.cos, self.sin = np.cos(yaw), np.sin(yaw)
        self.up, self.down = np.cos(pitch), np.sin(pitch)
        self.middle = middle

    def __call__(self, points: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
        """``points``: (N, 3) of forward, sideways (towards the viewer at yaw 0), up -> (N, 2)."""
        p = np.asarray(points, dtype=np.float64)
        across = p[:, 0] * self.cos + p[:, 1] * self.sin
        nearer = p[:, 1] * self.cos - p[:, 0] * self.sin
        high = p[:, 2] - self.middle
        depth = nearer * self.up + high * self.down
        zoom = _DISTANCE / (_DISTANCE - depth)
        return np.stack([across * zoom, (nearer * self.down - high * self.up) * zoom], 1)


def _faces_viewer(outline: np.ndarray) -> bool:
    """Whether a face shows its outside, from which its corners run anticlockwise."""
    x, y = outline[:, 0], outline[:, 1]
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) < 0


def draw_car(rng: np.random.Generator) -> Sketch:
    """One car, nose to the right; seen from the front quarter where ``yaw`` is negative, else from the rear quarter."""
    kind = str(rng.choice(sorted(_KINDS)))
    shape = _KINDS[kind]
    tall = rng.uniform(0.92, 1.12)
    profile = [(x, z * tall) for x, z in shape.body]
    cabin = [(x, z * tall) for x, z in shape.cabin]
    yaw = float(
        rng.choice(
            [rng.uniform(-0.2, 0.2), rng.uniform(-0.95, -0.3), rng.uniform(0.3, 0.95), rng.uniform(-1.4, -1.0)],
            p=[0.3, 0.35, 0.25, 0.1],
        )
    )
    view = _View(yaw, rng.uniform(0.03, 0.32), 0.2)
    half = rng.uniform(0.185, 0.215)
    body = _body_colour(rng)
    glass = mix(hsv(rng.uniform(0.5, 0.62), 0.3, rng.uniform(0.12, 0.35)), body, 0.08)
    wheel = rng.uniform(0.072, 0.088) * (1.1 if kind == "pickup" else 1)
    axles = (rng.uniform(0.29, 0.33), -rng.uniform(0.29, 0.33))

    parts = [p for x in axles for p in _wheel(rng, view, x, -half, wheel, rim=False)]
    curve = smooth(profile, closed=False, steps=5)
    parts += _shell(view, curve, half, body)
    parts += _cabin_parts(rng, view, cabin, half, body, glass, shape.panes)
    parts += _side_parts(rng, view, curve, cabin, half, body, axles, wheel)
    parts += _end_parts(rng, view, profile, half, body, front=yaw < 0)
    style = int(rng.integers(4, 8))
    parts += [p for x in axles for p in _wheel(rng, view, x, half, wheel, rim=True, spokes=style)]
    seen = "side" if abs(yaw) < 0.25 else "front" if yaw < -0.98 else "front quarter" if yaw < 0 else "rear quarter"
    return Sketch(tuple(parts), f"{kind}, {seen}", True, 0.05)


def _body_colour(rng: np.random.Generator) -> Colour:
    if rng.random() < 0.3:
        return mix((0.08, 0.08, 0.09), (0.93, 0.93, 0.94), float(rng.choice([0.05, 0.45, 0.7, 0.97])))
    return hsv(rng.random(), rng.uniform(0.55, 0.95), rng.uniform(0.35, 0.9))


def _lit(colour: Colour, forward: float, up: float) -> Colour:
    """Colour of a face by where it looks to: light comes from above."""
    amount = 0.72 + 0.38 * up + 0.05 * forward
    return mix((0, 0, 0), colour, amount) if amount <= 1 else mix(colour, (1, 1, 1), (amount - 1) * 1.6)


def _shell(view: _View, curve: np.ndarray, half: float, body: Colour) -> list[Part]:
    """The body's outer skin across its width, in strips, over a dark underside that closes the seams."""
    near, far = (np.stack([curve[:, 0], np.full(len(curve), y), curve[:, 1]], 1) for y in (half, -half))
    under = Paint(mix(body, (0, 0, 0), 0.8), roundness=0)
    floor = view(
        [
            (curve[0, 0], half, curve[0, 1]),
            (curve[0, 0], -half, curve[0, 1]),
            (curve[-1, 0], -half, curve[-1, 1]),
            (curve[-1, 0], half, curve[-1, 1]),
        ]
    )
    parts = [Part(floor, under), Part(view(far), under)]
    for start in range(0, len(curve) - 1, 2):
        stop = min(start + 2, len(curve) - 1)
        # A little of the next strip as well, so that no seam shows between two smooth edges.
        reach = min(stop + 1, len(curve) - 1)
        outline = view(np.concatenate([far[start : reach + 1], near[start : reach + 1][::-1]]))
        if not _faces_viewer(view(np.stack([far[start], far[stop], near[stop], near[start]]))):
            continue
        dx, dz = curve[stop] - curve[start]
        norm = max(float(np.hypot(dx, dz)), 1e-9)
        parts.append(Part(outline, Paint(_lit(body, dz / norm, -dx / norm), roundness=0)))
    return parts


def _cabin_parts(
    rng: np.random.Generator,
    view: _View,
    cabin: list[tuple[float, float]],
    half: float,
    body: Colour,
    glass: Colour,
    panes: int,
) -> list[Part]:
    base, roof = half * 0.97, half * rng.uniform(0.76, 0.88)
    width = (base, roof, roof, base)
    near = np.array([(x, y, z) for (x, z), y in zip(cabin, width, strict=True)])
    far = near * (1, -1, 1)
    parts = [Part(view(far), Paint(mix(body, (0, 0, 0), 0.7), roundness=0))]
    for number, (is_glass, up) in enumerate(((True, 0.6), (False, 1.0), (True, 0.5))):
        corners = np.stack([far[number], far[number + 1], near[number + 1], near[number]])
        if not _faces_viewer(view(corners)):
            continue
        parts.append(Part(view(corners), Paint(_lit(body, 0, up), roundness=0, gloss=0)))
        if is_glass:
            parts += _pane(view, corners, glass, 0.07, 0.93, 0.08, 0.93)
    side = near
    parts.append(Part(_rounded(view(side)), Paint(_lit(body, 0, 0.25), _lit(body, 0, 0.6), -np.pi / 2, roundness=0)))
    edges = np.linspace(0.05, 0.95, panes + 1)
    corners = near
    blind = panes == 3 and rng.random() < 0.5
    for number, (a, b) in enumerate(pairwise(edges)):
        if blind and number > 0:
            continue
        parts += _pane(view, corners, glass, 0.1, 0.9, a + 0.012, b - 0.02)
    return parts


def _pane(view: _View, corners: np.ndarray, glass: Colour, t0: float, t1: float, s0: float, s1: float) -> list[Part]:
    """A window in a four-cornered face: s runs from its first edge to its third, t along the first edge."""
    a, b, c, d = corners

    def at(s: float, t: float) -> np.ndarray:
        return (a * (1 - t) + b * t) * (1 - s) + (d * (1 - t) + c * t) * s

    outline = view(np.stack([at(s0, t0), at(s0, t1), at(s1, t1), at(s1, t0)]))
    span = s1 - s0
    shine = view(
        np.stack([at(s0 + span * 0.2, t0), at(s0 + span * 0.45, t1), at(s0 + span * 0.65, t1), at(s0 + span * 0.4, t0)])
    )
    return [
        Part(outline, Paint(glass, mix(glass, (0.75, 0.85, 0.95), 0.55), -np.pi / 2, roundness=0)),
        Part(shine, Paint((0.9, 0.95, 1.0), roundness=0, opacity=0.22)),
    ]


def _rounded(outline: np.ndarray) -> np.ndarray:
    """The outline with its corners cut twice (Chaikin)."""
    for _ in range(2):
        after = np.roll(outline, -1, 0)
        outline = np.stack([outline * 0.88 + after * 0.12, outline * 0.12 + after * 0.88], 1).reshape(-1, 2)
    return outline


def _side_parts(
    rng: np.random.Generator,
    view: _View,
    curve: np.ndarray,
    cabin: list[tuple[float, float]],
    half: float,
    body: Colour,
    axles: tuple[float, float],
    wheel: float,
) -> list[Part]:
    def flat(points: np.ndarray) -> np.ndarray:
        return view(np.stack([points[:, 0], np.full(len(points), half), points[:, 1]], 1))

    side = flat(curve)
    top = float(curve[:, 1].max())
    low = float(curve[:, 1].min())
    parts = [Part(side, Paint(_lit(body, 0, 0.35), _lit(body, 0, -0.55), np.pi / 2, roundness=0.12, gloss=0.1))]
    line = np.array([[0.47, top * 0.78], [0.0, top * 0.84], [-0.47, top * 0.82]])
    parts.append(Part(flat(ribbon(line, 0.008)), Paint(mix(body, (1, 1, 1), 0.45), roundness=0, opacity=0.7)))
    sill = np.array([[0.44, low], [0.44, low + 0.03], [-0.44, low + 0.03], [-0.44, low]])
    parts.append(Part(flat(sill), Paint(mix(body, (0.05, 0.05, 0.05), 0.8), roundness=0)))
    seams = [cabin[0][0] - 0.04, (cabin[1][0] + cabin[2][0]) / 2, cabin[3][0] + 0.1]
    for x in seams:
        seam = np.array([[x, top * 0.97], [x - 0.005, low + 0.04]])
        parts.append(Part(flat(ribbon(seam, 0.006)), Paint(mix(body, (0, 0, 0), 0.65), roundness=0)))
    for x in seams[1:]:
        handle = np.array([[x + 0.02, top * 0.86], [x + 0.06, top * 0.86]])
        parts.append(Part(flat(ribbon(handle, 0.012)), Paint(mix(body, (0.85, 0.85, 0.85), 0.6), roundness=0)))
    if rng.random() < 0.2:
        band = np.array([[0.48, top * 0.5], [-0.48, top * 0.5]])
        parts.append(Part(flat(ribbon(band, 0.03)), Paint(mix(body, (1, 1, 1), 0.85), roundness=0)))
    for x, colour in ((0.465, (1.0, 0.95, 0.8)), (-0.475, (0.8, 0.08, 0.06))):
        parts.append(Part(flat(ellipse(x, top * 0.76, 0.03, 0.018)), Paint(colour, roundness=0.5, gloss=0.6)))
    mirror = view(
        np.stack(
            [
                cabin[0][0] - 0.03 + ellipse(0, 0, 0.025, 0.02)[:, 0],
                np.full(32, half * 1.12),
                top + 0.02 + ellipse(0, 0, 0.025, 0.02)[:, 1],
            ],
            1,
        )
    )
    parts.append(Part(mirror, Paint(mix(body, (0, 0, 0), 0.25), roundness=0.5)))
    for x in axles:
        arch = ellipse(x, wheel * 0.95, wheel * 1.2, wheel * 1.22)
        arch[:, 1] = np.maximum(arch[:, 1], low)
        parts.append(Part(flat(arch), Paint((0.03, 0.03, 0.03), roundness=0)))
    return parts


def _end_parts(
    rng: np.random.Generator, view: _View, profile: list[tuple[float, float]], half: float, body: Colour, front: bool
) -> list[Part]:
    """Lights, grille, number plate and bumper on the end that shows."""
    x = 0.502 if front else -0.502
    bottom, top = profile[0][1], (profile[2] if front else profile[6])[1]

    def face(outline: np.ndarray) -> np.ndarray:
        return view(np.stack([np.full(len(outline), x), outline[:, 0], outline[:, 1]], 1))

    if abs(view.sin) < 0.12:
        return []
    parts = []
    high = top - bottom
    bumper = np.array([[-half, bottom], [half, bottom], [half, bottom + high * 0.28], [-half, bottom + high * 0.28]])
    parts.append(Part(face(bumper), Paint(mix(body, (0.1, 0.1, 0.1), 0.7), roundness=0)))
    light = (1.0, 0.97, 0.85) if front else (0.8, 0.06, 0.05)
    for side in (-1, 1):
        lamp = ellipse(side * half * 0.74, bottom + high * 0.66, half * 0.2, high * 0.13)
        parts.append(Part(face(lamp), Paint(mix(light, (0.2, 0.2, 0.2), 0.5), roundness=0)))
        inner = ellipse(side * half * 0.74, bottom + high * 0.66, half * 0.15, high * 0.1)
        parts.append(Part(face(inner), Paint(light, mix(light, (0.4, 0.4, 0.4), 0.3), roundness=0.5, gloss=0.6)))
    if front:
        grille = smooth(
            [
                (-half * 0.45, bottom + high * 0.45),
                (-half * 0.5, bottom + high * 0.75),
                (half * 0.5, bottom + high * 0.75),
                (half * 0.45, bottom + high * 0.45),
            ],
            steps=4,
        )
        parts.append(Part(face(grille), Paint((0.07, 0.07, 0.08), roundness=0)))
        for share in (0.52, 0.62, 0.7):
            bar = np.array([[-half * 0.48, bottom + high * share], [half * 0.48, bottom + high * share]])
            parts.append(Part(face(ribbon(bar, 0.006)), Paint((0.7, 0.7, 0.72), roundness=0)))
    plate = np.array(
        [
            [-0.05, bottom + high * 0.3],
            [0.05, bottom + high * 0.3],
            [0.05, bottom + high * 0.42],
            [-0.05, bottom + high * 0.42],
        ]
    )
    parts.append(Part(face(plate), Paint(hsv(0.13, float(rng.choice([0.0, 0.6])), 0.95), roundness=0)))
    return parts


def _wheel(
    rng: np.random.Generator, view: _View, x: float, y: float, radius: float, rim: bool, spokes: int = 5
) -> list[Part]:
    """A wheel standing at (x, y) on the ground: tyre with its tread, and rim and spokes where they show."""

    def ring(
        share: float, offset: float = 0.0, start: float = 0.0, stop: float = 2 * np.pi, steps: int = 28
    ) -> np.ndarray:
        t = np.linspace(start, stop, steps, endpoint=False)
        return view(
            np.stack(
                [x + radius * share * np.cos(t), np.full(steps, y + offset), radius + radius * share * np.sin(t)], 1
            )
        )

    depth = -0.075 if y > 0 else 0.075
    black = Paint((0.05, 0.05, 0.055), (0.09, 0.09, 0.09), roundness=0)
    tread = cv2.convexHull(np.concatenate([ring(1, depth), ring(1)]).astype(np.float32))[:, 0].astype(np.float64)
    parts = [Part(tread, black)]
    parts.append(Part(ring(1), Paint((0.1, 0.1, 0.105), (0.04, 0.04, 0.04), roundness=0.25, gloss=0.05)))
    if not rim:
        return parts
    metal = mix((0.75, 0.76, 0.78), (0.3, 0.3, 0.32), rng.uniform(0, 0.5))
    parts.append(Part(ring(0.66), Paint(metal, mix(metal, (0, 0, 0), 0.35), np.pi / 2, roundness=0.3, gloss=0.5)))
    for number in range(spokes):
        turn = 2 * np.pi * number / spokes
        inner, outer = ring(0.2, 0, turn, turn + 2.2 / spokes, 4), ring(0.56, 0, turn, turn + 3.4 / spokes, 6)
        parts.append(Part(np.concatenate([inner, outer[::-1]]), Paint((0.12, 0.12, 0.13), roundness=0)))
    parts.append(Part(ring(0.14), Paint(mix(metal, (1, 1, 1), 0.3), roundness=0.4)))
    return parts
