"""The places a scene may play in: what people call them, and what they look like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from semlink.corpora.scenes.draws import Draws

Water = Literal["none", "band", "all"]
Colour = tuple[int, int, int]

_SUPERSAMPLING = 2


def _shift(colour: Colour, amount: float) -> Colour:
    r, g, b = (int(min(255.0, max(0.0, c + amount))) for c in colour)
    return r, g, b


class _Canvas:
    """A picture under construction, drawn at twice the size and shrunk once, for smooth edges."""

    def __init__(self, size_px: int) -> None:
        self.size = size_px
        self.scale = _SUPERSAMPLING
        self.array: NDArray[np.float32] = np.zeros((size_px, size_px, 3), dtype=np.float32)
        self._image: Image.Image | None = None
        self._draw: ImageDraw.ImageDraw | None = None

    def gradient(self, top: float, bottom: float, first: Colour, last: Colour) -> None:
        """Fill the rows [top, bottom) with a vertical gradient."""
        low, high = round(top), round(bottom)
        t = np.linspace(0.0, 1.0, max(1, high - low), dtype=np.float32)[:, None]
        rows = (1.0 - t) * np.asarray(first, np.float32) + t * np.asarray(last, np.float32)
        self.array[low:high] = rows[:, None, :]

    @property
    def draw(self) -> ImageDraw.ImageDraw:
        """Where shapes are drawn (gradients come before the first shape)."""
        if self._draw is None:
            base = Image.fromarray(self.array.astype(np.uint8))
            side = self.size * self.scale
            self._image = base.resize((side, side), Image.Resampling.NEAREST)
            self._draw = ImageDraw.Draw(self._image)
        return self._draw

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        s = self.scale
        self.draw.ellipse(((x - rx) * s, (y - ry) * s, (x + rx) * s, (y + ry) * s), fill=colour)

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        self.draw.polygon([(x * self.scale, y * self.scale) for x, y in points], fill=colour)

    def rectangle(self, x: float, y: float, w: float, h: float, colour: Colour) -> None:
        s = self.scale
        self.draw.rectangle((x * s, y * s, (x + w) * s - 1, (y + h) * s - 1), fill=colour)

    def finish(self) -> Image.Image:
        """The picture at its final size."""
        if self._image is None:
            return Image.fromarray(self.array.astype(np.uint8))
        return self._image.reduce(self.scale)


def _clouds(canvas: _Canvas, draws: Draws, colour: Colour, lowest: float) -> None:
    for _ in range(int(draws.uniform(1.0, 4.0))):
        x, y = draws.uniform(10.0, 246.0), draws.uniform(14.0, lowest)
        size = draws.uniform(8.0, 16.0)
        for dx, dy, r in ((-1.3, 0.3, 0.75), (0.0, 0.0, 1.0), (1.2, 0.25, 0.8), (2.1, 0.45, 0.5)):
            canvas.ellipse(x + dx * size, y + dy * size, 1.25 * r * size, r * size * 0.8, colour)


def _hills(canvas: _Canvas, draws: Draws, horizon: float, height: float, colour: Colour) -> None:
    phase, waves = draws.uniform(0.0, 6.3), draws.uniform(1.2, 2.6)
    x = np.linspace(0.0, 1.0, 33)
    y = horizon - height * (0.55 + 0.45 * np.sin(2 * np.pi * waves * x + phase))
    points = [(256.0 * float(a), float(b)) for a, b in zip(x, y, strict=True)]
    canvas.polygon([*points, (256.0, horizon + 4.0), (0.0, horizon + 4.0)], colour)


def _peaks(canvas: _Canvas, draws: Draws, horizon: float) -> None:
    base = draws.uniform(-12.0, 12.0)
    for x0 in (-10.0, 70.0, 150.0, 215.0):
        x = x0 + draws.uniform(-18.0, 18.0)
        height, half = draws.uniform(52.0, 92.0), draws.uniform(48.0, 70.0)
        top = horizon - height
        rock = _shift((104, 116, 140), base + draws.uniform(-8.0, 8.0))
        canvas.polygon([(x - half, horizon + 2.0), (x, top), (x + half, horizon + 2.0)], rock)
        cap = ((-0.32, 0.32), (0.0, 0.0), (0.32, 0.32), (0.12, 0.24), (-0.08, 0.36))
        points = [(x + half * right, top + height * down) for right, down in cap]
        canvas.polygon(points, (244, 247, 252))


def _sky(canvas: _Canvas, draws: Draws, horizon: float) -> None:
    clear = (((92, 160, 232), (206, 232, 250)), ((120, 182, 240), (226, 240, 250)))
    hazy = (((140, 170, 210), (232, 222, 214)), ((96, 140, 214), (250, 222, 190)))
    canvas.gradient(0.0, horizon, *draws.choice((*clear, *hazy)))


def _meadow(canvas: _Canvas, draws: Draws, horizon: float) -> None:
    tint = draws.uniform(-14.0, 14.0)
    _sky(canvas, draws, horizon)
    canvas.gradient(horizon, 256.0, _shift((150, 200, 96), tint), _shift((84, 150, 56), tint))
    _clouds(canvas, draws, (248, 250, 252), 60.0)
    _hills(canvas, draws, horizon, draws.uniform(10.0, 30.0), _shift((124, 182, 96), tint))
    for _ in range(26):
        x, y = draws.uniform(0.0, 256.0), draws.uniform(horizon + 16.0, 252.0)
        size = 1.0 + 4.0 * (y - horizon) / 126.0
        blade = [(x - size * 0.5, y), (x, y - 2.0 * size), (x + size * 0.5, y)]
        canvas.polygon(blade, _shift((70, 136, 46), tint))


def _beach(canvas: _Canvas, draws: Draws, horizon: float) -> None:
    _sky(canvas, draws, horizon)
    shore = draws.uniform(158.0, 170.0)
    canvas.gradient(horizon, shore, (40, 116, 180), (112, 204, 214))
    canvas.gradient(shore, 256.0, (246, 226, 172), (224, 192, 128))
    _clouds(canvas, draws, (250, 250, 252), 56.0)
    foam = _shoreline(draws, shore, 4.0, 22.0)
    canvas.polygon([*foam, (256.0, shore - 8.0), (0.0, shore - 8.0)], (236, 248, 250))
    wet = [(a, b - 4.0) for a, b in foam]
    canvas.polygon([*wet, (256.0, shore - 9.0), (0.0, shore - 9.0)], (112, 204, 214))
    for _ in range(30):
        spot = (draws.uniform(0.0, 256.0), draws.uniform(shore + 12.0, 254.0))
        canvas.ellipse(*spot, 1.2, 0.8, (204, 172, 112))


def _shoreline(
    draws: Draws, shore: float, height: float, length: float
) -> list[tuple[float, float]]:
    phase = draws.uniform(0.0, 6.3)
    x = np.linspace(0.0, 256.0, 33)
    y = shore + height * np.sin(x / length + phase)
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True)]


def _street(canvas: _Canvas, draws: Draws, horizon: float) -> None:
    _sky(canvas, draws, horizon)
    canvas.gradient(horizon, 182.0, (176, 174, 170), (196, 194, 188))
    canvas.gradient(182.0, 256.0, (96, 98, 104), (74, 76, 82))
    x = -8.0
    while x < 256.0:
        width, height = draws.uniform(30.0, 56.0), draws.uniform(54.0, 118.0)
        walls = (
            (176, 148, 132),
            (148, 156, 170),
            (188, 176, 150),
            (160, 132, 126),
            (136, 142, 150),
        )
        wall = draws.choice(walls)
        canvas.rectangle(x, horizon - height, width, height + 4.0, wall)
        pane = draws.choice((_shift(wall, -36.0), (226, 222, 178), (120, 150, 176)))
        for row in range(int((height - 10.0) // 15.0)):
            for column in range(int((width - 4.0) // 11.0)):
                y = horizon - height + 7.0 + 15.0 * row
                canvas.rectangle(x + 5.0 + 11.0 * column, y, 6.0, 8.0, pane)
        x += width + draws.uniform(0.0, 3.0)
    offset = draws.uniform(-30.0, 0.0)
    for k in range(6):
        canvas.rectangle(offset + 54.0 * k, 217.0, 30.0, 4.0, (232, 226, 196))
    canvas.rectangle(0.0, 180.0, 256.0, 3.0, (216, 214, 208))


def _snow(canvas: _Canvas, draws: Draws, horizon: float) -> None:
    canvas.gradient(0.0, horizon, (150, 178, 208), (226, 234, 242))
    canvas.gradient(horizon, 256.0, (236, 242, 250), (212, 224, 240))
    _hills(canvas, draws, horizon, draws.uniform(16.0, 34.0), (222, 232, 244))
    _hills(canvas, draws, horizon + 6.0, draws.uniform(8.0, 18.0), (236, 242, 250))
    for _ in range(70):
        r = draws.uniform(0.8, 2.2)
        canvas.ellipse(draws.uniform(0.0, 256.0), draws.uniform(0.0, 240.0), r, r, (253, 254, 255))


def _desert(canvas: _Canvas, draws: Draws, horizon: float) -> None:
    top = draws.choice(((110, 176, 232), (240, 168, 110), (150, 190, 226)))
    canvas.gradient(0.0, horizon, top, (252, 228, 190))
    canvas.gradient(horizon, 256.0, (236, 190, 116), (206, 146, 78))
    x = draws.uniform(30.0, 226.0)
    canvas.ellipse(x, draws.uniform(28.0, 60.0), 15.0, 15.0, (255, 240, 188))
    _hills(canvas, draws, horizon, draws.uniform(20.0, 40.0), (222, 170, 98))
    _hills(canvas, draws, horizon + 20.0, draws.uniform(10.0, 24.0), (232, 184, 112))


def _lake(canvas: _Canvas, draws: Draws, horizon: float) -> None:
    _sky(canvas, draws, horizon)
    shore = draws.uniform(168.0, 178.0)
    canvas.gradient(horizon, shore, (86, 148, 196), (58, 112, 170))
    canvas.gradient(shore, 256.0, (140, 176, 92), (92, 140, 60))
    _clouds(canvas, draws, (248, 250, 252), 44.0)
    _hills(canvas, draws, horizon, draws.uniform(16.0, 34.0), (88, 134, 96))
    for _ in range(12):
        x, y = draws.uniform(0.0, 240.0), draws.uniform(horizon + 8.0, shore - 5.0)
        canvas.rectangle(x, y, draws.uniform(10.0, 30.0), 1.0, (150, 196, 226))
    bank = _shoreline(draws, shore, 3.0, 30.0)
    canvas.polygon([*bank, (256.0, shore + 9.0), (0.0, shore + 9.0)], (162, 150, 104))


def _sea(canvas: _Canvas, draws: Draws, horizon: float) -> None:
    _sky(canvas, draws, horizon)
    canvas.gradient(horizon, 256.0, (52, 120, 180), (14, 62, 118))
    _clouds(canvas, draws, (248, 250, 252), 60.0)
    for _ in range(34):
        y = draws.uniform(horizon + 6.0, 250.0)
        near = (y - horizon) / 144.0
        x, w = draws.uniform(-10.0, 246.0), 8.0 + 26.0 * near
        wave = [(x, y), (x + w / 2, y - 1.0 - 3.0 * near), (x + w, y), (x + w / 2, y + 0.5)]
        canvas.polygon(wave, (112, 172, 214))


def _living_room(canvas: _Canvas, draws: Draws, horizon: float) -> None:
    wall = draws.choice(((236, 220, 192), (202, 216, 208), (222, 204, 206), (210, 214, 226)))
    canvas.gradient(0.0, horizon, _shift(wall, 8.0), _shift(wall, -10.0))
    canvas.gradient(horizon, 256.0, (176, 124, 80), (146, 98, 60))
    for k in range(5):
        y = horizon + 6.0 + 4.0 * k * (1.0 + 0.75 * k)
        canvas.rectangle(0.0, y, 256.0, 1.0, (128, 84, 52))
    x = draws.uniform(20.0, 150.0)
    canvas.rectangle(x - 5.0, 17.0, 92.0, 76.0, (246, 244, 238))
    canvas.rectangle(x, 22.0, 82.0, 66.0, (164, 206, 238))
    canvas.rectangle(x, 66.0, 82.0, 22.0, (146, 192, 124))
    canvas.rectangle(x + 39.0, 22.0, 4.0, 66.0, (246, 244, 238))
    canvas.rectangle(x, 53.0, 82.0, 4.0, (246, 244, 238))
    canvas.rectangle(0.0, horizon - 8.0, 256.0, 8.0, (244, 240, 232))


def _kitchen(canvas: _Canvas, draws: Draws, horizon: float) -> None:
    wall = draws.choice(((240, 236, 214), (214, 230, 236), (226, 238, 220)))
    canvas.gradient(0.0, horizon, _shift(wall, 4.0), _shift(wall, -8.0))
    canvas.gradient(horizon, 256.0, (206, 206, 204), (172, 174, 176))
    for row in range(7):
        canvas.rectangle(0.0, 24.0 * row, 256.0, 1.0, _shift(wall, -26.0))
    offset = draws.uniform(0.0, 24.0)
    for column in range(11):
        canvas.rectangle(offset + 24.0 * column, 0.0, 1.0, horizon, _shift(wall, -26.0))
    cupboard = draws.choice(((180, 134, 92), (126, 148, 164), (226, 222, 212)))
    for k in range(4):
        canvas.rectangle(64.0 * k + 1.0, 0.0, 62.0, 34.0, cupboard)
        canvas.rectangle(64.0 * k + 52.0, 22.0, 4.0, 8.0, _shift(cupboard, -60.0))
    for k in range(-6, 12):
        far = [(96.0 + 14.0 * k, horizon), (97.0 + 14.0 * k, horizon)]
        near = [(30.0 * k + 61.0, 256.0), (30.0 * k + 59.0, 256.0)]
        canvas.polygon([*far, *near], (156, 158, 162))
    for k in range(4):
        y = horizon + 4.0 + 10.0 * k * (1.0 + 0.45 * k)
        canvas.rectangle(0.0, y, 256.0, 1.0, (156, 158, 162))


def _forest(canvas: _Canvas, draws: Draws, horizon: float) -> None:
    canvas.gradient(0.0, horizon, (104, 148, 112), (150, 186, 140))
    canvas.gradient(horizon, 256.0, (92, 118, 62), (62, 84, 42))
    for layer, shade in ((0, 24.0), (1, 0.0)):
        for _ in range(10 - 2 * layer):
            x, w = draws.uniform(-6.0, 256.0), draws.uniform(5.0, 9.0) + 4.0 * layer
            canvas.rectangle(x, 0.0, w, horizon + 6.0 + 14.0 * layer, _shift((82, 64, 48), shade))
    for _ in range(26):
        x, y = draws.uniform(-10.0, 266.0), draws.uniform(-8.0, 34.0)
        r = draws.uniform(14.0, 26.0)
        canvas.ellipse(x, y, r * 1.2, r, _shift((52, 104, 58), draws.uniform(-16.0, 22.0)))


def _mountains(canvas: _Canvas, draws: Draws, horizon: float) -> None:
    _sky(canvas, draws, horizon)
    canvas.gradient(horizon, 256.0, (138, 172, 108), (92, 128, 70))
    _peaks(canvas, draws, horizon)
    _hills(canvas, draws, horizon + 4.0, 12.0, (116, 152, 98))


def _night(canvas: _Canvas, draws: Draws, horizon: float) -> None:
    canvas.gradient(0.0, horizon, (14, 18, 52), (52, 58, 112))
    canvas.gradient(horizon, 256.0, (42, 62, 62), (24, 38, 38))
    for _ in range(60):
        r = draws.uniform(0.5, 1.3)
        x, y = draws.uniform(0.0, 256.0), draws.uniform(0.0, horizon)
        canvas.ellipse(x, y, r, r, (240, 240, 214))
    x, y = draws.uniform(20.0, 236.0), draws.uniform(22.0, 44.0)
    canvas.ellipse(x, y, 15.0, 15.0, (250, 246, 214))
    canvas.ellipse(x + 6.0, y - 3.0, 13.0, 13.0, (20, 24, 60))
    _hills(canvas, draws, horizon, draws.uniform(12.0, 30.0), (30, 44, 56))


@dataclass(frozen=True, slots=True)
class Setting:
    """A place. ``phrases`` follow a noun phrase, ``scene`` is the noun for "a … scene"."""

    name: str
    phrases: tuple[str, ...]
    scene: str
    weight: float
    paint: Callable[[_Canvas, Draws, float], None]
    horizon_px: float = 130.0
    foot_px: float = 196.0
    """Least y of the feet of what stands on the ground."""
    water: Water = "none"
    water_foot_px: float = 0.0
    indoor: bool = False
    excludes: frozenset[str] = frozenset()


_MEADOW = ("in a meadow", "on the grass", "in a grassy field")
_BEACH = ("on a sandy beach", "at the beach", "by the sea")
_STREET = ("on a city street", "in the street", "in the city")
_SNOW = ("in the snow", "on a snowy field", "on a snowy winter day")
_DESERT = ("in the desert", "on desert sand", "among sand dunes")
_LAKE = ("by a lake", "on the shore of a lake", "at a lake")
_SEA = ("on the open sea", "out at sea", "in the ocean")
_LIVING_ROOM = ("in a living room", "on a wooden floor", "in a room with a window")
_KITCHEN = ("in a kitchen", "on a tiled kitchen floor", "in a tiled room")
_FOREST = ("in a forest", "in the woods", "in a dark forest")
_MOUNTAINS = ("in the mountains", "with snowy mountains in the background", "in a mountain valley")
_NIGHT = ("at night", "on a starry night", "in the moonlight")
_HOUSES = frozenset({"house", "castle"})
_TREES = frozenset({"tree", "pine tree", "Christmas tree"})
SETTINGS: tuple[Setting, ...] = (
    Setting("meadow", _MEADOW, "meadow", 1.0, _meadow),
    Setting("beach", _BEACH, "beach", 1.0, _beach, 108.0, 204.0, "band", 146.0),
    Setting("street", _STREET, "street", 1.0, _street, 150.0, 204.0, excludes=_HOUSES),
    Setting("snow", _SNOW, "winter", 1.0, _snow),
    Setting("desert", _DESERT, "desert", 0.9, _desert),
    Setting("lake", _LAKE, "lake", 1.0, _lake, 104.0, 208.0, "band", 154.0),
    Setting("sea", _SEA, "sea", 1.2, _sea, 112.0, 176.0, "all"),
    Setting("living room", _LIVING_ROOM, "living room", 1.0, _living_room, 168.0, indoor=True),
    Setting("kitchen", _KITCHEN, "kitchen", 0.9, _kitchen, 164.0, indoor=True),
    Setting("forest", _FOREST, "forest", 0.9, _forest, 140.0, excludes=_TREES),
    Setting("mountains", _MOUNTAINS, "mountain", 0.9, _mountains),
    Setting("night", _NIGHT, "night", 1.0, _night),
)


def paint_setting(setting: Setting, draws: Draws, size_px: int) -> Image.Image:
    """The empty place, RGB, ``size_px`` squared; ``draws`` decides its colours, clouds, walls and so on."""
    canvas = _Canvas(size_px)
    horizon = setting.horizon_px + (0.0 if setting.indoor else draws.uniform(-6.0, 6.0))
    setting.paint(canvas, draws, horizon)
    return canvas.finish()
