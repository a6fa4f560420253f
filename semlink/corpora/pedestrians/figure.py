"""The whole person: who is painted over whom, and the shadow on the ground."""

from __future__ import annotations

from semlink.corpora.pedestrians.arms import ArmPainter
from semlink.corpora.pedestrians.head import HeadPainter
from semlink.corpora.pedestrians.torso import TorsoPainter


class Figure(TorsoPainter, ArmPainter, HeadPainter):
    """Paints one person in one shot; see :class:`~semlink.corpora.pedestrians.sitter.Sitter` for the arguments."""

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
        sides = {side: self.near(leg[1]) + self.near(leg[2]) for side, leg in self.legs.items()}
        for side in sorted(sides, key=sides.__getitem__):
            self._leg(side)
        self._pelvis()
        if person.lower is not None and person.lower.kind == "skirt":
            self._skirt(person.lower)
        self._neck()
        self._torso()
        self._neckwear()
        self._head()
        if behind:
            self._long_hair()
        else:
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
        s, canvas = self.scale, self.canvas
        x, y = self.at(0.0, 0.0, 0.0)
        shift = -lamp.right * 20.0 * s
        width = 26.0 * s + abs(shift)
        canvas.darken(canvas.ellipse(x + shift, y - 1.5 * s, width, 6.5 * s, soft=7.0 * s), 0.34)
        for leg in self.legs.values():
            fx, fy = self.at(leg[2][0], 0.0, leg[2][2] + 4.0)
            contact = max(0.0, 1.0 - (leg[2][1] - 8.0) / 14.0)
            canvas.darken(canvas.ellipse(fx, fy, 11 * s, 3.6 * s, soft=3 * s), 0.42 * contact)
