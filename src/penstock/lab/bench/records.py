"""Measurements as records: a metric for each of the field's figures, what was seen attached, and all that is needed to
measure again.

Latencies are of all repeats together. Rates and counts have one sample a repeat, so that their spread is that of the
repeats. A run that was ended early, or whose client can't be believed, is a flaw of the record.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np

from penstock.core.errors import InvalidRequestError
from penstock.core.machine import fingerprint
from penstock.core.provenance import command_of, package_versions
from penstock.core.record import Attachment, Flaw, Metric, Record, Subject, git_state
from penstock.core.record import Workload as RecordedWorkload
from penstock.lab.bench.folder import writing
from penstock.lab.bench.gaps import Run, gap_metrics
from penstock.lab.bench.metrics import counted, latencies, totals
from penstock.lab.bench.spread.figures import counts_of, latency_metrics, tally_of, totals_of
from penstock.lab.bench.spread.telling import notes_of, parameters_of
from penstock.lab.bench.summary import Sections, of_requests
from penstock.lab.bench.told import Told

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from penstock.lab.bench.counts import Encoding
    from penstock.lab.bench.endpoint import Endpoint
    from penstock.lab.bench.metrics import Latencies, Totals
    from penstock.lab.bench.observations import Observations
    from penstock.lab.bench.run import Measured
    from penstock.lab.bench.scrape import Scraper
    from penstock.lab.bench.slo import Slo

_EXAMPLES = 3  # of what went wrong, in the notes


def metrics_of(
    runs: Sequence[Observations], slo: Slo | None = None, tokenizer: Encoding | None = None
) -> tuple[Metric, ...]:
    """The field's figures of one measurement's repeats; a quantity that never happened is left out.

    Names and units: `ttft`, `tpot`, `itl`, `chunk_gap`, `e2e`, `schedule_delay` in s; `output_throughput`,
    `total_throughput` in tokens/s; `request_throughput`, `goodput` in requests/s; `requests`, `errors` and
    `errors_KIND` in requests; `loop_lag` in s, of which each sample is a repeat's p99; `prompt_tokens` and
    `output_tokens` of each answer; `tokens_per_chunk`; with a tokenizer `token_count_ratio`, the server's count over
    that of encoding the answers again. Of runs that several workers offered, those of single requests are from the
    workers' histograms, with every percentile within 0.05 % of the exact one.

    Raises InvalidRequestError for runs of which some, not all, were offered by several workers.
    """
    parts = [tally_of(seen) for seen in runs]
    if several := [part for part in parts if part is not None]:
        if len(several) < len(runs):
            raise InvalidRequestError(
                "Some of these observations are of one client and some of several workers: they are no repeats of one"
                " run.",
                param="files",
            )
        return (
            *latency_metrics(several),
            *_repeat_metrics([totals_of(seen, part, slo) for seen, part in zip(runs, several, strict=True)]),
            *_client_metrics(runs),
            *_token_metrics(runs, tokenizer),
        )
    found = [latencies(seen) for seen in runs]
    sections = Sections.split([counted(seen) for seen in runs])
    return (
        *_latency_metrics(runs, found, sections),
        *_repeat_metrics([totals(seen, each, slo) for seen, each in zip(runs, found, strict=True)]),
        *_client_metrics(runs),
        *_token_metrics(runs, tokenizer),
    )


def record_of(
    measured: Measured,
    *,
    subject: Subject,
    command: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    metrics: Iterable[Metric] = (),
    files: Iterable[Attachment] = (),
    notes: Iterable[str] = (),
    tokenizer: Encoding | None = None,
) -> Record:
    """One measurement as a record.

    Args:
        subject: what was measured, with its settings; `subject_of` where no more is known than its address.
        command: that makes the same measurement; secrets in it are left out.
        parameters: of the workload, beside those that `measured` tells.
        metrics: further ones, such as the server's own.
        files: what `save` attached.
        tokenizer: that the server's token counts are held against.
    """
    runs, workload = measured.runs, measured.workload
    asked = {
        **workload.describe(),
        **measured.arrivals.describe(),
        "manner": asdict(measured.manner),
        "count": measured.count,
        "repeats": len(runs),
        "seeds": [run.meta.get("seed", workload.seed) for run in runs],
        "slo": None if measured.slo is None else {"bounds": str(measured.slo), "share": measured.slo.share},
        "endpoint": _describe(measured.endpoint),
        **parameters_of(runs),
        **(parameters or {}),
    }
    return Record(
        subject=subject,
        workload=RecordedWorkload(workload.name, workload.seed, asked),
        machine=fingerprint(),
        git=git_state(),
        metrics=(*metrics_of(runs, measured.slo, tokenizer), *metrics),
        files=tuple(files),
        notes=(*notes, *counts_of(runs, tokenizer).doubts(), *notes_of(runs), *_examples(runs)),
        flaws=flaws_of(runs),
        command=tuple(_without_user(word) for word in command_of(command)),
        packages=package_versions(),
    )


def save(
    measured: Measured,
    folder: Path,
    *,
    subject: Subject,
    name: str | None = None,
    command: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    metrics: Iterable[Metric] = (),
    files: Iterable[Attachment] = (),
    notes: Iterable[str] = (),
    tokenizer: Encoding | None = None,
) -> tuple[Path, Record]:
    """Write a record and, beside it, what was seen of each repeat. The record's path, and it.

    Args:
        name: of the files, without an ending; None: the workload's and the time.

    Raises:
        RecordError: the folder can't be written.
    """
    moment = datetime.datetime.now(datetime.UTC)
    name = name or f"{re.sub(r'[^A-Za-z0-9_-]+', '-', measured.workload.name)}-{moment:%Y%m%d-%H%M%S}"
    seen = []
    for repeat, run in enumerate(measured.runs):
        path = folder / f"{name}-{repeat}.npz"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            run.save(path)
        seen.append(Attachment.of(path, folder))
    record = record_of(
        measured, subject=subject, command=command, parameters=parameters, metrics=metrics,
        files=(*seen, *files), notes=notes, tokenizer=tokenizer,
    )  # fmt: skip
    path = folder / f"{name}.json"
    record.save(path)
    return path, record


def subject_of(endpoint: Endpoint, told: Told | None = None, scraper: Scraper | None = None) -> Subject:
    """A server of which no more is known than what it said."""
    told = told or Told()
    name, version = ("endpoint", None) if scraper is None else (scraper.engine or "endpoint", scraper.version)
    configuration = {"model": endpoint.model, "api": endpoint.api, "settings": dict(told.settings)}
    return Subject(name, told.version or version or "unknown", configuration)


def flaws_of(runs: Sequence[Observations]) -> tuple[Flaw, ...]:
    """Why a measurement's figures are not to be quoted."""
    flaws = []
    for number, run in enumerate(runs, start=1):
        which = f"Repeat {number}: " if len(runs) > 1 else ""
        if run.meta.get("cut"):
            after = run.meta.get("wall", 0.0)
            flaws.append(Flaw("cut", f"{which}The run was ended after {after:.1f} s, before its time."))
        flaws += [Flaw("invalid", f"{which}{reason}") for reason in run.meta.get("invalid", ())]
    return tuple(flaws)


def _without_user(url: str) -> str:
    if "://" not in url or "@" not in url:
        return url
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _describe(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "url": _without_user(endpoint.base),
        "api": endpoint.api,
        "model": endpoint.model,
        "stream": endpoint.stream,
        "ignore_eos": endpoint.ignore_eos,
        "body": dict(endpoint.body),
    }


def _latency_metrics(runs: Sequence[Observations], found: Sequence[Latencies], sections: Sections) -> list[Metric]:
    masks = [counted(seen) for seen in runs]
    within = Sections([part[mask] for part, mask in zip(sections.of_request, masks, strict=True)], sections.run)
    metrics = [
        of_requests("ttft", "s", [each.ttft for each in found], within),
        of_requests("tpot", "s", [each.tpot for each in found], within),
        of_requests("e2e", "s", [each.e2e for each in found], within),
        of_requests("prompt_tokens", "tokens", [each.prompt_tokens for each in found], within),
        of_requests("output_tokens", "tokens", [each.tokens for each in found], within),
        of_requests("schedule_delay", "s",
                    [(seen.sent - seen.due)[mask] for seen, mask in zip(runs, masks, strict=True)], within),
    ]  # fmt: skip
    parts = []
    for seen, each, mask, section in zip(runs, found, masks, sections.of_request, strict=True):
        tokens = np.zeros(len(seen), np.int32)
        tokens[mask] = each.tokens
        parts.append(Run(seen, mask, tokens, section))
    return [metric for metric in metrics if metric is not None] + gap_metrics(parts, sections)


def _repeat_metrics(repeats: Sequence[Totals]) -> list[Metric]:
    def one(name: str, unit: str, samples: Iterable[float]) -> Metric:
        return Metric.from_samples(name, unit, samples)

    metrics = [
        one("requests", "requests", [each.requests for each in repeats]),
        one("errors", "requests", [sum(each.errors.values()) for each in repeats]),
    ]
    for kind in sorted({kind for each in repeats for kind in each.errors}):
        name = f"errors_{kind.replace(' ', '_')}"
        metrics.append(one(name, "requests", [each.errors.get(kind, 0) for each in repeats]))
    if any(each.whole for each in repeats):
        metrics += [
            one("request_throughput", "requests/s", [each.request_throughput for each in repeats]),
            one("output_throughput", "tokens/s", [each.output_throughput for each in repeats]),
            one("total_throughput", "tokens/s", [each.total_throughput for each in repeats]),
        ]
    goodput = [each.goodput for each in repeats if each.goodput is not None]
    if goodput:
        metrics.append(one("goodput", "requests/s", goodput))
    return metrics


def _client_metrics(runs: Sequence[Observations]) -> list[Metric]:
    lags = [run.meta["client"]["loop_lag_p99"] for run in runs if "loop_lag_p99" in run.meta.get("client", {})]
    return [Metric.from_samples("loop_lag", "s", lags)] if lags else []


def _token_metrics(runs: Sequence[Observations], tokenizer: Encoding | None) -> list[Metric]:
    counts = [counts_of([seen], tokenizer) for seen in runs]
    per_chunk = [each.tokens_per_piece for each in counts if each.tokens_per_piece is not None]
    ratios = [each.ratio for each in counts if each.ratio is not None]
    found = [("tokens_per_chunk", "tokens", per_chunk), ("token_count_ratio", "1", ratios)]
    return [Metric.from_samples(name, unit, samples) for name, unit, samples in found if samples]


def _examples(runs: Sequence[Observations]) -> list[str]:
    """What went wrong, of the first few requests that say so."""
    said = list(dict.fromkeys(" ".join(detail.split()) for run in runs for detail in run.details.values()))
    return [f"An error said: {detail[:300]}" for detail in said[:_EXAMPLES]]
