"""What a comparison tells CI: pass, fail, inconclusive or invalid."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError
from penstock.core.suggest import did_you_mean
from penstock.lab import exits
from penstock.lab.bench.compare.judging import FIGURES
from penstock.lab.statistics import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.lab.bench.compare.comparison import Comparison


class Outcome(StrEnum):
    """Of a comparison, for CI."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"

    @property
    def exit_code(self) -> int:
        return {"pass": 0, "fail": exits.FAILED, "inconclusive": exits.INCONCLUSIVE, "invalid": exits.INVALID}[self]


@dataclass(frozen=True, slots=True)
class Gate:
    """Fails a comparison in which any contender's figure is `word`, beside the baseline."""

    figure: str
    word: Verdict

    @classmethod
    def parse(cls, text: str) -> Gate:
        """ "ttft p95 slower". Raises InvalidRequestError."""
        figure, _, word = " ".join(text.split()).rpartition(" ")
        if word not in list(Verdict):
            raise InvalidRequestError(
                f"{text!r} is no gate: write a figure and faster, slower, equivalent or inconclusive, as in"
                ' "ttft p95 slower".',
                param="fail_if",
            )
        if figure not in FIGURES:
            raise InvalidRequestError(
                f"There is no figure {figure!r}.{did_you_mean(figure, list(FIGURES))} There are {', '.join(FIGURES)}.",
                param="fail_if",
            )
        return cls(figure, Verdict(word))

    def __str__(self) -> str:
        return f"{self.figure} {self.word}"


def outcome(comparison: Comparison, gates: Sequence[Gate]) -> tuple[Outcome, tuple[str, ...]]:
    """What CI is told, and why: invalid before fail before inconclusive before pass."""
    if against := comparison.invalid:
        return Outcome.INVALID, against
    failed, unsure = [], []
    for gate in gates:
        for each in comparison.compared:
            if each.figure != gate.figure:
                continue
            sentence = f"{each.name} is {each.verdict} in {each.figure} beside {each.baseline}"
            if each.verdict is gate.word:
                failed.append(f"{sentence}, which --fail-if forbids.")
            elif each.verdict is Verdict.INCONCLUSIVE:
                unsure.append(f"{sentence}: more --rounds may tell.")
        if not any(each.figure == gate.figure for each in comparison.compared):
            unsure.append(f"There is no {gate.figure} to judge by.")
    if failed:
        return Outcome.FAIL, tuple(failed)
    return (Outcome.INCONCLUSIVE, tuple(unsure)) if unsure else (Outcome.PASS, ())
