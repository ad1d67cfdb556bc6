"""A line chart in plain SVG that a page of Markdown can show: whiskers from the smallest to the largest value.

The pages of `lab.pages` draw in the browser; what lies in a repository beside its text must be a picture already, and
the same for the same figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 840, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 270, 40, 50
_COLOURS = ("#0b6e99", "#d1495b", "#edae49", "#66a182", "#8d6a9f", "#2e4057", "#a05a2c")
_LIMIT_COLOUR = "#888888"
_LABEL_GAP = 15.0


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    points: tuple[Point, ...]
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over a common pair of axes, each logarithmic if it is told so and all its values are over zero."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    log_x: bool = True
    log_y: bool = True
    x_names: tuple[str, ...] = ()  # instead of numbers, of 0, 1, 2, ...
    marks: tuple[float, ...] = ()  # upright lines: where something changed

    def svg(self) -> str:
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
            f'font-family="system-ui, sans-serif" font-size="12">',
            f"<title>{escape(self.title)}</title>",
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
            f'<text x="{_LEFT}" y="22" font-size="15" font-weight="600">{escape(self.title)}</text>',
            *self._axes(),
        ]
        for line in self.lines:
            parts += self._draw(line)
        parts += self._labels()
        return "\n".join([*parts, "</svg>"]) + "\n"

    def _xs(self) -> list[float]:
        return sorted({point.x for line in self.lines for point in line.points})

    def _labelled_xs(self) -> list[float]:
        """So many that they don't overlap."""
        xs = self._xs()
        widest = max((len(name) for name in self.x_names), default=4)
        room = max(int((_WIDTH - _RIGHT - _LEFT) / (8 * widest)), 2)
        return xs[:: -(-len(xs) // room)] if self.x_names else xs

    def _y_range(self) -> tuple[float, float]:
        points = [point for line in self.lines for point in line.points]
        low, high = min(p.low for p in points), max(p.high for p in points)
        if self.log_y:
            return low / 1.2, high * 1.2
        room = (high - low or abs(high) or 1.0) * 0.15
        return low - room, high + room

    def _x(self, value: float) -> float:
        return _scaled(value, self._xs()[0], self._xs()[-1], _LEFT + 15, _WIDTH - _RIGHT, log=self.log_x)

    def _y(self, value: float) -> float:
        return _scaled(value, *self._y_range(), _HEIGHT - _BOTTOM, _TOP, log=self.log_y)

    def _axes(self) -> list[str]:
        right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        parts = [f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="#444"/>']
        for x in self._labelled_xs():
            name = escape(self.x_names[int(x)]) if self.x_names else f"{x:g}"
            parts.append(f'<text x="{self._x(x):.1f}" y="{bottom + 18}" text-anchor="middle">{name}</text>')
        marks = (f"M{self._x(mark):.1f} {_TOP}V{bottom}" for mark in self.marks)
        parts += [f'<path d="{mark}" stroke="#d1495b" stroke-dasharray="2 3"/>' for mark in marks]
        for y in _ticks(*self._y_range()) if self.log_y else _even_ticks(*self._y_range()):
            at = self._y(y)
            parts.append(f'<path d="M{_LEFT} {at:.1f}H{right}" stroke="#ddd"/>')
            parts.append(f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{y:g}</text>')
        parts.append(
            f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 12}" text-anchor="middle">{escape(self.x_label)}</text>'
        )
        middle = (_TOP + bottom) / 2
        parts.append(
            f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">'
            f"{escape(self.y_label)}</text>"
        )
        return parts

    def _colour(self, line: Line) -> str:
        solid = [other for other in self.lines if not other.dashed]
        return _LIMIT_COLOUR if line.dashed else _COLOURS[solid.index(line) % len(_COLOURS)]

    def _draw(self, line: Line) -> list[str]:
        colour = self._colour(line)
        path = " ".join(f"{self._x(p.x):.1f},{self._y(p.y):.1f}" for p in line.points)
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>']
        if line.dashed:
            return parts
        for point in line.points:
            x, low, high = self._x(point.x), self._y(point.low), self._y(point.high)
            parts.append(f'<circle cx="{x:.1f}" cy="{self._y(point.y):.1f}" r="3.5" fill="{colour}"/>')
            parts.append(f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="{colour}" stroke-width="1.5"/>')
        return parts

    def _labels(self) -> list[str]:
        """Names and last values at the right ends, moved apart where they would overlap."""
        parts = []
        taken = -math.inf
        for line in sorted(self.lines, key=lambda each: self._y(each.points[-1].y)):
            taken = max(self._y(line.points[-1].y), taken + _LABEL_GAP)
            value = line.points[-1].y
            shown = f"{value:.0f}" if value >= 100 else f"{value:.3g}"
            parts.append(
                f'<text x="{_WIDTH - _RIGHT + 10}" y="{taken + 4:.1f}" fill="{self._colour(line)}">'
                f"{escape(line.name)} {shown}</text>"
            )
        return parts


def _scaled(value: float, low: float, high: float, start: float, end: float, *, log: bool) -> float:
    if low == high:
        return (start + end) / 2
    share = math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)
    return start + (end - start) * share


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... within the range."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [tick for power in exponents for digit in (1, 2, 5) if low <= (tick := digit * 10.0**power) <= high]


def _even_ticks(low: float, high: float) -> list[float]:
    """About five round values within the range."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough)
    return [round(i * step, 12) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
