"""Units as people write them, and the dimensions behind them."""

from __future__ import annotations

NONE = "1"  # shares, ratios, changes
ANY = "any"  # of a bare number, which says nothing of its dimension

_TIMES = {
    "s": ("ns", "nanosecond", "nanoseconds"), "us": ("µs", "μs", "us", "microsecond", "microseconds"),
    "ms": ("ms", "millisecond", "milliseconds"), "sec": ("s", "sec", "second", "seconds"),
    "min": ("min", "minute", "minutes"), "h": ("h", "hour", "hours"),
}  # fmt: skip
_SECONDS = {"s": 1e-9, "us": 1e-6, "ms": 1e-3, "sec": 1.0, "min": 60.0, "h": 3600.0}
_POWERS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_RATES = {
    "tokens/s": ("tokens/s", "token/s", "tok/s", "tokens per second", "tokens a second"),
    "requests/s": ("requests/s", "request/s", "req/s", "rps", "requests per second", "requests a second"),
}

UNITS: dict[str, tuple[str, float]] = {
    "%": (NONE, 0.01), "percent": (NONE, 0.01), "x": (NONE, 1.0), "×": (NONE, 1.0), "times": (NONE, 1.0),
    "-fold": (NONE, 1.0), "ratio": (NONE, 1.0), "share": (NONE, 1.0), "1": (NONE, 1.0),
    "cores": ("cores", 1.0), "nats": ("nats", 1.0), "nats/token": ("nats", 1.0), "bytes": ("bytes", 1.0),
    "bytes/s": ("bytes/s", 1.0), "operations/s": ("operations/s", 1.0), "W": ("W", 1.0), "J": ("J", 1.0),
    "J/token": ("J/token", 1.0),
}  # fmt: skip
for _name, _words in _TIMES.items():
    UNITS |= dict.fromkeys(_words, ("s", _SECONDS[_name]))
for _rate, _words in _RATES.items():
    UNITS |= dict.fromkeys(_words, (_rate, 1.0))
for _prefix, _power in {**_POWERS, **_BINARY}.items():
    if _prefix:
        UNITS |= {f"{_prefix}B": ("bytes", _power), f"{_prefix}B/s": ("bytes/s", _power)}
    if _prefix not in _BINARY:
        for _word in ("FLOP/s", "FLOPS", "OP/s", "OPS"):
            UNITS[f"{_prefix}{_word}"] = ("operations/s", _power)


def dimension_of(unit: str) -> tuple[str, float]:
    """What a unit measures, and how much of that dimension's own unit one of it is. An unknown one is itself."""
    return UNITS.get(unit.strip(), (unit.strip(), 1.0))


def shown_in(value: float, unit: str) -> str:
    """A value of a dimension's own unit, as one would write it in `unit`."""
    _, factor = dimension_of(unit)
    return f"{value / factor:.4g} {unit}".replace(" %", " %").strip()
