"""Figures as people read them. `assets/units.js` shows the same figures in the same words."""

from __future__ import annotations

import math

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_LONG = ((3600.0, "h", 7200.0), (60.0, "min", 120.0))
_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


def number(value: float, digits: int = 3) -> str:
    """With so many significant digits, all digits before the point, and commas at the thousands."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if magnitude < -5:
        return f"{value:.{digits - 1}e}"
    decimals = max(digits - 1 - magnitude, 0)
    written = f"{value:,.{decimals}f}"
    return written.rstrip("0").rstrip(".") if float(value).is_integer() and "." in written else written


def figure(value: float, unit: str, digits: int = 3) -> str:
    """A value and its unit: "12.3 ms", "1,234 tokens/s", "42 %", "1.07"; "–" if there is no value."""
    if math.isnan(value):
        return "–"
    factor, name = scale(abs(value), unit)
    shown = number(value / factor, digits)
    return f"{shown} {name}" if name else shown


def scale(largest: float, unit: str) -> tuple[float, str]:
    """What to divide by, and the unit's name then, so that `largest` reads well."""
    if unit == "s":
        for factor, name, least in _LONG:
            if least <= largest < math.inf:
                return factor, name
        return next(((factor, name) for factor, name in _TIMES if largest >= factor * 0.9995), _TIMES[0 if not largest
                    else -1])  # fmt: skip
    if unit == "bytes":
        return next(((factor, name) for factor, name in _BYTES if largest >= factor * 0.9995), _BYTES[-1])
    if unit == "share":
        return 0.01, "%"
    return 1.0, "" if unit == "1" else unit


def between(low: float, high: float, unit: str, digits: int = 3) -> str:
    """An interval, its unit written once: "11.8 to 12.4 ms"."""
    factor, name = scale(max(abs(low), abs(high)), unit)
    written = f"{number(low / factor, digits)} to {number(high / factor, digits)}"
    return f"{written} {name}" if name else written
