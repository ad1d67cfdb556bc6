"""What a stub server is told to do, as people write it: "lognormal:50ms,0.5", "0.01:status=503", "10s:2s"."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from penstock.core.errors import InvalidRequestError
from penstock.core.suggest import did_you_mean

if TYPE_CHECKING:
    from typing import Self

Unit = Literal["time", "count"]

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "": 1.0}
_FORMS = {
    "constant": ("VALUE",),
    "uniform": ("LOW", "HIGH"),
    "exponential": ("MEAN",),
    "lognormal": ("MEDIAN", "SIGMA"),
    "pareto": ("SMALLEST", "ALPHA"),
}
_PLAIN = {("lognormal", 1), ("pareto", 1)}  # parameters that have no unit
_FAULTS = ("status", "cut", "malformed", "in_stream", "hang")


@dataclass(frozen=True, slots=True)
class Distribution:
    """Of seconds or of counts; `name` is one of constant, uniform, exponential, lognormal, pareto."""

    name: str
    a: float
    b: float = 0.0

    @classmethod
    def parse(cls, text: str | float, param: str, unit: Unit = "time") -> Self:
        """ "50ms" or "lognormal:50ms,0.5". Times without a unit are seconds.

        Raises InvalidRequestError, with the form to write.
        """
        if isinstance(text, (int, float)):
            return cls("constant", _positive(float(text), text, param))
        name, colon, rest = text.strip().partition(":")
        if not colon:
            name, rest = "constant", name
        if name not in _FORMS:
            raise InvalidRequestError(
                f"There is no distribution {name!r}{did_you_mean(name, _FORMS)}; write one of {_forms()}.", param=param
            )
        parts = rest.split(",")
        if len(parts) != len(_FORMS[name]):
            raise InvalidRequestError(f"{text!r} is no {_form(name)}.", param=param)
        values = [
            _number(part, param) if unit == "count" or (name, i) in _PLAIN else time_of(part, param)
            for i, part in enumerate(parts)
        ]
        for value in values:
            _positive(value, text, param)
        if name == "uniform" and values[0] > values[1]:
            raise InvalidRequestError(f"{text!r} begins above its end.", param=param)
        if name == "pareto" and values[1] == 0:
            raise InvalidRequestError(f"The exponent of {text!r} must be over 0.", param=param)
        return cls(name, *values)

    @property
    def mean(self) -> float:
        """Infinite for a pareto distribution with an exponent of 1 or less."""
        a, b = self.a, self.b
        match self.name:
            case "uniform":
                return (a + b) / 2
            case "lognormal":
                return a * math.exp(b * b / 2)
            case "pareto":
                return a * b / (b - 1) if b > 1 else math.inf
        return a

    def native(self) -> tuple[str, float, float]:
        """As `StubServer` takes it."""
        return self.name, self.a, self.b


def time_of(text: str, param: str) -> float:
    """Seconds of "50ms", "1.5s", "2m" or "0.05". Raises InvalidRequestError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(us|ms|s|m|)\s*", text)
    if match is None:
        raise InvalidRequestError(f"{text.strip()!r} is no time; write it as in 50ms, 1.5s or 2m.", param=param)
    return float(match[1]) * _SECONDS[match[2]]


def stall(text: str) -> tuple[float, float]:
    """When and how long, of "10s:2s". Raises InvalidRequestError."""
    at, colon, length = text.partition(":")
    if not colon:
        raise InvalidRequestError(
            f"{text!r} is no stall; write when and how long, as in 10s:2s (from the first request on).", param="stall"
        )
    return time_of(at, "stall"), time_of(length, "stall")


def fault(text: str) -> tuple[float, str, int]:
    """Share, name and HTTP status (0 but for "status") of "0.01:status=503". Raises InvalidRequestError."""
    share_text, _, rest = text.partition(":")
    name, _, status_text = rest.partition("=")
    share = _number(share_text, "fault")
    if not 0 < share <= 1:
        raise InvalidRequestError(f"The share of {text!r} must be over 0 and up to 1.", param="fault")
    name = name.strip().replace("-", "_")
    if name not in _FAULTS:
        raise InvalidRequestError(
            f"There is no fault {name!r}{did_you_mean(name, _FAULTS)}; write a share and one of status=503, cut,"
            " malformed, in_stream, hang, as in 0.01:cut.",
            param="fault",
        )
    if name != "status":
        if status_text:
            raise InvalidRequestError(f"Only the fault 'status' takes a number; got {text!r}.", param="fault")
        return share, name, 0
    status = int(status_text) if status_text.strip().isdecimal() else 0
    if not 400 <= status <= 599:
        raise InvalidRequestError(f"{text!r} needs a status from 400 to 599, as in 0.01:status=503.", param="fault")
    return share, name, status


def _number(text: str, param: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidRequestError(f"{text.strip()!r} is no number.", param=param)
    return value


def _positive(value: float, text: str | float, param: str) -> float:
    if not 0 <= value < math.inf:
        raise InvalidRequestError(f"{text!r} holds a value that is not 0 or above.", param=param)
    return value


def _form(name: str) -> str:
    return f"{name}:{','.join(_FORMS[name])}"


def _forms() -> str:
    return ", ".join(_form(name) for name in _FORMS)
