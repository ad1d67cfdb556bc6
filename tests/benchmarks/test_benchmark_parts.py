"""The benchmark's other parts: prompts, processes, limits, ratios, report and chart."""

from __future__ import annotations

import json
import string
import sys
import time
import xml.etree.ElementTree as ET
from itertools import combinations
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from benchmarks.client import Answer
from benchmarks.errors import BenchmarkError
from benchmarks.peers import PEERS
from benchmarks.peers.base import _checked
from benchmarks.scenarios import installed
from benchmarks.serving import Plan, Run, Series, bandwidth_limit, write_records
from benchmarks.workload import ModelFiles, Prompt, Prompts
from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks import report
from penstock.core.errors import EngineDeadError
from penstock.core.machine import fingerprint
from penstock.core.record import Record
from penstock.lab.bench.engines.process import Child, CpuShares, CpuWatch, Memory
from penstock.lab.journal.chart import Chart, Line, Point

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG = {"num_key_value_heads": 3, "head_dim": 64, "num_hidden_layers": 30}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    """A folder that looks like a model: a tokenizer of three-letter words, sizes, and files of known length."""
    folder = tmp_path_factory.mktemp("model")
    vocabulary = {letter: index for index, letter in enumerate([*string.ascii_lowercase, "Ġ"])}
    merges: list[tuple[str, str]] = []
    for letters in combinations(string.ascii_lowercase[:8], 3):
        piece = "Ġ"
        for letter in letters:
            if piece + letter not in vocabulary:
                vocabulary[piece + letter] = len(vocabulary)
                merges.append((piece, letter))
            piece += letter
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").write_bytes(b"\0" * 2000)
    (folder / "model.gguf").write_bytes(b"\0" * 1000)
    return ModelFiles(folder / "model.gguf", folder)


def test_prompts_have_their_length_share_no_beginning_and_repeat_by_key(model: ModelFiles) -> None:
    prompts = Prompts(model.tokenizer_json, seed=1)
    taken = prompts.take(32, "a", tokens=130)
    assert {len(prompt.ids) for prompt in taken} == {130}
    assert len({prompt.ids[0] for prompt in taken}) == 32
    tokenizer = Tokenizer.from_file(str(model.tokenizer_json))
    assert all(tuple(tokenizer.encode(prompt.text).ids) == prompt.ids for prompt in taken)
    assert prompts.take(32, "a", tokens=130) == taken
    assert prompts.take(32, "b", tokens=130) != taken
    assert Prompts(model.tokenizer_json, seed=2).take(32, "a", tokens=130) != taken


def test_prompts_with_a_prefix_share_it_and_nothing_more(model: ModelFiles) -> None:
    prompts = Prompts(model.tokenizer_json, seed=1)
    prefix = prompts.take(1, "prefix", tokens=50)[0]
    one, two = prompts.take(2, "pair", tokens=60, prefix=prefix)
    assert one.ids[:50] == two.ids[:50] == prefix.ids
    assert one.ids[50] != two.ids[50]
    assert len(one.ids) == len(two.ids) == 60


PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN);"
                          "print('up', flush=True); time.sleep(600)"], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


def test_stopping_a_child_leaves_nothing_of_its_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.lab.bench.engines.process._STOP_TIMEOUT_S", 0.5)
    child = Child([sys.executable, "-c", PARENT], tmp_path / "log", pipes=True)
    stubborn = int(child.stdout.readline())
    assert child.memory().rss > 1 << 20
    child.check_alive()
    child.stop()
    assert not psutil.pid_exists(stubborn) or psutil.Process(stubborn).status() == psutil.STATUS_ZOMBIE
    assert child.tree() == []
    with pytest.raises(EngineDeadError, match="ended with status"):
        child.check_alive()


def test_a_child_that_died_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = Child([sys.executable, "-c", "import sys; sys.exit('out of luck')"], tmp_path / "log")
    psutil.wait_procs(child.tree(), timeout=30)
    with pytest.raises(EngineDeadError, match="out of luck"):
        child.check_alive()
    child.stop()


def test_cpu_time_is_told_apart_by_who_used_it(tmp_path: Path) -> None:
    child = Child([sys.executable, "-c", "print(1, flush=True)\nwhile True: pass"], tmp_path / "log", pipes=True)
    try:
        child.stdout.readline()
        watch = CpuWatch(child)
        deadline = time.monotonic() + 30
        while child.cpu_seconds() < 1.0 and time.monotonic() < deadline:
            sum(range(10_000))
        shares = watch.stop()
    finally:
        child.stop()
    assert shares.peer > 0.05
    assert shares.client > 0.0
    assert shares.others >= 0.0


def an_answer(sent: float, first: float, last: float, tokens: int = 11) -> Answer:
    step = (last - first) / (tokens - 1)
    return Answer(sent, tuple(first + step * n for n in range(tokens)), tokens, "text", "length")


def a_series(name: str, throughputs: dict[int, list[float]]) -> Series:
    """Two rounds of bursts whose last token comes when `throughputs` says."""
    runs = [
        Run(
            number,
            level,
            [an_answer(0.0, 0.001, 11 * level / speed) for _ in range(level)],
            CpuShares(1.0, 0.01, 0.3 if name == "transformers" else 0.0, 0.0),
            Memory(10, 9),
        )
        for level, speeds in throughputs.items()
        for number, speed in enumerate(speeds)
    ]
    return Series(PEERS[name], "1.0", {"weights": "bfloat16"}, [1.0, 2.0], runs)


def test_throughput_counts_from_the_first_request_to_the_last_token() -> None:
    run = Run(0, 2, [an_answer(10.0, 11.0, 12.0), an_answer(10.5, 11.0, 14.0)], CpuShares(0, 0, 0, 0), Memory(0, 0))
    assert run.seconds == 4.0
    assert run.throughput == 22 / 4.0


def test_the_bandwidth_limit_reads_weights_once_a_step_and_kv_once_a_stream(model: ModelFiles) -> None:
    kv = 2 * 30 * 3 * 64 * 2 * (130 + 64)
    assert bandwidth_limit(PEERS["penstock"], model, 1e9, 4) == pytest.approx(4e9 / (1000 + 4 * kv))
    assert bandwidth_limit(PEERS["vllm-cpu"], model, 1e9, 4) == pytest.approx(4e9 / (2000 + 4 * kv))
    assert bandwidth_limit(PEERS["transformers"], model, 1e9, 4) == pytest.approx(1e9 / (2000 + kv))


@pytest.fixture
def records(tmp_path: Path, model: ModelFiles) -> Iterator[Path]:
    out = tmp_path / "records"
    ours = a_series("penstock", {1: [40.0, 44.0], 8: [200.0, 220.0]})
    theirs = a_series("transformers", {1: [20.0, 20.0], 8: [20.0, 22.0]})
    prompts = Prompts(model.tokenizer_json, seed=5)
    machine = fingerprint()
    written = write_records([ours, theirs], Plan((1, 8), 2, 1), model, prompts, machine, out)
    assert len(written) == 4
    return out


def test_records_hold_the_ratio_of_each_round_and_their_raw_files(records: Path) -> None:
    record = Record.load(records / "serving-penstock-c8.json")
    record.verify_files(records)
    ratio = record.metric("ratio_to_transformers")
    assert (ratio.n, ratio.min, ratio.max) == (2, pytest.approx(10.0), pytest.approx(10.0))
    assert record.metric("output_throughput").p50 == pytest.approx(210.0)
    assert record.workload.parameters["concurrency"] == 8


def test_the_summary_is_sorted_by_speed_and_names_what_disturbed_it(records: Path) -> None:
    report.write(records)
    text = (records / "SUMMARY.md").read_text()
    assert text.index("| penstock 1.0 |") < text.index("| transformers 1.0 |")
    assert "| transformers | 2.10 (2.00 to 2.20) | 10.00 (10.00 to 10.00) |" in text
    assert "transformers at 8: other processes took up to 0.30 cores" in text
    assert "penstock at 8: other processes" not in text
    assert "different plans" not in text
    drawn = sorted(path.name for path in (records.parent / "plots").iterdir())
    assert drawn == [f"records-{metric}.svg" for metric in ("inter_token", "output_throughput", "ttft")]
    for name in drawn:
        ET.fromstring((records.parent / "plots" / name).read_text())


def test_records_of_different_plans_in_one_folder_are_called_out(records: Path, model: ModelFiles) -> None:
    other = a_series("llama-cpp-python", {1: [30.0]})
    write_records(
        [other], Plan((1,), 1, 1, output_tokens=64), model, Prompts(model.tokenizer_json, 5), fingerprint(), records
    )
    report.write(records)
    assert "different plans" in (records / "SUMMARY.md").read_text()


def test_an_empty_folder_gives_an_empty_summary(tmp_path: Path) -> None:
    report.write(tmp_path)
    assert (tmp_path / "SUMMARY.md").read_text().strip() == "# Measured results"


def test_a_chart_keeps_its_points_inside_and_escapes_names() -> None:
    points = (Point(1, 10, 9, 11), Point(32, 500, 480, 520))
    lines = (Line("a<b & c", points), Line("other", points), Line("limit", points, dashed=True))
    root = ET.fromstring(Chart("t", "x", "y", lines).svg())
    texts = [element.text or "" for element in root.iter() if element.tag.endswith("text")]
    assert any(text.startswith("a<b & c") for text in texts)
    circles: list[dict[str, Any]] = [e.attrib for e in root.iter() if e.tag.endswith("circle")]
    assert len(circles) == 4
    assert all(0 < float(c["cx"]) < 840 and 0 < float(c["cy"]) < 420 for c in circles)


@pytest.mark.parametrize(
    ("tokens", "finish", "prompt_tokens"), [(127, "length", 2), (128, "stop", 2), (128, "length", 3), (128, None, 2)]
)
def test_a_peer_that_did_other_work_is_not_measured(tokens: int, finish: str | None, prompt_tokens: int) -> None:
    prompt = Prompt((1, 2), " a b")
    good = Answer(0.0, (1.0, 2.0), 128, "x", "length", 2)
    assert _checked("peer", prompt, good, 128) == good
    with pytest.raises(BenchmarkError, match="peer"):
        _checked("peer", prompt, Answer(0.0, (1.0, 2.0), tokens, "x", finish, prompt_tokens), 128)


def test_what_is_installed_counts_requirements_of_requirements_but_no_extras() -> None:
    needed = installed.required("penstock")
    assert {"penstock", "starlette", "anyio", "tokenizers"} <= needed
    assert not {"torch", "pytest", "transformers"} & needed
