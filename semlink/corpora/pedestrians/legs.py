"""Legs, feet, trousers and skirts of a person."""

from __future__ import annotations

import math

import numpy as np

from semlink.corpora.pedestrians.attributes import Garment
from semlink.corpora.pedestrians.canvas import Colour, Patch
from semlink.corpora.pedestrians.sitter import HEM_CM, Joint, Sitter, between

_SOLE = (226.0, 224.0, 220.0)


class LegPainter(Sitter):
    """Paints what is below the waist."""

    def _hem(self) -> float:
        person = self.person
        top = person.outer or person.upper
        hem = min(HEM_CM[top.kind], HEM_CM[person.upper.kind])
        return hem - self.drop

    def _leg(self, side: int) -> None:
        person, s = self.person, self.scale
        hip, knee, ankle = self.legs[side]
        limb = self.build.limb
        mid_thigh = between(hip, knee, 0.5)
        calf = between(knee, ankle, 0.38)
        path = [
            self.at(*joint) for joint in (hip, mid_thigh, knee, (*calf[:2], calf[2] - 1.2), ankle)
        ]
        lower, seed = person.lower, self.fold_seed + 7 * side
        kind = "none" if lower is None else lower.kind
        skin = self.limb(path, [r * limb for r in (8.6, 7.6, 5.4, 5.4, 3.4)])
        if kind in ("none", "skirt", "shorts", "leggings"):
            colour = self.skin if kind != "leggings" else self._leg_cloth(skin, lower)
            self.canvas.paint(skin, colour, folds=0.012)
        self._foot(side, ankle)
        if kind in ("trousers", "jeans"):
            narrow = kind == "jeans"
            radii = (9.0, 8.0, 6.4, 6.0, 5.3) if narrow else (9.2, 8.4, 7.2, 6.9, 6.6)
            path[-1] = self.at(ankle[0], ankle[1] - 3.0, ankle[2])
            patch = self.limb(path, [r * limb for r in radii], flat_end=True)
            self.canvas.paint(patch, self._leg_cloth(patch, lower), folds=0.06, seed=seed)
            self._crease(knee, ankle)
        elif kind == "shorts":
            path = [*path[:2], self.at(*between(hip, knee, 0.88))]
            patch = self.limb(path, [r * limb for r in (9.6, 9.0, 8.6)], flat_end=True)
            self.canvas.paint(patch, self._leg_cloth(patch, lower), folds=0.07, seed=seed)
        if person.shoes.kind == "boots":
            shaft, end = between(knee, ankle, 0.45), (ankle[0], ankle[1] - 4, ankle[2])
            path = [self.at(*joint) for joint in (shaft, ankle, end)]
            widths = [r * limb * s for r in (6.9, 5.6, 5.4)]
            patch = self.canvas.tube(path, widths, flat_start=True)
            self.canvas.paint(patch, self.shade_of(person.shoes), folds=0.05, seed=self.fold_seed)

    def _leg_cloth(self, patch: Patch | None, lower: Garment | None) -> Colour:
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
        of_knee, of_ankle = ((-2.0, 0.10), (3.0, 0.07)), ((3.0, 0.14), (7.0, 0.08))
        for joint, up, amount in [(knee, *c) for c in of_knee] + [(ankle, *c) for c in of_ankle]:
            x, y = self.at(joint[0], joint[1] + up, joint[2])
            self.canvas.darken(self.canvas.ellipse(x, y, 5.2 * s, 0.8 * s, soft=0.9 * s), amount)

    def _foot(self, side: int, ankle: Joint) -> None:
        shoes, s, tilt = self.person.shoes, self.scale, self.feet[side]
        x, y, z = ankle
        heel = (x, y - 5.0, z - 3.5)
        toe = (x + side * 2.2, y - 5.4 + 17.0 * math.sin(tilt), z + 16.0 * math.cos(tilt))
        colour = self.shade_of(shoes)
        sole: Colour = _SOLE if shoes.kind == "trainers" else colour * 0.55
        if shoes.kind == "sandals":
            self.canvas.paint(self.limb([self.at(*heel), self.at(*toe)], [3.6, 3.6]), self.skin)
            for part in (0.35, 0.75):
                x, y = self.at(*between(heel, toe, part))
                self.blob(x, y - 0.6 * s, 3.8, 2.0, colour)
            sole = colour * 0.7
        low = [self.at(p[0], p[1] - 2.0, p[2]) for p in (heel, toe)]
        self.canvas.paint(self.limb(low, [3.7, 3.5]), sole, round_=0.5)
        if shoes.kind == "sandals":
            return
        path = [self.at(*joint) for joint in (ankle, heel, between(heel, toe, 0.6), toe)]
        top = 4.4 if shoes.kind == "boots" else 4.0
        self.canvas.paint(self.limb(path, [4.0, top, 4.1, 3.2]), colour, round_=0.8)
        if shoes.kind == "trainers":
            x, y = self.at(*between(heel, toe, 0.5))
            mark = _SOLE if float(colour.mean()) < 170 else (90.0, 92.0, 98.0)
            self.blob(x, y - 0.8 * s, 2.4, 1.1, mark, opacity=0.85)

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
        halves = [self.breadth(b.hip + grow, b.hip_depth + grow)] * 2
        halves.append(self.breadth(b.hip + grow, b.hip_depth))
        halves.append(self.breadth(b.hip * 0.62, b.hip_depth * 0.62))
        patch = self.slices([self.at(0.0, h - self.drop, 0.0) for h in heights], halves)
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
        heights = [95.0, 92.0, 88.0, 76.0, 64.0, 52.0]
        points = [self.at(0.0, h - self.drop, 0.0) for h in heights]
        patch = self.slices(points, self._skirt_halves(heights, 5.0), sag=self._sag())
        if patch is None:
            return
        colour = np.array(self.cloth(garment, patch, self.body_angle(patch), 17.0))
        up = self.height_cm(patch)
        pleats = 1.0 + 0.08 * np.sin(7.0 * self.body_angle(patch) + self.sway) * patch.along
        shadow = 1.0 - 0.3 * np.exp(-np.maximum(self._hem() - up, 0.0) / 6.0)
        colour = colour * (pleats * shadow)[..., None]
        self.canvas.paint(patch, colour, folds=0.06, seed=self.fold_seed)
