"""From a scene's ground truth to pixels: the setting, soft shadows, then the cliparts from back to front."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFilter

from semlink.corpora.scenes.cliparts import picture
from semlink.corpora.scenes.draws import Draws
from semlink.corpora.scenes.layout import PICTURE_SIZE_PX, Group, Scene
from semlink.corpora.scenes.settings import Setting, paint_setting

_SHADOW_ALPHA = 92
_SHADOW_SCALE = 2


def render(scene: Scene, draws: Draws) -> Image.Image:
    """The picture, RGB, 256×256. ``draws`` decides what the setting leaves open (clouds, walls, hills)."""
    image = paint_setting(scene.setting, draws, PICTURE_SIZE_PX).convert("RGBa")
    _cast_shadows(image, scene)
    for group in scene.groups:
        for instance in group.instances:
            clip = picture(instance.clip.file, group.paint)
            if instance.mirrored:
                clip = clip.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            size = (max(1, round(instance.width)), max(1, round(instance.height)))
            clip = clip.resize(size, Image.Resampling.BILINEAR, reducing_gap=None)
            _paste(image, clip, round(instance.x), round(instance.y))
    return image.convert("RGB")


def _paste(image: Image.Image, clip: Image.Image, x: int, y: int) -> None:
    """Lay a premultiplied ``clip`` over ``image`` at (x, y)."""
    straight = clip.convert("RGBA")
    image.paste(straight.convert("RGB"), (x, y), straight.getchannel("A"))


def _cast_shadows(image: Image.Image, scene: Scene) -> None:
    size = PICTURE_SIZE_PX // _SHADOW_SCALE
    mask = Image.new("L", (size, size), 0)
    draw = ImageDraw.Draw(mask)
    for group in scene.groups:
        if _casts_shadow(group, scene.setting):
            for i in group.instances:
                foot, half = i.y + i.height, 0.46 * i.width
                box = (i.x + i.width / 2 - half, foot - 7.0, i.x + i.width / 2 + half, foot + 5.0)
                draw.ellipse(tuple(v / _SHADOW_SCALE for v in box), fill=_SHADOW_ALPHA)
    mask = mask.filter(ImageFilter.GaussianBlur(2.0)).resize(image.size, Image.Resampling.BILINEAR)
    image.paste((20, 24, 32), (0, 0, *image.size), mask)


def _casts_shadow(group: Group, setting: Setting) -> bool:
    return group.label.zone == "ground" and setting.water != "all"
