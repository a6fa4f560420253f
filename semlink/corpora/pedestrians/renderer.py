"""From ground truth to pixels: backdrop, person, things in front, light and camera. Our definition."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from semlink.corpora.pedestrians.attributes import Person, Shot, draw_person, draw_shot
from semlink.corpora.pedestrians.backdrop import Backdrop, paint_occlusion
from semlink.corpora.pedestrians.canvas import Array, Canvas, Lamp
from semlink.corpora.pedestrians.draws import Draws
from semlink.corpora.pedestrians.figure import Figure

WIDTH_PX, HEIGHT_PX = 128, 256
SUPERSAMPLING = 2
_BODY_CM = 172.0

_LAMPS = {
    "day": Lamp(0.55, 0.72, 0.56, 0.58),
    "overcast": Lamp(0.15, 0.85, 0.70, 0.36),
    "dusk": Lamp(0.45, 0.70, 0.56, 0.50),
    "warm": Lamp(0.75, 0.60, 0.55, 0.58),
}
_GAINS = {
    "day": (1.03, 1.01, 0.97),
    "overcast": (0.93, 0.96, 1.00),
    "dusk": (0.75, 0.76, 0.88),
    "warm": (1.05, 0.97, 0.84),
}


def render(person: Person, shot: Shot, seed: int, identity: str, item_id: str) -> NDArray[np.uint8]:
    """The picture, RGB ``[256, 128, 3]`` uint8; a pure function of its arguments."""
    draws = Draws(seed, "render", item_id)
    lamp = _LAMPS[shot.light]
    side = 1.0 if draws.chance(0.5) else -1.0
    lamp = Lamp(side * lamp.right, lamp.front, lamp.ambient, lamp.diffuse)
    backdrop = Backdrop(draws, WIDTH_PX, HEIGHT_PX).paint(shot.background)
    canvas = Canvas(_enlarge(backdrop), lamp)
    width, height = WIDTH_PX * SUPERSAMPLING, HEIGHT_PX * SUPERSAMPLING

    umbrella = shot.carried is not None and shot.carried.kind == "umbrella"
    share = draws.uniform(0.70, 0.75) if umbrella else draws.uniform(0.80, 0.92)
    tall = person.stature * (1.03 if person.headwear is not None else 1.0)
    scale = share * height / (_BODY_CM * max(tall, 1.0))
    ground = (width * (0.5 + draws.uniform(-0.05, 0.05)), height * draws.uniform(0.935, 0.97))
    Figure(canvas, person, shot, Draws(seed, "tint", identity), draws, ground, scale).paint()

    if shot.occlusion == "passer-by":
        _passer_by(canvas, draws, ground[1], scale)
    else:
        paint_occlusion(canvas, shot.occlusion, draws)
    return _camera(_reduce(canvas.pixels), shot.light, draws)


def _passer_by(canvas: Canvas, draws: Draws, ground_y: float, scale: float) -> None:
    """A stranger cut by the picture's edge, a little nearer to the camera."""
    stranger = draw_person(draws)
    walk = draw_shot(draws, stranger, draws.choice(("front", "side", "back")))
    edge = draws.choice((-0.07, 1.07))
    ground = (canvas.width * (edge + draws.uniform(-0.02, 0.02)), ground_y + 0.03 * canvas.height)
    if walk.carried is not None and walk.carried.kind == "umbrella":
        walk = replace(walk, action="walking", carried=None)
    Figure(canvas, stranger, walk, draws, draws, ground, scale * 1.06).paint()


def _enlarge(picture: Array) -> Array:
    size = (WIDTH_PX * SUPERSAMPLING, HEIGHT_PX * SUPERSAMPLING)
    image = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
    return np.array(image.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)


def _reduce(picture: Array) -> Array:
    n = SUPERSAMPLING
    # Adding strided views is ten times faster than ``mean`` over two axes.
    total = picture[::n, ::n].copy()
    for k in range(1, n * n):
        total += picture[k // n :: n, k % n :: n]
    return total / np.float32(n * n)


def _camera(picture: Array, light: str, draws: Draws) -> NDArray[np.uint8]:
    """Exposure, white balance, vignette, blur, sensor noise and the camera's own JPEG."""
    gains = np.asarray(_GAINS[light], dtype=np.float32) * draws.uniform(0.90, 1.08)
    gains = gains * np.asarray([draws.uniform(0.97, 1.03) for _ in range(3)], dtype=np.float32)
    ys = np.linspace(-1.0, 1.0, HEIGHT_PX, dtype=np.float32)[:, None, None]
    xs = np.linspace(-1.0, 1.0, WIDTH_PX, dtype=np.float32)[None, :, None]
    vignette = 1.0 - 0.10 * (ys**2 + xs**2)
    picture = picture * gains * vignette
    contrast, black = draws.uniform(0.88, 1.03), draws.uniform(0.0, 10.0)
    picture = (picture - 118.0) * contrast + 118.0 + black
    blur = draws.uniform(0.2, 0.7)
    motion = draws.uniform(0.3, 1.1) if draws.chance(0.2) else 0.0
    picture = gaussian_filter(picture, (blur, blur + motion, 0.0))
    noise = draws.uniform(1.2, 3.6) * (1.5 if light == "dusk" else 1.0)
    picture = picture + noise * draws.generator.standard_normal(picture.shape, dtype=np.float32)
    sensed = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    sensed.save(buffer, "JPEG", quality=55 + draws.integer(36))
    with Image.open(buffer) as compressed:
        return np.asarray(compressed.convert("RGB"), dtype=np.uint8).copy()
