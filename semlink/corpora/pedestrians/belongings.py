"""Bags, umbrellas and what hands hold."""

from __future__ import annotations

import math

import numpy as np

from semlink.corpora.pedestrians.attributes import Garment
from semlink.corpora.pedestrians.canvas import Point
from semlink.corpora.pedestrians.sitter import Sitter, between


class BelongingsPainter(Sitter):
    """Paints what a person carries."""

    def _held(self, thing: Garment, hand: Point) -> None:
        paint = self.canvas.paint
        if thing.kind == "phone":
            if self.shot.action == "call":
                return
            paint(self.plate(hand, (-2.6, -7, 2.6, 2), 1.0), (28, 28, 32), round_=0)
            screen = self.plate(hand, (-2.0, -6.3, 2.0, 1.2), 0.6)
            paint(screen, (120, 160, 200), round_=0, opacity=0.7)
        elif thing.kind == "cup":
            paint(self.plate(hand, (-2.9, -8, 2.9, 2), 1.0), self.shade_of(thing))
            paint(self.plate(hand, (-3.3, -9.2, 3.3, -7.2), 0.8), (86, 56, 38))
        elif thing.kind == "shopping bag":
            self._hand_bag(thing, hand, 11.0, 27.0, 9.0)

    def _umbrella(self, thing: Garment) -> None:
        wrist = self.arms[self.busy_side][2]
        s = self.scale
        x, y = self.at(wrist[0], wrist[1], wrist[2])
        tip_x, tip_y = self.at(wrist[0] * 0.5, 205.0 - self.drop, wrist[2] * 0.6)
        stick = self.limb([(x, y + 5 * s), (tip_x, tip_y - 3 * s)], [0.8, 0.7])
        self.canvas.paint(stick, (70, 70, 74))
        colour = self.shade_of(thing)
        half = 47.0 * s
        rows = [tip_y, *(tip_y + down * s for down in (2, 6, 12, 19, 25.0))]
        halves = [1.0, half * 0.34, half * 0.62, half * 0.84, half * 0.96, half]
        patch = self.canvas.stack(rows, [tip_x] * 6, halves, smooth=2)
        if patch is None:
            return
        ribs = np.abs(np.sin(4.0 * np.arccos(np.clip(patch.across, -0.999, 0.999))))
        scallop = np.clip((1.0 - patch.along) * 25.0 - 3.2 * (1.0 - ribs), 0.0, 1.0)
        patch.alpha = (patch.alpha * np.where(patch.along > 0.75, scallop, 1.0)).astype(np.float32)
        panels = np.asarray(colour * (0.86 + 0.14 * ribs**0.5)[..., None], dtype=np.float32)
        self.canvas.paint(patch, panels, round_=0.8)

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
                wide, y0, y1 = half * 0.74, top + 27 * s, bottom - 2.5 * s
                canvas.darken(canvas.box(x - wide, y0, x + wide, y1, 4.0 * s), 0.22)
                wide, y0, y1 = half * 0.72, top + 28 * s, bottom - 3.0 * s
                pocket = canvas.box(x - wide, y0, x + wide, y1, 4.0 * s)
                canvas.paint(pocket, colour * 1.04, round_=0.7, folds=0.04)
                wide, y0, y1 = half * 0.8, top + 11 * s, top + 12.2 * s
                canvas.darken(canvas.box(x - wide, y0, x + wide, y1, 0.6 * s), 0.35)
        elif bag.kind == "shoulder bag":
            front = 1.0 if self.cos > 0 else -1.0
            deep = (self.build.chest_depth + 1.5) * front
            strap = [
                self.at(-side * 9.0, 146 - d, self.lean),
                self.at(-side * 5.0, 134 - d, self.lean + deep),
                self.at(side * 8.0, 112 - d, self.lean * 0.5 + deep),
                self.at(side * 17.0, 94 - d, 2.0 + 0.5 * deep),
            ]
            canvas.paint(self.limb(strap, [1.5] * 4), colour * 0.85)
            x, y = self.at(side * 18.5, 84.0 - d, 2.0 + 4.0 * front)
            half = math.hypot(11.5 * self.cos, 14.0 * self.sin) * s
            canvas.darken(canvas.box(x - half + 2, y - 9 * s, x + half + 3, y + 14 * s, 4 * s), 0.2)
            body = canvas.box(x - half, y - 11 * s, x + half, y + 11.5 * s, 3.5 * s)
            canvas.paint(body, colour, folds=0.04, round_=0.6)
            canvas.darken(canvas.box(x - half, y - 1.0 * s, x + half, y + 0.4 * s, 0.6 * s), 0.3)
        else:
            wrist, elbow = self.arms[side][2], self.arms[side][1]
            hand = self.at(*between(elbow, wrist, 1.25))
            if bag.kind == "suitcase":
                x, y = self.at(wrist[0] + side * 3.0, 0.0, wrist[2] - 16.0)
                half = math.hypot(18.0 * self.cos, 12.0 * self.sin) * s
                canvas.darken(canvas.ellipse(x, y, half * 1.25, 3.5 * s, soft=3 * s), 0.4)
                canvas.paint(self.limb([hand, (x, y - 50 * s)], [0.9, 0.9]), (150, 150, 154))
                body = canvas.box(x - half, y - 56 * s, x + half, y - 2.5 * s, 4 * s)
                canvas.paint(body, colour, round_=0.7)
                for k in (-0.45, 0.0, 0.45):
                    groove = self.plate((x + k * half, y), (-0.6, -52, 0.6, -6), 0.5)
                    canvas.darken(groove, 0.25)
                for k in (-0.7, 0.7):
                    self.blob(x + k * half, y - 1.5 * s, 2.2, 2.2, (34, 34, 36))
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
            handle = self.limb([hand, (x + k * half, y + gap * s)], [0.8, 0.8])
            canvas.paint(handle, colour * 0.75)
        body = canvas.box(x - half, y + gap * s, x + half, y + (gap + height) * s, 2.6 * s)
        canvas.paint(body, colour, folds=0.03, round_=0.6)
        y0, y1 = y + (gap + height * 0.3) * s, y + (gap + height * 0.36) * s
        canvas.darken(canvas.box(x - half, y0, x + half, y1, 0.5 * s), 0.28)
