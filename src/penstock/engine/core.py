"""The engine core: owns the scheduler and the runner, and turns steps into deltas.

Plain and synchronous: `add`, `abort`, `step`; only grammars are compiled in a thread of their own, for which `poll`
looks. `engine/assembly.py` loads what it works with; the process around it is `engine/process.py`; tests drive it
directly.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError, PenstockError
from penstock.engine.assembly import assemble
from penstock.engine.config import EngineStats
from penstock.engine.pooling import Pool
from penstock.engine.runners.refusal import NOTHING_TO_CHOOSE
from penstock.engine.scheduler import Scheduler, SchedulerConfig
from penstock.engine.speculation.speculator import Decode, chosen_by
from penstock.engine.stopping import OutputStream
from penstock.engine.structured.awaiting import AwaitingGrammars
from penstock.engine.structured.grammar import GrammarTokenizer
from penstock.engine.types import RequestOutput, Sampled, SampleSpec, SequenceOutput, SequenceStep, StepBatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.engine.config import EngineConfig
    from penstock.engine.sequence import Scheduled, Sequence
    from penstock.engine.speculation.speculator import Drafting
    from penstock.engine.structured.grammar import Matcher
    from penstock.engine.types import PositionLogprobs, Request

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Live:
    """What the core keeps for a request beside its schedule."""

    sequence: Sequence
    stream: OutputStream
    prompt_logprobs: list[PositionLogprobs | None] | None
    drafting: Drafting | None  # None: one token a step
    announced: bool = False  # its first output has been sent
    pool: Pool | None = None  # for a request that wants a vector


class EngineCore:
    """One model, its KV cache, and the requests in flight.

    Args:
        config: what to load, and the limits.
        wake: called in another thread when `poll` has something to do.

    Raises:
        ModelFileError: the model can't be read.
        ConfigError: the settings don't fit the model or the machine.
    """

    def __init__(self, config: EngineConfig, wake: Callable[[], None] = lambda: None) -> None:
        parts = assemble(config)
        self.config = config
        self.runner = parts.runner
        self.spec = parts.spec
        self.vocabulary = parts.vocabulary
        self.speculator = parts.speculator
        self.adapters = parts.adapters
        self.info = parts.info
        self.scheduler = Scheduler(
            SchedulerConfig(
                max_num_seqs=config.max_num_seqs,
                max_num_batched_tokens=config.max_num_batched_tokens,
                max_prefill_tokens_while_decoding=config.max_prefill_tokens_while_decoding
                or parts.pacing.prefill_tokens,
                attention_span=parts.pacing.attention_span,
                max_model_len=self.info.max_model_len,
                block_size=config.block_size,
                max_waiting=config.max_waiting,
                enable_prefix_caching=config.enable_prefix_caching,
            ),
            self.info.kv_blocks,
        )
        # A file may name fewer ends of text than its tokenizer or chat template uses.
        self._eos_token_ids = sorted({*self.spec.eos_token_ids, *self.vocabulary.eos_token_ids})
        self._live: dict[str, _Live] = {}
        self._awaiting = AwaitingGrammars(
            lambda: GrammarTokenizer(self.vocabulary, self.spec.vocab_size, self._eos_token_ids), wake
        )
        self._held: dict[str, int] = {}  # the adapters of requests that await their grammars
        self._steps = 0
        self._prompt_tokens = 0
        self._generation_tokens = 0

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def add(self, request: Request) -> RequestOutput | None:
        """Queue a request, after its grammar has been compiled if it has one; what is returned is its refusal."""
        adapter, matcher = 0, None
        try:
            adapter = self.adapters.acquire(request.adapter)  # now: an adapter finishes what it has, waiting or not
            if request.params.grammar is not None:
                if request.request_id in self._awaiting:
                    raise InvalidRequestError(f"A request with the id {request.request_id!r} is already running.")
                matcher = self._awaiting.open(request, request.params.grammar)
                if matcher is None:
                    self._held[request.request_id] = adapter
                    return None
        except PenstockError as error:
            return self._refuse(request, adapter, error)
        return self._queue(request, adapter, matcher)

    def poll(self) -> list[RequestOutput]:
        """Queue the requests whose grammar is there; what is returned are refusals."""
        refused = []
        for request, found in self._awaiting.ready():
            adapter = self._held.pop(request.request_id)
            if isinstance(found, PenstockError):
                refused.append(self._refuse(request, adapter, found))
            elif (refusal := self._queue(request, adapter, found)) is not None:
                refused.append(refusal)
        return refused

    @property
    def patience(self) -> float | None:
        """Seconds of silence without work after which to `settle` and `poll`; None: for as long as it takes."""
        return self._awaiting.patience

    def settle(self) -> None:
        """Called when nothing came for `patience` seconds: the moment for what would delay a request otherwise."""
        if not self._awaiting:
            self._awaiting.settle()

    def _refuse(self, request: Request, adapter: int, error: PenstockError) -> RequestOutput:
        self.adapters.release(adapter)
        return _failure(request.request_id, error)

    def _queue(self, request: Request, adapter: int, matcher: Matcher | None) -> RequestOutput | None:
        params = request.params
        try:
            sequence = self.scheduler.add(request, adapter)
            try:
                drafting = self.speculator.open(sequence, params.speculation)
            except PenstockError:
                self.scheduler.finish(sequence)
                raise
        except PenstockError as error:
            return self._refuse(request, adapter, error)
        room = self.info.max_model_len - len(request.prompt_token_ids)
        stream = OutputStream(
            self.vocabulary,
            params,
            request.prompt_token_ids,
            self._eos_token_ids,
            min(params.max_tokens if params.max_tokens is not None else room, room),
            matcher,
        )
        wanted: list[PositionLogprobs | None] | None = None if params.prompt_logprobs is None else [None]
        pool = None if request.pooling is None else Pool(request.pooling)
        self._live[request.request_id] = _Live(sequence, stream, wanted, drafting, pool=pool)
        return None

    def abort(self, request_id: str) -> None:
        """Forget a request and free its blocks now; an unknown one is ignored."""
        self._awaiting.drop(request_id)
        self.adapters.release(self._held.pop(request_id, 0))
        live = self._live.pop(request_id, None)
        if live is not None:
            self.scheduler.abort(request_id)
            self.adapters.release(live.sequence.adapter)

    def step(self) -> list[RequestOutput]:
        """Run one step over whatever the scheduler picks; the deltas of the requests that moved."""
        scheduled = self.scheduler.schedule(time.monotonic())
        if not scheduled:
            raise RuntimeError("the scheduler has work but scheduled nothing")  # a bug: die loudly and be restarted
        outputs: list[RequestOutput] = []
        scheduled, shares = self._shares(scheduled, outputs)
        results = self._execute(shares) if shares else []
        self._steps += 1
        for item, share, result in zip(scheduled, shares, results, strict=True):
            output = self._apply(item, share, result)
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
            draft_tokens=self.speculator.drafted,
            accepted_draft_tokens=self.speculator.accepted,
        )

    def shutdown(self) -> None:
        self._awaiting.close()
        self.speculator.close()
        self.runner.shutdown()

    def _shares(
        self, scheduled: list[Scheduled], failed: list[RequestOutput]
    ) -> tuple[list[Scheduled], list[SequenceStep]]:
        """Those that can be computed, with what the runner is told; the others are ended and join `failed`."""
        items: list[Scheduled] = []
        shares: list[SequenceStep] = []
        for item in scheduled:
            try:
                shares.append(self._share(item))
                items.append(item)
            except PenstockError as error:
                failed.append(self._fail(item.sequence, error))
        # Beside a prompt's many rows a step of decodes is not what it costs otherwise: no drafts then.
        if shares and all(item.sequence.is_decoding for item in items):
            room = self.config.max_num_batched_tokens - len(shares)
            drafts = self.speculator.draft([self._decode(share) for share in shares], room, self.scheduler.reserve)
            shares = [self._with_drafts(*pair) if pair[1] else pair[0] for pair in zip(shares, drafts, strict=True)]
        return items, shares

    def _decode(self, share: SequenceStep) -> Decode | None:
        live = self._live[share.request_id]
        if live.drafting is None or share.sample is None:
            return None
        return Decode(live.drafting, share.sample, live.stream.tokens_left - 1)

    def _with_drafts(self, share: SequenceStep, drafts: list[int]) -> SequenceStep:
        """A decode with drafts to be checked, as far as the text could go with them."""
        live = self._live[share.request_id]
        ways = live.stream.ahead(drafts)
        if share.sample is None or not ways:
            return share
        drafts = drafts[: len(ways)]
        outputs = live.sequence.output_token_ids
        samples = [
            replace(share.sample, output_token_ids=outputs + drafts[: i + 1], banned_token_ids=banned, allowed=allowed)
            for i, (banned, allowed) in enumerate(ways)
        ]
        return replace(share, token_ids=[*share.token_ids, *drafts], drafts=samples)

    def _share(self, item: Scheduled) -> SequenceStep:
        sequence = item.sequence
        request = sequence.request
        start = sequence.num_computed_tokens
        end = start + item.num_tokens
        live = self._live[sequence.request_id]
        sample = None
        if item.samples and live.pool is None:
            sample = SampleSpec(
                params=request.params,
                seed=request.params.seed or 0,
                prompt_token_ids=request.prompt_token_ids,
                output_token_ids=sequence.output_token_ids,
                banned_token_ids=live.stream.banned_token_ids,
                allowed=live.stream.allowed,
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
            pooling=None if live.pool is None else live.pool.wants(start, last=item.samples),
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

    def _apply(self, item: Scheduled, share: SequenceStep, result: SequenceOutput) -> RequestOutput | None:
        sequence = item.sequence
        chosen = chosen_by(share, result)
        if any(token.token_id is None for token in chosen[1:]) or result.error == NOTHING_TO_CHOOSE:
            return self._fail(sequence, InvalidRequestError(NOTHING_TO_CHOOSE))
        if result.error is not None:
            return self._fail(sequence, PenstockError(result.error))
        live = self._live[sequence.request_id]
        if live.prompt_logprobs is not None:
            live.prompt_logprobs.extend(result.prompt_logprobs)
        generated_before = len(sequence.output_token_ids)
        self._prompt_tokens += item.num_tokens if generated_before == 0 else 0
        if share.drafts and live.drafting is not None:
            self.speculator.learn(live.drafting, len(share.drafts), len(chosen) - 1)
        drafted = [token.token_id for token in chosen[:-1] if token.token_id is not None]
        self.scheduler.advance(item, chosen[-1].token_id if chosen else None, drafted)
        if live.pool is not None:
            if result.pooled is not None:
                live.pool.add(result.pooled)
            return self._pooled(live, live.pool) if item.samples else None
        return self._delta(live, chosen) if chosen else None

    def _pooled(self, live: _Live, pool: Pool) -> RequestOutput:
        sequence = live.sequence
        self._end(sequence)
        return RequestOutput(
            request_id=sequence.request_id,
            embedding=pool.vector(sequence.num_prompt_tokens),
            finish_reason="stop",
            cached_tokens=sequence.num_cached_tokens,
            scheduled_time=sequence.scheduled_time,
        )

    def _delta(self, live: _Live, chosen: list[Sampled]) -> RequestOutput | None:
        sequence = live.sequence
        output = RequestOutput(
            request_id=sequence.request_id,
            token_ids=[],
            cached_tokens=sequence.num_cached_tokens,
            scheduled_time=sequence.scheduled_time,
        )
        if sequence.request.params.max_tokens == 0:  # only the prompt was to be scored
            output.finish_reason = "length"
        else:
            try:
                self._push(live.stream, chosen, output)
            except PenstockError as error:
                return self._fail(sequence, error)
        if not live.announced:
            live.announced = True
            output.prompt_logprobs = live.prompt_logprobs
        live.prompt_logprobs = None
        if output.finish_reason is not None:
            self._end(sequence)
        return output

    def _push(self, stream: OutputStream, chosen: list[Sampled], output: RequestOutput) -> None:
        """Add to `output` what the tokens say, up to the one that ends the text."""
        for token in chosen:
            if token.token_id is None:
                continue
            self._generation_tokens += 1
            text, output.finish_reason, output.stop_reason = stream.push(token.token_id)
            output.text += text
            output.token_ids.append(token.token_id)
            if token.logprobs is not None:
                output.logprobs = [*(output.logprobs or ()), token.logprobs]
            if output.finish_reason is not None:
                return

    def _fail(self, sequence: Sequence, error: PenstockError) -> RequestOutput:
        self._end(sequence)
        return _failure(sequence.request_id, error)

    def _end(self, sequence: Sequence) -> None:
        del self._live[sequence.request_id]
        self.scheduler.finish(sequence)
        self.adapters.release(sequence.adapter)


def _failure(request_id: str, error: PenstockError) -> RequestOutput:
    return RequestOutput(
        request_id=request_id,
        finish_reason="error",
        error=error.message,
        error_type=type(error).__name__,
        error_param=error.param,
        error_code=error.code,
    )
