"""How long things are: distributions of token counts and of seconds, as one writes them.

| text | draws |
|---|---|
| `512` | always 512 |
| `100-900`, `uniform:100-900` | uniformly, both ends included |
| `lognormal:median=500,sigma=1,max=8000` | exp of a normal; `p99` may stand for `sigma`, `min` and `max` truncate |
| `exponential:mean=3` | memoryless, as thinking times are |
| `p50=100,p90=400,p99=2000,max=8000` | as measured: log-linear between quantiles, from `min` (1) to `max` |
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import TYPE_CHECKING, Protocol

from penstock.core.errors import InvalidRequestError
from penstock.core.suggest import did_you_mean

if TYPE_CHECKING:
    from random import Random

LARGEST = 1e7  # tokens or seconds; more is a slip
_NORMAL = NormalDist()
_HELP = (
    "Write 512, 100-900, lognormal:median=500,sigma=1,max=8000, exponential:mean=3, or quantiles such as"
    " p50=100,p90=400,p99=2000,max=8000."
)


class Distribution(Protocol):
    """Something to draw from."""

    def draw(self, random: Random) -> float:
        """One value, 0 or more."""

    def __str__(self) -> str:
        """As it may be written."""


def tokens(distribution: Distribution, random: Random) -> int:
    """A token count: a draw, rounded, at least 1."""
    return max(1, round(distribution.draw(random)))


@dataclass(frozen=True, slots=True)
class Fixed:
    """One value."""

    value: float

    def draw(self, random: Random) -> float:  # noqa: ARG002 - the protocol's signature
        return self.value

    def __str__(self) -> str:
        return f"{self.value:g}"


@dataclass(frozen=True, slots=True)
class Uniform:
    """Whole numbers from `low` to `high`, each as likely."""

    low: int
    high: int

    def draw(self, random: Random) -> float:
        return random.randint(self.low, self.high)

    def __str__(self) -> str:
        return f"{self.low}-{self.high}"


@dataclass(frozen=True, slots=True)
class Lognormal:
    """exp(N(ln median, sigma)), given that it lies between `low` and `high`; drawn by the inverse of its CDF, so that
    truncation piles nothing up at the ends."""

    median: float
    sigma: float
    low: float = 0.0
    high: float = LARGEST

    def draw(self, random: Random) -> float:
        if self.sigma == 0:
            return min(max(self.median, self.low), self.high)
        below, upto = self._cdf(self.low), self._cdf(self.high)
        share = below + random.random() * (upto - below)
        share = min(max(share, 1e-12), 1 - 1e-12)
        value = self.median * math.exp(self.sigma * _NORMAL.inv_cdf(share))
        return min(max(value, self.low), self.high)

    def _cdf(self, value: float) -> float:
        return _NORMAL.cdf(math.log(value / self.median) / self.sigma) if value > 0 else 0.0

    def __str__(self) -> str:
        ends = (f",min={self.low:g}" if self.low else "") + (f",max={self.high:g}" if self.high < LARGEST else "")
        return f"lognormal:median={self.median:g},sigma={self.sigma:g}{ends}"


@dataclass(frozen=True, slots=True)
class Exponential:
    """Memoryless, of a mean."""

    mean: float

    def draw(self, random: Random) -> float:
        return random.expovariate(1 / self.mean)

    def __str__(self) -> str:
        return f"exponential:mean={self.mean:g}"


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A distribution known by its quantiles, as measurements are published: straight lines in the logarithm between
    `points`, pairs of a share from 0 to 1 and the value that this share doesn't exceed."""

    points: tuple[tuple[float, float], ...]

    def draw(self, random: Random) -> float:
        share = random.random()
        at = max(1, bisect_left(self.points, (share, 0.0)))
        (before, low), (after, high) = self.points[at - 1], self.points[at]
        return low * math.pow(high / low, (share - before) / (after - before))

    def __str__(self) -> str:
        (_, low), *middle, (_, high) = self.points
        inner = ",".join(f"p{100 * share:g}={value:g}" for share, value in middle)
        return f"{inner},min={low:g},max={high:g}"


def parse_distribution(text: str | float, param: str) -> Distribution:
    """A distribution from its text, or from a number of a TOML file.

    Raises:
        InvalidRequestError: it is none, named by `param`.
    """
    text = f"{text:g}" if isinstance(text, int | float) else text.strip()
    if re.fullmatch(r"[\d.]+", text):
        return Fixed(_number(text, param))
    if found := re.fullmatch(r"(?:uniform:)?(\d+)-(\d+)", text):
        low, high = int(found[1]), int(found[2])
        if not low <= high <= LARGEST:
            raise InvalidRequestError(f"{text!r} goes from its smaller number to its larger one.", param=param)
        return Uniform(low, high)
    name, colon, rest = text.partition(":")
    if not colon and "=" in text:
        return _quantiles(text, param)
    if name == "lognormal":
        return _lognormal(_fields(rest, ("median", "sigma", "p99", "min", "max"), param), text, param)
    if name == "exponential":
        fields = _fields(rest, ("mean",), param)
        if not fields.get("mean"):
            raise InvalidRequestError(f"{text!r} lacks its mean over 0: exponential:mean=3.", param=param)
        return Exponential(fields["mean"])
    hint = did_you_mean(name, ("uniform", "lognormal", "exponential")) if colon else ""
    raise InvalidRequestError(f"{text!r} is no distribution for {param}.{hint} {_HELP}", param=param)


def _lognormal(fields: dict[str, float], text: str, param: str) -> Lognormal:
    median, sigma, p99 = fields.get("median"), fields.get("sigma"), fields.get("p99")
    if not median or (sigma is None) == (p99 is None):
        raise InvalidRequestError(f"{text!r} takes a median over 0, and either sigma or p99.", param=param)
    if sigma is None:
        if p99 is None or p99 < median:
            raise InvalidRequestError(f"The p99 of {text!r} is under its median.", param=param)
        sigma = math.log(p99 / median) / _NORMAL.inv_cdf(0.99)
    low, high = fields.get("min", 0.0), fields.get("max", LARGEST)
    if not (low < high and sigma <= 10):
        raise InvalidRequestError(f"{text!r} needs min under max, and a sigma of 10 at most.", param=param)
    return Lognormal(median, sigma, low, high)


def _quantiles(text: str, param: str) -> Quantiles:
    points: dict[float, float] = {}
    ends = {"min": 1.0, "max": 0.0}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        found = re.fullmatch(r"p(\d{1,2}(?:\.\d+)?)", name)
        if name not in ends and not (found and 0 < float(found[1]) < 100):
            raise InvalidRequestError(f"{name!r} in {text!r} is no quantile. {_HELP}", param=param)
        if found:
            points[float(found[1]) / 100] = _number(value, param)
        else:
            ends[name] = _number(value, param)
    if not points or not ends["max"]:
        raise InvalidRequestError(f"{text!r} needs at least one quantile, and max.", param=param)
    ordered = ((0.0, ends["min"]), *sorted(points.items()), (1.0, ends["max"]))
    if any(low > high or low <= 0 for (_, low), (_, high) in pairwise(ordered)):
        raise InvalidRequestError(f"The quantiles of {text!r} must be over 0 and never fall.", param=param)
    return Quantiles(ordered)


def _fields(text: str, known: tuple[str, ...], param: str) -> dict[str, float]:
    fields = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.strip().partition("=")
        if name not in known:
            raise InvalidRequestError(
                f"{name!r} is no part of such a distribution.{did_you_mean(name, known)} It takes {', '.join(known)}.",
                param=param,
            )
        fields[name] = _number(value, param)
    return fields


def _number(text: str, param: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= LARGEST:
        raise InvalidRequestError(f"{text!r} in {param} is no number from 0 to {LARGEST:g}.", param=param)
    return value
