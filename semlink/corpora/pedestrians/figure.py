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
