"""ServeGen (Xiang et al., NSDI 2026), in both forms in which it comes.

- What its library writes: CSV of request_id, timestamp (s), input_tokens and output_tokens.
- What is published: a directory of clients, each `chunk-N-trace.csv` (rows of a window's start in s, requests/s, the
  coefficient of variation, Gamma or Weibull, its shape and its scale; no header) beside `chunk-N-dataset.json` (by
  the start of longer windows, the probabilities of input_tokens and output_tokens). Requests are drawn from it here:
  each client's intervals keep the published shape and are stretched to the published rate, or to a share of `rate`; its
  process goes on over the windows' borders, as a change of time, and is in equilibrium when the first one begins.
"""

from __future__ import annotations

import ast
import json
import math
import re
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Any

from penstock.core.errors import InvalidRequestError
from penstock.lab.bench.workloads.traces.trace import OverError, Trace, finite, whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.lab.bench.workloads.traces.trace import Source

_MOST = 20_000_000  # requests in memory
_LAST_WINDOW_S = 600.0
_DRAWN_S = 600.0  # of published clients, where no end is asked for

Lengths = tuple[list[int], list[float]]  # values, and weights


def read(source: Source, start: float, rate: float | None, seed: int) -> Trace:
    """Of a directory, `start` to `source.stop` seconds of its days are drawn, ten minutes if no end is asked for; times
    then count from the data's first day, as `start` does.

    Raises InvalidRequestError for what is neither form, and for a bad row.
    """
    if source.path.is_dir():
        stop = start + _DRAWN_S if math.isinf(source.stop) else source.stop
        return _draw(source.path, start, stop, rate, seed)
    if rate is not None:
        raise InvalidRequestError(
            "A rate is for ServeGen's published clients, a directory; the times of a file are scaled by speed.",
            param="rate",
        )
    trace = Trace()
    first: float | None = None

    def add(row: list[str]) -> None:
        nonlocal first
        at = finite(row[0], "timestamp", "seconds")
        after = at - (at if first is None else first)
        if after >= source.stop:
            raise OverError
        trace.add(after, whole(row[1], "input_tokens"), whole(row[2], "output_tokens"))
        first = at if first is None else first

    source.table(trace, ("timestamp", "input_tokens", "output_tokens"), ("request_id",), add)
    return trace


@dataclass(frozen=True, slots=True)
class _Window:
    """What one client does for a while."""

    start: float
    end: float
    rate: float
    pattern: str
    shape: float
    lengths: tuple[Lengths, Lengths]  # of inputs and outputs

    def interval(self, random: Random) -> float:
        """Of mean 1."""
        if self.pattern == "Gamma":
            return random.gammavariate(self.shape, 1 / self.shape)
        return random.weibullvariate(1 / math.gamma(1 + 1 / self.shape), self.shape)

    def first(self, random: Random) -> float:
        """What is left of the interval that someone who comes at any time finds: a uniform share of one that is drawn
        in proportion to its length."""
        if self.pattern == "Gamma":
            return random.gammavariate(self.shape + 1, 1 / self.shape) * random.random()
        scale = 1 / math.gamma(1 + 1 / self.shape)
        longer = random.gammavariate(1 + 1 / self.shape, 1.0) ** (1 / self.shape)
        return float(scale * longer * random.random())


def _draw(directory: Path, start: float, stop: float, rate: float | None, seed: int) -> Trace:
    chunks = sorted(directory.glob("chunk-*-trace.csv"), key=lambda path: int(re.sub(r"\D", "", path.name) or 0))
    if not chunks:
        raise InvalidRequestError(
            f"{directory} has no chunk-N-trace.csv; name a directory such as data/language/m-large of ServeGen.",
            param="path",
        )
    clients = [_client(chunk, start, stop) for chunk in chunks]
    offered = sum(window.rate * (window.end - window.start) for windows in clients for window in windows)
    scale = 1.0 if rate is None else rate * (stop - start) / offered if offered else 0.0
    if not 0 < offered * scale <= _MOST:
        raise InvalidRequestError(
            f"From {start:g} to {stop:g} s these clients send about {offered * scale:,.0f} requests; ask for a window"
            f" or a rate that give from 1 to {_MOST:,}.",
            param="to",
        )
    drawn: list[tuple[float, int, int]] = []
    for chunk, windows in zip(chunks, clients, strict=True):
        random = Random(f"servegen {seed} {chunk.name}")
        try:
            drawn.extend(_requests(windows, scale, random))
        except OverflowError as error:
            raise InvalidRequestError(f"{chunk} has a shape too near 0 to draw from.", param="path") from error
    trace = Trace()
    for at, inputs, outputs in sorted(drawn):
        trace.add(at, inputs, outputs)
    if not trace:
        raise InvalidRequestError(f"From {start:g} to {stop:g} s nothing came; ask for a longer window.", param="to")
    return trace


def _requests(windows: list[_Window], scale: float, random: Random) -> Iterator[tuple[float, int, int]]:
    left: float | None = None  # until the next request, in expected ones
    for window in windows:
        left = window.first(random) if left is None else left
        at, rate = window.start, window.rate * scale
        while at + left / rate < window.end:
            at += left / rate
            inputs, outputs = (random.choices(values, weights)[0] for values, weights in window.lengths)
            yield at, max(1, inputs), max(1, outputs)
            left = window.interval(random)
        left -= (window.end - at) * rate


def _client(chunk: Path, start: float, stop: float) -> list[_Window]:
    """Its windows from `start` to `stop` in which it sends anything."""
    rows = [_row(chunk, number, line) for number, line in enumerate(_text(chunk).splitlines(), 1) if line.strip()]
    if any(after[0] <= before[0] for before, after in pairwise(rows)):
        raise InvalidRequestError(f"The windows of {chunk} are not in order.", param="path")
    last = rows[-1][0] + (rows[-1][0] - rows[-2][0] if len(rows) > 1 else _LAST_WINDOW_S) if rows else 0.0
    ends = [row[0] for row in rows[1:]] + [last]
    active = [
        (max(begin, start), min(end, stop), rate, pattern, shape)
        for (begin, rate, pattern, shape), end in zip(rows, ends, strict=True)
        if begin < stop and end > start and rate > 0 and pattern
    ]
    if not active:
        return []
    data = chunk.with_name(chunk.name.replace("-trace.csv", "-dataset.json"))
    lengths = _Dataset(data)
    return [
        _Window(begin, end, rate, pattern, shape, found)
        for begin, end, rate, pattern, shape in active
        if (found := lengths.at(begin)) is not None
    ]


def _row(chunk: Path, number: int, line: str) -> tuple[float, float, str, float]:
    """Start, rate, pattern, shape."""
    parts = line.split(",")
    try:
        begin, rate, _, pattern, shape, scale = parts
        numbers = float(begin), float(rate), float(shape), float(scale)
        good = all(0 <= one < math.inf for one in numbers) and (
            pattern == "" or (pattern in ("Gamma", "Weibull") and numbers[2] > 0)
        )
    except ValueError:
        good = False
    if not good:
        raise InvalidRequestError(
            f"{chunk}, line {number}: not start,rate,cv,Gamma or Weibull,shape,scale: {line[:100]!r}.", param="path"
        )
    return numbers[0], numbers[1], pattern, numbers[2]


class _Dataset:
    """A client's lengths; those of a window are read when they are wanted, as they are many."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._windows: dict[int, Any] = {int(at): fields for at, fields in json.loads(_text(path)).items()}
        except (ValueError, AttributeError) as error:
            raise InvalidRequestError(f"{path} is no JSON object by times: {error}.", param="path") from error
        self._read: dict[int, tuple[Lengths, Lengths] | None] = {}

    def at(self, seconds: float) -> tuple[Lengths, Lengths] | None:
        """Of the last window with any that has begun by then; None before the first."""
        for begin in sorted(self._windows, reverse=True):
            if begin > seconds:
                continue
            if begin not in self._read:
                self._read[begin] = self._lengths(begin)
            if (found := self._read[begin]) is not None:
                return found
        return None

    def _lengths(self, begin: int) -> tuple[Lengths, Lengths] | None:
        fields = self._windows[begin]
        both = []
        for name in ("input_tokens", "output_tokens"):
            if not isinstance(fields, dict) or name not in fields:
                raise InvalidRequestError(
                    f"{self._path}, window {begin}: no {name}. Workloads of images can't be asked again.", param="path"
                )
            try:
                weights = ast.literal_eval(str(fields[name]))
                values = [int(value) for value in weights]
                shares = [float(share) for share in weights.values()]
            except (ValueError, SyntaxError, TypeError, AttributeError, MemoryError, RecursionError) as error:
                raise InvalidRequestError(
                    f"{self._path}, window {begin}: {name} is no table of probabilities: {error}.", param="path"
                ) from error
            if any(not 0 <= share < math.inf for share in shares) or (shares and not sum(shares)):
                raise InvalidRequestError(
                    f"{self._path}, window {begin}: {name} has no probabilities that can be drawn from.", param="path"
                )
            both.append((values, shares))
        return (both[0], both[1]) if both[0][0] and both[1][0] else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"{path} can't be read: {error}.", param="path") from error
