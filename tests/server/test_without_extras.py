"""What is installed without extras works without numpy, onnxruntime, PyTorch and gRPC, which are hidden from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pkgutil import walk_packages
from typing import TYPE_CHECKING

import pytest

import penstock
from penstock.core.errors import ConfigError
from support.gguf_files import write_tiny_gguf
from support.tiny_chat import write_tiny_chat
from support.tiny_encoders import write_encoder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Python = Callable[..., subprocess.CompletedProcess[str]]

ONLY_OF_AN_EXTRA = (
    "penstock.engine.runners.torch", "penstock.models.dequantize", "penstock.engine.encoders.session",
    "penstock.engine.encoders.bert", "penstock.engine.encoders.native_session", "penstock.engine.encoders.results",
    "penstock.server.kserve.grpc_", "penstock.server.kserve.inference_pb2", "penstock.server.kserve.health_pb2",
    "penstock.lab.", "penstock.cli.bench_report",
)  # fmt: skip
HIDDEN = ("numpy", "onnxruntime", "torch", "grpc", "google.protobuf", "optuna", "markdown_it")
HIDING = f"import sys\nfor name in {HIDDEN}:\n    sys.modules[name] = None\n"


@pytest.fixture
def python(tmp_path: Path) -> Python:
    """Run Python with these arguments; neither it nor what it starts can import what is of an extra."""
    hiding = tmp_path / "hiding"
    hiding.mkdir()
    (hiding / "sitecustomize.py").write_text(HIDING)
    path = os.pathsep.join(filter(None, (str(hiding), os.environ.get("PYTHONPATH"))))
    env = {**os.environ, "PYTHONPATH": path, "PENSTOCK_HOME": str(tmp_path / "home"), "PENSTOCK_OFFLINE": "1"}

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, check=False)

    with pytest.raises(subprocess.CalledProcessError):
        run("-c", "import numpy").check_returncode()
    return run


def fine(ran: subprocess.CompletedProcess[str]) -> str:
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_every_module_that_is_not_of_an_extra_is_imported(
    python: Python,
) -> None:
    names = [module.name for module in walk_packages(penstock.__path__, "penstock.")]
    names = [name for name in names if not name.startswith(ONLY_OF_AN_EXTRA) and not name.endswith("__main__")]
    assert {"penstock.server.app", "penstock.cli.app", "penstock.core.record", "penstock._native"} <= {*names}
    fine(python("-c", f"from importlib import import_module\nfor name in {names}: import_module(name)"))


@pytest.mark.parametrize("types", ["BF16", "Q4_0"])
def test_a_gguf_file_is_shown_verified_and_computed(python: Python, tmp_path: Path, types: str) -> None:
    path = tmp_path / "m.gguf"
    spec, _ = write_tiny_gguf(path, types=types)
    assert json.loads(fine(python("-m", "penstock.cli", "models", "show", path, "--json")))["spec"]["name"] == "tiny"
    report = json.loads(fine(python("-m", "penstock.cli", "models", "verify", path, "--json")))
    assert report["ok"] is True
    program = f"""
from penstock.engine.runners.base import RunnerConfig
from penstock.engine.runners.select import make_runner
from penstock.engine.types import SampleSpec, SamplingParams, SequenceStep, StepBatch
runner = make_runner(RunnerConfig(model_path={str(path)!r}, threads=1, max_model_len=64))
runner.load()
runner.allocate(4)
prompt = [1, 5, 9]
sample = SampleSpec(SamplingParams(temperature=0), 0, prompt, (), ())
print(runner.execute(StepBatch([SequenceStep("a", prompt, 0, (0,), sample)])).sequences[0].token_id)
"""
    assert 0 <= int(fine(python("-c", program))) < spec.vocab_size


def test_a_directory_of_safetensors_is_verified_and_answers_a_file_of_prompts(python: Python, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    path = write_tiny_chat(tmp_path / "model")
    assert json.loads(fine(python("-m", "penstock.cli", "models", "verify", path, "--json")))["ok"] is True
    prompts, answers = tmp_path / "prompts.txt", tmp_path / "answers.jsonl"
    prompts.write_text("hello\n")
    settings = ("--model", path, "--max-tokens", "4", "--kv-memory", "4MiB", "--threads", "1")
    fine(python("-m", "penstock.cli", "generate", prompts, "-o", answers, *settings))
    assert json.loads(answers.read_text())["usage"]["completion_tokens"] > 0


def test_samples_become_a_metric(python: Python) -> None:
    program = "from penstock.core.record import Metric; print(Metric.from_samples('x', 's', range(101)).p90)"
    assert fine(python("-c", program)) == "90.0\n"


@pytest.mark.parametrize("use", [
    "from penstock.core.machine import read_bandwidth as use\nuse()",
    "from penstock.models.load import load\nload(path)[1].read('embed.weight')",
    "from penstock.engine.runners.base import RunnerConfig\nfrom penstock.engine.runners.select import make_runner\n"
    "make_runner(RunnerConfig(str(path), runner='torch'))",
])  # fmt: skip
def test_what_needs_the_extra_says_so(python: Python, tmp_path: Path, use: str) -> None:
    write_tiny_gguf(tmp_path / "m.gguf")
    ran = python("-c", f"from pathlib import Path\npath = Path({str(tmp_path / 'm.gguf')!r})\n{use}")
    assert "ConfigError" in ran.stderr
    assert "numpy: pip install 'penstock[torch]'" in ran.stderr


def test_given_no_grpc_when_its_port_is_set_then_it_says_what_to_install(python: Python, tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "m.gguf")
    ran = python("-m", "penstock.cli", "serve", tmp_path / "m.gguf", "--port", "0", "--grpc-port", "0")
    assert ran.returncode == 9
    assert "pip install 'penstock[grpc]'" in ran.stderr


def test_an_encoder_says_what_it_needs(python: Python, tmp_path: Path) -> None:
    path = write_encoder(tmp_path / "model", "embedder")
    ran = python("-m", "penstock.cli", "serve", path, "--port", "0")
    assert ran.returncode == ConfigError.exit_code
    assert "pip install 'penstock[encoders]'" in ran.stderr
    spec = json.loads(fine(python("-m", "penstock.cli", "models", "show", path, "--json")))["spec"]
    assert (spec["kind"], spec["architecture"]) == ("embedder", "bert")


@pytest.mark.parametrize("command", [("run",), ("sweep",), ("compare",), ("report", "kept.json")])
def test_a_measurement_says_which_extra_to_install(python: Python, command: tuple[str, ...]) -> None:
    ran = python("-m", "penstock.cli", "bench", *command)
    assert ran.returncode == ConfigError.exit_code
    assert ran.stderr.endswith("pip install 'penstock[lab]'.\n")


@pytest.mark.parametrize("command", [("bench", "workloads"), ("bench", "engines", "list"), ("journal", "--help")])
def test_what_measures_nothing_needs_no_extra(python: Python, command: tuple[str, ...]) -> None:
    assert fine(python("-m", "penstock.cli", *command))
