"""Service level objectives: "ttft:500ms,tpot:50ms"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from penstock.core.errors import InvalidRequestError

if TYPE_CHECKING:
    from typing import Self

Name = Literal["ttft", "tpot", "e2e", "itl"]
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "": 1.0}
_EXAMPLE = "ttft:500ms,tpot:50ms"


@dataclass(frozen=True, slots=True)
class Slo:
    """Bounds in seconds, by name. A request meets it if it is whole and within each.

    `itl` is held against a request's largest gap between pieces of text.
    """

    bounds: tuple[tuple[Name, float], ...]
    share: float = 0.99  # of requests that must meet it for a load to count as met

    @classmethod
    def parse(cls, text: str, share: float = 0.99) -> Self:
        """Raises InvalidRequestError, with the part at fault, if it can't be read."""
        bounds: dict[Name, float] = {}
        for part in text.split(","):
            match = re.fullmatch(r"\s*(ttft|tpot|e2e|itl)\s*[:=<]\s*(\d+(?:\.\d+)?)\s*(us|ms|s|m|)\s*", part)
            if match is None:
                raise InvalidRequestError(
                    f"{part.strip()!r} is no bound: write a name (ttft, tpot, itl, e2e), a colon and a time, as in"
                    f" {_EXAMPLE}.",
                    param="slo",
                )
            name: Name = match[1]  # type: ignore[assignment]
            if name in bounds:
                raise InvalidRequestError(f"{name} is bounded twice in {text!r}.", param="slo")
            bounds[name] = float(match[2]) * _UNITS[match[3]]
            if bounds[name] <= 0:
                raise InvalidRequestError(f"The bound of {name} must be over zero.", param="slo")
        return cls(tuple(bounds.items()), share)

    def __str__(self) -> str:
        return ",".join(f"{name}:{bound * 1000:g}ms" for name, bound in self.bounds)
