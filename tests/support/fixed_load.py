"""A workload that always asks the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.lab.bench.planned import Planned

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class FixedLoad:
    """Three words, and so many tokens in answer."""

    tokens: int = 8
    seed: int = 0

    @property
    def name(self) -> str:
        return "fixed"

    def describe(self) -> dict[str, Any]:
        return {"tokens": self.tokens}

    def requests(self) -> Iterator[Planned]:
        while True:
            yield Planned("three words here", self.tokens, prompt_tokens=3)
