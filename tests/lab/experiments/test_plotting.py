"""Plots: the same rows give the same files, axes show all the data, bars stand beside and not over each other."""

from __future__ import annotations

import struct
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")
import matplotlib.pyplot as plt

from lab.evaluation.report import Row, over_seeds
from lab.experiments.plotting import (
    COLUMN_INCHES,
    FORMATS,
    PAGE_INCHES,
    STYLES,
    Line,
    Panel,
    _draw_panel,
    _errors,
    _share,
    _styles,
    _y_range,
    draw,
)


def lines(count: int, around: float = 0.5, spread: float = 0.05) -> list[Line]:
    rng = np.random.default_rng(0)
    xs = (-10.0, 0.0, 10.0)
    return [
        Line(f"line {i}", xs, [Row("map", **over_seeds(list(v))) for v in values])
        for i, values in enumerate(rng.normal(around, spread, (count, len(xs), 3)))
    ]


def bound(value: float) -> Line:
    return Line("bound", (-10.0, 0.0, 10.0), [Row("map", value)] * 3, bound=True)


def width_of(png: Path) -> int:
    """From the file's header."""
    return int(struct.unpack(">I", png.read_bytes()[16:20])[0])


def test_the_same_rows_give_the_same_files_as_picture_and_as_vectors(tmp_path: Path) -> None:
    panels = [Panel("a", "SNR [dB]", "mAP", [bound(0.7), *lines(3)])]
    first = draw(panels, tmp_path / "one", title="title")
    second = draw(panels, tmp_path / "two", title="title")
    assert [p.name for p in first] == [f"one{suffix}" for suffix in FORMATS]
    assert set(FORMATS) == {".png", ".svg", ".pdf"}
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()
    # One panel is as wide as a column of a paper, two as its page.
    wide = draw([*panels, *panels], tmp_path / "wide")
    assert width_of(first[0]) == pytest.approx(200 * COLUMN_INCHES, abs=1)
    assert width_of(wide[0]) == pytest.approx(200 * PAGE_INCHES, abs=1)


def test_the_style_of_one_picture_stays_in_it(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    draw([Panel("a", "x", "y", lines(1))], tmp_path / "x")
    assert dict(mpl.rcParams) == before


def test_every_line_has_a_colour_and_marker_of_its_own_and_keeps_it() -> None:
    panels = [Panel("a", "x", "y", lines(12)), Panel("b", "x", "y", lines(3))]
    styles = _styles(panels, ())
    assert len({(c, m) for c, m, _ in styles.values()}) == 12 == len(STYLES)
    assert len({m for _, m, _ in styles.values()}) == 12
    # In a picture that lacks the first line the others look the same.
    fewer = _styles([Panel("a", "x", "y", lines(3)[1:])], ["line 0", "line 1", "line 2"])
    assert fewer["line 2"] == styles["line 2"]
    assert _styles([Panel("a", "x", "y", lines(3)[1:])], ())["line 2"] != styles["line 2"]


def test_the_axis_shows_every_bar_within_what_can_be() -> None:
    shown = lines(4)
    ends = [
        row.mean + side * (row.sd or 0.0) for line in shown for row in line.rows for side in (-1, 1)
    ]
    low, high = _y_range(Panel("a", "x", "y", shown))
    assert low < min(ends) < max(ends) < high
    assert high - low < 1.2 * (max(ends) - min(ends))
    # A share is never above 1, whatever the interval says; a bound at 1 is still seen.
    near = [bound(1.0), *lines(4, around=0.99, spread=0.02)]
    assert max(row.mean + (row.sd or 0.0) for line in near for row in line.rows) > 1.01
    _, top = _y_range(Panel("a", "x", "y", near, y_limits=(0, 1)))
    assert 1.0 < top < 1.01
    scaled = _y_range(Panel("a", "x", "y", shown, scale=100.0))
    assert scaled == pytest.approx((100 * low, 100 * high))
    assert _y_range(Panel("a", "x", "y", [])) == (0.0, 1.0)


def test_bars_of_lines_that_meet_stand_side_by_side_and_markers_at_their_place() -> None:
    rows = [Row("map", **over_seeds([0.4, 0.5, 0.6]))] * 3
    xs = (-10.0, 0.0, 10.0)
    panel = Panel("a", "x", "y", [Line(f"line {i}", xs, rows) for i in range(5)])
    figure, ax = plt.subplots()
    _draw_panel(ax, panel, _styles([panel], ()))
    figure.canvas.draw()
    bars = [collection for collection in ax.collections if len(collection.get_paths()) == 3]
    assert len(bars) == 5
    places = [b.get_transform().transform(b.get_paths()[1].vertices)[0, 0] for b in bars]
    steps = np.diff(places)
    assert np.all(steps > 0)
    assert np.allclose(steps, steps[0])
    # All of them within a third of the way to the next point.
    left, right = ax.transData.transform([(0.0, 0.5), (10.0, 0.5)])[:, 0]
    assert places[-1] - places[0] < (right - left) / 3
    assert np.mean(places) == pytest.approx(left)
    drawn = [line for line in ax.lines if line.get_label().startswith("line")]
    assert all(tuple(line.get_xdata()) == xs for line in drawn)
    plt.close(figure)


def test_panels_of_one_figure_share_an_axis_only_where_they_compare() -> None:
    def shared(around: tuple[float, float], labels: tuple[str, str] = ("mAP", "mAP")) -> bool:
        panels = [
            Panel("a", "x", label, lines(3, at)) for label, at in zip(labels, around, strict=True)
        ]
        figure, axes = plt.subplots(1, 2)
        for ax, panel in zip(axes, panels, strict=True):
            _draw_panel(ax, panel, _styles(panels, ()))
        _share(list(axes), panels)
        same = axes[0].get_ylim() == axes[1].get_ylim()
        assert same == (axes[1].get_ylabel() == "")
        plt.close(figure)
        return bool(same)

    assert shared((0.5, 0.52))
    assert not shared((0.5, 5.0))
    assert not shared((0.5, 0.52), ("mAP", "R@1"))


def test_bars_are_deviations_over_seeds_or_the_interval_of_what_has_none() -> None:
    measured = Row("map", **over_seeds([0.4, 0.5, 0.6]))
    difference = Row("map_difference", 0.05, ci95=(0.01, 0.2))
    below, above = _errors([measured, difference, Row("map", 0.5)], 100.0)
    assert below == pytest.approx([10.0, 4.0, 0.0])
    assert above == pytest.approx([10.0, 15.0, 0.0])
