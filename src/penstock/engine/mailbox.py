"""Where a request's deltas wait for whoever reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from penstock.engine.types import RequestOutput


class Mailbox:
    """Deltas of one request, merged while its reader is slow: never more than its whole output.

    Args:
        index: which choice of the request it is.
        shared: set when something comes, here or in the mailbox of another choice.
    """

    def __init__(self, index: int, shared: asyncio.Event) -> None:
        self.index = index
        self.pending: RequestOutput | None = None
        self._shared = shared

    def put(self, output: RequestOutput) -> None:
        self.pending = output if self.pending is None else merge(self.pending, output)
        self._shared.set()

    def take(self) -> RequestOutput | None:
        output, self.pending = self.pending, None
        return output


def merge(first: RequestOutput, then: RequestOutput) -> RequestOutput:
    """Two successive deltas of one request as one."""
    then.text = first.text + then.text
    then.token_ids = first.token_ids + then.token_ids
    if first.logprobs is not None:
        then.logprobs = first.logprobs + (then.logprobs or [])
    if then.prompt_logprobs is None:
        then.prompt_logprobs = first.prompt_logprobs
    then.cached_tokens = then.cached_tokens or first.cached_tokens
    then.scheduled_time = then.scheduled_time or first.scheduled_time
    return then
