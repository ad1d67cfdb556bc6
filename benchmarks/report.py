"""A Markdown summary and SVG plots, drawn from the records and nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING

from penstock.core.record import Record
from penstock.lab.journal.chart import Chart, Line, Point

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from penstock.core.record import Metric

_SERVING = re.compile(r"serving-(.+)-c(\d+)\.json")


@dataclass(frozen=True, slots=True)
class Serving:
    """The serving records of one folder, by peer and then by concurrency."""

    records: dict[str, dict[int, Record]]

    @property
    def concurrency(self) -> list[int]:
        return sorted({level for levels in self.records.values() for level in levels})

    @property
    def any(self) -> Record:
        return next(record for levels in self.records.values() for record in levels.values())


def write(folder: Path) -> None:
    """Write SUMMARY.md beside the records, and the plots into `plots` beside the folder."""
    serving = _load_serving(folder)
    parts = ["# Measured results", ""]
    if serving.records:
        plots = folder.parent / "plots"
        plots.mkdir(parents=True, exist_ok=True)
        for metric, title, axis in (
            ("output_throughput", "Output tokens per second", "tokens/s"),
            ("ttft", "Time to first token, median", "s"),
            ("inter_token", "Between tokens, 99th percentile", "s"),
        ):
            drawn = _chart(serving, metric, title, axis).svg()
            (plots / f"{folder.name}-{metric}.svg").write_text(drawn, encoding="utf-8")
        parts += _serving_section(serving)
    parts += _scenario_section(folder)
    parts += _prefill_section(folder)
    parts += _roofline_section(folder)
    parts += _quality_section(folder)
    parts += _embeddings_section(folder)
    parts += _load_report_section(folder)
    (folder / "SUMMARY.md").write_text("\n".join(parts) + "\n", encoding="utf-8")
    print(f"written: {folder / 'SUMMARY.md'}")


def _load_serving(folder: Path) -> Serving:
    found: dict[str, dict[int, Record]] = {}
    for path in sorted(folder.glob("serving-*.json")):
        if match := _SERVING.fullmatch(path.name):
            found.setdefault(match[1], {})[int(match[2])] = Record.load(path)
    return Serving(found)


def _serving_section(serving: Serving) -> list[str]:
    levels = serving.concurrency
    first = serving.any
    machine, work = first.machine, first.workload.parameters
    top = levels[-1]
    bandwidth = f"{machine.read_bandwidth / 1e9:.1f} GB/s read" if machine.read_bandwidth else "bandwidth not measured"
    lines = [
        "## Beside its peers",
        "",
        f"{work['model']}, prompts of {work['prompt_tokens']} tokens, {work['output_tokens']} out, all at once; "
        f"{machine.usable_cpus} cores of {machine.cpu_model} ({', '.join(machine.cpu_flags)}), {bandwidth}.",
        "",
        "Output tokens/s over the whole burst: median (smallest to largest), and in brackets the share of what "
        "reading weights and KV from memory would allow.",
        "",
        _row("engine", *(f"{level} at once" for level in levels), "ready, s", "PSS, MB", f"TTFT p50 at {top}, s",
             f"inter-token p99 at {top}, ms"),
        _row(*["---"] * (len(levels) + 5)),
    ]  # fmt: skip
    for name, records in sorted(serving.records.items(), key=lambda item: -_throughput(item[1])):
        cells = [f"{name} {next(iter(records.values())).subject.version}"]
        cells += [_throughput_cell(records[level]) if level in records else "" for level in levels]
        last = records[max(records)]
        cells.append(f"{last.metric('ready').p50:.1f}")
        cells.append(f"{last.metric('pss').p50 / 1e6:.0f}")
        cells.append(f"{last.metric('ttft').p50:.3f}")
        cells.append(f"{last.metric('inter_token').p99 * 1000:.1f}")
        lines.append(_row(*cells))
    return [*lines, *_ratio_lines(serving), *_mixed(serving), *_warnings(serving), ""]


def _throughput(records: dict[int, Record]) -> float:
    return records[max(records)].metric("output_throughput").p50


def _throughput_cell(record: Record) -> str:
    metric = record.metric("output_throughput")
    share = _find(record, "share_of_bandwidth_limit")
    suffix = f" [{share.p50:.0%}]" if share else ""
    return f"{metric.p50:.1f} ({metric.min:.1f} to {metric.max:.1f}){suffix}"


def _ratio_lines(serving: Serving) -> list[str]:
    if "penstock" not in serving.records:
        return []
    levels = serving.concurrency
    others = [name for name in serving.records if name != "penstock"]
    if not others:
        return []
    lines = ["", "Penstock's throughput over each peer's, one ratio a round: median (smallest to largest).", ""]
    lines += [_row("against", *(f"{level} at once" for level in levels)), _row(*["---"] * (len(levels) + 1))]
    for name in others:
        ratios = [_find(serving.records["penstock"].get(level), f"ratio_to_{name}") for level in levels]
        lines.append(_row(name, *(f"{m.p50:.2f} ({m.min:.2f} to {m.max:.2f})" if m else "" for m in ratios)))
    return lines


def _mixed(serving: Serving) -> list[str]:
    """A word of warning if the folder holds records of different plans."""
    plans = {
        str(sorted({**record.workload.parameters, "seed": record.workload.seed, "concurrency": 0}.items()))
        for records in serving.records.values()
        for record in records.values()
    }
    return ["", "These records come from runs of different plans: don't compare them."] if len(plans) > 1 else []


def _warnings(serving: Serving) -> list[str]:
    """The points during which other processes or guests took part of the machine."""
    lines = []
    for name, records in serving.records.items():
        for level, record in sorted(records.items()):
            others, stolen = record.metric("other_cpu").max, record.metric("stolen_cpu").max
            if others + stolen > 0.1:
                lines.append(
                    f"- {name} at {level}: other processes took up to {others:.2f} cores, other guests {stolen:.2f}."
                )
    return ["", "The machine was not quiet:", "", *lines] if lines else []


def _scenario_section(folder: Path) -> list[str]:
    paths = sorted(folder.glob("scenario-*.json"))
    if not paths:
        return []
    lines = ["## Penstock alone", "", _row("scenario", "metric", "median", "smallest", "largest", "unit", "n")]
    lines.append(_row(*["---"] * 7))
    for path in paths:
        record = Record.load(path)
        for m in record.metrics:
            centre = m.mean if m.name.startswith("share_") else m.p50
            scenario = path.stem.removeprefix("scenario-")
            lines.append(_row(scenario, m.name, f"{centre:.4g}", f"{m.min:.4g}", f"{m.max:.4g}", m.unit, str(m.n)))
    return [*lines, "", "Of a share, the mean stands in place of the median.", ""]


def _prefill_section(folder: Path) -> list[str]:
    lines: list[str] = []
    for path in sorted(folder.glob("prefill-*-penstock.json")):
        ours = Record.load(path)
        ratios = [metric for metric in ours.metrics if metric.name.startswith("ratio_to_")]
        peer = ratios[0].name.split()[0].removeprefix("ratio_to_")
        theirs = Record.load(path.with_name(path.name.replace("penstock", peer)))
        for ratio in ratios:
            tokens = ratio.name.split()[1]
            speeds = [record.metric(f"throughput {tokens}").p50 for record in (ours, theirs)]
            lines.append(
                _row(
                    str(ours.subject.configuration["instructions"]),
                    peer,
                    tokens.removeprefix("tokens="),
                    *(f"{speed:.0f}" for speed in speeds),
                    f"{ratio.p50:.2f} ({ratio.min:.2f} to {ratio.max:.2f})",
                )
            )
    if not lines:
        return []
    return [
        "## Prompts by themselves",
        "",
        "One prompt at a time up to its first token, without HTTP, prompt by prompt in turn: tokens/s, medians.",
        "",
        _row("Penstock's path", "peer", "prompt tokens", "Penstock", "peer's", "ratio (smallest to largest)"),
        _row(*["---"] * 6),
        *lines,
        "",
    ]


def _roofline_section(folder: Path) -> list[str]:
    lines: list[str] = []
    points: list[tuple[float, str, Record, str]] = []  # share of the roofline, words, record, the point's name
    for path in sorted(folder.glob("roofline-*.json")):
        record = Record.load(path)
        threads = record.subject.configuration["threads"]
        streams, contexts = record.workload.parameters["streams"], record.workload.parameters["contexts"]
        peaks = [record.metric(name).p50 for name in ("read_bandwidth", "int8_peak", "float32_peak")]
        lines += [
            f"{threads} threads: {peaks[0] / 1e9:.1f} GB/s read, {peaks[1] / 1e12:.2f} TOP/s in int8, "
            f"{peaks[2] / 1e12:.2f} TFLOP/s in float32.",
            "",
            _row("streams", *(f"context {context}" for context in contexts)),
            _row(*["---"] * (len(contexts) + 1)),
        ]
        for number in streams:
            cells = []
            for context in contexts:
                point = f"streams={number} context={context}"
                step, reading, computing = (
                    record.metric(f"{what} {point}").p50 for what in ("step", "reading", "computing")
                )
                share = max(reading, computing) / step
                binds = "reading" if reading >= computing else "computing"
                points.append((share, f"{threads} threads, {number} streams, context {context}", record, point))
                cells.append(f"{step * 1e3:.2f} ms, {number / step:.0f}/s [{share:.0%} {binds}]")
            lines.append(_row(str(number), *cells))
        lines.append("")
    if not points:
        return []
    worst = ["Where the time goes at the three points furthest from their limit:", ""]
    for share, words, record, point in sorted(points, key=lambda item: item[0])[:3]:
        phases = {
            m.name.split()[1]: m.p50 for m in record.metrics if m.name.startswith("phase ") and m.name.endswith(point)
        }
        step = record.metric(f"step {point}").p50
        spent = [f"{name} {seconds / step:.0%}" for name, seconds in sorted(phases.items(), key=lambda item: -item[1])]
        worst.append(f"- {words} ({share:.0%}): {', '.join(spent)}")
    return [
        "## Steps beside their limits",
        "",
        "One decode step of the native runner, called directly: its time, tokens/s, and in brackets the share of its "
        "limit that it reaches and what the limit is of: reading weights and KV from memory, or computing.",
        "",
        *lines,
        *worst,
        "",
    ]


def _quality_section(folder: Path) -> list[str]:
    records = [Record.load(path) for path in sorted(folder.glob("quality-*.json"))]
    if not records:
        return []
    lines = [
        "## What rounding costs",
        "",
        "Perplexity, the divergence of the next token's distribution from the reference's (Kullback-Leibler), and how "
        "often the likeliest token is the same; means over windows, and in brackets their 95 % intervals.",
        "",
        _row("products", "keys and values", "reference", "perplexity", "beside the reference's", "allowed",
             "divergence, nats", "same likeliest token"),
        _row(*["---"] * 8),
    ]  # fmt: skip
    for record in records:
        work, nll, moved = record.workload.parameters, record.metric("nll"), record.metric("nll_difference")
        change = exp(moved.mean) - 1
        divergence, agreement = _find(record, "divergence"), _find(record, "agreement")
        lines.append(
            _row(
                work["products"],
                work["kv"],
                work["reference"],
                f"{exp(nll.mean):.3f}",
                f"{change:+.3%}{_interval(moved, lambda x: f'{exp(x) - 1:+.3%}')}",
                f"{work['allowed']:.2%}: {'met' if abs(change) <= work['allowed'] else 'missed'}",
                f"{divergence.mean:.2e}{_interval(divergence, '{:.2e}'.format)}" if divergence else "",
                f"{agreement.mean:.2%}{_interval(agreement, '{:.2%}'.format)}" if agreement else "",
            )
        )
    texts = {
        f"{work['windows']} windows of {work['tokens']} tokens of {work['text']}, {work['model']}"
        for work in (record.workload.parameters for record in records)
    }
    return [*lines, "", *(f"{text}." for text in sorted(texts)), ""]


def _embeddings_section(folder: Path) -> list[str]:
    records = [Record.load(path) for path in sorted(folder.glob("embeddings-*.json"))]
    if not records:
        return []
    lines = [
        "## Vectors beside sentence-transformers",
        "",
        "The same weights in float32 on the same cores, Penstock over HTTP; medians of calls, and of their ratios.",
        "",
        _row("texts a call", "Penstock", "sentence-transformers", "times as fast", "greatest difference"),
        _row(*["---"] * 5),
    ]
    for record in sorted(records, key=lambda record: int(record.workload.parameters["batch"])):
        faster = record.metric("speed_up")
        lines.append(
            _row(
                str(record.workload.parameters["batch"]),
                f"{record.metric('penstock').p50 * 1e3:.1f} ms",
                f"{record.metric('sentence_transformers').p50 * 1e3:.1f} ms",
                f"{faster.p50:.2f}",
                f"{record.metric('difference').max:.1e}",
            )
        )
    return [*lines, ""]


def _load_report_section(folder: Path) -> list[str]:
    path = folder / "load-report.json"
    if not path.exists():
        return []
    record = Record.load(path)
    work, seconds, memory = record.workload.parameters, record.metric("report"), record.metric("report_rss")
    return [
        "## Reporting on a load test",
        "",
        f"The figures and the page of {work['requests']:,} requests with {work['pieces']} pieces of text each, in a"
        f" process of its own: {seconds.p50:.1f} s and {memory.p50 / 1e6:.0f} MB, medians of {seconds.n}.",
        "",
    ]  # fmt: skip


def _interval(metric: Metric, text: Callable[[float], str]) -> str:
    return f" ({text(metric.ci.low)} to {text(metric.ci.high)})" if metric.ci else ""


def _find(record: Record | None, name: str) -> Metric | None:
    """The metric, if the record has it: ratios and limits are not in all of them."""
    return next((metric for metric in record.metrics if metric.name == name), None) if record else None


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _chart(serving: Serving, metric: str, title: str, axis: str) -> Chart:
    lines = []
    for name, records in serving.records.items():
        points = []
        for level, record in sorted(records.items()):
            m = record.metric(metric)
            if metric == "inter_token":
                points.append(Point(level, m.p99, m.p99, m.p99))
            elif metric == "ttft":
                points.append(Point(level, m.p50, m.p50, m.p50))
            else:
                points.append(Point(level, m.p50, m.min, m.max))
        lines.append(Line(name, tuple(points)))
    if metric == "output_throughput":
        lines += _limits(serving)
    return Chart(title, "requests at once", axis, tuple(lines))


def _limits(serving: Serving) -> list[Line]:
    """Bandwidth limits, peers with the same one together; a peer without batches has none that grows."""
    sharing: dict[tuple[tuple[int, float], ...], list[str]] = {}
    for name, records in serving.records.items():
        found = [(level, _find(record, "bandwidth_limit")) for level, record in sorted(records.items())]
        limits = tuple((level, metric.p50) for level, metric in found if metric)
        if len({limit for _, limit in limits}) > 1:
            sharing.setdefault(limits, []).append(name)
    return [
        Line(f"memory: {', '.join(names)}", tuple(Point(x, y, y, y) for x, y in limits), dashed=True)
        for limits, names in sharing.items()
    ]
