"""What to try next, what to drop and when to end; of all runs so far, and without a server.

Every figure is kept as a *score*: how much better than the engine's defaults, as a natural logarithm, so that 0.1 is
some 10 %. The defaults are measured in between again and again; a score is against those of their runs that lie nearest
in time, so that a machine that slows down isn't blamed on what was tried last.

The order: each setting by itself (singles), then all that helped by themselves together, then what a tree-structured
Parzen estimator proposes (TPE; Bergstra et al., Algorithms for Hyper-Parameter Optimization, 2011; Optuna's). The
sampler is made anew of all scores for each proposal: a study that was cut goes on as if it hadn't been.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from itertools import pairwise, product
from random import Random
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from penstock.lab.statistics import t_quantile

if TYPE_CHECKING:
    from collections.abc import Sequence

    import optuna

    from penstock.lab.bench.tune.space import Settings, Space

REPEATS = 2  # of a trial that isn't dropped
_MOST_REPEATS = 4  # of one that is proposed again
_NEAREST = 3  # runs of the defaults that a score is against
_PRIOR_NOISE, _PRIOR_RUNS = 0.03, 4  # what is believed of the spread before there are runs to tell it
_SURE = 0.995  # that a trial which is dropped is worse
_PENALTY = 1.0  # below the worst score, for what can't be served
_PROPOSALS = 8  # of the sampler, in search of one that tells anything new
_LISTED, _DRAWN = 4096, 64  # combinations of a space that can all be looked at; else so many by chance


@dataclass(slots=True, eq=False)
class Trial:
    """Settings, and what came of each of their runs."""

    number: int  # from 0; the defaults are 0
    settings: Settings
    runs: list[tuple[int, float]] = field(default_factory=list)  # place in the study, figure; those to be believed
    wasted: list[str] = field(default_factory=list)  # runs that aren't, and why
    failed: str = ""  # why it can't be served

    @property
    def tries(self) -> int:
        return len(self.runs) + len(self.wasted)


class Search:
    """All trials of one study.

    Args:
        higher: more of the figure is better.
        seed: of the sampler.
        patience: trials without a gain beyond noise after which to end, once the singles are done.
    """

    def __init__(self, space: Space, *, higher: bool, seed: int = 0, patience: int = 12) -> None:
        self.space = space
        self._sign = 1.0 if higher else -1.0
        self._seed = seed
        self._patience = patience
        self.trials: list[Trial] = [Trial(0, {})]
        self._place = 0

    @property
    def defaults(self) -> Trial:
        return self.trials[0]

    @property
    def place(self) -> int:
        """Runs so far, of all trials."""
        return self._place

    def trial(self, settings: Settings) -> Trial:
        """The one with these settings, which may be new."""
        for trial in self.trials:
            if trial.settings == settings:
                return trial
        self.trials.append(Trial(len(self.trials), settings))
        return self.trials[-1]

    def add(self, trial: Trial, figure: float | None, *, wasted: str = "", failed: str = "") -> None:
        """What came of a run: a figure over zero, or why there is none."""
        if failed and trial is not self.defaults:  # they have been served, or there is no study
            trial.failed = failed
        elif figure is None or wasted or failed:
            trial.wasted.append(wasted or failed or "It has no such figure.")
        else:
            trial.runs.append((self._place, figure))
        self._place += 1

    def level(self, place: int) -> float:
        """The logarithm of what the defaults reach at that place in the study."""
        nearest = sorted(self.defaults.runs, key=lambda run: (abs(run[0] - place), run[0]))[:_NEAREST]
        return fmean(math.log(figure) for _, figure in nearest)

    def scores(self, trial: Trial) -> list[float]:
        """Of each run; of the defaults 0 on average."""
        return [self._sign * (math.log(figure) - self.level(place)) for place, figure in trial.runs]

    def score(self, trial: Trial) -> float | None:
        """None if nothing is known of it."""
        if trial is self.defaults:
            return 0.0 if trial.runs else None
        return fmean(self.scores(trial)) if trial.runs else None

    def noise(self) -> tuple[float, float]:
        """The standard deviation of a single run's score, and the degrees of freedom it is known with.

        Of runs of the same settings: the defaults' by successive differences, which a drift leaves alone (von Neumann
        et al., The Mean Square Successive Difference, 1941), the others' around their means.
        """
        squares, degrees = _PRIOR_RUNS * _PRIOR_NOISE**2, float(_PRIOR_RUNS)
        own = [math.log(figure) for _, figure in self.defaults.runs]
        squares += sum((b - a) ** 2 / 2 for a, b in pairwise(own))
        degrees += max(0, len(own) - 1)
        for trial in self.trials[1:]:
            scores = self.scores(trial)
            if len(scores) > 1:
                middle = fmean(scores)
                squares += sum((score - middle) ** 2 for score in scores)
                degrees += len(scores) - 1
        return math.sqrt(squares / degrees), degrees

    def best(self) -> Trial:
        """The one with the highest score of those with all repeats, the defaults among them."""
        return max(self._whole(), key=lambda trial: self.score(trial) or 0.0, default=self.defaults)

    def ranked(self) -> list[Trial]:
        """All but the defaults, the best first; those that were dropped after the others."""
        known = [trial for trial in self.trials[1:] if trial.runs and not trial.failed]
        return sorted(known, key=lambda trial: (len(trial.runs) >= REPEATS, self.score(trial)), reverse=True)

    def dropped(self, trial: Trial) -> bool:
        """Whether one run of it was enough."""
        return bool(trial.runs) and not trial.failed and len(trial.runs) < REPEATS and self._clearly_worse(trial)

    def wants(self, trial: Trial) -> bool:
        """Whether it should be run once more before anything else is tried."""
        if trial.failed or trial.tries >= _MOST_REPEATS or len(trial.runs) >= REPEATS:
            return False
        return not trial.runs or not self._clearly_worse(trial)

    def _whole(self) -> list[Trial]:
        return [t for t in self.trials if not t.failed and (t is self.defaults or len(t.runs) >= REPEATS)]

    def _clearly_worse(self, trial: Trial) -> bool:
        best, score = self.best(), self.score(trial)
        noise, degrees = self.noise()
        if score is None:
            return False
        spread = noise * math.sqrt(1 / len(trial.runs) + 1 / max(1, len(best.runs)))
        return score + t_quantile(_SURE, degrees) * spread < (self.score(best) or 0.0)

    # What next

    def next(self) -> Trial | None:
        """A trial to run, new or not; None if there is no other."""
        for settings in self.space.singles():
            trial = self.trial(settings)
            if not trial.tries and not trial.failed:
                return trial
        together = self._together()
        if together and not any(trial.settings == together for trial in self.trials):
            return self.trial(together)
        return self._proposed()

    def stale(self) -> int:
        """Trials since the last one that was better than all before by more than noise."""
        noise, _ = self.noise()
        best, since = 0.0, 0
        singles = self.space.singles()
        for trial in self.trials[1:]:
            score = self.score(trial)
            if score is not None and score > best + noise and len(trial.runs) >= REPEATS:
                best, since = score, 0
            elif trial.settings not in singles:
                since += 1
        return since

    @property
    def exhausted(self) -> bool:
        """Whether patience is at its end, or there is no other combination."""
        return self.stale() >= self._patience or len(self.trials) >= self.space.size

    def _together(self) -> Settings:
        """Every setting at the value that was best by itself, if it was better than the default."""
        found: dict[str, tuple[float, Any]] = {}
        for trial in self.trials[1:]:
            score = self.score(trial)
            if len(trial.settings) == 1 and score is not None and not trial.failed:
                ((name, value),) = trial.settings.items()
                if score > found.get(name, (0.0, None))[0]:
                    found[name] = score, value
        return {each.name: found[each.name][1] for each in self.space.searched if each.name in found}

    def _proposed(self) -> Trial | None:
        for attempt in range(_PROPOSALS):
            study = self.study(self._seed * 1_000_003 + self._place * _PROPOSALS + attempt)
            places = study.ask(_distributions(self.space)).params
            settings = self.space.settings(places)
            known = next((trial for trial in self.trials if trial.settings == settings), None)
            if known is None or self._near_the_best(known):
                return known or self.trial(settings)
        return self._untried()

    def _near_the_best(self, trial: Trial) -> bool:
        """Whether another run of it may decide something."""
        score, best = self.score(trial), self.score(self.best()) or 0.0
        if trial is self.defaults or trial.failed or trial.tries >= _MOST_REPEATS:
            return False
        return score is None or score > best - self.noise()[0]

    def _untried(self) -> Trial | None:
        """A combination that is in no trial, by chance; None if there is none, or hardly any among very many."""
        random = Random(self._seed * 1_000_003 + self._place)
        known = {tuple(self.space.places(trial.settings).values()) for trial in self.trials}
        if self.space.size <= _LISTED:
            ranges = [range(len(each.values)) for each in self.space.searched]
            others = [places for places in product(*ranges) if places not in known]
        else:
            drawn = [tuple(random.randrange(len(each.values)) for each in self.space.searched) for _ in range(_DRAWN)]
            others = [places for places in drawn if places not in known]
        if not others:
            return None
        places = random.choice(others)
        return self.trial(
            self.space.settings({each.name: at for each, at in zip(self.space.searched, places, strict=True)})
        )

    def study(self, seed: int = 0) -> optuna.Study:
        """All trials as Optuna has them; a parameter is a setting's place among its values.

        What can't be served stands far below all others, so that its like isn't proposed.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `multivariate`, since 2020
            sampler = optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=1, multivariate=True)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        scores = {trial.number: self.score(trial) for trial in self.trials}
        worst = min((score for score in scores.values() if score is not None), default=0.0) - _PENALTY
        for trial in self.trials:
            value = worst if trial.failed else scores[trial.number]
            if value is not None:
                study.add_trial(
                    optuna.trial.create_trial(
                        params=self.space.places(trial.settings), distributions=_distributions(self.space), value=value
                    )
                )
        return study

    # What it came to

    def importance(self) -> dict[str, float]:
        """Each setting's share in the scores' variance, taken by itself, the largest first.

        Epsilon squared of a one-way analysis of variance (Kelley, An Unbiased Correlation Ratio Measure, 1935), which
        doesn't grow with the number of values. Settings that were tried together share what they did: a hint, no proof.
        Empty where trials are few.
        """
        known = [(trial, score) for trial in self.trials
                 if not trial.failed and (score := self.score(trial)) is not None]  # fmt: skip
        middle = fmean(score for _, score in known) if known else 0.0
        total = sum((score - middle) ** 2 for _, score in known)
        shares: dict[str, float] = {}
        if len(known) < 2 * len(self.space.searched):
            return shares
        for each in self.space.searched:
            groups: dict[int, list[float]] = {}
            for trial, score in known:
                groups.setdefault(self.space.places(trial.settings)[each.name], []).append(score)
            degrees = len(known) - len(groups)
            if degrees > 0 and total > 0 and len(groups) > 1:
                between = sum(len(scores) * (fmean(scores) - middle) ** 2 for scores in groups.values())
                within = (total - between) / degrees
                shares[each.name] = max(0.0, (between - (len(groups) - 1) * within) / total)
        return dict(sorted(shares.items(), key=lambda pair: -pair[1]))

    def candidates(self, most: int = 3) -> list[Trial]:
        """Whom to look at again: the best, the best without what it doesn't owe its place to, and those next to it."""
        ranked = self.ranked()
        if not ranked:
            return []
        pared = {name: value for name, value in ranked[0].settings.items() if self._matters(name, value)}
        found = [ranked[0]]
        if pared and pared != ranked[0].settings:
            found.append(self.trial(pared))
        for trial in ranked[1:]:
            if len(found) < most and trial not in found and len(trial.runs) >= REPEATS:
                found.append(trial)
        return found

    def _matters(self, name: str, value: Any) -> bool:
        """Whether trials with this value are better than those with the default, by more than half a run's noise."""
        known = [(trial, score) for trial in self.trials
                 if not trial.failed and (score := self.score(trial)) is not None]  # fmt: skip
        away = [score for trial, score in known if trial.settings.get(name) == value and name in trial.settings]
        at = [score for trial, score in known if name not in trial.settings]
        noise, _ = self.noise()
        return not at or median(away) - median(at) > noise / 2


def chosen(candidates: Sequence[Trial], scores: Sequence[float], noise: float) -> Trial:
    """The one with the fewest settings changed, of those within `noise` of the best; among equals the best."""
    best = max(scores)
    close = [(trial, score) for trial, score in zip(candidates, scores, strict=True) if score >= best - noise]
    return min(close, key=lambda pair: (len(pair[0].settings), -pair[1]))[0]


def _distributions(space: Space) -> dict[str, optuna.distributions.BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    return {
        each.name: IntDistribution(0, len(each.values) - 1)
        if each.ordered
        else CategoricalDistribution(tuple(range(len(each.values))))
        for each in space.searched
    }
