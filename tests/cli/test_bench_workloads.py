"""`penstock bench workloads` and `penstock bench workload show`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from penstock.cli.app import run
from penstock.core.errors import InvalidRequestError
from penstock.lab.bench.workloads import KINDS

if TYPE_CHECKING:
    from pathlib import Path


def test_given_workloads_then_all_are_listed_with_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    run(["bench", "workloads"])
    assert [line.split("\t")[0].split(":")[0] for line in capsys.readouterr().out.splitlines()[1:]] == [*KINDS]
    run(["bench", "workloads", "prefixes"])
    shown = capsys.readouterr().out
    assert all(option.name in shown for option in KINDS["prefixes"].options)
    run(["bench", "workloads", "--json"])
    listed = json.loads(capsys.readouterr().out)["workloads"]
    assert {one["name"]: [option["name"] for option in one["options"]] for one in listed} == {
        name: [option.name for option in kind.options] for name, kind in KINDS.items()
    }


def test_given_a_workload_then_what_it_would_send_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run(["bench", "workload", "show", "synthetic?input_tokens=20&output_tokens=3-5", "--count", "50", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["spreads"]["input words"] == {"count": 50, "mean": 20, "p50": 20, "p90": 20, "p99": 20, "max": 20}
    assert shown["spreads"]["output tokens"]["max"] == 5
    assert shown["parameters"]["output_tokens"] == "3-5"
    trace = tmp_path / "trace.csv"
    trace.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00,30,4\n2024-05-10 00:00:02,30,4\n", "utf-8"
    )
    run(["bench", "workload", "show", f"azure:{trace}"])
    text = capsys.readouterr().out
    assert "input words\t30\t30" in text
    assert "0.5 requests/s" in text


def test_given_a_tokenizer_then_lengths_are_in_tokens(capsys: pytest.CaptureFixture[str], smollm2_path: Path) -> None:
    arguments = ["bench", "workload", "show", "synthetic", "--tokenizer", str(smollm2_path), "--count", "5", "--json"]
    run(arguments)
    assert json.loads(capsys.readouterr().out)["spreads"]["input tokens"]["mean"] == 128


def test_given_a_wrong_workload_then_the_right_one_is_named() -> None:
    with pytest.raises(InvalidRequestError, match="Did you mean 'mooncake'"):
        run(["bench", "workload", "show", "moncake:x"])
    with pytest.raises(InvalidRequestError, match="Did you mean 'documents'"):
        run(["bench", "workloads", "document"])
