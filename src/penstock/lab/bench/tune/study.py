"""A study from its first run to its verdict, with a journal from which it can go on."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Literal, Protocol

from penstock.lab.bench.compare.judging import Slot, compared
from penstock.lab.bench.compare.order import order_of
from penstock.lab.bench.tune.search import Search, Trial, chosen
from penstock.lab.bench.tune.space import changes
from penstock.lab.statistics import Verdict, paired_ratio, verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.lab.bench.compare.judging import Compared
    from penstock.lab.bench.run import Measured
    from penstock.lab.bench.tune.journal import Journal
    from penstock.lab.bench.tune.objective import Objective
    from penstock.lab.bench.tune.space import Settings, Space
    from penstock.lab.bench.tune.trying import Run
    from penstock.lab.statistics import Ratio

Stage = Literal["search", "shortlist", "verdict"]

DEFAULTS, WINNER = "defaults", "winner"
_BETWEEN = 6  # runs from one of the defaults to the next
_FIRST = 2  # runs of the defaults before anything else; as many may be wasted
_SHORTLIST_ROUNDS = 2
_LONGEST_SHARE = 0.6  # of the budget that shortlist and verdict may be given
_SEEDS = {"shortlist": 1000, "verdict": 2000}  # requests that no run before had


class Try(Protocol):
    """`Trier.run`, or what stands for it."""

    def __call__(self, settings: Settings, repeat: int, name: str) -> Run: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long a study takes, and what it ends with."""

    budget: float  # s, of all stages
    trials: int  # at most
    rounds: int  # of the verdict
    margin: float  # of equivalence


@dataclass(slots=True, eq=False, kw_only=True)
class Found:
    """What came of a study. Without a ratio there is no verdict: nothing but the defaults could be run, or it was cut.

    `runs` are those of the verdict, by side.
    """

    search: Search
    objective: Objective
    plan: Plan
    winner: Trial | None = None
    ratio: Ratio | None = None  # winner over defaults
    pairs: tuple[float, ...] = ()
    runs: dict[str, list[Measured]] = field(default_factory=dict)
    figures: dict[str, list[float]] = field(default_factory=dict)  # by side, a value a run
    slots: list[Slot] = field(default_factory=list)  # the verdict's runs, with all their figures
    invalid: tuple[str, ...] = ()
    cut: bool = False
    ended: str = ""  # why the search ended
    seconds: float = 0.0

    @property
    def verdict(self) -> Verdict | None:
        """Of the winner beside the defaults: faster, or the defaults are as good (equivalent), or inconclusive.

        "As good" is a one-sided question: it doesn't matter how much worse the winner is. A winner that failed a
        round is never better: the rounds that are left are those it could be served in.
        """
        if self.ratio is None:
            return None
        said = verdict(self.ratio, higher_is_better=self.objective.higher, margin=self.plan.margin)
        if said is Verdict.SLOWER:
            return Verdict.EQUIVALENT
        limit = self.most
        if said is Verdict.INCONCLUSIVE and limit is not None and limit <= self.plan.margin:
            return Verdict.EQUIVALENT
        return Verdict.INCONCLUSIVE if said is Verdict.FASTER and self.winner and self.winner.failed else said

    @property
    def gain(self) -> tuple[float, float | None, float | None] | None:
        """How much better the winner is, as a share of the defaults' figure, and its 95 % interval.

        0.2 is 20 % more of what more is better of, or 20 % less of the rest.
        """
        if self.ratio is None:
            return None
        sign = 1 if self.objective.higher else -1
        value = sign * (self.ratio.estimate - 1)
        interval = self.ratio.interval
        if interval is None:
            return value, None, None
        low, high = sorted((sign * (interval.low - 1), sign * (interval.high - 1)))
        return value, low, high

    @property
    def beside(self) -> list[Compared]:
        """The winner beside the defaults in every figure: what a gain in one is paid for with in others."""
        return compared(self.slots, [DEFAULTS, WINNER], DEFAULTS, self.plan.margin)

    @property
    def most(self) -> float | None:
        """By how much, at most, the winner beats the defaults: the upper end of a one-sided 95 % interval."""
        interval = None if self.ratio is None else self.ratio.interval_at(0.9)
        if interval is None:
            return None
        return interval.high - 1 if self.objective.higher else 1 / interval.low - 1


class Study:
    """Search, shortlist, verdict.

    Args:
        journal: of runs; those of the search that it holds are taken as made.
        say: told each trial, a line.
        now: seconds; the clock that the budget is of.
    """

    def __init__(
        self,
        space: Space,
        objective: Objective,
        plan: Plan,
        try_: Try,
        journal: Journal,
        *,
        seed: int = 0,
        patience: int = 12,
        say: Callable[[str], None] = lambda _line: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._search = Search(space, higher=objective.higher, seed=seed, patience=patience)
        self._plan = plan
        self._try = try_
        self._journal = journal
        self._say = say
        self._now = now
        self._began = now()
        self._seconds: list[float] = []  # of each run
        self._found = Found(search=self._search, objective=objective, plan=plan)

    def run(self) -> Found:
        """Ctrl-C ends it: the journal has all runs until then, and what is found has no verdict."""
        found = self._found
        for entry in self._journal.runs:
            trial = self._search.trial(entry.settings)
            self._search.add(trial, entry.figure, wasted=entry.wasted, failed=entry.failed)
            self._seconds.append(entry.seconds)
        spent = sum(self._seconds)
        self._began -= spent
        try:
            self._searching()
            if not found.invalid and (winner := self._shortlist()) is not None:
                self._judge(winner)
        except KeyboardInterrupt:
            found.cut = True
        found.seconds = self._now() - self._began
        return found

    # Search

    def _searching(self) -> None:
        search, found = self._search, self._found
        while len(search.defaults.runs) < _FIRST:
            run = self._once(search.defaults)
            if not search.defaults.runs and (run.failed or search.defaults.tries >= 2 * _FIRST):
                why = run.failed or search.defaults.wasted[-1]
                found.invalid = (f"The defaults can't be measured: {why}",)
                return
            if search.defaults.tries >= 2 * _FIRST:
                break
        if self._journal.runs:  # the trial that was under way
            self._finish(search.trial(self._journal.runs[-1].settings))
        while not (why := self._over()):
            since = search.place - max((place for place, _ in search.defaults.runs), default=0)
            if since >= _BETWEEN:
                self._once(search.defaults)
            trial = search.next()
            if trial is None:
                why = "there is nothing else to try"
                break
            self._once(trial)
            self._finish(trial)
            self._tell(trial)
        found.ended = why
        if search.place - max((place for place, _ in search.defaults.runs), default=0) > _BETWEEN / 2:
            self._once(search.defaults)  # so that the last trials have runs of the defaults on both sides

    def _finish(self, trial: Trial) -> None:
        while self._search.wants(trial):
            self._once(trial)

    def _over(self) -> str:
        search = self._search
        tried = len(search.trials) - 1
        if tried >= self._plan.trials:
            return f"{tried} trials were made"
        if self._now() - self._began >= self._plan.budget - self._reserve() and tried:
            return "its share of the budget was used up"
        if search.exhausted:
            untried = search.space.size - len(search.trials)
            return f"{search.stale()} trials brought nothing more" if untried else "there is nothing else to try"
        return ""

    def _reserve(self) -> float:
        """Seconds that shortlist and verdict take."""
        runs = 3 * _SHORTLIST_ROUNDS + 2 * self._plan.rounds
        return min(runs * median(self._seconds or [0.0]), _LONGEST_SHARE * self._plan.budget)

    def _once(self, trial: Trial) -> Run:
        repeat = trial.tries % 2  # the same requests for every trial, those of the defaults included
        run = self._taken(trial.settings, repeat, "search")
        self._search.add(trial, run.figure, wasted=" ".join(run.against), failed=run.failed)
        return run

    def _taken(self, settings: Settings, repeat: int, stage: Stage) -> Run:
        run = self._try(settings, repeat, f"tune-{stage}")
        self._seconds.append(run.seconds)
        self._journal.add(stage, settings, repeat, run)
        return run

    def _tell(self, trial: Trial) -> None:
        search, words = self._search, changes(trial.settings)
        score = search.score(trial)
        if trial.failed or score is None:
            said = trial.failed or (trial.wasted[-1] if trial.wasted else "no figure")
            self._say(f"trial {trial.number}: {words}: invalid: {' '.join(said.split())[:200]}")
            return
        figure = median(value for _, value in trial.runs)
        dropped = ", dropped after one run" if search.dropped(trial) else ""
        best = search.score(search.best()) or 0.0
        self._say(
            f"trial {trial.number}: {words}: {figure:.4g} {self._found.objective.unit}, {percent(score)}{dropped}"
            f" (best {percent(best)})"
        )

    # The end

    def _shortlist(self) -> Trial | None:
        candidates = self._search.candidates()
        if len(candidates) < 2:
            return candidates[0] if candidates else None
        names = [str(trial.number) for trial in candidates]
        self._say(f"shortlist: trials {', '.join(names)}, {_SHORTLIST_ROUNDS} rounds")
        by_name = dict(zip(names, candidates, strict=True))
        figures = self._rounds(by_name, _SHORTLIST_ROUNDS, "shortlist")
        sign = 1 if self._found.objective.higher else -1
        whole = [name for name in names if figures[name] and not by_name[name].failed]
        if not whole:
            if served := [trial for trial in candidates if not trial.failed]:  # it was the client
                return served[0]
            self._found.invalid = tuple(f"Trial {trial.number}: {trial.failed}" for trial in candidates)
            return None
        scores = [sign * _mean_log([value for _, _, value in figures[name]]) for name in whole]
        noise, _ = self._search.noise()
        return chosen([by_name[name] for name in whole], scores, noise)

    def _judge(self, winner: Trial) -> None:
        found = self._found
        found.winner = winner
        self._say(f"verdict: {changes(winner.settings)} beside the defaults, {self._plan.rounds} rounds")
        sides = {DEFAULTS: self._search.defaults, WINNER: winner}
        figures = self._rounds(sides, self._plan.rounds, "verdict", keep=True)
        mine = {number: (place, value) for number, place, value in figures[WINNER]}
        theirs = {number: (place, value) for number, place, value in figures[DEFAULTS]}
        rounds = sorted(mine.keys() & theirs.keys())
        found.figures = {name: [value for _, _, value in figures[name]] for name in sides}
        if not rounds:
            found.invalid = ("No round of the verdict has both sides.", *found.invalid)
            return
        a, b = [mine[number] for number in rounds], [theirs[number] for number in rounds]
        found.pairs = tuple(x / y for (_, x), (_, y) in zip(a, b, strict=True))
        found.ratio = paired_ratio(
            [value for _, value in a],
            [value for _, value in b],
            lag=[x - y for (x, _), (y, _) in zip(a, b, strict=True)],
        )

    def _rounds(
        self, sides: dict[str, Trial], rounds: int, stage: Literal["shortlist", "verdict"], *, keep: bool = False
    ) -> dict[str, list[tuple[int, int, float]]]:
        """Round, place and figure of each side, in balanced order, of requests that no run before had.

        A trial that fails one has failed, as in the search.
        """
        figures: dict[str, list[tuple[int, int, float]]] = {name: [] for name in sides}
        place, problems = 0, []
        for number, names in enumerate(order_of(list(sides), rounds)):
            for name in names:
                run = self._taken(sides[name].settings, _SEEDS[stage] + number, stage)
                why = run.failed or " ".join(run.against)
                if run.figure is not None:
                    figures[name].append((number, place, run.figure))
                    if keep and run.measured is not None:
                        self._found.runs.setdefault(name, []).append(run.measured)
                        seen = run.measured.runs[0]
                        self._found.slots.append(Slot(number, place, name, seen, dict(run.figures), ()))
                else:
                    why = " ".join(why.split())[:300] or "no figure"
                    problems.append(f"{name}, round {number + 1}: {why}")
                    if not run.against and sides[name] is not self._search.defaults:
                        sides[name].failed = why
                place += 1
            self._say(f"{stage}: round {number + 1} of {rounds}" + "".join(_last(name, figures) for name in sides))
        if keep:
            self._found.invalid = tuple(problems)
        return figures


def percent(score: float) -> str:
    """A score as people read it: +12.3 %."""
    return f"{100 * math.expm1(score):+.1f} %"


def _last(name: str, figures: dict[str, list[tuple[int, int, float]]]) -> str:
    return f", {name} {figures[name][-1][2]:.4g}" if figures[name] else f", {name} –"


def _mean_log(values: Sequence[float]) -> float:
    return sum(math.log(value) for value in values) / len(values)
