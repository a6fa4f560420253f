"""The articulated person: a skeleton in body centimetres, projected at any yaw, dressed and painted.

Body axes: lateral (+ towards the person's left), up, forward; the ground is at up = 0 and the mean body is
172 cm tall. Angles round the body are 0 at its front. Our definition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from semlink.corpora.pedestrians.attributes import (
    COLOURS,
    HAIR_COLOURS,
    SKIN_TONES,
    SLEEVE_LENGTH,
    Garment,
    Person,
    Shot,
)
from semlink.corpora.pedestrians.canvas import Array, Canvas, Patch, Point
from semlink.corpora.pedestrians.draws import Draws

Joint = tuple[float, float, float]

_HEM_CM = {
    "t-shirt": 87.0,
    "shirt": 84.0,
    "polo shirt": 87.0,
    "sweater": 87.0,
    "hoodie": 85.0,
    "tank top": 88.0,
    "blouse": 86.0,
    "jacket": 85.0,
    "blazer": 79.0,
    "cardigan": 75.0,
    "coat": 52.0,
    "dress": 50.0,
}
_THICKNESS_CM = {
    "jacket": 2.4,
    "coat": 2.6,
    "hoodie": 2.2,
    "sweater": 1.6,
    "cardigan": 1.8,
    "blazer": 1.6,
}
_FOLD_DEPTH = {"jacket": 0.06, "coat": 0.045, "hoodie": 0.055, "sweater": 0.045, "blazer": 0.035}
_DENIM = {"blue": (58, 88, 148), "black": (44, 45, 50), "grey": (112, 116, 124)}
_SOLE = (226.0, 224.0, 220.0)


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
    return np.asarray([v + draws.uniform(-jitter, jitter) for v in values], dtype=np.float32).clip(
        8, 250
    )


def _wrap(angle: Array) -> Array:
    return np.asarray((angle + math.pi) % (2 * math.pi) - math.pi, dtype=np.float32)


def _mix(a: Array, b: Array, m: Array) -> Array:
    return np.asarray(a + (b - a) * m[..., None], dtype=np.float32)


def _between(a: Joint, b: Joint, part: float) -> Joint:
    """The point at ``part`` of the way from ``a`` (0) to ``b`` (1), or beyond."""
    return (
        a[0] + (b[0] - a[0]) * part,
        a[1] + (b[1] - a[1]) * part,
        a[2] + (b[2] - a[2]) * part,
    )


class Figure:
    """Paints one person in one shot.

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
        for garment in (
            person.outer,
            person.upper,
            person.lower,
            person.shoes,
            person.bag,
            person.headwear,
            person.scarf,
            shot.carried,
        ):
            if garment is not None:
                palette = _DENIM if garment.kind == "jeans" else COLOURS
                second = COLOURS[garment.pattern_colour or "white"]
                self.shades[id(garment)] = (
                    _rgb(palette[garment.colour], 7, tint),
                    _rgb(second, 5, tint),
                )
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

    def _pose(self) -> None:
        person, shot = self.person, self.shot
        walking = shot.action == "walking" or (shot.action in ("phone", "call") and self.sway > 0.2)
        stride = (
            math.radians(25.0 if person.age != "elderly" else 17.0)
            if walking
            else math.radians(3.5)
        )
        self.lean = (2.5 if walking else 0.5) + (5.0 if person.age == "elderly" else 0.0)
        phase = shot.phase
        hip_l = self.build.hip * 0.52
        self.legs: dict[int, list[Joint]] = {}
        self.feet: dict[int, float] = {}
        for side in (1, -1):
            swing = stride * math.sin(phase) * side
            lifting = math.cos(phase) * side
            bend = math.radians(5.0 + (38.0 * max(0.0, lifting) if walking else 2.0))
            spread = 1.5 + (1.8 * abs(self.stance) if not walking else 0.0)
            hip: Joint = (side * hip_l, 88.0, 0.0)
            knee: Joint = (
                side * (hip_l + spread * 0.4),
                88.0 - 41.0 * math.cos(swing),
                41.0 * math.sin(swing),
            )
            shin = swing - bend
            ankle: Joint = (
                side * (hip_l + spread),
                knee[1] - 40.0 * math.cos(shin),
                knee[2] + 40.0 * math.sin(shin),
            )
            self.legs[side] = [hip, knee, ankle]
            toe_up = max(0.0, swing - 0.2) * 0.9 - max(0.0, -shin - 0.15) * 1.0
            self.feet[side] = toe_up
        drop = min(leg[2][1] for leg in self.legs.values()) - 8.0
        for side in (1, -1):
            self.legs[side] = [(j[0], j[1] - drop, j[2]) for j in self.legs[side]]
        self.drop = drop
        self.arms: dict[int, list[Joint]] = {
            side: self._arm(side, stride, walking) for side in (1, -1)
        }

    def _arm(self, side: int, stride: float, walking: bool) -> list[Joint]:
        person, shot = self.person, self.shot
        swing = -stride * 0.95 * math.sin(shot.phase) * side if walking else 0.04 * side
        bend = math.radians(20.0 if walking else 10.0) + max(0.0, swing) * 0.6
        out = math.radians(9.0 + (4.0 if person.build == "heavy" else 0.0))
        self.busy_side = -person.bag_side
        if (
            person.bag is not None
            and person.bag.kind in ("handbag", "briefcase")
            and side == person.bag_side
        ):
            swing, bend = swing * 0.25, math.radians(6.0)
        if person.bag is not None and person.bag.kind == "suitcase" and side == person.bag_side:
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
        elbow: Joint = (
            shoulder[0] + side * upper * math.sin(out),
            shoulder[1] - upper * math.cos(out) * math.cos(swing),
            shoulder[2] + upper * math.sin(swing),
        )
        angle = swing + bend
        raised = bend > 1.2
        inward = -side * fore * (0.32 if raised else 0.0) + side * fore * 0.10 * (not raised)
        if raised and shot.action == "call":
            inward = -side * fore * 0.45
        reach = math.sqrt(max(fore**2 - inward**2, 1.0))
        wrist: Joint = (
            elbow[0] + inward,
            elbow[1] - reach * math.cos(angle),
            elbow[2] + reach * math.sin(angle),
        )
        return [shoulder, elbow, wrist]

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
            m = np.clip(0.5 + sharp * (np.abs((up % 8.0) - 4.0) - 2.2), 0.0, 1.0)
        elif garment.pattern == "checked":
            vertical = np.clip(0.5 + sharp * (np.abs((round_cm % 9.0) - 4.5) - 2.7), 0.0, 1.0)
            level = np.clip(0.5 + sharp * (np.abs((up % 9.0) - 4.5) - 2.7), 0.0, 1.0)
            m = 0.5 * (vertical + level)
        elif garment.pattern == "dotted":
            row = np.floor(up / 6.5)
            dx = ((round_cm + 3.5 * (row % 2)) % 7.0) - 3.5
            m = np.clip(0.5 + sharp * (2.0 - np.hypot(dx, (up % 6.5) - 3.25)), 0.0, 1.0)
        else:
            dx, dy = angle * radius_cm, up - (121.0 - self.drop)
            if self.print_kind == 0:
                d = 7.5 - np.hypot(dx, dy)
            elif self.print_kind == 1:
                d = np.minimum(8.5 - np.abs(dx), 5.5 - np.abs(dy))
            elif self.print_kind == 2:
                d = np.minimum(
                    10.0 - np.abs(dx), np.maximum(1.9 - np.abs(dy - 3), 1.9 - np.abs(dy + 3))
                )
            else:
                d = 8.0 - np.abs(dx) - np.abs(dy) * 0.9
            m = np.clip(0.5 + sharp * d, 0.0, 1.0) * (np.abs(angle) < 1.3)
        return _mix(np.broadcast_to(base, shape), second, m.astype(np.float32))

    def _body_angle(self, patch: Patch) -> Array:
        return _wrap(patch.angle() - np.float32(self.yaw))

    # ------------------------------------------------------------------ painting

    def paint(self) -> None:
        """The whole person, far parts first."""
        person, shot = self.person, self.shot
        self._contact_shadow()
        behind = self.cos < 0.15
        bag_near = person.bag is not None and self._bag_is_near()
        if person.bag is not None and not bag_near:
            self._bag(person.bag)
        if not behind:
            self._long_hair()
        far_arms = [side for side in (1, -1) if self._arm_is_far(side)]
        for side in far_arms:
            self._paint_arm(side)
        for side in sorted(
            (1, -1), key=lambda s: self.near(self.legs[s][1]) + self.near(self.legs[s][2])
        ):
            self._leg(side)
        self._pelvis()
        if person.lower is not None and person.lower.kind == "skirt":
            self._skirt(person.lower)
        self._neck()
        self._torso()
        if behind:
            self._neckwear()
            self._head()
            self._long_hair()
        else:
            self._neckwear()
            self._head()
            self._front_locks()
        if person.bag is not None and bag_near:
            self._bag(person.bag)
        for side in (1, -1):
            if side not in far_arms:
                self._paint_arm(side)
        if shot.carried is not None and shot.carried.kind == "umbrella":
            self._umbrella(shot.carried)

    def _arm_is_far(self, side: int) -> bool:
        joints = self.arms[side]
        return 0.5 * (self.near(joints[1]) + self.near(joints[2])) < -5.0

    def _contact_shadow(self) -> None:
        lamp = self.canvas.lamp
        x, y = self.at(0.0, 0.0, 0.0)
        length = 26.0 * self.scale
        shift = -lamp.right * 20.0 * self.scale
        soft = 7.0 * self.scale
        self.canvas.darken(
            self.canvas.ellipse(
                x + shift, y - 1.5 * self.scale, length + abs(shift), 6.5 * self.scale, soft=soft
            ),
            0.34,
        )
        for leg in self.legs.values():
            fx, fy = self.at(leg[2][0], 0.0, leg[2][2] + 4.0)
            contact = max(0.0, 1.0 - (leg[2][1] - 8.0) / 14.0)
            self.canvas.darken(
                self.canvas.ellipse(fx, fy, 11 * self.scale, 3.6 * self.scale, soft=3 * self.scale),
                0.42 * contact,
            )

    # -- legs

    def _hem(self) -> float:
        person = self.person
        top = person.outer or person.upper
        hem = min(_HEM_CM[top.kind], _HEM_CM[person.upper.kind])
        return hem - self.drop

    def _leg(self, side: int) -> None:
        person, s = self.person, self.scale
        hip, knee, ankle = self.legs[side]
        limb = self.build.limb
        mid_thigh = _between(hip, knee, 0.5)
        calf = _between(knee, ankle, 0.38)
        path = [
            self.at(*hip),
            self.at(*mid_thigh),
            self.at(*knee),
            self.at(calf[0], calf[1], calf[2] - 1.2),
            self.at(*ankle),
        ]
        lower = person.lower
        kind = "none" if lower is None else lower.kind
        bare = [8.6, 7.6, 5.4, 5.4, 3.4]
        skin = self.canvas.tube(path, [r * limb * s for r in bare])
        if kind in ("none", "skirt", "shorts") or (kind == "leggings"):
            self.canvas.paint(
                skin, self.skin if kind != "leggings" else self._leg_cloth(skin, lower), folds=0.012
            )
        self._foot(side, ankle)
        if lower is not None and kind in ("trousers", "jeans"):
            narrow = kind == "jeans"
            radii = [9.0, 8.0, 6.4, 6.0, 5.3] if narrow else [9.2, 8.4, 7.2, 6.9, 6.6]
            end = self.at(ankle[0], ankle[1] - 3.0, ankle[2])
            patch = self.canvas.tube(
                [*path[:-1], end], [r * limb * s for r in radii], flat_end=True
            )
            self.canvas.paint(
                patch, self._leg_cloth(patch, lower), folds=0.06, seed=self.fold_seed + 7 * side
            )
            self._crease(knee, ankle)
        elif lower is not None and kind == "shorts":
            knee_hem = _between(hip, knee, 0.88)
            patch = self.canvas.tube(
                [path[0], path[1], self.at(*knee_hem)],
                [9.6 * limb * s, 9.0 * limb * s, 8.6 * limb * s],
                flat_end=True,
            )
            self.canvas.paint(
                patch, self._leg_cloth(patch, lower), folds=0.07, seed=self.fold_seed + 7 * side
            )
        if person.shoes.kind == "boots":
            shaft = _between(knee, ankle, 0.45)
            patch = self.canvas.tube(
                [self.at(*shaft), self.at(*ankle), self.at(ankle[0], ankle[1] - 4, ankle[2])],
                [6.9 * limb * s, 5.6 * limb * s, 5.4 * limb * s],
                flat_start=True,
            )
            self.canvas.paint(patch, self.shade_of(person.shoes), folds=0.05, seed=self.fold_seed)

    def _leg_cloth(
        self, patch: Patch | None, lower: Garment | None
    ) -> Array | tuple[float, float, float]:
        if patch is None or lower is None:
            return (0.0, 0.0, 0.0)
        base = self.shade_of(lower)
        up = self.height_cm(patch)
        shadow = 1.0 - 0.34 * np.exp(-np.maximum(self._hem() - up, 0.0) / 7.0)
        colour = np.broadcast_to(base, (*patch.alpha.shape, 3)) * shadow[..., None]
        if lower.kind == "jeans":
            worn = np.exp(-((patch.across / 0.55) ** 2)) * np.exp(-(((up - 62.0) / 20.0) ** 2))
            colour = colour + 30.0 * worn[..., None]
        elif lower.kind == "trousers":
            crease = np.exp(-((patch.across / 0.08) ** 2))
            colour = colour * (1.0 + 0.07 * crease[..., None])
        return np.asarray(colour, dtype=np.float32)

    def _crease(self, knee: Joint, ankle: Joint) -> None:
        s = self.scale
        for joint, up, amount in (
            (knee, -2.0, 0.10),
            (knee, 3.0, 0.07),
            (ankle, 3.0, 0.14),
            (ankle, 7.0, 0.08),
        ):
            x, y = self.at(joint[0], joint[1] + up, joint[2])
            self.canvas.darken(self.canvas.ellipse(x, y, 5.2 * s, 0.8 * s, soft=0.9 * s), amount)

    def _foot(self, side: int, ankle: Joint) -> None:
        shoes, s = self.person.shoes, self.scale
        tilt = self.feet[side]
        out = side * 2.2
        heel = (ankle[0], ankle[1] - 5.0, ankle[2] - 3.5)
        toe = (
            ankle[0] + out,
            ankle[1] - 5.4 + 17.0 * math.sin(tilt),
            ankle[2] + 16.0 * math.cos(tilt),
        )
        ball = _between(heel, toe, 0.6)
        colour = self.shade_of(shoes)
        if shoes.kind == "sandals":
            self.canvas.paint(
                self.canvas.tube([self.at(*heel), self.at(*toe)], [3.6 * s, 3.6 * s]),
                self.skin,
            )
            for part in (0.35, 0.75):
                x, y = self.at(*_between(heel, toe, part))
                self.canvas.paint(self.canvas.ellipse(x, y - 0.6 * s, 3.8 * s, 2.0 * s), colour)
            sole = np.asarray(colour * 0.7, dtype=np.float32)
        else:
            sole = np.asarray(
                _SOLE if shoes.kind == "trainers" else colour * 0.55, dtype=np.float32
            )
        low = [(p[0], p[1] - 2.0, p[2]) for p in (heel, toe)]
        self.canvas.paint(
            self.canvas.tube([self.at(*low[0]), self.at(*low[1])], [3.7 * s, 3.5 * s]),
            sole,
            round_=0.5,
        )
        if shoes.kind == "sandals":
            return
        top = 4.4 if shoes.kind == "boots" else 4.0
        self.canvas.paint(
            self.canvas.tube(
                [self.at(*ankle), self.at(*heel), self.at(*ball), self.at(*toe)],
                [4.0 * s, top * s, 4.1 * s, 3.2 * s],
            ),
            colour,
            round_=0.8,
        )
        if shoes.kind == "trainers":
            x, y = self.at(*_between(heel, toe, 0.5))
            mark = np.asarray(
                _SOLE if float(colour.mean()) < 170 else (90, 92, 98), dtype=np.float32
            )
            self.canvas.paint(
                self.canvas.ellipse(x, y - 0.8 * s, 2.4 * s, 1.1 * s), mark, opacity=0.85
            )

    def _sag(self) -> float:
        """How far (px) a hem's middle hangs below its sides, seen from above."""
        return 14.0 * math.sin(self.pitch) * self.scale

    def _pelvis(self) -> None:
        person, b = self.person, self.build
        lower = person.lower
        if lower is None or lower.kind == "skirt":
            return
        # It starts under the hem: a belly shifts the torso forward and would bare it behind.
        heights = [94.0, 91.0, 86.0, 79.0]
        grow = 0.8
        halves = [
            self.breadth(b.hip + grow, b.hip_depth + grow),
            self.breadth(b.hip + grow, b.hip_depth + grow),
            self.breadth(b.hip + grow, b.hip_depth),
            self.breadth(b.hip * 0.62, b.hip_depth * 0.62),
        ]
        points = [self.at(0.0, h - self.drop, 0.0) for h in heights]
        patch = self.canvas.stack([p[1] for p in points], [p[0] for p in points], halves)
        if patch is None:
            return
        # Fades into the thighs: cloth has no edge there.
        patch.alpha = patch.alpha * np.clip((1.0 - patch.along) * 2.5, 0.0, 1.0)
        self.canvas.paint(patch, self._leg_cloth(patch, lower), folds=0.05, seed=self.fold_seed)

    def _spread(self, height: float) -> tuple[float, float]:
        """Lateral and forward reach of the legs at ``height``, so that a skirt contains them."""
        lateral, forward = 0.0, 0.0
        for hip, knee, ankle in self.legs.values():
            t = min(max((hip[1] - height) / max(hip[1] - knee[1], 1.0), 0.0), 1.0)
            if height < knee[1]:
                u = (knee[1] - height) / max(knee[1] - ankle[1], 1.0)
                f, la = knee[2] + (ankle[2] - knee[2]) * u, knee[0] + (ankle[0] - knee[0]) * u
            else:
                f, la = hip[2] + (knee[2] - hip[2]) * t, hip[0] + (knee[0] - hip[0]) * t
            lateral, forward = max(lateral, abs(la)), max(forward, abs(f))
        return lateral + 7.5, forward + 6.5

    def _skirt_halves(self, heights: list[float], flare: float) -> list[float]:
        b = self.build
        halves: list[float] = []
        for h in heights:
            lateral, forward = self._spread(h - self.drop)
            t = min(max((96.0 - h) / 46.0, 0.0), 1.0)
            wide = max(b.hip + 0.8 + flare * t, lateral * t)
            deep = max(b.hip_depth + 0.8 + flare * 0.8 * t, forward * t)
            if h > 98.0:
                wide, deep = b.waist + 0.9, b.waist_depth + 0.9
            halves.append(self.breadth(wide, deep))
        return halves

    def _skirt(self, garment: Garment) -> None:
        heights = [106.0, 97.0, 88.0, 76.0, 64.0, 52.0]
        points = [self.at(0.0, h - self.drop, 0.0) for h in heights]
        halves = self._skirt_halves(heights, 5.0)
        patch = self.canvas.stack(
            [p[1] for p in points], [p[0] for p in points], halves, sag=self._sag()
        )
        if patch is None:
            return
        colour = np.array(self.cloth(garment, patch, self._body_angle(patch), 17.0))
        up = self.height_cm(patch)
        pleats = 1.0 + 0.08 * np.sin(7.0 * self._body_angle(patch) + self.sway) * patch.along
        shadow = 1.0 - 0.3 * np.exp(-np.maximum(self._hem() - up, 0.0) / 6.0)
        self.canvas.paint(
            patch, colour * (pleats * shadow)[..., None], folds=0.06, seed=self.fold_seed
        )

    # -- torso

    def _torso(self) -> None:
        person = self.person
        top = person.outer or person.upper
        grow = max(_THICKNESS_CM.get(top.kind, 0.7), _THICKNESS_CM.get(person.upper.kind, 0.7))
        if person.outer is not None and person.upper.kind == "dress":
            self._body(person.upper, None, 0.7, _HEM_CM["dress"])
        self._body(person.upper, person.outer, grow, _HEM_CM[top.kind])

    def _body(self, upper: Garment, outer: Garment | None, grow: float, hem: float) -> None:
        b, woman = self.build, self.person.gender == "woman"
        sleeveless = outer is None and SLEEVE_LENGTH.get(upper.kind) == "none"
        sh = b.shoulder + 0.4 * grow
        bust = 2.2 if woman else 0.8
        paunch = 2.5 if self.person.build == "heavy" else 0.5
        slices: list[tuple[float, float, float, float]] = [
            (148.8, 6.4, 5.6, self.lean + 0.5),
            (146.8, sh * 0.46, 6.4, self.lean),
            (144.2, sh * 0.74, 7.4, self.lean),
            (140.5, sh * (0.80 if sleeveless else 0.95), 8.6, self.lean),
            (134.0, sh * (0.80 if sleeveless else 0.95), b.chest_depth - 0.5, self.lean + 0.3),
            (126.0, b.chest + grow, b.chest_depth + grow, self.lean * 0.9 + bust),
            (
                116.0,
                0.5 * (b.chest + b.waist) + grow,
                0.5 * (b.chest_depth + b.waist_depth) + grow,
                self.lean * 0.7 + 0.5,
            ),
            (106.0, b.waist + grow + 0.6, b.waist_depth + grow, self.lean * 0.4 + paunch),
            (
                98.0,
                0.5 * (b.hip + b.waist) + grow,
                b.hip_depth + grow - 0.5,
                self.lean * 0.2 + paunch * 0.5,
            ),
        ]
        lower_heights = [h for h in (94.0, 88.0, 80.0, 72.0, 62.0, 52.0) if h > hem] + [hem]
        flare = 6.5 if upper.kind == "dress" and outer is None else 2.5
        if hem < 70.0:
            halves = self._skirt_halves(lower_heights, flare)
        else:
            halves = [self.breadth(b.hip + grow, b.hip_depth + grow) for _ in lower_heights]
            if upper.kind in ("hoodie", "sweater") and outer is None:
                halves[-1] *= 0.95
        points = [self.at(0.0, h - self.drop, f) for h, _, _, f in slices]
        points += [self.at(0.0, h - self.drop, 0.0) for h in lower_heights]
        widths = [self.breadth(w, d) for _, w, d, _ in slices] + halves
        patch = self.canvas.stack(
            [p[1] for p in points], [p[0] for p in points], widths, smooth=3, sag=self._sag()
        )
        if patch is None:
            return
        angle = self._body_angle(patch)
        up = np.broadcast_to(self.height_cm(patch), patch.alpha.shape) + self.drop
        radius = b.chest * 0.95
        colour = self.cloth(upper, patch, angle, radius)
        neck = self._neckline(upper, outer, angle, up)
        if outer is not None:
            colour = self._open_front(outer, patch, angle, up, colour, radius)
        else:
            colour = self._front_details(upper, angle, up, colour)
        colour = _mix(colour, self.skin * 0.93, neck)
        colour = colour * self._torso_shadow(up, hem)[..., None]
        bag = self.person.bag
        if bag is not None and bag.kind == "backpack":
            strap = (
                np.clip(1.5 - np.abs(np.abs(angle) - 0.62) / 0.11, 0.0, 1.0)
                * (up > 108.0)
                * (up < 146.0)
            )
            colour = _mix(colour, self.shade_of(bag) * 0.9, strap.astype(np.float32))
        top = outer or upper
        self.canvas.paint(
            patch, colour, folds=_FOLD_DEPTH.get(top.kind, 0.042), seed=self.fold_seed + 3
        )

    def _torso_shadow(self, up: Array, hem: float) -> Array:
        edge = 1.0 - 0.16 * np.exp(-np.maximum(up - hem, 0.0) / 1.2)
        chin = 1.0 - 0.20 * np.exp(-(((up - 149.0) / 4.0) ** 2))
        return np.asarray(edge * chin, dtype=np.float32)

    def _neckline(self, upper: Garment, outer: Garment | None, angle: Array, up: Array) -> Array:
        """Bare skin below the neck: 1 where the top is cut out."""
        cut = {
            "tank top": (11.0, 1.0),
            "dress": (9.0, 0.95),
            "blouse": (8.0, 0.6),
            "t-shirt": (4.2, 1.05),
        }
        if upper.kind not in cut:
            return np.zeros_like(angle)
        if outer is not None and upper.kind not in ("t-shirt", "dress"):
            return np.zeros_like(angle)
        depth, half = cut[upper.kind]
        level = 148.8 - depth * np.sqrt(np.maximum(1.0 - (angle / half) ** 2, 0.0))
        return np.asarray(
            np.clip((up - level) * self.scale + 0.5, 0.0, 1.0) * (np.abs(angle) < half),
            dtype=np.float32,
        )

    def _open_front(
        self, outer: Garment, patch: Patch, angle: Array, up: Array, inner: Array, radius: float
    ) -> Array:
        """``outer`` everywhere but in the gap of its open front, where ``inner`` is seen."""
        if outer.kind in ("blazer", "cardigan"):
            gap = np.interp(
                up, [50.0, 80.0, 100.0, 112.0, 145.0, 149.0], [0.55, 0.42, 0.22, 0.26, 0.62, 0.8]
            )
        else:
            gap = np.interp(up, [50.0, 85.0, 115.0, 140.0, 149.0], [0.62, 0.56, 0.46, 0.52, 0.75])
        gap = gap + 0.03 * self.sway
        cover = np.clip((np.abs(angle) - gap) * 10.0 * self.scale + 0.5, 0.0, 1.0)
        depth = gap - np.abs(angle)
        shaded = inner * (1.0 - 0.32 * np.exp(-np.maximum(depth, 0.0) / 0.09))[..., None]
        shell = self.cloth(outer, patch, angle, radius)
        lapel = (np.abs(angle) - gap < 0.24 * np.clip((up - 112.0) / 30.0, 0.0, 1.0)) & (up < 148.0)
        light = float(self.shade_of(outer).mean()) > 120.0
        shell = shell * np.where(lapel, 0.84 if light else 1.3, 1.0)[..., None]
        return _mix(shaded.astype(np.float32), shell.astype(np.float32), cover.astype(np.float32))

    def _front_details(self, upper: Garment, angle: Array, up: Array, colour: Array) -> Array:
        kind = upper.kind
        base = self.shade_of(upper)
        dark = float(base.mean()) < 90.0
        line = np.exp(-((angle / 0.035) ** 2)).astype(np.float32)
        ink = np.asarray(base * (1.9 if dark else 0.62) + (14 if dark else 0), dtype=np.float32)
        if kind in ("shirt", "blouse"):
            colour = _mix(colour, ink, line * 0.6)
        elif kind == "polo shirt":
            colour = _mix(colour, ink, line * (up > 131.0) * np.float32(0.8))
        elif kind == "jacket":
            colour = _mix(colour, np.asarray((188.0, 188.0, 190.0), dtype=np.float32), line * 0.8)
            pocket = np.exp(-(((np.abs(angle) - 0.62) / 0.05) ** 2)) * (up > 92.0) * (up < 104.0)
            colour = _mix(colour, ink, pocket.astype(np.float32) * 0.7)
        elif kind == "coat":
            edge = np.exp(-(((angle - 0.16) / 0.03) ** 2)) * (up < 124.0)
            lapel = np.clip((up - 120.0) / 28.0, 0.0, 1.0) * 0.62
            vee = (np.abs(angle) < lapel) & (np.abs(angle) > lapel - 0.30) & (up > 121.0)
            colour = _mix(colour, ink, np.maximum(edge, 0.45 * vee).astype(np.float32) * 0.8)
            belt = np.exp(-(((up - 106.0) / 2.3) ** 4))
            colour = _mix(colour, ink, belt.astype(np.float32) * 0.55)
            for height in (118.0, 99.0, 88.0, 77.0):
                dot = np.hypot((np.abs(angle) - 0.12) * 17.0, up - height) < 1.5
                colour = _mix(colour, ink, dot.astype(np.float32) * 0.8)
        elif kind == "hoodie":
            pocket = (
                (np.abs(angle) < 0.75 - 0.02 * np.maximum(up - 94.0, 0.0))
                & (up > 92.0)
                & (up < 107.0)
            )
            rim = pocket & (
                (up > 105.6) | (np.abs(angle) > 0.70 - 0.02 * np.maximum(up - 94.0, 0.0))
            )
            colour = _mix(colour, ink, rim.astype(np.float32) * 0.55)
            cords = np.exp(-(((np.abs(angle) - 0.2) / 0.035) ** 2)) * (up > 130.0) * (up < 147.0)
            colour = _mix(
                colour,
                np.asarray((232.0, 230.0, 226.0), dtype=np.float32),
                cords.astype(np.float32),
            )
        elif kind == "sweater":
            hem = np.exp(-(((up - 88.0) / 2.6) ** 4))
            colour = _mix(colour, ink, hem.astype(np.float32) * 0.35)
        elif kind == "dress":
            belt = np.exp(-(((up - 107.0) / 1.7) ** 4))
            colour = _mix(colour, ink, belt.astype(np.float32) * 0.7)
        return colour

    # -- arms

    def _paint_arm(self, side: int) -> None:
        person, shot, s = self.person, self.shot, self.scale
        shoulder, elbow, wrist = self.arms[side]
        limb = self.build.limb
        top = person.outer or person.upper
        sleeve = SLEEVE_LENGTH.get(top.kind, "long")
        start = self.at(*shoulder)
        path = [start, self.at(*elbow), self.at(*wrist)]
        grow = _THICKNESS_CM.get(top.kind, 0.5)
        holds = shot.carried is not None and side == self.busy_side
        reach = _between(elbow, wrist, 1.22)
        hand = self.canvas.tube([path[2], self.at(*reach)], [2.9 * limb * s, 3.3 * limb * s])
        if sleeve != "long":
            self.canvas.paint(
                self.canvas.tube(path, [4.9 * limb * s, 3.9 * limb * s, 2.8 * limb * s]),
                self.skin,
                folds=0.01,
            )
        self.canvas.paint(hand, self.skin)
        if sleeve == "long":
            patch = self.canvas.tube(
                path,
                [
                    (5.2 + 0.7 * grow) * limb * s,
                    (4.4 + 0.9 * grow) * limb * s,
                    (3.7 + 0.7 * grow) * limb * s,
                ],
                flat_end=True,
            )
        elif sleeve == "short":
            end = _between(shoulder, elbow, 0.62)
            patch = self.canvas.tube(
                [start, self.at(*end)],
                [5.5 * limb * s, 5.8 * limb * s],
                flat_end=True,
            )
        else:
            patch = None
        if patch is not None:
            colour = (
                np.array(self.cloth(top, patch, patch.angle() + 2.0, 6.0))
                if top.pattern != "print"
                else None
            )
            base = (
                colour
                if colour is not None
                else np.broadcast_to(self.shade_of(top), (*patch.alpha.shape, 3))
            )
            cuff = 1.0 - 0.22 * np.exp(-(((1.0 - patch.along) / 0.05) ** 2))
            self.canvas.darken(self._offset(patch), 0.16)
            self.canvas.paint(
                patch, base * cuff[..., None], folds=0.055, seed=self.fold_seed + 11 * side
            )
        if holds and shot.carried is not None:
            self._held(shot.carried, self.at(*reach), side)

    def _offset(self, patch: Patch) -> Patch:
        """The patch itself shifted away from the light: the shadow that an arm throws on the body."""
        shift = 3 if self.canvas.lamp.right < 0 else -3
        return Patch(
            patch.rows, patch.cols, np.roll(patch.alpha, shift, axis=1), patch.across, patch.along
        )

    def _held(self, thing: Garment, hand: Point, side: int) -> None:
        x, y = hand
        s = self.scale
        colour = self.shade_of(thing)
        if thing.kind == "phone":
            if self.shot.action == "call":
                return
            self.canvas.paint(
                self.canvas.box(x - 2.6 * s, y - 7 * s, x + 2.6 * s, y + 2 * s, 1.0 * s),
                (28, 28, 32),
                round_=0,
            )
            self.canvas.paint(
                self.canvas.box(x - 2.0 * s, y - 6.3 * s, x + 2.0 * s, y + 1.2 * s, 0.6 * s),
                (120, 160, 200),
                round_=0,
                opacity=0.7,
            )
        elif thing.kind == "cup":
            self.canvas.paint(
                self.canvas.box(x - 2.9 * s, y - 8 * s, x + 2.9 * s, y + 2 * s, 1.0 * s), colour
            )
            self.canvas.paint(
                self.canvas.box(x - 3.3 * s, y - 9.2 * s, x + 3.3 * s, y - 7.2 * s, 0.8 * s),
                (86, 56, 38),
            )
        elif thing.kind == "shopping bag":
            self._hand_bag(thing, hand, 11.0, 27.0, 9.0)
        del side

    def _umbrella(self, thing: Garment) -> None:
        shoulder, elbow, wrist = self.arms[self.busy_side]
        del shoulder, elbow
        s = self.scale
        x, y = self.at(wrist[0], wrist[1], wrist[2])
        tip_x, tip_y = self.at(wrist[0] * 0.5, 205.0 - self.drop, wrist[2] * 0.6)
        self.canvas.paint(
            self.canvas.tube([(x, y + 5 * s), (tip_x, tip_y - 3 * s)], [0.8 * s, 0.7 * s]),
            (70, 70, 74),
        )
        colour = self.shade_of(thing)
        half, base = 47.0 * s, tip_y + 25.0 * s
        rows = [tip_y, tip_y + 2 * s, tip_y + 6 * s, tip_y + 12 * s, tip_y + 19 * s, base]
        patch = self.canvas.stack(
            rows,
            [tip_x] * 6,
            [1.0, half * 0.34, half * 0.62, half * 0.84, half * 0.96, half],
            smooth=2,
        )
        if patch is None:
            return
        ribs = np.abs(np.sin(4.0 * np.arccos(np.clip(patch.across, -0.999, 0.999))))
        scallop = np.clip((1.0 - patch.along) * 25.0 - 3.2 * (1.0 - ribs), 0.0, 1.0)
        patch.alpha = (patch.alpha * np.where(patch.along > 0.75, scallop, 1.0)).astype(np.float32)
        panels = np.asarray(colour * (0.86 + 0.14 * ribs**0.5)[..., None], dtype=np.float32)
        self.canvas.paint(patch, panels, round_=0.8)

    # -- head

    def _neck(self) -> None:
        s, d, lean = self.scale, self.drop, self.lean
        patch = self.canvas.tube(
            [self.at(0, 141 - d, lean), self.at(0, 153 - d, lean + 2.0)], [6.0 * s, 5.4 * s]
        )
        self.canvas.paint(patch, self.skin * 0.84)

    def _shell(self, top: float, bottom: float, factor: float) -> Patch | None:
        """The head's surface between two heights, grown by ``factor``; wide in depth, narrow across."""
        heights = [173.0, 172.2, 170.5, 167.5, 162.5, 157.0, 153.0, 150.0, 148.0, 147.0]
        widths = [0.22, 0.50, 0.76, 0.94, 1.02, 0.98, 0.86, 0.68, 0.46, 0.22]
        scaled = [160.5 + (h - 160.5) * factor for h in heights]
        cut = sorted({top, bottom, *[h for h in scaled if bottom < h < top]}, reverse=True)
        relative = np.interp(cut, scaled[::-1], widths[::-1])
        cos, sin = math.cos(self.head_yaw), math.sin(self.head_yaw)
        half = self.scale * factor * math.hypot(8.7 * cos, 10.2 * sin)
        forward = self._head_forward()
        rows, centres = [], []
        for h in cut:
            jaw = 1.4 * max(0.0, (158.0 - h) / 10.0) * sin * self.scale
            x, y = self.at(0.0, h - self.drop, forward)
            rows.append(y)
            centres.append(x + jaw)
        return self.canvas.stack(rows, centres, [float(half * r) for r in relative], smooth=1)

    def _head_forward(self) -> float:
        return self.lean * 1.15 + (2.0 if self.shot.action == "phone" else 1.0)

    def _head_up(self, patch: Patch) -> Array:
        near = self._head_forward() * self.cos
        up = self.height_cm(patch) + self.drop + near * math.tan(self.pitch)
        return np.asarray(np.broadcast_to(up, patch.alpha.shape), dtype=np.float32)

    def _head(self) -> None:
        person = self.person
        style, covered = person.hair_style, person.headwear.kind if person.headwear else "none"
        facing = math.cos(self.head_yaw)
        if covered != "headscarf":
            if facing > 0:
                self._knot()
            if style == "curly":
                self._curls()
        skull = self._shell(173.0, 147.0, 1.0)
        self.canvas.darken(
            self.canvas.ellipse(
                *self.at(0, 147 - self.drop, self.lean),
                7 * self.scale,
                2.5 * self.scale,
                soft=2 * self.scale,
            ),
            0.3,
        )
        if skull is None:
            return
        angle = _wrap(skull.angle() - np.float32(self.head_yaw))
        up = self._head_up(skull)
        colour = np.broadcast_to(self.skin, (*skull.alpha.shape, 3))
        if person.beard:
            level = np.interp(
                np.abs(angle), [0.0, 0.32, 0.5, 1.25, 1.5], [151.3, 151.8, 154.2, 158.0, 140.0]
            )
            whiskers = np.clip((level - up) * self.scale + 0.5, 0.0, 1.0)
            moustache = np.clip((1.0 - np.abs(up - 154.3) / 1.3) * 2.0, 0.0, 1.0) * (
                np.abs(angle) < 0.42
            )
            colour = _mix(
                colour, self.hair, np.maximum(whiskers, moustache).astype(np.float32) * 0.9
            )
        self.canvas.paint(skull, colour, round_=0.85)
        self._ears()
        self._face()
        if covered != "headscarf" and style != "bald":
            self._hair_cap(style)
        if covered != "headscarf" and facing <= 0:
            self._knot()
        if person.headwear is not None:
            self._headwear(person.headwear)

    def _on_head(self, angle: float, up: float, grow: float = 0.0) -> tuple[Point, float]:
        """Pixel of a place on the head and how squarely it faces the camera (−1…1)."""
        turn = angle + self.head_yaw
        x, y = self.at(0.0, up - self.drop, self._head_forward())
        half = math.hypot(
            (8.4 + grow) * math.cos(self.head_yaw), (9.9 + grow) * math.sin(self.head_yaw)
        )
        return (x + self.scale * half * math.sin(turn), y), math.cos(turn)

    def _ears(self) -> None:
        for side in (1, -1):
            (x, y), square = self._on_head(side * 1.5, 159.0, 0.3)
            if square > -0.35:
                self.canvas.paint(
                    self.canvas.ellipse(x, y, 1.5 * self.scale, 2.9 * self.scale),
                    self.skin * 0.9,
                    round_=0.4,
                )

    def _face(self) -> None:
        person, s = self.person, self.scale
        canvas = self.canvas
        if math.cos(self.head_yaw) < -0.25:
            return
        (x, y), square = self._on_head(0.0, 156.6, 0.4)
        if square > -0.15:
            canvas.paint(
                canvas.ellipse(x, y, (1.1 + 0.5 * (1 - square)) * s, 2.1 * s),
                self.skin * 0.92,
                round_=0.3,
            )
        (x, y), square = self._on_head(0.0, 152.4)
        if square > 0.05:
            lips = (
                np.asarray((168, 70, 74), dtype=np.float32)
                if person.gender == "woman"
                else self.skin * 0.68
            )
            canvas.paint(canvas.ellipse(x, y, max(2.6 * square, 0.8) * s, 0.85 * s), lips, round_=0)
        for side in (1, -1):
            (x, y), square = self._on_head(side * 0.42, 160.6)
            if square < 0.12:
                continue
            canvas.paint(
                canvas.ellipse(x, y, 1.9 * square * s, 1.15 * s), self.skin * 0.45 + 118, round_=0
            )
            canvas.paint(
                canvas.ellipse(x, y, 1.0 * max(square, 0.5) * s, 1.05 * s), (46, 34, 30), round_=0
            )
            canvas.paint(
                canvas.ellipse(x, y - 2.7 * s, 2.3 * square * s, 0.55 * s),
                self.hair * 0.75,
                round_=0,
                opacity=0.85,
            )
        if person.glasses != "none":
            self._glasses(person.glasses == "sunglasses")

    def _glasses(self, tinted: bool) -> None:
        s, canvas = self.scale, self.canvas
        frame = (26.0, 26.0, 30.0)
        places = []
        for side in (1, -1):
            (x, y), square = self._on_head(side * 0.42, 160.4, 0.5)
            if square < 0.08:
                continue
            places.append((x, y))
            rx, ry = max(3.5 * square, 1.0) * s, 2.9 * s
            canvas.paint(
                canvas.ellipse(x, y, rx, ry), frame, round_=0, opacity=1.0 if tinted else 0.9
            )
            if not tinted:
                lens = np.asarray(self.skin * 0.5 + 110, dtype=np.float32).clip(0, 245)
                canvas.paint(
                    canvas.ellipse(x, y, max(rx - 0.95 * s, 0.4), ry - 0.95 * s), lens, round_=0
                )
                canvas.paint(
                    canvas.ellipse(x, y, 1.0 * square * s, 1.0 * s), (40, 32, 30), round_=0
                )
            (ex, ey), out = self._on_head(side * 1.4, 160.8, 0.5)
            if out > -0.2:
                canvas.paint(
                    canvas.tube([(x, y - 0.6 * s), (ex, ey)], [0.6 * s, 0.5 * s]), frame, round_=0
                )
        if len(places) == 2:
            canvas.paint(canvas.tube(places, [0.6 * s, 0.6 * s]), frame, round_=0)

    def _hair_cap(self, style: str) -> None:
        factor = {"curly": 1.15, "bob": 1.12, "long": 1.11}.get(style, 1.075)
        patch = self._shell(160.5 + 12.5 * factor, 147.5, factor)
        if patch is None:
            return
        angle = np.abs(_wrap(patch.angle() - np.float32(self.head_yaw)))
        up = self._head_up(patch)
        if style in ("long", "bob"):
            line = np.interp(
                angle, [0.0, 0.25, 0.75, 1.0, 1.25, 3.2], [168.6, 168.0, 165.0, 158.0, 148.0, 147.0]
            )
        elif style == "curly":
            line = np.interp(angle, [0.0, 0.7, 1.0, 1.4, 3.2], [167.0, 166.0, 162.0, 154.0, 150.0])
        else:
            line = np.interp(
                angle, [0.0, 0.6, 0.95, 1.3, 1.75, 3.2], [168.4, 167.6, 165.0, 158.5, 152.5, 151.0]
            )
        patch.alpha = (patch.alpha * np.clip((up - line) * self.scale * 0.8 + 0.5, 0, 1)).astype(
            np.float32
        )
        shine = 1.0 + 0.22 * np.exp(-(((up - 168.0) / 2.6) ** 2))
        self.canvas.paint(
            patch,
            self.hair * shine[..., None],
            folds=0.10 if style != "curly" else 0.2,
            seed=self.fold_seed,
        )

    def _curls(self) -> None:
        s = self.scale
        if self.person.headwear is not None:
            return
        for i in range(15):
            turn = math.pi * (i / 14.0) * 1.3 - 0.15 * math.pi
            lateral = 9.6 * math.cos(turn)
            x, y = self.at(
                0.0, 163.0 + 10.5 * math.sin(turn) - self.drop, self._head_forward() - 1.0
            )
            self.canvas.paint(
                self.canvas.ellipse(x + lateral * s, y, 4.4 * s, 4.2 * s),
                self.hair * (0.85 + 0.3 * ((i * 7) % 5) / 5),
                folds=0.12,
                seed=self.fold_seed + i,
            )

    def _knot(self) -> None:
        style, s, d = self.person.hair_style, self.scale, self.drop
        f = self._head_forward()
        if style == "bun" and self.person.headwear is None:
            x, y = self.at(0.0, 171.5 - d, f - 7.5)
            self.canvas.paint(
                self.canvas.ellipse(x, y, 5.4 * s, 5.0 * s),
                self.hair,
                folds=0.12,
                seed=self.fold_seed,
            )
        elif style == "ponytail":
            path = [
                self.at(0, 165 - d, f - 9),
                self.at(0, 162 - d, f - 14),
                self.at(self.sway * 2, 150 - d, f - 14),
                self.at(self.sway * 3, 134 - d, f - 12),
            ]
            self.canvas.paint(
                self.canvas.tube(path, [2.4 * s, 3.8 * s, 3.9 * s, 1.0 * s]),
                self.hair * 0.95,
                folds=0.10,
                seed=self.fold_seed,
            )

    def _long_hair(self) -> None:
        """The fall of long hair (or a bob) behind the neck and back."""
        style = self.person.hair_style
        if style not in ("long", "bob") or (
            self.person.headwear and self.person.headwear.kind == "headscarf"
        ):
            return
        f, d = self._head_forward(), self.drop
        if style == "long":
            heights, halves = (
                [166.0, 160.0, 152.0, 144.0, 134.0, 126.0, 122.0],
                [9.0, 10.2, 10.8, 11.6, 11.4, 9.4, 6.0],
            )
        else:
            heights, halves = [166.0, 160.0, 154.0, 149.5, 147.0], [9.0, 10.4, 11.0, 10.6, 8.6]
        depth, back = (0.62, -5.2) if style == "long" else (0.72, -3.2)
        points = [self.at(0.0, h - d, f + back - (1.2 if h < 145 else 0.0)) for h in heights]
        patch = self.canvas.stack(
            [p[1] for p in points],
            [p[0] for p in points],
            [self.breadth(w, w * depth) for w in halves],
            smooth=2,
        )
        self.canvas.paint(patch, self.hair * 0.93, folds=0.10, seed=self.fold_seed + 5)

    def _front_locks(self) -> None:
        """Strands of long hair that fall over the shoulders, seen from the front."""
        if self.person.hair_style != "long" or math.cos(self.head_yaw) < 0.2:
            return
        if self.person.headwear is not None and self.person.headwear.kind == "headscarf":
            return
        f, d, s = self._head_forward(), self.drop, self.scale
        for side in (1, -1):
            path = [
                self.at(side * 8.4, 160 - d, f),
                self.at(side * 9.2, 151 - d, f + 1),
                self.at(side * 9.6, 141 - d, f + 5),
                self.at(side * 9.0, 129 - d, f + 7),
            ]
            self.canvas.paint(
                self.canvas.tube(path, [1.6 * s, 2.4 * s, 2.7 * s, 0.9 * s]),
                self.hair,
                folds=0.10,
                seed=self.fold_seed + side,
            )

    def _headwear(self, thing: Garment) -> None:
        s, d, canvas = self.scale, self.drop, self.canvas
        colour = self.shade_of(thing)
        forward = self._head_forward()
        facing = math.cos(self.head_yaw)
        if thing.kind == "headscarf":
            x = self.at(0, 150 - d, forward)[0]
            rows = [self.at(0, h - d, self.lean)[1] for h in (154.0, 148.0, 142.0, 136.5)]
            drape = canvas.stack(
                rows, [x] * 4, [self.breadth(w, w * 0.8) for w in (9.0, 10.5, 14.0, 16.5)], smooth=3
            )
            patch = self._shell(174.6, 147.4, 1.13)
            canvas.paint(drape, colour * 0.95, folds=0.10, seed=self.fold_seed)
            if patch is None:
                return
            angle = _wrap(patch.angle() - np.float32(self.head_yaw))
            opening = 1.0 - np.hypot(angle / 0.88, (self._head_up(patch) - 158.8) / 9.4)
            patch.alpha = (patch.alpha * np.clip(0.5 - opening * 8.0 * s, 0.0, 1.0)).astype(
                np.float32
            )
            canvas.paint(patch, colour, folds=0.07, seed=self.fold_seed + 2)
            return
        if thing.kind == "hat":
            x, y = self.at(0, 167.5 - d, forward)
            canvas.paint(canvas.ellipse(x, y, 17.5 * s, 4.6 * s), colour * 0.8, round_=0.6)
            rows = [self.at(0, h - d, forward)[1] for h in (180.0, 178.5, 174.0, 168.0, 166.5)]
            crown = canvas.stack(
                rows, [x] * 5, [w * s for w in (6.5, 9.0, 10.0, 10.6, 10.4)], smooth=2
            )
            canvas.paint(crown, colour, folds=0.03)
            rows = [self.at(0, h - d, forward)[1] for h in (170.3, 167.3)]
            canvas.paint(canvas.stack(rows, [x] * 2, [10.7 * s] * 2, smooth=1), colour * 0.5 + 20)
            return
        bottom, factor = (161.5, 1.14) if thing.kind == "beanie" else (164.5, 1.11)
        dome = self._shell(160.5 + 12.5 * factor + 0.01, bottom, factor)
        canvas.paint(dome, colour, folds=0.05, seed=self.fold_seed)
        if thing.kind == "beanie":
            canvas.paint(self._shell(166.2, 161.0, 1.19), colour * 0.86, folds=0.04)
            return
        if facing > -0.45:
            x, y = self.at(0, 164.6 - d, forward)
            x += 11.5 * s * math.sin(self.head_yaw)
            y += 1.2 * s * max(facing, 0.0)
            half = math.hypot(8.6 * math.cos(self.head_yaw), 8.0 * math.sin(self.head_yaw)) * s
            canvas.paint(
                canvas.ellipse(x, y, half, (1.4 + 1.6 * max(facing, 0.0)) * s),
                colour * 0.82,
                round_=0.5,
            )

    def _neckwear(self) -> None:
        """Collars, the hood at the neck and the scarf."""
        person, s, d, lean = self.person, self.scale, self.drop, self.lean
        canvas = self.canvas
        top = person.outer or person.upper
        facing = self.cos
        if top.kind == "hoodie":
            x, y = self.at(0, 148.5 - d, lean - 2.5)
            if facing < 0.15:
                canvas.paint(
                    canvas.ellipse(x, y + 3 * s, 11.5 * s, 9.0 * s),
                    self.shade_of(top) * 0.92,
                    folds=0.06,
                    seed=self.fold_seed,
                )
                canvas.darken(canvas.ellipse(x, y + 9 * s, 8.5 * s, 2.2 * s, soft=2 * s), 0.25)
            else:
                canvas.paint(
                    canvas.tube(
                        [
                            self.at(-8.5, 150 - d, lean - 2),
                            self.at(0, 144.5 - d, lean + 5),
                            self.at(8.5, 150 - d, lean - 2),
                        ],
                        [2.6 * s, 3.0 * s, 2.6 * s],
                    ),
                    self.shade_of(top) * 0.95,
                )
        collared = person.upper if person.upper.kind in ("shirt", "polo shirt") else None
        if collared is not None and facing > 0.1:
            shade = np.asarray(self.shade_of(collared) * 1.03, dtype=np.float32).clip(0, 250)
            for side in (1, -1):
                path = [
                    self.at(side * 5.6, 150.2 - d, lean + 1),
                    self.at(side * 3.9, 145.6 - d, lean + 6.5),
                ]
                canvas.paint(canvas.tube(path, [1.5 * s, 2.4 * s]), shade)
        elif top.kind in ("jacket", "coat", "blazer", "shirt", "polo shirt"):
            rows = [self.at(0, h - d, lean)[1] for h in (151.2, 147.2)]
            x = self.at(0, 149 - d, lean)[0]
            if facing < 0.1:
                canvas.paint(
                    canvas.stack(
                        rows, [x] * 2, [self.breadth(6.8, 6.4), self.breadth(7.8, 7.0)], smooth=1
                    ),
                    self.shade_of(top) * 0.9,
                )
            else:
                for side in (1, -1):
                    path = [
                        self.at(side * 6.6, 151 - d, lean),
                        self.at(side * 5.2, 145.5 - d, lean + 6),
                    ]
                    canvas.paint(canvas.tube(path, [1.8 * s, 2.3 * s]), self.shade_of(top) * 0.92)
        if person.scarf is not None:
            colour = self.shade_of(person.scarf)
            x, _ = self.at(0, 148 - d, lean + 1)
            rows = [self.at(0, h - d, lean + 1)[1] for h in (152.6, 150.0, 146.0, 143.0)]
            halves = [self.breadth(w, w) for w in (6.6, 9.0, 9.8, 7.4)]
            if facing > 0.05:
                end = [
                    self.at(3.4, 147 - d, lean + 8),
                    self.at(4.6, 134 - d, lean + 11),
                    self.at(4.8, 118 - d, lean + 11),
                ]
                canvas.paint(
                    canvas.tube(end, [3.6 * s, 4.2 * s, 4.2 * s], flat_end=True),
                    colour * 0.95,
                    folds=0.10,
                    seed=self.fold_seed,
                )
            canvas.paint(
                canvas.stack(rows, [x] * 4, halves, smooth=2),
                colour,
                folds=0.14,
                seed=self.fold_seed + 9,
            )

    # -- bags

    def _bag_is_near(self) -> bool:
        bag = self.person.bag
        if bag is None:
            return False
        if bag.kind == "backpack":
            return self.cos < 0.1
        if bag.kind == "suitcase":
            return self.near((self.person.bag_side * 24.0, 30.0, -26.0)) > 0.0
        return self.near((self.person.bag_side * 20.0, 80.0, 3.0)) > -9.0

    def _bag(self, bag: Garment) -> None:
        s, d, side, canvas = self.scale, self.drop, self.person.bag_side, self.canvas
        colour = self.shade_of(bag)
        if bag.kind == "backpack":
            x, _ = self.at(0.0, 120.0 - d, self.lean - self.build.chest_depth - 8.0)
            half = math.hypot(15.0 * self.cos, 8.5 * self.sin) * s
            top, bottom = self.at(0, 146 - d, -10)[1], self.at(0, 97 - d, -10)[1]
            body = canvas.box(x - half, top, x + half, bottom, 7.0 * s)
            canvas.paint(body, colour, folds=0.05, seed=self.fold_seed, round_=0.8)
            if self.cos < 0.1:
                pocket = canvas.box(
                    x - half * 0.74, top + 27 * s, x + half * 0.74, bottom - 2.5 * s, 4.0 * s
                )
                canvas.darken(pocket, 0.22)
                pocket = canvas.box(
                    x - half * 0.72, top + 28 * s, x + half * 0.72, bottom - 3.0 * s, 4.0 * s
                )
                canvas.paint(pocket, colour * 1.04, round_=0.7, folds=0.04)
                canvas.darken(
                    canvas.box(
                        x - half * 0.8, top + 11 * s, x + half * 0.8, top + 12.2 * s, 0.6 * s
                    ),
                    0.35,
                )
        elif bag.kind == "shoulder bag":
            front = 1.0 if self.cos > 0 else -1.0
            deep = (self.build.chest_depth + 1.5) * front
            strap = [
                self.at(-side * 9.0, 146 - d, self.lean),
                self.at(-side * 5.0, 134 - d, self.lean + deep),
                self.at(side * 8.0, 112 - d, self.lean * 0.5 + deep),
                self.at(side * 17.0, 94 - d, 2.0 + 0.5 * deep),
            ]
            canvas.paint(canvas.tube(strap, [1.5 * s] * 4), colour * 0.85)
            x, y = self.at(side * 18.5, 84.0 - d, 2.0 + 4.0 * front)
            half = math.hypot(11.5 * self.cos, 14.0 * self.sin) * s
            canvas.darken(canvas.box(x - half + 2, y - 9 * s, x + half + 3, y + 14 * s, 4 * s), 0.2)
            canvas.paint(
                canvas.box(x - half, y - 11 * s, x + half, y + 11.5 * s, 3.5 * s),
                colour,
                folds=0.04,
                round_=0.6,
            )
            canvas.darken(canvas.box(x - half, y - 1.0 * s, x + half, y + 0.4 * s, 0.6 * s), 0.3)
        else:
            wrist, elbow = self.arms[side][2], self.arms[side][1]
            hand = self.at(*_between(elbow, wrist, 1.25))
            if bag.kind == "suitcase":
                x, y = self.at(wrist[0] + side * 3.0, 0.0, wrist[2] - 16.0)
                half = math.hypot(18.0 * self.cos, 12.0 * self.sin) * s
                canvas.darken(canvas.ellipse(x, y, half * 1.25, 3.5 * s, soft=3 * s), 0.4)
                canvas.paint(
                    canvas.tube([hand, (x, y - 50 * s)], [0.9 * s, 0.9 * s]), (150, 150, 154)
                )
                canvas.paint(
                    canvas.box(x - half, y - 56 * s, x + half, y - 2.5 * s, 4 * s),
                    colour,
                    round_=0.7,
                )
                for k in (-0.45, 0.0, 0.45):
                    canvas.darken(
                        canvas.box(
                            x + k * half - 0.6 * s,
                            y - 52 * s,
                            x + k * half + 0.6 * s,
                            y - 6 * s,
                            0.5 * s,
                        ),
                        0.25,
                    )
                for k in (-0.7, 0.7):
                    canvas.paint(
                        canvas.ellipse(x + k * half, y - 1.5 * s, 2.2 * s, 2.2 * s), (34, 34, 36)
                    )
            elif bag.kind == "briefcase":
                self._hand_bag(bag, hand, 19.0, 25.0, 4.5)
            else:
                self._hand_bag(bag, hand, 14.0, 21.0, 9.0)

    def _hand_bag(
        self, thing: Garment, hand: Point, length: float, height: float, gap: float
    ) -> None:
        """A bag hung from the hand; its long side runs forward."""
        x, y = hand
        s, canvas = self.scale, self.canvas
        colour = self.shade_of(thing)
        half = math.hypot(length * 0.62 * self.cos, length * self.sin) * s
        for k in (-0.5, 0.5):
            canvas.paint(
                canvas.tube([(x, y), (x + k * half, y + gap * s)], [0.8 * s, 0.8 * s]),
                colour * 0.75,
            )
        canvas.paint(
            canvas.box(x - half, y + gap * s, x + half, y + (gap + height) * s, 2.6 * s),
            colour,
            folds=0.03,
            round_=0.6,
        )
        canvas.darken(
            canvas.box(
                x - half,
                y + (gap + height * 0.3) * s,
                x + half,
                y + (gap + height * 0.36) * s,
                0.5 * s,
            ),
            0.28,
        )
