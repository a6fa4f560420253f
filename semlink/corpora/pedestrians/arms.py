"""Arms, sleeves and hands of a person."""

from __future__ import annotations

import numpy as np

from semlink.corpora.pedestrians.attributes import SLEEVE_LENGTH
from semlink.corpora.pedestrians.belongings import BelongingsPainter
from semlink.corpora.pedestrians.canvas import Patch
from semlink.corpora.pedestrians.sitter import (
    THICKNESS_CM,
    between,
)


class ArmPainter(BelongingsPainter):
    """Paints arms and what the hands hold."""

    def _paint_arm(self, side: int) -> None:
        person, shot, s = self.person, self.shot, self.scale
        shoulder, elbow, wrist = self.arms[side]
        limb = self.build.limb
        top = person.outer or person.upper
        sleeve = SLEEVE_LENGTH.get(top.kind, "long")
        start = self.at(*shoulder)
        path = [start, self.at(*elbow), self.at(*wrist)]
        grow = THICKNESS_CM.get(top.kind, 0.5)
        holds = shot.carried is not None and side == self.busy_side
        reach = between(elbow, wrist, 1.22)
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
            end = between(shoulder, elbow, 0.62)
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
            self._held(shot.carried, self.at(*reach))

    def _offset(self, patch: Patch) -> Patch:
        """The patch itself shifted away from the light: the shadow that an arm throws on the body."""
        shift = 3 if self.canvas.lamp.right < 0 else -3
        return Patch(
            patch.rows, patch.cols, np.roll(patch.alpha, shift, axis=1), patch.across, patch.along
        )
