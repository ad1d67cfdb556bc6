"""A live request as the scheduler sees it, and its share of one step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from penstock.engine.types import Request

Status = Literal["waiting", "running", "finished"]


@dataclass(slots=True, eq=False)
class Sequence:
    """One request from its arrival until it finishes or is aborted.

    `num_computed_tokens` of its tokens (prompt, then output) have their KV in the blocks of `block_table`:
    position p lies in `block_table[p // block_size]`. The scheduler alone writes these fields.
    """

    request: Request = field(repr=False)
    output_token_ids: list[int] = field(default_factory=list, repr=False)
    num_computed_tokens: int = 0
    block_table: list[int] = field(default_factory=list, repr=False)
    num_cached_tokens: int = 0  # prompt tokens taken from the prefix cache when first scheduled
    preemptions: int = 0
    scheduled_time: float = 0.0  # time.monotonic() seconds of its first step; 0.0 before
    status: Status = "waiting"
    order: int = 0  # counts requests as they come in: breaks ties of arrival_time
    adapter: int = 0  # its number; 0: none
    bypasses_left: int = 0  # later requests that may still be admitted before this one while it waits for memory
    request_id: str = field(init=False)
    priority: int = field(init=False)
    rank: tuple[int, float, int] = field(init=False, repr=False)  # smaller goes first; unique to each sequence
    num_prompt_tokens: int = field(init=False)
    num_tokens: int = field(init=False)  # known ones: prompt and output

    def __post_init__(self) -> None:
        self.request_id = self.request.request_id
        self.priority = self.request.priority
        self.rank = (self.priority, self.request.arrival_time, self.order)
        self.num_prompt_tokens = len(self.request.prompt_token_ids)
        self.num_tokens = self.num_prompt_tokens + len(self.output_token_ids)

    @property
    def cache_root(self) -> str | tuple[int, str]:
        """What KV is shared under: the request's salt, and the adapter, of which keys and values depend."""
        salt = self.request.cache_salt
        return (self.adapter, salt) if self.adapter else salt

    @property
    def is_decoding(self) -> bool:
        """True when only the newest generated token still lacks its KV."""
        return self.num_tokens - self.num_computed_tokens == 1 and self.num_tokens > self.num_prompt_tokens

    def append(self, token_id: int) -> None:
        """Add a sampled token."""
        self.output_token_ids.append(token_id)
        self.num_tokens += 1

    def tokens(self, start: int, end: int) -> list[int]:
        """Tokens start .. end - 1 of prompt and output together."""
        split = self.num_prompt_tokens
        if start >= split:
            return self.output_token_ids[start - split : end - split]
        prompt = self.request.prompt_token_ids[start:end]
        return prompt if end <= split else prompt + self.output_token_ids[: end - split]


@dataclass(frozen=True, slots=True)
class Scheduled:
    """One sequence's share of a step, as decided before the step runs."""

    sequence: Sequence
    num_tokens: int  # tokens to compute, from sequence.num_computed_tokens on
    samples: bool  # these reach the last known token, so the step yields the next one
