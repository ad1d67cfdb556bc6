"""Drives the scheduler without a model, and checks after each step everything it promises.

The fake executor knows what each slot of each KV block holds: a number that stands for the salt and all tokens
up to that position. Reading a sequence's table must give the sequence's own prefixes, or a block was shared,
freed or overwritten wrongly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from penstock.engine.scheduler import Scheduler, SchedulerConfig
from penstock.engine.types import Request, SamplingParams

if TYPE_CHECKING:
    from penstock.engine.sequence import Scheduled, Sequence

MAX_BYPASSES = 8  # what the scheduler's header promises
PLENTY = 1000  # blocks, where memory is not the question


def config(**changes: int | bool) -> SchedulerConfig:
    """Settings with room for everything, so that a test names only what it is about."""
    settings: dict[str, int | bool] = {
        "max_num_seqs": 16,
        "max_num_batched_tokens": 256,
        "max_prefill_tokens_while_decoding": 256,
        "attention_span": 1_000_000,
        "max_model_len": 64,
        "block_size": 4,
        "max_waiting": 100,
        "enable_prefix_caching": True,
    }
    return SchedulerConfig(**(settings | changes))  # type: ignore[arg-type]


def request(
    name: str,
    prompt: int | list[int],
    *,
    priority: int = 0,
    arrival_time: float = 0.0,
    salt: str = "",
    prompt_logprobs: int | None = None,
) -> Request:
    """A request; a prompt given as a number is that many tokens that no other request's prompt has."""
    if isinstance(prompt, int):
        seed = Random(name)
        prompt = [seed.randrange(1_000, 1_000_000) for _ in range(prompt)]
    return Request(
        request_id=name,
        prompt_token_ids=prompt,
        params=SamplingParams(prompt_logprobs=prompt_logprobs),
        priority=priority,
        arrival_time=arrival_time,
        cache_salt=salt,
    )


def step(scheduler: Scheduler, token_id: int = 7) -> dict[str, int]:
    """Run one step; tokens computed by request."""
    plan = scheduler.schedule(now=1.0)
    for item in plan:
        scheduler.advance(item, token_id if item.samples else None)
    scheduler.check_integrity()
    return {item.sequence.request_id: item.num_tokens for item in plan}


def decoding(scheduler: Scheduler, name: str, prompt: int | list[int] = 4, **options: int) -> Sequence:
    """A request that has computed its prompt and sampled one token."""
    sequence = scheduler.add(request(name, prompt, **options))
    while not sequence.output_token_ids:
        step(scheduler)
    return sequence


@dataclass
class Observed:
    """What the simulation remembers of a request, apart from the scheduler's own record."""

    sequence: Sequence
    goal: int  # output tokens after which it ends
    prefixes: list[int] = field(default_factory=list)  # by position: the number of the prefix that ends there
    bypassed: int = 0


class _Step:
    """What one call of `schedule` changed."""

    def __init__(
        self,
        plan: list[Scheduled],
        live: dict[str, Observed],
        running_before: set[Sequence],
        preemptions_before: dict[str, int],
    ) -> None:
        lost = {seen.sequence: seen.sequence.preemptions - preemptions_before[name] for name, seen in live.items()}
        self.plan = plan
        self.running_before = running_before
        self.preemptions = sum(lost.values())
        self.preempted = {sequence for sequence, times in lost.items() if times}
        self._stayed = running_before - self.preempted
        self.entered = {seen.sequence for seen in live.values() if seen.sequence.status == "running"} - self._stayed
        self.prefills = [item for item in plan if not self.decodes(item.sequence)]

    def decodes(self, sequence: Sequence) -> bool:
        """It was in the midst of generating, so this step is a token its client waits for."""
        return (
            sequence in self._stayed
            and bool(sequence.output_token_ids)
            and (sequence.num_tokens - sequence.num_computed_tokens == 1)
        )


class Simulation:
    """A scheduler, a fake executor, and the checks."""

    def __init__(
        self, settings: SchedulerConfig, num_blocks: int, *, vocabulary: int = 2, seed: int = 0, drafts: bool = False
    ) -> None:
        self.settings = settings
        self.num_blocks = num_blocks
        self.scheduler = Scheduler(settings, num_blocks)
        self.live: dict[str, Observed] = {}
        self.steps = 0
        self.preempted = 0
        self.hits = 0
        self.right = 0  # drafts that were
        self._drafts = drafts
        self._random = Random(seed)
        self._vocabulary = vocabulary
        self._slots = [[-1] * settings.block_size for _ in range(num_blocks)]
        self._prefix_numbers: dict[tuple[int | str, int], int] = {}

    def add(self, new: Request, output_tokens: int) -> Sequence:
        sequence = self.scheduler.add(new)
        room = max(1, self.settings.max_model_len - len(new.prompt_token_ids))
        self.live[new.request_id] = Observed(sequence, min(output_tokens, room))
        return sequence

    def abort(self, name: str) -> None:
        del self.live[name]
        sequence = self.scheduler.abort(name)
        assert sequence is not None
        assert sequence.status == "finished"
        assert sequence.block_table == []

    def step(self, *, abort_meanwhile: list[str] | None = None) -> list[Scheduled]:
        """Schedule, check, execute, advance. `abort_meanwhile` hang up while the step runs."""
        running_before = set(self.running())
        preemptions_before = {name: seen.sequence.preemptions for name, seen in self.live.items()}
        plan = self.scheduler.schedule(now=float(self.steps + 1))
        self.steps += 1
        assert bool(plan) == bool(self.live), "work, but nothing scheduled"
        self._check_shares(plan)
        self._check_moves(_Step(plan, self.live, running_before, preemptions_before))
        drafts = {item.sequence: self._draft(item.sequence) for item in plan}
        for item in plan:
            self._execute(item, drafts[item.sequence])
        for name in abort_meanwhile or []:
            self.abort(name)
        for item in plan:
            self._advance(item, drafts[item.sequence])
        self.scheduler.check_integrity()
        return plan

    def drain(self) -> None:
        """Run until all have ended, within a bound that any sequence which never gets on would pass."""
        limit = self.steps + sum(seen.sequence.num_tokens + seen.goal for seen in self.live.values()) * 2
        while self.live:
            assert self.steps < limit, f"{len(self.live)} requests don't end"
            self.step()
        assert not self.scheduler.has_work
        stats = self.scheduler.stats()
        assert (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0)
        assert stats.preemptions == self.preempted

    def running(self) -> list[Sequence]:
        return [seen.sequence for seen in self.live.values() if seen.sequence.status == "running"]

    def waiting(self) -> list[Sequence]:
        waiting = [seen.sequence for seen in self.live.values() if seen.sequence.status == "waiting"]
        return sorted(waiting, key=lambda sequence: sequence.rank)

    def _check_shares(self, plan: list[Scheduled]) -> None:
        """Each share is whole in itself."""
        assert len({item.sequence.request_id for item in plan}) == len(plan)
        for item in plan:
            sequence = item.sequence
            end = sequence.num_computed_tokens + item.num_tokens
            assert sequence.status == "running"
            assert item.num_tokens >= 1
            assert end <= min(sequence.num_tokens, self.settings.max_model_len)
            assert end <= len(sequence.block_table) * self.settings.block_size
            assert item.samples == (end == sequence.num_tokens)
        for sequence in self.waiting():
            assert sequence.block_table == []

    def _check_moves(self, step: _Step) -> None:
        """The step as a whole keeps the budget, the ranks and the priorities."""
        settings, running, waiting = self.settings, self.running(), self.waiting()
        self.preempted += step.preemptions
        assert sum(item.num_tokens for item in step.plan) <= settings.max_num_batched_tokens
        assert len(running) <= settings.max_num_seqs
        if any(step.decodes(item.sequence) for item in step.plan):
            assert sum(item.num_tokens for item in step.prefills) <= settings.max_prefill_tokens_while_decoding
            several = [item for item in step.prefills if item.num_tokens > 1]  # one is granted whatever it costs
            assert sum(self._cost(item) for item in several) <= settings.max_prefill_tokens_while_decoding
        for sequence in step.entered:
            self._check_entry(sequence)
        for sequence in waiting:
            self._check_bypasses(sequence, step)
            if sequence in step.preempted:  # from the lowest rank, and nobody of a lower one takes the place
                assert all(other.rank < sequence.rank for other in running)
        if waiting and not step.preempted:
            self._check_first_had_to_wait(waiting[0], step)
        self._check_first_progresses(step)

    def _check_entry(self, sequence: Sequence) -> None:
        start = sequence.num_computed_tokens
        assert start % self.settings.block_size == 0
        assert start < sequence.num_tokens
        if sequence.request.params.prompt_logprobs is not None or not self.settings.enable_prefix_caching:
            assert start == 0
        if sequence.preemptions == 0:
            assert sequence.num_cached_tokens == start
            assert sequence.scheduled_time == self.steps
        self.hits += start

    def _check_bypasses(self, sequence: Sequence, step: _Step) -> None:
        seen = self.live[sequence.request_id]
        later = [other for other in step.entered if other.rank > sequence.rank]
        assert all(other.priority == sequence.priority for other in later)
        seen.bypassed += len(later)
        assert seen.bypassed <= MAX_BYPASSES
        assert not (later and sequence.preemptions)

    def _check_first_had_to_wait(self, first: Sequence, step: _Step) -> None:
        """Whoever ranks first among the waiting would not fit if all of lower priority were pushed out."""
        settings, running = self.settings, self.running()
        staying = [sequence for sequence in running if sequence.priority <= first.priority]
        places = min(settings.max_num_seqs, settings.max_num_batched_tokens - 1)
        taken = {block for sequence in staying for block in sequence.block_table}
        needed = -(-min(first.num_tokens, settings.max_model_len) // settings.block_size)
        if len(staying) == places or needed + len(staying) > self.num_blocks - len(taken):
            return
        decoding = sum(step.decodes(sequence) for sequence in running)
        prefill = settings.max_num_batched_tokens - decoding
        if decoding:
            prefill = min(prefill, settings.max_prefill_tokens_while_decoding)
        before = [item for item in step.prefills if item.sequence.rank < first.rank]
        if not decoding:
            assert sum(item.num_tokens for item in before) == prefill
        elif all(item.samples for item in before):  # or one of them took all there was left
            assert sum(self._cost(item) for item in before) >= prefill

    def _cost(self, item: Scheduled) -> int:
        """What a share takes of the prefill tokens, those before it in its prompt considered."""
        before = item.sequence.num_computed_tokens
        return item.num_tokens * (self.settings.attention_span + before) // self.settings.attention_span

    def _check_first_progresses(self, step: _Step) -> None:
        """The highest-ranking sequence computes something, and only a higher priority pushes it out."""
        first = min(self.running(), key=lambda sequence: sequence.rank, default=None)
        assert first is None or any(item.sequence is first for item in step.plan)
        first = min(step.running_before, key=lambda sequence: sequence.rank, default=None)
        if first in step.preempted:
            assert any(item.sequence.priority < first.priority for item in step.plan)

    def _draft(self, sequence: Sequence) -> list[int]:
        """Now and then some guesses at a decoding sequence's next tokens, as many as the scheduler has room for."""
        left = self.live[sequence.request_id].goal - len(sequence.output_token_ids) - 1
        if not self._drafts or not sequence.is_decoding or left < 1 or self._random.random() < 0.5:
            return []
        table = list(sequence.block_table)
        wanted = self._random.randint(1, left)
        granted = self.scheduler.reserve(sequence, wanted)
        assert 0 <= granted <= wanted
        assert sequence.num_tokens + granted <= self.settings.max_model_len
        assert sequence.num_tokens + granted <= len(sequence.block_table) * self.settings.block_size
        if len(sequence.block_table) > len(table):
            assert sequence.block_table[: len(table)] == table
            free = self.num_blocks - self.scheduler.stats().blocks_used
            assert free >= len(self.running()), "a draft took a block that somebody's next token may need"
        return [self._random.randrange(self._vocabulary) for _ in range(granted)]

    def _execute(self, item: Scheduled, drafts: list[int]) -> None:
        sequence, size = item.sequence, self.settings.block_size
        prefixes = self._prefixes(sequence)
        start, end = sequence.num_computed_tokens, sequence.num_computed_tokens + item.num_tokens
        if drafts:
            prefixes = list(prefixes)
            for token in drafts:
                prefixes.append(self._number(prefixes[-1], token))
            end += len(drafts)
        for block in set(sequence.block_table[start // size : (end - 1) // size + 1]):
            holders = [other for other in self.running() if block in other.block_table]
            assert holders == [sequence], "a block in use by another is written"
        for position in range(start, end):
            self._slots[sequence.block_table[position // size]][position % size] = prefixes[position]
        read = [self._slots[sequence.block_table[position // size]][position % size] for position in range(end)]
        assert read == prefixes[:end], "the blocks don't hold this sequence's tokens"

    def _advance(self, item: Scheduled, drafts: list[int]) -> None:
        sequence = item.sequence
        right = drafts[: self._random.randint(0, len(drafts))] if drafts else []
        self.right += len(right)
        self.scheduler.advance(item, self._random.randrange(self._vocabulary) if item.samples else None, right)
        seen = self.live.get(sequence.request_id)
        if seen is not None and len(sequence.output_token_ids) >= seen.goal:
            del self.live[sequence.request_id]
            self.scheduler.finish(sequence)

    def _prefixes(self, sequence: Sequence) -> list[int]:
        numbers = self.live[sequence.request_id].prefixes
        for token in sequence.tokens(len(numbers), sequence.num_tokens):
            numbers.append(self._number(numbers[-1] if numbers else sequence.request.cache_salt, token))
        return numbers

    def _number(self, parent: int | str, token: int) -> int:
        return self._prefix_numbers.setdefault((parent, token), len(self._prefix_numbers))
