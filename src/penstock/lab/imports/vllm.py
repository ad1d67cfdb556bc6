"""Results of `vllm bench serve` (`--save-result`, with or without `--save-detailed`), read in the source of 0.32.

Its ITL are the gaps between events, which we call chunk gaps; the rest goes by our names. With details each request is
judged and the figures are worked out anew.
"""

from __future__ import annotations

import datetime
import re
from typing import TYPE_CHECKING, Any

from penstock.lab.imports.figures import Figures, Spread
from penstock.lab.imports.reading import Fields, bad, number, whole
from penstock.lab.imports.requests import Request, contradicted, possible, summed_up, without_latencies
from penstock.lab.imports.row import Row

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from penstock.lab.imports.row import Impossible

TOOL = "vllm bench serve"
_OURS = {"ttft": "ttft", "tpot": "tpot", "itl": "chunk_gap", "e2el": "e2e"}
_FIGURE = re.compile(r"(mean|median|std|p50|p90|p95|p99)_(ttft|tpot|itl|e2el)_ms")
_TOTALS = {
    "request_throughput": "request_throughput", "output_throughput": "output_throughput",
    "total_token_throughput": "total_throughput", "request_goodput": "goodput",
    "completed": "requests", "failed": "errors", "duration": "duration",
}  # fmt: skip
_SERIES = ("ttfts", "latencies", "output_lens", "start_times", "errors", "input_lens", "itls", "queue_times")
_NOTES = (
    "Latencies count from when the request was made, not from when it was due; waiting for --max-concurrency is left"
    " out.",
    "Over a chat API TTFT ends with the first event, which may hold no text.",
    "Its ITL is kept as chunk_gap: gaps between events, however many tokens are in each.",
)


def claims(value: Any) -> bool:
    """Whether a JSON value is such a result."""
    return isinstance(value, dict) and {"request_throughput", "duration", "completed", "backend"} <= value.keys()


def read(path: Path, value: Any, place: str = "") -> Row:
    """Raises InvalidRequestError if a field is missing or nothing was answered."""
    told = Fields(path, value)
    if (told.whole("completed") or 0) < 1:
        raise bad(path, "None of its requests was answered; there is nothing to keep.")
    spreads = _told(told)
    impossible: list[Impossible] = []
    parameters: dict[str, Any] = {
        key: told.raw[key]
        for key in ("num_prompts", "request_rate", "burstiness", "max_concurrency", "max_concurrent_requests",
                    "ramp_up_strategy", "ramp_up_start_rps", "ramp_up_end_rps", "label", "tokenizer_id",
                    "spec_decode_acceptance_length", "spec_decode_acceptance_rate")
        if told.raw.get(key) is not None
    }  # fmt: skip
    breach = None
    if "ttfts" in told:
        kept, impossible = possible(_requests(path, told), path.name)
        rows = summed_up(kept)
        breach = None if impossible else contradicted(spreads, rows)
        spreads = rows | without_latencies(spreads, len(kept) if impossible else None)
    limit = told.maybe("max_concurrency") or told.maybe("max_concurrent_requests")
    return Row(
        file=path.name, place=place, tool=TOOL, version="", notes=_NOTES, parameters=parameters,
        figures=Figures(
            spreads, limit or None, job=True, tail=True,
            tokens_per_step=told.maybe("spec_decode_acceptance_length") or 1.0,
        ),
        subject="endpoint", impossible=tuple(impossible), breaches=(breach,) if breach else (),
        created=_when(told.text("date")),
        configuration={"model": told.text("model_id"), "api": told.text("endpoint_type") or told.text("backend")},
    )  # fmt: skip


def _told(told: Fields) -> dict[str, Spread]:
    found: dict[str, dict[str, float]] = {}
    for key in told.raw:
        match = _FIGURE.fullmatch(key)
        if match is not None and told.raw[key] is not None:
            statistic = "p50" if match[1] == "median" else match[1]
            found.setdefault(_OURS[match[2]], {})[statistic] = told.number(key) / 1e3
    # Where nothing was measured, as the ITL of answers in one piece, it prints zeros.
    spreads = {name: Spread(values, _samples(name, told)) for name, values in found.items() if any(values.values())}
    for key, name in _TOTALS.items():
        if key in told:
            spreads[name] = Spread({"mean": told.number(key)}, 1)
    completed = _samples("ttft", told) or 1
    for key, name in (("total_input_tokens", "prompt_tokens"), ("total_output_tokens", "output_tokens")):
        if (total := told.maybe(key)) is not None:
            spreads[name] = Spread({"mean": total / completed}, completed)
    return spreads


def _samples(name: str, told: Fields) -> int | None:
    return told.whole("completed") if name in ("ttft", "e2e") else None


def _requests(path: Path, told: Fields) -> list[Request]:
    """Those that were answered."""
    columns: Mapping[str, list[Any]] = {
        name: told.items(name) for name in _SERIES if name in told or name in _SERIES[:5]
    }  # fmt: skip
    n = len(columns["ttfts"])
    for name, values in columns.items():
        if len(values) != n:
            raise bad(path, f"{name} has {len(values)} values where ttfts has {n}: it isn't of one run.")
    times = {name: told.numbers(name) for name in ("ttfts", "latencies", "output_lens", "start_times")}
    inputs = told.numbers("input_lens") if "input_lens" in columns else [-1.0] * n
    gaps = columns.get("itls", [None] * n)
    found = []
    for i in range(n):
        if columns["errors"][i]:
            continue
        each = gaps[i]
        if each is not None and not isinstance(each, list):
            raise bad(path, f"itls[{i}] is no list.")
        found.append(Request(
            f"request {i}", times["start_times"][i], times["ttfts"][i], times["latencies"][i],
            whole(path, f"output_lens[{i}]", times["output_lens"][i]),
            None if inputs[i] == -1 else whole(path, f"input_lens[{i}]", inputs[i]),
            None if each is None else tuple(number(path, f"itls[{i}]", gap) for gap in each),
        ))  # fmt: skip
    return found


def _when(date: str) -> datetime.datetime | None:
    """It writes local time without a zone; that of this machine is taken for it."""
    try:
        return datetime.datetime.strptime(date, "%Y%m%d-%H%M%S").astimezone()
    except (ValueError, OverflowError):  # a year that has no such hour in UTC
        return None
