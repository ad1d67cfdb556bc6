"""All modes over the same points, in an order that cancels what drifts."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.core.errors import ConfigError
from penstock.lab.bench.compile_study import process
from penstock.lab.bench.compile_study.break_even import break_even
from penstock.lab.bench.compile_study.modes import EAGER, obstacle
from penstock.lab.bench.compile_study.trial import Ask, Point

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.lab.bench.compile_study.break_even import BreakEven
    from penstock.lab.bench.compile_study.modes import Mode
    from penstock.lab.bench.compile_study.process import Ran
    from penstock.lab.bench.compile_study.trial import Answer, PointResult, Shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is studied. `passes`: the first begins with empty caches, the others with those it left."""

    model: str  # as it was named
    model_path: Path
    modes: Sequence[Mode]
    backend: str  # "cpu", "cuda", "rocm", "mps"
    dtype: str
    prefills: tuple[int, ...]  # tokens; rising; the first is a request's prompt
    batches: tuple[int, ...]
    context: int  # tokens before a decode point's first step
    steps: int  # of a decode point
    answer: int  # tokens of a request's answer
    rounds: int
    passes: int
    limit: float  # seconds of a process
    shapes: Shapes = "automatic"
    threads: int | None = None
    block_size: int = 16
    seed: int = 0

    @property
    def points(self) -> tuple[Point, ...]:
        prefills = (Point("prefill", 1, length) for length in self.prefills)
        return (*prefills, *(Point("decode", batch, self.context, self.steps) for batch in self.batches))

    def ask(self, mode: Mode) -> Ask:
        return Ask(
            model_path=str(self.model_path), mode=mode.name, shapes=self.shapes, points=self.points,
            rounds=self.rounds, device="cuda" if self.backend == "rocm" else self.backend, dtype=self.dtype,
            threads=self.threads, block_size=self.block_size, seed=self.seed,
        )  # fmt: skip


@dataclass(slots=True)
class Tried:
    """A mode and its processes, in the order of passes; without any if it isn't possible here or there was no time."""

    mode: Mode
    runs: list[Ran] = field(default_factory=list)
    obstacle: str = ""

    @property
    def answers(self) -> list[Answer]:
        return [run.answer for run in self.runs if run.answer is not None]

    @property
    def cold(self) -> Answer | None:
        """Of the process that found empty caches."""
        return self.runs[0].answer if self.runs else None

    @property
    def warm(self) -> list[Answer]:
        return [run.answer for run in self.runs[1:] if run.answer is not None]

    @property
    def failure(self) -> str:
        """Why nothing was measured; empty if anything was."""
        if self.answers:
            return ""
        return self.obstacle or next((run.failure for run in self.runs if run.failure), "not reached")

    def results(self, point: Point) -> list[PointResult]:
        return [each for answer in self.answers for each in answer.points if each.point == point]

    def samples(self, point: Point) -> list[float]:
        """Seconds of a step, of all rounds of all passes."""
        return [sample for each in self.results(point) for sample in each.samples]


@dataclass(slots=True)
class Study:
    """What came out so far."""

    plan: Plan
    modes: list[Tried]
    cut: bool = False

    @property
    def eager(self) -> Tried:
        return next(each for each in self.modes if each.mode.name == EAGER)

    @property
    def compared(self) -> list[Tried]:
        """What was held against eager."""
        return [each for each in self.modes if each.mode.name != EAGER]

    def request_seconds(self, tried: Tried, batch: int) -> list[float]:
        """What one request costs in each round: its prompt computed alone, and its share of the decode steps."""
        prompt = tried.samples(Point("prefill", 1, self.plan.prefills[0]))
        steps = tried.samples(Point("decode", batch, self.plan.context, self.plan.steps))
        return [one + self.plan.answer * step / batch for one, step in zip(prompt, steps, strict=True)]

    def pays(self, tried: Tried, batch: int, *, warm: bool = False) -> BreakEven | None:
        """When the mode has paid for its compile; None where one of both wasn't measured."""
        held = tried.warm if warm else [tried.cold] if tried.cold is not None else []
        usual = self.eager.warm if warm else [self.eager.cold] if self.eager.cold is not None else []
        before, after = self.request_seconds(self.eager, batch), self.request_seconds(tried, batch)
        if not held or not usual or not before or not after:
            return None
        base = sum(each.overhead for each in usual) / len(usual)
        return break_even([each.overhead - base for each in held], before, after)

    def agreement(self, tried: Tried) -> float | None:
        """The share of tokens, over all points, that come out as eager chose them; None if one wasn't measured."""
        if not tried.answers or not self.eager.answers:
            return None
        pairs = [
            pair
            for one, other in zip(self.eager.answers[0].points, tried.answers[0].points, strict=True)
            for pair in zip(one.tokens, other.tokens, strict=True)
        ]
        return sum(a == b for a, b in pairs) / len(pairs)


def study(plan: Plan, doing: Callable[[str, str], None], *, run: Callable[..., Ran] = process.run) -> Study:
    """Run it. `doing` is told the mode, and what it does. Ctrl-C ends it with what was measured until then.

    Passes alternate in direction (eager ... max-autotune, max-autotune ... eager), so that a machine that slowly
    changes its speed does so for all modes alike. Raises ConfigError if no mode but eager is possible.
    """
    found = Study(plan, [Tried(mode, obstacle=obstacle(mode, plan.backend)) for mode in plan.modes])
    possible = [tried for tried in found.modes if not tried.obstacle]
    if all(tried.mode.name == EAGER for tried in possible):
        why = "; ".join(f"{tried.mode.name} {tried.obstacle}" for tried in found.compared if tried.obstacle)
        raise ConfigError(f"There is nothing to study beside eager: {why or 'no other mode was named'}.", param="modes")
    with tempfile.TemporaryDirectory(prefix="penstock-compile-") as folder:
        try:
            for number in range(plan.passes):
                for tried in possible if number % 2 == 0 else reversed(possible):
                    if number and not tried.answers:
                        continue  # it would fail again
                    name = tried.mode.name

                    def tell(what: str, name: str = name, number: int = number) -> None:
                        doing(name, f"pass {number + 1} of {plan.passes}, {what}")

                    tried.runs.append(run(plan.ask(tried.mode), Path(folder) / name, plan.limit, tell))
        except KeyboardInterrupt:
            found.cut = True
    return found
