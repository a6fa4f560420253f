"""Reader of Tux Paint's stamps as Debian's package ``tuxpaint-stamps-default`` installs them.

Pictures with a caption in many languages, some with a sound: a small set of three modalities that a package manager
brings. The stamps are under the GPL; they are read where the package puts them and never copied.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from semlink.corpora.corpus import Item, Media
from semlink.corpora.layouts import hashed_split, item_id_of, numbered_lines, wrong
from semlink.corpora.listed import Listed, ListedImages, ListedSounds
from semlink.errors import InvalidField, NotFound

INSTALLED = Path("/usr/share/tuxpaint/stamps")
"""Where Debian's package puts the stamps."""
PICTURES = (".png", ".svg")
"""Endings of a stamp's picture: the pixels are taken where a stamp has both."""
SOUNDS = (".ogg", ".wav")
DRAWING_SIDE = 512
"""Pixels of the longer side that a drawing has at most when it is rendered."""
RENDERER = "resvg_py"

NO_CAPTION = "picture without a caption beside it"
NO_PICTURE = "caption without a picture beside it"
NO_SOUND = "stamp without a sound"
NO_RENDERER = f"drawing (.svg) without a picture (.png), and {RENDERER} is not installed"

_TRANSLATION = re.compile(r"([A-Za-z]{2,3}[A-Za-z_@]*)\.utf8=(.*)")
_LICENCE = "GPL-2, by the authors of Tux Paint's stamps"


@dataclass(frozen=True, slots=True)
class Stamp:
    """A picture, its caption in English and other languages, and its sound if it has one."""

    name: str
    caption: str
    translations: Mapping[str, str]
    """Language, as the file writes it (``de``, ``pt_BR``), to caption."""
    picture: Path
    sound: Path | None
    where: str


class TuxPaint(ListedImages):
    """The stamps under ``root`` (``/usr/share/tuxpaint/stamps``) as pictures: ``NAME.png`` or ``.svg``, ``NAME.txt``.

    The first line of the text is the caption, the others are translations (``de.utf8=…``), given as
    ``attributes["translations"]``; ``attributes["category"]`` is the folder. The item id is the path with ``--`` for a
    slash. There are no official splits: :func:`~semlink.corpora.layouts.hashed_split` of the caption decides (80 %
    train, 10 % val, 10 % test), so that stamps of one caption, and a stamp's picture and sound, are in one split.

    A drawing (``.svg``) without a picture is rendered, at most 512 pixels a side and without fonts of the machine, if
    the package ``resvg_py`` is installed. ``skipped`` counts such drawings if it is not, and pictures without a caption
    and captions without a picture.

    :raises NotFound: if the folder is missing or holds no stamp.
    :raises InvalidField: for a line that is wrong; the message names the file and the line.
    """

    media_types: Mapping[str, str] = {".png": "image/png", ".svg": "image/png"}

    def __init__(self, root: str | Path = INSTALLED) -> None:
        folder = _folder(Path(root))
        skipped: Counter[str] = Counter()
        super().__init__(
            "tuxpaint",
            folder,
            _pictures(folder, skipped),
            skipped,
            licence=_LICENCE,
            description="Stamps of a paint program for children: photographs and drawings, a caption each",
        )

    def media(self, item_id: str) -> Media:
        """The picture as it is, a drawing as a PNG. Raises NotFound, or InvalidField if a drawing does not render."""
        self.item(item_id)
        path = self._files[item_id]
        if path.suffix.lower() != ".svg":
            return super().media(item_id)
        return Media("image/png", _rendered(path, self._place(item_id)))


class TuxPaintSounds(ListedSounds):
    """The stamps under ``root`` that have a sound, ``NAME.ogg`` or ``.wav``, as sounds: what each shows can be heard.

    Captions, ids and splits are those of :class:`TuxPaint`. Spoken descriptions (``NAME_desc*.ogg``, and
    ``NAME_LANGUAGE.ogg``) are no sounds of what the stamp shows and left alone. ``skipped`` counts stamps without a
    sound, and what :class:`TuxPaint` counts.

    :raises NotFound: if the folder is missing or holds no stamp with a sound.
    :raises InvalidField: for a line that is wrong; the message names the file and the line.
    """

    def __init__(self, root: str | Path = INSTALLED) -> None:
        folder = _folder(Path(root))
        skipped: Counter[str] = Counter()
        super().__init__(
            "tuxpaint-sounds",
            folder,
            _sounds(folder, skipped),
            skipped,
            licence=_LICENCE,
            description="Sounds of the stamps of a paint program for children, a caption each",
        )


def _folder(root: Path) -> Path:
    for folder in (root / "stamps", root):
        if folder.is_dir():
            return folder
    raise NotFound(
        f"{root} is not there; Debian's package tuxpaint-stamps-default installs {INSTALLED}",
        field="root",
    )


def _pictures(root: Path, skipped: Counter[str]) -> Iterator[Listed]:
    renders = importlib.util.find_spec(RENDERER) is not None
    for stamp in read_stamps(root, skipped):
        if stamp.picture.suffix.lower() == ".svg" and not renders:
            skipped[NO_RENDERER] += 1
        else:
            yield Listed(_item(stamp), stamp.picture, stamp.where)


def _sounds(root: Path, skipped: Counter[str]) -> Iterator[Listed]:
    for stamp in read_stamps(root, skipped):
        if stamp.sound is None:
            skipped[NO_SOUND] += 1
        else:
            yield Listed(_item(stamp), stamp.sound, stamp.where)


def _item(stamp: Stamp) -> Item:
    item_id = item_id_of(stamp.name)
    split, category = hashed_split(stamp.caption.casefold()), stamp.name.rpartition("/")[0]
    attributes = {"category": category, "translations": stamp.translations}
    return Item(item_id, item_id, split, (stamp.caption,), attributes)


def read_stamps(root: Path, skipped: Counter[str]) -> Iterator[Stamp]:
    """The stamps under ``root`` in the order of their names. Raises InvalidField for a text that is wrong."""
    endings: dict[str, dict[str, Path]] = {}
    for path in sorted(root.rglob("*")):
        ending = path.suffix.lower()
        if ending in (*PICTURES, *SOUNDS, ".txt") and path.is_file():
            name = path.relative_to(root).with_suffix("").as_posix()
            endings.setdefault(name, {})[ending] = path
    for name, files in sorted(endings.items()):
        picture = next((files[ending] for ending in PICTURES if ending in files), None)
        if picture is None:
            # A sound alone is a spoken description, which is no stamp.
            skipped[NO_PICTURE] += ".txt" in files
        elif ".txt" not in files:
            skipped[NO_CAPTION] += 1
        else:
            caption, translations = _captions(files[".txt"])
            sound = next((files[ending] for ending in SOUNDS if ending in files), None)
            where = f"{files['.txt']}, line 1"
            yield Stamp(name, caption, translations, picture, sound, where)


def _captions(path: Path) -> tuple[str, Mapping[str, str]]:
    lines = list(numbered_lines(path))
    if not lines or lines[0][0] != 1:
        raise wrong(f"{path}, line 1", "no caption")
    translations: dict[str, str] = {}
    for number, line in lines[1:]:
        match = _TRANSLATION.fullmatch(line.strip())
        if match is None:
            raise wrong(f"{path}, line {number}", f"{line[:80]!r} is not <language>.utf8=<caption>")
        if match[2].strip():
            translations[match[1]] = match[2].strip()
    return lines[0][1].strip(), translations


def _rendered(path: Path, field: str) -> bytes:
    """A drawing as PNG, by resvg: no scripts, no network, and no fonts, so that all machines draw the same."""
    try:
        render: Callable[..., bytes] = importlib.import_module(RENDERER).svg_to_bytes
        drawing = path.read_bytes().decode("utf-8")
        png = render(svg_string=drawing, dpi=96.0, skip_system_fonts=True)
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            image.thumbnail((DRAWING_SIDE, DRAWING_SIDE))
            small = io.BytesIO()
            image.save(small, "PNG")
    except FileNotFoundError as error:
        raise NotFound(f"{path} has gone", field="item_id") from error
    except ValueError as error:
        raise InvalidField(f"{field} does not render as SVG ({error})", field=field) from error
    return small.getvalue()
