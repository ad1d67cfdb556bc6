"""The page of one measurement: its figures with their intervals, whether they can be believed, and what happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.lab.bench.agreement import pairs
from penstock.lab.bench.metrics import errors_by_kind, latencies, totals
from penstock.lab.bench.observations import Ending
from penstock.lab.pages.document import (
    Callout,
    Card,
    Cards,
    Cell,
    Code,
    Document,
    Folded,
    Paragraph,
    Section,
    Table,
    Views,
)
from penstock.lab.pages.estimates import Estimate
from penstock.lab.pages.machine_section import machine_section
from penstock.lab.pages.run_plots import latency_grid, mean, percentile, request_grid, time_grid
from penstock.lab.pages.units import figure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.core.record import Flaw, Metric, Record
    from penstock.lab.bench.observations import Observations
    from penstock.lab.bench.slo import Slo
    from penstock.lab.pages.document import Block

_MOST_REPEATS = 8  # that are drawn
_MOST_SAID = 5  # examples of each kind of error
_LONGEST = 300  # signs of each
NAMES = {
    "ttft": "Time to first token",
    "tpot": "Time per output token",
    "itl": "Inter-token latency",
    "chunk_gap": "Gap between chunks",
    "e2e": "End to end",
    "queue": "In the server's queue",
    "schedule_delay": "Sent after it was due",
    "loop_lag": "Client's loop lag",
    "output_throughput": "Output tokens",
    "total_throughput": "All tokens",
    "request_throughput": "Answers",
    "goodput": "Goodput",
    "requests": "Requests",
    "errors": "Failed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """One measurement. Without observations the page has figures alone."""

    title: str
    metrics: Sequence[Metric]
    runs: Sequence[Observations] = ()
    flaws: Sequence[Flaw] = ()
    slo: Slo | None = None
    record: Record | None = None
    notes: Sequence[str] = ()


def run_page(run: RunPage) -> Document:
    """The same page for the same measurement."""
    lead: list[Block] = [_verdict(run), Cards(tuple(_cards(run)))]
    drawn = run.runs[:_MOST_REPEATS]
    if len(run.runs) > len(drawn):
        lead.append(Paragraph(f"The first {len(drawn)} of {len(run.runs)} repeats are drawn.", soft=True))
    sections = [Section("Latency", (*_latency_blocks(run, drawn), _metric_table(run.metrics)))]
    if drawn:
        sections.append(Section("Over time", (_by_repeat("Over time", drawn, lambda each: time_grid(each, run.slo)),)))
        sections.append(Section("Requests", (_by_repeat("Requests", drawn, lambda each: request_grid(each, run.slo)),)))
    if len(run.runs) > 1:
        sections.append(_repeat_section(run))
    if errors := _error_section(run):
        sections.append(errors)
    if agreement := _agreement_section(run):
        sections.append(agreement)
    if run.runs:
        sections.append(_client_section(run))
    if run.notes:
        sections.append(Section("Notes", tuple(Paragraph(note) for note in run.notes)))
    if run.record is not None:
        sections.append(machine_section(run.record))
    return Document(
        title=run.title, kind="Load", subtitle=_subtitle(run), lead=tuple(lead), sections=tuple(sections),
        footer=("Latency counts from the moment a request was due. Intervals are of 95 %.",),
    )  # fmt: skip


def _find(metrics: Sequence[Metric], name: str) -> Metric | None:
    return next((metric for metric in metrics if metric.name == name), None)


def _subtitle(run: RunPage) -> str:
    words = []
    if run.record is not None:
        words.append(f"{run.record.subject.name} {run.record.subject.version}")
        words.append(run.record.workload.name)
        words.append(run.record.created.strftime("%Y-%m-%d %H:%M"))
    if run.runs:
        words.append("1 repeat" if len(run.runs) == 1 else f"{len(run.runs)} repeats")
    if run.slo is not None:
        words.append(f"SLO {run.slo}")
    return " · ".join(words)


def _verdict(run: RunPage) -> Callout:
    reasons = tuple(flaw.reason for flaw in run.flaws)
    kinds = {flaw.kind for flaw in run.flaws}
    if "invalid" in kinds:
        return Callout("Invalid: these figures are not to be quoted.", "bad", reasons)
    if "cut" in kinds:
        return Callout("Cut short: these figures are of the part that was measured.", "warn", reasons)
    if not run.runs:
        return Callout("The record names no flaw.")
    errors, requests = _find(run.metrics, "errors"), _find(run.metrics, "requests")
    if errors is not None and requests is not None and errors.mean > 0:
        share = errors.mean / requests.mean if requests.mean else 1.0
        words = f"Valid, but {figure(share, 'share')} of the requests failed: the latencies are of the others."
        return Callout(words, "warn")
    words = "Valid: the client was on time and had the processor it needed, and every request succeeded."
    return Callout(words, "good")


def _cards(run: RunPage) -> list[Card]:
    cards = []
    for name, field_ in (
        ("output_throughput", "mean"), ("request_throughput", "mean"), ("goodput", "mean"), ("ttft", "p50"),
        ("ttft", "p99"), ("itl", "p50"), ("itl", "p99"), ("tpot", "mean"), ("e2e", "p50"), ("e2e", "p99"),
    ):  # fmt: skip
        if (metric := _find(run.metrics, name)) is not None:
            note = f"{NAMES[name]}, {'mean' if field_ == 'mean' else field_}"
            cards.append(Estimate.at(metric, field_).card(note))
    if (errors := _find(run.metrics, "errors")) is not None and errors.max > 0:
        cards.append(Card(NAMES["errors"], figure(errors.mean, "requests"), tone="bad", note="on average, a repeat"))
    return cards


def _latency_blocks(run: RunPage, drawn: Sequence[Observations]) -> tuple[Block, ...]:
    return (latency_grid(drawn, run.slo),) if drawn else ()


def _metric_table(metrics: Sequence[Metric]) -> Table:
    fields_ = ("mean", "p50", "p90", "p95", "p99")
    rows: list[tuple[Cell | str, ...]] = []
    for metric in metrics:
        cells = [Estimate.at(metric, name).cell() for name in fields_]
        ends = [Cell(figure(value, metric.unit), sort=value) for value in (metric.min, metric.max)]
        rows.append(
            (
                Cell(_name(metric.name), title=metric.name),
                Cell(f"{metric.n:,}", sort=metric.n),
                *cells,
                *ends,
            )
        )
    return Table(
        ("figure", "n", *fields_, "min", "max"), tuple(rows),
        caption="Latencies are of all requests that count; rates and counts have one value a repeat",
    )  # fmt: skip


def _name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    return f"Failed: {name[7:].replace('_', ' ')}" if name.startswith("errors_") else name


def _by_repeat(title: str, runs: Sequence[Observations], make: Callable[[Observations], Block]) -> Block:
    blocks = [make(seen) for seen in runs]
    if len(blocks) == 1:
        return blocks[0]
    return Views(title, tuple((f"Repeat {at + 1}", block) for at, block in enumerate(blocks)))


def _repeat_section(run: RunPage) -> Section:
    """The figures of each repeat: what spread there is, and which one is out of line."""
    columns = ["repeat", "answers", "output", "requests/s"]
    columns += ["goodput"] if run.slo is not None else []
    columns += ["TTFT p50", "TTFT p99", "TPOT mean", "failed"]
    rows: list[tuple[Cell | str, ...]] = []
    for at, seen in enumerate(run.runs):
        found = latencies(seen)
        sums = totals(seen, found, run.slo)
        figures = [(float(sums.whole), "1"), (sums.output_throughput, "tokens/s"), (sums.request_throughput, "1")]
        figures += [] if sums.goodput is None else [(sums.goodput, "1")]
        figures += [(percentile(found.ttft, 50), "s"), (percentile(found.ttft, 99), "s"), (mean(found.tpot), "s")]
        cells = [Cell(figure(value, unit), sort=value) for value, unit in figures]
        failed = sum(sums.errors.values())
        rows.append((f"{at + 1}", *cells, Cell(f"{failed:,}", sort=failed, tone="bad" if failed else "plain")))
    return Section("Repeats", (Table(tuple(columns), tuple(rows)),))


def _error_section(run: RunPage) -> Section | None:
    """Failures by kind, with what the first of each had to say."""
    counts: dict[str, int] = {}
    said: dict[str, list[str]] = {}
    for seen in run.runs:
        for kind, count in errors_by_kind(seen).items():
            counts[kind] = counts.get(kind, 0) + count
        for kind, words in _said(seen):
            known = said.setdefault(kind, [])
            if len(known) < _MOST_SAID and words not in known:
                known.append(words)
    if not counts:
        return None
    asked = sum(int((~seen.warm_up).sum()) for seen in run.runs)
    rows = tuple(
        (
            kind,
            Cell(f"{count:,}", sort=count),
            Cell(figure(count / asked, "share"), sort=count / asked),
            _MEANINGS.get(kind, "the server answered with this status"),
        )
        for kind, count in sorted(counts.items(), key=lambda item: -item[1])
    )
    examples = [Folded(f"{kind}: what was said", tuple(map(Code, each))) for kind, each in said.items()]
    return Section("Failures", (Table(("kind", "requests", "share", "meaning"), rows), *examples))


_MEANINGS = {
    "connect": "no connection could be made",
    "tls": "the connection could not be made secure",
    "timeout": "no end within the time allowed",
    "broken": "the connection broke",
    "truncated": "the stream stopped before its end",
    "malformed": "what came is no HTTP, no SSE or no JSON",
    "in_stream": "the stream told of an error",
    "empty": "an answer without text",
    "cut": "under way when the run was ended",
}


def _said(seen: Observations) -> list[tuple[str, str]]:
    """Kinds and words of failed requests, of the first few hundred."""
    if not seen.details:
        return []
    kinds = dict(zip(seen.id.tolist(), zip(seen.ending.tolist(), seen.status.tolist(), strict=True), strict=True))
    found = []
    for number, words in list(seen.details.items())[:500]:
        ending, status = kinds.get(number, (Ending.WHOLE, 0))
        kind = f"status {status}" if ending == Ending.STATUS else Ending(ending).name.lower()
        found.append((kind, words[:_LONGEST] + "…" * (len(words) > _LONGEST)))
    return found


def _agreement_section(run: RunPage) -> Section | None:
    """The client's figures beside the server's own."""
    rows: list[tuple[Cell | str, ...]] = []
    for at, seen in enumerate(run.runs):
        for pair in pairs(seen):
            far = abs(pair.difference) > _FAR
            rows.append(
                (
                    NAMES.get(pair.name, pair.name.replace("_", " ")),
                    f"{at + 1}",
                    Cell(figure(pair.client, pair.unit, 4), sort=pair.client),
                    Cell(figure(pair.server, pair.unit, 4), sort=pair.server),
                    Cell(f"{pair.difference:+.2%}", sort=pair.difference, tone="warn" if far else "plain"),
                )
            )
    if not rows:
        return None
    words = "All requests of a repeat, warm-up included; times differ by the way to the server and back."
    table = Table(("figure", "repeat", "client", "server", "difference"), tuple(rows))
    return Section("Beside the server's own figures", (Paragraph(words, soft=True), table))


_FAR = 0.02  # a difference from the server's figure that is pointed out


def _client_section(run: RunPage) -> Section:
    rows: list[tuple[Cell | str, ...]] = []
    for at, seen in enumerate(run.runs):
        client = seen.meta.get("client", {})
        cells = [
            Cell(figure(client[name], "s"), sort=client[name]) if name in client else ""
            for name in ("schedule_delay_p99", "schedule_delay_max", "loop_lag_p99", "loop_lag_max")
        ]
        busy = client["cpu"] / client["wall"] if client.get("wall") else None
        drift = seen.meta.get("clock_drift")
        cells.append("" if busy is None else Cell(figure(busy, "share"), sort=busy))
        cells.append("" if drift is None else Cell(figure(drift, "s"), sort=drift))
        flawed = bool(seen.meta.get("invalid")) or bool(seen.meta.get("cut"))
        words = "invalid" if seen.meta.get("invalid") else "cut" if seen.meta.get("cut") else "valid"
        rows.append((f"{at + 1}", Cell(words, tone="bad" if flawed else "good", badge=True), *cells))
    late = ("sent late, p99", "sent late, max", "loop lag, p99", "loop lag, max")
    columns = ("repeat", "client", *late, "processor", "clock drift")
    return Section("The client", (Table(columns, tuple(rows)),))
