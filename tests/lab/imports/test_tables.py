"""Tables that others published: what their headings mean, and rows that can't be true."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.cli.app import run
from penstock.core.errors import InvalidRequestError
from penstock.core.record import Record
from penstock.lab.exits import INVALID
from penstock.lab.imports.columns import columns_of, number_of
from penstock.lab.imports.importing import Known, import_files, read

if TYPE_CHECKING:
    from collections.abc import Sequence

TABLE = """\
Engine,Model,GPU,Concurrency,TTFT p50 (ms),Mean TTFT (ms),Mean TPOT (ms),E2E latency mean [s],Output tokens/s,req/s,OSL
fast,Llama-8B,H100 SXM,8,100,110,10,1.38,730,5.7,128
slow,Llama-8B,H100 SXM,8,300,310,20,2.85,355,2.77,128
"""


def meanings(*headings: str, asked: Sequence[str] = ()) -> list[tuple[str, str, float]]:
    found = columns_of(Path("t.csv"), 1, [*headings], asked)
    return [(column.target, column.statistic, column.factor) for column in found]


@pytest.mark.parametrize(
    ("heading", "meaning"),
    [
        ("TTFT p50 (ms)", ("ttft", "p50", 1e-3)),
        ("mean_ttft_ms", ("ttft", "mean", 1e-3)),
        ("P99 ITL [ms]", ("itl", "p99", 1e-3)),
        ("Median TPOT, ms", ("tpot", "p50", 1e-3)),
        ("Time to First Token (s) avg", ("ttft", "mean", 1.0)),
        ("e2e_latency_p95_s", ("e2e", "p95", 1.0)),
        ("End-to-end latency (99%) (s)", ("e2e", "p99", 1.0)),
        ("Output tokens/s", ("output_throughput", "mean", 1.0)),
        ("output throughput (tok/s)", ("output_throughput", "mean", 1.0)),
        ("Total token throughput (tok/s)", ("total_throughput", "mean", 1.0)),
        ("Throughput (tokens/s)", ("output_throughput", "mean", 1.0)),
        ("req/s", ("request_throughput", "mean", 1.0)),
        ("Request throughput (req/s)", ("request_throughput", "mean", 1.0)),
        ("Requests per second", ("request_throughput", "mean", 1.0)),
        ("Output tokens", ("output_tokens", "", 1.0)),
        ("ISL", ("prompt_tokens", "", 1.0)),
        ("Concurrency", ("concurrency", "mean", 1.0)),
        ("GPU", ("hardware", "mean", 1.0)),
        ("Notes", ("workload.Notes", "mean", 1.0)),
        ("Price ($)", ("workload.Price ($)", "mean", 1.0)),
    ],
)
def test_given_a_heading_then_it_means_what_it_says(heading: str, meaning: tuple[str, str, float]) -> None:
    found = meanings("x", heading, asked=["#1=goodput"])[1]
    assert found[0] == meaning[0]
    assert found[1] == (meaning[1] or "mean")
    assert found[2] == pytest.approx(meaning[2])


@pytest.mark.parametrize(
    ("headings", "asked", "said"),
    [
        (["TTFT"], [], "'TTFT' names no unit"),
        (["a", "b"], [], "No column is known to be a figure"),
        (["TTFT (ms)", "mean TTFT [ms]"], [], "both tell ttft.mean"),
        (["a"], ["a"], "is no mapping"),
        (["abc"], ["abd=ttft:ms"], "Did you mean 'abc'?"),
        (["a"], ["#2=ttft:ms"], "There is no column #2"),
        (["a"], ["a=ttft"], "names no unit"),
        (["a"], ["a=ttft.p42:ms"], "has no 'p42'"),
        (["a"], ["a=ttft:tokens"], "'tokens' is not"),
        (["a"], ["a=tftf:ms"], "Did you mean 'ttft'?"),
    ],
)
def test_given_a_heading_or_mapping_that_cannot_be_then_it_says_why(
    headings: list[str], asked: list[str], said: str
) -> None:
    with pytest.raises(InvalidRequestError, match=r"^t\.csv, line 1: |^--columns: ") as raised:
        meanings(*headings, asked=asked)
    assert said in raised.value.message


@settings(deadline=None, max_examples=60)
@given(st.floats(1e-6, 1e12), st.integers(0, 6))
def test_given_a_printed_number_then_it_is_read_with_what_it_leaves_open(value: float, decimals: int) -> None:
    for text in (f"{value:.{decimals}f}", f"{value:,.{decimals}f}"):
        found, half = number_of(Path("t.csv"), 1, text)
        assert half == pytest.approx(0.5 * 10**-decimals)
        assert abs(found - value) <= half * (1 + 1e-6) + 1e-9 * value


@pytest.mark.parametrize("text", ["1,2", "1.2.3", "12 ms", "x", "1,2345", ".", "1e", "--1"])
def test_given_no_number_then_it_is_refused_with_its_line_and_column(text: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"t\.csv, line 7: .* in column 'TTFT' is no number"):
        number_of(Path("t.csv"), 7, text, "TTFT")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.text(max_size=8), min_size=1, max_size=4), min_size=1, max_size=4), st.booleans())
def test_given_any_csv_then_it_is_read_or_refused_and_nothing_else(rows: list[list[str]], headed: bool) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([["TTFT (ms)", "req/s", "GPU", "OSL"], *rows] if headed else rows)
    refusal, found = "", []
    try:
        found = read(Path("t.csv"), text.getvalue(), "csv")
    except InvalidRequestError as error:
        refusal = error.message
    assert "t.csv" in refusal or found
    assert all(row.figures.spreads for row in found)


def test_given_a_table_then_each_row_is_a_record_with_its_labels(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(TABLE)
    found = import_files([tmp_path / "table.csv"], known=Known(params=8e9, dtype="bf16"))
    assert (found.impossible, found.unreadable) == ([], [])
    (name, fast), (_, slow) = found.records
    assert name == "table-2"
    assert (fast.subject.name, slow.subject.name) == ("fast", "slow")
    assert fast.metric("ttft_p50").mean == 0.1
    assert fast.metric("output_throughput").mean == 730
    assert fast.machine.gpus[0].name == "H100 SXM"
    assert fast.workload.parameters["concurrency"] == 8
    assert fast.workload.parameters["imported"]["place"] == "line 2"


def test_given_rows_that_cannot_be_then_each_is_named_with_line_figure_and_law(tmp_path: Path) -> None:
    rows = TABLE + (
        "wrong,Llama-8B,H100 SXM,8,100,110,10,1.38,7300,5.7,128\n"
        "unit,Llama-8B,H100 SXM,8,99,0.111,10,1.38,731,5.71,128\n"
        "magic,Llama-8B,H100 SXM,1,50,51,0.5,0.1145,1118,8.73,128\n"
        "many,Llama-8B,H100 SXM,2,101,112,11,1.51,731,5.71,128\n"
        "fast,Llama-8B,H100 SXM,8,100,110,10,1.38,730,5.7,128\n"
        "none,Llama-8B,H100 SXM,8,nan,110,10.1,1.38,731,5.71,128\n"
    )
    (tmp_path / "table.csv").write_text(rows)
    found = import_files([tmp_path / "table.csv"], known=Known(params=8e9, dtype="bf16"))
    named = {(each.place, each.breach.law) for each in found.impossible}
    assert named == {
        ("line 4", "counts"), ("line 5", "order"), ("line 6", "memory"), ("line 7", "concurrency"),
        ("line 8", "duplicate"), ("line 9", "sign"),
    }  # fmt: skip
    assert next(each for each in found.impossible if each.place == "line 5").breach.hint.endswith("is it in seconds?")
    assert [record.subject.name for _, record in found.records] == ["fast", "slow"]
    assert found.exit_code == INVALID


def test_given_one_runs_figures_under_two_names_then_neither_is_kept(tmp_path: Path) -> None:
    lines = TABLE.splitlines()
    (tmp_path / "table.csv").write_text("\n".join([*lines, lines[1].replace("fast", "other")]))
    found = import_files([tmp_path / "table.csv"])
    assert [(each.place, each.breach.law) for each in found.impossible] == [
        ("line 2", "duplicate"), ("line 4", "duplicate")]  # fmt: skip
    assert [record.subject.name for _, record in found.records] == ["slow"]


def test_given_a_broken_table_then_it_says_on_which_line(tmp_path: Path) -> None:
    for text, said in (
        (TABLE.splitlines()[0], "line 1: It has headings and no rows"),
        (TABLE + "fast,8\n", "line 4: It has 2 cells under 11 headings"),
        (TABLE.replace("1.38", "1.38 s"), "line 2: '1.38 s' in column 'E2E latency mean [s]' is no number"),
        (TABLE + '"x', "line 4: It is no CSV"),
        (",,\n,\n", "None of its cells holds anything"),
        (TABLE.replace("fast", "fa\0st"), "line 2): A subject's name is printable text"),
    ):
        (tmp_path / "table.csv").write_text(text)
        (error,) = import_files([tmp_path / "table.csv"]).unreadable
        assert said in error.message


def test_given_rates_of_no_requests_then_it_is_judged_still(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("Completed,req/s,Output tokens/s,OSL\n0,5,7300,128\n")
    (named,) = import_files([tmp_path / "table.csv"]).impossible
    assert named.breach.law == "counts"


def test_given_the_command_then_what_is_good_is_kept_and_the_exit_code_tells_of_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "table.csv").write_text(TABLE + "wrong,Llama-8B,H100 SXM,8,100,110,10,1.38,7300,5.7,128\n")
    arguments = ["bench", "import", str(tmp_path / "table.csv"), "--out", str(tmp_path / "kept")]
    assert run([*arguments, "--columns", "OSL=output_tokens, GPU=hardware", "--json"]) == INVALID
    told = json.loads(capsys.readouterr().out)
    assert [Record.load(Path(path)).subject.name for path in told["kept"]] == ["fast", "slow"]
    assert [(each["place"], each["law"]) for each in told["impossible"]] == [("line 4", "counts")]
    assert run(arguments) == INVALID
    captured = capsys.readouterr()
    assert "IMPOSSIBLE: table.csv, line 4: output_throughput (7300 tokens/s)" in captured.out


@pytest.mark.parametrize(
    ("option", "value"),
    [("--format", "xml"), ("--hardware", "abacus"), ("--bandwidth", "fast"), ("--dtype", "f17"), ("--params", "0")],
)
def test_given_an_option_that_makes_no_sense_then_it_is_refused(option: str, value: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(TABLE)
    with pytest.raises(InvalidRequestError, match=value):
        run(["bench", "import", str(tmp_path / "table.csv"), option, value])


def test_given_columns_and_no_table_then_they_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="--columns is of tables"):
        import_files([Path(__file__).parent / "data" / "vllm-detailed.json"], columns=["a=ttft:ms"])


@pytest.mark.parametrize("devices", ["-3", "1.5", "inf", "1e12"])
def test_given_a_number_of_devices_that_cannot_be_then_the_file_is_refused(devices: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"GPU,GPUs,Output tokens/s\nH100 SXM,{devices},100\n")
    (error,) = import_files([tmp_path / "t.csv"]).unreadable
    assert "t.csv, line 2" in error.message
    assert devices in error.message


@pytest.mark.parametrize("label", ["devices", "config.devices"])
def test_given_a_row_of_no_accelerator_then_it_is_imported(label: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Devices used,Output tokens/s\n0,100\n")
    found = import_files([tmp_path / "t.csv"], columns=[f"Devices used={label}"])
    assert [len(found.records), len(found.unreadable)] == [1, 0]


def test_given_columns_and_a_table_that_cannot_be_read_then_the_others_are_imported(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Other,Output tokens/s\n1,100\n")
    measured = Path(__file__).parent / "data" / "vllm-detailed.json"
    found = import_files([measured, tmp_path / "t.csv"], columns=["Speed=ttft:ms"])
    assert [len(found.records), len(found.unreadable)] == [1, 1]
