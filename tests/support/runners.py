"""Drives runners below the engine: logits of any chunking, text of any batching; and the models they are tried on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from penstock.engine.runners.base import ModelRunner, RunnerConfig
from penstock.engine.runners.native import NativeRunner
from penstock.engine.runners.torch.attention import Attention
from penstock.engine.runners.torch.decoder import Decoder
from penstock.engine.runners.torch.kv_cache import KVCache
from penstock.engine.runners.torch.lora import LoraBank
from penstock.engine.runners.torch.plan import Planner
from penstock.engine.runners.torch.rotary import Rotary
from penstock.engine.runners.torch.runner import TorchRunner
from penstock.engine.types import SampleSpec, SamplingParams, SequenceStep, StepBatch
from penstock.models.load import load
from penstock.models.lora import LoraAdapter
from support.gguf_files import write_gguf_from_hf
from support.tiny_models import write_tiny_variant

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from penstock.engine.types import SequenceOutput

GREEDY = SamplingParams(temperature=0)
# name -> (runner, settings): what keeps the whole contract, each in the precision it has of its own
KINDS: dict[str, tuple[type[ModelRunner], dict[str, str]]] = {
    "native-float32": (NativeRunner, {"dtype": "float32"}),
    "native-int8": (NativeRunner, {"dtype": "auto"}),
    "native-int8-kv": (NativeRunner, {"dtype": "auto", "kv_cache_dtype": "int8"}),
    "torch": (TorchRunner, {"dtype": "float32"}),
}
NATIVE_KINDS = tuple(kind for kind in KINDS if kind.startswith("native"))


def write_model(directory: Path, variant: str, kind: str, **overrides: object) -> Path:
    """A tiny model that a runner of this kind computes as the kind's name says; overrides as `write_tiny_variant`.

    Products are of integers only where weights are quantized, so for int8 it is a GGUF file of several types. What GGUF
    can't say (Mistral, a window in some of Qwen's layers) gets of int8 the smaller KV cache alone.
    """
    hf = write_tiny_variant(directory, variant, **overrides)
    if not kind.startswith("native-int8") or variant in {"mistral", "qwen3-mixed"}:
        return hf
    types = {"v": "Q8_0", "o": "Q5_1", "gate": "Q5_0", "down": "Q4_1", "embed": "Q8_0", "head": "Q8_0"}
    return write_gguf_from_hf(hf, directory / "tiny.gguf", lambda name: types.get(name.split(".")[-2], "Q4_0"))


def logits_of(
    path: Path,
    tokens: list[int],
    chunks: Sequence[int] = (),
    *,
    block_size: int = 8,
    device: str = "cpu",
    adapter: Path | None = None,
) -> Tensor:
    """The float32 logits [len(tokens), vocab] of the model at `path`, computed in chunks of the given lengths (the
    rest in one), through scattered blocks; with an adapter if there is one."""
    on = torch.device(device)
    spec, weights = load(path)
    with weights, torch.inference_mode():
        decoder = Decoder(spec, weights, torch.float32, on)
        rotary = Rotary(spec, len(tokens), torch.float32, on)
        blocks = -(-len(tokens) // block_size)
        cache = KVCache(spec, 2 * blocks, block_size, torch.float32, on)
        attention = Attention(spec, cache, on)
        planner = Planner(cache, spec.windows, torch.float32, on)
        bank = LoraBank(spec, torch.float32, on)
        if adapter is not None:
            with LoraAdapter.open(adapter, spec, 64) as opened:
                bank.load(1, opened)
        table = [2 * blocks - 1 - 2 * i for i in range(blocks)]
        parts, start = [], 0
        for count in (*chunks, len(tokens) - sum(chunks)):
            step = SequenceStep("a", tokens[start : start + count], start, table, None)
            plan = planner.plan([step])
            plan = replace(plan, adapted=bank.rows([(plan.rows[0], 0 if adapter is None else 1)]))
            parts.append(decoder.logits(decoder.forward(plan, rotary=rotary, attention=attention, bank=bank)))
            start += count
        return torch.cat(parts)


def native_logits_of(
    path: Path,
    tokens: list[int],
    chunks: Sequence[int] = (),
    *,
    kind: str = "native-float32",
    block_size: int = 8,
    adapter: Path | None = None,
    **fields: Any,
) -> Tensor:
    """As `logits_of`, of the native runner; settings as `new_runner`."""
    blocks = -(-len(tokens) // block_size)
    fields = {"block_size": block_size, "max_model_len": len(tokens), **fields}
    runner = make_runner(path, kind, blocks=2 * blocks, **fields)
    if adapter is not None:
        load_adapter(runner, 1, path, adapter)
    table = [2 * blocks - 1 - 2 * i for i in range(blocks)]
    parts, start = [], 0
    for count in (*chunks, len(tokens) - sum(chunks)):
        # as many blocks as the chunk's end needs and no more, as the engine gives them
        known = table[: -(-(start + count) // block_size)]
        parts += runner.logits(tokens[start : start + count], start, known, 0 if adapter is None else 1)
        start += count
    runner.shutdown()
    return torch.tensor(parts)


def new_runner(path: Path, kind: str = "torch", **fields: object) -> ModelRunner:
    """A runner on one thread, unless told otherwise, that has loaded nothing."""
    runner, own = KINDS[kind]
    settings = {**own, "device": "cpu", "max_model_len": 256, "threads": 1, **fields}
    return runner(RunnerConfig(model_path=str(path), **settings))  # type: ignore[arg-type]


def make_runner(path: Path, kind: str = "torch", *, blocks: int = 256, **fields: object) -> Any:
    """`new_runner`, ready to execute."""
    runner = new_runner(path, kind, **fields)
    runner.load()
    runner.allocate(blocks)
    return runner


def load_adapter(runner: ModelRunner, number: int, model: Path, adapter: Path) -> None:
    """Load an adapter of `model` from its directory."""
    spec, weights = load(model)
    weights.close()
    with LoraAdapter.open(adapter, spec, 64) as opened:
        runner.load_adapter(number, opened)


class Request:
    """One sequence of a test: what was asked, what has been computed, and its blocks."""

    def __init__(
        self, prompt: list[int], table: list[int], params: SamplingParams = GREEDY, seed: int = 0, adapter: int = 0
    ) -> None:
        self.prompt = prompt
        self.table = table
        self.params = params
        self.seed = seed
        self.adapter = adapter
        self.output: list[int] = []
        self.computed = 0
        self.results: list[SequenceOutput] = []

    def next_step(self, most: int = 1 << 30) -> SequenceStep:
        known = self.prompt + self.output
        tokens = known[self.computed : self.computed + most]
        end = self.computed + len(tokens)
        spec = SampleSpec(self.params, self.seed, self.prompt, self.output, ())
        wants_prompt = self.params.prompt_logprobs is not None and self.computed < len(self.prompt)
        return SequenceStep(
            request_id=str(id(self)),
            token_ids=tokens,
            start=self.computed,
            block_table=self.table,
            sample=spec if end == len(known) else None,
            adapter=self.adapter,
            prompt_logprobs=self.params.prompt_logprobs if wants_prompt else None,
            next_prompt_ids=self.prompt[self.computed + 1 : end + 1] if wants_prompt else (),
        )

    def take(self, step: SequenceStep, result: SequenceOutput) -> None:
        assert result.error is None, result.error
        self.results.append(result)
        self.computed += len(step.token_ids)
        if result.token_id is not None:
            self.output.append(result.token_id)


def make_requests(
    prompts: Sequence[list[int]],
    new_tokens: int,
    *,
    params: SamplingParams = GREEDY,
    block_size: int = 16,
    first_block: int = 0,
) -> list[Request]:
    """Requests whose block tables are interleaved, so that no sequence's blocks lie side by side."""
    counts = [-(-(len(p) + new_tokens) // block_size) for p in prompts]
    stride = len(prompts)
    return [
        Request(p, [first_block + i + stride * j for j in range(n)], params, seed=i)
        for i, (p, n) in enumerate(zip(prompts, counts, strict=True))
    ]


def generate(runner: ModelRunner, requests: Sequence[Request], new_tokens: int, *, chunk: int = 1 << 30) -> None:
    """Run all requests side by side until each has `new_tokens`; no step takes more than `chunk` of one prompt."""
    while live := [r for r in requests if len(r.output) < new_tokens]:
        execute(runner, live, [r.next_step(chunk) for r in live])


def execute(runner: ModelRunner, requests: Sequence[Request], steps: Sequence[SequenceStep]) -> None:
    """One step of these requests together."""
    for request, step, result in zip(requests, steps, runner.execute(StepBatch(steps)).sequences, strict=True):
        request.take(step, result)


def random_prompts(*lengths: int, vocab: int = 320, seed: int = 0) -> list[list[int]]:
    """A prompt of each of these lengths, the same ones each time."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocab, (n,), generator=generator).tolist() for n in lengths]
