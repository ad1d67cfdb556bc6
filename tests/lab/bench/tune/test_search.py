"""A search over servers whose best settings are known, and whose figures are noisy."""

from __future__ import annotations

import math
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from penstock.lab.bench.tune.search import REPEATS, Search, Trial, chosen
from penstock.lab.bench.tune.space import default_space

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.lab.bench.tune.space import Settings

SPACE = default_space(
    {},
    tried={
        "max_num_batched_tokens": [256, 512, 1024, 2048, 4096], "block_size": [8, 16, 32, 64],
        "pin_threads": ["on", "off"], "speculation": ["off"],
    },
)  # fmt: skip
BEST: Settings = {"max_num_batched_tokens": 512, "block_size": 32, "speculation": "off"}
_LOSS = {"max_num_batched_tokens": 0.08, "block_size": 0.06, "pin_threads": 0.03, "speculation": 0.15}


def truth(settings: Settings) -> float:
    """Tokens/s; each place away from the best costs some per cent."""
    mine, best = SPACE.places(settings), SPACE.places(BEST)
    return 100 * math.exp(-sum(loss * abs(mine[name] - best[name]) for name, loss in _LOSS.items()))


def search(
    seed: int, figure: Callable[[Trial, int], float], *, higher: bool = True, runs: int = 40, **more: Any
) -> Search:
    """A whole search, the defaults in between."""
    found = Search(SPACE, higher=higher, seed=seed, **more)
    for _ in range(2):
        found.add(found.defaults, figure(found.defaults, found.place))
    while found.place < runs and not found.exhausted:
        if found.place - found.defaults.runs[-1][0] >= 6:
            found.add(found.defaults, figure(found.defaults, found.place))
        trial = found.next()
        if trial is None:
            break
        found.add(trial, figure(trial, found.place))
        while found.wants(trial):
            found.add(trial, figure(trial, found.place))
    return found


def noisy(seed: int, spread: float, drift: float = 0.0) -> Callable[[Trial, int], float]:
    random = Random(seed)
    return lambda trial, place: truth(trial.settings) * math.exp(random.gauss(0, spread) + drift * place)


@pytest.mark.parametrize("spread", [0.01, 0.05])
def test_given_noise_when_searched_with_many_seeds_then_the_optimum_is_never_dropped_and_something_near_it_is_best(
    spread: float,
) -> None:
    gains = []
    for seed in range(6):
        found = search(seed, noisy(seed, spread))
        best = found.best()
        whole = [trial for trial in found.trials if len(trial.runs) >= REPEATS and not trial.failed]
        assert found.score(best) == max(found.score(trial) or 0.0 for trial in whole)
        assert not any(found.dropped(trial) for trial in found.trials if trial.settings == BEST)
        gains.append(math.log(truth(best.settings) / truth({})) / math.log(truth(BEST) / truth({})))
    assert sum(gains) / len(gains) > 0.85
    assert min(gains) > 0.5


def test_given_a_trial_far_behind_when_it_was_run_once_then_it_is_dropped_and_one_near_is_not() -> None:
    found = search(0, noisy(0, 0.01), runs=20)
    far, near = found.trial({"max_num_batched_tokens": 4096, "block_size": 8}), found.trial({"block_size": 32})
    level = math.exp(found.level(found.place))
    found.add(far, level / 3)
    assert not found.wants(far)
    assert found.dropped(far)
    near.runs.clear()
    found.add(near, level * 0.99 * math.exp(found.score(found.best()) or 0))
    assert found.wants(near)


def test_given_a_machine_that_slows_down_when_searched_then_scores_are_what_settings_do() -> None:
    found = search(1, noisy(1, 0.0, drift=-0.002))
    for trial in found.trials[1:]:
        score = found.score(trial)
        if score is not None:
            assert score == pytest.approx(math.log(truth(trial.settings) / truth({})), abs=0.02)


def test_given_a_figure_of_which_less_is_better_when_searched_then_the_best_is_the_least() -> None:
    found = search(2, lambda trial, _: 1 / truth(trial.settings), higher=False)
    best = found.best()
    assert truth(best.settings) == max(truth(trial.settings) for trial in found.trials if len(trial.runs) >= REPEATS)
    assert truth(best.settings) > 1.2 * truth({})


def test_given_settings_that_cant_be_served_when_searched_then_they_are_tried_once_and_never_best() -> None:
    found = Search(SPACE, higher=True, seed=3)
    for _ in range(2):
        found.add(found.defaults, 50.0)
    tried: list[Trial] = []
    while found.place < 40 and not found.exhausted and (trial := found.next()) is not None:
        tried.append(trial)
        if trial.settings.get("block_size") == 8:
            found.add(trial, None, failed="no such block")
        else:
            found.add(trial, 200.0 if trial.settings.get("speculation") else 50.0)
            while found.wants(trial):
                found.add(trial, 200.0 if trial.settings.get("speculation") else 50.0)
    broken = [trial for trial in tried if trial.failed]
    assert broken
    assert len({trial.number for trial in broken}) == len(broken)
    assert not found.best().failed
    assert found.best().settings["speculation"] == "off"
    assert max(found.importance(), key=found.importance().__getitem__) == "speculation"


def test_given_the_same_history_when_asked_what_next_then_the_answer_is_the_same() -> None:
    one = search(4, noisy(4, 0.02), runs=25)
    other = Search(SPACE, higher=True, seed=4)
    runs = sorted((place, trial.settings, figure) for trial in one.trials for place, figure in trial.runs)
    order = {tuple(trial.settings.items()): trial.number for trial in one.trials}
    for _, settings, figure in runs:
        other.add(other.trial(settings), figure)
    assert [t.settings for t in other.trials] == sorted(
        (t.settings for t in one.trials), key=lambda s: order[tuple(s.items())]
    )
    after, again = one.next(), other.next()
    assert after is not None
    assert again is not None
    assert after.settings == again.settings


def test_given_a_small_space_when_searched_then_every_combination_is_tried_once_and_it_ends() -> None:
    small = default_space({}, tried={"speculation": ["off"], "block_size": [16, 32]})
    found = Search(small, higher=True, patience=100)
    found.add(found.defaults, 10.0)
    for _ in range(50):
        if found.exhausted or (trial := found.next()) is None:
            break
        found.add(trial, 10.0)
    assert len(found.trials) == small.size == 4
    assert all(trial.runs for trial in found.trials)


def test_given_no_gain_then_patience_ends_it() -> None:
    found = search(5, lambda _trial, _place: 10.0, runs=400, patience=6)
    assert found.exhausted
    assert found.stale() == 6


def test_given_candidates_alike_then_the_one_that_changes_least_is_chosen() -> None:
    plain, changed = Trial(1, {"block_size": 32}), Trial(2, {"block_size": 32, "pin_threads": "on"})
    assert chosen([changed, plain], [0.20, 0.19], 0.02) is plain
    assert chosen([changed, plain], [0.30, 0.19], 0.02) is changed
    found = search(6, lambda trial, _: truth({k: v for k, v in trial.settings.items() if k != "pin_threads"}))
    best, *others = found.candidates()
    if "pin_threads" in best.settings:
        assert any("pin_threads" not in each.settings for each in others)
