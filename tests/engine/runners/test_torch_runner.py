"""The torch runner as the engine sees it: same text however a request is scheduled, and failures that stay alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import prod
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import torch

from penstock.core.errors import InvariantError
from penstock.engine.runners.base import RunnerConfig
from penstock.engine.runners.torch.executor import StepExecutor
from penstock.engine.runners.torch.graphs import DecodeGraphs
from penstock.engine.runners.torch.linear import PackedLinear, PlainLinear, make_linear
from penstock.engine.runners.torch.runner import TorchRunner
from penstock.engine.types import SampleSpec, SamplingParams, SequenceStep, StepBatch
from penstock.models.load import load
from support.gguf_files import write_tiny_gguf
from support.tiny_models import write_tiny_variant
from support.torch_model import GREEDY, Request, generate, make_requests, make_runner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.engine.runners.torch.attention import Attention

VOCAB = 320


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_variant(tmp_path_factory.mktemp("tiny"), "llama")


@pytest.fixture(scope="module")
def runner(tiny: Path) -> TorchRunner:
    return make_runner(tiny)


def prompts(*lengths: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, VOCAB, (n,), generator=generator).tolist() for n in lengths]


def alone(runner: TorchRunner, prompt: list[int], new: int, **fields: Any) -> list[int]:
    [request] = make_requests([prompt], new, **fields)
    generate(runner, [request], new)
    return request.output


@pytest.mark.parametrize("variant", ["llama", "mistral", "qwen2-tied", "qwen3"])
def test_batched_and_chunked_requests_write_what_each_writes_alone(variant: str, tmp_path: Path) -> None:
    runner = make_runner(write_tiny_variant(tmp_path, variant))
    asked = prompts(1, 2, 15, 16, 17, 40, 100, 63)
    expected = [alone(runner, p, 12) for p in asked]
    for chunk in (1000, 16, 7, 1):
        requests = make_requests(asked, 12)
        generate(runner, requests, 12, chunk=chunk)
        assert [r.output for r in requests] == expected


@pytest.mark.parametrize("seed", range(12))
def test_any_schedule_gives_the_text_of_one_at_a_time(runner: TorchRunner, seed: int) -> None:
    """Requests join late, rest, are preempted and computed again, and take chunks of any size."""
    chance = Random(seed)
    asked = prompts(*(chance.randint(1, 50) for _ in range(chance.randint(1, 5))), seed=seed)
    sampled = SamplingParams(temperature=1.0, top_p=0.9)
    expected = []
    for i, prompt in enumerate(asked):
        request = Request(prompt, list(range(8)), sampled, seed=i)
        generate(runner, [request], 6)
        expected.append(request.output)
    requests = make_requests(asked, 6, params=sampled)
    while live := [r for r in requests if len(r.output) < 6]:
        chosen = [r for r in live if chance.random() < 0.7] or live[:1]
        for request in chosen:
            if chance.random() < 0.1:
                request.computed = 0
        steps = [r.next_step(chance.randint(1, 60)) for r in chosen]
        for request, step, result in zip(chosen, steps, runner.execute(StepBatch(steps)).sequences, strict=True):
            request.take(step, result)
    assert [r.output for r in requests] == expected


def test_a_shared_prefix_block_serves_two_requests(runner: TorchRunner) -> None:
    [prompt] = prompts(40)
    other = prompt[:32] + prompts(9, seed=5)[0]
    expected = alone(runner, other, 5)
    first = Request(prompt, [0, 1, 2])
    generate(runner, [first], 5)
    second = Request(other, [0, 1, 7])
    second.computed = 32
    generate(runner, [second], 5)
    assert second.output == expected


needs_packed = pytest.mark.skipif(
    not isinstance(make_linear(torch.eye(2)), PackedLinear),
    reason="only oneDNN products on x86 ignore their batch",
)


@needs_packed
def test_float32_products_are_bit_for_bit_the_same_in_any_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((96, 64), (64, 96), (960, 576), (576, 1536)):
        product = make_linear(torch.randn(shape, generator=generator))
        x = torch.randn(70, shape[1], generator=generator)
        whole = product(x)
        for count in (1, 2, 3, 5, 8, 17, 32, 33, 64):
            assert torch.equal(product(x[:count]), whole[:count])
            assert torch.equal(product(x[70 - count :]), whole[70 - count :])


@needs_packed
@pytest.mark.parametrize("variant", ["llama", "mistral", "qwen3"])
def test_float32_hidden_states_are_bit_for_bit_the_same_however_they_are_scheduled(
    variant: str, tmp_path: Path
) -> None:
    runner = make_runner(write_tiny_variant(tmp_path, variant, max_position_embeddings=800), max_model_len=800)
    executor = runner._executor
    assert executor is not None
    chance = Random(0)
    [prompt] = prompts(700)
    others = make_requests(prompts(3, 90, 260, 400), 1, first_block=60)

    def compute(cuts: list[int], beside: list[SequenceStep]) -> torch.Tensor:
        parts = []
        for a, b in pairwise([0, *cuts, 700]):
            step = SequenceStep("a", prompt[a:b], a, list(range(44)), None)
            plan = executor._planner.plan([*beside, step])
            parts.append(executor._compute(plan)[plan.rows[-1]])
        return torch.cat(parts)

    with torch.inference_mode():
        whole = compute([], [])
        for _ in range(12):
            cuts = sorted(chance.sample(range(1, 700), chance.randint(1, 9)))
            beside = [r.next_step(chance.choice([1, 7, 200])) for r in others if chance.random() < 0.5]
            assert torch.equal(compute(cuts, beside), whole), cuts


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 40])
@pytest.mark.parametrize("biased", [True, False])
def test_packed_products_equal_plain_ones(dtype: torch.dtype, rows: int, biased: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 64, generator=generator).to(dtype) / 8
    bias = torch.randn(48, generator=generator).to(dtype) if biased else None
    x, other = (
        torch.randn(rows, 64, generator=generator).to(dtype),
        torch.randn(rows, 48, generator=generator).to(dtype),
    )
    packed, plain = make_linear(weight, bias), PlainLinear(weight, bias)
    assert packed.nbytes == plain.nbytes
    tolerance = 1e-5 if dtype == torch.float32 else 0.06
    for found, expected in (
        (packed(x), plain(x)),
        (packed.silu(x), plain.silu(x)),
        (packed.plus(x, other.clone()), plain.plus(x, other.clone())),
        (packed.times(x, other), plain.times(x, other)),
    ):
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("variant", ["llama", "mistral"])
def test_padded_static_decode_steps_give_the_same_hidden_states(variant: str, tmp_path: Path) -> None:
    """What CUDA graphs capture, run eagerly."""
    runner = make_runner(write_tiny_variant(tmp_path, variant), blocks=64)
    requests = make_requests(prompts(3, 30, 31, 5, 20), 10)
    generate(runner, requests, 3)
    executor = runner._executor
    assert executor is not None
    steps = [r.next_step() for r in requests]
    with torch.inference_mode():
        plan = executor._planner.plan(steps)
        expected = torch.cat([executor._compute(plan)[rows] for rows in plan.rows])
        graphs = DecodeGraphs(executor._compute, executor._planner, executor._cache, torch.float32, torch.device("cpu"))
        torch.testing.assert_close(graphs.run(steps), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(graphs.run(steps[:3]), expected[:3], atol=1e-5, rtol=0)
        torch.testing.assert_close(graphs.run(steps), expected, atol=1e-5, rtol=0)


def test_an_executor_with_graphs_writes_the_same_text(tiny: Path, runner: TorchRunner) -> None:
    expected = [alone(runner, p, 8) for p in prompts(4, 40, 9)]
    other = make_runner(tiny)
    model, plain = other._model, other._executor
    assert model is not None
    assert plain is not None
    with torch.inference_mode():
        other._executor = StepExecutor(
            model.spec, model.decoder, model.rotary, plain._cache, torch.float32, torch.device("cpu"), graphs=True
        )
    requests = make_requests(prompts(4, 40, 9), 8)
    generate(other, requests, 8)
    assert [r.output for r in requests] == expected


def test_folding_grouped_heads_into_queries_changes_nothing(
    runner: TorchRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The masked prefill that GPUs take, run on a CPU."""
    asked = prompts(70, 33)
    expected = make_requests(asked, 4)
    generate(runner, expected, 4, chunk=20)
    executor = runner._executor
    assert executor is not None
    attention: Attention = executor._compute.keywords["attention"]
    monkeypatch.setattr(attention, "_fold_groups", True)
    requests = make_requests(asked, 4)
    generate(runner, requests, 4, chunk=20)
    assert [r.output for r in requests] == [r.output for r in expected]


def good_step(table: tuple[int, ...] = (3,)) -> SequenceStep:
    return SequenceStep("good", [5, 6, 7], 0, table, SampleSpec(GREEDY, 0, [5, 6, 7], [], ()))


@pytest.mark.parametrize(("changes", "message"), [
    ({"token_ids": [5, VOCAB]}, "vocabulary"),
    ({"token_ids": [-1]}, "vocabulary"),
    ({"token_ids": []}, "positions"),
    ({"start": -1}, "positions"),
    ({"start": 255}, "positions 255 to 257"),
    ({"block_table": ()}, "block table"),
    ({"block_table": (0,), "start": 14}, "block table"),
    ({"block_table": (256,)}, "block table"),
    ({"block_table": (-1,)}, "block table"),
    ({"prompt_logprobs": 1, "next_prompt_ids": [6, 7, 8, 9]}, "scored"),
    ({"prompt_logprobs": 1, "next_prompt_ids": [VOCAB]}, "scored"),
])  # fmt: skip
def test_an_impossible_sequence_fails_alone(runner: TorchRunner, changes: dict[str, Any], message: str) -> None:
    [expected] = runner.execute(StepBatch([good_step()])).sequences
    bad = replace(good_step((9,)), request_id="bad", **changes)
    before, failed, after = runner.execute(StepBatch([good_step(), bad, good_step((4,))])).sequences
    assert failed.error is not None
    assert message in failed.error
    assert before == after == expected


def test_a_batch_of_impossible_sequences_or_none_computes_nothing(runner: TorchRunner) -> None:
    bad = replace(good_step(), token_ids=[VOCAB])
    assert all(o.error for o in runner.execute(StepBatch([bad, bad])).sequences)
    assert runner.execute(StepBatch([])).sequences == []


def test_values_that_are_not_finite_fail_their_request_and_spoil_no_block(tiny: Path) -> None:
    runner = make_runner(tiny, blocks=16)
    model = runner._model
    assert model is not None
    [expected] = runner.execute(StepBatch([good_step()])).sequences
    poison = 11
    with torch.inference_mode():
        model.decoder._embed[poison] = float("inf")
    bad = SequenceStep("bad", [poison, 1, 2], 0, (9,), SampleSpec(GREEDY, 0, [poison, 1, 2], [], ()))
    good, failed = runner.execute(StepBatch([good_step(), bad])).sequences
    assert failed.error is not None
    assert "finite" in failed.error
    assert good == expected
    [reused] = runner.execute(StepBatch([good_step((9,))])).sequences
    assert reused == expected
    decodes = [replace(good_step((b,)), token_ids=[t], start=0) for b, t in ((9, 5), (10, poison))]
    first, second = runner.execute(StepBatch(decodes)).sequences
    assert first.error is None
    assert second.error is not None


def test_a_nan_left_in_a_block_is_scrubbed_before_the_next_owner_sees_it(tiny: Path) -> None:
    runner = make_runner(tiny, blocks=16)
    executor = runner._executor
    assert executor is not None
    steps = [good_step((9,))]
    expected = runner.execute(StepBatch(steps)).sequences
    decode = SequenceStep("d", [8], 3, (9,), SampleSpec(GREEDY, 0, [5, 6, 7, 8], [], ()))
    want = runner.execute(StepBatch([decode])).sequences
    with torch.inference_mode():
        executor._cache._slots[1][9 * 16 + 7] = float("nan")  # behind the sequence's end
        assert runner.execute(StepBatch([decode])).sequences[0].error is not None  # which scrubs the block it wrote
    assert runner.execute(StepBatch([decode])).sequences == want
    assert runner.execute(StepBatch(steps)).sequences == expected


def test_prompt_logprobs_come_out_the_same_whole_in_chunks_and_in_a_batch(runner: TorchRunner) -> None:
    asked = prompts(37, 20, 1)
    params = SamplingParams(temperature=0, prompt_logprobs=2, logprobs=1)
    scores = []
    for chunk in (1000, 16, 5):
        requests = make_requests(asked, 2, params=params)
        generate(runner, requests, 2, chunk=chunk)
        scores.append([[p for result in r.results for p in result.prompt_logprobs] for r in requests])
    for found in scores:
        assert [len(s) for s in found] == [36, 19, 0]
        for ours, whole in zip(found, scores[0], strict=True):
            assert [p.chosen.token_id for p in ours] == [p.chosen.token_id for p in whole]
            assert [p.chosen.logprob for p in ours] == pytest.approx([p.chosen.logprob for p in whole], abs=1e-4)
            assert [[t.token_id for t in p.top] for p in ours] == [[t.token_id for t in p.top] for p in whole]
    assert [p.chosen.token_id for p in scores[0][0]] == asked[0][1:]


def test_capacity_counts_both_keys_and_values_of_every_layer(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_tiny_gguf(file)
    runner = TorchRunner(RunnerConfig(model_path=str(file), dtype="bfloat16", block_size=8, threads=1))
    spec = runner.load()
    capacity = runner.kv_capacity()
    assert capacity.bytes_per_block == 2 * spec.n_layers * spec.n_kv_heads * spec.head_dim * 8 * 2
    assert capacity.available_bytes > 0
    assert capacity.weight_bytes >= 2 * spec.parameters


def test_pacing_follows_from_the_sizes_of_the_model(tiny: Path, runner: TorchRunner) -> None:
    with load(tiny)[1] as weights:
        looked_up = "embed.weight" if "head.weight" in weights else ""
        shapes = [weights.info(name).shape for name in weights.names() if name != looked_up]
        flops = sum(2 * prod(shape) for shape in shapes if len(shape) == 2)
    spec = load(tiny)[0]
    per_key = 4 * spec.n_layers * spec.n_heads * spec.head_dim
    assert spec.attention_span == pytest.approx(flops / per_key, abs=1)
    assert 1 <= runner.pacing().attention_span <= spec.attention_span
    assert runner.pacing().prefill_tokens >= 1


def test_untouched_cache_takes_no_memory(tiny: Path) -> None:
    import psutil

    before = psutil.Process().memory_info().rss
    runner = make_runner(tiny, blocks=200_000)  # 1.2 GB
    assert psutil.Process().memory_info().rss - before < 300 << 20
    assert runner.kv_capacity().bytes_per_block * 200_000 > 1 << 30


def test_the_runner_says_what_it_runs_on(runner: TorchRunner) -> None:
    described = runner.describe()
    assert described["device"] == "cpu"
    assert described["dtype"] == "float32"
    assert described["verified"] == "yes"
    assert described["threads"] == "1"


def test_steps_before_loading_and_after_shutdown_are_refused(tiny: Path) -> None:
    runner = TorchRunner(RunnerConfig(model_path=str(tiny)))
    with pytest.raises(InvariantError):
        runner.kv_capacity()
    runner = make_runner(tiny)
    runner.shutdown()
    with pytest.raises(InvariantError):
        runner.execute(StepBatch([good_step()]))
