"""Whole studies, over servers that are formulas: what is said in the end, and what becomes of one that is cut."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from penstock.core.errors import InvalidRequestError
from penstock.engine.settings import EngineSettings
from penstock.lab import exits
from penstock.lab.bench.arrivals import ClosedLoop
from penstock.lab.bench.endpoint import Endpoint
from penstock.lab.bench.offer import Manner
from penstock.lab.bench.run import Measured, for_repeat
from penstock.lab.bench.tune.evidence import Kept
from penstock.lab.bench.tune.journal import NAME, Journal
from penstock.lab.bench.tune.objective import Objective
from penstock.lab.bench.tune.settings import read
from penstock.lab.bench.tune.study import Found, Plan, Study
from penstock.lab.bench.tune.trying import Run
from penstock.lab.bench.workloads import make
from penstock.lab.statistics import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from penstock.lab.bench.tune.settings import Asked
    from penstock.lab.bench.tune.space import Settings

OF = {"load": "some"}


@dataclass
class Simulated:
    """Takes runs without a server. `now` is its clock: a run takes ten seconds."""

    gain: float = 0.0  # of block_size 32
    noise: float = 0.01
    breaks: tuple[Any, ...] = ()  # values of block_size that can't be served
    cut_at: int | None = None
    down: bool = False
    fails: Callable[[Settings, int, str], bool] = lambda *_: False
    late: int = 0  # first runs that can't be believed
    clock: float = 0.0
    made: list[tuple[Settings, int, str]] = field(default_factory=list)

    def now(self) -> float:
        return self.clock

    def run(self, settings: Settings, repeat: int, name: str) -> Run:
        if len(self.made) == self.cut_at:
            raise KeyboardInterrupt
        random = Random(f"{len(self.made)}")
        self.made.append((settings, repeat, name))
        self.clock += 10.0
        figure = 100 * (1 + self.gain * (settings.get("block_size") == 32)) * math.exp(random.gauss(0, self.noise))
        figure *= 0.8 if settings.get("speculation") == "off" else 1.0
        down = self.down or self.fails(settings, len(self.made), name)
        failed = "It fell over." if down or settings.get("block_size") in self.breaks else ""
        against = ("The client sent late.",) if len(self.made) <= self.late else ()
        return Run(
            measured=None, figure=None if failed or against else figure, figures={"output_throughput": figure},
            against=against, failed=failed, configuration=settings, seconds=10.0,
        )  # fmt: skip


def asked(**flags: Any) -> Asked:
    space = {"block_size": [8, 16, 32, 64], "speculation": ["off"], "pin_threads": ["on"]}
    return read(None, {"space": space, **flags}, {"workload": "synthetic", "tokenizer": "none"})


def study(server: Simulated, folder: Path | None = None, *, resume: bool = False, **plan: Any) -> Found:
    journal = Journal(folder, OF, resume=resume)
    objective = Objective.find("throughput", slo=None, price=None)
    planned = Plan(**{"budget": 10_000.0, "trials": 30, "rounds": 8, "margin": 0.03, **plan})
    return Study(asked().space, objective, planned, server.run, journal, patience=6, now=server.now).run()


def kept(found: Found) -> Kept:
    return Kept(asked(), found, "1.0", ["penstock", "bench", "tune"])


def test_given_a_better_setting_when_studied_then_it_wins_alone_and_the_file_says_so_and_is_one_the_server_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = study(Simulated(gain=0.25))
    assert found.verdict is Verdict.FASTER
    assert found.gain is not None
    gain, low, high = found.gain
    assert gain == pytest.approx(0.25, abs=0.03)
    assert low is not None
    assert high is not None
    assert low < 0.25 < high
    result = kept(found)
    assert (result.winning, result.exit_code) == ({"block_size": 32}, 0)
    assert "block_size 32: 2" in result.said
    assert {path.name for path in result.save(tmp_path)} == {"penstock.toml", "tune.html", "tune.md", "result.json"}
    text = (tmp_path / "penstock.toml").read_text()
    assert "block_size = 32  # default: 16" in text
    assert text.startswith("# block_size 32:")
    for name in ("BLOCK_SIZE", "CONFIG"):
        monkeypatch.delenv(f"PENSTOCK_{name}", raising=False)
    monkeypatch.setenv("PENSTOCK_CONFIG", str(tmp_path / "penstock.toml"))
    assert EngineSettings.load() == EngineSettings(model="smollm2", block_size=32)
    told = json.loads((tmp_path / "result.json").read_text())
    assert told["verdict"] == "better"
    assert told["trials"][0]["state"] == "defaults"
    assert "block\\_size 32" in (tmp_path / "tune.md").read_text()


def test_given_a_verdict_then_it_is_of_requests_that_no_trial_had_in_balanced_order() -> None:
    server = Simulated(gain=0.25)
    study(server)
    before = {repeat for _, repeat, name in server.made if name == "tune-search"}
    last = [(settings, repeat) for settings, repeat, name in server.made if name == "tune-verdict"]
    assert len(last) == 16
    assert not before & {repeat for _, repeat in last}
    assert [bool(settings) for settings, _ in last[:8]] == [False, True, True, False, True, False, False, True]


def test_given_requests_of_a_file_then_the_settings_file_doesnt_call_them_new(tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    result = kept(study(Simulated(gain=0.25)))
    endpoint = Endpoint(base="http://x", api="chat", model="m", ip="::1", port=1, tls_name=None)
    for workload, fresh in (
        (make("jsonl", {"path": str(own), "shuffle": "true"}, 0, None), False),
        (make("synthetic", {"input_tokens": "8"}, 0, None), True),
    ):
        measured = Measured(
            endpoint=endpoint, workload=for_repeat(workload, 2000), arrivals=ClosedLoop(1), manner=Manner(timeout=1.0),
            count=1, slo=None, runs=[],
        )  # fmt: skip
        result.found.runs = {"defaults": [measured]}
        assert ("that no trial had" in result.toml(None)) == fresh
        assert ("the same requests, measured anew" in result.toml(None)) != fresh


def test_given_nothing_better_when_studied_then_the_defaults_are_kept(tmp_path: Path) -> None:
    found = study(Simulated())
    assert found.verdict is Verdict.EQUIVALENT
    assert found.most is not None
    assert found.most <= 0.03
    result = kept(found)
    assert (result.winning, result.exit_code) == ({}, 0)
    assert "The defaults are within 3 % of the best found" in result.said
    assert result.toml(None).splitlines()[-2:] == ["[engine]", 'model = "smollm2"']


def test_given_too_much_noise_when_studied_then_it_is_inconclusive() -> None:
    result = kept(study(Simulated(noise=0.3), rounds=2))
    assert (result.found.verdict, result.exit_code) == (Verdict.INCONCLUSIVE, exits.INCONCLUSIVE)
    assert result.winning == {}
    assert "--rounds" in result.said


def test_given_settings_that_cant_be_served_when_studied_then_the_others_are_judged_and_the_reason_is_kept() -> None:
    result = kept(study(Simulated(gain=0.25, breaks=(8, 64))))
    assert result.winning == {"block_size": 32}
    invalid = [trial for trial in result.as_dict()["trials"] if trial["state"] == "invalid"]
    assert {trial["settings"]["block_size"] for trial in invalid} == {8, 64}
    assert all(trial["why"] == "It fell over." for trial in invalid)


def test_given_defaults_that_cant_be_measured_when_studied_then_it_ends_at_once_and_says_why() -> None:
    for server, why in ((Simulated(down=True), "It fell over"), (Simulated(late=99), "sent late")):
        result = kept(study(server))
        assert result.exit_code == exits.INVALID
        assert why in result.said
        assert len(server.made) <= 4
    assert kept(study(Simulated(gain=0.25, late=1))).winning == {"block_size": 32}


def test_given_defaults_that_fail_after_their_first_run_when_studied_then_the_study_ends() -> None:
    server = Simulated(gain=0.25, fails=lambda settings, made, _: not settings and made > 1, cut_at=200)
    found = study(server, trials=3)
    assert [settings for settings, _, _ in server.made].index({"block_size": 8}) == 4
    assert found.invalid[0] == "No round of the verdict has both sides."
    assert not found.search.defaults.failed, "they can be served"


def test_given_a_winner_that_fails_rounds_of_the_verdict_when_judged_then_it_isnt_better() -> None:
    server = Simulated(
        gain=0.25, fails=lambda settings, made, stage: stage == "tune-verdict" and bool(settings and made % 2)
    )
    result = kept(study(server))
    assert len(result.found.pairs) == 4
    assert (result.found.verdict, result.winning) == (Verdict.INCONCLUSIVE, {})
    assert "failed in the verdict: It fell over." in result.said
    assert "It fell over." in result.toml(None)


def test_given_a_trial_that_fails_on_the_shortlist_then_another_goes_on() -> None:
    server = Simulated(gain=0.25, fails=lambda settings, _, stage: stage == "tune-shortlist" and len(settings) == 1)
    found = study(server)
    assert found.winner is not None
    assert found.winner.settings == {"block_size": 32, "pin_threads": "on"}
    none = study(Simulated(gain=0.25, fails=lambda _settings, _made, stage: stage == "tune-shortlist"))
    assert (none.winner, none.verdict) == (None, None)
    assert "It fell over." in kept(none).said


def test_given_a_budget_then_the_search_ends_in_time_for_the_verdict() -> None:
    server = Simulated(gain=0.25, noise=0.02)
    found = study(server, budget=240.0, trials=500, rounds=4)
    assert "budget" in found.ended
    assert found.verdict is not None
    assert server.clock <= 240 + 60
    assert kept(study(Simulated(), trials=3)).found.ended == "3 trials were made"


def test_given_a_study_that_was_cut_when_resumed_then_nothing_is_run_twice_and_it_ends_as_if_it_hadnt_been(
    tmp_path: Path,
) -> None:
    whole = Simulated(gain=0.25)
    expected = study(whole)
    cut = Simulated(gain=0.25, cut_at=11)
    first = study(cut, tmp_path)
    result = kept(first)
    assert (first.cut, result.exit_code) == (True, exits.CUT)
    assert "--resume" in result.said
    assert "penstock.toml" not in {path.name for path in result.save(tmp_path)}

    file = tmp_path / NAME
    file.write_bytes(file.read_bytes() + b'{"stage":"sea')  # killed while it wrote
    on = Simulated(gain=0.25, made=list(cut.made), clock=cut.clock)
    found = study(on, tmp_path, resume=True)
    assert on.made == whole.made
    assert found.pairs == expected.pairs
    assert found.seconds == pytest.approx(expected.seconds)
    runs = len(on.made)
    again = study(Simulated(gain=0.25), tmp_path, resume=True)  # its search is over
    assert again.verdict is Verdict.FASTER
    stages = [json.loads(line)["stage"] for line in file.read_text().splitlines()[1:]]
    assert stages[:runs] == [name.removeprefix("tune-") for _, _, name in on.made], "a verdict is never taken back"
    assert stages.count("verdict") == 32


def test_given_a_cut_during_the_verdict_then_the_search_is_kept_and_there_is_no_verdict(tmp_path: Path) -> None:
    whole = Simulated(gain=0.25)
    study(whole)
    search = sum(name == "tune-search" for _, _, name in whole.made)
    found = study(Simulated(gain=0.25, cut_at=len(whole.made) - 3), tmp_path)
    assert found.cut
    assert found.verdict is None
    assert len(Journal(tmp_path, OF, resume=True).runs) == search


def test_given_a_folder_that_holds_another_study_then_it_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="no study in"):
        Journal(tmp_path, OF, resume=True)
    study(Simulated(), tmp_path, trials=1)
    before = (tmp_path / NAME).read_bytes()
    with pytest.raises(InvalidRequestError, match="--resume"):
        Journal(tmp_path, OF, resume=False)
    with pytest.raises(InvalidRequestError, match="of another load"):
        Journal(tmp_path, {"load": "other"}, resume=True)
    assert (tmp_path / NAME).read_bytes() == before
    lines = before.splitlines(keepends=True)
    (tmp_path / NAME).write_bytes(b"".join([lines[0], b"{}\n", *lines[1:]]))
    with pytest.raises(InvalidRequestError, match="line 2"):
        Journal(tmp_path, OF, resume=True)
    told = before.replace(b'"failed":""', '"failed":"a\u2028b"'.encode())  # a line's end to text, not to JSON
    (tmp_path / NAME).write_bytes(told + b'{"failed":"\xe2')
    assert Journal(tmp_path, OF, resume=True).runs[0].failed == "a\u2028b"
    (tmp_path / NAME).write_text("nonsense\n")
    with pytest.raises(InvalidRequestError, match="can read"):
        Journal(tmp_path, OF, resume=True)
