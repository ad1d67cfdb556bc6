"""Results of AIPerf, read in the source of 0.13: `profile_export_aiperf.json` and `.csv`, and the requests one by one
in `profile_export.jsonl`. Each file names its units.

Its inter-token latency is a request's mean, our TPOT; its inter-chunk latency is our chunk gap. Its rates are over
all of the phase, which ends some time after the last answer; its `benchmark_duration` doesn't, and is left out.
"""

from __future__ import annotations

import datetime
import math
import re
from typing import TYPE_CHECKING, Any

from penstock.lab.imports.columns import number_of
from penstock.lab.imports.figures import COUNTS, RATES, UNITS, Figures, Spread
from penstock.lab.imports.reading import Fields, bad, moment, whole
from penstock.lab.imports.requests import Request, possible, summed_up
from penstock.lab.imports.row import Row
from penstock.lab.journal.units import dimension_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TOOL = "aiperf"
_OURS = {
    "time_to_first_token": "ttft", "inter_token_latency": "tpot", "inter_chunk_latency": "chunk_gap",
    "request_latency": "e2e", "output_sequence_length": "output_tokens", "input_sequence_length": "prompt_tokens",
    "request_throughput": "request_throughput", "output_token_throughput": "output_throughput",
    "total_token_throughput": "total_throughput", "goodput": "goodput", "request_count": "requests",
    "error_request_count": "errors", "effective_concurrency": "streams",
}  # fmt: skip
_STATISTICS = {"avg": "mean", "Value": "mean", "std": "std",
               **{name: name for name in ("min", "max", "p50", "p90", "p95", "p99")}}  # fmt: skip
_UNITS = {"sec": "s", "tokens/sec": "tokens/s", "requests/sec": "requests/s", "requests": "requests",
          "tokens": "tokens", "count": "requests"}  # fmt: skip
_LABEL = re.compile(r"(.+?)(?: \(([^()]+)\))?")
_NOTES = (
    "Latencies count from when the request was made, not from when it was due.",
    "Its inter-token latency is kept as tpot: of requests, not of tokens. Its inter-chunk latency is chunk_gap.",
    "Its token counts are its own tokenizer's unless it was told to take the server's.",
)


def claims(value: Any) -> bool:
    """Whether a JSON value is such a summary."""
    return isinstance(value, dict) and ("aiperf_version" in value or isinstance(value.get("request_latency"), dict))


def claims_line(value: Any) -> bool:
    """Whether a line's JSON value is one of its requests."""
    return isinstance(value, dict) and isinstance(value.get("metadata"), dict) and (
        "request_start_ns" in value["metadata"])  # fmt: skip


def claims_csv(header: Sequence[str]) -> bool:
    """Whether a CSV begins as its own do."""
    return list(header[:2]) in (["Metric", "avg"], ["Metric", "Value"])


def read(path: Path, value: Any) -> Row:
    """The JSON summary. Raises InvalidRequestError if there is nothing in it."""
    told = Fields(path, value)
    spreads = {}
    for key, name in _OURS.items():
        if key in told:
            each = told.within(key)
            values = {ours: each.number(theirs) for theirs, ours in _STATISTICS.items() if theirs in each}
            spreads[name] = _spread(path, key, name, values, each.text("unit"), each.whole("count"))
    if not spreads:
        raise bad(path, "It has none of AIPerf's figures: no request was answered, or it is of another tool.")
    inputs = told.within("input_config") if "input_config" in told else Fields(path, {})
    run = told.within("run_info") if "run_info" in told else Fields(path, {})
    flaws = [f"AIPerf says: {told.text('incomplete_reason') or 'the run is incomplete'}."]
    return Row(
        file=path.name, place="", tool=TOOL, version=told.text("aiperf_version"), subject="endpoint", notes=_NOTES,
        figures=Figures(spreads, _streams(path, inputs), job=True), seed=run.whole("random_seed"),
        configuration=_configuration(path, inputs),
        parameters={"command": run.text("cli_command")} if run.text("cli_command") else {},
        flaws=tuple(flaws) if told.raw.get("is_complete") is False else (),
        cut="The run was cancelled." if told.raw.get("was_cancelled") is True else "", created=_when(told),
    )  # fmt: skip


def read_lines(path: Path, lines: Sequence[tuple[int, dict[str, Any]]]) -> Row:
    """The requests one by one; rates are from the first one's start to the last one's end, as AIPerf counts them."""
    requests, errors = [], 0
    for number, line in lines:
        told = Fields(path, line, f"line {number}")
        metadata = told.within("metadata")
        if metadata.text("benchmark_phase") not in ("", "profiling"):
            continue  # the warm-up
        if told.raw.get("error") is not None or metadata.raw.get("was_cancelled") is True:
            errors += 1
            continue
        requests.append(_request(path, number, told.within("metrics"), metadata))
    kept, impossible = possible(requests, path.name)
    if not requests:
        raise bad(path, f"None of its {errors} requests was answered.")
    spreads = summed_up(kept)
    rates = {"requests": float(len(kept)), "errors": float(errors)}
    if not impossible:  # else the rates are not those of the run
        first = min(each.start for each in kept)
        # Seconds since 1970 have no room for an answer's last digits.
        seconds = max(each.start - first + each.e2e for each in kept)
        output, prompts = sum(each.output_tokens for each in kept), sum(each.prompt_tokens or 0 for each in kept)
        rates |= {"duration": seconds, "request_throughput": len(kept) / seconds}
        rates |= {"output_throughput": output / seconds}
        rates |= {"total_throughput": (output + prompts) / seconds} if prompts else {}
    spreads |= {name: Spread({"mean": value}, 1) for name, value in rates.items()}
    return Row(
        file=path.name, place="", tool=TOOL, version="", subject="endpoint", figures=Figures(spreads, job=True),
        impossible=tuple(impossible), notes=_NOTES,
        created=moment(min(each.start for each in requests)),
    )  # fmt: skip


def read_csv(path: Path, rows: Sequence[tuple[int, list[str]]]) -> Row:
    """The CSV: figures in a table with percentiles, then single ones; two decimals each."""
    spreads: dict[str, Spread] = {}
    header: list[str] = []
    for line, cells in rows:
        if cells[0] == "Metric":
            header = cells
            continue
        match = _LABEL.fullmatch(cells[0])
        key = match[1].lower().replace(" ", "_") if match else ""
        if match is None or key not in _OURS:
            continue
        values, halves = {}, [0.0]
        for theirs, cell in zip(header[1:], cells[1:], strict=False):
            if theirs in _STATISTICS and cell:
                values[_STATISTICS[theirs]], half = number_of(path, line, cell)
                halves.append(half)
        spreads[_OURS[key]] = _spread(path, key, _OURS[key], values, match[2] or "", None, max(halves), line)
    if not spreads:
        raise bad(path, "It has none of AIPerf's figures.")
    requests = spreads["requests"].get("mean") if "requests" in spreads else None
    if requests is not None and math.isfinite(requests):
        spreads = {
            name: Spread(each.statistics, int(requests), half=each.half) if name in ("ttft", "e2e") else each
            for name, each in spreads.items()
        }
    return Row(file=path.name, place="", tool=TOOL, version="", subject="endpoint", notes=_NOTES,
               figures=Figures(spreads, job=True))  # fmt: skip


def _spread(
    path: Path, key: str, name: str, values: dict[str, float], unit: str, count: int | None, half: float = 0.0,
    line: int | None = None,
) -> Spread:  # fmt: skip
    factor = _factor(path, key, name, unit or UNITS[name], line)
    single = name in RATES or name in COUNTS or name in ("duration", "streams")
    if single:
        values = {"mean": values["mean"]} if "mean" in values else {}
    n = 1 if single else count
    return Spread({k: v * factor for k, v in values.items()}, n, half=half * factor)


def _factor(path: Path, key: str, name: str, unit: str, line: int | None = None) -> float:
    own, factor = dimension_of(_UNITS.get(unit, unit))
    wanted, divisor = dimension_of(UNITS[name])
    if own != wanted:
        raise bad(path, f"{key} is in {unit!r}, which is no {UNITS[name]}.", line=line)
    return factor / divisor


def _request(path: Path, line: int, metrics: Fields, metadata: Fields) -> Request:
    def value(key: str) -> float | None:
        if key not in metrics:
            return None
        each = metrics.within(key)
        return each.number("value") * _factor(path, key, _OURS[key], each.text("unit"), line)

    e2e, tokens, prompt = value("request_latency"), value("output_sequence_length"), value("input_sequence_length")
    if e2e is None or tokens is None:
        missing = "request_latency" if e2e is None else "output_sequence_length"
        raise bad(path, f"{missing} is missing.", line=line)
    gaps = None
    if "inter_chunk_latency" in metrics:
        each = metrics.within("inter_chunk_latency")
        factor = _factor(path, "inter_chunk_latency", "chunk_gap", each.text("unit"), line)
        gaps = tuple(gap * factor for gap in each.numbers("value"))
    return Request(
        f"line {line}", metadata.number("request_start_ns") / 1e9, value("time_to_first_token"), e2e,
        whole(path, "output_sequence_length", tokens, line=line),
        None if prompt is None else whole(path, "input_sequence_length", prompt, line=line), gaps,
        tpot=value("inter_token_latency"),
    )  # fmt: skip


def _configuration(path: Path, inputs: Fields) -> dict[str, Any]:
    endpoint = inputs.within("endpoint") if "endpoint" in inputs else Fields(path, {})
    models = inputs.raw.get("models")
    items = models.get("items", []) if isinstance(models, dict) else []
    names = [each.get("name", "") for each in items if isinstance(each, dict)] if isinstance(items, list) else []
    return {"model": ", ".join(map(str, names)), "api": endpoint.text("type")}


def _streams(path: Path, inputs: Fields) -> float | None:
    """How many requests the profiling phase may have had on their way at once; None: no such limit is told."""
    phases = inputs.raw.get("phases")
    for phase in phases if isinstance(phases, list) else ():
        told = Fields(path, phase, "input_config.phases")
        if told.text("kind") == "profiling" and "concurrency" in told:
            return told.number("concurrency") if isinstance(told.raw["concurrency"], int | float) else None
    return None


def _when(told: Fields) -> datetime.datetime | None:
    """It writes local time without a zone; that of this machine is taken for it."""
    try:
        return datetime.datetime.fromisoformat(told.text("start_time")).astimezone()
    except (ValueError, OverflowError):  # a year that has no such hour in UTC
        return None
