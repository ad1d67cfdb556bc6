"""A server with known delays, to hold measurements against: it computes nothing, speaks OpenAI's API, and what becomes
of its n-th request follows from its seed and n alone.
"""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock._native import NativeError, StubServer
from penstock.core.errors import InvalidRequestError
from penstock.lab.bench import behaviour
from penstock.lab.bench.behaviour import Distribution

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

_PAGE_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Truth:
    """One request as the stub saw it; times in ns of its machine's monotonic clock, 0 where it never came to that."""

    id: str | None  # X-Request-Id
    received: int  # it was there whole
    started: int  # it had a slot
    first: int  # its first piece was about to be written
    last: int  # so its last
    tokens: int
    whole: bool


class Stub:
    """A running stub, in a thread of this process that needs no Python.

    with Stub(ttft="lognormal:50ms,0.5", itl=0.01, slots=8) as stub:
        Endpoint.open(stub.url)

    Args:
        ttft: from a request's start (its slot, not its receipt) to its first piece; seconds, or as people write it.
        itl: between successive pieces.
        tokens: of an answer; None: as many as `max_tokens` asks for. Never more than that.
        tokens_per_chunk: tokens to a piece of text.
        slots: requests served at once; the others wait in order of arrival. None: no limit.
        stalls: ("10s:2s") when, from the first request on, everything stands still, and for how long.
        faults: ("0.01:status=503") shares of requests that are answered badly.
        usage: tell token counts.
        seed: of everything random.
        port: 0: any free one.

    Raises:
        InvalidRequestError: one of them makes no sense, or the address can't be listened on.
    """

    def __init__(
        self,
        *,
        ttft: str | float = 0.05,
        itl: str | float = 0.01,
        tokens: str | float | None = None,
        tokens_per_chunk: int = 1,
        slots: int | None = None,
        stalls: Sequence[str] = (),
        faults: Sequence[str] = (),
        usage: bool = True,
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._ttft = Distribution.parse(ttft, "ttft")
        self._itl = Distribution.parse(itl, "itl")
        self._tokens = None if tokens is None else Distribution.parse(tokens, "tokens", "count")
        self._tokens_per_chunk = _at_least_one(tokens_per_chunk, "tokens_per_chunk")
        self._slots = None if slots is None else _at_least_one(slots, "slots")
        shares = [behaviour.fault(text) for text in faults]
        if sum(share for share, _, _ in shares) > 1 + 1e-9:
            raise InvalidRequestError("The shares of the faults add up to more than 1.", param="fault")
        try:
            self._server = StubServer(
                host, port, first_token=self._ttft.native(), gap=self._itl.native(),
                tokens=None if self._tokens is None else self._tokens.native(),
                tokens_per_piece=self._tokens_per_chunk, slots=self._slots,
                stalls=sorted(behaviour.stall(text) for text in stalls), faults=shares, usage=usage, seed=seed,
            )  # fmt: skip
        except NativeError as error:
            raise InvalidRequestError(f"The stub can't listen on {host} port {port}: {error}.", param="port") from error
        self.host = host
        self.port = self._server.port
        self.url = f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def capacity(self, max_tokens: int) -> float | None:
        """Requests/s that its slots can serve on average when each asks for `max_tokens`; None without a limit.

        With `tokens` drawn the mean is that of their mean, which draws cut off at `max_tokens` fall short of.
        """
        if self._slots is None:
            return None
        tokens = max_tokens if self._tokens is None else min(self._tokens.mean, max_tokens)
        pieces = -(-tokens // self._tokens_per_chunk)
        return self._slots / (self._ttft.mean + (pieces - 1) * self._itl.mean)

    def truth(self) -> list[Truth]:
        """What it saw of the requests that have ended, in order of ending, up to a million."""
        return [Truth(**json.loads(line)) for line in self._page("/truth").splitlines()]

    def metrics(self) -> str:
        """Its /metrics page: sums and counts under vLLM's names."""
        return self._page("/metrics")

    def _page(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=_PAGE_TIMEOUT_S) as answer:
            text: str = answer.read().decode()
        return text

    def stop(self) -> None:
        """End it; connections break."""
        self._server.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _at_least_one(value: int, name: str) -> int:
    if value < 1:
        raise InvalidRequestError(f"{name} is at least 1; got {value}.", param=name)
    return value
