"""Arms, sleeves and hands of a person."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from semlink.corpora.pedestrians.attributes import SLEEVE_LENGTH
from semlink.corpora.pedestrians.belongings import BelongingsPainter
from semlink.corpora.pedestrians.canvas import Patch
from semlink.corpora.pedestrians.sitter import THICKNESS_CM, between


class ArmPainter(BelongingsPainter):
    """Paints arms and what the hands hold."""

    def _paint_arm(self, side: int) -> None:
        person, shot = self.person, self.shot
        shoulder, elbow, wrist = self.arms[side]
        limb = self.build.limb
        top = person.outer or person.upper
        sleeve = SLEEVE_LENGTH.get(top.kind, "long")
        path = [self.at(*joint) for joint in (shoulder, elbow, wrist)]
        grow = THICKNESS_CM.get(top.kind, 0.5)
        holds = shot.carried is not None and side == self.busy_side
        reach = between(elbow, wrist, 1.22)
        hand = self.limb([path[2], self.at(*reach)], [2.9 * limb, 3.3 * limb])
        if sleeve != "long":
            bare = self.limb(path, [r * limb for r in (4.9, 3.9, 2.8)])
            self.canvas.paint(bare, self.skin, folds=0.01)
        self.canvas.paint(hand, self.skin)
        patch = None
        if sleeve == "long":
            wide = (5.2 + 0.7 * grow, 4.4 + 0.9 * grow, 3.7 + 0.7 * grow)
            patch = self.limb(path, [r * limb for r in wide], flat_end=True)
        elif sleeve == "short":
            path = [path[0], self.at(*between(shoulder, elbow, 0.62))]
            patch = self.limb(path, [5.5 * limb, 5.8 * limb], flat_end=True)
        if patch is not None:
            if top.pattern == "print":  # on the chest alone
                colour = np.broadcast_to(self.shade_of(top), (*patch.alpha.shape, 3))
            else:
                colour = self.cloth(top, patch, patch.angle() + 2.0, 6.0)
            cuff = 1.0 - 0.22 * np.exp(-(((1.0 - patch.along) / 0.05) ** 2))
            colour, seed = colour * cuff[..., None], self.fold_seed + 11 * side
            self.canvas.darken(self._offset(patch), 0.16)
            self.canvas.paint(patch, colour, folds=0.055, seed=seed)
        if holds and shot.carried is not None:
            self._held(shot.carried, self.at(*reach))

    def _offset(self, patch: Patch) -> Patch:
        """The patch itself shifted away from the light: the shadow that an arm throws on the body."""
        shift = 3 if self.canvas.lamp.right < 0 else -3
        return replace(patch, alpha=np.roll(patch.alpha, shift, axis=1))
