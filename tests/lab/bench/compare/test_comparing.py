"""Comparisons of stubs whose ratio is known."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from penstock.core.errors import EngineDeadError, InvalidRequestError
from penstock.core.record import Record
from penstock.lab.bench.arrivals import ClosedLoop
from penstock.lab.bench.compare.judging import cost
from penstock.lab.bench.compare.keeping import Kept
from penstock.lab.bench.compare.outcome import Gate, Outcome, outcome
from penstock.lab.bench.compare.running import Told, compare
from penstock.lab.bench.compare.settings import read
from penstock.lab.bench.endpoint import Endpoint
from penstock.lab.bench.engines import Common, Place
from penstock.lab.bench.engines.running import Up
from penstock.lab.bench.offer import Manner
from penstock.lab.bench.planned import Planned
from penstock.lab.bench.setup import Load
from penstock.lab.bench.slo import Slo
from penstock.lab.bench.stub import Stub
from penstock.lab.journal.evidence import records_below
from penstock.lab.statistics import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.lab.bench.compare.comparison import Comparison


@pytest.fixture(autouse=True)
def _believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client may be late on a busy machine; whether it was is tested elsewhere."""
    monkeypatch.setattr("penstock.lab.bench.run.judge", lambda _seen: ())


PLACE = Place(Path("nowhere"), Path("nowhere"))


@dataclass(frozen=True)
class Few:
    """Requests of six tokens; the seed is in the prompt."""

    seed: int = 0
    name: str = "few"

    def describe(self) -> dict[str, Any]:
        return {}

    def requests(self) -> Iterator[Planned]:
        number = 0
        while True:
            yield Planned(f"{self.seed} {number}", 6, prompt_tokens=2)
            number += 1


def load(*, count: int = 12, slo: str | None = None) -> Load:
    return Load(
        workload=Few(), arrivals=ClosedLoop(4), manner=Manner(timeout=5.0), count=count, repeats=1,
        slo=None if slo is None else Slo.parse(slo),
    )  # fmt: skip


@dataclass
class Stubbed:
    """A contender whose every start is a new stub, each slower than the one before anywhere."""

    name: str
    itl: float
    clock: list[int]  # starts so far, of all contenders
    drift: float = 0.0
    behaviour: dict[str, Any] = field(default_factory=dict)
    fails_at: int | None = None
    engine: str = "stub"  # which is started, not a server that is up already

    @contextmanager
    def up(self, *_: object) -> Iterator[Up]:
        if len(self.clock) == self.fails_at:
            raise EngineDeadError("It fell over.")
        slower = 1 + self.drift * len(self.clock)
        self.clock.append(1)
        with Stub(ttft=self.itl * slower, itl=self.itl * slower, **self.behaviour) as stub:
            yield Up(
                endpoint=Endpoint.open(stub.url), version="1", configuration={"itl": self.itl, "nested": {"on": ""}},
                differs=(), notes=(), ready_s=0.1, child=_Alive(),
            )  # fmt: skip


class _Alive:
    def check_alive(self) -> None:
        """It is."""


def run(*contenders: Stubbed, rounds: int = 4, **more: Any) -> Comparison:
    return compare(contenders, load(**more), PLACE, None, Common(), rounds=rounds, margin=0.05, told=Told())  # type: ignore[arg-type]


def test_given_one_twice_as_slow_when_compared_then_the_ratio_and_the_verdicts_say_so_and_gates_hold(
    tmp_path: Path,
) -> None:
    clock: list[int] = []
    found = run(Stubbed("a", 0.01, clock), Stubbed("b", 0.02, clock), slo="e2e:30ms")
    each = {c.figure: c for c in found.compared}
    assert each["output_throughput"].ratio.estimate == pytest.approx(0.5, rel=0.1)
    assert each["tpot mean"].ratio.estimate == pytest.approx(2, rel=0.1)
    assert {each[figure].verdict for figure in ("output_throughput", "e2e mean")} == {Verdict.SLOWER}
    assert [slot.name for slot in found.slots] == ["a", "b", "b", "a", "b", "a", "a", "b"]
    assert "goodput" not in each  # none is within 30 ms, so there is no ratio
    assert outcome(found, [])[0] is Outcome.PASS
    assert outcome(found, [Gate.parse("output_throughput slower")])[0] is Outcome.FAIL
    assert outcome(found, [Gate.parse("output_throughput faster")])[0] is Outcome.PASS
    assert outcome(found, [Gate.parse("goodput slower")])[0] is Outcome.INCONCLUSIVE

    asked = read(None, ["penstock", "ollama"], {"price_per_hour": 1.8}, {"tokenizer": "none"})
    kept = Kept(asked, found, Outcome.PASS, (), None, ["penstock", "bench", "compare"])
    written = kept.save(tmp_path)
    assert [path.name for path in written] == [
        "comparison.json", "compare-a.json", "compare-b.json", "comparison.html", "comparison.md",
    ]  # fmt: skip
    assert {exhibit.name for exhibit in records_below(tmp_path)} == {"compare-a", "compare-b"}
    record = Record.load(tmp_path / "compare-b.json")
    record.verify_files(tmp_path)
    assert record.metric("output_throughput").n == 4
    assert record.metric("output_throughput_ratio_to_a").mean == pytest.approx(0.5, rel=0.1)
    assert record.subject.configuration["itl"] == 0.02
    assert "slower" in (tmp_path / "comparison.md").read_text()
    price = kept.as_dict()["engines"]["a"]["cost_per_million_output_tokens"]
    assert price == pytest.approx(cost(record.metric("output_throughput").mean * 2, 1.8), rel=0.1)


def test_given_a_machine_that_slows_when_equals_are_compared_then_no_difference_is_claimed() -> None:
    clock: list[int] = []
    found = run(Stubbed("a", 0.01, clock, drift=0.1), Stubbed("b", 0.01, clock, drift=0.1))
    each = next(c for c in found.compared if c.figure == "output_throughput")
    assert found.slots[0].figures["output_throughput"] > 1.4 * found.slots[-1].figures["output_throughput"]
    assert each.ratio.estimate == pytest.approx(1, abs=0.05)
    assert each.verdict in (Verdict.EQUIVALENT, Verdict.INCONCLUSIVE)
    assert each.ratio.drift is not None
    assert each.ratio.drift < 0


def test_given_an_engine_that_falls_over_when_compared_then_the_others_go_on_and_it_is_invalid() -> None:
    clock: list[int] = []
    frail = Stubbed("b", 0.002, clock, fails_at=4)
    found = run(Stubbed("a", 0.002, clock), frail, Stubbed("c", 0.002, clock), rounds=2)
    assert found.sides["b"].failed == "It fell over."
    assert [slot.name for slot in found.slots] == ["a", "b", "c", "c", "a"]
    told, reasons = outcome(found, [])
    assert told is Outcome.INVALID
    assert reasons == ("b: It fell over.",)


def test_given_an_engine_that_fails_requests_when_compared_then_its_runs_count_for_nothing() -> None:
    clock: list[int] = []
    bad = Stubbed("b", 0.002, clock, behaviour={"faults": ["0.4:status=503"], "seed": 1})
    found = run(Stubbed("a", 0.002, clock), bad, rounds=2)
    assert found.compared == []
    assert outcome(found, [])[0] is Outcome.INVALID
    assert "requests failed" in found.invalid[0]
    assert "status 503" in found.invalid[0]


def test_given_ctrl_c_when_comparing_then_whole_rounds_are_kept_the_rest_is_marked_and_no_start_follows(
    tmp_path: Path,
) -> None:
    clock: list[int] = []

    def ctrl_c(slot: int, _progress: object) -> None:
        if slot == 3:  # the second round's second run
            signal.raise_signal(signal.SIGINT)

    sides: Any = (Stubbed("a", 0.02, clock), Stubbed("b", 0.02, clock))
    told = Told(on_progress=ctrl_c)
    found = compare(sides, load(), PLACE, None, Common(), rounds=4, margin=0.05, told=told)
    assert found.cut
    assert len(clock) == 4
    assert {len(each.pairs) for each in found.compared} == {1}
    assert outcome(found, [])[0] is Outcome.INVALID
    asked = read(None, ["penstock", "ollama"], {}, {"tokenizer": "none"})
    Kept(asked, found, Outcome.INVALID, found.invalid, None, ["penstock", "bench", "compare"]).save(tmp_path)
    cut = Record.load(tmp_path / f"compare-{found.slots[-1].name}.json")
    assert [flaw.kind for flaw in cut.flaws] == ["cut"]
    assert "Ctrl-C" in (tmp_path / "comparison.md").read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [("ttft p95", "no gate"), ("ttft p96 slower", "ttft p95"), ("slower", "no figure"), ("", "no gate")],
)
def test_given_a_gate_nobody_can_read_when_parsed_then_it_says_what_one_is(text: str, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        Gate.parse(text)


def test_given_a_price_when_a_million_tokens_are_costed_then_it_is_the_hours_share() -> None:
    assert cost(1000.0, 3.6) == pytest.approx(1.0)
