"""`penstock serve`: from flags, environment and file to what the server is started with."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest

from penstock.cli.flags import SERVED_ENGINE, SERVER, Flags
from penstock.engine.config import EngineConfig
from penstock.engine.settings import EngineSettings
from penstock.server.declared import DeclaredModel
from penstock.server.ensembles.declared import Ensemble, Step
from penstock.server.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from penstock.core.settings import PenstockSettings
    from penstock.engine.spawn import CoreProcess

Started = list[tuple[list[DeclaredModel], ServerSettings]]


@pytest.fixture
def ensembles() -> list[Ensemble]:
    """Those that the last server was started with."""
    return []


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, ensembles: list[Ensemble]) -> Started:
    """What servers were started with; none really is."""
    seen: Started = []

    async def serve(
        models: list[DeclaredModel],
        settings: ServerSettings,
        *,
        core: CoreProcess | None,
        declare: Callable[[], list[DeclaredModel]],
        declare_ensembles: Callable[[], list[Ensemble]],
    ) -> None:
        assert (core is not None and core.process.poll() is None) == models[0].preload
        assert declare() == models
        ensembles[:] = declare_ensembles()
        seen.append((models, settings))

    monkeypatch.setattr("penstock.server.run.serve", serve)
    return seen


@pytest.fixture
def model(alone: Path) -> Path:
    (alone / "model.gguf").write_bytes(b"")
    return alone / "model.gguf"


def test_without_flags_the_defaults_start(penstock: Callable[..., Any], model: Path, started: Started) -> None:
    assert penstock("serve", model).code == 0
    assert started == [([DeclaredModel(config=EngineConfig(model_path=str(model)))], ServerSettings())]


def test_every_flag_reaches_its_setting(penstock: Callable[..., Any], model: Path, started: Started) -> None:
    flags = (
        "--max-model-len 100 --max-num-seqs 3 --max-num-batched-tokens 64 --max-prefill-tokens-while-decoding 32 "
        "--max-waiting 9 --max-queue-delay-ms 2.5 --block-size 8 --kv-memory 1MiB --memory 1GiB "
        "--gpu-memory-utilization 0.5 --no-enable-prefix-caching "
        "--speculation ngram --draft-model model.gguf --runner native --device cpu "
        "--dtype float32 --kv-cache-dtype int8 --quantization int4 --threads 2 "
        "--reserve-cores 1 --pin-threads on --no-runner-cache --allow-unverified "
        "--lora one=/a --lora two=/b=c --max-loras 3 --max-lora-rank 16 "
        "--host ::1 --port 0 --grpc-port 8001 --uds s.sock --api-key a --api-key b --no-public-probes "
        "--tool-format hermes --model-control --served-model-name m --alias x --alias y --idle-unload 60 --lora-dir /l "
        "--cors-origin * --allowed-host h --max-body-bytes 2MiB --max-header-bytes 8KiB --data-dir data "
        "--max-file-bytes 1MiB --batch-concurrency 2 --drain-timeout 1.5 "
        "--latency-target-ms 20 --keepalive-seconds 5 --log-level debug --access-log"
    )
    assert penstock("serve", model, *flags.split()).code == 0
    (declared,), settings = started[0]
    assert declared.config == EngineConfig(
        model_path=str(model), max_model_len=100, max_num_seqs=3, max_num_batched_tokens=64,
        max_prefill_tokens_while_decoding=32, max_waiting=9, max_queue_delay_ms=2.5, block_size=8, kv_memory=1 << 20,
        memory=1 << 30, gpu_memory_utilization=0.5, enable_prefix_caching=False, speculation="ngram",
        draft_model="model.gguf", runner="native", device="cpu", dtype="float32",
        kv_cache_dtype="int8", quantization="int4", threads=2, reserve_cores=1, pin_threads="on",
        runner_cache=False, allow_unverified=True, lora_modules=(("one", "/a"), ("two", "/b=c")), max_loras=3,
        max_lora_rank=16,
    )  # fmt: skip
    unchanged = [name for name, value in vars(ServerSettings()).items() if getattr(settings, name) == value]
    assert unchanged == []
    assert (declared.name, declared.aliases, declared.idle_unload) == ("m", ("x", "y"), 60)
    assert declared.tool_format == "hermes"
    assert (settings.api_keys, settings.aliases, settings.max_body_bytes) == (("a", "b"), ("x", "y"), 2 << 20)


def test_the_file_and_the_environment_are_read_too(
    penstock: Callable[..., Any], alone: Path, model: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    (alone / "penstock.toml").write_text('[engine]\nmodel = "./model.gguf"\nthreads = 1\n[server]\nport = 1\n')
    monkeypatch.setenv("PENSTOCK_PORT", "2")
    monkeypatch.setenv("PENSTOCK_API_KEYS", "k1,k2")
    assert penstock("serve", "--threads", "3").code == 0
    (declared,), settings = started[0]
    assert (declared.config.model_path, declared.config.threads) == ("model.gguf", 3)
    assert (settings.port, settings.api_keys) == (2, ("k1", "k2"))


def test_a_variable_that_is_no_setting_is_pointed_out(
    penstock: Callable[..., Any], model: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_THREDS", "2")
    ran = penstock("serve", model)
    assert (ran.code, len(started)) == (0, 1)
    assert "PENSTOCK_THREDS" in ran.err
    assert "PENSTOCK_THREADS" in ran.err


def test_a_model_by_name_is_served_under_that_name(
    penstock: Callable[..., Any], model: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Any]] = []

    def resolve(name: str, *, offline: bool | None = None, progress: Any = None) -> Path:
        asked.append((name, offline))
        return model

    monkeypatch.setattr("penstock.models.store.resolve", resolve)
    assert penstock("serve").code == 0
    assert penstock("serve", "hf:a/b:Q4_K_M", "--offline", "--served-model-name", "own").code == 0
    assert asked == [("smollm2", None)] * 2 + [("hf:a/b:Q4_K_M", True)] * 2
    assert [models[0].name for models, _ in started] == ["smollm2", "own"]


MODELS = """
[engine]
threads = 2
[[models]]
name = "a"
model = "./model.gguf"
[[models]]
name = "b"
model = "./model.gguf"
version = "7"
aliases = ["x"]
idle-unload = 60
preload = false
tool_format = "mistral"
memory = "1GiB"
threads = 1
"""


def test_the_models_of_the_file_are_served_with_settings_of_their_own(
    penstock: Callable[..., Any], alone: Path, model: Path, started: Started
) -> None:
    (alone / "penstock.toml").write_text(MODELS)
    assert penstock("serve").code == 0
    assert penstock("serve", model).code == 0
    (models, _), (with_first, _) = started
    path = str(model.relative_to(alone))
    a = DeclaredModel(config=EngineConfig(model_path=path, threads=2), name="a")
    b = DeclaredModel(
        config=EngineConfig(model_path=path, threads=1, memory=1 << 30),
        name="b", version="7", aliases=("x",), idle_unload=60, preload=False, tool_format="mistral",
    )  # fmt: skip
    assert models == [a, b]
    assert with_first == [DeclaredModel(config=EngineConfig(model_path=str(model), threads=2)), a, b]


ADAPTERS = """
[engine]
lora_modules = { x = "/x" }

[[models]]
name = "a"
model = "./model.gguf"

[[models]]
name = "b"
model = "./model.gguf"
"""


def test_adapters_are_for_the_model_of_the_command_line_or_else_the_first_of_the_file(
    penstock: Callable[..., Any], alone: Path, model: Path, started: Started
) -> None:
    (alone / "penstock.toml").write_text(ADAPTERS)
    assert penstock("serve").code == 0
    assert penstock("serve", model).code == 0
    adapters = [[each.config.lora_modules for each in models] for models, _ in started]
    assert adapters == [[(("x", "/x"),), ()], [(("x", "/x"),), (), ()]]


def test_a_model_of_the_file_that_is_not_there_is_told_by_its_name(
    penstock: Callable[..., Any], alone: Path, started: Started
) -> None:
    (alone / "penstock.toml").write_text('[[models]]\nname = "a"\nmodel = "./none.gguf"')
    ran = penstock("serve")
    assert (ran.code, started) == (4, [])
    assert "The model 'a': There is no file or directory ./none.gguf" in " ".join(ran.err.split())


@pytest.mark.parametrize(("flags", "section"), [(SERVED_ENGINE, EngineSettings), (SERVER, ServerSettings)])
def test_a_mistake_in_a_flag_is_told_by_the_flags_own_name(
    penstock: Callable[..., Any], model: Path, flags: Flags, section: type[PenstockSettings]
) -> None:
    own = {flag.name: flag.option for flag in flags.rows if flag.option and flag.kind == list[str]}
    assert {field.name: field.metadata["flag"] for field in fields(section) if field.metadata["flag"]} == own
    assert "--lora: must be of the form NAME=PATH" in " ".join(penstock("serve", model, "--lora", "x").err.split())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[models]]\nmodel = "m"', "[[models]] 1 in penstock.toml has no 'name'"),
        ('[[models]]\nname = "a"', "[[models]] 1 in penstock.toml has no 'model'"),
        ('[[models]]\nname = "a"\nmodel = "m"\nthread = 1', "no setting 'thread'. Did you mean 'threads'?"),
        ('[[models]]\nname = "a"\nmodel = "m"\nthreads = 0', "[[models]] 1 in penstock.toml, threads"),
        (
            '[models]\nname = "a"',
            "'models' stands outside the sections it may hold, [engine], [server], [[models]] and [[ensembles]]",
        ),
        ("models = [1]", "'models' stands outside"),
        ("[[engine]]", "'engine' stands outside"),
    ],
)
def test_a_mistake_among_the_models_is_named_with_its_place(
    penstock: Callable[..., Any], alone: Path, started: Started, text: str, said: str
) -> None:
    (alone / "penstock.toml").write_text(text)
    ran = penstock("serve")
    assert (ran.code, started) == (9, [])
    assert said in " ".join(ran.err.split())


ENSEMBLE = """
[[ensembles]]
name = "safe"
aliases = ["s"]
steps = [{ guard = "class", refuse = ["toxic"] }, { generate = "a" }]
"""


def test_the_ensembles_of_the_file_are_served(
    penstock: Callable[..., Any], alone: Path, model: Path, started: Started, ensembles: list[Ensemble]
) -> None:
    (alone / "penstock.toml").write_text(MODELS + ENSEMBLE)
    assert penstock("serve").code == 0
    assert len(started) == 1
    steps = (Step(kind="guard", model="class", refuse=("toxic",)), Step(kind="generate", model="a"))
    assert ensembles == [Ensemble(name="safe", aliases=("s",), steps=steps)]


def test_a_mistake_among_the_ensembles_is_told_before_anything_is_fetched(
    penstock: Callable[..., Any], alone: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.models.store.resolve", lambda *_, **__: pytest.fail("fetched"))
    (alone / "penstock.toml").write_text(MODELS + ENSEMBLE.replace("guard", "gard"))
    ran = penstock("serve")
    assert (ran.code, started) == (9, [])
    assert "[[ensembles]] 1 in penstock.toml, step 1: needs one of guard" in " ".join(ran.err.split())


def test_nothing_is_fetched_for_a_server_that_may_not_start(
    penstock: Callable[..., Any], started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.models.store.resolve", lambda *_, **__: pytest.fail("fetched"))
    assert penstock("serve", "--host", "0.0.0.0").code == 9
    assert started == []
