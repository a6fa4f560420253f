"""Places behind the person and things in front: streets, walls, parks, crossings, shops, stations. Our definition."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from semlink.corpora.pedestrians.canvas import Array, Canvas
from semlink.corpora.pedestrians.draws import Draws

RGB = tuple[int, int, int]
_GOODS = ((168, 96, 82), (96, 124, 142), (124, 142, 102), (204, 184, 122), (148, 122, 148))


def _tone(draws: Draws, options: tuple[RGB, ...], spread: float = 10.0) -> RGB:
    base = draws.choice(options)
    lift = draws.uniform(-spread, spread)
    values = [int(min(max(v + lift + draws.uniform(-4, 4), 0), 255)) for v in base]
    return values[0], values[1], values[2]


def _scaled(colour: RGB, factor: float) -> RGB:
    values = [int(min(max(v * factor, 0), 255)) for v in colour]
    return values[0], values[1], values[2]


class Backdrop:
    """Paints one named place on a picture of ``width × height`` px."""

    def __init__(self, draws: Draws, width: int, height: int) -> None:
        self.draws, self.width, self.height = draws, width, height
        self.image = Image.new("RGB", (width, height))
        self.pen = ImageDraw.Draw(self.image)
        self.vanish = width * draws.uniform(-0.3, 1.3)

    def paint(self, place: str) -> Array:
        """RGB float32 ``[height, width, 3]`` in 0…255, slightly out of focus."""
        getattr(self, f"_{place}")()
        blurred = self.image.filter(ImageFilter.GaussianBlur(self.draws.uniform(0.7, 1.6)))
        return np.asarray(blurred, dtype=np.float32)

    # ------------------------------------------------------------------ ground

    def _gradient(self, top: float, bottom: float, upper: RGB, lower: RGB) -> None:
        y0, y1 = int(top), int(bottom)
        column = np.linspace(0.0, 1.0, max(y1 - y0, 1), dtype=np.float32)[:, None]
        first, last = np.asarray(upper, np.float32), np.asarray(lower, np.float32)
        rgb = (first + column * (last - first)).astype(np.uint8)
        strip = Image.fromarray(np.repeat(rgb[:, None, :], self.width, axis=1))
        self.image.paste(strip, (0, y0))

    def _slabs(self, top: float, colour: RGB, rows: int = 7, columns: int = 9) -> None:
        self._gradient(top, self.height, _scaled(colour, 0.9), _scaled(colour, 1.05))
        line = _scaled(colour, 0.86)
        depth = self.height - top
        shift = self.draws.uniform()
        for k in range(rows + 1):
            y = top + depth * ((k + shift) / rows) ** 1.7
            self.pen.line([(0, y), (self.width, y)], fill=line, width=1 if k < rows // 2 else 2)
        for k in range(-columns, 2 * columns):
            x = self.width * (k + shift) / columns * 2.0
            far = self.vanish + (x - self.vanish) * 0.25
            self.pen.line([(far, top), (x, self.height)], fill=line, width=1)

    def _asphalt(self, top: float, bottom: float) -> None:
        tone = _tone(self.draws, ((92, 93, 97), (104, 104, 106), (82, 84, 90)))
        self._gradient(top, bottom, _scaled(tone, 0.92), _scaled(tone, 1.06))
        y0, y1 = int(top), int(bottom)
        speck = self.draws.generator.normal(0.0, 5.0, (y1 - y0, self.width, 1))
        area = np.asarray(self.image.crop((0, y0, self.width, y1)), dtype=np.float32) + speck
        self.image.paste(Image.fromarray(area.clip(0, 255).astype(np.uint8)), (0, y0))

    def _pavement_tone(self) -> RGB:
        tones = ((172, 168, 160), (156, 156, 158), (186, 174, 156), (148, 144, 140))
        return _tone(self.draws, tones)

    # ------------------------------------------------------------------ buildings and growth

    def _facade(self, bottom: float) -> None:
        draws = self.draws
        walls = ((178, 160, 138), (150, 118, 98), (196, 190, 178), (138, 146, 154), (164, 132, 104))
        wall = _tone(draws, walls)
        self._gradient(0, bottom, _scaled(wall, 1.05), _scaled(wall, 0.92))
        columns, rows = 2 + draws.integer(3), 1 + draws.integer(2)
        shift = draws.uniform(-0.3, 0.3)
        glass = _tone(draws, ((92, 108, 124), (72, 82, 96), (128, 146, 160)))
        for row in range(rows):
            for column in range(columns + 1):
                w, h = self.width / columns, bottom / rows
                x, y = (column + shift) * w + w * 0.22, row * h + h * 0.16
                right, low = x + w * 0.56, y + h * 0.62
                self.pen.rectangle([x - 2, y - 2, right + 2, low + 3], fill=_scaled(wall, 1.18))
                self.pen.rectangle([x, y, right, low], fill=glass)
                gleam = [(x, y), (x + w * 0.3, y), (x, y + h * 0.4)]
                self.pen.polygon(gleam, fill=_scaled(glass, 1.2))
                bar = x + w * 0.28
                self.pen.line([(bar, y), (bar, low)], fill=_scaled(wall, 1.1), width=1)

    def _tree(self, x: float, base: float, size: float) -> None:
        draws = self.draws
        half = size * 0.07
        self.pen.rectangle([x - half, base - size * 0.9, x + half, base], fill=(88, 68, 50))
        leaf = _tone(draws, ((74, 110, 58), (92, 128, 62), (64, 98, 60), (128, 128, 60)))
        for _ in range(14):
            dx, dy = draws.uniform(-0.5, 0.5) * size, draws.uniform(-0.4, 0.4) * size
            r = size * draws.uniform(0.16, 0.3)
            cx, cy = x + dx, base - size * 1.2 + dy
            tone = _scaled(leaf, draws.uniform(0.78, 1.18))
            self.pen.ellipse([cx - r, cy - r, cx + r, cy + r], fill=tone)

    def _parked_car(self, x: float, base: float, size: float) -> None:
        paints = ((176, 180, 186), (58, 62, 70), (120, 44, 42), (44, 66, 104), (226, 226, 226))
        colour = _tone(self.draws, paints)

        def at(*places: tuple[float, float]) -> list[tuple[float, float]]:
            return [(x + size * right, base + size * down) for right, down in places]

        pen = self.pen
        pen.ellipse(at((-0.55, -0.06), (0.55, 0.06)), fill=(62, 62, 66))
        pen.rounded_rectangle(at((-0.5, -0.26), (0.5, -0.04)), size * 0.08, fill=colour)
        roof = at((-0.36, -0.24), (-0.24, -0.42), (0.2, -0.42), (0.36, -0.24))
        pen.polygon(roof, fill=_scaled(colour, 0.9))
        windows = at((-0.29, -0.25), (-0.2, -0.38), (0.17, -0.38), (0.29, -0.25))
        pen.polygon(windows, fill=(96, 112, 126))
        for side in (-0.3, 0.3):
            cx = x + side * size
            for r, fill in ((size * 0.085, (34, 34, 38)), (size * 0.085 * 0.5, (150, 152, 156))):
                pen.ellipse([cx - r, base - r, cx + r, base + r], fill=fill)

    # ------------------------------------------------------------------ places

    def _street(self) -> None:
        draws, h = self.draws, self.height
        horizon = h * draws.uniform(0.20, 0.34)
        kerb = horizon + h * draws.uniform(0.2, 0.3)
        self._facade(horizon)
        self._gradient(horizon, horizon + 8, (150, 148, 144), (160, 158, 152))
        self._asphalt(horizon + 8, kerb)
        if draws.chance(0.7):
            x, size = self.width * draws.uniform(0.0, 1.0), self.width * draws.uniform(0.6, 0.85)
            self._parked_car(x, horizon + 22, size)
        if draws.chance(0.6):
            y = (horizon + 8 + kerb) / 2 + 8
            for k in range(5):
                x = self.width * (k / 4 - 0.1)
                self.pen.rectangle([x, y, x + 14, y + 2], fill=(206, 204, 196))
        self._slabs(kerb, self._pavement_tone())
        self.pen.rectangle([0, kerb - 3, self.width, kerb + 1], fill=(190, 188, 182))

    def _wall(self) -> None:
        draws, h = self.draws, self.height
        base = h * draws.uniform(0.60, 0.76)
        kind = draws.integer(3)
        if kind == 0:
            tone = _tone(draws, ((152, 88, 68), (166, 108, 84), (134, 92, 76), (176, 150, 122)))
            self._gradient(0, base, _scaled(tone, 1.04), _scaled(tone, 0.92))
            mortar = _scaled(tone, 1.2)
            step = draws.uniform(7.0, 10.0)
            y, row = 0.0, 0
            while y < base:
                self.pen.line([(0, y), (self.width, y)], fill=mortar, width=1)
                x = -step * 1.2 * (row % 2)
                while x < self.width:
                    self.pen.line([(x, y), (x, min(y + step, base))], fill=mortar, width=1)
                    if draws.chance(0.18) and y + 1 < base:
                        brick = [x + 1, y + 1, x + step * 2.4 - 1, min(y + step - 1, base)]
                        shade = _scaled(tone, draws.uniform(0.86, 1.1))
                        self.pen.rectangle(brick, fill=shade)
                    x += step * 2.4
                y, row = y + step, row + 1
        elif kind == 1:
            tones = ((196, 188, 172), (168, 176, 178), (206, 186, 156), (150, 158, 148))
            tone = _tone(draws, tones)
            self._gradient(0, base, _scaled(tone, 1.05), _scaled(tone, 0.94))
            self.pen.rectangle([0, base - 18, self.width, base], fill=_scaled(tone, 0.8))
            if draws.chance(0.6):
                x, y = self.width * draws.uniform(-0.1, 0.8), h * draws.uniform(0.06, 0.2)
                poster = _tone(draws, ((198, 80, 70), (70, 110, 160), (230, 214, 160)))
                self.pen.rectangle([x, y, x + 34, y + 48], fill=poster)
                self.pen.rectangle([x + 4, y + 5, x + 30, y + 26], fill=(236, 232, 222))
        else:
            tone = _tone(draws, ((168, 168, 168), (152, 154, 158)))
            self._gradient(0, base, _scaled(tone, 1.04), _scaled(tone, 0.9))
            width = self.width * draws.uniform(0.4, 0.6)
            for k in range(4):
                x = k * width - 12
                self.pen.line([(x, 0), (x, base)], fill=_scaled(tone, 0.8), width=2)
            y = base * 0.45
            self.pen.line([(0, y), (self.width, y)], fill=_scaled(tone, 0.82), width=2)
        self._slabs(base, self._pavement_tone(), rows=5)
        self._gradient(base, base + 4, _scaled((90, 88, 84), 1.0), (128, 126, 122))

    def _park(self) -> None:
        draws, h = self.draws, self.height
        horizon = h * draws.uniform(0.16, 0.30)
        self._gradient(0, horizon, (196, 214, 226), (214, 222, 214))
        for _ in range(9):
            x, r = draws.uniform(0, self.width), draws.uniform(14, 28)
            tone = _tone(draws, ((96, 124, 84), (112, 136, 92), (88, 112, 84)))
            self.pen.ellipse([x - r, horizon - r * 1.2, x + r, horizon + r * 0.4], fill=tone)
        grass = _tone(draws, ((112, 142, 74), (126, 150, 84), (98, 130, 70)))
        self._gradient(horizon, h, _scaled(grass, 0.95), _scaled(grass, 1.05))
        for _ in range(60):
            x, y = draws.uniform(0, self.width), draws.uniform(horizon, h)
            blade = [(x, y), (x + draws.uniform(-2, 2), y - 3)]
            self.pen.line(blade, fill=_scaled(grass, draws.uniform(0.85, 1.15)), width=1)
        path = _tone(draws, ((196, 180, 150), (184, 176, 164)))
        middle = self.width * draws.uniform(0.35, 0.65)
        far = [(self.vanish - 5, horizon), (self.vanish + 5, horizon)]
        half = self.width * 0.75
        self.pen.polygon([*far, (middle + half, h), (middle - half, h)], fill=path)
        for _ in range(1 + draws.integer(2)):
            x = self.width * draws.uniform(*((-0.05, 0.25) if draws.chance(0.5) else (0.75, 1.05)))
            self._tree(x, horizon + h * draws.uniform(0.05, 0.2), h * draws.uniform(0.22, 0.34))

    def _crossing(self) -> None:
        draws, h = self.draws, self.height
        horizon = h * draws.uniform(0.10, 0.22)
        self._facade(horizon)
        far = horizon + h * 0.1
        self._gradient(horizon, far, (166, 162, 156), (178, 174, 168))
        self.pen.rectangle([0, far - 3, self.width, far], fill=(196, 194, 188))
        self._asphalt(far, h)
        y, step = far + h * draws.uniform(0.06, 0.14), 11.0
        slant = draws.uniform(-16.0, 16.0)
        while y < h + 20:
            end, low = self.width + 20, y + slant
            stripe = [(-20, y), (end, low), (end, low + step), (-20, y + step)]
            self.pen.polygon(stripe, fill=_scaled((222, 220, 214), draws.uniform(0.94, 1.0)))
            y, step = y + step * 2.1, step * 1.22

    def _shop(self) -> None:
        draws, h = self.draws, self.height
        base = h * draws.uniform(0.58, 0.72)
        paints = ((54, 60, 66), (86, 64, 50), (44, 70, 64), (120, 40, 40), (226, 222, 214))
        frame = _tone(draws, paints)
        self._gradient(0, base, _scaled(frame, 1.1), frame)
        band = h * draws.uniform(0.09, 0.14)
        paints = ((186, 64, 56), (52, 92, 136), (60, 110, 80), (228, 200, 120), (60, 58, 62))
        sign = _tone(draws, paints)
        self.pen.rectangle([0, 4, self.width, band], fill=sign)
        x = self.width * draws.uniform(0.05, 0.25)
        for _ in range(5 + draws.integer(4)):
            w = draws.uniform(4, 9)
            self.pen.rectangle([x, band * 0.36, x + w, band * 0.72], fill=(240, 236, 224))
            x += w + 3
        panes = 1 + draws.integer(2)
        gap = 5
        glow = _tone(draws, ((214, 188, 140), (198, 204, 200), (150, 164, 172), (222, 206, 174)))
        for k in range(panes):
            x0, x1 = self.width * k / panes + gap, self.width * (k + 1) / panes - gap
            y0, y1 = band + 6, base - 12
            self.pen.rectangle([x0, y0, x1, y1], fill=glow)
            for shelf in range(3):
                y = y0 + (y1 - y0) * (0.35 + 0.3 * shelf)
                self.pen.rectangle([x0, y, x1, y + 2], fill=_scaled(glow, 0.75))
                gx = x0 + 3
                while gx < x1 - 8:
                    w, g = draws.uniform(4, 9), draws.uniform(8, 20)
                    self.pen.rectangle([gx, y - g, gx + w, y], fill=_tone(draws, _GOODS))
                    gx += w + draws.uniform(2, 6)
            gleam = [(x0 + 6, y0), (x0 + 20, y0), (x0 + 4, y1), (x0, y1), (x0, y0 + 30)]
            self.pen.polygon(gleam, fill=_scaled(glow, 1.14))
        self._slabs(base, self._pavement_tone(), rows=5)

    def _station(self) -> None:
        draws, h = self.draws, self.height
        base = h * draws.uniform(0.40, 0.56)
        wall = _tone(draws, ((206, 208, 206), (186, 194, 200), (214, 206, 190)))
        self._gradient(0, base, _scaled(wall, 0.9), wall)
        tile = draws.uniform(12.0, 18.0)
        for k in range(int(base / tile) + 1):
            self.pen.line([(0, k * tile), (self.width, k * tile)], fill=_scaled(wall, 0.9), width=1)
        for k in range(int(self.width / tile) + 1):
            self.pen.line([(k * tile, 0), (k * tile, base)], fill=_scaled(wall, 0.9), width=1)
        stripe = _tone(draws, ((60, 110, 160), (190, 70, 60), (70, 130, 100), (216, 160, 60)))
        self.pen.rectangle([0, base * 0.5, self.width, base * 0.5 + 9], fill=stripe)
        if draws.chance(0.6):
            x = self.width * draws.uniform(0.0, 0.85)
            self.pen.rectangle([x, 0, x + 18, base + 6], fill=_scaled(wall, 0.74))
            self.pen.rectangle([x, 0, x + 5, base + 6], fill=_scaled(wall, 0.9))
        tone = _tone(draws, ((150, 150, 152), (176, 170, 160), (132, 136, 142)))
        self._slabs(base, tone, rows=8, columns=7)
        if draws.chance(0.5):
            y = base + (h - base) * 0.22
            self.pen.rectangle([0, y, self.width, y + 5], fill=(222, 186, 70))


def paint_occlusion(canvas: Canvas, kind: str, draws: Draws) -> None:
    """A pole beside the middle, or a car or bush along the lower edge, in front of the person."""
    w, h = float(canvas.width), float(canvas.height)
    if kind == "pole":
        x = w * (0.5 + draws.uniform(0.12, 0.26) * (1 if draws.chance(0.5) else -1))
        half = w * draws.uniform(0.026, 0.042)
        tone = draws.choice(((116, 120, 124), (70, 84, 76), (150, 146, 140)))
        places, halves = [x, x + draws.uniform(-3, 3)], [half, half * 1.05]
        canvas.paint(canvas.stack([-4.0, h + 4.0], places, halves, smooth=1), tone)
    elif kind == "car":
        _paint_near_car(canvas, draws)
    elif kind == "bush":
        tones = ((70, 108, 56), (88, 122, 64), (56, 92, 58))
        leaf = np.asarray(draws.choice(tones), dtype=np.float32)
        for _ in range(46):
            x, y = draws.uniform(-0.05, 1.05) * w, h * draws.uniform(0.86, 1.02)
            r = draws.uniform(10, 20)
            shade = leaf * draws.uniform(0.7, 1.2)
            canvas.paint(canvas.ellipse(x, y, r, r * 0.85), shade, round_=0.8)


def _paint_near_car(canvas: Canvas, draws: Draws) -> None:
    """The upper part of a car that stands between the camera and the person's feet."""
    w, h = float(canvas.width), float(canvas.height)
    paints = ((186, 190, 196), (70, 76, 88), (150, 52, 48), (52, 80, 130), (226, 226, 224))
    colour = np.asarray(draws.choice(paints), dtype=np.float32)
    top = h * draws.uniform(0.80, 0.85)
    x = w * (0.5 + draws.uniform(-0.12, 0.12))
    roof = [top, top + 4, top + 14, top + 44]
    patch = canvas.stack(roof, [x] * 4, [w * 0.44, w * 0.54, w * 0.60, w * 0.74], smooth=2)
    canvas.paint(patch, colour, round_=0.25)
    glass = canvas.stack([top + 9, top + 38], [x, x], [w * 0.52, w * 0.66], smooth=1)
    if glass is not None:
        sheen = 1.0 + 0.5 * np.exp(-(((glass.across + 0.35 + 0.3 * glass.along) / 0.16) ** 2))
        canvas.paint(glass, np.asarray((66.0, 80.0, 94.0) * sheen[..., None], np.float32), round_=0)
    for place in (-0.06, 0.30):
        left = x + place * w
        canvas.paint(canvas.box(left, top + 8, left + 8, top + 40, 1), colour * 0.85, round_=0)
    body = canvas.stack([top + 37, top + 43, h + 6], [x] * 3, [w * 0.8, w * 0.9, w * 0.9], smooth=1)
    if body is not None:
        shine = 1.08 - 0.28 * body.along
        canvas.paint(body, np.asarray(colour * shine[..., None], np.float32), round_=0.1)
    canvas.darken(canvas.box(x - w, top + 52, x + w, top + 53.5, 0.5), 0.25)
    for place in (-0.02, 0.34):
        canvas.darken(canvas.box(x + place * w - 12, top + 48, x + place * w, top + 51, 1), 0.4)
