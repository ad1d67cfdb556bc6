"""The engine behind its client: a real core process over a tiny random model."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import msgspec
import psutil
import pytest

from penstock.core.errors import ConfigError, EngineDeadError, InvalidRequestError, ModelFileError, OverloadedError
from penstock.engine import wire
from penstock.engine.client import EngineClient
from penstock.engine.config import EngineConfig
from penstock.engine.spawn import CoreProcess
from penstock.engine.types import RequestOutput, SamplingParams
from support.eventually import eventually
from support.merging import merge
from support.tiny_chat import write_tiny_chat

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

GREEDY = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
ENDLESS = SamplingParams(temperature=0.0, max_tokens=None, ignore_eos=True)
KV = 8 << 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("tiny"), max_position_embeddings=4096)


def with_engine(model: Path, work: Callable[[EngineClient], Awaitable[Any]], **options: Any) -> Any:
    """Run `work(client)` on a started engine and end it whatever happens."""
    settings = {"dtype": "float32", "kv_memory": KV, "threads": 1, **options}

    async def run() -> Any:
        client = EngineClient(EngineConfig(model_path=str(model), **settings))
        await client.start()
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(run())


async def collect(client: EngineClient, prompt: list[int], params: SamplingParams, **kw: Any) -> list[RequestOutput]:
    """The whole output of each choice."""
    whole: dict[int, RequestOutput] = {}
    async for index, delta in client.generate(prompt, params, request_id=f"r{time.monotonic_ns()}", **kw):
        whole[index] = merge(whole.get(index), delta)
    return [whole[index] for index in sorted(whole)]


def prompt_of(length: int, salt: int = 0) -> list[int]:
    return [5 + (salt * 31 + i * 7 + i * i) % 250 for i in range(length)]


def test_requests_at_once_get_the_text_they_get_alone(model: Path) -> None:
    async def work(client: EngineClient) -> None:
        prompts = [prompt_of(3 + 11 * i, i) for i in range(9)]
        alone = [(await collect(client, prompt, GREEDY))[0].token_ids for prompt in prompts]
        together = await asyncio.gather(*(collect(client, prompt, GREEDY) for prompt in prompts))
        assert [outputs[0].token_ids for outputs in together] == alone
        assert all(outputs[0].finish_reason == "length" for outputs in together)

    with_engine(model, work, enable_prefix_caching=False)


def test_chunked_preempted_and_prefix_cached_runs_give_the_same_greedy_text(model: Path) -> None:
    prompts = [prompt_of(200 + 40 * i, i) for i in range(5)]
    params = SamplingParams(temperature=0.0, max_tokens=120, ignore_eos=True)

    async def one_by_one(client: EngineClient) -> list[list[int]]:
        return [(await collect(client, prompt, params))[0].token_ids for prompt in prompts]

    async def crowded(client: EngineClient) -> list[list[int]]:
        twice = [*prompts, *prompts]
        outputs = await asyncio.gather(*(collect(client, prompt, params) for prompt in twice))
        await collect(client, prompts[0], params)  # whose blocks the others may have taken by now
        again = (await collect(client, prompts[0], params))[0]
        assert client.stats.preemptions > 0, "the pool was meant to be too small"
        assert again.cached_tokens > 0, "the prefix was meant to be cached"
        found = [output[0].token_ids for output in outputs]
        assert found[: len(prompts)] == found[len(prompts) :]
        assert again.token_ids == found[0]
        return found[: len(prompts)]

    expected = with_engine(model, one_by_one, enable_prefix_caching=False)
    bytes_per_token = 2 * 3 * 2 * 16 * 4
    small = {"kv_memory": 1400 * bytes_per_token, "max_num_batched_tokens": 64, "max_prefill_tokens_while_decoding": 17}
    assert with_engine(model, crowded, max_model_len=800, **small) == expected


def test_a_seed_gives_the_same_text_whatever_else_runs_and_at_every_start(model: Path) -> None:
    params = SamplingParams(temperature=1.0, top_p=0.95, max_tokens=32, seed=7, ignore_eos=True)

    async def alone(client: EngineClient) -> list[int]:
        return (await collect(client, prompt_of(20), params))[0].token_ids

    async def in_company(client: EngineClient) -> list[int]:
        company = [collect(client, prompt_of(30, i), SamplingParams(seed=i, max_tokens=40)) for i in range(1, 6)]
        outputs = await asyncio.gather(collect(client, prompt_of(20), params), *company)
        return outputs[0][0].token_ids

    assert with_engine(model, alone) == with_engine(model, in_company)


def test_n_choices_differ_and_share_one_iterator(model: Path) -> None:
    async def work(client: EngineClient) -> None:
        outputs = await collect(client, prompt_of(10), SamplingParams(n=3, seed=1, max_tokens=16, ignore_eos=True))
        assert len(outputs) == 3
        assert len({tuple(output.token_ids) for output in outputs}) == 3

    with_engine(model, work)


def test_a_shared_prefix_is_taken_from_the_cache_unless_salted_otherwise(model: Path) -> None:
    async def work(client: EngineClient) -> None:
        shared = prompt_of(160)
        await collect(client, [*shared, 9], GREEDY)
        (hit,) = await collect(client, [*shared, 10], GREEDY)
        (salted,) = await collect(client, [*shared, 10], GREEDY, cache_salt="tenant")
        assert hit.cached_tokens == 160
        assert salted.cached_tokens == 0
        assert salted.token_ids == hit.token_ids

    with_engine(model, work)


def test_prompt_logprobs_cover_every_position_but_the_first(model: Path) -> None:
    async def work(client: EngineClient) -> None:
        prompt = prompt_of(70)
        params = SamplingParams(temperature=0.0, max_tokens=0, prompt_logprobs=2)
        (output,) = await collect(client, prompt, params)
        assert output.finish_reason == "length"
        assert output.token_ids == []
        assert output.prompt_logprobs is not None
        assert output.prompt_logprobs[0] is None
        chosen = [entry.chosen.token_id for entry in output.prompt_logprobs[1:] if entry is not None]
        assert chosen == prompt[1:]
        assert all(len(entry.top) == 2 for entry in output.prompt_logprobs[1:] if entry is not None)

    with_engine(model, work, max_num_batched_tokens=32, max_prefill_tokens_while_decoding=32)


def test_leaving_the_iterator_frees_the_blocks(model: Path) -> None:
    async def work(client: EngineClient) -> None:
        deltas = client.generate(prompt_of(50), ENDLESS, request_id="left")
        await anext(deltas)
        await eventually(lambda: client.stats.kv_blocks_used > 0, "blocks in use")
        await deltas.aclose()  # type: ignore[attr-defined]
        await eventually(lambda: client.stats.kv_blocks_used == 0 and client.stats.running == 0, "blocks free again")

    with_engine(model, work)


def test_a_killed_core_fails_its_requests_and_is_started_again(model: Path) -> None:
    async def work(client: EngineClient) -> None:
        async def doomed() -> None:
            await collect(client, prompt_of(30), ENDLESS)

        victims = [asyncio.create_task(doomed()) for _ in range(4)]
        await eventually(lambda: client.stats.running == 4, "four running")
        assert client.core_pid is not None
        os.kill(client.core_pid, signal.SIGKILL)
        for result in await asyncio.gather(*victims, return_exceptions=True):
            assert isinstance(result, EngineDeadError)
            assert result.http_status == 503
        assert client.state == "restarting"
        with pytest.raises(EngineDeadError, match="started again"):
            client.generate(prompt_of(5), GREEDY, request_id="early")
        await eventually(lambda: client.state == "ready", "ready again", within=60)
        assert client.restarts == 1
        assert (await collect(client, prompt_of(5), GREEDY))[0].finish_reason == "length"

    with_engine(model, work)


def no_room(client: EngineClient) -> CoreProcess:
    raise BlockingIOError("no room for another process")


def speaks_too_soon(client: EngineClient) -> CoreProcess:
    core = CoreProcess()
    core.tell(wire.frame(wire.Start(client.config)))
    client._greet = lambda _: False  # type: ignore[method-assign]
    return core


@pytest.mark.parametrize(
    ("fault", "said"), [(no_room, "no room for another process"), (speaks_too_soon, "sent Ready before it was ready")]
)
def test_given_a_core_that_died_when_the_next_one_fails_too_then_another_is_started(
    model: Path, fault: Callable[[EngineClient], CoreProcess], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(client: EngineClient) -> None:
        family = psutil.Process().children
        before = len(family())
        spawn, greet = client._spawn, client._greet
        failed: list[bool] = []

        def spawn_after_a_failure() -> CoreProcess:
            client._greet = greet  # type: ignore[method-assign]
            if failed:
                return spawn()
            failed.append(True)
            return fault(client)

        client._spawn = spawn_after_a_failure  # type: ignore[method-assign]
        assert client.core_pid is not None
        os.kill(client.core_pid, signal.SIGKILL)
        await eventually(lambda: client.restarts == 1, "up again", within=60)
        assert said in caplog.text
        assert (await collect(client, prompt_of(5), GREEDY))[0].finish_reason == "length"
        assert len(family()) == before, "the one that failed was left behind"

    with_engine(model, work)


def test_a_full_queue_refuses_the_next_request_and_keeps_the_others(model: Path) -> None:
    async def work(client: EngineClient) -> None:
        first = asyncio.create_task(collect(client, prompt_of(5), ENDLESS))
        second = asyncio.create_task(collect(client, prompt_of(6), GREEDY))
        await eventually(lambda: client.stats.running == 1 and client.stats.waiting == 1, "one running, one waiting")
        with pytest.raises(OverloadedError):
            client.generate(prompt_of(7), GREEDY, request_id="third")
        first.cancel()
        assert (await second)[0].finish_reason == "length"

    with_engine(model, work, max_num_seqs=1, max_waiting=1)


def test_a_waiting_request_of_higher_priority_goes_first(model: Path) -> None:
    async def work(client: EngineClient) -> None:
        order: list[str] = []

        async def run(name: str, priority: int) -> None:
            await collect(client, prompt_of(8), GREEDY, priority=priority)
            order.append(name)

        blocker = asyncio.create_task(collect(client, prompt_of(4), ENDLESS, priority=-1))
        await eventually(lambda: client.stats.running == 1, "the blocker runs")
        tasks = [asyncio.create_task(run("low", 5)), asyncio.create_task(run("high", 1))]
        await eventually(lambda: client.stats.waiting == 2, "two waiting")
        blocker.cancel()
        await asyncio.gather(*tasks)
        assert order == ["high", "low"]

    with_engine(model, work, max_num_seqs=1)


def test_wrong_requests_are_refused_with_both_lengths_and_the_field(model: Path) -> None:
    async def work(client: EngineClient) -> None:
        with pytest.raises(InvalidRequestError, match=r"4096 tokens long.*4096 tokens") as long:
            client.generate(prompt_of(4096), GREEDY, request_id="long")
        assert long.value.code == "context_length_exceeded"
        for prompt, params in (
            ([], GREEDY),
            ([320], GREEDY),
            ([-1], GREEDY),
            ([5], SamplingParams(logit_bias={320: 1.0})),
            # Two at once: where every sequence of a step fails, the core takes its runner for broken.
            ([5], SamplingParams(stop_token_ids=(2**40,), min_tokens=2, n=2)),
        ):
            with pytest.raises(InvalidRequestError):
                client.generate(prompt, params, request_id="wrong")
        assert (await collect(client, prompt_of(5), GREEDY))[0].finish_reason == "length"

    with_engine(model, work)


def test_an_idle_core_uses_under_one_percent_of_a_processor(model: Path) -> None:
    async def work(client: EngineClient) -> None:
        await collect(client, prompt_of(40), GREEDY)
        # What grammars need is made once, in the first silence: here at once.
        await collect(client, prompt_of(5), msgspec.structs.replace(GREEDY, grammar='start: "a"'))
        assert client.core_pid is not None
        core = psutil.Process(client.core_pid)
        await asyncio.sleep(0.5)  # the thread pool parks
        before, began = sum(core.cpu_times()[:2]), time.monotonic()
        await asyncio.sleep(3)
        used = (sum(core.cpu_times()[:2]) - before) / (time.monotonic() - began)
        assert used < 0.01

    with_engine(model, work)


def test_draining_lets_running_requests_end_and_refuses_new_ones(model: Path) -> None:
    async def work(client: EngineClient) -> None:
        running = asyncio.create_task(collect(client, prompt_of(5), ENDLESS))
        await eventually(lambda: client.stats.running == 1, "running")
        draining = asyncio.create_task(client.drain(30))
        await eventually(lambda: client.state == "draining", "draining")
        with pytest.raises(EngineDeadError, match="shutting down"):
            client.generate(prompt_of(5), GREEDY, request_id="late")
        assert (await running)[0].finish_reason == "length"
        assert await draining

    with_engine(model, work)


def test_closing_leaves_no_process_behind(model: Path) -> None:
    async def work(client: EngineClient) -> int:
        assert client.core_pid is not None
        return client.core_pid

    pid = with_engine(model, work)
    assert not psutil.pid_exists(pid)


def test_what_cannot_start_says_why(model: Path, tmp_path: Path) -> None:
    async def nothing(_: EngineClient) -> None:
        raise AssertionError("it started")

    with pytest.raises(ConfigError, match="max_model_len 9999"):
        with_engine(model, nothing, max_model_len=9999)
    with pytest.raises(ConfigError, match="kv-memory"):
        with_engine(model, nothing, kv_memory=1000)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(ModelFileError):
        with_engine(broken, nothing)


def test_a_kv_cache_larger_than_the_free_memory_is_refused_before_it_is_taken(model: Path) -> None:
    async def nothing(_: EngineClient) -> None: ...

    with pytest.raises(ConfigError, match="Lower --kv-memory") as caught:
        with_engine(model, nothing, kv_memory=1 << 50, max_num_seqs=1 << 20)
    assert caught.value.param == "kv_memory"


def test_a_model_keeps_within_its_memory_weights_and_kv_together(model: Path) -> None:
    sizes: list[tuple[int, int]] = []

    async def look(client: EngineClient) -> None:
        sizes.append((client.info.weight_bytes, client.info.kv_bytes))

    with_engine(model, look, kv_memory=None, memory=8 << 20, max_num_seqs=1 << 20)
    weights, kv = sizes[0]
    assert (8 << 20) - (1 << 16) < weights + kv <= 8 << 20
    for budget, other in [(weights + 1, {"kv_memory": None}), (8 << 20, {"kv_memory": 8 << 20})]:
        with pytest.raises(ConfigError, match="Raise --memory") as caught:
            with_engine(model, look, memory=budget, **other)
        assert caught.value.param == "memory"


def test_a_core_started_ahead_of_time_becomes_the_first_and_is_gone_at_the_end(model: Path) -> None:
    config = EngineConfig(model_path=str(model), dtype="float32", kv_memory=KV, threads=1)

    async def work() -> None:
        client = EngineClient(config, core)
        await client.start()
        assert client.core_pid == core.process.pid
        assert len((await collect(client, prompt_of(5), GREEDY))[0].token_ids) == 24
        await client.close()

    with CoreProcess() as core:
        core.load(config)
        asyncio.run(work())
        assert core.process.poll() == 0


def test_a_core_nobody_took_ends_with_its_owner(model: Path) -> None:
    with CoreProcess() as core:
        assert core.process.poll() is None
    assert core.process.poll() is not None

    async def closed_before_it_was_started() -> None:
        await EngineClient(EngineConfig(model_path=str(model)), unused).close()

    with CoreProcess() as unused:
        asyncio.run(closed_before_it_was_started())
        assert unused.process.poll() is not None
