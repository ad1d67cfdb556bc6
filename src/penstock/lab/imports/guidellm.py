"""Reports of guidellm (`kind=json`), read in the source of 0.8.1: a row for each benchmark.

| guidellm | here |
|---|---|
| `inter_token_latency_ms` | its mean is `itl`; its percentiles are of requests, weighted by tokens: `tpot_by_tokens` |
| `time_per_output_token_ms` | `e2e_per_token`: the wait for the first token included |
| `request_dispatch_delay` | `schedule_delay` |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.lab.imports.figures import Figures, Spread
from penstock.lab.imports.reading import Fields, bad, moment
from penstock.lab.imports.requests import Request, contradicted, possible, summed_up, without_latencies
from penstock.lab.imports.row import Row

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.lab.imports.row import Impossible

TOOL = "guidellm"
_OURS = {
    "time_to_first_token_ms": ("ttft", 1e-3), "inter_token_latency_ms": ("tpot_by_tokens", 1e-3),
    "time_per_output_token_ms": ("e2e_per_token", 1e-3), "request_latency": ("e2e", 1.0),
    "request_dispatch_delay": ("schedule_delay", 1.0), "prompt_token_count": ("prompt_tokens", 1.0),
    "output_token_count": ("output_tokens", 1.0),
}  # fmt: skip
_RATES = {
    "requests_per_second": "request_throughput", "output_tokens_per_second": "output_throughput",
    "tokens_per_second": "total_throughput", "request_concurrency": "streams", "request_goodput": "goodput",
}  # fmt: skip
_STATISTICS = {"mean": "mean", "median": "p50", "min": "min", "max": "max", "std_dev": "std"}
_NOTES = (
    "Latencies count from when a request's headers were written, not from when it was due; schedule_delay is apart.",
    "E2E ends with the stream, after the last text.",
    "Its inter-token latency is kept as the mean of itl, and as tpot_by_tokens: of requests, each weighted by its"
    " tokens. Its time per output token counts the first token's wait, and is kept as e2e_per_token.",
)


def claims(value: Any) -> bool:
    """Whether a JSON value is such a report."""
    if not isinstance(value, dict) or not isinstance(value.get("benchmarks"), list):
        return False
    metadata = value.get("metadata")
    return isinstance(metadata, dict) and "guidellm_version" in metadata


def read(path: Path, value: Any) -> list[Row]:
    """Raises InvalidRequestError if a field is missing."""
    report = Fields(path, value)
    found = report.items("benchmarks")
    if not found:
        raise bad(path, "It has no benchmarks: the run ended before one did.")
    version = report.within("metadata").text("guidellm_version")
    return [_row(path, Fields(path, each, f"benchmarks[{i}]"), i, len(found), version) for i, each in enumerate(found)]


def _row(path: Path, told: Fields, index: int, count: int, version: str) -> Row:
    place = f"benchmark {index + 1}" if count > 1 else ""
    if "config" not in told:
        raise bad(path, f"It is of guidellm {version}; reports are read as 0.8 writes them.")
    metrics, config = told.within("metrics"), told.within("config")
    strategy, backend = config.within("strategy"), config.within("backend")
    totals = metrics.within("request_totals")
    if not totals.whole("successful"):
        raise bad(path, f"{place or 'It'} has no request that was answered; there is nothing to keep.")
    spreads = _told(metrics, totals)
    requests = _requests(path, told, place, totals.whole("successful") or 0)
    impossible: list[Impossible] = []
    breach = None
    if requests:
        kept, impossible = possible(requests, path.name)
        rows = summed_up(kept)
        breach = None if impossible else contradicted(spreads, rows)
        spreads = (without_latencies(spreads, len(kept)) if impossible else spreads) | rows
    kind = strategy.text("type_")
    streams = strategy.maybe("streams") or (1.0 if kind == "synchronous" else strategy.maybe("max_concurrency"))
    return Row(
        file=path.name, place=place, tool=TOOL, version=version, subject="endpoint", notes=_NOTES,
        figures=Figures(spreads, streams, tail=True), impossible=tuple(impossible),
        breaches=(breach,) if breach else (),
        configuration={"model": backend.text("model"), "api": backend.text("request_format")},
        parameters={"strategy": kind, **{key: strategy.raw[key] for key in ("rate", "streams", "max_concurrency")
                                         if strategy.raw.get(key) is not None}},
        created=moment(told.number("start_time")),
    )  # fmt: skip


def _requests(path: Path, told: Fields, place: str, successful: int) -> list[Request]:
    """All that were answered; none if the report keeps a sample of them or if their tokens weren't counted."""
    listed = told.within("requests").raw.get("successful")
    if not isinstance(listed, list) or len(listed) != successful:
        return []
    where = f"{place}, request" if place else "request"
    found = [_request(Fields(path, each, f"{where} {i}"), f"{where} {i}") for i, each in enumerate(listed)]
    return [each for each in found if each is not None] if all(found) else []


def _told(metrics: Fields, totals: Fields) -> dict[str, Spread]:
    spreads = {}
    for key, (name, factor) in _OURS.items():
        if (spread := _spread(metrics, key, factor)) is not None:
            spreads[name] = spread
    if (gaps := spreads.get("tpot_by_tokens")) is not None and (mean := gaps.get("mean")) is not None:
        spreads["itl"] = Spread({"mean": mean}, gaps.n)
    for key, name in _RATES.items():
        spread = _spread(metrics, key, 1.0)
        if spread is not None and spread.statistics.get("mean"):
            spreads[name] = Spread({"mean": spread.statistics["mean"]}, 1)
    spreads["requests"] = Spread({"mean": totals.number("successful")}, 1)
    spreads["errors"] = Spread({"mean": totals.number("errored")}, 1)
    return spreads


def _spread(metrics: Fields, key: str, factor: float) -> Spread | None:
    """Of successful requests; None where there are none, which it prints as zeros."""
    if key not in metrics or "successful" not in metrics.within(key):
        return None
    told = metrics.within(key).within("successful")
    count = told.whole("count")
    if not count:
        return None
    values = {name: told.number(theirs) for theirs, name in _STATISTICS.items()}
    percentiles = told.within("percentiles")
    values |= {name: percentiles.number(name) for name in ("p90", "p95", "p99")}
    return Spread({name: value * factor for name, value in values.items()}, count)


def _request(told: Fields, place: str) -> Request | None:
    """None if its tokens were not counted."""
    tokens, prompt = told.whole("output_tokens"), told.whole("prompt_tokens")
    ttft, tpot = told.maybe("time_to_first_token_ms"), told.maybe("inter_token_latency_ms")
    if tokens is None:
        return None
    return Request(
        place, told.number("request_start_time"), None if ttft is None else ttft / 1e3,
        told.number("request_latency"), tokens, prompt,
        delay=told.maybe("request_dispatch_delay"), tpot=None if tpot is None or tokens < 2 else tpot / 1e3,
    )  # fmt: skip
