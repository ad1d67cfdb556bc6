"""Work that ends when the client hangs up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from starlette.types import Receive

T = TypeVar("T")


class ClientGoneError(Exception):
    """The client closed the connection; there is nobody to answer."""


async def while_connected(
    receive: Receive,
    work: Coroutine[None, None, T],
    *,
    every: float | None = None,
    beat: Callable[[], Awaitable[None]] | None = None,
) -> T:
    """The result of `work`, which is cancelled at once if the client hangs up.

    Args:
        receive: the ASGI channel, its body already read.
        work: what to do meanwhile.
        every: seconds between calls of `beat`, while `work` lasts.
        beat: called between, in this task.

    Raises:
        ClientGoneError: the client hung up first.
    """
    worker = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_hang_up(receive))
    done: set[asyncio.Future[T] | asyncio.Future[None]] = set()
    try:
        while True:
            done, _ = await asyncio.wait({worker, watcher}, timeout=every, return_when=asyncio.FIRST_COMPLETED)
            if worker in done:
                return worker.result()
            if watcher in done:
                raise ClientGoneError
            if beat is not None:
                await beat()
    finally:
        worker.cancel()
        watcher.cancel()
        await asyncio.gather(worker, watcher, return_exceptions=True)
        del worker, watcher, done  # work that failed holds its error, and the error this frame


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
