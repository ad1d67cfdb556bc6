"""Adapters in a running engine: mixed with each other, loaded, unloaded, and there again after a crash."""

from __future__ import annotations

import asyncio
import os
import queue
import shutil
import signal
from typing import TYPE_CHECKING, Any

import pytest

from engine.test_client import collect, prompt_of, with_engine
from penstock.core.errors import ConfigError, InvalidRequestError, ModelFileError, NotFoundError
from penstock.engine import wire
from penstock.engine.config import EngineConfig
from penstock.engine.core import EngineCore
from penstock.engine.process import load_adapter
from penstock.engine.types import Request, SamplingParams
from penstock.models.load import load
from support.adapters import write_adapter
from support.eventually import eventually
from support.tiny_chat import write_tiny_chat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.engine.client import EngineClient
    from penstock.models.spec import ModelSpec

GREEDY = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
RUNNERS = pytest.mark.parametrize("runner", ["native", "torch"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def spec(model: Path) -> ModelSpec:
    found, weights = load(model)
    weights.close()
    return found


@pytest.fixture(scope="module")
def adapters(spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Names and directories of three adapters that differ in rank and modules."""
    directory = tmp_path_factory.mktemp("adapters")
    return {
        "a": str(write_adapter(directory / "a", spec, 8, seed=1)),
        "b": str(write_adapter(directory / "b", spec, 5, ("q_proj", "v_proj", "down_proj"), seed=2, scale=0.3)),
        "c": str(write_adapter(directory / "c", spec, 16, ("gate_proj", "o_proj"), seed=3, scale=0.3)),
    }


async def text(client: EngineClient, prompt: list[int], adapter: str = "") -> list[int]:
    return (await collect(client, prompt, GREEDY, adapter=adapter))[0].token_ids


@RUNNERS
def test_requests_of_several_adapters_at_once_get_the_text_they_get_alone(
    runner: str, model: Path, adapters: dict[str, str]
) -> None:
    async def work(client: EngineClient) -> None:
        asked = [(prompt_of(3 + 17 * i, i), ["", *adapters][i % 4]) for i in range(8)]
        alone = [await text(client, *each) for each in asked]
        together = await asyncio.gather(*(text(client, *each) for each in asked))
        assert together == alone
        base = [await text(client, prompt) for prompt, _ in asked]
        assert [a == b for a, b in zip(alone, base, strict=True)] == [adapter == "" for _, adapter in asked]

    with_engine(model, work, runner=runner, lora_modules=tuple(adapters.items()), enable_prefix_caching=False)


def test_cached_prefixes_are_shared_within_an_adapter_and_never_beyond_it(
    model: Path, spec: ModelSpec, adapters: dict[str, str], tmp_path: Path
) -> None:
    async def work(client: EngineClient) -> None:
        prompt = prompt_of(100)
        first: dict[str, list[int]] = {}
        for adapter in ("", "a", "b"):
            for cached in (0, 96):
                output = (await collect(client, prompt, GREEDY, adapter=adapter))[0]
                assert output.cached_tokens == cached
                assert output.token_ids == first.setdefault(adapter, output.token_ids)
        client.unload_adapter("a")
        other = write_adapter(tmp_path / "other", spec, 8, seed=9)
        await client.load_adapter("a", str(other))  # of the same name, with other weights
        output = (await collect(client, prompt, GREEDY, adapter="a"))[0]
        assert output.cached_tokens == 0
        assert output.token_ids != first["a"]

    with_engine(model, work, lora_modules=tuple(adapters.items()))


def test_an_adapter_unloaded_under_a_request_finishes_it_and_takes_no_other(
    model: Path, adapters: dict[str, str]
) -> None:
    async def work(client: EngineClient) -> None:
        expected = await text(client, prompt_of(20), "a")
        stream = client.generate(prompt_of(20), GREEDY, request_id="long", adapter="a")
        tokens = list((await anext(stream))[1].token_ids)
        client.unload_adapter("a")
        with pytest.raises(NotFoundError):
            client.generate(prompt_of(5), GREEDY, request_id="late", adapter="a")
        with pytest.raises(NotFoundError):
            client.unload_adapter("a")
        async for _, delta in stream:
            tokens += delta.token_ids
        assert tokens == expected
        await client.load_adapter("b", adapters["b"])  # there is room for one only: the first is out of memory

    with_engine(model, work, lora_modules=(("a", adapters["a"]),), max_loras=1)


def test_adapters_are_there_again_after_the_core_died_unless_their_files_are_gone(
    model: Path, spec: ModelSpec, adapters: dict[str, str], tmp_path: Path
) -> None:
    gone = write_adapter(tmp_path / "gone", spec, seed=5)

    async def work(client: EngineClient) -> None:
        await client.load_adapter("b", adapters["b"])
        await client.load_adapter("gone", str(gone))
        before = [await text(client, prompt_of(9), name) for name in ("a", "b")]
        shutil.rmtree(gone)
        assert client.core_pid is not None
        os.kill(client.core_pid, signal.SIGKILL)
        await eventually(lambda: client.restarts == 1 and client.state == "ready", "a new core")
        assert [await text(client, prompt_of(9), name) for name in ("a", "b")] == before
        assert client.adapters.keys() == {"a", "b"}
        with pytest.raises(NotFoundError):
            await text(client, prompt_of(9), "gone")

    with_engine(model, work, lora_modules=(("a", adapters["a"]),))


@RUNNERS
def test_what_cannot_be_loaded_is_refused_and_harms_nobody(
    runner: str, model: Path, spec: ModelSpec, adapters: dict[str, str], tmp_path: Path
) -> None:
    wide = write_adapter(tmp_path / "wide", spec, 20)
    broken = write_adapter(tmp_path / "broken", spec)
    weights = broken / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    async def work(client: EngineClient) -> None:
        expected = await text(client, prompt_of(9), "a")
        cases: list[tuple[str, Any, type[Exception]]] = [
            ("x", tmp_path / "nothing", NotFoundError),
            ("x", wide, ModelFileError),
            ("x", broken, ModelFileError),
            ("a", adapters["b"], InvalidRequestError),
        ]
        for name, path, error in cases:
            with pytest.raises(error):
                await client.load_adapter(name, str(path))
        await client.load_adapter("b", adapters["b"])
        with pytest.raises(InvalidRequestError) as caught:
            await client.load_adapter("c", adapters["c"])
        assert caught.value.code == "too_many_adapters"
        assert await text(client, prompt_of(9), "a") == expected
        assert client.restarts == 0

    with_engine(model, work, runner=runner, lora_modules=(("a", adapters["a"]),), max_loras=2, max_lora_rank=16)


def test_a_configured_adapter_that_cannot_be_loaded_fails_the_start(model: Path, tmp_path: Path) -> None:
    async def work(client: EngineClient) -> None:
        raise AssertionError("it started")

    with pytest.raises(ConfigError, match="The adapter 'a'"):
        with_engine(model, work, lora_modules=(("a", str(tmp_path)),))


@pytest.fixture
def core_and_wakes(model: Path, adapters: dict[str, str]) -> Iterator[tuple[EngineCore, queue.SimpleQueue[None]]]:
    wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
    settings = {"dtype": "float32", "threads": 1, "kv_memory": 16 << 20, "runner_cache": False, "max_loras": 1}
    config = EngineConfig(model_path=str(model), runner="native", lora_modules=(("a", adapters["a"]),), **settings)
    core = EngineCore(config, wake=lambda: wakes.put(None))
    yield core, wakes
    core.shutdown()


def with_grammar(request_id: str) -> Request:
    params = SamplingParams(max_tokens=8, grammar="start: /[a-d]{5,30}/")
    return Request(request_id=request_id, prompt_token_ids=[5, 6], params=params, arrival_time=0.0, adapter="a")


def test_given_a_request_whose_grammar_is_being_compiled_when_its_adapter_is_unloaded_then_it_is_finished(
    core_and_wakes: tuple[EngineCore, queue.SimpleQueue[None]],
) -> None:
    core, wakes = core_and_wakes
    assert core.add(with_grammar("r")) is None
    core.adapters.unload("a")
    wakes.get(timeout=30)
    assert core.poll() == []
    ends = []
    while core.has_work:
        ends += [output.finish_reason for output in core.step() if output.finish_reason is not None]
    assert ends == ["length"]


def test_given_a_request_that_is_aborted_while_its_grammar_is_compiled_then_its_adapter_can_leave_memory(
    core_and_wakes: tuple[EngineCore, queue.SimpleQueue[None]], adapters: dict[str, str]
) -> None:
    core, _ = core_and_wakes
    assert core.add(with_grammar("r")) is None
    core.abort("r")
    core.adapters.unload("a")
    assert core.adapters.load("b", adapters["b"]).name == "b"


def test_given_a_device_that_fails_when_an_adapter_is_loaded_then_that_is_refused_and_the_core_goes_on(
    core_and_wakes: tuple[EngineCore, queue.SimpleQueue[None]],
    adapters: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core, _ = core_and_wakes
    core.adapters.unload("a")

    def fail(*_: object) -> int:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(core.runner, "load_adapter", fail)
        answer = load_adapter(core, wire.LoadAdapter("b", adapters["b"]))
    assert isinstance(answer, wire.AdapterFailed)
    assert answer.error_type == ModelFileError.__name__
    assert "out of memory" not in answer.message
    assert isinstance(load_adapter(core, wire.LoadAdapter("b", adapters["b"])), wire.AdapterLoaded)
