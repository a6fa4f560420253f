"""Charts as inline SVG: no script, no foreign host; colours are the page's, light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

Points = Sequence[tuple[float, float]]

_WIDTH: Final = 560
_HEIGHT: Final = 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 22, 12, 40


def lines(
    series: Mapping[str, Points], *, x: str, y: str, marks: bool = False, log_y: bool = False
) -> str:
    """Draw lines over a common x axis, with a legend below; ``marks`` draws the points, too.

    ``series``: points (x, y) by name; those that are not finite, or not positive with ``log_y``, are left out.
    """
    drawn = {
        name: [(a, b) for a, b in points if math.isfinite(a + b) and (b > 0 or not log_y)]
        for name, points in series.items()
    }
    drawn = {name: points for name, points in drawn.items() if points}
    if not drawn:
        return '<p class="none">nothing was measured</p>'
    xs = [a for points in drawn.values() for a, _ in points]
    ys = [b for points in drawn.values() for _, b in points]
    x_ticks = _ticks(min(0.0, *xs), max(xs))
    y_ticks = _log_ticks(min(ys), max(ys)) if log_y else _ticks(min(0.0, *ys), max(ys))

    def at(a: float, b: float) -> tuple[float, float]:
        low, high, value = y_ticks[0], y_ticks[-1], b
        if log_y:
            low, high, value = math.log(low), math.log(high), math.log(b)
        across = (a - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (value - low) / (high - low)
        return (
            round(_LEFT + across * (_WIDTH - _LEFT - _RIGHT), 1),
            round(_HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM), 1),
        )

    parts = _axes(
        x, y, {t: at(t, y_ticks[0])[0] for t in x_ticks}, {t: at(0, t)[1] for t in y_ticks}
    )
    for number, points in enumerate(drawn.values(), 1):
        places = [at(a, b) for a, b in points]
        path = " ".join(f"{a},{b}" for a, b in places)
        parts.append(f'<polyline class="line c{number}" points="{path}"/>')
        if marks or len(places) == 1:
            parts += [
                f'<circle class="mark c{number}" cx="{a}" cy="{b}" r="3"/>' for a, b in places
            ]
    return _svg(parts, f"{y} over {x}") + _legend(drawn)


def bars(values: Mapping[str, Sequence[float]], names: Sequence[str], *, unit: str) -> str:
    """Draw a group of horizontal bars for each key, one bar for each of ``names``, with a legend below."""
    values = {k: v for k, v in values.items() if all(map(math.isfinite, v))}
    if not values:
        return '<p class="none">nothing was measured</p>'
    thick, gap, left = 7, 8, 170
    ticks = _ticks(0.0, max(max(group) for group in values.values()))
    height = _TOP + len(values) * (thick * len(names) + gap) + _BOTTOM
    scale = (_WIDTH - left - _RIGHT) / ticks[-1]
    parts = []
    for tick in ticks:
        place = round(left + tick * scale, 1)
        parts.append(
            f'<path class="grid" d="M{place} {_TOP}V{height - _BOTTOM}"/>'
            f'<text x="{place}" y="{height - _BOTTOM + 16}" text-anchor="middle">{tick:g}</text>'
        )
    top = float(_TOP)
    for name, group in values.items():
        middle = top + thick * len(names) / 2 + 4
        parts.append(f'<text x="{left - 8}" y="{middle}" text-anchor="end">{escape(name)}</text>')
        for number, value in enumerate(group, 1):
            parts.append(
                f'<rect class="bar c{number}" x="{left}" y="{top}" width="{round(value * scale, 1)}" '
                f'height="{thick - 1}"><title>{escape(names[number - 1])}: {value:.3g} {unit}</title></rect>'
            )
            top += thick
        top += gap
    parts.append(
        f'<text x="{(left + _WIDTH) / 2}" y="{height - 6}" text-anchor="middle">{escape(unit)}</text>'
    )
    return _svg(parts, f"{unit} by stage", height) + _legend(names)


def _axes(x: str, y: str, across: Mapping[float, float], up: Mapping[float, float]) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for tick, place in up.items():
        parts.append(
            f'<path class="grid" d="M{_LEFT} {place}H{right}"/>'
            f'<text x="{_LEFT - 6}" y="{place + 4}" text-anchor="end">{tick:g}</text>'
        )
    for tick, place in across.items():
        parts.append(f'<text x="{place}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>')
    middle = (_TOP + bottom) / 2
    parts.append(
        f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x)}</text>'
        f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{escape(y)}</text>'
    )
    return parts


def _svg(parts: Sequence[str], title: str, height: float = _HEIGHT) -> str:
    head = f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">'
    return head + "".join(parts) + "</svg>"


def _legend(names: Mapping[str, Points] | Sequence[str]) -> str:
    keys = (
        f'<span><i class="c{number}"></i>{escape(name)}</span>'
        for number, name in enumerate(names, 1)
    )
    return f'<p class="legend">{"".join(keys)}</p>'


def _ticks(low: float, high: float) -> list[float]:
    """Round values that span low…high, about five."""
    span = (high - low) or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(m for m in (1, 2, 5, 10) if span / (m * step) <= 5)
    first, last = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0**i for i in range(first, max(last, first + 1) + 1)]
