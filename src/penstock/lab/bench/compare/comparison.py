"""What is known of the contenders of a comparison while it runs, and when it has ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from penstock.lab.bench.compare.judging import compared

if TYPE_CHECKING:
    from penstock.lab.bench.compare.contenders import Contender
    from penstock.lab.bench.compare.judging import Compared, Slot
    from penstock.lab.bench.engines.running import Up
    from penstock.lab.bench.run import Measured
    from penstock.lab.bench.setup import Load
    from penstock.lab.statistics import Verdict


@dataclass(slots=True, eq=False)
class Side:
    """All that is known of one contender."""

    contender: Contender
    up: Up | None = None  # as it was last
    ready_s: list[float] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    failed: str = ""  # why it didn't come up, or ended


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Comparison:
    """What came of it."""

    sides: dict[str, Side]  # by name, in the order given; the first is the baseline
    load: Load
    margin: float
    slots: list[Slot]
    cut: bool

    @property
    def baseline(self) -> str:
        return next(iter(self.sides))

    @property
    def compared(self) -> list[Compared]:
        return compared(self.slots, list(self.sides), self.baseline, self.margin)

    def verdict(self, name: str, figure: str) -> Verdict | None:
        """Of one contender beside the baseline; None if that wasn't measured."""
        return next((each.verdict for each in self.compared if (each.name, each.figure) == (name, figure)), None)

    @property
    def invalid(self) -> tuple[str, ...]:
        """Why it can't be believed; empty if it can."""
        said = [f"{name}: {side.failed}" for name, side in self.sides.items() if side.failed]
        said += [f"{slot.name}, round {slot.round + 1}: {reason}" for slot in self.slots for reason in slot.reasons]
        if self.cut:
            said.append("It was ended by Ctrl-C, before its time.")
        return tuple(said)
