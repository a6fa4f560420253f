"""Rebuild the cliparts that the `scenes` corpus ships, from Debian's public-domain `openclipart-png`.

    apt-get download openclipart-png && dpkg -x openclipart-png_*.deb unpacked
    python -m tools.build_cliparts unpacked/usr/share/openclipart/png

What is chosen, and what each picture shows, stands in ``cliparts_selection.txt`` beside this module (chosen and
labelled by eye). The script crops each picture to its visible part, shrinks it, quantises it and writes the index.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

SELECTION = Path(__file__).with_name("cliparts_selection.txt")
ASSETS = Path(__file__).resolve().parents[1] / "semlink" / "corpora" / "assets" / "cliparts"
LONGER_SIDE_PX = 144
NUM_PALETTE_COLOURS = 96
LICENCE = "public domain (Creative Commons Public Domain Dedication)"
SOURCE_PACKAGE = "openclipart-png 1:0.18+dfsg-19 (Debian)"
ALPHA_VISIBLE = 12
MIN_CLIPS_TO_HOLD_ONE_OUT = 3

CLIP = re.compile(
    r"(?P<source>[^*^=]+)(?P<star>\*?)(?:\^(?P<surface>[\d.]+))?(?:=(?P<colour>\w+))?"
)


@dataclass(frozen=True)
class LabelRow:
    """One label of the selection with its clips (source path, recolourable, surface, native colour)."""

    label: str
    category: str
    zone: str
    size: str
    place: str
    plural: str
    names: list[tuple[str, str]]
    clips: list[tuple[str, bool, float | None, str | None]]


def regular_plural(noun: str) -> str:
    """English plural of a regular noun (its last word)."""
    if re.search(r"(s|x|ch|sh)$", noun):
        return noun + "es"
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + "s"


def read_selection(path: Path = SELECTION) -> list[LabelRow]:
    """Parse the selection: a line per label, its clips indented below. Raises ValueError for a bad line."""
    rows: list[LabelRow] = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith(" "):
            match = CLIP.fullmatch(line.strip())
            if match is None or not rows:
                raise ValueError(f"{path.name}:{number}: not a clip line: {line!r}")
            surface = float(match["surface"]) if match["surface"] else None
            rows[-1].clips.append((match["source"], bool(match["star"]), surface, match["colour"]))
            continue
        label, category, zone, size, place, plural, synonym = (p.strip() for p in line.split("|"))
        names = [(label, regular_plural(label) if plural == "-" else plural)]
        if synonym != "-":
            singular, _, irregular = synonym.partition("/")
            names.append((singular, irregular or regular_plural(singular)))
        rows.append(LabelRow(label, category, zone, size, place, names[0][1], names, []))
    return rows


def shrink(source: Path) -> Image.Image:
    """The visible part of ``source``, at most 144 px long, with a palette that keeps transparency."""
    image = Image.open(source).convert("RGBA")
    visible = image.getchannel("A").point(lambda alpha: 255 * (alpha > ALPHA_VISIBLE)).getbbox()
    if visible is None:
        raise ValueError(f"{source}: nothing visible")
    # premultiplied while shrinking, or the colour of invisible pixels bleeds into the rim
    image = image.crop(visible).convert("RGBa")
    scale = LONGER_SIDE_PX / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS).convert("RGBA")
    return image.quantize(NUM_PALETTE_COLOURS, method=Image.Quantize.FASTOCTREE)


def build(package_root: Path, assets: Path = ASSETS) -> dict[str, Any]:
    """Write every selected clip and ``index.json`` to ``assets``; returns the index."""
    assets.mkdir(parents=True, exist_ok=True)
    for stale in assets.glob("*.png"):
        stale.unlink()
    labels: dict[str, Any] = {}
    clips: list[dict[str, Any]] = []
    for row in read_selection():
        labels[row.label] = {
            "category": row.category,
            "zone": row.zone,
            "size": row.size,
            "place": row.place,
            "names": row.names,
        }
        for number, (source, recolourable, surface, colour) in enumerate(row.clips):
            name = f"{row.label.lower().replace(' ', '-')}-{number}.png"
            image = shrink(package_root / f"{source}.png")
            image.save(assets / name, optimize=True)
            last = number == len(row.clips) - 1
            clips.append(
                {
                    "file": name,
                    "label": row.label,
                    "category": row.category,
                    "licence": LICENCE,
                    "source": f"{source}.png",
                    "width": image.width,
                    "height": image.height,
                    "colour": colour,
                    "recolourable": recolourable,
                    "surface": surface,
                    "held_out": last and len(row.clips) >= MIN_CLIPS_TO_HOLD_ONE_OUT,
                }
            )
    index = {"source_package": SOURCE_PACKAGE, "labels": labels, "clips": clips}
    head = json.dumps({"source_package": SOURCE_PACKAGE})[1:-1]
    body = [f'"{k}": {json.dumps(v)}' for k, v in labels.items()]
    text = "{" + head + ',\n"labels": {\n' + ",\n".join(body) + '},\n"clips": [\n'
    text += ",\n".join(json.dumps(clip) for clip in clips) + "]}\n"
    (assets / "index.json").write_text(text)
    return index


def main() -> None:
    """Command line: the folder of the unpacked package that holds the PNGs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package_root", type=Path, help=".../usr/share/openclipart/png")
    index = build(parser.parse_args().package_root)
    size = sum(path.stat().st_size for path in ASSETS.glob("*.png"))
    print(f"{len(index['labels'])} labels, {len(index['clips'])} clips, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
