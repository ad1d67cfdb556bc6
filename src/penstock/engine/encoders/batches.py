"""Decides which of the waiting texts are computed together.

What: dynamic batching. While a round is computed, requests queue; the next round takes from all of them in turn, one
    text each, until it holds `ROUND_TOKENS`, and is cut into batches of texts of like length.
Inputs: requests with the lengths of their texts.
Config: the longest wait for company; the constants follow from what a call costs, measured in tokens.
Trade-offs:
    - Nothing waits for company unless it is told to: an idle model begins at once, and a busy one's queue fills the
      next batch. What waits does so for one round at most before its first text is computed.
    - With a delay, a round begins when it is full or the first text of the queue has waited that long: larger batches
      for requests that come one by one, at the price of the delay for each that finds the model idle.
    - What is in the background is computed in rounds of its own, small ones, while nobody else waits.
    - In turn, a request of a thousand texts and one of a single text get the same share: the small one is not held up.
    - A batch is padded to its longest text; a new one begins where the padding would cost more than a call does.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUND_TOKENS = 2048  # bounds how long a newcomer waits
BACKGROUND_TOKENS = 512  # the same, for one that comes while the background is computed
BATCH_TOKENS = 1024  # padding included; larger batches fall out of the caches
CALL_TOKENS = 64  # tokens that are computed in the time a call takes beside its arithmetic


@dataclass(slots=True, eq=False)
class Job:
    """A request of several texts, whose lengths are in tokens."""

    request_id: int
    lengths: Sequence[int]
    arrived: float = 0.0  # seconds, on any one clock
    background: bool = False  # gives way to all that isn't
    dealt: int = 0  # texts that a round has taken
    left: int = field(init=False)  # texts whose vectors are not there yet

    def __post_init__(self) -> None:
        self.left = len(self.lengths)


@dataclass(frozen=True, slots=True)
class Item:
    """One text of a job."""

    job: Job
    index: int

    @property
    def length(self) -> int:
        return self.job.lengths[self.index]


class WaitingJobs:
    """Requests with texts that no round has taken.

    Args:
        delay: seconds that a text may wait for others while the model is idle.
    """

    def __init__(self, delay: float = 0.0) -> None:
        self._jobs: deque[Job] = deque()
        self._background: deque[Job] = deque()
        self._delay = delay
        self._tokens = 0  # of texts that wait
        self._since = 0.0  # arrival of the job that found nobody waiting

    def __len__(self) -> int:
        return len(self._jobs) + len(self._background)

    def add(self, job: Job) -> None:
        """Queue a job; one without texts is nothing to wait for."""
        if job.lengths:
            if not self:
                self._since = job.arrived
            (self._background if job.background else self._jobs).append(job)
            self._tokens += sum(job.lengths)

    def cancel(self, request_id: int) -> None:
        """Forget a job; an unknown one is ignored."""
        for jobs in (self._jobs, self._background):
            gone = next((job for job in jobs if job.request_id == request_id), None)
            if gone is not None:
                jobs.remove(gone)
                self._tokens -= sum(gone.lengths[gone.dealt :])

    def seconds_left(self, now: float) -> float | None:
        """How long the next round may still wait for more; None if nobody waits for it."""
        if not self:
            return None
        return 0.0 if self._tokens >= ROUND_TOKENS else max(self._since + self._delay - now, 0.0)

    def next_round(self, most: int = ROUND_TOKENS) -> list[Item]:
        """The texts of a round: of each job one in turn, while there are tokens left; at least one."""
        items: list[Item] = []
        jobs = self._jobs
        if not jobs:
            jobs, most = self._background, min(most, BACKGROUND_TOKENS)
        while jobs:
            job = jobs[0]
            length = job.lengths[job.dealt]
            if items and length > most:
                break
            most -= length
            self._tokens -= length
            items.append(Item(job, job.dealt))
            job.dealt += 1
            jobs.popleft()
            if job.dealt < len(job.lengths):
                jobs.append(job)
        return items


def cut(items: Sequence[Item], most: int = BATCH_TOKENS, call: int = CALL_TOKENS) -> list[list[Item]]:
    """The round's batches, shortest texts first; each holds at most `most` tokens with its padding, or one text."""
    batches: list[list[Item]] = []
    for item in sorted(items, key=lambda item: item.length):
        batch = batches[-1] if batches else []
        padding = len(batch) * (item.length - batch[-1].length) if batch else 0
        if not batch or padding > call or (len(batch) + 1) * item.length > most:
            batches.append([item])
        else:
            batch.append(item)
    return batches
