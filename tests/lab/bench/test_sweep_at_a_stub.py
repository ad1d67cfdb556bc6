"""Sweeps of a real server over HTTP: the stub, whose capacity follows from its slots and its service times."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from penstock.cli.main import main
from penstock.core.errors import InvalidRequestError
from penstock.core.record import Record
from penstock.lab.bench.endpoint import Endpoint
from penstock.lab.bench.offer import Manner
from penstock.lab.bench.planned import Planned, Turn
from penstock.lab.bench.points import Trials
from penstock.lab.bench.slo import Slo
from penstock.lab.bench.stability import Verdict
from penstock.lab.bench.stub import Stub
from penstock.lab.bench.sweep import Plan, search
from penstock.lab.bench.sweep_report import record_of, said
from penstock.lab.bench.tried import Load
from penstock.lab.bench.workloads import make

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.lab.bench.workloads.base import Workload

SLOTS = 16


def asking(tokens: int = 1) -> Workload:
    return make("synthetic", {"input_tokens": "4", "output_tokens": str(tokens)})


def trials(stub: Stub, **more: Any) -> Trials:
    return Trials(endpoint=Endpoint.open(stub.url), workload=asking(), manner=Manner(keep_text=0), **more)


def served_capacity(stub: Stub) -> float:
    """Of the service times that the stub came to, which a busy machine makes longer than it was told."""
    lines = [json.loads(line) for line in httpx.get(f"{stub.url}/truth", timeout=30).text.splitlines()]
    return float(SLOTS / np.mean([(line["last"] - line["started"]) / 1e9 for line in lines if line["whole"]]))


@pytest.mark.slow
def test_the_capacity_of_a_stub_with_uneven_answers_is_found() -> None:
    with Stub(ttft="lognormal:10ms,0.5", itl=0.0, slots=SLOTS) as stub:
        found = search(Plan(requests=2000, steps=12, budget=60), trials(stub))
        capacity = served_capacity(stub)
    assert found.limit is not None
    assert found.limit.value == pytest.approx(capacity, rel=0.04)
    assert len(found.points) <= 12
    assert any(point.bound is not None and point.bound.what == "queue" for point in found.points)


def test_a_stub_without_a_limit_holds_all_that_is_allowed() -> None:
    with Stub(ttft=0.005, itl=0.0) as stub:
        plan = Plan(requests=500, steps=8, budget=30, max_rate=400, max_concurrency=8)
        found = search(plan, trials(stub))
    assert found.limit is None
    assert said(found).startswith("No saturation up to")
    assert "400 requests/s" in said(found)


def test_an_overloaded_point_stops_early_and_is_cut_when_it_has_drained_long_enough() -> None:
    with Stub(ttft=0.2, itl=0.0, slots=2) as stub:
        try_load = trials(stub)
        quiet = try_load(Load(1, closed=True), 10, 1.0)
        assert quiet.measured is not None
        assert quiet.measured.runs[0].meta["wall"] < 2.0  # though a hundred requests were meant
        point = try_load(Load(400), 1600, 4.0)
    assert point.measured is not None
    run = point.measured.runs[0]
    assert run.meta["gave_up"]
    assert run.meta["duration"] < 3.5
    assert point.stability.verdict is not Verdict.STABLE
    assert point.stability.served == pytest.approx(10, rel=0.5)
    assert not point.cut


def test_a_share_within_the_slo_counts_requests_that_failed() -> None:
    with Stub(ttft=0.01, itl=0.0, faults=["0.3:status=500"]) as stub:
        point = trials(stub, slo=Slo.parse("ttft:5s"))(Load(200), 400, 3.0)
    assert point.share is not None
    assert point.share[0] == pytest.approx(0.7, abs=0.1)


def test_refusals_make_a_point_overloaded_and_errors_inconclusive() -> None:
    for fault, verdict in (("0.1:status=429", Verdict.OVERLOADED), ("0.1:status=500", Verdict.INCONCLUSIVE)):
        with Stub(ttft=0.005, itl=0.0, faults=[fault]) as stub:
            assert trials(stub)(Load(300), 500, 3.0).stability.verdict is verdict


class Talk:
    """A conversation of two turns, for ever."""

    name = "talk"
    seed = 0

    def describe(self) -> dict[str, Any]:
        return {}

    def requests(self) -> Iterator[Planned]:
        while True:
            yield Planned("hello", 1, turns=(Turn("and then?", 1),))


def test_conversations_have_no_offered_rate() -> None:
    with Stub() as stub:
        tried = replace(trials(stub), workload=Talk())
        with pytest.raises(InvalidRequestError, match="--axis concurrency"):
            tried(Load(10), 200, 1.0)


def test_a_sweep_becomes_a_record_with_its_points() -> None:
    with Stub(ttft=0.005, itl=0.0, slots=2) as stub:
        tried = trials(stub)
        found = search(Plan(axis="concurrency", requests=150, steps=4, budget=10), tried)
        record = record_of(found, subject=_subject(), workload=tried.workload)
    again = Record.from_json(record.to_json())
    points = again.workload.parameters["points"]
    assert [point["load"] for point in points] == [point.load.value for point in found.points]
    assert again.metric("points").mean == len(points)


def test_the_command_writes_its_record_its_page_and_exits_by_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, markdown = tmp_path / "sweep.html", tmp_path / "sweep.md"
    with Stub(ttft=0.005, itl=0.001, slots=4) as stub:
        code = main(
            ["bench", "sweep", stub.url, "--axis", "concurrency", "--input-tokens", "4", "--output-tokens", "3",
             "--requests", "250", "--steps", "7", "--budget", "30", "--out", str(tmp_path), "--page", str(page),
             "--markdown", str(markdown), "--json"]
        )  # fmt: skip
    out, err = capsys.readouterr()
    assert code in (0, 22), err  # 22: on a busy machine the interval may stay wide
    record = json.loads(out)
    (kept,) = [path for path in tmp_path.glob("sweep-*.json") if path.stem.count("-") == 3]
    loaded = Record.load(kept)
    loaded.verify_files(tmp_path)
    assert json.loads(loaded.to_json()) == record
    assert {metric["name"] for metric in record["metrics"]} >= {"points", "saturation", "highest_held"}
    assert "<svg" in page.read_text() or "<script" in page.read_text()
    assert "Saturates at" in markdown.read_text()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--share", "1.5", "--slo", "ttft:1s"], "share"),
        (["--steps", "1"], "--steps"),
        (["--requests", "10"], "--requests"),
        (["--slo", "ttft"], "ttft"),
        (["--axis", "sideways"], "sideways"),
    ],
)
def test_options_that_cannot_be_are_refused(options: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "sweep", "http://127.0.0.1:9", *options]) not in (0, 20, 21, 22)
    assert named in capsys.readouterr().err


def _subject() -> Any:
    from penstock.core.record import Subject

    return Subject("stub", "1")
