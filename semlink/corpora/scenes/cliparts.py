"""The shipped public-domain cliparts: what each shows, its pixels, and the colours it may be given."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

ASSETS = Path(__file__).resolve().parents[1] / "assets" / "cliparts"

Zone = Literal["ground", "sky", "water"]
Size = Literal["small", "medium", "large"]
Place = Literal["any", "outdoor", "water"]

# hue in degrees, typical saturation and bright value (both 0…1) at which people call a thing by this name
PAINTS: dict[str, tuple[float, float, float]] = {
    "red": (0.0, 0.9, 0.9),
    "orange": (28.0, 0.95, 1.0),
    "yellow": (54.0, 0.9, 1.0),
    "green": (120.0, 0.8, 0.75),
    "blue": (222.0, 0.85, 0.9),
    "purple": (278.0, 0.75, 0.75),
    "pink": (330.0, 0.45, 1.0),
}
_LABEL_PAINTS: dict[str, tuple[str, ...]] = {"apple": ("red", "green", "yellow")}
COLOURS: tuple[str, ...] = (*PAINTS, "brown", "tan", "gray", "black", "white")
"""Every colour word that a caption may use."""

_HUE_TOLERANCE_DEG = 42.0
_MIN_SATURATION = 0.22


@dataclass(frozen=True, slots=True)
class Label:
    """A kind of object and how people call it: ``names`` are (singular, plural), the first one the label itself."""

    name: str
    category: str
    zone: Zone
    size: Size
    place: Place
    names: tuple[tuple[str, str], ...]

    @property
    def paints(self) -> tuple[str, ...]:
        """Colours that a recolourable clip of this label may take."""
        return _LABEL_PAINTS.get(self.name, tuple(PAINTS))


@dataclass(frozen=True, slots=True)
class Clip:
    """One clipart. ``surface`` is where a thing may stand on it, as a fraction of its height from the top."""

    file: str
    label: str
    width: int
    height: int
    colour: str | None
    recolourable: bool
    surface: float | None
    held_out: bool
    """True if the clip appears in test pictures only."""
    licence: str
    source: str


@dataclass(frozen=True)
class Cliparts:
    """The index: labels in a fixed order, and the clips of each."""

    labels: dict[str, Label]
    clips: dict[str, tuple[Clip, ...]]
    source_package: str


@cache
def cliparts() -> Cliparts:
    """The index that ships with the package, read once."""
    index = json.loads((ASSETS / "index.json").read_text(encoding="utf-8"))
    labels = {
        name: Label(name, **{**row, "names": tuple(map(tuple, row["names"]))})
        for name, row in index["labels"].items()
    }
    clips: dict[str, list[Clip]] = {name: [] for name in labels}
    for row in index["clips"]:
        clips[row["label"]].append(Clip(**{key: row[key] for key in Clip.__slots__}))
    by_label = {name: tuple(of_label) for name, of_label in clips.items()}
    return Cliparts(labels, by_label, index["source_package"])


@lru_cache(maxsize=512)
def picture(file: str, paint: str | None = None) -> Image.Image:
    """The clip's pixels (RGBA, premultiplied: mode ``RGBa``), recoloured if ``paint`` is given. Not to be modified."""
    image = Image.open(ASSETS / file).convert("RGBA")
    if paint is not None:
        image = repaint(image, paint)
    return image.convert("RGBa")


def repaint(image: Image.Image, paint: str) -> Image.Image:
    """Give the part of ``image`` (RGBA) that has its dominant hue the hue of ``paint``; greys stay as they are."""
    hsv = np.asarray(image.convert("RGB").convert("HSV")).astype(np.float32) / 255.0
    alpha = np.asarray(image.getchannel("A"))
    hue, saturation, value = hsv[..., 0] * 360.0, hsv[..., 1], hsv[..., 2]
    coloured = (saturation > _MIN_SATURATION) & (value > 0.15) & (alpha > 64)
    histogram, _ = np.histogram(
        hue[coloured], bins=36, range=(0.0, 360.0), weights=(saturation * value)[coloured]
    )
    # a window of three bins, so that a hue on the border of two bins is not split
    smooth = histogram + np.roll(histogram, 1) + np.roll(histogram, -1)
    dominant = 10.0 * float(np.argmax(smooth)) + 5.0
    distance = np.abs((hue - dominant + 180.0) % 360.0 - 180.0)
    mask = (distance < _HUE_TOLERANCE_DEG) & (saturation > 0.12)
    target_hue, target_saturation, target_value = PAINTS[paint]
    painted = mask & (alpha > 64)
    # clips differ in how dark and how pale they are: bring what is painted to where the colour's name holds
    saturation_gain = target_saturation / float(np.median(saturation[painted]))
    value_gain = target_value / float(np.quantile(value[painted], 0.7))
    saturation_gain, value_gain = min(saturation_gain, 2.5), min(value_gain, 2.5)
    hsv[..., 0] = np.where(mask, target_hue / 360.0, hsv[..., 0])
    hsv[..., 1] = np.where(mask, np.clip(saturation * saturation_gain, 0.0, 1.0), saturation)
    hsv[..., 2] = np.where(mask, np.clip(value * value_gain, 0.0, 1.0), value)
    rgb = Image.fromarray(np.rint(hsv * 255.0).astype(np.uint8), mode="HSV").convert("RGB")
    rgb.putalpha(image.getchannel("A"))
    return rgb
