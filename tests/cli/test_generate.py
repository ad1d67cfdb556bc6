"""`penstock generate`: the command around the offline run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from support.tiny_chat import write_tiny_chat

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def test_a_file_of_prompts_becomes_a_file_of_answers(
    penstock: Callable[..., Any], alone: Path, echo_model: Path
) -> None:
    (alone / "p.txt").write_text("one\ntwo\n")
    command = ("generate", "p.txt", "-o", "out.jsonl", "--model", echo_model, "--max-tokens", "2")
    ran = penstock(*command)
    assert ran.code == 0
    assert ran.out.startswith("2 prompts answered in out.jsonl; 4 tokens in ")
    assert sorted(line["text"] for line in lines(alone / "out.jsonl")) == ["on", "tw"]
    again = json.loads(penstock(*command, "--json").out)
    assert again == {"prompts": 2, "resumed": 2, "failed": 0, "generated_tokens": 0, "seconds": 0.0}


def test_flags_are_the_defaults_of_every_line(penstock: Callable[..., Any], alone: Path, echo_model: Path) -> None:
    (alone / "p.jsonl").write_text('{"prompt": "abcdef"}\n{"prompt": "abcdef", "stop": [], "max_tokens": 3}\n')
    ran = penstock("generate", "p.jsonl", "-o", "o.jsonl", "--model", echo_model, "--stop", "e", "--n", "2")
    assert ran.code == 0
    first, second = sorted(lines(alone / "o.jsonl"), key=lambda line: line["index"])
    assert (first["text"], len(first["choices"]), second["text"]) == ("abcd", 2, "abc")


def test_prompts_that_fail_make_the_command_fail_when_the_rest_is_done(
    penstock: Callable[..., Any], alone: Path, echo_model: Path
) -> None:
    (alone / "p.txt").write_text(f"fine\n{'x' * 900}\n")
    ran = penstock("generate", "p.txt", "-o", "o.jsonl", "--model", echo_model)
    assert ran.code == 1
    assert "1 could not be answered" in ran.out
    assert len(lines(alone / "o.jsonl")) == 2


def test_changed_parameters_are_refused_and_overwrite_starts_again(
    penstock: Callable[..., Any], alone: Path, echo_model: Path
) -> None:
    (alone / "p.txt").write_text("hello\n")
    command = ("generate", "p.txt", "-o", "o.jsonl", "--model", echo_model)
    assert penstock(*command).code == 0
    refused = penstock(*command, "--max-tokens", "3")
    assert refused.code == 2
    assert "--overwrite" in refused.err
    assert penstock(*command, "--max-tokens", "3", "--overwrite").code == 0
    assert lines(alone / "o.jsonl")[0]["text"] == "hel"


def test_ctrl_c_keeps_what_is_done_and_the_same_command_finishes(alone: Path) -> None:
    """A real engine, interrupted by a real signal."""
    (alone / "model").mkdir()
    write_tiny_chat(alone / "model", max_position_embeddings=2048)
    (alone / "p.txt").write_text("".join(f"prompt {i}\n" for i in range(60)))
    command = [
        sys.executable, "-m", "penstock.cli", "generate", "p.txt", "-o", "o.jsonl", "--model", "./model",
        "--max-tokens", "150", "--ignore-eos", "--max-num-seqs", "4", "--dtype", "float32", "--threads", "1",
        "--kv-memory", "8MiB", "--json",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not ((alone / "o.jsonl").exists() and len(lines(alone / "o.jsonl")) >= 4):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "run the same command again" in said
    assert "Traceback" not in said
    before = lines(alone / "o.jsonl")
    assert 4 <= len(before) < 60
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(finished.stdout)["resumed"] == len(before)
    found = lines(alone / "o.jsonl")
    assert found[: len(before)] == before
    assert sorted(line["index"] for line in found) == list(range(60))
