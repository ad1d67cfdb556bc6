"""What vllm bench serve 0.32, guidellm 0.8.1 and AIPerf 0.13 wrote of real runs, and what of it is spoiled.

The files in `data/` are of 32 requests of 24 tokens, 8 a second, at `penstock bench stub --ttft uniform:20ms,60ms --itl
5ms`; texts and what isn't read are taken out.
"""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.errors import InvalidRequestError, NotFoundError, PenstockError
from penstock.core.record import Metric, Record
from penstock.lab.exits import INVALID
from penstock.lab.imports.importing import Imported, Known, import_files, read
from penstock.lab.imports.physics import breaches
from penstock.lab.imports.recording import record_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.lab.imports.row import Row

DATA = Path(__file__).with_name("data")
FILES = ("vllm-summary.json", "vllm-detailed.json", "guidellm.json", "aiperf.json", "aiperf.csv", "aiperf.jsonl")
TEXTS = {name: (DATA / name).read_text() for name in FILES}


def one(name: str) -> dict[str, Metric]:
    """The metrics of a file's only record."""
    found = import_files([DATA / name])
    assert (found.impossible, found.unreadable) == ([], [])
    ((_, record),) = found.records
    return {metric.name: metric for metric in record.metrics}


def attempted(name: str, text: str) -> tuple[list[Row], str]:
    """The rows of a file, or why there are none."""
    try:
        return read(Path(name), text), ""
    except PenstockError as error:
        return [], error.message


def changed(folder: Path, name: str, change: Callable[[Any], None]) -> Imported:
    value = json.loads(TEXTS[name])
    change(value)
    (folder / name).write_text(json.dumps(value))
    return import_files([folder / name])


@pytest.mark.parametrize("name", FILES)
def test_given_a_real_result_then_it_is_a_record_that_says_where_it_is_from(name: str, tmp_path: Path) -> None:
    found = import_files([DATA / name], known=Known(subject="stub", version="1.0"))
    found.save(tmp_path)
    assert found.exit_code == 0
    record = Record.load(found.paths[0])
    source = record.workload.parameters["imported"]
    assert (source["file"], record.subject.name, record.subject.version, record.git) == (name, "stub", "1.0", None)
    assert len(source["sha256"]) == 64
    assert name in record.notes[0]
    found.save(tmp_path)  # once more: the same file, written over
    assert len(list(tmp_path.iterdir())) == 1


def test_given_vllms_result_then_its_itl_is_a_chunk_gap_and_what_it_sums_up_stays_apart() -> None:
    told, metrics = json.loads(TEXTS["vllm-summary.json"]), one("vllm-summary.json")
    assert metrics["ttft_p99"].mean == told["p99_ttft_ms"] / 1e3
    assert metrics["tpot_mean"].mean == told["mean_tpot_ms"] / 1e3
    assert metrics["chunk_gap_p95"].mean == told["p95_itl_ms"] / 1e3
    assert metrics["e2e_p50"].unit == "s"
    assert metrics["output_tokens_mean"].mean == 24
    assert metrics["output_throughput"].mean == told["output_throughput"]
    assert not {"itl", "itl_mean", "ttft"} & metrics.keys()


def test_given_vllms_details_then_its_own_summary_is_found_again_with_intervals() -> None:
    told, metrics = json.loads(TEXTS["vllm-detailed.json"]), one("vllm-detailed.json")
    for ours, theirs in (("ttft", "ttft"), ("tpot", "tpot"), ("chunk_gap", "itl"), ("e2e", "e2el")):
        assert metrics[ours].mean == pytest.approx(told[f"mean_{theirs}_ms"] / 1e3, rel=1e-4)
        for statistic in ("p50", "p90", "p99"):
            assert getattr(metrics[ours], statistic) == pytest.approx(told[f"{statistic}_{theirs}_ms"] / 1e3, rel=1e-3)
        assert metrics[ours].ci is not None
    assert metrics["ttft"].n == 32


def test_given_guidellms_report_then_its_own_summary_is_found_again() -> None:
    told, metrics = json.loads(TEXTS["guidellm.json"])["benchmarks"][0]["metrics"], one("guidellm.json")

    def theirs(key: str) -> Any:
        return told[key]["successful"]

    assert metrics["ttft"].mean == pytest.approx(theirs("time_to_first_token_ms")["mean"] / 1e3)
    assert metrics["itl_mean"].mean == pytest.approx(theirs("inter_token_latency_ms")["mean"] / 1e3)
    assert metrics["e2e_per_token"].p90 == pytest.approx(theirs("time_per_output_token_ms")["percentiles"]["p90"] / 1e3)
    assert metrics["tpot"].mean < metrics["e2e_per_token"].mean  # theirs counts the first token's wait
    assert metrics["schedule_delay"].mean == pytest.approx(theirs("request_dispatch_delay")["mean"])
    assert metrics["request_throughput"].mean == pytest.approx(theirs("requests_per_second")["mean"])


def test_given_aiperfs_three_files_of_one_run_then_they_agree() -> None:
    summary, table, requests = (one(name) for name in ("aiperf.json", "aiperf.csv", "aiperf.jsonl"))
    for name in ("ttft", "tpot", "chunk_gap", "e2e"):
        for statistic in ("mean", "p50", "p90", "p99"):
            value = getattr(summary[name], statistic)
            assert getattr(requests[name], statistic) == pytest.approx(value, rel=1e-6)
            printed = getattr(table[name], statistic) if name in table else table[f"{name}_{statistic}"].mean
            assert printed == pytest.approx(value, abs=5.1e-6)  # hundredths of a millisecond
    assert table["output_throughput"].mean == pytest.approx(summary["output_throughput"].mean, abs=0.0051)
    assert requests["output_throughput"].mean == pytest.approx(summary["output_throughput"].mean, rel=0.05)


def test_given_the_same_run_in_two_files_then_it_is_kept_once() -> None:
    found = import_files([DATA / "aiperf.json", DATA / "aiperf.jsonl"])
    assert [name for name, _ in found.records] == ["aiperf"]
    assert [(each.file, each.breach.law) for each in found.impossible] == [("aiperf.jsonl", "duplicate")]
    assert found.exit_code == INVALID


def test_given_a_request_that_cannot_be_then_it_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    def spoil(value: dict[str, Any]) -> None:
        value["ttfts"][5] = 2 * value["latencies"][5]
        value["latencies"][7] = float("nan")
        for series in ("ttfts", "latencies", "start_times", "itls"):
            value[series][9] = value[series][8]

    found = changed(tmp_path, "vllm-detailed.json", spoil)
    assert {(each.place, each.breach.law) for each in found.impossible} == {
        ("request 5", "parts"), ("request 7", "sign"), ("request 9", "duplicate")}  # fmt: skip
    ((_, record),) = found.records
    assert record.metric("ttft").n == 29
    assert "output_throughput" not in {metric.name for metric in record.metrics}  # it counts all 32
    assert found.exit_code == INVALID


@pytest.mark.parametrize("name", ["vllm-detailed.json", "guidellm.json", "aiperf.jsonl"])
def test_given_no_request_that_can_be_then_each_is_named_and_there_is_no_record(name: str, tmp_path: Path) -> None:
    text = TEXTS[name]
    value: Any = json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]
    if name == "vllm-detailed.json":
        value["ttfts"] = [-1.0] * len(value["ttfts"])
    for request in value["benchmarks"][0]["requests"]["successful"] if name == "guidellm.json" else ():
        request["request_latency"] = -1.0
    for line in value if name == "aiperf.jsonl" else ():
        line["metrics"]["request_latency"]["value"] = -1.0
    (tmp_path / name).write_text("\n".join(map(json.dumps, value)) if isinstance(value, list) else json.dumps(value))
    found = import_files([tmp_path / name])
    assert (found.records, found.unreadable) == ([], [])
    assert [each.breach.law for each in found.impossible] == ["sign"] * 32


def test_given_a_text_with_a_line_separator_or_an_answer_of_nanoseconds_then_it_is_read(tmp_path: Path) -> None:
    line = json.loads(TEXTS["aiperf.jsonl"].splitlines()[0])
    line["metadata"]["worker_id"] = "a\u2028b"
    line["metrics"] = {"request_latency": {"value": 100, "unit": "ns"},
                       "output_sequence_length": {"value": 1, "unit": "tokens"}}  # fmt: skip
    (tmp_path / "tiny.jsonl").write_text(json.dumps(line, ensure_ascii=False) + "\n")
    ((_, record),) = import_files([tmp_path / "tiny.jsonl"]).records
    assert record.metric("duration").mean == pytest.approx(1e-7)


def test_given_an_aiperf_table_with_no_number_of_requests_then_it_is_named(tmp_path: Path) -> None:
    for count in ("nan", "inf"):
        (tmp_path / "a.csv").write_text(TEXTS["aiperf.csv"].replace("Request Count,32.00", f"Request Count,{count}"))
        (named,) = import_files([tmp_path / "a.csv"]).impossible
        assert named.breach.figures == ("requests.mean",)


def test_given_a_summary_that_is_not_of_its_own_requests_then_nothing_of_it_is_kept(tmp_path: Path) -> None:
    for name, change in (
        ("vllm-detailed.json", lambda value: value.update(mean_ttft_ms=60.0)),
        ("guidellm.json", lambda value: value["benchmarks"][0]["metrics"]["request_latency"]["successful"].update(
            mean=0.2, max=0.3)),
    ):  # fmt: skip
        found = changed(tmp_path, name, change)
        assert found.records == []
        assert [each.breach.law for each in found.impossible] == ["summary"]


def test_given_a_run_that_aiperf_calls_incomplete_then_the_record_has_the_flaw(tmp_path: Path) -> None:
    found = changed(tmp_path, "aiperf.json", lambda value: value.update(
        is_complete=False, incomplete_reason="a record stalled", was_cancelled=True))  # fmt: skip
    ((_, record),) = found.records
    assert [flaw.kind for flaw in record.flaws] == ["invalid", "cut"]
    assert "a record stalled" in record.flaws[0].reason


def test_given_several_results_appended_to_one_file_then_each_is_a_record(tmp_path: Path) -> None:
    second = json.loads(TEXTS["vllm-detailed.json"])
    path = tmp_path / "appended.json"
    path.write_text(TEXTS["vllm-summary.json"] + json.dumps(second) + "\n")
    found = import_files([path])
    assert [name for name, _ in found.records] == ["appended-1", "appended-2"]


def test_given_a_compressed_file_then_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "aiperf.jsonl.gz").write_bytes(gzip.compress(TEXTS["aiperf.jsonl"].encode()))
    assert import_files([tmp_path / "aiperf.jsonl.gz"]).exit_code == 0


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "", "empty"),
        ("a.json", '{"a": 1', "line 1: It ends in the middle"),
        ("a.json", '{"a":\n nope}', "line 2: It is no JSON"),
        ("a.json", '{"results": []}', "no result of vllm bench serve, guidellm or AIPerf"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.json", '{"schema_version": 2, "subject": {}, "workload": {}, "metrics": []}', "penstock journal add"),
        ("a.txt", "some words", "neither JSON nor a table"),
        ("a.csv", "Run Info,Run Info\nRun ID,x\n,\n", "import its JSON"),
        ("a.jsonl", '{"a": 1}\n{"b": 2}\n', "no result of"),
        ("a.jsonl", TEXTS["aiperf.jsonl"] + '{"metadata"', "line 33: It ends in the middle"),
        ("a.json", '{"backend":"x","duration":1,"completed":0,"request_throughput":0}', "nothing to keep"),
        ("a.json", '{"backend":"x","duration":"1","completed":4,"request_throughput":4}', "duration is no number"),
    ],
)  # fmt: skip
def test_given_a_file_that_cannot_be_read_then_it_says_where_and_why(
    name: str, text: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    found = import_files([tmp_path / name, DATA / "guidellm.json"])
    (error,) = found.unreadable
    assert str(tmp_path / name) in error.message
    assert said in error.message
    assert len(found.records) == 1  # the good one is kept
    assert found.exit_code == InvalidRequestError.exit_code


def test_given_another_tools_file_or_none_then_it_says_so(tmp_path: Path) -> None:
    (error,) = import_files([DATA / "guidellm.json"], fmt="vllm").unreadable
    assert "a result of guidellm, not of vllm" in error.message
    (error,) = import_files([tmp_path / "none.json"]).unreadable
    assert isinstance(error, NotFoundError)


@settings(deadline=None, max_examples=80)
@given(st.sampled_from(FILES), st.data())
def test_given_a_truncated_file_then_it_is_refused_or_read_and_nothing_else(name: str, data: st.DataObject) -> None:
    text = TEXTS[name][: data.draw(st.integers(1, len(TEXTS[name]) - 2))]
    rows, refusal = attempted(name, text)
    assert name in refusal or rows
    assert not rows or name.startswith("aiperf.")  # lines that are whole are a result


def _paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    return [path for key, each in inner for path in ((*at, key), *_paths(each, (*at, key)))]


VALUES = {name: json.loads(text) for name, text in TEXTS.items() if name.endswith(".json")}
PATHS = {name: _paths(value) for name, value in VALUES.items()}
JUNK = (None, "x", "", -1, 0, 1e308, float("nan"), 10**400, [], {}, True, [None], {"mean": "x"})


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_given_any_field_missing_or_wrong_then_there_is_a_record_or_a_plain_refusal(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(VALUES)))
    *above, last = data.draw(st.sampled_from(PATHS[name]))
    value = spoiled = copy.deepcopy(VALUES[name])
    for key in above:
        value = value[key]
    junk = data.draw(st.sampled_from((*JUNK, "missing")))
    if junk == "missing":
        del value[last]
    else:
        value[last] = junk
    rows, refusal = attempted(name, json.dumps(spoiled))
    assert name in refusal or rows
    for row in rows:
        if not row.breaches and not breaches(row.figures):
            assert Record.from_json(record_of(row, "0" * 64).to_json()).metrics
