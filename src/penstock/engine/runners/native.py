"""The native CPU runner: `rust/penstock-cpu` behind the `ModelRunner` contract.

A step is one call, made without the interpreter's lock: tokens and block tables in, sampled tokens out.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from penstock import _native
from penstock.core.errors import ConfigError, InvariantError, ModelFileError
from penstock.core.sizes import format_size
from penstock.engine.runners.base import DraftCost, KVCapacity, Pacing
from penstock.engine.runners.frequencies import inverse_frequencies, local_frequencies
from penstock.engine.runners.memory import available_memory
from penstock.engine.runners.packed import LEAST_BYTES, PackedFile
from penstock.engine.runners.plans import PlansFile
from penstock.engine.runners.randomness import uniform
from penstock.engine.runners.refusal import NOT_FINITE, NOTHING_TO_CHOOSE, Limits, refusal
from penstock.engine.runners.threads import place_threads
from penstock.engine.types import PositionLogprobs, Sampled, SequenceOutput, StepOutput, TokenLogprob
from penstock.models.load import load
from penstock.models.model_files import find_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from penstock._native import Answer, Choice, Logprobs, Share
    from penstock.engine.runners.base import RunnerConfig
    from penstock.engine.types import SampleSpec, SequenceStep, StepBatch
    from penstock.models.lora import LoraAdapter
    from penstock.models.spec import ModelSpec, Weights

# How products take their activations, and what keys and values are stored as, by the dtype asked for.
_PRECISIONS = {
    "auto": ("int8", "float16"),
    "bfloat16": ("bfloat16", "bfloat16"),
    "float32": ("float32", "float32"),
}

# Beside decodes: about what takes as long as a step of eight decodes. Attention takes three times as long for an
# operation as the products with weights, which are of integers.
_PREFILL_TOKENS = 32
_ATTENTION_COST = 3

# Of steps of few rows: the weights are read once, but their products are made for each.
_DRAFT_ROW_COST = 0.15

_SIZES = (
    "vocab_size", "hidden_size", "ffn_size", "n_layers", "n_heads", "n_kv_heads", "head_dim", "rms_norm_eps",
    "sliding_window", "global_layers", "query_scalar", "embedding_scale", "activation", "post_norms", "tied_embeddings",
    "qkv_bias", "qk_norm",
)  # fmt: skip


class NativeRunner:
    """A `ModelRunner`; see there for what each method promises.

    `PENSTOCK_CPU_PATH` names the instructions to use ("amx", "avx512", "avx2", "neon-i8mm", "neon", "scalar") instead
    of the best there are; all give the same results, bit for bit, but for products of bfloat16 with bfloat16.

    Args:
        note: what a person should know about the choice of this runner.

    Raises:
        ConfigError: a device or dtype that this runner doesn't have, instructions that the CPU lacks, or threads that
            can't be placed as asked.
    """

    def __init__(self, config: RunnerConfig, note: str = "") -> None:
        if config.device not in {"auto", "cpu"}:
            raise ConfigError(
                f"The native runner computes on CPUs, not on '{config.device}': choose --runner torch.", param="device"
            )
        if config.dtype not in _PRECISIONS:
            raise ConfigError(
                f"The native runner has no dtype '{config.dtype}': choose auto (int8 products for quantized weights), "
                "bfloat16 or float32, or --runner torch.",
                param="dtype",
            )
        self._config = config
        self._note = note
        self._precision, self._kv_type = _PRECISIONS[config.dtype]
        if config.kv_cache_dtype != "auto":
            self._kv_type = config.kv_cache_dtype
        placement = place_threads(config)
        self._threads = placement.threads
        with _own_errors():
            self._runner = _native.Runner(
                placement, self._precision, os.environ.get("PENSTOCK_CPU_PATH"), config.allow_unverified
            )
        self._plans = None
        if config.runner_cache:
            self._plans = PlansFile(path=self._runner.path(), threads=self._threads, precision=self._precision)
            self._runner.know_plans(self._plans.read())
        self._plans_kept = self._runner.count_plans()
        self._was_kept = False
        self._spec: ModelSpec | None = None
        self._limits: Limits | None = None

    def load(self) -> ModelSpec:
        path = Path(self._config.model_path)
        spec, weights = load(path)
        with weights, _own_errors():
            sizes = {name: getattr(spec, name) for name in _SIZES} | {"local_frequencies": local_frequencies(spec)}
            frequencies = inverse_frequencies(spec)
            # Of a matrix only what its header says, until it has to be packed.
            described = {name: _described(weights, name) for name in weights.names()}
            quantization = self._config.quantization
            needed = self._runner.planned_bytes(sizes, frequencies, described, quantization)
            free = available_memory()
            if needed > free:
                raise ConfigError(
                    f"The weights of {spec.name} take {format_size(needed)} of memory; {format_size(free)} are free. "
                    "Free some, raise the container's limit, or choose a smaller quantization.",
                    param="model",
                )
            positions = self._config.max_model_len
            kept = None
            if self._config.runner_cache and needed >= LEAST_BYTES:
                kept = PackedFile(
                    find_files(path).paths, f"{quantization or 'as stored'}, for {self._precision} products"
                )
                self._was_kept = self._runner.load_kept(
                    sizes, frequencies, positions, described, str(kept.path), kept.key, quantization
                )
            if not self._was_kept:
                tensors = {name: (*described[name][:2], weights.raw(name)) for name in described}
                self._runner.load(sizes, frequencies, positions, tensors, quantization)
                del tensors
                if kept is not None:
                    kept.write_aside(self._runner.packed_weights(), needed)
            del described  # the file can't be closed while its bytes are lent out
        self._spec = spec
        return spec

    def kv_capacity(self) -> KVCapacity:
        self._loaded()
        free = available_memory()
        return KVCapacity(
            bytes_per_block=self._runner.block_bytes(self._config.block_size, self._kv_type),
            available_bytes=free // 4,
            free_bytes=free,
            weight_bytes=self._runner.weight_bytes(),
        )

    def pacing(self) -> Pacing:
        return Pacing(_PREFILL_TOKENS, max(1, self._loaded().attention_span // _ATTENTION_COST))

    def draft_cost(self) -> DraftCost:
        return DraftCost(_DRAFT_ROW_COST, exact=True)

    def allocate(self, num_blocks: int) -> None:
        spec, block_size = self._loaded(), self._config.block_size
        with _own_errors():
            self._runner.allocate(num_blocks, block_size, self._kv_type)
        self._limits = Limits(spec.vocab_size, self._config.max_model_len, num_blocks, block_size)

    def execute(self, batch: StepBatch) -> StepOutput:
        limits = self._limits
        if limits is None:
            raise InvariantError("A step came before the KV cache was allocated.")
        outputs = [SequenceOutput(error=refusal(s, limits)) for s in batch.sequences]
        valid = [i for i, output in enumerate(outputs) if output.error is None]
        if valid:
            valid.sort(key=lambda i: batch.sequences[i].adapter)  # sequences of one adapter share its products
            adapters = [batch.sequences[i].adapter for i in valid]
            shares = [_share(batch.sequences[i], limits) for i in valid]
            with _own_errors():
                answers = self._runner.execute(shares, adapters if adapters[-1] else [])
            for at, (i, answer) in enumerate(zip(valid, answers, strict=True)):
                outputs[i] = _output(answer)
                pooling = batch.sequences[i].pooling
                if pooling is not None and outputs[i].error is None:
                    outputs[i] = replace(outputs[i], pooled=self._runner.pooled(at, pooling == "mean"))
            self._keep_plans()
        return StepOutput(outputs)

    def _keep_plans(self) -> None:
        if self._plans is not None and self._runner.count_plans() != self._plans_kept:
            plans = self._runner.plans()
            self._plans.add(plans)
            self._plans_kept = len(plans)

    def load_adapter(self, number: int, adapter: LoraAdapter) -> int:
        needed = 4 * sum(math.prod(pair.a.shape) + math.prod(pair.b.shape) for pair in adapter.pairs.values())
        free = available_memory()
        if needed > free:
            raise ConfigError(
                f"The adapter takes up to {format_size(needed)} of memory; {format_size(free)} are free.",
                param="max_loras",
            )
        pairs = {
            pair.module: (
                pair.scale,
                (pair.a.dtype, pair.a.shape, adapter.raw(pair.a)),
                (pair.b.dtype, pair.b.shape, adapter.raw(pair.b)),
            )
            for pair in adapter.pairs.values()
        }
        with _own_errors():
            return self._runner.load_adapter(number, pairs)

    def unload_adapter(self, number: int) -> None:
        self._runner.unload_adapter(number)

    def describe(self) -> dict[str, str]:
        described = {
            "runner": "native",
            "device": "cpu",
            "dtype": self._products(self._config.quantization or self._loaded().quantization),
            "attention": f"paged, {self._kv_type} KV",
            "instructions": self._runner.path(),
            "verified": "yes" if self._runner.path_is_verified() else "never run on such a processor",
            "threads": str(self._threads),
            "placement": self._runner.placement(),
            "weights": "packed by an earlier start" if self._was_kept else "packed at this start",
        }
        if self._config.quantization:
            described["quantization"] = self._config.quantization
        if self._note:
            described["note"] = self._note
        return described

    def logits(
        self, token_ids: Sequence[int], start: int, block_table: Sequence[int], adapter: int = 0
    ) -> list[list[float]]:
        """Scores of the token after each of `token_ids`, `[len(token_ids), vocab_size]`; for comparisons."""
        return self._runner.logits(token_ids, start, block_table, adapter)

    def _products(self, quantization: str) -> str:
        """What products take the activations of such weights as."""
        if self._precision == "float32" or quantization in {"F32", "F16"}:
            return "float32"
        if quantization == "BF16":
            return "bfloat16" if self._precision == "bfloat16" else "float32"
        return "int8"

    def phases(self) -> dict[str, float]:
        """Seconds that the steps since this was last asked spent in each phase (`rust/penstock-cpu/src/phases.rs`)."""
        return self._runner.phases()

    def peak(self) -> tuple[float, float]:
        """Operations/s of arithmetic on registers alone, on all threads: int8 products, float32.

        A multiplication and an addition count as two.
        """
        return self._runner.peak()

    def shutdown(self) -> None:
        self._limits = None
        self._runner.close()

    def _loaded(self) -> ModelSpec:
        if self._spec is None:
            raise InvariantError("The runner was asked for what only a loaded model has.")
        return self._spec


@contextmanager
def _own_errors() -> Iterator[None]:
    """The extension's exceptions as ours."""
    try:
        yield
    except _native.NativeModelError as error:
        raise ModelFileError(str(error)) from error
    except _native.NativeConfigError as error:
        raise ConfigError(str(error)) from error
    except _native.NativeError as error:
        raise InvariantError(str(error)) from error


def _described(weights: Weights, name: str) -> tuple[str, list[int], bytes | memoryview]:
    """A tensor's type and shape, and its bytes if it is a vector."""
    info = weights.info(name)
    return info.dtype, list(info.shape), weights.raw(name) if len(info.shape) == 1 else b""


def _share(s: SequenceStep, limits: Limits) -> Share:
    choices = [] if s.sample is None else [_choice(s.sample), *map(_choice, s.drafts)]
    table = list(s.block_table[: limits.blocks(s)])
    return list(s.token_ids), s.start, table, choices, list(s.next_prompt_ids), s.prompt_logprobs or 0


def _choice(spec: SampleSpec) -> Choice:
    p = spec.params
    seen: set[int] = set()
    if p.repetition_penalty != 1:
        seen.update(spec.prompt_token_ids, spec.output_token_ids)
    subtracted: list[tuple[int, float]] = []
    if p.frequency_penalty or p.presence_penalty:
        counts = Counter(spec.output_token_ids)
        subtracted = [(t, n * p.frequency_penalty + p.presence_penalty) for t, n in counts.items()]
    return (
        p.temperature,
        p.top_k,
        p.top_p,
        p.min_p,
        uniform(spec.seed, len(spec.output_token_ids)),
        p.logprobs,
        [(token, bias) for token, bias in p.logit_bias.items() if token >= 0],
        [token for token in spec.banned_token_ids if token >= 0],
        p.repetition_penalty,
        list(seen),
        subtracted,
        spec.allowed,
    )


def _output(answer: Answer) -> SequenceOutput:
    finite, chosen, scored = answer
    if not finite:
        return SequenceOutput(error=NOT_FINITE)
    prompt = [_position(logprobs) for logprobs in scored]
    if not chosen:
        return SequenceOutput(prompt_logprobs=prompt)
    first, *others = [Sampled(token, None if logprobs is None else _position(logprobs)) for token, logprobs in chosen]
    if first.token_id is None:
        return SequenceOutput(error=NOTHING_TO_CHOOSE)
    return SequenceOutput(first.token_id, first.logprobs, others, prompt)


def _position(logprobs: Logprobs) -> PositionLogprobs:
    chosen, top = logprobs
    return PositionLogprobs(TokenLogprob(*chosen), [TokenLogprob(*each) for each in top])
