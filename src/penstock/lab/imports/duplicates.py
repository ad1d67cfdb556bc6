"""The same result told twice: copied rows, and one run's figures under two names."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from penstock.lab.imports.figures import LATENCIES, RATES
from penstock.lab.imports.physics import Breach

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.lab.imports.row import Row

_DIGITS = 9  # of what is compared: sums of floats differ in their last digits
_TOGETHER = 8  # digits that must agree, of all figures together, for chance to be out of the question
_SURELY = 24  # likewise, where rates differ
_LEAST = 3  # figures

Key = tuple[str, str, str]


def duplicates(rows: Sequence[Row]) -> dict[int, Breach]:
    """By index, what is wrong with those that measured nothing of their own.

    Of a row that stands there twice the first is right. Of one run's figures under two names neither is: it isn't known
    whose they are.
    """
    keys = [_keys(row) for row in rows]
    at: dict[Key, list[int]] = {}
    found: dict[int, Breach] = {}
    for i, own in enumerate(keys):
        shared = Counter(other for key in own for other in at.get(key, ()))
        for other, n in shared.items():
            if n < _LEAST or not _same(own, keys[other]):
                continue
            figures = tuple(sorted({f"{name}.{statistic}" for name, statistic, _ in own.keys() & keys[other].keys()}))
            differing = _differing(rows[i], rows[other])
            if differing:
                for one, two in ((i, other), (other, i)):
                    what = f"All {n} figures are those of {rows[two].name()}, which differs in {differing}."
                    found.setdefault(one, Breach("duplicate", figures, what, 1.0))
            else:
                what = f"It is {rows[other].name()} once more: all {n} figures are the same."
                found.setdefault(i, Breach("duplicate", figures, what, 1.0))
        for key in own:
            at.setdefault(key, []).append(i)
    return found


def _keys(row: Row) -> dict[Key, float]:
    """Measured figures, and how many digits of each are known."""
    found = {}
    for name in (*LATENCIES, *RATES):
        spread = row.figures.spreads.get(name)
        for statistic, value in spread.statistics.items() if spread is not None else ():
            if math.isfinite(value) and value > 0 and statistic != "std":
                digits = math.log10(max(1.0, value / (2 * spread.half))) if spread and spread.half else float(_DIGITS)
                found[(name, statistic, f"{value:.{_DIGITS}g}")] = min(digits, float(_DIGITS))
    return found


def _same(one: dict[Key, float], other: dict[Key, float]) -> bool:
    """Whether every figure that both tell is the same, and there is enough of it."""
    common = {key[:2] for key in one} & {key[:2] for key in other}
    equal = one.keys() & other.keys()
    digits = sum(min(one[key], other[key]) for key in equal)
    if len(equal) < len(common):
        # The windows of rates differ between a run's summary and its list of requests; latencies don't.
        times = {key for key in common if key[0] in LATENCIES}
        return {key[:2] for key in equal} >= times and digits >= _SURELY
    return digits >= _TOGETHER


def _differing(one: Row, other: Row) -> str:
    a, b = one.labels(), other.labels()
    return ", ".join(f"{name} ({a[name]}, {b[name]})" for name in a if name in b and a[name] != b[name])
