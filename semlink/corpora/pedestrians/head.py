"""Head, face, hair, hats and what is worn round the neck."""

from __future__ import annotations

import math

import numpy as np

from semlink.corpora.pedestrians.attributes import Garment
from semlink.corpora.pedestrians.canvas import Array, Colour, Patch, Point
from semlink.corpora.pedestrians.sitter import Sitter, mix, wrap_angle

_LONG_HAIRLINE = ((0.0, 0.25, 0.75, 1.0, 1.25, 3.2), (168.6, 168.0, 165.0, 158.0, 148.0, 147.0))
_HAIRLINES = {
    **{"long": _LONG_HAIRLINE, "bob": _LONG_HAIRLINE},
    "curly": ((0.0, 0.7, 1.0, 1.4, 3.2), (167.0, 166.0, 162.0, 154.0, 150.0)),
}
"""By style: angles round the head, and how far down the hair reaches there, cm."""
_SHORT_HAIRLINE = ((0.0, 0.6, 0.95, 1.3, 1.75, 3.2), (168.4, 167.6, 165.0, 158.5, 152.5, 151.0))


class HeadPainter(Sitter):
    """Paints everything from the collar up."""

    def _neck(self) -> None:
        d, lean = self.drop, self.lean
        path = [self.at(0, 141 - d, lean), self.at(0, 153 - d, lean + 2.0)]
        self.canvas.paint(self.limb(path, [6.0, 5.4]), self.skin * 0.84)

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
        points = []
        for h in cut:
            jaw = 1.4 * max(0.0, (158.0 - h) / 10.0) * sin * self.scale
            x, y = self.at(0.0, h - self.drop, forward)
            points.append((x + jaw, y))
        return self.slices(points, [float(half * r) for r in relative], smooth=1)

    def _head_forward(self) -> float:
        return self.lean * 1.15 + (2.0 if self.shot.action == "phone" else 1.0)

    def _head_up(self, patch: Patch) -> Array:
        near = self._head_forward() * self.cos
        up = self.height_cm(patch) + self.drop + near * math.tan(self.pitch)
        return np.asarray(np.broadcast_to(up, patch.alpha.shape), dtype=np.float32)

    def _head_angle(self, patch: Patch) -> Array:
        return wrap_angle(patch.angle() - np.float32(self.head_yaw))

    def _head(self) -> None:
        person = self.person
        style, covered = person.hair_style, person.headwear.kind if person.headwear else "none"
        facing = math.cos(self.head_yaw)
        if covered != "headscarf":
            if facing > 0:
                self._knot()
            if style == "curly":
                self._curls()
        skull, s = self._shell(173.0, 147.0, 1.0), self.scale
        x, y = self.at(0, 147 - self.drop, self.lean)
        self.canvas.darken(self.canvas.ellipse(x, y, 7 * s, 2.5 * s, soft=2 * s), 0.3)
        if skull is None:
            return
        angle, up = self._head_angle(skull), self._head_up(skull)
        colour = np.broadcast_to(self.skin, (*skull.alpha.shape, 3))
        if person.beard:
            places, heights = (0.0, 0.32, 0.5, 1.25, 1.5), (151.3, 151.8, 154.2, 158.0, 140.0)
            level = np.interp(np.abs(angle), places, heights)
            whiskers = np.clip((level - up) * s + 0.5, 0.0, 1.0)
            moustache = np.clip((1.0 - np.abs(up - 154.3) / 1.3) * 2.0, 0.0, 1.0)
            beard = np.maximum(whiskers, moustache * (np.abs(angle) < 0.42)).astype(np.float32)
            colour = mix(colour, self.hair, beard * 0.9)
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
        cos, sin = math.cos(self.head_yaw), math.sin(self.head_yaw)
        half = math.hypot((8.4 + grow) * cos, (9.9 + grow) * sin)
        return (x + self.scale * half * math.sin(turn), y), math.cos(turn)

    def _ears(self) -> None:
        for side in (1, -1):
            (x, y), square = self._on_head(side * 1.5, 159.0, 0.3)
            if square > -0.35:
                self.blob(x, y, 1.5, 2.9, self.skin * 0.9, round_=0.4)

    def _face(self) -> None:
        person = self.person
        if math.cos(self.head_yaw) < -0.25:
            return
        (x, y), square = self._on_head(0.0, 156.6, 0.4)
        if square > -0.15:
            self.blob(x, y, 1.1 + 0.5 * (1 - square), 2.1, self.skin * 0.92, round_=0.3)
        (x, y), square = self._on_head(0.0, 152.4)
        if square > 0.05:
            lips: Colour = (168, 70, 74) if person.gender == "woman" else self.skin * 0.68
            self.blob(x, y, max(2.6 * square, 0.8), 0.85, lips, round_=0)
        for side in (1, -1):
            (x, y), square = self._on_head(side * 0.42, 160.6)
            if square < 0.12:
                continue
            self.blob(x, y, 1.9 * square, 1.15, self.skin * 0.45 + 118, round_=0)
            self.blob(x, y, max(square, 0.5), 1.05, (46, 34, 30), round_=0)
            brow, y = self.hair * 0.75, y - 2.7 * self.scale
            self.blob(x, y, 2.3 * square, 0.55, brow, round_=0, opacity=0.85)
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
            rx, ry = max(3.5 * square, 1.0), 2.9
            self.blob(x, y, rx, ry, frame, round_=0, opacity=1.0 if tinted else 0.9)
            if not tinted:
                lens = np.asarray(self.skin * 0.5 + 110, dtype=np.float32).clip(0, 245)
                rx, ry = max(rx * s - 0.95 * s, 0.4), ry * s - 0.95 * s
                canvas.paint(canvas.ellipse(x, y, rx, ry), lens, round_=0)
                self.blob(x, y, square, 1.0, (40, 32, 30), round_=0)
            end, out = self._on_head(side * 1.4, 160.8, 0.5)
            if out > -0.2:
                canvas.paint(self.limb([(x, y - 0.6 * s), end], [0.6, 0.5]), frame, round_=0)
        if len(places) == 2:
            canvas.paint(self.limb(places, [0.6, 0.6]), frame, round_=0)

    def _hair_cap(self, style: str) -> None:
        factor = {"curly": 1.15, "bob": 1.12, "long": 1.11}.get(style, 1.075)
        patch = self._shell(160.5 + 12.5 * factor, 147.5, factor)
        if patch is None:
            return
        up = self._head_up(patch)
        line = np.interp(np.abs(self._head_angle(patch)), *_HAIRLINES.get(style, _SHORT_HAIRLINE))
        shown = np.clip((up - line) * self.scale * 0.8 + 0.5, 0, 1)
        patch.alpha = (patch.alpha * shown).astype(np.float32)
        shine = 1.0 + 0.22 * np.exp(-(((up - 168.0) / 2.6) ** 2))
        folds = 0.10 if style != "curly" else 0.2
        self.canvas.paint(patch, self.hair * shine[..., None], folds=folds, seed=self.fold_seed)

    def _curls(self) -> None:
        s = self.scale
        if self.person.headwear is not None:
            return
        for i in range(15):
            turn = math.pi * (i / 14.0) * 1.3 - 0.15 * math.pi
            lateral, up = 9.6 * math.cos(turn), 163.0 + 10.5 * math.sin(turn) - self.drop
            x, y = self.at(0.0, up, self._head_forward() - 1.0)
            tone = self.hair * (0.85 + 0.3 * ((i * 7) % 5) / 5)
            self.blob(x + lateral * s, y, 4.4, 4.2, tone, folds=0.12, seed=self.fold_seed + i)

    def _knot(self) -> None:
        style, d, f = self.person.hair_style, self.drop, self._head_forward()
        if style == "bun" and self.person.headwear is None:
            x, y = self.at(0.0, 171.5 - d, f - 7.5)
            self.blob(x, y, 5.4, 5.0, self.hair, folds=0.12, seed=self.fold_seed)
        elif style == "ponytail":
            tail = (
                (0, 165, -9),
                (0, 162, -14),
                (self.sway * 2, 150, -14),
                (self.sway * 3, 134, -12),
            )
            patch = self.limb(
                [self.at(x, h - d, f + back) for x, h, back in tail], [2.4, 3.8, 3.9, 1.0]
            )
            self.canvas.paint(patch, self.hair * 0.95, folds=0.10, seed=self.fold_seed)

    def _long_hair(self) -> None:
        """The fall of long hair (or a bob) behind the neck and back."""
        style = self.person.hair_style
        if style not in ("long", "bob") or self._is_covered():
            return
        f, d = self._head_forward(), self.drop
        if style == "long":
            heights = [166.0, 160.0, 152.0, 144.0, 134.0, 126.0, 122.0]
            halves, depth, back = [9.0, 10.2, 10.8, 11.6, 11.4, 9.4, 6.0], 0.62, -5.2
        else:
            heights = [166.0, 160.0, 154.0, 149.5, 147.0]
            halves, depth, back = [9.0, 10.4, 11.0, 10.6, 8.6], 0.72, -3.2
        points = [self.at(0.0, h - d, f + back - (1.2 if h < 145 else 0.0)) for h in heights]
        patch = self.slices(points, [self.breadth(w, w * depth) for w in halves], smooth=2)
        self.canvas.paint(patch, self.hair * 0.93, folds=0.10, seed=self.fold_seed + 5)

    def _is_covered(self) -> bool:
        return self.person.headwear is not None and self.person.headwear.kind == "headscarf"

    def _front_locks(self) -> None:
        """Strands of long hair that fall over the shoulders, seen from the front."""
        if self.person.hair_style != "long" or math.cos(self.head_yaw) < 0.2 or self._is_covered():
            return
        f, d = self._head_forward(), self.drop
        strand = ((8.4, 160, 0), (9.2, 151, 1), (9.6, 141, 5), (9.0, 129, 7))
        for side in (1, -1):
            path = [self.at(side * x, h - d, f + forth) for x, h, forth in strand]
            lock = self.limb(path, [1.6, 2.4, 2.7, 0.9])
            self.canvas.paint(lock, self.hair, folds=0.10, seed=self.fold_seed + side)

    def _headwear(self, thing: Garment) -> None:
        s, d, canvas = self.scale, self.drop, self.canvas
        colour = self.shade_of(thing)
        forward = self._head_forward()
        facing = math.cos(self.head_yaw)
        if thing.kind == "headscarf":
            x = self.at(0, 150 - d, forward)[0]
            halves = [self.breadth(w, w * 0.8) for w in (9.0, 10.5, 14.0, 16.5)]
            drape = self.column(x, [154.0, 148.0, 142.0, 136.5], self.lean, halves, 3)
            patch = self._shell(174.6, 147.4, 1.13)
            canvas.paint(drape, colour * 0.95, folds=0.10, seed=self.fold_seed)
            if patch is None:
                return
            up = self._head_up(patch)
            opening = 1.0 - np.hypot(self._head_angle(patch) / 0.88, (up - 158.8) / 9.4)
            shown = np.clip(0.5 - opening * 8.0 * s, 0.0, 1.0)
            patch.alpha = (patch.alpha * shown).astype(np.float32)
            canvas.paint(patch, colour, folds=0.07, seed=self.fold_seed + 2)
            return
        if thing.kind == "hat":
            x, y = self.at(0, 167.5 - d, forward)
            self.blob(x, y, 17.5, 4.6, colour * 0.8, round_=0.6)
            halves = [w * s for w in (6.5, 9.0, 10.0, 10.6, 10.4)]
            crown = self.column(x, [180.0, 178.5, 174.0, 168.0, 166.5], forward, halves, 2)
            canvas.paint(crown, colour, folds=0.03)
            band = self.column(x, [170.3, 167.3], forward, [10.7 * s] * 2, 1)
            canvas.paint(band, colour * 0.5 + 20)
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
            half = math.hypot(8.6 * math.cos(self.head_yaw), 8.0 * math.sin(self.head_yaw))
            self.blob(x, y, half, 1.4 + 1.6 * max(facing, 0.0), colour * 0.82, round_=0.5)

    def _neckwear(self) -> None:
        """Collars, the hood at the neck and the scarf."""
        person, s, d, lean = self.person, self.scale, self.drop, self.lean
        canvas, facing = self.canvas, self.cos
        top = person.outer or person.upper
        shade = self.shade_of(top)
        if top.kind == "hoodie":
            x, y = self.at(0, 148.5 - d, lean - 2.5)
            if facing < 0.15:
                self.blob(x, y + 3 * s, 11.5, 9.0, shade * 0.92, folds=0.06, seed=self.fold_seed)
                canvas.darken(canvas.ellipse(x, y + 9 * s, 8.5 * s, 2.2 * s, soft=2 * s), 0.25)
            else:
                hood = ((-8.5, 150, -2), (0, 144.5, 5), (8.5, 150, -2))
                path = [self.at(x, h - d, lean + forth) for x, h, forth in hood]
                canvas.paint(self.limb(path, [2.6, 3.0, 2.6]), shade * 0.95)
        collared = person.upper if person.upper.kind in ("shirt", "polo shirt") else None
        if collared is not None and facing > 0.1:
            light = np.asarray(self.shade_of(collared) * 1.03, dtype=np.float32).clip(0, 250)
            for side in (1, -1):
                start, end = (side * 5.6, 150.2 - d, lean + 1), (side * 3.9, 145.6 - d, lean + 6.5)
                canvas.paint(self.limb([self.at(*start), self.at(*end)], [1.5, 2.4]), light)
        elif top.kind in ("jacket", "coat", "blazer", "shirt", "polo shirt"):
            if facing < 0.1:
                x, halves = (
                    self.at(0, 149 - d, lean)[0],
                    [self.breadth(6.8, 6.4), self.breadth(7.8, 7.0)],
                )
                canvas.paint(self.column(x, [151.2, 147.2], lean, halves, 1), shade * 0.9)
            else:
                for side in (1, -1):
                    start, end = (side * 6.6, 151 - d, lean), (side * 5.2, 145.5 - d, lean + 6)
                    lapel = self.limb([self.at(*start), self.at(*end)], [1.8, 2.3])
                    canvas.paint(lapel, shade * 0.92)
        if person.scarf is not None:
            colour = self.shade_of(person.scarf)
            if facing > 0.05:
                fall = ((3.4, 147, 8), (4.6, 134, 11), (4.8, 118, 11))
                path = [self.at(x, h - d, lean + forth) for x, h, forth in fall]
                end_patch = self.limb(path, [3.6, 4.2, 4.2], flat_end=True)
                canvas.paint(end_patch, colour * 0.95, folds=0.10, seed=self.fold_seed)
            x, halves = (
                self.at(0, 148 - d, lean + 1)[0],
                [self.breadth(w, w) for w in (6.6, 9.0, 9.8, 7.4)],
            )
            knot = self.column(x, [152.6, 150.0, 146.0, 143.0], lean + 1, halves, 2)
            canvas.paint(knot, colour, folds=0.14, seed=self.fold_seed + 9)
