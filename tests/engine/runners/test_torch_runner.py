"""What is the torch runner's own: packed products, static decode steps, folded heads, scrubbed blocks."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import torch

from penstock.engine.runners.base import RunnerConfig
from penstock.engine.runners.torch.executor import StepExecutor
from penstock.engine.runners.torch.graphs import DecodeGraphs
from penstock.engine.runners.torch.linear import PackedLinear, PlainLinear, make_linear
from penstock.engine.runners.torch.runner import TorchRunner
from penstock.engine.runners.torch.variant import Variant
from penstock.engine.types import SampleSpec, SequenceStep, StepBatch
from support.gguf_files import write_tiny_gguf
from support.runners import GREEDY, generate, make_requests, make_runner, random_prompts
from support.tiny_models import write_tiny_variant

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.engine.runners.torch.attention import Attention


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


def alone(runner: TorchRunner, prompt: list[int], new: int, **fields: Any) -> list[int]:
    [request] = make_requests([prompt], new, **fields)
    generate(runner, [request], new)
    return request.output


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
@pytest.mark.parametrize("variant", ["llama", "mistral", "qwen3", "gemma3"])
def test_float32_hidden_states_are_bit_for_bit_the_same_however_they_are_scheduled(
    variant: str, tmp_path: Path
) -> None:
    runner = make_runner(write_tiny_variant(tmp_path, variant, max_position_embeddings=800), max_model_len=800)
    executor = runner._executor
    assert executor is not None
    chance = Random(0)
    [prompt] = random_prompts(700)
    others = make_requests(random_prompts(3, 90, 260, 400), 1, first_block=60)

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
        (packed.activated(x, "silu"), plain.activated(x, "silu")),
        (packed.activated(x, "gelu"), plain.activated(x, "gelu")),
        (packed.plus(x, other.clone()), plain.plus(x, other.clone())),
        (packed.times(x, other), plain.times(x, other)),
    ):
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("variant", ["llama", "mistral", "gemma3"])
def test_padded_static_decode_steps_give_the_same_hidden_states(variant: str, tmp_path: Path) -> None:
    """What CUDA graphs capture, run eagerly."""
    runner = make_runner(write_tiny_variant(tmp_path, variant), blocks=64)
    requests = make_requests(random_prompts(3, 30, 31, 5, 20), 10)
    generate(runner, requests, 3)
    executor = runner._executor
    assert executor is not None
    steps = [r.next_step() for r in requests]
    with torch.inference_mode():
        plan = executor._planner.plan(steps)
        expected = torch.cat([executor._compute(plan)[rows] for rows in plan.rows])
        parts = (executor._compute, executor._planner, executor._cache, executor.bank)
        graphs = DecodeGraphs(*parts, torch.float32, torch.device("cpu"), captures=False)
        torch.testing.assert_close(graphs.run(steps), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(graphs.run(steps[:3]), expected[:3], atol=1e-5, rtol=0)
        torch.testing.assert_close(graphs.run(steps), expected, atol=1e-5, rtol=0)


def test_an_executor_with_graphs_writes_the_same_text(tiny: Path, runner: TorchRunner) -> None:
    expected = [alone(runner, p, 8) for p in random_prompts(4, 40, 9)]
    other = make_runner(tiny)
    model, plain = other._model, other._executor
    assert model is not None
    assert plain is not None
    with torch.inference_mode():
        other._executor = StepExecutor(
            model.spec,
            model.decoder,
            model.rotary,
            plain._cache,
            torch.float32,
            torch.device("cpu"),
            Variant(graphs="padded"),
        )
    requests = make_requests(random_prompts(4, 40, 9), 8)
    generate(other, requests, 8)
    assert [r.output for r in requests] == expected


def test_folding_grouped_heads_into_queries_changes_nothing(
    runner: TorchRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The masked prefill that GPUs take, run on a CPU."""
    asked = random_prompts(70, 33)
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


def test_capacity_in_bfloat16_counts_two_bytes_for_each_number(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_tiny_gguf(file)
    runner = TorchRunner(RunnerConfig(model_path=str(file), dtype="bfloat16", block_size=8, threads=1))
    spec = runner.load()
    capacity = runner.kv_capacity()
    assert capacity.bytes_per_block == 2 * spec.n_layers * spec.n_kv_heads * spec.head_dim * 8 * 2
    assert capacity.available_bytes > 0
    assert capacity.weight_bytes >= 2 * spec.parameters
