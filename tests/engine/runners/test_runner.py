"""Every runner as the engine sees it: same text however a request is scheduled, and failures that stay alone.

Where the native runner promises more than torch can, the same bits, log probabilities are compared for equality.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import torch

from penstock import _native
from penstock.core.errors import InvariantError
from penstock.engine.types import SampleSpec, SamplingParams, SequenceStep, StepBatch
from penstock.models.load import load
from support.gguf_files import write_gguf_from_hf
from support.runners import (
    GREEDY,
    KINDS,
    NATIVE_KINDS,
    Request,
    execute,
    generate,
    make_requests,
    make_runner,
    new_runner,
    random_prompts,
    write_model,
)
from support.tiny_models import write_tiny_variant

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.engine.runners.base import ModelRunner
    from penstock.engine.types import SequenceOutput

VOCAB = 320
POISON = 11  # a token whose embedding is infinite in the poisoned model
SCORED = SamplingParams(temperature=1.0, top_p=0.9, logprobs=3, prompt_logprobs=2)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=NATIVE_KINDS)
def native_kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def tiny(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny"), "llama", kind)


@pytest.fixture(scope="module")
def runner(kind: str, tiny: Path) -> ModelRunner:
    return make_runner(tiny, kind)


def alone(runner: ModelRunner, prompt: list[int], new: int, **fields: Any) -> list[int]:
    [request] = make_requests([prompt], new, **fields)
    generate(runner, [request], new)
    return request.output


def told(request: Request) -> tuple[list[Any], list[Any]]:
    """Everything reported of a request: its prompt's scores, and its tokens with theirs."""
    prompt = [p for result in request.results for p in result.prompt_logprobs]
    output = [(r.token_id, r.logprobs) for r in request.results if r.token_id is not None]
    return prompt, output


@pytest.mark.parametrize("variant", ["llama", "mistral", "qwen2-tied", "qwen3", "gemma3"])
def test_batched_and_chunked_requests_write_what_each_writes_alone(kind: str, variant: str, tmp_path: Path) -> None:
    runner = make_runner(write_model(tmp_path, variant, kind), kind)
    asked = random_prompts(1, 2, 15, 16, 17, 40, 100, 63)
    expected = [alone(runner, p, 12) for p in asked]
    for chunk in (1000, 16, 7, 1):
        requests = make_requests(asked, 12)
        generate(runner, requests, 12, chunk=chunk)
        assert [r.output for r in requests] == expected


@pytest.mark.parametrize("seed", range(12))
def test_any_schedule_gives_the_text_of_one_at_a_time(runner: ModelRunner, seed: int) -> None:
    """Requests join late, rest, are preempted and computed again, and take chunks of any size."""
    sampled = SamplingParams(temperature=1.0, top_p=0.9)
    expected = one_at_a_time(runner, seed, sampled)
    requests = by_chance(runner, seed, sampled)
    assert [r.output for r in requests] == [r.output for r in expected]


def asked_by_chance(seed: int) -> tuple[Random, list[list[int]]]:
    chance = Random(seed)
    return chance, random_prompts(*(chance.randint(1, 50) for _ in range(chance.randint(1, 5))), seed=seed)


def one_at_a_time(runner: ModelRunner, seed: int, params: SamplingParams) -> list[Request]:
    requests = [Request(p, list(range(8)), params, seed=i) for i, p in enumerate(asked_by_chance(seed)[1])]
    for request in requests:
        generate(runner, [request], 6)
    return requests


def by_chance(runner: ModelRunner, seed: int, params: SamplingParams) -> list[Request]:
    chance, asked = asked_by_chance(seed)
    requests = make_requests(asked, 6, params=params)
    while live := [r for r in requests if len(r.output) < 6]:
        chosen = [r for r in live if chance.random() < 0.7] or live[:1]
        for request in chosen:
            if chance.random() < 0.1:  # preempted
                request.computed = 0
                request.results = [r for r in request.results if r.token_id is not None]
                request.results = [replace(r, prompt_logprobs=()) for r in request.results]
        execute(runner, chosen, [r.next_step(chance.randint(1, 60)) for r in chosen])
    return requests


@pytest.mark.parametrize("variant", ["llama", "mistral", "qwen2-tied", "qwen3", "gemma3"])
def test_natively_any_schedule_gives_the_same_log_probabilities_to_the_last_bit(
    native_kind: str, variant: str, tmp_path: Path
) -> None:
    runner = make_runner(write_model(tmp_path, variant, native_kind), native_kind)
    for seed in range(8):
        expected = one_at_a_time(runner, seed, SCORED)
        requests = by_chance(runner, seed, SCORED)
        assert [told(r) for r in requests] == [told(r) for r in expected]


@pytest.mark.parametrize("variant", ["llama", "mistral", "qwen3", "gemma3"])
def test_natively_all_instructions_and_any_threads_give_the_same_log_probabilities_to_the_last_bit(
    native_kind: str, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path, variant, native_kind)
    found = {}
    for instructions in _native.supported_paths():
        monkeypatch.setenv("PENSTOCK_CPU_PATH", instructions)
        for threads in (1, 2):
            runner = make_runner(path, native_kind, threads=threads)
            assert runner.describe()["instructions"] == instructions
            requests = make_requests(random_prompts(1, 17, 100, 63), 8, params=SCORED)
            generate(runner, requests, 8, chunk=40)
            found[instructions, threads] = [told(r) for r in requests]
            runner.shutdown()
    [expected, *others] = found.values()
    assert all(len(output) == 8 for _, output in expected)
    assert [where for where, other in zip(list(found)[1:], others, strict=True) if other != expected] == []


def test_a_shared_prefix_block_serves_two_requests(runner: ModelRunner) -> None:
    [prompt] = random_prompts(40)
    other = prompt[:32] + random_prompts(9, seed=5)[0]
    expected = alone(runner, other, 5)
    first = Request(prompt, [0, 1, 2])
    generate(runner, [first], 5)
    second = Request(other, [0, 1, 7])
    second.computed = 32
    generate(runner, [second], 5)
    assert second.output == expected


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
def test_an_impossible_sequence_fails_alone(runner: ModelRunner, changes: dict[str, Any], message: str) -> None:
    [expected] = runner.execute(StepBatch([good_step()])).sequences
    bad = replace(good_step((9,)), request_id="bad", **changes)
    before, failed, after = runner.execute(StepBatch([good_step(), bad, good_step((4,))])).sequences
    assert failed.error is not None
    assert message in failed.error
    assert before == after == expected


def test_a_batch_of_impossible_sequences_or_none_computes_nothing(runner: ModelRunner) -> None:
    bad = replace(good_step(), token_ids=[VOCAB])
    assert all(o.error for o in runner.execute(StepBatch([bad, bad])).sequences)
    assert runner.execute(StepBatch([])).sequences == []


@pytest.fixture(scope="module")
def poisoned(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with one infinite embedding."""
    from safetensors.torch import load_file, save_file

    directory = write_tiny_variant(tmp_path_factory.mktemp("poisoned"), "llama")
    file = directory / "model.safetensors"
    tensors = load_file(file)
    tensors["model.embed_tokens.weight"][POISON] = float("inf")
    save_file(tensors, file, {"format": "pt"})
    if not kind.startswith("native-int8"):
        return directory
    return write_gguf_from_hf(directory, directory / "tiny.gguf", lambda n: "F32" if "embed" in n else "Q8_0")


def test_values_that_are_not_finite_fail_their_request_and_spoil_no_block(kind: str, poisoned: Path) -> None:
    runner = make_runner(poisoned, kind, blocks=16)

    def greedy(tokens: list[int], start: int, block: int) -> SequenceStep:
        return SequenceStep("a", tokens, start, (block,), SampleSpec(GREEDY, 0, tokens, [], ()))

    def answers(*steps: SequenceStep) -> list[SequenceOutput]:
        return list(runner.execute(StepBatch(steps)).sequences)

    [expected] = answers(good_step())
    [then] = answers(greedy([8], 3, 3))
    good, failed = answers(good_step(), greedy([1, 2, POISON, 3, POISON, 4], 0, 9))
    assert failed.error is not None
    assert "finite" in failed.error
    assert failed.token_id is None
    assert good == expected
    # What is left of the failed request lies before and behind the next owner's end.
    assert answers(good_step((9,))) == [expected]
    assert answers(greedy([8], 3, 9)) == [then]
    first, second = answers(greedy([5], 0, 9), greedy([POISON], 0, 10))
    assert first.error is None
    assert second.error is not None


def test_scores_that_are_not_finite_are_never_chosen_or_reported(kind: str, poisoned: Path) -> None:
    runner = make_runner(poisoned, kind, blocks=16)
    scored = replace(
        good_step((9,)), token_ids=[5, POISON, 6], prompt_logprobs=2, next_prompt_ids=[POISON, 6],
    )  # fmt: skip
    [failed] = runner.execute(StepBatch([scored])).sequences
    assert failed.error is not None
    assert not failed.prompt_logprobs


def test_prompt_logprobs_come_out_the_same_whole_in_chunks_and_in_a_batch(kind: str, runner: ModelRunner) -> None:
    asked = random_prompts(37, 20, 1)
    params = SamplingParams(temperature=0, prompt_logprobs=2, logprobs=1)
    scores = []
    for chunk in (1000, 16, 5):
        requests = make_requests(asked, 2, params=params)
        generate(runner, requests, 2, chunk=chunk)
        scores.append([told(r)[0] for r in requests])
    for found in scores:
        assert [len(s) for s in found] == [36, 19, 0]
        if kind in NATIVE_KINDS:
            assert found == scores[0]
        for ours, whole in zip(found, scores[0], strict=True):
            assert [p.chosen.token_id for p in ours] == [p.chosen.token_id for p in whole]
            assert [p.chosen.logprob for p in ours] == pytest.approx([p.chosen.logprob for p in whole], abs=1e-4)
            assert [[t.token_id for t in p.top] for p in ours] == [[t.token_id for t in p.top] for p in whole]
    assert [p.chosen.token_id for p in scores[0][0]] == asked[0][1:]


def test_prompt_logprobs_of_more_positions_than_are_scored_at_a_time(runner: ModelRunner) -> None:
    [prompt] = random_prompts(200)
    params = SamplingParams(temperature=0, prompt_logprobs=0)
    [whole] = make_requests([prompt], 1, params=params)
    generate(runner, [whole], 1)
    [chunked] = make_requests([prompt], 1, params=params)
    generate(runner, [chunked], 1, chunk=9)
    ours, theirs = told(whole)[0], told(chunked)[0]
    assert [p.chosen.token_id for p in ours] == prompt[1:]
    assert [p.chosen.logprob for p in ours] == pytest.approx([p.chosen.logprob for p in theirs], abs=1e-4)


def test_capacity_counts_both_keys_and_values_of_every_layer(kind: str, tiny: Path) -> None:
    runner = new_runner(tiny, kind, block_size=16)
    spec = runner.load()
    capacity = runner.kv_capacity()
    vector = spec.head_dim * {"native-int8": 2, "native-int8-kv": 1}.get(kind, 4)
    scale = 4 if kind == "native-int8-kv" else 0
    assert capacity.bytes_per_block == 2 * spec.n_layers * spec.n_kv_heads * 16 * (vector + scale)
    assert 0 < capacity.available_bytes < capacity.free_bytes
    # of the quantized model the smallest type takes 4.5 bits for a weight, and none more than 10
    least, most = (0.5, 1.3) if kind.startswith("native-int8") else (4, 4.2)
    vectors = 4 * spec.hidden_size * (2 * spec.n_layers + 1)
    assert least * spec.parameters - vectors < capacity.weight_bytes < most * spec.parameters + vectors


def test_pacing_follows_from_the_sizes_of_the_model(tiny: Path, runner: ModelRunner) -> None:
    with load(tiny)[1] as weights:
        looked_up = "embed.weight" if "head.weight" in weights else ""
        shapes = [weights.info(name).shape for name in weights.names() if name != looked_up]
        flops = sum(2 * prod(shape) for shape in shapes if len(shape) == 2)
    spec = load(tiny)[0]
    per_key = 4 * spec.n_layers * spec.n_heads * spec.head_dim
    assert spec.attention_span == pytest.approx(flops / per_key, abs=1)
    assert 1 <= runner.pacing().attention_span <= spec.attention_span
    assert runner.pacing().prefill_tokens >= 1


def test_untouched_cache_takes_no_memory(kind: str, tiny: Path) -> None:
    import psutil

    before = psutil.Process().memory_info().rss
    runner = make_runner(tiny, kind, blocks=400_000)  # 1.5 GB and more
    assert psutil.Process().memory_info().rss - before < 300 << 20
    assert runner.kv_capacity().bytes_per_block * 400_000 > 1 << 30


def test_the_runner_says_what_it_runs_on(kind: str, runner: ModelRunner) -> None:
    described = runner.describe()
    assert described["device"] == "cpu"
    assert described["dtype"] == ("int8" if kind.startswith("native-int8") else "float32")
    assert described["verified"] == "yes"
    assert described["threads"] == "1"
    assert all(described.values())


def test_steps_before_loading_and_after_shutdown_are_refused(kind: str, tiny: Path) -> None:
    runner = new_runner(tiny, kind)
    for ask in (runner.kv_capacity, runner.pacing, lambda: runner.execute(StepBatch([good_step()]))):
        with pytest.raises(InvariantError):
            ask()
    runner.load()
    with pytest.raises(InvariantError):
        runner.execute(StepBatch([good_step()]))
    runner = make_runner(tiny, kind)
    runner.shutdown()
    with pytest.raises(InvariantError):
        runner.execute(StepBatch([good_step()]))
    runner.shutdown()
