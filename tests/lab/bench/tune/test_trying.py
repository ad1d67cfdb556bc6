"""Runs of a server that is started with its settings: a stub whose speed depends on them."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from penstock.lab.bench.arrivals import ClosedLoop
from penstock.lab.bench.engines import Common, Engine, Launch, Place
from penstock.lab.bench.engines.model import ModelForms
from penstock.lab.bench.metrics import latencies
from penstock.lab.bench.offer import Manner
from penstock.lab.bench.setup import Load
from penstock.lab.bench.slo import Slo
from penstock.lab.bench.tune import trying
from penstock.lab.bench.tune.objective import OBJECTIVES, Objective
from penstock.lab.bench.tune.settings import read
from penstock.lab.bench.tune.trying import Trier, Tuned, toml
from penstock.lab.bench.workloads import make

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCRIPT = """
import json, signal, sys
from penstock.lab.bench.stub import Stub
port, settings = int(sys.argv[1]), json.loads(sys.argv[2])
if settings.get("block_size") == 1:
    sys.exit("a block of one token")
faults = ["1:status=500"] if settings.get("block_size") == 2 else []
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
stub = Stub(ttft=0.02, itl=0.8 / settings.get("block_size", 16), port=port)
if faults:  # once the probe has been answered
    import time
    while not stub.truth():
        time.sleep(0.005)
    stub.stop()
    stub = Stub(ttft=0.01, itl=0.01, port=port, faults=faults)
signal.sigwait([signal.SIGTERM])
stub.stop()
"""


@dataclass(frozen=True)
class Stubbed(Engine):
    name: ClassVar[str] = "stubbed"
    summary: ClassVar[str] = ""

    def version(self, place: Place) -> str | None:
        return "1"

    def plan(self, place: Place, model: ModelForms, common: Common, options: Mapping[str, str], port: int) -> Launch:
        return Launch(
            command=(sys.executable, "-c", SCRIPT, str(port), options["settings"]), port=port,
            configuration=json.loads(options["settings"]),
        )  # fmt: skip


@pytest.fixture(autouse=True)
def _believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client may be late on a busy machine; whether it was is tested elsewhere."""
    monkeypatch.setattr("penstock.lab.bench.run.judge", lambda _seen: ())


@pytest.fixture
def trier(tmp_path: Path) -> Trier:
    place = Place(tmp_path, tmp_path)
    load = Load(
        workload=make("synthetic", {"input_tokens": "8", "output_tokens": "6"}, 0, None), arrivals=ClosedLoop(2),
        manner=Manner(timeout=5.0), count=6, repeats=1, slo=Slo.parse("ttft:1s"),
    )  # fmt: skip
    model = ModelForms(tmp_path, place, lambda _line: None)
    objective = Objective.find("throughput", slo=None, price=None)
    return Trier(load, objective, model, place, fixed={"block_size": 16}, engine=Stubbed(), body={"top_k": 1})


def test_given_settings_when_run_then_the_figure_is_that_of_a_server_started_with_them(trier: Trier) -> None:
    slow, fast = trier.run({}, 0, "a"), trier.run({"block_size": 64}, 1, "a")
    assert slow.figure == pytest.approx(2 * 6 / (0.02 + 5 * 0.05), rel=0.2)
    assert fast.figure is not None
    assert slow.figure is not None
    assert fast.figure > 1.7 * slow.figure  # 3.3 on a machine that does nothing else
    assert fast.measured is not None
    assert fast.measured.endpoint.body["top_k"] == 1
    assert fast.measured.runs[0].meta["seed"] == 1
    assert (slow.configuration, fast.configuration) == ({"block_size": 16}, {"block_size": 64})
    for name, (_, _, higher) in OBJECTIVES.items():
        objective = Objective.find(name, slo=Slo.parse("ttft:1s"), price=2.0)
        assert slow.measured is not None
        a, b = (objective.of(run.measured.runs[0], Slo.parse("ttft:1s")) for run in (slow, fast))
        assert a is not None
        assert b is not None
        assert name.startswith("ttft") or (b > a) == higher
        none = objective.of(slow.measured.runs[0], Slo.parse("ttft:1us"))
        assert (none is None) == (name in ("goodput", "cost"))
    assert objective.of(slow.measured.runs[0], None) == pytest.approx(2e6 / 3600 / slow.figure)
    assert len(latencies(slow.measured.runs[0]).ttft) == 6


def test_given_a_server_that_ends_or_fails_requests_when_run_then_that_is_the_result(trier: Trier) -> None:
    gone = trier.run({"block_size": 1}, 0, "a")
    assert "a block of one token" in gone.failed
    assert gone.figure is None
    failing = trier.run({"block_size": 2}, 0, "a")
    assert "6 of 6 requests failed" in failing.failed
    assert failing.figure is None


def test_given_ctrl_c_when_a_run_is_under_way_then_the_server_is_stopped_and_nothing_is_returned(
    trier: Trier, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trying.measure

    def cut(*arguments: Any, **named: Any) -> Any:
        measured = real(*arguments, **named)
        measured.runs[0].meta["cut"] = True
        return measured

    monkeypatch.setattr(trying, "measure", cut)
    with pytest.raises(KeyboardInterrupt):
        trier.run({}, 0, "a")


def test_given_the_callers_own_settings_when_planned_then_a_trial_has_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_BLOCK_SIZE", "64")
    monkeypatch.setenv("penstock_threads", "1")
    monkeypatch.setenv("PENSTOCK_ACCESS_LOG", "1")
    monkeypatch.setenv("PENSTOCK_OFFLINE", "1")
    place = Place(tmp_path, tmp_path / "logs")
    settings = {"enable_prefix_caching": False, "threads": None, "lora_modules": [["a", "b c"]], "memory": 1 << 30}
    launch = Tuned().plan(place, ModelForms(tmp_path, place, print), Common(), {"settings": json.dumps(settings)}, 1)
    assert {launch.env[name] for name in ("PENSTOCK_BLOCK_SIZE", "penstock_threads", "PENSTOCK_ACCESS_LOG")} == {""}
    assert "PENSTOCK_OFFLINE" not in launch.env
    written = [*(tmp_path / "logs").glob("*.toml")]
    assert [str(path) for path in written] == [launch.env["PENSTOCK_CONFIG"]]
    assert (
        written[0].read_text()
        == toml(settings)
        == ('[engine]\nenable_prefix_caching = false\nlora_modules = ["a=b c"]\nmemory = 1073741824\n')
    )


def test_given_a_load_when_read_then_presets_and_flags_make_one_and_contradictions_are_refused(tmp_path: Path) -> None:
    from penstock.core.errors import ConfigError, InvalidRequestError

    chat = read(None, {}, {})
    assert (chat.load_name, chat.bench.concurrency) == ("chat", 8)
    rated = read(None, {"preset": "documents"}, {"rate": 2.0, "duration": 5.0})
    assert (rated.bench.concurrency, rated.bench.requests, rated.bench.rate) == (None, None, 2.0)
    file = tmp_path / "t.toml"
    file.write_text(
        '[tune]\nfor = "one-stream"\nallow-lossy = true\n[tune.set]\nblock-size = 8\n'
        '[tune.space]\nkv-cache-dtype = ["int8", "default"]\n'
    )
    own = read(file, {"fixed": ["max-model-len=512"]}, {})
    assert own.space.fixed == {"block_size": 8, "max_model_len": 512}
    assert [each.values for each in own.space.searched] == [("int8", "auto")]
    file.write_text('[bench]\nworkload = "synthetic"\n')
    assert read(file, {}, {}).load_name == "synthetic"
    for flags, bench, says in (
        ({"preset": "chats"}, {}, "no load 'chats'"),
        ({"preset": "chat"}, {"workload": "synthetic"}, "both say"),
    ):
        with pytest.raises(InvalidRequestError, match=says):
            read(None, flags, bench)
    file.write_text("[tune]\nbugdet = 3\n")
    with pytest.raises(ConfigError, match="budget"):
        read(file, {}, {})
    for name, says in (("goodput", "--slo"), ("cost", "price"), ("speed", "no objective")):
        with pytest.raises(InvalidRequestError, match=says):
            Objective.find(name, slo=None, price=None)
