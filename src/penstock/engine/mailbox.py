"""Where a request's deltas wait for whoever reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from penstock.engine.types import RequestOutput


class Mailbox:
    """Deltas of one request, merged while its reader is slow: never more than its whole output.

    What is put is the mailbox's to change. However many deltas merge, each costs no more than its own length.

    Args:
        index: which choice of the request it is.
        shared: set when something comes, here or in the mailbox of another choice.
    """

    def __init__(self, index: int, shared: asyncio.Event) -> None:
        self.index = index
        self._shared = shared
        self._latest: RequestOutput | None = None  # with all that waits, but for the text
        self._texts: list[str] = []

    def put(self, output: RequestOutput) -> None:
        """Add a delta."""
        if self._latest is not None:
            _take_over(output, self._latest)
        self._latest = output
        self._texts.append(output.text)
        self._shared.set()

    def take(self) -> RequestOutput | None:
        """What came since the last time, as one delta; None if nothing did."""
        output, self._latest = self._latest, None
        if output is not None:
            output.text = "".join(self._texts)
            self._texts = []
        return output


def _take_over(then: RequestOutput, first: RequestOutput) -> None:
    """Let a delta say, its text apart, what the one before it said too; that one's lists grow and become its own."""
    first.token_ids += then.token_ids
    then.token_ids = first.token_ids
    if first.logprobs is not None:
        first.logprobs += then.logprobs or ()
        then.logprobs = first.logprobs
    if then.prompt_logprobs is None:
        then.prompt_logprobs = first.prompt_logprobs
    then.cached_tokens = then.cached_tokens or first.cached_tokens
    then.scheduled_time = then.scheduled_time or first.scheduled_time
