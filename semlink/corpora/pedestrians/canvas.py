"""A small painter of soft solids: tubes, stacks and ellipses with analytic edges and cylinder shading.

Every solid is rasterised into a :class:`Patch` that knows, per pixel, its coverage and where on the (round)
surface the pixel lies; colour may thus depend on the angle round the body. Our definition.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from semlink.corpora.pedestrians.draws import stable_generator

Array = NDArray[np.float32]
Point = tuple[float, float]
Colour = Array | tuple[float, float, float]
"""One RGB, or one a pixel: ``[height, width, 3]``."""

_FOLD_SIZE = 512


@lru_cache(maxsize=1)
def _fold_bank() -> Array:
    """Periodic noise ``[512, 512]`` of zero mean and unit deviation, drawn out vertically like hanging cloth."""
    white = stable_generator("pedestrians", "folds").standard_normal((_FOLD_SIZE, _FOLD_SIZE))
    total = np.zeros_like(white)
    for weight, sigma in ((1.0, (22.0, 5.0)), (0.7, (9.0, 3.0)), (0.5, (5.0, 9.0))):
        layer = gaussian_filter(white, sigma, mode="wrap")
        total += weight * layer / layer.std()
        white = np.roll(white.T, 101, axis=0)
    bank: Array = (total / total.std()).astype(np.float32)
    return bank


@dataclass(frozen=True, slots=True)
class Lamp:
    """Soft light: direction in the picture plane and towards the camera, and its two strengths."""

    right: float = -0.45
    front: float = 0.75
    ambient: float = 0.58
    diffuse: float = 0.5


@dataclass(slots=True)
class Patch:
    """Pixels that a solid covers.

    ``alpha`` is coverage in 0…1, ``across`` the signed place on the width (−1 left edge … 1 right edge),
    ``along`` runs 0…1 from the first to the last control point; all ``[height, width]`` float32.
    """

    rows: slice
    cols: slice
    alpha: Array
    across: Array
    along: Array

    def angle(self) -> Array:
        """Angle on the visible half of the round surface, radians, −π/2 (left edge) … π/2 (right edge)."""
        return np.arcsin(np.clip(self.across, -0.999, 0.999))


class Look(TypedDict, total=False):
    """How a solid is painted: relative depth of cloth folds and which ones, roundness (0: flat), opacity."""

    folds: float
    seed: int
    round_: float
    opacity: float


class Canvas:
    """RGB float32 picture ``[height, width, 3]`` in 0…255 that solids are painted onto."""

    def __init__(self, pixels: Array, lamp: Lamp) -> None:
        self.pixels = pixels
        self.height, self.width = pixels.shape[:2]
        self.lamp = lamp

    def _grid(
        self, left: float, top: float, right: float, bottom: float
    ) -> tuple[slice, slice, Array, Array] | None:
        x0, x1 = max(0, int(left) - 2), min(self.width, int(right) + 3)
        y0, y1 = max(0, int(top) - 2), min(self.height, int(bottom) + 3)
        if x1 <= x0 or y1 <= y0:
            return None
        half = np.float32(0.5)
        xs: Array = np.arange(x0, x1, dtype=np.float32)[None, :] + half
        ys: Array = np.arange(y0, y1, dtype=np.float32)[:, None] + half
        return slice(y0, y1), slice(x0, x1), xs, ys

    def tube(
        self,
        points: list[Point],
        radii: list[float],
        *,
        flat_start: bool = False,
        flat_end: bool = False,
    ) -> Patch | None:
        """A limb through ``points`` (px) with ``radii`` (px); ends are round unless flat. None if off the canvas."""
        p = np.asarray(points, dtype=np.float32)
        r = np.asarray(radii, dtype=np.float32)
        reach = float(r.max())
        grid = self._grid(*(p.min(axis=0) - reach), *(p.max(axis=0) + reach))
        if grid is None:
            return None
        rows, cols, xs, ys = grid
        shape = (ys.shape[0], xs.shape[1])
        depth = np.full(shape, -1e6, dtype=np.float32)
        across = np.zeros(shape, dtype=np.float32)
        along = np.zeros(shape, dtype=np.float32)
        segments = len(points) - 1
        for i in range(segments):
            d = p[i + 1] - p[i]
            length = max(float(np.hypot(d[0], d[1])), 1e-3)
            ux, uy = float(d[0]) / length, float(d[1]) / length
            dx, dy = xs - p[i, 0], ys - p[i, 1]
            reach_along = dx * ux + dy * uy
            t = np.clip(reach_along / length, 0.0, 1.0)
            # Left of a downward limb is negative, so that light falls alike on all limbs.
            side = dx * uy - dy * ux
            over = reach_along - t * length
            radius = r[i] + (r[i + 1] - r[i]) * t
            inside = radius - np.sqrt(side * side + over * over)
            if flat_start and i == 0:
                inside = np.minimum(inside, reach_along)
            if flat_end and i == segments - 1:
                inside = np.minimum(inside, length - reach_along)
            take = inside > depth
            depth = np.where(take, inside, depth)
            across = np.where(take, side / radius, across)
            along = np.where(take, (i + t) / segments, along)
        return Patch(rows, cols, np.clip(depth + 0.5, 0.0, 1.0), np.clip(across, -1.0, 1.0), along)

    def stack(
        self,
        ys_px: list[float],
        centres: list[float],
        widths: list[float],
        smooth: int = 5,
        sag: float = 0.0,
    ) -> Patch | None:
        """A body of horizontal slices: at ``ys_px`` (increasing) the centres and half widths (px).

        ``sag`` (px) rounds the lower edge: its middle hangs that much below its sides.
        """
        top, bottom = ys_px[0], ys_px[-1]
        sides = list(zip(centres, widths, strict=True))
        grid = self._grid(min(c - w for c, w in sides), top, max(c + w for c, w in sides), bottom)
        if grid is None or bottom - top < 1.0:
            return None
        rows, cols, xs, ys = grid
        flat = ys[:, 0]
        pad = np.concatenate(
            [flat[:1] - np.arange(smooth, 0, -1), flat, flat[-1:] + np.arange(1, smooth + 1)]
        )
        kernel = np.full(2 * smooth + 1, 1.0 / (2 * smooth + 1), dtype=np.float32)
        centre, width = (
            np.convolve(np.interp(pad, ys_px, v), kernel, "valid").astype(np.float32)[:, None]
            for v in (centres, widths)
        )
        across = (xs - centre) / np.maximum(width, 0.5)
        inside = np.minimum(
            width - np.abs(xs - centre), np.minimum(ys - top, bottom - sag * across**2 - ys)
        )
        along = np.clip(np.broadcast_to((ys - top) / (bottom - top), across.shape), 0.0, 1.0)
        return Patch(rows, cols, np.clip(inside + 0.5, 0.0, 1.0), np.clip(across, -1.0, 1.0), along)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, *, soft: float = 0.5
    ) -> Patch | None:
        """An ellipse (px) whose edge fades over ``2·soft`` px."""
        # The fade reaches as far, relative to each axis, as it does on the shorter one.
        reach = 1.0 + soft / max(min(rx, ry), 0.3)
        grid = self._grid(x - rx * reach, y - ry * reach, x + rx * reach, y + ry * reach)
        if grid is None:
            return None
        rows, cols, xs, ys = grid
        dx, dy = (xs - x) / max(rx, 0.3), (ys - y) / max(ry, 0.3)
        inside = (1.0 - np.sqrt(dx * dx + dy * dy)) * min(rx, ry)
        across = np.broadcast_to(np.clip(dx, -1.0, 1.0), inside.shape)
        along = np.broadcast_to(np.clip(0.5 + 0.5 * dy, 0.0, 1.0), inside.shape)
        return Patch(rows, cols, np.clip(inside / (2.0 * soft) + 0.5, 0.0, 1.0), across, along)

    def box(
        self, left: float, top: float, right: float, bottom: float, radius: float = 2.0
    ) -> Patch | None:
        """A rounded rectangle (px)."""
        grid = self._grid(left, top, right, bottom)
        if grid is None:
            return None
        rows, cols, xs, ys = grid
        cx, cy = (left + right) / 2, (top + bottom) / 2
        hw, hh = (right - left) / 2, (bottom - top) / 2
        radius = min(radius, hw, hh)
        qx, qy = np.abs(xs - cx) - (hw - radius), np.abs(ys - cy) - (hh - radius)
        outside = np.hypot(np.maximum(qx, 0.0), np.maximum(qy, 0.0))
        inside = radius - outside - np.minimum(np.maximum(qx, qy), 0.0)
        across = np.broadcast_to(np.clip((xs - cx) / max(hw, 0.5), -1.0, 1.0), inside.shape)
        down = np.clip((ys - top) / max(bottom - top, 1.0), 0.0, 1.0)
        along = np.broadcast_to(down, inside.shape)
        return Patch(rows, cols, np.clip(inside + 0.5, 0.0, 1.0).astype(np.float32), across, along)

    def paint(self, patch: Patch | None, colour: Colour, **look: Unpack[Look]) -> None:
        """Blend ``colour``, shaded as a round surface, into the picture."""
        if patch is None:
            return
        base = np.asarray(colour, dtype=np.float32)
        folds, seed, round_ = look.get("folds", 0.0), look.get("seed", 0), look.get("round_", 1.0)
        if round_ > 0.0:
            u = patch.across
            facing = np.sqrt(np.maximum(1.0 - u * u, 0.0))
            lamp = self.lamp
            towards = np.maximum(u * lamp.right + facing * lamp.front, -0.2)
            lit = lamp.ambient + lamp.diffuse * towards
            shade = 1.0 + round_ * (lit - 1.0) - 0.10 * round_ * u**4
        else:
            shade = np.ones_like(patch.alpha)
        if folds > 0.0:
            h, w = patch.alpha.shape
            oy, ox = (seed * 37) % _FOLD_SIZE, (seed * 101) % _FOLD_SIZE
            bank = _fold_bank()
            ys = np.arange(oy, oy + h) % _FOLD_SIZE
            xs = np.arange(ox, ox + w) % _FOLD_SIZE
            shade = shade * (1.0 + folds * np.clip(bank[ys[:, None], xs[None, :]], -2.2, 2.2))
        # A little light stays on black cloth, otherwise its folds drown.
        rgb = base * shade[..., None] + 3.0 * (shade[..., None] - 0.7)
        target = self.pixels[patch.rows, patch.cols]
        alpha = (patch.alpha * look.get("opacity", 1.0))[..., None]
        target += alpha * (np.clip(rgb, 0.0, 255.0) - target)

    def darken(self, patch: Patch | None, amount: float) -> None:
        """Shadow: multiply what is under ``patch`` by ``1 − amount·alpha``."""
        if patch is not None:
            self.pixels[patch.rows, patch.cols] *= 1.0 - amount * patch.alpha[..., None]
