"""`penstock bench tune` from the command line, over servers that it starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from penstock.core.record import Record
from penstock.lab.bench.engines.base import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def _believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client may be late on a busy machine; whether it was is tested elsewhere."""
    monkeypatch.setattr("penstock.lab.bench.run.judge", lambda _seen: ())


def test_given_a_model_when_tuned_then_the_file_is_one_that_serve_takes_and_the_records_hold_the_evidence(
    penstock: Callable[..., Any], alone: Path, smollm2_path: Path
) -> None:
    (alone / "tune.toml").write_text(
        f'[tune]\nmodel = "{smollm2_path}"\nrounds = 2\n[tune.space]\nblock-size = [16, 32]\n[tune.set]\nthreads = 1\n'
        '[bench]\nconcurrency = 2\nrequests = 6\ninput-tokens = "8"\noutput-tokens = "6"\n'
    )
    ran = penstock("bench", "tune", "--config", "tune.toml", "--out", "kept", "--json")
    assert ran.code in (0, 22), ran.err
    told = json.loads(ran.out)
    assert told["ended"] == "there is nothing else to try"
    assert [trial["settings"] for trial in told["trials"]] == [{}, {"block_size": 32}]
    assert len(told["pairs"]) == 2
    assert {"output_throughput", "ttft mean", "tpot p95"} <= told["beside"].keys()
    assert told["beside"]["output_throughput"]["ratio"] == pytest.approx((told["pairs"][0] * told["pairs"][1]) ** 0.5)
    assert "trial 1: block_size 32" in ran.err
    record = Record.load(alone / "kept" / "tune-winner.json")
    record.verify_files(alone / "kept")
    assert record.metric("throughput_ratio_to_defaults").samples == tuple(told["pairs"])
    assert record.subject.configuration["fixed"] == {"threads": 1}
    assert {file.path for file in record.files} >= {"result.json", "trials.jsonl"}
    assert "<script" in (alone / "kept" / "tune.html").read_text()
    again = penstock("bench", "tune", "--config", "tune.toml", "--out", "kept")
    assert again.code == 2
    assert "--resume" in again.err
    assert len(_served(alone / "kept" / "penstock.toml")) == 1  # here there is no default model


def _served(file: Path) -> list[str]:
    """The models that `penstock serve` serves with this settings file."""
    port = free_port()
    command = [sys.executable, "-m", "penstock.cli", "serve", "--port", str(port)]
    server = subprocess.Popen(command, env={**os.environ, "PENSTOCK_CONFIG": str(file)})
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=10) as answer:
                    return [model["id"] for model in json.load(answer)["data"]]
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < deadline
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def test_given_mistakes_when_tuned_then_each_is_explained(
    penstock: Callable[..., Any], alone: Path, smollm2_path: Path
) -> None:
    for words, says in (
        (("--for", "chats"), "chat"),
        (("--objective", "cost"), "--price-per-hour"),
        (("--set", "block-size=0"), "from 1 to 1024"),
        (("--set", "blocksize=8"), "block_size"),
        (("--resume", "--out", "none"), "no study"),
        (("--body", "[]"), "JSON object"),
        (("--for", "chat", "--workload", "synthetic"), "both say"),
    ):
        ran = penstock("bench", "tune", str(smollm2_path), *words)
        assert ran.code not in (0, 1), words
        assert says in ran.err, (words, ran.err)
    assert "nowhere.gguf" in penstock("bench", "tune", "nowhere.gguf").err
    assert not (alone / "tuned").exists()
