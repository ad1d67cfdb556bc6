"""Bounds of numbers and what they are multiples of, as a grammar can hold them to the letter.

llguidance makes regular expressions of them: with 64-bit integers and doubles, which it rounds, and with a state for
each remainder. A reader of JSON rounds as well, to a double: of 0.19999999999999999999 it makes 0.2, which isn't less
than 0.2. So where a bound is exclusive, or a multiple is asked for, numbers have fifteen digits at most, all of which
a double keeps.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext
from math import lcm
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

LARGEST_NUMBER = Decimal(9 * 10**18)
LARGEST_INTEGER = Decimal(2**53 - 1)  # beyond, a double is not every integer
_DIGITS = 15
_DECIMALS = 6  # of what no bound or step says more about
_NAMES = (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum"))
_KEYWORDS = (*_NAMES[0], *_NAMES[1], "multipleOf")
_MAX_REMAINDERS = 100_000  # states: a tenth of a kilobyte each, and a second for all of them


class BoundError(ValueError):
    """A keyword of numbers that can't be enforced: its name, and why."""

    def __init__(self, keyword: str, why: str) -> None:
        super().__init__(why)
        self.keyword = keyword


def bound(node: dict[str, Any]) -> None:
    """Give a schema bounds that can be enforced, none of them wider than its own. Raises BoundError."""
    kinds = node.get("type", "any")
    kinds = set(map(str, kinds if isinstance(kinds, list) else [kinds]))
    if not kinds & {"number", "integer", "any"}:
        for keyword in _KEYWORDS:
            node.pop(keyword, None)  # they say nothing about other types, but are compiled
        return
    has_fractions = not kinds.isdisjoint({"number", "any"})
    bounds = _bound_of(node, "minimum", "exclusiveMinimum"), _bound_of(node, "maximum", "exclusiveMaximum")
    step = _number(node, "multipleOf")
    if has_fractions and step is None and any(found is not None and found.strict for found in bounds):
        step = _smallest_step(bounds)
        node["multipleOf"] = _plain(step)
    largest = LARGEST_NUMBER if "number" in kinds else LARGEST_INTEGER
    if has_fractions and step is not None:
        largest = min(largest, Decimal(10) ** (_DIGITS - _scale([step])))
    # Values tell their bounds themselves.
    always = ("number" in kinds or (has_fractions and step is not None)) and not node.keys() & {"enum", "const", "$ref"}
    for (name, strict_name), found, sign in zip(_NAMES, bounds, (1, -1), strict=True):
        if found is None:
            if always:
                node[name] = _plain(-sign * largest)
            continue
        least = sign * _inwards(sign * found.value, whole=not has_fractions)
        if sign * least > largest or (found.strict and sign * least == largest):
            raise BoundError(
                found.keyword, f"leaves only numbers beyond {sign * largest:g}, which can't be written exactly"
            )
        node.pop(name, None)
        node.pop(strict_name, None)
        if sign * least < -largest:
            node[name] = _plain(-sign * largest)
        else:
            strict = found.strict and least == found.value
            if strict and step is not None and sign * least >= 0 and not least % 1:
                # llguidance takes an exclusive whole number below others with the same digits for an inclusive one.
                strict, least = False, least + sign * step
            node[strict_name if strict else name] = _plain(least)


def _smallest_step(bounds: Iterable[_Bound | None]) -> Decimal:
    """What numbers between these are multiples of if none has more than `_DIGITS`."""
    whole = max(_DIGITS - _DECIMALS if found is None else _digits_before_point(found.value) for found in bounds)
    return Decimal(10) ** -max(min(_DIGITS - whole, _DECIMALS), 0)


def check_multiples(nodes: Iterable[dict[str, Any]]) -> None:
    """Raises BoundError if a number may have to be a multiple of so much at once that telling takes too many states."""
    steps = {step for node in nodes if (step := _number(node, "multipleOf")) is not None}
    if any(step <= 0 for step in steps):
        raise BoundError("multipleOf", "must be above zero")
    scale = _scale(steps)
    shared = whole = lcm(*(int(step.scaleb(scale)) for step in steps)) if scale <= _DIGITS else 0
    for _ in range(scale):  # with the fewest digits behind the point that will do
        if shared % 10:
            break
        shared //= 10
    if scale > _DIGITS or whole >= 2**32 or shared > _MAX_REMAINDERS:
        raise BoundError("multipleOf", "can't be enforced: it, or those that may meet in a number, have many digits")


def _scale(steps: Iterable[Decimal]) -> int:
    """Digits behind the point."""
    return max((-int(step.normalize().as_tuple().exponent) for step in steps), default=0)


class _Bound(NamedTuple):
    keyword: str
    value: Decimal
    strict: bool


def _bound_of(node: dict[str, Any], name: str, strict_name: str) -> _Bound | None:
    """The narrower of two bounds; in draft 4 the second is a boolean that makes the first exclusive."""
    value, strict = _number(node, name), _number(node, strict_name)
    if node.get(strict_name) is True and value is not None:
        return _Bound(name, value, strict=True)
    if strict is None:
        return None if value is None else _Bound(name, value, strict=False)
    sign = 1 if name == "minimum" else -1
    if value is None or sign * strict >= sign * value:
        return _Bound(strict_name, strict, strict=True)
    return _Bound(name, value, strict=False)


def _number(node: dict[str, Any], name: str) -> Decimal | None:
    value = node.get(name)
    return Decimal(repr(value)) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _inwards(least: Decimal, *, whole: bool) -> Decimal:
    """The least number, at most `_DIGITS` long, or whole, that is not below `least`."""
    with localcontext() as context:
        context.prec = 400  # doubles have up to 309 digits before the point
        unit = Decimal(1) if whole else Decimal(10) ** (_digits_before_point(least) - _DIGITS)
        return (least / unit).to_integral_value(ROUND_CEILING) * unit


def _digits_before_point(value: Decimal) -> int:
    return max(value.adjusted() + 1, 0) if value else 0


def _plain(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value(ROUND_FLOOR) else float(value)
