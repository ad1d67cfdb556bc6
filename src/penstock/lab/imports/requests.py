"""Results that tell of each request: held against physics one by one, then summed up with the bench's own intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from penstock.lab.bench.summary import Sections, of_requests
from penstock.lab.imports.figures import COUNTS, RATES, Spread, close
from penstock.lab.imports.physics import ROUNDING, Breach
from penstock.lab.imports.row import Impossible

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

_YEARS = 1e9  # s
_EARLY = 1e-3  # s that a request may be sent too early, and a mean be below zero by rounding
_AGREE = 0.01  # of a tool's own summary with its own rows


@dataclass(frozen=True, slots=True)
class Request:
    """One whole answer as a tool saw it; times in seconds."""

    place: str  # "line 3"
    start: float  # on any clock
    ttft: float | None  # None: not streamed
    e2e: float
    output_tokens: int
    prompt_tokens: int | None = None
    gaps: tuple[float, ...] | None = None  # between chunks
    delay: float | None = None  # from due to sent
    tpot: float | None = None  # as the tool worked it out; None: (e2e - ttft) / (output_tokens - 1)


def possible(requests: Sequence[Request], file: str) -> tuple[list[Request], list[Impossible]]:
    """Those that can be true, in order of their start, and what is wrong with the others."""
    kept: list[Request] = []
    bad: list[Impossible] = []
    seen: dict[tuple[float, ...], str] = {}
    for request in sorted(requests, key=lambda each: each.start):
        breach = _breach(request)
        same = (request.start, request.ttft or 0.0, request.e2e)
        if breach is None and (first := seen.setdefault(same, request.place)) != request.place:
            what = f"It started, and has the same times, as {first}, to the last digit: it is counted once."
            breach = Breach("duplicate", ("e2e",), what, 1.0)
        if breach is None:
            kept.append(request)
        else:
            bad.append(Impossible(file, request.place, breach))
    return kept, bad


def _breach(request: Request) -> Breach | None:
    told = {"e2e": request.e2e, "ttft": request.ttft, "tpot": request.tpot, "schedule_delay": request.delay}
    for name, value in told.items():
        least = 0.0 if name in ("e2e", "ttft") else -_EARLY
        if value is not None and not (least < value < _YEARS):
            return Breach("sign", (name,), f"Its {name} is {value:g} s.", float("inf"))
    if not np.isfinite(request.start):
        return Breach("sign", ("start",), f"It started at {request.start}.", float("inf"))
    if request.output_tokens < 1 or (request.prompt_tokens is not None and request.prompt_tokens < 0):
        what = f"A whole answer of {request.output_tokens} tokens to {request.prompt_tokens} is none."
        return Breach("sign", ("output_tokens",), what, float("inf"))
    if request.ttft is not None and request.ttft > request.e2e * (1 + ROUNDING):
        what = f"Its ttft ({request.ttft:g} s) is above its e2e ({request.e2e:g} s)."
        return Breach("parts", ("ttft", "e2e"), what, request.ttft / request.e2e)
    if request.gaps:
        if not np.isfinite(request.gaps).all() or min(request.gaps) < 0:
            return Breach("sign", ("chunk_gap",), f"A gap between its chunks is {min(request.gaps):g} s.", float("inf"))
        whole = (request.ttft or 0.0) + sum(request.gaps)
        # What follows the last chunk with text (a finish reason, [DONE]) may belong to the end, never a gap beyond it.
        if whole > request.e2e * (1 + _AGREE):
            what = f"Its ttft and the gaps after it make {whole:g} s, more than its e2e of {request.e2e:g} s."
            return Breach("parts", ("ttft", "chunk_gap", "e2e"), what, whole / request.e2e)
    return None


def summed_up(requests: Sequence[Request]) -> dict[str, Spread]:
    """`ttft`, `tpot`, `e2e`, lengths, `chunk_gap` and `schedule_delay`, as far as they are known, with intervals.

    `requests` are in order of their start.
    """
    if not requests:
        return {}
    sections = Sections.split([np.ones(len(requests), bool)])
    ttft = np.array([np.nan if each.ttft is None else each.ttft for each in requests])
    e2e = np.array([each.e2e for each in requests])
    tokens = np.array([each.output_tokens for each in requests])
    tpot = np.full(len(requests), np.nan)
    np.divide(e2e - ttft, tokens - 1, out=tpot, where=tokens > 1)
    tpot = np.array([own if each.tpot is None else each.tpot for own, each in zip(tpot, requests, strict=True)])
    columns: dict[str, tuple[str, NDArray[np.float64]]] = {
        "ttft": ("s", ttft), "tpot": ("s", tpot), "e2e": ("s", e2e),
        "output_tokens": ("tokens", tokens.astype(float)),
        "prompt_tokens": ("tokens", _column(each.prompt_tokens for each in requests)),
        "schedule_delay": ("s", _column(each.delay for each in requests)),
    }  # fmt: skip
    found = {name: of_requests(name, unit, [values], sections) for name, (unit, values) in columns.items()}
    counts = np.array([len(each.gaps or ()) for each in requests])
    if counts.any():
        gaps = np.concatenate([np.asarray(each.gaps or (), float) for each in requests])
        by_gap = Sections([np.repeat(sections.of_request[0], counts)], sections.run)
        found["chunk_gap"] = of_requests("chunk_gap", "s", [gaps], by_gap)
    return {name: Spread.of(metric) for name, metric in found.items() if metric is not None}


def without_latencies(told: Mapping[str, Spread], kept: int | None = None) -> dict[str, Spread]:
    """What a summary says beside latencies and lengths.

    Args:
        kept: how many requests are left of those it was of; its rates aren't theirs then. None: all.
    """
    if kept is not None:
        return {name: each for name, each in told.items() if name == "errors"} | {"requests": Spread({"mean": kept}, 1)}
    return {name: each for name, each in told.items() if name in (*RATES, *COUNTS, "duration", "streams", "itl")}


def contradicted(told: Mapping[str, Spread], rows: Mapping[str, Spread]) -> Breach | None:
    """Where a file's own summary isn't that of the requests it lists: one of the two isn't of this run."""
    for name, spread in told.items():
        mean, own = spread.get("mean"), rows[name].get("mean") if name in rows else None
        if mean is not None and own is not None and not close(mean, own, _AGREE):
            what = f"It says {name}.mean is {mean:g}, and the requests that it lists have {own:g}."
            ratio = max(mean, own) / min(mean, own) if min(mean, own) > 0 else float("inf")
            return Breach("summary", (f"{name}.mean",), what, ratio)
    return None


def _column(values: Iterable[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else float(value) for value in values])
