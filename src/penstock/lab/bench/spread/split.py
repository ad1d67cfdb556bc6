"""Dividing a planned load: each request goes to exactly one part, in order, so that the parts together are the plan.

What: an open loop's requests go round, so each part has every n-th and the same process of arrivals, thinned; a closed
loop's go to whoever has the slot they would take, as slots are divided among the parts.
Inputs: the requests in the order of the plan, the number of parts, the slots of a closed loop.
Trade-offs: who gets which request is settled beforehand, so the same seed gives the same parts; of a closed loop a part
that is served faster runs out of its requests earlier, where a shared queue would lend it others'. A conversation is
one plan and stays whole.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.lab.bench.offer import Manner
    from penstock.lab.bench.planned import Planned

_CHUNK_REQUESTS = 1000
_CHUNK_SIGNS = 4 << 20  # of prompts


def owner(number: int, parts: int, slots: int | None) -> int:
    """The part that the plan's request `number` belongs to."""
    return (number if slots is None else number % slots) % parts


class Parts:
    """A stream of requests as several streams, which are read at about the same speed.

    What is read for one and belongs to another waits in memory until that one wants it.
    """

    def __init__(self, requests: Iterable[Planned], parts: int, slots: int | None = None) -> None:
        self._requests = enumerate(requests)
        self._slots = slots
        self._waiting: list[deque[Planned]] = [deque() for _ in range(parts)]
        self._over = False

    def chunk(self, part: int) -> list[Planned]:
        """The next requests of this part; empty if there are no more."""
        mine, signs = self._waiting[part], 0
        taken: list[Planned] = []
        while len(taken) < _CHUNK_REQUESTS and signs < _CHUNK_SIGNS:
            if not mine and not self._read(part):
                break
            planned = mine.popleft()
            taken.append(planned)
            signs += len(planned.prompt)
        return taken

    def _read(self, part: int) -> bool:
        """Read on until there is one for `part`; whether there is."""
        while not self._over:
            number, planned = next(self._requests, (-1, None))
            if planned is None:
                self._over = True
                break
            to = owner(number, len(self._waiting), self._slots)
            self._waiting[to].append(planned)
            if to == part:
                return True
        return False


def manners(manner: Manner, parts: int) -> list[Manner]:
    """How each part is offered so that together they are offered as `manner` says.

    Raises:
        InvalidRequestError: a closed loop with fewer requests at once than parts.
    """
    if manner.slots is not None and manner.slots < parts:
        raise InvalidRequestError(
            f"{manner.slots} requests at once can't be divided among {parts} workers; take fewer --workers or more"
            " --concurrency.",
            param="workers",
        )
    slots = manner.slots
    owned = [owner(number, parts, slots) for number in range(max(manner.warm_up, slots or 0))]
    return [
        replace(
            manner,
            slots=None if slots is None else owned[:slots].count(part),
            warm_up=owned[: manner.warm_up].count(part),
            give_up=None if manner.give_up is None else -(-manner.give_up // parts),
            keep_text=manner.keep_text // parts,
        )
        for part in range(parts)
    ]
