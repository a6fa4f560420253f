"""The upper body with its garments, open or closed, and their details."""

from __future__ import annotations

import numpy as np

from semlink.corpora.pedestrians.attributes import SLEEVE_LENGTH, Garment
from semlink.corpora.pedestrians.canvas import Array, Patch
from semlink.corpora.pedestrians.legs import LegPainter
from semlink.corpora.pedestrians.sitter import HEM_CM, THICKNESS_CM, mix

_NECKLINE = {
    "tank top": (11.0, 1.0),
    "dress": (9.0, 0.95),
    "blouse": (8.0, 0.6),
    "t-shirt": (4.2, 1.05),
}
"""Depth of the cut, cm, and its half angle."""
_FOLD_DEPTH = {"jacket": 0.06, "coat": 0.045, "hoodie": 0.055, "sweater": 0.045, "blazer": 0.035}


class TorsoPainter(LegPainter):
    """Paints the garments of the upper body (coats and dresses reach the legs)."""

    def _torso(self) -> None:
        person = self.person
        top = person.outer or person.upper
        grow = max(THICKNESS_CM.get(top.kind, 0.7), THICKNESS_CM.get(person.upper.kind, 0.7))
        if person.outer is not None and person.upper.kind == "dress":
            self._body(person.upper, None, 0.7, HEM_CM["dress"])
        self._body(person.upper, person.outer, grow, HEM_CM[top.kind])

    def _body(self, upper: Garment, outer: Garment | None, grow: float, hem: float) -> None:
        b, woman = self.build, self.person.gender == "woman"
        sleeveless = outer is None and SLEEVE_LENGTH.get(upper.kind) == "none"
        sh = b.shoulder + 0.4 * grow
        bust = 2.2 if woman else 0.8
        paunch = 2.5 if self.person.build == "heavy" else 0.5
        ribs = (0.5 * (b.chest + b.waist) + grow, 0.5 * (b.chest_depth + b.waist_depth) + grow)
        loins = 0.5 * (b.hip + b.waist) + grow
        slices: list[tuple[float, float, float, float]] = [
            (148.8, 6.4, 5.6, self.lean + 0.5),
            (146.8, sh * 0.46, 6.4, self.lean),
            (144.2, sh * 0.74, 7.4, self.lean),
            (140.5, sh * (0.80 if sleeveless else 0.95), 8.6, self.lean),
            (134.0, sh * (0.80 if sleeveless else 0.95), b.chest_depth - 0.5, self.lean + 0.3),
            (126.0, b.chest + grow, b.chest_depth + grow, self.lean * 0.9 + bust),
            (116.0, *ribs, self.lean * 0.7 + 0.5),
            (106.0, b.waist + grow + 0.6, b.waist_depth + grow, self.lean * 0.4 + paunch),
            (98.0, loins, b.hip_depth + grow - 0.5, self.lean * 0.2 + paunch * 0.5),
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
        patch = self.slices(points, widths, smooth=3, sag=self._sag())
        if patch is None:
            return
        angle = self.body_angle(patch)
        up = np.broadcast_to(self.height_cm(patch), patch.alpha.shape) + self.drop
        radius = b.chest * 0.95
        colour = self.cloth(upper, patch, angle, radius)
        neck = self._neckline(upper, outer, angle, up)
        if outer is not None:
            colour = self._open_front(outer, patch, angle, up, colour, radius)
        else:
            colour = self._front_details(upper, angle, up, colour)
        colour = mix(colour, self.skin * 0.93, neck)
        colour = colour * self._torso_shadow(up, hem)[..., None]
        bag = self.person.bag
        if bag is not None and bag.kind == "backpack":
            strap = np.clip(1.5 - np.abs(np.abs(angle) - 0.62) / 0.11, 0.0, 1.0)
            strap = strap * (up > 108.0) * (up < 146.0)
            colour = mix(colour, self.shade_of(bag) * 0.9, strap.astype(np.float32))
        folds = _FOLD_DEPTH.get((outer or upper).kind, 0.042)
        self.canvas.paint(patch, colour, folds=folds, seed=self.fold_seed + 3)

    def _torso_shadow(self, up: Array, hem: float) -> Array:
        edge = 1.0 - 0.16 * np.exp(-np.maximum(up - hem, 0.0) / 1.2)
        chin = 1.0 - 0.20 * np.exp(-(((up - 149.0) / 4.0) ** 2))
        return np.asarray(edge * chin, dtype=np.float32)

    def _neckline(self, upper: Garment, outer: Garment | None, angle: Array, up: Array) -> Array:
        """Bare skin below the neck: 1 where the top is cut out."""
        covered = outer is not None and upper.kind not in ("t-shirt", "dress")
        if upper.kind not in _NECKLINE or covered:
            return np.zeros_like(angle)
        depth, half = _NECKLINE[upper.kind]
        level = 148.8 - depth * np.sqrt(np.maximum(1.0 - (angle / half) ** 2, 0.0))
        bare = np.clip((up - level) * self.scale + 0.5, 0.0, 1.0) * (np.abs(angle) < half)
        return np.asarray(bare, dtype=np.float32)

    def _open_front(
        self, outer: Garment, patch: Patch, angle: Array, up: Array, inner: Array, radius: float
    ) -> Array:
        """``outer`` everywhere but in the gap of its open front, where ``inner`` is seen."""
        if outer.kind in ("blazer", "cardigan"):
            heights, gaps = [50, 80, 100, 112, 145, 149], [0.55, 0.42, 0.22, 0.26, 0.62, 0.8]
        else:
            heights, gaps = [50, 85, 115, 140, 149], [0.62, 0.56, 0.46, 0.52, 0.75]
        gap = np.interp(up, heights, gaps) + 0.03 * self.sway
        cover = np.clip((np.abs(angle) - gap) * 10.0 * self.scale + 0.5, 0.0, 1.0)
        depth = gap - np.abs(angle)
        shaded = inner * (1.0 - 0.32 * np.exp(-np.maximum(depth, 0.0) / 0.09))[..., None]
        shell = self.cloth(outer, patch, angle, radius)
        lapel = (np.abs(angle) - gap < 0.24 * np.clip((up - 112.0) / 30.0, 0.0, 1.0)) & (up < 148.0)
        light = float(self.shade_of(outer).mean()) > 120.0
        shell = shell * np.where(lapel, 0.84 if light else 1.3, 1.0)[..., None]
        return mix(shaded.astype(np.float32), shell.astype(np.float32), cover.astype(np.float32))

    def _front_details(self, upper: Garment, angle: Array, up: Array, colour: Array) -> Array:
        kind = upper.kind
        base = self.shade_of(upper)
        dark = float(base.mean()) < 90.0
        line = np.exp(-((angle / 0.035) ** 2)).astype(np.float32)
        ink = np.asarray(base * (1.9 if dark else 0.62) + (14 if dark else 0), dtype=np.float32)
        if kind in ("shirt", "blouse"):
            colour = mix(colour, ink, line * 0.6)
        elif kind == "polo shirt":
            colour = mix(colour, ink, line * (up > 131.0) * np.float32(0.8))
        elif kind == "jacket":
            colour = mix(colour, np.asarray((188.0, 188.0, 190.0), dtype=np.float32), line * 0.8)
            pocket = np.exp(-(((np.abs(angle) - 0.62) / 0.05) ** 2)) * (up > 92.0) * (up < 104.0)
            colour = mix(colour, ink, pocket.astype(np.float32) * 0.7)
        elif kind == "coat":
            edge = np.exp(-(((angle - 0.16) / 0.03) ** 2)) * (up < 124.0)
            lapel = np.clip((up - 120.0) / 28.0, 0.0, 1.0) * 0.62
            vee = (np.abs(angle) < lapel) & (np.abs(angle) > lapel - 0.30) & (up > 121.0)
            colour = mix(colour, ink, np.maximum(edge, 0.45 * vee).astype(np.float32) * 0.8)
            belt = np.exp(-(((up - 106.0) / 2.3) ** 4))
            colour = mix(colour, ink, belt.astype(np.float32) * 0.55)
            for height in (118.0, 99.0, 88.0, 77.0):
                dot = np.hypot((np.abs(angle) - 0.12) * 17.0, up - height) < 1.5
                colour = mix(colour, ink, dot.astype(np.float32) * 0.8)
        elif kind == "hoodie":
            slope = 0.02 * np.maximum(up - 94.0, 0.0)
            pocket = (np.abs(angle) < 0.75 - slope) & (up > 92.0) & (up < 107.0)
            rim = pocket & ((up > 105.6) | (np.abs(angle) > 0.70 - slope))
            colour = mix(colour, ink, rim.astype(np.float32) * 0.55)
            cords = np.exp(-(((np.abs(angle) - 0.2) / 0.035) ** 2)) * (up > 130.0) * (up < 147.0)
            string = np.asarray((232.0, 230.0, 226.0), dtype=np.float32)
            colour = mix(colour, string, cords.astype(np.float32))
        elif kind == "sweater":
            hem = np.exp(-(((up - 88.0) / 2.6) ** 4))
            colour = mix(colour, ink, hem.astype(np.float32) * 0.35)
        elif kind == "dress":
            belt = np.exp(-(((up - 107.0) / 1.7) ** 4))
            colour = mix(colour, ink, belt.astype(np.float32) * 0.7)
        return colour
