"""The torch runner's life: where to run, load, reserve, execute, shut down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from penstock.core.errors import ConfigError, InvariantError
from penstock.engine.runners.base import DraftCost, KVCapacity, Pacing
from penstock.engine.runners.memory import keep_freed_memory
from penstock.engine.runners.threads import place_threads
from penstock.engine.runners.torch.decoder import Decoder
from penstock.engine.runners.torch.device import choose_placement, kv_budget
from penstock.engine.runners.torch.executor import StepExecutor
from penstock.engine.runners.torch.kv_cache import KVCache
from penstock.engine.runners.torch.rotary import Rotary
from penstock.engine.runners.torch.variant import PLAIN, Variant
from penstock.engine.types import SampleSpec, SamplingParams, SequenceStep, StepOutput
from penstock.models.load import load

if TYPE_CHECKING:
    from penstock.engine.runners.base import RunnerConfig
    from penstock.engine.types import StepBatch
    from penstock.models.lora import LoraAdapter
    from penstock.models.spec import ModelSpec

# Beside decodes. A CPU computes some 56 prompt tokens in not much more than the time of a step of eight decodes, and
# torch's attention there takes four times as long for an operation as its products with weights. A GPU's decodes wait
# for memory, not for arithmetic, which leaves room for many more.
_CPU_PREFILL_TOKENS = 56
_CPU_ATTENTION_COST = 4

# One more row in a step of few: a GPU waits for the weights, a CPU multiplies them anew.
_CPU_DRAFT_ROW_COST = 0.2
_GPU_DRAFT_ROW_COST = 0.02
_GPU_PREFILL_TOKENS = 512


class TorchRunner:
    """A `ModelRunner`; see there for what each method promises.

    Raises ConfigError if the configured device or dtype isn't known, isn't there or isn't verified, or threads are to
    be pinned.
    """

    def __init__(self, config: RunnerConfig, variant: Variant = PLAIN) -> None:
        self._config = config
        self._variant = variant
        self._placement = choose_placement(config)
        computed = str(self._placement.dtype).removeprefix("torch.")
        if config.kv_cache_dtype not in {"auto", computed}:
            raise ConfigError(
                f"The torch runner keeps keys and values as it computes, in {computed}: leave --kv-cache-dtype at "
                "auto, or choose --runner native.",
                param="kv_cache_dtype",
            )
        if config.quantization is not None:
            raise ConfigError(
                "The torch runner computes with weights as they are stored: leave --quantization out, or choose "
                "--runner native.",
                param="quantization",
            )
        if config.pin_threads == "on":
            raise ConfigError(
                "The torch runner's threads can't be pinned: leave --pin-threads at auto, or choose --runner native.",
                param="pin_threads",
            )
        self._threads = place_threads(config).threads
        self._model: _Model | None = None
        self._executor: StepExecutor | None = None

    def load(self) -> ModelSpec:
        torch.set_num_threads(self._threads)
        dtype, device = self._placement.dtype, self._placement.device
        spec, weights = load(Path(self._config.model_path))
        with weights, torch.inference_mode():
            decoder = Decoder(spec, weights, dtype, device, packs=self._variant.compiler is None)
            rotary = Rotary(spec, self._config.max_model_len, dtype, device)
        keep_freed_memory()
        self._model = _Model(spec, decoder, rotary)
        return spec

    def kv_capacity(self) -> KVCapacity:
        model = self._loaded()
        per_token = model.spec.kv_bytes_per_token(self._placement.dtype.itemsize)
        available, free = kv_budget(self._placement.device, self._config.gpu_memory_utilization)
        return KVCapacity(
            bytes_per_block=per_token * self._config.block_size,
            available_bytes=available,
            free_bytes=free,
            weight_bytes=model.decoder.nbytes,
        )

    def pacing(self) -> Pacing:
        span = self._loaded().spec.attention_span
        if self._placement.device.type == "cpu":
            return Pacing(_CPU_PREFILL_TOKENS, max(1, span // _CPU_ATTENTION_COST))
        return Pacing(_GPU_PREFILL_TOKENS, span)

    def draft_cost(self) -> DraftCost:
        row = _CPU_DRAFT_ROW_COST if self._placement.device.type == "cpu" else _GPU_DRAFT_ROW_COST
        return DraftCost(row, exact=self._placement.dtype is torch.float32)

    def allocate(self, num_blocks: int) -> None:
        model, dtype, device = self._loaded(), self._placement.dtype, self._placement.device
        with torch.inference_mode():
            compiled = self._variant.compiler is not None
            cache = KVCache(model.spec, num_blocks, self._config.block_size, dtype, device, apart=compiled)
            executor = StepExecutor(model.spec, model.decoder, model.rotary, cache, dtype, device, self._variant)
            for tokens in () if compiled else (self._config.block_size, 1):  # the first products of a shape cost more
                executor.run([_warm_up_step(min(tokens, self._config.max_model_len))])
        self._executor = executor

    def execute(self, batch: StepBatch) -> StepOutput:
        with torch.inference_mode():
            return StepOutput(self._ready().run(batch.sequences))

    def load_adapter(self, number: int, adapter: LoraAdapter) -> int:
        with torch.inference_mode():
            return self._ready().bank.load(number, adapter)

    def unload_adapter(self, number: int) -> None:
        self._ready().bank.unload(number)

    def describe(self) -> dict[str, str]:
        placement = self._placement
        graphs = ", CUDA graphs for decode" if placement.device.type == "cuda" else ""
        described = {
            "runner": f"torch {torch.__version__}",
            "device": placement.backend,
            "dtype": str(placement.dtype).removeprefix("torch."),
            "attention": f"paged gather, grouped SDPA{graphs}",
            "verified": "yes" if placement.verified else "no: never run on its hardware",
        }
        if placement.device.type == "cpu":
            described["threads"] = str(self._threads)
        if placement.note:
            described["note"] = placement.note
        return described

    def shutdown(self) -> None:
        self._executor = None
        self._model = None

    def _ready(self) -> StepExecutor:
        if self._executor is None:
            raise InvariantError("A step or an adapter came before the KV cache was allocated.")
        return self._executor

    def _loaded(self) -> _Model:
        if self._model is None:
            raise InvariantError("The runner was asked for what only a loaded model has.")
        return self._model


@dataclass(frozen=True, slots=True)
class _Model:
    spec: ModelSpec
    decoder: Decoder
    rotary: Rotary


def _warm_up_step(tokens: int) -> SequenceStep:
    """A prompt in block 0, which no request owns yet."""
    greedy = SampleSpec(SamplingParams(temperature=0), 0, (), (), ())
    return SequenceStep("warm-up", [0] * tokens, 0, [0], greedy)
