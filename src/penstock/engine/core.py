"""The engine core: owns the scheduler and the runner, and turns steps into deltas.

Plain and synchronous: `add`, `abort`, `step`. The process around it is `engine/process.py`; tests drive it
directly.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.core.errors import ConfigError, PenstockError
from penstock.core.sizes import format_size
from penstock.engine.adapters import AdapterTable, load_all
from penstock.engine.config import EngineInfo, EngineStats
from penstock.engine.runners.base import RunnerConfig
from penstock.engine.runners.select import make_runner
from penstock.engine.scheduler import Scheduler, SchedulerConfig
from penstock.engine.stopping import OutputStream
from penstock.engine.types import RequestOutput, SampleSpec, SequenceOutput, SequenceStep, StepBatch
from penstock.models.load import load
from penstock.models.vocabulary_files import load_vocabulary

if TYPE_CHECKING:
    from penstock.engine.config import EngineConfig
    from penstock.engine.runners.base import KVCapacity, ModelRunner
    from penstock.engine.sequence import Scheduled, Sequence
    from penstock.engine.types import FinishReason, PositionLogprobs, Request
    from penstock.models.spec import ModelSpec

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Live:
    """What the core keeps for a request beside its schedule."""

    sequence: Sequence
    stream: OutputStream
    prompt_logprobs: list[PositionLogprobs | None] | None
    announced: bool = False  # its first output has been sent


class EngineCore:
    """One model, its KV cache, and the requests in flight.

    Raises:
        ModelFileError: the model can't be read.
        ConfigError: the settings don't fit the model or the machine.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        path = Path(config.model_path)
        spec, weights = load(path)
        weights.close()
        self.vocabulary = load_vocabulary(path)
        max_model_len = _checked_model_len(config, spec)
        self.runner: ModelRunner = make_runner(
            RunnerConfig(
                model_path=config.model_path,
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
        )
        self.spec = self.runner.load()
        capacity = self.runner.kv_capacity()
        blocks = _kv_blocks(config, capacity, max_model_len)
        self.max_model_len = min(max_model_len, blocks * config.block_size)
        if config.max_model_len is not None and self.max_model_len < config.max_model_len:
            raise ConfigError(
                f"max_model_len {config.max_model_len} needs more KV memory than there is: the cache holds "
                f"{blocks * config.block_size} tokens. Lower --max-model-len or raise --kv-memory.",
                param="max_model_len",
            )
        self.runner.allocate(blocks)
        pacing = self.runner.pacing()
        self.scheduler = Scheduler(
            SchedulerConfig(
                max_num_seqs=config.max_num_seqs,
                max_num_batched_tokens=config.max_num_batched_tokens,
                max_prefill_tokens_while_decoding=config.max_prefill_tokens_while_decoding or pacing.prefill_tokens,
                attention_span=pacing.attention_span,
                max_model_len=self.max_model_len,
                block_size=config.block_size,
                max_waiting=config.max_waiting,
                enable_prefix_caching=config.enable_prefix_caching,
            ),
            blocks,
        )
        self.adapters = AdapterTable(self.runner, self.spec, most=config.max_loras, max_rank=config.max_lora_rank)
        adapters = load_all(self.adapters, config.lora_modules)
        self.info = EngineInfo(
            max_model_len=self.max_model_len,
            kv_blocks=blocks,
            block_size=config.block_size,
            kv_bytes=blocks * capacity.bytes_per_block,
            weight_bytes=capacity.weight_bytes,
            runner=self.runner.describe(),
            adapters=adapters,
        )
        # A file may name fewer ends of text than its tokenizer or chat template uses.
        self._eos_token_ids = sorted({*self.spec.eos_token_ids, *self.vocabulary.eos_token_ids})
        self._live: dict[str, _Live] = {}
        self._steps = 0
        self._prompt_tokens = 0
        self._generation_tokens = 0

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def add(self, request: Request) -> RequestOutput | None:
        """Queue a request; what is returned is its refusal."""
        try:
            adapter = self.adapters.acquire(request.adapter)
        except PenstockError as error:
            return _failure(request.request_id, error)
        try:
            sequence = self.scheduler.add(request, adapter)
        except PenstockError as error:
            self.adapters.release(adapter)
            return _failure(request.request_id, error)
        params = request.params
        room = self.max_model_len - len(request.prompt_token_ids)
        stream = OutputStream(
            self.vocabulary,
            params,
            request.prompt_token_ids,
            self._eos_token_ids,
            min(params.max_tokens if params.max_tokens is not None else room, room),
        )
        wanted: list[PositionLogprobs | None] | None = None if params.prompt_logprobs is None else [None]
        self._live[request.request_id] = _Live(sequence, stream, wanted)
        return None

    def abort(self, request_id: str) -> None:
        """Forget a request and free its blocks now; an unknown one is ignored."""
        live = self._live.pop(request_id, None)
        if live is not None:
            self.scheduler.abort(request_id)
            self.adapters.release(live.sequence.adapter)

    def step(self) -> list[RequestOutput]:
        """Run one step over whatever the scheduler picks; the deltas of the requests that moved."""
        scheduled = self.scheduler.schedule(time.monotonic())
        if not scheduled:
            raise RuntimeError("the scheduler has work but scheduled nothing")  # a bug: die loudly and be restarted
        results = self._execute([self._share(item) for item in scheduled])
        self._steps += 1
        outputs = []
        for item, result in zip(scheduled, results, strict=True):
            output = self._apply(item, result)
            if output is not None:
                outputs.append(output)
        return outputs

    def idle(self) -> None:
        """Called when nothing is left to do: the moment to check that no block was lost."""
        self.scheduler.check_integrity()

    def stats(self) -> EngineStats:
        counts = self.scheduler.stats()
        return EngineStats(
            running=counts.running,
            waiting=counts.waiting,
            kv_blocks_used=counts.blocks_used,
            kv_blocks_total=self.info.kv_blocks,
            prefix_query_tokens=counts.prefix_query_tokens,
            prefix_hit_tokens=counts.prefix_hit_tokens,
            preemptions=counts.preemptions,
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            generation_tokens=self._generation_tokens,
        )

    def shutdown(self) -> None:
        self.runner.shutdown()

    def _share(self, item: Scheduled) -> SequenceStep:
        sequence = item.sequence
        request = sequence.request
        start = sequence.num_computed_tokens
        end = start + item.num_tokens
        live = self._live[sequence.request_id]
        sample = None
        if item.samples:
            sample = SampleSpec(
                params=request.params,
                seed=request.params.seed or 0,
                prompt_token_ids=request.prompt_token_ids,
                output_token_ids=sequence.output_token_ids,
                banned_token_ids=live.stream.banned_token_ids,
            )
        prompt_logprobs = None
        if live.prompt_logprobs is not None and start < len(request.prompt_token_ids):
            prompt_logprobs = request.params.prompt_logprobs
            if start == 0:  # also after a preemption, which computes the prompt again
                live.prompt_logprobs = [None]
        return SequenceStep(
            request_id=sequence.request_id,
            token_ids=sequence.tokens(start, end),
            start=start,
            block_table=sequence.block_table,
            sample=sample,
            prompt_logprobs=prompt_logprobs,
            adapter=sequence.adapter,
            next_prompt_ids=() if prompt_logprobs is None else request.prompt_token_ids[start + 1 : end + 1],
        )

    def _execute(self, shares: list[SequenceStep]) -> list[SequenceOutput]:
        """Run the batch; if it raises, run each sequence by itself so that only the culprit fails."""
        try:
            return list(self.runner.execute(StepBatch(shares)).sequences)
        except Exception:
            if len(shares) > 1:
                log.exception("a step of %d sequences failed; running them one by one", len(shares))
                return self._one_by_one(shares)
            log.exception("request %s failed", shares[0].request_id)
            return [SequenceOutput(error="the model failed on this request; the server's log has the cause")]

    def _one_by_one(self, shares: list[SequenceStep]) -> list[SequenceOutput]:
        results = [self._execute([share])[0] for share in shares]
        if all(result.error is not None for result in results):
            raise RuntimeError("every sequence of a step failed: the runner is broken")
        return results

    def _apply(self, item: Scheduled, result: SequenceOutput) -> RequestOutput | None:
        sequence = item.sequence
        request_id = sequence.request_id
        if result.error is not None:
            self._end(sequence)
            return RequestOutput(
                request_id=request_id, finish_reason="error", error=result.error, error_type="PenstockError"
            )
        live = self._live[request_id]
        if live.prompt_logprobs is not None:
            live.prompt_logprobs.extend(result.prompt_logprobs)
        generated_before = len(sequence.output_token_ids)
        self.scheduler.advance(item, result.token_id)
        self._prompt_tokens += item.num_tokens if generated_before == 0 else 0
        if result.token_id is None:
            return None
        self._generation_tokens += 1
        return self._delta(live, result)

    def _delta(self, live: _Live, result: SequenceOutput) -> RequestOutput | None:
        sequence, token_id = live.sequence, result.token_id
        if token_id is None:
            return None
        text = ""
        reason: FinishReason | None = None
        matched: int | str | None = None
        tokens: list[int] = []
        if sequence.request.params.max_tokens == 0:  # only the prompt was to be scored
            reason = "length"
        else:
            text, reason, matched = live.stream.push(token_id)
            tokens.append(token_id)
        output = RequestOutput(
            request_id=sequence.request_id,
            text=text,
            token_ids=tokens,
            logprobs=None if result.logprobs is None or not tokens else [result.logprobs],
            finish_reason=reason,
            stop_reason=matched,
            cached_tokens=sequence.num_cached_tokens,
            scheduled_time=sequence.scheduled_time,
        )
        if not live.announced:
            live.announced = True
            output.prompt_logprobs = live.prompt_logprobs
        live.prompt_logprobs = None
        if reason is not None:
            self._end(sequence)
        return output

    def _end(self, sequence: Sequence) -> None:
        del self._live[sequence.request_id]
        self.scheduler.finish(sequence)
        self.adapters.release(sequence.adapter)


def _failure(request_id: str, error: PenstockError) -> RequestOutput:
    return RequestOutput(
        request_id=request_id, finish_reason="error", error=error.message, error_type=type(error).__name__
    )


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
