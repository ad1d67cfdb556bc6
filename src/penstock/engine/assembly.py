"""What an engine core is made of, as its settings and the machine allow: model, memory, drafts, adapters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from penstock.core.errors import ConfigError
from penstock.core.sizes import format_size
from penstock.engine.adapters import AdapterTable, load_all
from penstock.engine.config import EngineInfo
from penstock.engine.runners.base import RunnerConfig
from penstock.engine.runners.select import make_runner
from penstock.engine.speculation.draft_model import DraftModel, check_vocabulary
from penstock.engine.speculation.speculator import Speculator
from penstock.models.load import load
from penstock.models.vocabulary_files import load_vocabulary

if TYPE_CHECKING:
    from penstock.engine.config import EngineConfig
    from penstock.engine.runners.base import KVCapacity, ModelRunner, Pacing
    from penstock.models.spec import ModelSpec
    from penstock.models.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class CoreParts:
    """A model in memory, its KV cache allocated, and what goes with it."""

    runner: ModelRunner
    spec: ModelSpec
    vocabulary: Vocabulary
    pacing: Pacing
    speculator: Speculator
    adapters: AdapterTable
    info: EngineInfo


def assemble(config: EngineConfig) -> CoreParts:
    """Load what `config` names. Raises ModelFileError, or ConfigError for what doesn't fit the model or the machine."""
    path = Path(config.model_path)
    spec, weights = load(path)
    weights.close()
    vocabulary = load_vocabulary(path)
    longest = _checked_model_len(config, spec)
    runner = make_runner(_runner_config(config, config.model_path, longest))
    spec = runner.load()
    draft_runner = _load_draft_runner(config, longest, spec, vocabulary)
    capacity = runner.kv_capacity()
    if draft_runner is not None:
        capacity = _together(capacity, draft_runner.kv_capacity())
    blocks = _kv_blocks(config, capacity, longest)
    max_model_len = _held_model_len(config, longest, blocks)
    runner.allocate(blocks)
    pacing = runner.pacing()
    speculator = _make_speculator(config, runner, draft_runner, blocks, pacing, spec)
    adapters = AdapterTable(runner, spec, most=config.max_loras, max_rank=config.max_lora_rank)
    configured = load_all(adapters, config.lora_modules)
    info = EngineInfo(
        max_model_len=max_model_len,
        kv_blocks=blocks,
        block_size=config.block_size,
        kv_bytes=blocks * capacity.bytes_per_block,
        weight_bytes=capacity.weight_bytes,
        runner=runner.describe(),
        adapters=configured,
    )
    return CoreParts(runner, spec, vocabulary, pacing, speculator, adapters, info)


def _checked_model_len(config: EngineConfig, spec: ModelSpec) -> int:
    if config.max_model_len is None:
        return spec.context_length
    if not 1 <= config.max_model_len <= spec.context_length:
        raise ConfigError(
            f"max_model_len {config.max_model_len} is outside 1 to {spec.context_length}, the context {spec.name} "
            "was trained for.",
            param="max_model_len",
        )
    return config.max_model_len


def _runner_config(config: EngineConfig, model_path: str, max_model_len: int) -> RunnerConfig:
    return RunnerConfig(
        model_path=model_path,
        runner=config.runner,
        block_size=config.block_size,
        device=config.device,
        dtype=config.dtype,
        kv_cache_dtype=config.kv_cache_dtype,
        quantization=config.quantization,
        threads=config.threads,
        reserve_cores=config.reserve_cores,
        pin_threads=config.pin_threads,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_model_len=max_model_len,
        gpu_memory_utilization=config.gpu_memory_utilization,
        runner_cache=config.runner_cache,
        allow_unverified=config.allow_unverified,
        max_loras=config.max_loras,
        max_lora_rank=config.max_lora_rank,
    )


def _load_draft_runner(
    config: EngineConfig, max_model_len: int, target: ModelSpec, vocabulary: Vocabulary
) -> ModelRunner | None:
    if config.draft_model is None:
        if config.speculation == "draft":
            raise ConfigError("Guessing by a draft model needs one: give --draft-model.", param="draft_model")
        return None
    # Its own weights, wherever the model runs; a quantization is the model's.
    own = msgspec.structs.replace(config, quantization=None)
    runner = make_runner(_runner_config(own, config.draft_model, max_model_len))
    spec = runner.load()
    check_vocabulary(load_vocabulary(Path(config.draft_model)), vocabulary, min(spec.vocab_size, target.vocab_size))
    if spec.context_length < max_model_len:
        raise ConfigError(
            f"The draft model was trained for {spec.context_length} tokens, fewer than the {max_model_len} of a "
            f"request. Give --max-model-len {spec.context_length}, or another draft model.",
            param="draft_model",
        )
    return runner


def _together(model: KVCapacity, draft: KVCapacity) -> KVCapacity:
    """Of two models whose caches have the same number of blocks; both were asked once both were loaded."""
    return replace(
        model,
        bytes_per_block=model.bytes_per_block + draft.bytes_per_block,
        weight_bytes=model.weight_bytes + draft.weight_bytes,
    )


def _kv_blocks(config: EngineConfig, capacity: KVCapacity, max_model_len: int) -> int:
    """How many blocks the KV cache gets: what memory allows, but no more than max_num_seqs full contexts need."""
    given = capacity.available_bytes if config.kv_memory is None else config.kv_memory
    if config.memory is not None:
        left = config.memory - capacity.weight_bytes
        if left < 2 * capacity.bytes_per_block or (config.kv_memory is not None and left < config.kv_memory):
            raise ConfigError(
                f"The model may take {format_size(config.memory)}, of which its weights take "
                f"{format_size(capacity.weight_bytes)}: too little is left for the KV cache. Raise --memory.",
                param="memory",
            )
        given = left if config.kv_memory is None else config.kv_memory
    blocks = given // capacity.bytes_per_block
    useful = config.max_num_seqs * -(-max_model_len // config.block_size)
    blocks = min(blocks, useful)
    taken = blocks * capacity.bytes_per_block
    if taken > capacity.free_bytes:
        raise ConfigError(
            f"A KV cache of {format_size(taken)} was asked for, and {format_size(capacity.free_bytes)} of memory are "
            "free once the weights are loaded. Lower --kv-memory.",
            param="kv_memory",
        )
    if blocks < 2:
        raise ConfigError(
            f"{given} bytes for the KV cache hold fewer than two blocks of {capacity.bytes_per_block} bytes. "
            "Raise --kv-memory or free some memory.",
            param="kv_memory",
        )
    return blocks


def _held_model_len(config: EngineConfig, longest: int, blocks: int) -> int:
    """Tokens of one request: what the model takes, cut to what the KV cache holds unless more was asked for."""
    held = min(longest, blocks * config.block_size)
    if config.max_model_len is not None and held < config.max_model_len:
        raise ConfigError(
            f"max_model_len {config.max_model_len} needs more KV memory than there is: the cache holds "
            f"{blocks * config.block_size} tokens. Lower --max-model-len or raise --kv-memory.",
            param="max_model_len",
        )
    return held


def _make_speculator(
    config: EngineConfig,
    runner: ModelRunner,
    draft_runner: ModelRunner | None,
    blocks: int,
    pacing: Pacing,
    spec: ModelSpec,
) -> Speculator:
    cost = runner.draft_cost()
    if draft_runner is None:
        return Speculator(cost, config.speculation)
    draft_runner.allocate(blocks)
    share = draft_runner.kv_capacity().weight_bytes / runner.kv_capacity().weight_bytes
    model = DraftModel(
        draft_runner,
        block_size=config.block_size,
        vocab_size=spec.vocab_size,
        catch_up=max(config.max_num_seqs, int(pacing.prefill_tokens / share)),
    )
    return Speculator(cost, config.speculation, model, share)
