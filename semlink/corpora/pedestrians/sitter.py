"""The person before painting: a posed skeleton in body centimetres, projected at any yaw, and their cloth.

Body axes: lateral (+ towards the person's left), up, forward; the ground is at up = 0 and the mean body is
172 cm tall. Angles round the body are 0 at its front. Our definition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Unpack

import numpy as np

from semlink.corpora.pedestrians.attributes import (
    COLOURS,
    HAIR_COLOURS,
    SKIN_TONES,
    Garment,
    Person,
    Shot,
)
from semlink.corpora.pedestrians.canvas import Array, Canvas, Colour, Look, Patch, Point
from semlink.corpora.pedestrians.draws import Draws

Joint = tuple[float, float, float]

HEM_CM = {
    **{"t-shirt": 87.0, "shirt": 84.0, "polo shirt": 87.0, "sweater": 87.0, "hoodie": 85.0},
    **{"tank top": 88.0, "blouse": 86.0, "jacket": 85.0, "blazer": 79.0, "cardigan": 75.0},
    **{"coat": 52.0, "dress": 50.0},
}
"""Height above ground of the lower edge of a garment."""
THICKNESS_CM = {
    **{"jacket": 2.4, "coat": 2.6, "hoodie": 2.2, "sweater": 1.6, "cardigan": 1.8, "blazer": 1.6}
}
"""How much a garment adds to the body all round."""
_DENIM = {"blue": (58, 88, 148), "black": (44, 45, 50), "grey": (112, 116, 124)}


@dataclass(frozen=True, slots=True)
class Build:
    """Half widths and half depths of the body, cm."""

    shoulder: float
    chest: float
    chest_depth: float
    waist: float
    waist_depth: float
    hip: float
    hip_depth: float
    limb: float


def body_build(person: Person) -> Build:
    """Proportions by gender and build."""
    girth = {"slim": 0.92, "average": 1.0, "heavy": 1.15}[person.build]
    belly = {"slim": 0.92, "average": 1.0, "heavy": 1.38}[person.build]
    if person.gender == "man":
        base = (20.5, 17.5, 11.5, 15.2, 10.5, 16.2, 11.0)
    else:
        base = (17.6, 15.2, 11.6, 12.4, 9.4, 16.8, 11.6)
    shoulder, chest, chest_depth, waist, waist_depth, hip, hip_depth = base
    return Build(
        shoulder * (1 + 0.45 * (girth - 1)),
        chest * girth,
        chest_depth * girth,
        waist * belly,
        waist_depth * belly,
        hip * girth,
        hip_depth * girth,
        (0.95 if person.gender == "woman" else 1.03) * girth,
    )


def _rgb(values: tuple[int, int, int], jitter: float, draws: Draws) -> Array:
    moved = [v + draws.uniform(-jitter, jitter) for v in values]
    return np.asarray(moved, dtype=np.float32).clip(8, 250)


def _edge(inside_px: Array) -> Array:
    """Coverage 0…1 of pixels that lie ``inside_px`` within a border."""
    return np.asarray(np.clip(0.5 + inside_px, 0.0, 1.0))


def wrap_angle(angle: Array) -> Array:
    """Angles (radians) brought into −π…π."""
    return np.asarray((angle + math.pi) % (2 * math.pi) - math.pi, dtype=np.float32)


def mix(a: Array, b: Array, m: Array) -> Array:
    """Colours ``a`` where ``m`` is 0, ``b`` where it is 1; ``m`` is ``[height, width]`` in 0…1."""
    return np.asarray(a + (b - a) * m[..., None], dtype=np.float32)


def between(a: Joint, b: Joint, part: float) -> Joint:
    """The point at ``part`` of the way from ``a`` (0) to ``b`` (1), or beyond."""
    x, y, z = (p + (q - p) * part for p, q in zip(a, b, strict=True))
    return x, y, z


class Sitter:
    """One person in one shot: pose, projection and the colours of their cloth.

    ``tint`` draws what belongs to the identity (exact shades, print shape), ``detail`` what belongs to the shot
    (folds, small posture). ``ground`` is the point between the feet (px), ``scale`` px per cm.
    """

    def __init__(
        self,
        canvas: Canvas,
        person: Person,
        shot: Shot,
        tint: Draws,
        detail: Draws,
        ground: Point,
        scale: float,
    ) -> None:
        self.canvas, self.person, self.shot = canvas, person, shot
        self.x0, self.y0 = ground
        self.scale = scale * person.stature
        self.build = body_build(person)
        self.yaw = math.radians(shot.yaw_deg)
        self.cos, self.sin = math.cos(self.yaw), math.sin(self.yaw)
        self.pitch = detail.uniform(0.10, 0.22)
        self.fold_seed = detail.integer(10_000)
        self.head_yaw = self.yaw + detail.uniform(-0.25, 0.25)
        self.sway = detail.uniform(-1.0, 1.0)
        self.stance = detail.uniform(-1.0, 1.0)
        self.skin = _rgb(SKIN_TONES[person.skin], 6, tint)
        self.hair = _rgb(HAIR_COLOURS[person.hair_colour], 6, tint)
        self.print_kind = tint.integer(4)
        self.shades: dict[int, tuple[Array, Array]] = {}
        worn = (person.outer, person.upper, person.lower, person.shoes)
        for garment in (*worn, person.bag, person.headwear, person.scarf, shot.carried):
            if garment is not None:
                first = (_DENIM if garment.kind == "jeans" else COLOURS)[garment.colour]
                second = COLOURS[garment.pattern_colour or "white"]
                self.shades[id(garment)] = (_rgb(first, 7, tint), _rgb(second, 5, tint))
        self._pose()

    # ------------------------------------------------------------------ geometry

    def at(self, lateral: float, up: float, forward: float) -> Point:
        """Body centimetres to canvas pixels."""
        near = forward * self.cos - lateral * self.sin
        x = self.x0 + self.scale * (lateral * self.cos + forward * self.sin)
        y = self.y0 - self.scale * (up * math.cos(self.pitch) - near * math.sin(self.pitch))
        return x, y

    def near(self, joint: Joint) -> float:
        """Distance towards the camera, cm."""
        return joint[2] * self.cos - joint[0] * self.sin

    def breadth(self, lateral: float, depth: float) -> float:
        """Apparent half width (px) of a body slice with these half axes (cm)."""
        return self.scale * math.hypot(lateral * self.cos, depth * self.sin)

    def height_cm(self, patch: Patch) -> Array:
        """Height above ground of every row of a patch, broadcastable ``[height, 1]``."""
        rows = np.arange(patch.rows.start, patch.rows.stop, dtype=np.float32)[:, None] + 0.5
        up = (self.y0 - rows) / (self.scale * math.cos(self.pitch))
        return np.asarray(up, dtype=np.float32)

    # ------------------------------------------------------------------ solids, their sizes in body centimetres

    def blob(
        self, x: float, y: float, rx: float, ry: float, colour: Colour, **look: Unpack[Look]
    ) -> None:
        """Paint an ellipse round the pixel (x, y)."""
        s = self.scale
        self.canvas.paint(self.canvas.ellipse(x, y, rx * s, ry * s), colour, **look)

    def limb(
        self, points: list[Point], radii: list[float], *, flat_end: bool = False
    ) -> Patch | None:
        """A tube through the pixels ``points``."""
        return self.canvas.tube(points, [r * self.scale for r in radii], flat_end=flat_end)

    def plate(self, centre: Point, sides: tuple[float, ...], radius: float) -> Patch | None:
        """A rounded rectangle; ``sides`` are left, top, right and bottom, seen from the pixel ``centre``."""
        x, y, s = *centre, self.scale
        left, top, right, bottom = sides
        return self.canvas.box(x + left * s, y + top * s, x + right * s, y + bottom * s, radius * s)

    def slices(
        self, points: list[Point], halves: list[float], *, smooth: int = 5, sag: float = 0.0
    ) -> Patch | None:
        """A body of horizontal slices round the pixels ``points``, of half widths ``halves`` (px)."""
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        return self.canvas.stack(ys, xs, halves, smooth=smooth, sag=sag)

    def column(
        self, x: float, heights: list[float], forward: float, halves: list[float], smooth: int
    ) -> Patch | None:
        """As :meth:`slices`, all round the pixel column ``x``, at ``heights`` above a body that has not sunk."""
        rows = [self.at(0, h - self.drop, forward)[1] for h in heights]
        return self.canvas.stack(rows, [x] * len(rows), halves, smooth=smooth)

    def _pose(self) -> None:
        person, shot = self.person, self.shot
        walking = shot.action == "walking" or (shot.action in ("phone", "call") and self.sway > 0.2)
        pace = 25.0 if person.age != "elderly" else 17.0
        stride = math.radians(pace if walking else 3.5)
        self.lean = (2.5 if walking else 0.5) + (5.0 if person.age == "elderly" else 0.0)
        hip_l = self.build.hip * 0.52
        self.legs: dict[int, list[Joint]] = {}
        self.feet: dict[int, float] = {}
        for side in (1, -1):
            swing = stride * math.sin(shot.phase) * side
            lifting = math.cos(shot.phase) * side
            bend = math.radians(5.0 + (38.0 * max(0.0, lifting) if walking else 2.0))
            spread = 1.5 + (1.8 * abs(self.stance) if not walking else 0.0)
            hip: Joint = (side * hip_l, 88.0, 0.0)
            y, z = 88.0 - 41.0 * math.cos(swing), 41.0 * math.sin(swing)
            knee: Joint = (side * (hip_l + spread * 0.4), y, z)
            shin = swing - bend
            y, z = y - 40.0 * math.cos(shin), z + 40.0 * math.sin(shin)
            self.legs[side] = [hip, knee, (side * (hip_l + spread), y, z)]
            self.feet[side] = max(0.0, swing - 0.2) * 0.9 - max(0.0, -shin - 0.15) * 1.0
        drop = min(leg[2][1] for leg in self.legs.values()) - 8.0
        for side in (1, -1):
            self.legs[side] = [(j[0], j[1] - drop, j[2]) for j in self.legs[side]]
        self.drop = drop
        self.arms = {side: self._arm(side, stride, walking) for side in (1, -1)}

    def _arm(self, side: int, stride: float, walking: bool) -> list[Joint]:
        person, shot = self.person, self.shot
        swing = -stride * 0.95 * math.sin(shot.phase) * side if walking else 0.04 * side
        bend = math.radians(20.0 if walking else 10.0) + max(0.0, swing) * 0.6
        out = math.radians(9.0 + (4.0 if person.build == "heavy" else 0.0))
        self.busy_side = -person.bag_side
        bag = person.bag.kind if person.bag is not None and side == person.bag_side else ""
        if bag in ("handbag", "briefcase"):
            swing, bend = swing * 0.25, math.radians(6.0)
        if bag == "suitcase":
            swing, bend = -0.35, math.radians(4.0)
        if shot.carried is not None and side == self.busy_side:
            kind = shot.carried.kind
            if kind == "shopping bag":
                swing, bend = swing * 0.25, math.radians(6.0)
            elif kind == "phone" and shot.action == "call":
                swing, bend, out = 0.55, math.radians(140.0), math.radians(22.0)
            elif kind == "umbrella":
                swing, bend = 0.15, math.radians(118.0)
            else:
                swing, bend = 0.15, math.radians(95.0)
        shoulder: Joint = (side * (self.build.shoulder - 4.4), 137.4 - self.drop, self.lean)
        upper, fore = 29.0, 25.5
        x, y, z = shoulder
        x, y = x + side * upper * math.sin(out), y - upper * math.cos(out) * math.cos(swing)
        elbow: Joint = (x, y, z + upper * math.sin(swing))
        angle = swing + bend
        raised = bend > 1.2
        inward = -side * fore * (0.32 if raised else 0.0) + side * fore * 0.10 * (not raised)
        if raised and shot.action == "call":
            inward = -side * fore * 0.45
        reach = math.sqrt(max(fore**2 - inward**2, 1.0))
        y, z = y - reach * math.cos(angle), elbow[2] + reach * math.sin(angle)
        return [shoulder, elbow, (x + inward, y, z)]

    # ------------------------------------------------------------------ cloth

    def shade_of(self, garment: Garment) -> Array:
        """Exact RGB of a garment of this identity."""
        return self.shades[id(garment)][0]

    def cloth(self, garment: Garment, patch: Patch, angle: Array, radius_cm: float) -> Array:
        """Colour ``[height, width, 3]`` with the garment's pattern; ``angle`` is 0 at the body's front."""
        base, second = self.shades[id(garment)]
        shape = (*patch.alpha.shape, 3)
        if garment.pattern == "plain":
            return np.broadcast_to(base, shape)
        up = np.broadcast_to(self.height_cm(patch), patch.alpha.shape)
        sharp = self.scale
        round_cm = angle * radius_cm
        if garment.pattern == "striped":
            m = _edge(sharp * (np.abs((up % 8.0) - 4.0) - 2.2))
        elif garment.pattern == "checked":
            vertical = _edge(sharp * (np.abs((round_cm % 9.0) - 4.5) - 2.7))
            m = 0.5 * (vertical + _edge(sharp * (np.abs((up % 9.0) - 4.5) - 2.7)))
        elif garment.pattern == "dotted":
            row = np.floor(up / 6.5)
            dx = ((round_cm + 3.5 * (row % 2)) % 7.0) - 3.5
            m = _edge(sharp * (2.0 - np.hypot(dx, (up % 6.5) - 3.25)))
        else:
            dx, dy = round_cm, up - (121.0 - self.drop)
            if self.print_kind == 0:
                d = 7.5 - np.hypot(dx, dy)
            elif self.print_kind == 1:
                d = np.minimum(8.5 - np.abs(dx), 5.5 - np.abs(dy))
            elif self.print_kind == 2:
                bars = np.maximum(1.9 - np.abs(dy - 3), 1.9 - np.abs(dy + 3))
                d = np.minimum(10.0 - np.abs(dx), bars)
            else:
                d = 8.0 - np.abs(dx) - np.abs(dy) * 0.9
            m = _edge(sharp * d) * (np.abs(angle) < 1.3)
        return mix(np.broadcast_to(base, shape), second, m.astype(np.float32))

    def body_angle(self, patch: Patch) -> Array:
        """Angle round the body of every pixel, radians in −π…π, 0 at the person's front."""
        return wrap_angle(patch.angle() - np.float32(self.yaw))
