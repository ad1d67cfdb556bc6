"""Decides, each step, which sequences compute how many tokens, and which blocks they write to.

What: continuous batching under one token budget, without a prefill phase or a decode phase (Orca, Yu et al.,
    OSDI 2022; chunked prefill as in Sarathi-Serve, Agrawal et al., OSDI 2024, https://arxiv.org/abs/2403.02310).
    Sequences rank by (priority, arrival time, order of arrival). A step is planned in three passes:

    1. Grow. Each running sequence gets the block its next token needs. Where none is idle, the lowest-ranking
       running sequence is preempted; if that is the one in need, it sits the step out and keeps its blocks.
    2. Admit. Waiting sequences join in rank order while there are prefill tokens left for them, a free place,
       and blocks for all they are known to need. For want of a place or of blocks, running sequences of
       strictly lower priority are pushed out, from the lowest rank, if that is enough to let the other in.
    3. Deal. Decoding sequences get one token each, the others share the prefill tokens in rank order.
       Those of the background sit most steps out that others need (see `background`).

    A preempted sequence gives back its blocks and waits again at its old rank with its output kept; what the
    prefix cache still has of it when it returns is not computed again.
Inputs: requests, aborts, and after each step what was computed and sampled.
Config: `SchedulerConfig`.
Trade-offs:
    - While anything decodes, a step takes at most `max_prefill_tokens_while_decoding` prefill tokens, and fewer
      the further into a prompt they are, since attention to all that comes before costs more and more: a long
      prompt stretches the others' inter-token latency by a bounded amount, and waits longer for its own first token.
    - A sequence is admitted only with the blocks of its whole known length, so a prefill never stops half-way
      for memory; the blocks of a long prompt are taken some steps before they are written.
    - Admission leaves one idle block for each running sequence (see `_watermark`), so that newcomers aren't
      pushed out again by the growth of those before them; that memory stays unused when requests end early.
    - Smaller requests may go before one of the same priority that waits for memory, at most `_MAX_BYPASSES` of
      them in its life and none once it has been preempted: memory is used, and the big one's wait is bounded.

Progress: the highest-ranking running sequence gets at least one token and its block in every step, since it is
never the one preempted in pass 1 and the pool holds at least one sequence of the greatest length. Only a higher
priority pushes it out in pass 2, which two sequences can't do to each other. When nothing runs, the first
waiting sequence is always admitted. So each step with work computes something, and no two sequences can push
each other out for ever.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from copy import copy
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING

from penstock.core.errors import ConfigError, InvalidRequestError, InvariantError, OverloadedError
from penstock.engine.background import BackgroundPace, is_background
from penstock.engine.block_tables import BlockTables
from penstock.engine.prefill_budget import PrefillBudget, PrefillShares
from penstock.engine.sequence import Scheduled, Sequence

if TYPE_CHECKING:
    from collections.abc import Sequence as Tokens

    from penstock.engine.types import Request

_MAX_BYPASSES = 8  # later requests admitted before one that waits for memory
_MAX_LOOKAHEAD = 8  # waiting requests passed over in one step in search of one that fits
_RANK = attrgetter("rank")


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """What a step may take. All are positive counts; raises ConfigError naming one that is too small."""

    max_num_seqs: int  # running at once; also less than max_num_batched_tokens, whatever this says
    max_num_batched_tokens: int  # computed in one step; at least 2
    max_prefill_tokens_while_decoding: int  # at the beginning of a prompt; see `attention_span`
    attention_span: int  # tokens of context that a prefill token attends to at the cost of all the rest of the model
    max_model_len: int  # tokens, prompt and output
    block_size: int  # tokens
    max_waiting: int  # beyond those for whom there is a place
    enable_prefix_caching: bool

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 2 if field.name == "max_num_batched_tokens" else 1
            if field.name != "enable_prefix_caching" and value < least:
                raise ConfigError(f"{field.name} is {value}; it must be at least {least}.", param=field.name)


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """A snapshot; the last three are totals since the start."""

    running: int
    waiting: int
    blocks_used: int  # held by running sequences
    prefix_query_tokens: int  # prompt tokens looked up in the prefix cache, once per request
    prefix_hit_tokens: int
    preemptions: int


class Scheduler:
    """Plans steps. One thread calls it: `schedule`, run the step, `advance` each share, and again.

    Raises:
        ConfigError: the pool is smaller than one sequence of `max_model_len` tokens.
    """

    def __init__(self, config: SchedulerConfig, num_blocks: int) -> None:
        if num_blocks * config.block_size < config.max_model_len:
            raise ConfigError(
                f"The KV cache holds {num_blocks * config.block_size} tokens, fewer than the {config.max_model_len} "
                "one request may have. Give it more memory or lower max_model_len.",
                param="max_model_len",
            )
        self._config = config
        # Each decode needs a token in every step, and one is left so that a newcomer's prefill always gets on.
        self._places = min(config.max_num_seqs, config.max_num_batched_tokens - 1)
        self._tables = BlockTables(num_blocks, config.block_size, caching=config.enable_prefix_caching)
        self._live: dict[str, Sequence] = {}
        self._waiting: list[Sequence] = []  # by rank
        self._running: list[Sequence] = []  # by rank
        self._background = BackgroundPace()
        self._arrivals = 0
        self._prefix_query_tokens = 0
        self._prefix_hit_tokens = 0
        self._preemptions = 0

    @property
    def has_work(self) -> bool:
        return bool(self._live)

    def stats(self) -> SchedulerStats:
        return SchedulerStats(
            running=len(self._running),
            waiting=len(self._waiting),
            blocks_used=self._tables.num_blocks - self._tables.num_free,
            prefix_query_tokens=self._prefix_query_tokens,
            prefix_hit_tokens=self._prefix_hit_tokens,
            preemptions=self._preemptions,
        )

    def add(self, request: Request, adapter: int = 0) -> Sequence:
        """Queue a request, to be computed with the adapter of this number.

        Raises:
            InvalidRequestError: it could never run: no prompt, one over the context, or an id already in use.
            OverloadedError: the queue is full.
        """
        length = len(request.prompt_token_ids)
        if length == 0:
            raise InvalidRequestError("The prompt has no tokens.", param="prompt", code="empty_prompt")
        if length > self._config.max_model_len:
            raise InvalidRequestError(
                f"The prompt has {length} tokens, but the context holds {self._config.max_model_len}. Shorten it.",
                param="prompt",
                code="context_length_exceeded",
            )
        if request.request_id in self._live:
            raise InvalidRequestError(
                f"A request with the id {request.request_id!r} is already running.",
                param="request_id",
                code="duplicate_request_id",
            )
        # Whoever finds a free place only passes through the queue: what counts is who is left without one.
        queued = len(self._waiting) - (self._places - len(self._running))
        if queued >= self._config.max_waiting:
            raise OverloadedError(f"{queued} requests are waiting already. Try again later.")
        self._arrivals += 1
        sequence = Sequence(request, order=self._arrivals, adapter=adapter, bypasses_left=_MAX_BYPASSES)
        self._live[request.request_id] = sequence
        insort(self._waiting, sequence, key=_RANK)
        return sequence

    def schedule(self, now: float) -> list[Scheduled]:
        """The next step, empty only if there is no work. `now` is `time.monotonic()`.

        Each share's sequence has the blocks for all its tokens; `advance` (or `finish`, or `abort`) must be
        called for each before the next `schedule`.
        """
        self._grow_running()
        held = self._background.holds(self._waiting, self._running)
        prefill = self._prefill_budget(held=held)
        newcomers = self._admit_waiting(copy(prefill), held=held) if self._waiting else set()
        return self._deal(prefill, newcomers, now, held=held)

    def reserve(self, sequence: Sequence, drafts: int) -> int:
        """Blocks for up to `drafts` tokens beyond the known ones of a running sequence; how many there is room for.

        Takes none of the blocks that the others' next tokens may need.
        """
        block_size = self._config.block_size
        wanted = sequence.num_tokens + min(drafts, self._config.max_model_len - sequence.num_tokens)
        while wanted > len(sequence.block_table) * block_size and self._tables.num_free > len(self._running):
            self._tables.grow(sequence)
        return min(wanted, len(sequence.block_table) * block_size) - sequence.num_tokens

    def advance(self, scheduled: Scheduled, token_id: int | None, drafted: Tokens[int] = ()) -> None:
        """A share was computed: its KV is written, and `token_id` was sampled if it `samples`.

        `drafted` are tokens that were computed with it and proved right, before `token_id`. A sequence that was
        finished or aborted meanwhile is left alone.
        """
        sequence = scheduled.sequence
        if sequence.status == "running":
            for token in drafted:
                sequence.append(token)
            self._tables.fill(sequence, scheduled.num_tokens + len(drafted))
            if token_id is not None:
                sequence.append(token_id)

    def finish(self, sequence: Sequence) -> None:
        """Forget a sequence and free its blocks now; their content stays cached until the memory is needed."""
        if sequence.status == "finished":
            return
        self._leave(sequence)
        sequence.status = "finished"
        del self._live[sequence.request_id]

    def abort(self, request_id: str) -> Sequence | None:
        """`finish` by id, whatever the request is doing; None if it isn't here (any more)."""
        sequence = self._live.get(request_id)
        if sequence is not None:
            self.finish(sequence)
        return sequence

    def check_integrity(self) -> None:
        """Compare all bookkeeping with itself; takes time in proportion to the blocks, so best called when idle.

        Raises:
            InvariantError: a request or a block is lost, shared wrongly or in two places.
        """
        for status, queue in (("waiting", self._waiting), ("running", self._running)):
            ranks = [sequence.rank for sequence in queue]
            if ranks != sorted(set(ranks)) or any(sequence.status != status for sequence in queue):
                raise InvariantError(f"The queue of {status} requests is out of order.")
        here = {sequence.request_id for queue in (self._waiting, self._running) for sequence in queue}
        if here != self._live.keys() or len(here) != len(self._waiting) + len(self._running):
            raise InvariantError(f"Requests are lost or in two queues: {sorted(here ^ self._live.keys())}.")
        if any(sequence.block_table for sequence in self._waiting):
            raise InvariantError("A waiting request holds KV blocks.")
        self._tables.check_integrity(self._running)

    # The first pass: blocks for those who run.

    def _grow_running(self) -> None:
        running, block_size = self._running, self._config.block_size
        index = 0
        while index < len(running):
            sequence = running[index]
            if self._length(sequence) > len(sequence.block_table) * block_size:
                while not self._tables.num_free and running[-1] is not sequence:
                    self._preempt(running[-1])
                if not self._tables.num_free:
                    return
                self._tables.grow(sequence)
            index += 1

    # The second pass: who joins.

    def _admit_waiting(self, budget: PrefillBudget, *, held: bool) -> set[Sequence]:
        """Admit those whose turn comes while prefill tokens are left, and return them; `held`: not the background."""
        prefill = PrefillShares(budget, self._running)
        newcomers: set[Sequence] = set()
        passed: list[Sequence] = []
        while len(passed) < len(self._waiting):
            sequence = self._waiting[len(passed)]
            if (held and is_background(sequence)) or prefill.left_for(sequence) <= 0 or self._is_full_for(sequence):
                break
            if passed and sequence.priority != passed[0].priority:
                break
            if self._admit(sequence):
                newcomers.add(sequence)
                prefill.take(sequence)
                for other in passed:
                    other.bypasses_left -= 1
            else:
                passed.append(sequence)
            if len(passed) == _MAX_LOOKAHEAD or any(other.bypasses_left == 0 for other in passed):
                break
        return newcomers

    def _is_full_for(self, sequence: Sequence) -> bool:
        """True when no sequence of this priority could be admitted, however small: spares a look at each."""
        running = len(self._running)
        if not running or self._running[-1].priority > sequence.priority:
            return False
        return running >= self._places or self._tables.num_free <= self._watermark(running)

    def _admit(self, sequence: Sequence) -> bool:
        """Move a waiting sequence to the running ones if it fits, pushing out lower priorities if it must."""
        cached = self._tables.match(sequence)
        victims = self._victims_for(sequence, cached)
        if victims is None:
            return False
        for victim in victims:
            self._preempt(victim)
        _remove(self._waiting, sequence)
        self._tables.allocate(sequence, self._length(sequence), cached)
        sequence.status = "running"
        insort(self._running, sequence, key=_RANK)
        if sequence.preemptions == 0:
            self._count_prefix_hits(sequence)
        return True

    def _victims_for(self, sequence: Sequence, cached: list[int]) -> list[Sequence] | None:
        """The fewest running sequences, from the lowest rank, whose preemption lets `sequence` in.

        Empty if it fits as things are; None if pushing out all lower priorities would not be enough.
        """
        needed = self._tables.blocks_needed(self._length(sequence), cached)
        free = self._tables.num_free
        victims: list[Sequence] = []
        dropped: dict[int, int] = {}
        kept = frozenset(cached)
        staying = len(self._running)
        while staying >= self._places or needed + self._watermark(staying) > free:
            if staying == 0 or self._running[staying - 1].priority <= sequence.priority:
                return None
            staying -= 1
            victims.append(self._running[staying])
            free += self._tables.freed_by(self._running[staying], dropped, kept)
        return victims

    def _watermark(self, running: int) -> int:
        """Idle blocks that admission leaves for the growth of `running` sequences.

        One for each: within the next `block_size` steps a decoding sequence takes at most one, so whoever is
        admitted computes for that long before the others' growth can push it out. With nothing running, none.
        """
        return running

    def _count_prefix_hits(self, sequence: Sequence) -> None:
        if self._config.enable_prefix_caching and not sequence.request.needs_every_position:
            sequence.num_cached_tokens = sequence.num_computed_tokens
            self._prefix_query_tokens += sequence.num_prompt_tokens
            self._prefix_hit_tokens += sequence.num_cached_tokens

    # The third pass: tokens.

    def _prefill_budget(self, *, held: bool) -> PrefillBudget:
        """What a step may take beside one token for each decoding sequence: at least one more."""
        config = self._config
        decoding = sum(sequence.is_decoding for sequence in self._running if not (held and is_background(sequence)))
        left = config.max_num_batched_tokens - decoding
        foreground = any(queue and not is_background(queue[0]) for queue in (self._running, self._waiting))
        if foreground and not decoding:
            return PrefillBudget(left, None)
        return PrefillBudget(min(left, config.max_prefill_tokens_while_decoding), config.attention_span)

    def _deal(self, prefill: PrefillBudget, newcomers: set[Sequence], now: float, *, held: bool) -> list[Scheduled]:
        """Share the step out. A newcomer draws on the prefill tokens even if only its newest token lacks its KV."""
        block_size = self._config.block_size
        step: list[Scheduled] = []
        for sequence in self._running:
            if held and is_background(sequence):
                break  # as all that rank below it are
            length = self._length(sequence)
            tokens = length - sequence.num_computed_tokens
            if not sequence.is_decoding or sequence in newcomers:
                tokens = prefill.take(sequence.num_computed_tokens, tokens)
            elif length > len(sequence.block_table) * block_size:
                continue  # sits this step out for want of a block
            if tokens > 0:
                samples = sequence.num_computed_tokens + tokens == sequence.num_tokens
                step.append(Scheduled(sequence, tokens, samples))
                if sequence.scheduled_time == 0.0:
                    sequence.scheduled_time = now
        return step

    def _length(self, sequence: Sequence) -> int:
        """Tokens that are to be computed in all, as far as known: never more than the context."""
        return min(sequence.num_tokens, self._config.max_model_len)

    # Leaving.

    def _preempt(self, sequence: Sequence) -> None:
        self._leave(sequence)
        sequence.status = "waiting"
        sequence.preemptions += 1
        sequence.bypasses_left = 0
        self._preemptions += 1
        insort(self._waiting, sequence, key=_RANK)

    def _leave(self, sequence: Sequence) -> None:
        _remove(self._running if sequence.status == "running" else self._waiting, sequence)
        self._tables.release(sequence)


def _remove(queue: list[Sequence], sequence: Sequence) -> None:
    del queue[bisect_left(queue, sequence.rank, key=_RANK)]
