"""Offering requests to an endpoint: feeding the native generator ahead of time, and conversations turn by turn."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock._native import LoadGenerator
from penstock.lab.bench.observations import Ending, Observations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from penstock.lab.bench.endpoint import Endpoint
    from penstock.lab.bench.planned import Message, Planned, Turn

_LEAD_S = 0.2  # from the last preparation to the first request
_AHEAD_BYTES = 128 << 20  # of encoded requests that wait in memory
_AHEAD_REQUESTS = 50_000
_TICK_S = 0.1
_TOLD_S = 0.1  # between two tellings of progress
_LATEST = 1000
_ALL_TEXT = 1 << 40  # a conversation's next turn needs the answer before
_EVERYTHING = 1 << 30  # more slots than sockets


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How requests are offered, whatever they ask."""

    slots: int | None = None  # requests on their way at once; None: no limit
    duration: float | None = None  # s after which no more is sent; None: until the requests are used up
    timeout: float = 600.0  # s, of one request
    keep_alive: bool = True
    keep_text: int = 16 << 20  # bytes of answers kept
    warm_up: int = 0  # requests at the beginning that don't count
    give_up: int | None = None  # requests on their way from which on no more is sent, as the server has fallen behind
    drain: float | None = None  # s for what is under way when no more is sent, then it is cut; None: until it ends


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    elapsed: float  # s since the start
    sent: int
    finished: int
    failed: int
    in_flight: int
    tokens: int  # of the answers that have ended
    ttft: float | None  # s, median of the latest thousand answers


class _Feed:
    """Requests on their way into the generator, numbered, with what was wanted of each."""

    def __init__(self, endpoint: Endpoint, requests: Iterator[Planned | None], duration: float | None) -> None:
        self._endpoint = endpoint
        self._requests = requests
        self._duration = duration
        self.wanted: list[tuple[int, int]] = []  # prompt and output tokens by id
        self.conversations: dict[int, tuple[Planned, list[Message], deque[Turn]]] = {}
        self.exhausted = False
        self.stopped = False  # by the duration
        self.gave_up: float | None = None  # s after the start

    def encode(self, planned: Planned) -> tuple[int, bytes]:
        number = len(self.wanted)
        wire = self._endpoint.encode(planned, number)
        self.wanted.append((-1 if planned.prompt_tokens is None else planned.prompt_tokens, planned.max_tokens))
        if planned.turns:
            said = [{"role": "user", "content": planned.prompt}] if isinstance(planned.prompt, str) else planned.prompt
            self.conversations[number] = (planned, list(said), deque(planned.turns))  # type: ignore[arg-type]
        return number, wire

    def more(self, start_ns: int, count: int, nbytes: int) -> list[tuple[int, int | None, bytes]]:
        """The next requests, until so many or so long."""
        batch: list[tuple[int, int | None, bytes]] = []
        while count > 0 and nbytes > 0:
            try:
                planned = next(self._requests)
            except StopIteration:
                self.exhausted = True
                break
            if planned is None:
                break
            if self._duration is not None and (planned.due or 0.0) >= self._duration:
                self.exhausted = self.stopped = True
                break
            number, wire = self.encode(planned)
            due = None if planned.due is None else start_ns + int(planned.due * 1e9)
            batch.append((number, due, wire))
            count, nbytes = count - 1, nbytes - len(wire)
        return batch

    def next_turn(self, number: int, answer: str) -> tuple[float, int, bytes] | None:
        """After the answer to request `number`: seconds to think, and the next turn."""
        conversation = self.conversations.pop(number, None)
        if conversation is None or not conversation[2]:
            return None
        first, said, turns = conversation
        turn = turns.popleft()
        said = [*said, {"role": "assistant", "content": answer}, {"role": "user", "content": turn.text}]
        planned = replace(
            first, prompt=said, max_tokens=turn.max_tokens, prompt_tokens=None, turns=tuple(turns), due=None
        )
        return turn.think, *self.encode(planned)


def offer(
    endpoint: Endpoint,
    requests: Iterable[Planned | None],
    manner: Manner,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    start: Callable[[], int] | None = None,
) -> Observations:
    """Send `requests`, which come in order of due time, and note all that comes back.

    KeyboardInterrupt, also from `on_progress`, ends the run at once: what was seen until then is returned,
    `meta["cut"]` is true, and requests under way are counted as cut. A turn of a conversation is due when its thinking
    time is over; the time the feeder needs to make it counts as latency of the client and shows in the schedule delay.

    Args:
        requests: None among them says that no further one is there yet.
        start: called when all is prepared; when the run starts, in ns of `time.monotonic_ns()`. None: at once.

    Raises:
        InvalidRequestError: the endpoint's API can't ask for what the workload wants.
        NativeError: the operating system refuses what the generator needs.
    """
    feed = _Feed(endpoint, iter(requests), manner.duration)
    prepared = feed.more(0, _AHEAD_REQUESTS, _AHEAD_BYTES)
    generator = LoadGenerator(
        endpoint.ip, endpoint.port, slots=manner.slots or _EVERYTHING, timeout=manner.timeout,
        keep_alive=manner.keep_alive, keep_text=_ALL_TEXT if feed.conversations else manner.keep_text,
        tls_name=endpoint.tls_name, tls_authorities=endpoint.authorities,
    )  # fmt: skip
    start_ns = time.monotonic_ns() + int(_LEAD_S * 1e9) if start is None else start()
    started = time.time() + (start_ns - time.monotonic_ns()) / 1e9
    at_once = manner.slots or 0  # of a closed loop's requests, these are due when it starts
    generator.submit(
        [
            (number, start_ns + due if due is not None else start_ns if number < at_once else None, wire)
            for number, due, wire in prepared
        ]
    )
    parts: list[Mapping[str, Any]] = []  # as the generator gave them
    cut = False
    try:
        _run(generator, feed, manner, start_ns, parts, on_progress)
    except KeyboardInterrupt:
        cut = True
        generator.cut()
        while not generator.wait(_TICK_S):
            parts.append(generator.take())
    parts.append(generator.take())
    ended_ns = time.monotonic_ns()
    wanted = np.array(feed.wanted, np.int32).reshape(-1, 2)
    columns = {
        "wanted_prompt": wanted[:, 0],
        "wanted_output": wanted[:, 1],
        "warm_up": np.arange(len(wanted)) < manner.warm_up,
    }
    wall = (ended_ns - start_ns) / 1e9
    meta = {
        "started": started,
        "started_monotonic": start_ns / 1e9,
        "wall": wall,
        "clock_drift": time.time() - started - wall,  # the wall clock was set meanwhile, or the machine slept
        "client": generator.health() | {"retried": generator.counters()["retried"]},
        "cut": cut,
        "duration": manner.duration if feed.gave_up is None else feed.gave_up,
        "stopped": feed.stopped,  # by the duration, with more to send
        "gave_up": feed.gave_up is not None,
    }
    return Observations.from_native([part for part in parts if part["id"]], start_ns, columns, meta)


def _run(
    generator: LoadGenerator,
    feed: _Feed,
    manner: Manner,
    start_ns: int,
    parts: list[Mapping[str, Any]],
    on_progress: Callable[[Progress], None] | None,
) -> None:
    """Until all is over. Answers go to `parts`."""
    stop_ns = None if manner.duration is None else start_ns + int(manner.duration * 1e9)
    closed = drained = False
    cut_ns: int | None = None
    told = _Told(start_ns, on_progress)
    while True:
        if not closed and feed.exhausted and not feed.conversations:
            generator.close()
            closed = True
        to_stop = _TICK_S if stop_ns is None or closed else (stop_ns - time.monotonic_ns()) / 1e9
        # Only a conversation's next turn depends on an ending; to be woken by each takes the generator's processor.
        over = generator.wait(min(max(to_stop, 0.0), _TICK_S), for_endings=bool(feed.conversations))
        part = generator.take()
        parts.append(part)
        now = time.monotonic_ns()
        counts = generator.counters()
        told.tell(now, counts, part, last=over)
        if over:
            return
        behind = manner.give_up is not None and counts["in_flight"] >= manner.give_up
        over_time = stop_ns is not None and now >= stop_ns and (not closed or counts["waiting"] > 0)
        if not drained and (behind or over_time):
            generator.drain()
            closed = drained = feed.stopped = True
            feed.gave_up = (now - start_ns) / 1e9 if behind else None
        if manner.drain is not None and closed and (drained or counts["waiting"] == 0):
            cut_ns = cut_ns or now + int(manner.drain * 1e9)
            if now >= cut_ns:
                generator.cut()
        if closed:
            continue
        if turns := _turns(feed, part):
            generator.submit(turns)
        if not feed.exhausted and counts["waiting"] < _AHEAD_REQUESTS // 2:
            generator.submit(feed.more(start_ns, _AHEAD_REQUESTS // 2, _AHEAD_BYTES // 2))


class _Told:
    """Tells progress now and then."""

    def __init__(self, start_ns: int, on_progress: Callable[[Progress], None] | None) -> None:
        self._start_ns = start_ns
        self._on_progress = on_progress
        self._next_ns = 0
        self._tokens = 0
        self._ttft: deque[float] = deque(maxlen=_LATEST)

    def tell(self, now: int, counts: Mapping[str, int], part: Mapping[str, Any], *, last: bool) -> None:
        """`part` is what has ended since the last call."""
        if self._on_progress is None:
            return
        due, first = (np.frombuffer(part[name], np.uint64).astype(np.int64) for name in ("due", "first_text"))
        answered = first > 0
        self._ttft.extend(((first - due)[answered][-_LATEST:] / 1e9).tolist())
        counted, pieces = (
            np.frombuffer(part["completion_tokens"], np.int32),
            np.frombuffer(part["piece_counts"], np.uint32),
        )
        self._tokens += int(np.where(counted > 0, counted, pieces).sum())
        if now < self._next_ns and not last:
            return
        self._next_ns = now + int(_TOLD_S * 1e9)
        ttft = float(np.median(self._ttft)) if self._ttft else None
        self._on_progress(
            Progress(
                (now - self._start_ns) / 1e9, counts["sent"], counts["finished"], counts["failed"],
                counts["in_flight"], self._tokens, ttft,
            )
        )  # fmt: skip


def _turns(feed: _Feed, part: Mapping[str, Any]) -> list[tuple[int, int | None, bytes]]:
    """The next turns of the conversations whose answers are in `part`; one that failed ends there."""
    if not feed.conversations:
        return []
    texts = dict(part["texts"])
    columns = (np.frombuffer(part["id"], np.uint64), np.frombuffer(part["end"], np.uint64))
    turns: list[tuple[int, int | None, bytes]] = []
    for number, end, ending in zip(*(column.tolist() for column in columns), _endings(part), strict=True):
        if ending != Ending.WHOLE:
            feed.conversations.pop(number, None)
        elif (turn := feed.next_turn(number, texts.get(number, ""))) is not None:
            think, following, wire = turn
            turns.append((following, end + int(think * 1e9), wire))
    return turns


def _endings(part: Mapping[str, Any]) -> list[int]:
    return [int(ending) for ending in np.frombuffer(part["ending"], np.int32)]
