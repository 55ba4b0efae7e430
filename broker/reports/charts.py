"""Pictures as SVG: lines over a linear or logarithmic axis, and bars. Colours are the page's, by class.

Sizes are in SVG units of a picture 640 wide; the page scales it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 24, 14, 48
_MOST_POINTS: Final = 400
_BAR = 24

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """Points in the order of x; `steps` holds y until the next point, as counts do."""

    name: str
    points: Sequence[Point]
    steps: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A dot on a line; the legend names it."""

    x: float
    y: float
    name: str


class _Axis:
    """Values to places; `ticks` are where it is labelled."""

    def __init__(self, low: float, high: float, begin: float, end: float, *, log: bool = False) -> None:
        self._log = log and low > 0
        if self._log:
            low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(max(high, low * 1.01)))
            powers = range(round(math.log10(low)), round(math.log10(high)) + 1)
            factors = (1, 2, 5) if len(powers) <= 3 else (1,)
            self.ticks = [factor * 10.0**power for power in powers for factor in factors]
        else:
            step = _round_step((high - low) / 5 or 1)
            high = max(high, low + step)
            self.ticks = [step * index for index in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]
        self._low, self._high, self._begin, self._end = self._scale(low), self._scale(high), begin, end
        self.ticks = [tick for tick in self.ticks if low <= tick <= high * 1.0001]

    def at(self, value: float) -> float:
        """Where it is."""
        share = (self._scale(value) - self._low) / (self._high - self._low)
        return round(self._begin + share * (self._end - self._begin), 1)

    def _scale(self, value: float) -> float:
        return math.log10(value) if self._log else value


def lines(
    series: Sequence[Line], x_label: str, y_label: str, *, marks: Sequence[Mark] = (), log_x: bool = False
) -> str:
    """A chart of lines; empty if there is no point."""
    points = [point for line in series for point in line.points]
    if not points:
        return ""
    low = min(x for x, _ in points) if log_x else 0.0
    x_axis = _Axis(low, max(x for x, _ in points), _LEFT, _WIDTH - _RIGHT, log=log_x)
    y_axis = _Axis(0.0, max(y for _, y in points), _HEIGHT - _BOTTOM, _TOP)
    parts = [*_grid(x_axis, y_axis, x_label, y_label)]
    for number, line in enumerate(series):
        parts.append(f'<path class="line c{number}" d="{_path(line, x_axis, y_axis)}"/>')
    parts += [f'<circle class="mark" cx="{x_axis.at(mark.x)}" cy="{y_axis.at(mark.y)}" r="5"/>' for mark in marks]
    keys = [(f"c{number}", line.name) for number, line in enumerate(series) if len(series) > 1]
    keys += [("dot", mark.name) for mark in marks]
    legend = "".join(f'<span class="key"><i class="{look}"></i>{escape(name)}</span>' for look, name in keys)
    return _svg(_HEIGHT, parts, y_label) + (f'<p class="legend">{legend}</p>' if legend else "")


def bars(rows: Sequence[tuple[str, int]], label: str) -> str:
    """Horizontal bars, one a row; empty if there is none."""
    if not rows:
        return ""
    most = max(count for _, count in rows) or 1
    left, room = 200, _WIDTH - 200 - 80
    parts = []
    for number, (name, count) in enumerate(rows):
        y = number * _BAR
        width = round(room * count / most, 1)
        parts.append(f'<text class="tick" x="{left - 10}" y="{y + 16}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect class="bar" x="{left}" y="{y + 4}" width="{max(width, 1)}" height="{_BAR - 8}" rx="2"/>')
        parts.append(f'<text class="tick" x="{left + width + 8}" y="{y + 16}">{count:,}</text>')
    return _svg(len(rows) * _BAR + 4, parts, label)


def share_done(values: Sequence[float]) -> list[Point]:
    """What percentage had ended after how long: for `lines`."""
    ordered = sorted(values)
    return [(max(value, 1e-4), 100 * (index + 1) / len(ordered)) for index, value in enumerate(ordered)]


def counted(times: Sequence[float]) -> list[Point]:
    """How many there were after how long: for `lines`."""
    return [(0.0, 0.0), *((time, float(index)) for index, time in enumerate(sorted(times), 1))]


def _grid(x_axis: _Axis, y_axis: _Axis, x_label: str, y_label: str) -> Iterator[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for tick in y_axis.ticks:
        y = y_axis.at(tick)
        yield f'<path class="grid" d="M{_LEFT} {y}H{right}"/>'
        yield f'<text class="tick" x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{_short(tick)}</text>'
    for tick in x_axis.ticks:
        x = x_axis.at(tick)
        yield f'<path class="axis" d="M{x} {bottom}v5"/>'
        yield f'<text class="tick" x="{x}" y="{bottom + 19}" text-anchor="middle">{_short(tick)}</text>'
    yield f'<path class="axis" d="M{_LEFT} {bottom}H{right}"/>'
    center, middle = (_LEFT + right) / 2, (_TOP + bottom) / 2
    yield f'<text class="label" x="{center}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
    yield (
        f'<text class="label" transform="rotate(-90 14 {middle})" x="14" y="{middle}" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )


def _path(line: Line, x_axis: _Axis, y_axis: _Axis) -> str:
    every = math.ceil(len(line.points) / _MOST_POINTS)
    kept = [*line.points[::every], line.points[-1]] if line.points else []
    words = []
    for number, (x, y) in enumerate(kept):
        across, up = x_axis.at(x), y_axis.at(y)
        words.append(f"M{across} {up}" if number == 0 else f"H{across}V{up}" if line.steps else f"L{across} {up}")
    return "".join(words)


def _svg(height: float, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"
