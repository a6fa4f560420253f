"""Queries and their answers for print: pictures in frames that say right or wrong by colour, dash and mark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lab.evaluation.word_importance import words_of
from lab.experiments.plotting import PAGE_INCHES, save
from lab.experiments.qualitative.html_page import Section, ShownQuery, Way
from lab.experiments.qualitative.run import Match
from lab.experiments.qualitative.thumbnails import thumbnail

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RIGHT: Final = "#007A59"
WRONG: Final = "#B8420B"
SHADE: Final = "#0072B2"
PICTURE_IN: Final[Mapping[str, float]] = {"person": 1.04, "audio": 0.44}
"""Height of a row of pictures by task, where it is not square: a person stands, a spectrogram lies."""
SQUARE_IN: Final = 0.64
LEFT_IN: Final = 0.2
"""Space for the names of the methods, written upwards."""
BETWEEN_IN: Final = 0.12
TITLE_IN: Final = 0.2
LEGEND_IN: Final = 0.22
TEXT_SIZE: Final = 7.0
LINE_IN: Final = 0.14
SPACE_IN: Final = 0.03


@dataclass(frozen=True, slots=True)
class _Placed:
    """A word of a text in lines: where it begins, in inches to the right of and below the first line's beginning."""

    word: str
    value: float
    right_in: float
    down_in: float


def draw_picture(path: Path, sections: Sequence[Section], pictured: int, top_k: int) -> list[Path]:
    """The first ``pictured`` queries of each section side by side, one way above the other.

    Words are shaded by their importance for what the first way found first. Writes ``path`` as ``.png`` (200 dpi),
    ``.svg`` and ``.pdf``; the same examples give the same files.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    # Fonts stay fonts in the PDF, and no id in the SVG is random.
    style: Any = {"svg.hashsalt": "semlink", "pdf.fonttype": 42, "font.size": TEXT_SIZE}
    with mpl.rc_context(style):
        rows = [_Row(section, pictured, top_k) for section in sections]
        figure = plt.figure(figsize=(PAGE_INCHES, LEGEND_IN + sum(row.height_in for row in rows)))
        top_in = float(figure.get_figheight())
        for number, row in enumerate(rows):
            row.draw(figure, top_in, chr(ord("a") + number))
            top_in -= row.height_in
        legend = (
            "solid frame, ✓: right    dashed frame, ✗: another item    "
            "blue: words that speak for the item found first with knowledge"
        )
        _write(figure, PAGE_INCHES / 2, LEGEND_IN / 2, legend, ha="center", va="center")
        return save(figure, path)


class _Row:
    """A section's queries side by side; all lengths in inches."""

    def __init__(self, section: Section, pictured: int, top_k: int) -> None:
        self.title = section.title
        self.queries = section.groups[0].shown[:pictured]
        self.top_k = top_k
        self.block_in = (PAGE_INCHES - LEFT_IN) / len(self.queries)
        self.texts = [_placed(query, self.block_in - BETWEEN_IN) for query in self.queries]
        lines_in = max(word.down_in for text in self.texts for word in text) + LINE_IN
        self.above_in = TITLE_IN + lines_in + 0.02
        self.way_in = PICTURE_IN.get(self.queries[0].example.task, SQUARE_IN)
        self.height_in = self.above_in + self.way_in * len(self.queries[0].ways) + BETWEEN_IN

    def draw(self, figure: Figure, top_in: float, letter: str) -> None:
        """The row below ``top_in``."""
        _write(figure, 0.04, top_in - 0.13, f"({letter}) {self.title}", weight="bold")
        for column, (query, text) in enumerate(zip(self.queries, self.texts, strict=True)):
            left_in = LEFT_IN + column * self.block_in
            _write_words(figure, text, left_in + 0.02, top_in - TITLE_IN - 0.09)
            for line, way in enumerate(query.ways):
                bottom_in = top_in - self.above_in - (line + 1) * self.way_in
                if column == 0:
                    name = way.title.partition(":")[0].removesuffix(" knowledge")
                    middle_in = bottom_in + self.way_in / 2
                    _write(figure, 0.11, middle_in, name, rotation=90, ha="center", va="center")
                self._draw_way(figure, query, way, left_in, bottom_in)

    def _draw_way(
        self, figure: Figure, query: ShownQuery, way: Way, left_in: float, bottom_in: float
    ) -> None:
        inner_in = self.block_in - BETWEEN_IN
        if way.result.erased:
            centre = (left_in + inner_in / 2, bottom_in + self.way_in / 2)
            text = "✗ erased by the channel"
            _write(figure, *centre, text, color=WRONG, ha="center", va="center")
        wide_in = inner_in / self.top_k
        for place, found in enumerate(way.result.found):
            box_in = (
                left_in + place * wide_in + 0.02,
                bottom_in + 0.02,
                wide_in - 0.04,
                self.way_in - 0.04,
            )
            _draw_found(figure, box_in, query.example.corpus, found)


def _draw_found(
    figure: Figure, box_in: tuple[float, float, float, float], corpus: str, found: Match
) -> None:
    """A picture in its frame: solid and ticked where right, dashed and crossed where wrong."""
    width_in, height_in = figure.get_size_inches()
    left, bottom, wide, high = box_in
    ax = figure.add_axes(
        (left / width_in, bottom / height_in, wide / width_in, high / height_in),
    )
    colour = RIGHT if found.right else WRONG
    picture = np.asarray(thumbnail(corpus, found.item_id))
    # A spectrogram has no proportions to keep.
    lies = picture.shape[1] > picture.shape[0]
    ax.imshow(picture, aspect="auto" if lies else "equal", interpolation="antialiased")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color(colour)
        spine.set_linewidth(1.6)
        spine.set_linestyle("-" if found.right else (0, (2.5, 1.5)))
    ax.text(
        0.97,
        0.96,
        "✓" if found.right else "✗",
        transform=ax.transAxes,
        ha="right",
        va="top",
        fontsize=7,
        color="white",
        bbox={"boxstyle": "square,pad=0.12", "facecolor": colour, "edgecolor": "none"},
    )


def _placed(query: ShownQuery, width_in: float) -> list[_Placed]:
    """The query's words in lines no longer than ``width_in``."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=TEXT_SIZE)
    words = query.ways[0].words or tuple((word, 0.0) for word in words_of(query.text))
    found = []
    x, y = 0.0, 0.0
    for word, value in words:
        wide_in = text_to_path.get_text_width_height_descent(word, font, ismath=False)[0] / 72.0
        if x and x + wide_in > width_in:
            x, y = 0.0, y + LINE_IN
        found.append(_Placed(word, value, x, y))
        x += wide_in + SPACE_IN
    return found


def _write_words(figure: Figure, words: Sequence[_Placed], left_in: float, top_in: float) -> None:
    """Each word on its shade."""
    for one in words:
        box: Any = None
        if one.value > 0:
            box = {
                "boxstyle": "square,pad=0.1",
                "facecolor": SHADE,
                "alpha": 0.55 * one.value,
                "edgecolor": "none",
            }
        _write(figure, left_in + one.right_in, top_in - one.down_in, one.word, bbox=box)


def _write(figure: Figure, x_in: float, y_in: float, text: str, **style: Any) -> None:
    """Text at a place in inches from the lower left corner; a dollar sign is one."""
    width_in, height_in = figure.get_size_inches()
    figure.text(x_in / width_in, y_in / height_in, text, parse_math=False, **style)
