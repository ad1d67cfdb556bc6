"""Deltas as a mailbox merges them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from penstock.engine.mailbox import Mailbox

if TYPE_CHECKING:
    from penstock.engine.types import RequestOutput


def merge(*deltas: RequestOutput | None) -> RequestOutput:
    """Successive deltas of one request as one; at least one of them is there."""
    box = Mailbox(0, asyncio.Event())
    for delta in deltas:
        if delta is not None:
            box.put(delta)
    whole = box.take()
    assert whole is not None
    return whole
