"""ServeGen's published clients: rates, shapes and lengths as they say."""

from __future__ import annotations

import json
from itertools import pairwise
from statistics import fmean, pvariance
from typing import TYPE_CHECKING, Any

import pytest

from penstock.core.errors import InvalidRequestError
from penstock.lab.bench.workloads import make
from penstock.lab.bench.workloads.traces.replay import Replay

if TYPE_CHECKING:
    from pathlib import Path

_LENGTHS = {"input_tokens": "{100: 0.75, 200: 0.25}", "output_tokens": "{50: 1.0}"}


def _client(folder: Path, number: int, rows: str, lengths: dict[str, Any] | None = None) -> None:
    (folder / f"chunk-{number}-trace.csv").write_text(rows, encoding="utf-8")
    windows = {"0": _LENGTHS} if lengths is None else lengths
    (folder / f"chunk-{number}-dataset.json").write_text(json.dumps(windows), encoding="utf-8")


def _replay(path: Path, seed: int = 1, **options: Any) -> Replay:
    made = make("servegen", {"path": path, **options}, seed)
    assert isinstance(made, Replay)
    return made


@pytest.mark.parametrize(("pattern", "shape", "burstiness"), [("Gamma", 0.5, 2.0), ("Weibull", 0.7, 2.14)])
def test_given_a_client_then_its_rate_and_its_shape_are_the_published_ones(
    tmp_path: Path, pattern: str, shape: float, burstiness: float
) -> None:
    _client(tmp_path, 0, f"0,20,1.4,{pattern},{shape},1\n600,20,1.4,{pattern},{shape},1\n")
    at = _replay(tmp_path, to=1200).trace.at
    intervals = [after - before for before, after in pairwise(at)]
    mean = fmean(intervals)
    assert 1 / mean == pytest.approx(20, rel=0.05)
    assert pvariance(intervals) / mean**2 == pytest.approx(burstiness, rel=0.12)


def test_given_many_slow_clients_then_together_they_send_the_published_rate(tmp_path: Path) -> None:
    # A process that began anew in each window would send too much, as bursty ones begin with a request.
    for number in range(400):
        _client(tmp_path, number, "".join(f"{600 * n},0.005,2,Gamma,0.25,800\n" for n in range(3)))
    sent = [len(_replay(tmp_path, seed, to=1800).trace) for seed in range(3)]
    assert fmean(sent) == pytest.approx(400 * 0.005 * 1800, rel=0.08)


def test_given_windows_then_each_has_its_rate_and_none_comes_where_it_is_0(tmp_path: Path) -> None:
    _client(tmp_path, 0, "0,10,1,Gamma,1,1\n600,0,0,,0,0\n1200,30,1,Weibull,1,1\n")
    at = _replay(tmp_path, to=1800).trace.at
    counts = [sum(600 * n <= one < 600 * (n + 1) for one in at) for n in range(3)]
    assert counts == [pytest.approx(6000, rel=0.06), 0, pytest.approx(18000, rel=0.04)]


def test_given_a_window_of_the_day_and_a_rate_then_clients_keep_their_shares(tmp_path: Path) -> None:
    _client(
        tmp_path,
        0,
        "0,1,1,Gamma,1,1\n600,3,1,Gamma,1,1\n",
        {"0": {"input_tokens": "{7: 1}", "output_tokens": "{1: 1}"}},
    )
    _client(
        tmp_path,
        1,
        "0,1,1,Gamma,1,1\n600,1,1,Gamma,1,1\n",
        {"0": {"input_tokens": "{9: 1}", "output_tokens": "{1: 1}"}},
    )
    replay = _replay(tmp_path, **{"from": 700, "to": 900, "rate": 40})
    inputs = replay.trace.inputs.tolist()
    assert len(inputs) / 200 == pytest.approx(40, rel=0.05)
    assert inputs.count(7) / len(inputs) == pytest.approx(0.75, abs=0.02)
    due = [one.due for one in replay.requests()]
    assert due[0] is not None
    assert 0 <= due[0] < 1
    assert max(one for one in due if one is not None) < 200


def test_given_lengths_by_the_hour_then_each_request_draws_from_those_of_its_time(tmp_path: Path) -> None:
    later = {"input_tokens": "{300: 1.0}", "output_tokens": "{5: 1.0}"}
    empty = {"input_tokens": "{}", "output_tokens": "{}"}
    windows = {"0": _LENGTHS, "600": empty, "1200": later}
    _client(tmp_path, 0, "".join(f"{600 * n},10,1,Gamma,1,1\n" for n in range(3)), windows)
    trace = _replay(tmp_path, to=1800).trace
    early = [inputs for at, inputs in zip(trace.at, trace.inputs, strict=True) if at < 1200]
    assert {*early} == {100, 200}
    assert early.count(200) / len(early) == pytest.approx(0.25, abs=0.02)
    assert {one for at, one in zip(trace.at, trace.inputs, strict=True) if at >= 1200} == {300}
    assert {*trace.outputs} == {50, 5}


def test_given_no_end_then_ten_minutes_are_drawn_and_the_same_seed_draws_the_same(tmp_path: Path) -> None:
    _client(tmp_path, 0, "".join(f"{600 * n},5,1,Gamma,1,1\n" for n in range(100)))
    first, again, other = (_replay(tmp_path, seed).trace for seed in (1, 1, 2))
    assert max(first.at) < 600
    assert first.at == again.at != other.at


def test_given_what_its_library_writes_then_that_is_read_too(tmp_path: Path) -> None:
    file = tmp_path / "workload.csv"
    file.write_text("request_id,timestamp,input_tokens,output_tokens\n0,0.5,10,20\n1,1.2,15,25\n", encoding="utf-8")
    trace = _replay(file).trace
    assert (trace.at.tolist(), trace.inputs.tolist(), trace.outputs.tolist()) == (
        pytest.approx([0, 0.7]), [10, 15], [20, 25],
    )  # fmt: skip
    with pytest.raises(InvalidRequestError, match="scaled by speed"):
        _replay(file, rate=5)


@pytest.mark.parametrize(
    ("rows", "lengths", "why"),
    [
        ("0,1,1,Gamma,1\n", None, "chunk-0-trace.csv, line 1: not start,rate"),
        ("0,1,1,Gamma,1,1\n600,1,1,Pareto,1,1\n", None, "line 2: not start,rate"),
        ("0,1,1,Gamma,0,1\n", None, "line 1: not start,rate"),
        ("0,nan,1,Gamma,1,1\n", None, "line 1: not start,rate"),
        ("600,1,1,Gamma,1,1\n0,1,1,Gamma,1,1\n", None, "not in order"),
        ("0,1,1,Weibull,0.0001,1\n", None, "too near 0"),
        ("0,1,1,Gamma,1,1\n", {"x": {}}, "no JSON object by times"),
        ("0,1,1,Gamma,1,1\n", {"0": {"text_tokens": "{1: 1}", "output_tokens": "{1: 1}"}}, "no input_tokens"),
        ("0,1,1,Gamma,1,1\n", {"0": _LENGTHS | {"input_tokens": "{1: -1}"}}, "no probabilities"),
        ("0,1,1,Gamma,1,1\n", {"0": _LENGTHS | {"input_tokens": "__import__('os')"}}, "no table of probabilities"),
        ("0,0,0,,0,0\n", None, "send about 0 requests"),
        ("0,1e9,1,Gamma,1,1\n", None, "send about 600,000,000,000 requests"),
    ],
)
def test_given_data_that_cannot_be_then_file_and_place_are_named(
    tmp_path: Path, rows: str, lengths: dict[str, Any] | None, why: str
) -> None:
    _client(tmp_path, 0, rows, lengths)
    with pytest.raises(InvalidRequestError) as refused:
        _replay(tmp_path)
    assert why in refused.value.message


def test_given_a_directory_of_something_else_then_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"has no chunk-N-trace\.csv"):
        _replay(tmp_path)
    (tmp_path / "chunk-0-trace.csv").write_text("0,1,1,Gamma,1,1\n", encoding="utf-8")
    with pytest.raises(InvalidRequestError, match=r"chunk-0-dataset\.json can't be read"):
        _replay(tmp_path)
