"""Legs, feet, trousers and skirts of a person."""

from __future__ import annotations

import math

import numpy as np

from semlink.corpora.pedestrians.attributes import Garment
from semlink.corpora.pedestrians.canvas import Array, Patch
from semlink.corpora.pedestrians.sitter import (
    HEM_CM,
    Joint,
    Sitter,
    between,
)

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
            knee_hem = between(hip, knee, 0.88)
            patch = self.canvas.tube(
                [path[0], path[1], self.at(*knee_hem)],
                [9.6 * limb * s, 9.0 * limb * s, 8.6 * limb * s],
                flat_end=True,
            )
            self.canvas.paint(
                patch, self._leg_cloth(patch, lower), folds=0.07, seed=self.fold_seed + 7 * side
            )
        if person.shoes.kind == "boots":
            shaft = between(knee, ankle, 0.45)
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
        ball = between(heel, toe, 0.6)
        colour = self.shade_of(shoes)
        if shoes.kind == "sandals":
            self.canvas.paint(
                self.canvas.tube([self.at(*heel), self.at(*toe)], [3.6 * s, 3.6 * s]),
                self.skin,
            )
            for part in (0.35, 0.75):
                x, y = self.at(*between(heel, toe, part))
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
            x, y = self.at(*between(heel, toe, 0.5))
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
        heights = [95.0, 92.0, 88.0, 76.0, 64.0, 52.0]
        points = [self.at(0.0, h - self.drop, 0.0) for h in heights]
        halves = self._skirt_halves(heights, 5.0)
        patch = self.canvas.stack(
            [p[1] for p in points], [p[0] for p in points], halves, sag=self._sag()
        )
        if patch is None:
            return
        colour = np.array(self.cloth(garment, patch, self.body_angle(patch), 17.0))
        up = self.height_cm(patch)
        pleats = 1.0 + 0.08 * np.sin(7.0 * self.body_angle(patch) + self.sway) * patch.along
        shadow = 1.0 - 0.3 * np.exp(-np.maximum(self._hem() - up, 0.0) / 6.0)
        self.canvas.paint(
            patch, colour * (pleats * shadow)[..., None], folds=0.06, seed=self.fold_seed
        )
