"""Whether a measurement can be true: figures held against each other and against what the hardware can do.

Each law is a relation that holds whatever was measured, with the room that its tolerance names for windows that differ
and for rounding. What breaks one is wrong by itself or by its unit; what breaks none may still be wrong.

| law | what must hold |
|---|---|
| `sign` | every figure is a finite number, none negative, none zero that takes time |
| `order` | percentiles rise; the mean lies between the extremes, and over what its upper percentiles alone add to it |
| `parts` | E2E = TTFT + the time between the other tokens, and at no percentile below either |
| `counts` | output tokens/s = requests/s x tokens an answer; no part above its whole |
| `concurrency` | requests/s x E2E = requests on their way (Little, A Proof for the Queuing Formula L = λW, 1961) |
| `memory` | a decoding step reads the weights once (Pope et al., Efficiently Scaling Transformer Inference, 2022) |
| `arithmetic` | a token takes two operations for each parameter (the same) |
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from penstock.lab.imports.figures import LADDER, LATENCIES, LENGTHS, RATES, Figures
from penstock.lab.imports.hardware import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDING = 2e-3  # of figures that were printed with three digits or more
WINDOW = 0.05  # of rates: the window of the rates needn't be that of the latencies
_UNKNOWN_WINDOW = 0.10  # where not even the number of requests is told
_LOOSE = 3.0  # between means of requests and means of tokens, lengths unknown
_TAIL = 1.5  # of an E2E that ends with the stream
_PEAK = 0.02  # boost clocks and bandwidths are published rounded
_CACHED_BYTES = 512e6  # weights up to here may stay in the caches of a chip
_UNIT_LIKELY = 30.0  # nothing else is off by so much
_SHARE = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
_SECONDS = ("ttft", "e2e", "e2e_per_token")  # that no answer has without time passing


@dataclass(frozen=True, slots=True)
class Breach:
    """A law that a measurement breaks."""

    law: str
    figures: tuple[str, ...]  # "ttft.p99": those that can't be true together
    what: str  # a sentence
    factor: float  # what was said over what can be, or the other way round: over 1; inf: no factor would do
    hint: str = ""  # a sentence, or nothing

    def __str__(self) -> str:
        return f"{self.what} {self.hint}".rstrip()


def breaches(figures: Figures, limits: Limits | None = None) -> list[Breach]:
    """All laws that these figures break, the plainest first; none if they can be true.

    The laws that relate figures are asked only of figures that are possible each by itself.
    """
    limits = limits or Limits()
    alone = list(_sign(figures))
    nothing = {name.partition(".")[0] for each in alone for name in each.figures}
    alone += [each for each in _order(figures) if each.figures[0].partition(".")[0] not in nothing]
    if alone:
        return [_hinted(each, figures, limits, _order) for each in alone]
    found = []
    for law in (_parts, _counts, _concurrency, _memory, _arithmetic):
        found += [_hinted(each, figures, limits, law) for each in law(figures, limits)]
    return found


def _hinted(
    breach: Breach, figures: Figures, limits: Limits, law: Callable[[Figures, Limits], Iterator[Breach]]
) -> Breach:
    """With the figure named that would be right in another unit, if one is."""
    both_ways = breach.law in ("parts", "counts")  # where a thousandfold would do only if it is about right
    if breach.law == "sign" or (breach.factor < _UNIT_LIKELY and not both_ways):
        return breach
    for name in breach.figures:
        quantity, _, statistic = name.partition(".")
        if quantity not in figures.spreads:
            continue
        for factor, unit in ((1e-3, "milliseconds"), (1e3, "seconds")):
            other = figures.scaled(quantity, factor, statistic if breach.law == "order" else None)
            if not any(set(each.figures) & set(breach.figures) for each in law(other, limits)):
                size = "A thousandth of" if factor < 1 else "A thousand times"
                as_unit = f": is it in {unit}?" if quantity in LATENCIES else "."
                return replace(breach, hint=f"{size} {name} would do{as_unit}")
    return breach


def _sign(figures: Figures) -> Iterator[Breach]:
    for name, spread in figures.spreads.items():
        if spread.n is not None and spread.n < 1:
            yield Breach("sign", (f"{name}.n",), f"{name} is said to be of {spread.n} samples.", math.inf)
        for statistic, value in spread.statistics.items():
            where = (f"{name}.{statistic}",)
            if not math.isfinite(value):
                yield Breach("sign", where, f"{where[0]} is {value}, which is no number.", math.inf)
            elif value < 0:
                yield Breach("sign", where, f"{where[0]} is {value:g}: below zero.", math.inf)
            elif value == 0 and (
                (name in _SECONDS and statistic != "std") or (name in RATES and name != "goodput" and _some(figures))
            ):
                yield Breach("sign", where, f"{where[0]} is zero, and answers take time.", math.inf)


def _some(figures: Figures) -> bool:
    return any(figures.n(name) or figures.mean(name) for name in ("e2e", "ttft", "requests"))


def _order(figures: Figures, _: Limits | None = None) -> Iterator[Breach]:
    for name, spread in figures.spreads.items():
        known = [(key, spread.statistics[key]) for key in LADDER if key in spread.statistics]
        for (lower, a), (upper, b) in itertools.pairwise(known):
            if a > b * (1 + ROUNDING) + 2 * spread.half:
                what = f"{name}.{lower} ({_shown(name, a)}) is above {name}.{upper} ({_shown(name, b)})."
                yield Breach("order", (f"{name}.{lower}", f"{name}.{upper}"), what, _ratio(a, b))
        mean = spread.get("mean")
        if mean is None:
            continue
        for key, value in known:
            if key == "max" and mean > value * (1 + ROUNDING) + 2 * spread.half:
                what = f"{name}.mean ({_shown(name, mean)}) is above {name}.max ({_shown(name, value)})."
                yield Breach("order", (f"{name}.mean", f"{name}.max"), what, _ratio(mean, value))
            # Values from a percentile up, and zeros below it, have the smallest mean that goes with it.
            share = 1.0 if key == "min" else 1 - _SHARE.get(key, 1.0)
            least = share * value
            if key != "max" and mean < least * (1 - ROUNDING) - 2 * spread.half:
                reach = "" if key == "min" else f", and {share:.0%} of all reach that"
                what = f"{name}.mean ({_shown(name, mean)}) is too low for {name}.{key} ({_shown(name, value)}){reach}."
                yield Breach("order", (f"{name}.mean", f"{name}.{key}"), what, _ratio(least, mean))


def _parts(figures: Figures, _: Limits | None = None) -> Iterator[Breach]:
    for statistic in ("mean", *LADDER):
        ttft, e2e = figures.get("ttft", statistic), figures.get("e2e", statistic)
        if ttft is not None and e2e is not None and ttft > e2e * (1 + ROUNDING):
            what = f"ttft.{statistic} ({_time(ttft)}) is above e2e.{statistic} ({_time(e2e)}), of which it is a part."
            yield Breach("parts", (f"ttft.{statistic}", f"e2e.{statistic}"), what, _ratio(ttft, e2e))
    ttft, e2e = figures.mean("ttft"), figures.mean("e2e")
    if ttft is None or e2e is None or ttft > e2e * (1 + ROUNDING):
        return
    for least, most, name, how in _decoding(figures):
        low, high = ttft + least, ttft + most
        told = f"ttft.mean ({_time(ttft)}) and {how} make {_span(low, high)}, and e2e.mean is {_time(e2e)}."
        names = ("e2e.mean", f"{name}.mean", "ttft.mean")
        slack = WINDOW + figures.slack("e2e", "ttft", name, "output_tokens")
        if e2e < low * (1 - slack):
            yield Breach("parts", names, told, _ratio(low, e2e))
        elif e2e > high * (1 + slack) * (_TAIL if figures.tail else 1.0):
            yield Breach("parts", names, told, _ratio(e2e, high))


def _decoding(figures: Figures) -> Iterator[tuple[float, float, str, str]]:
    """Bounds of the mean time from an answer's first token to its last, by each figure that tells of it."""
    tokens = figures.mean("output_tokens")
    answers = figures.answers
    for name in ("itl", "chunk_gap"):
        mean, gaps = figures.mean(name), figures.n(name)
        if mean is None:
            continue
        chunk = figures.mean("tokens_per_chunk")
        single = chunk is None or chunk <= 1 + ROUNDING
        # The samples of chunk_gap are gaps; those of itl are tokens, or stand for as many as a chunk has.
        counted = gaps is not None and gaps > 1 and (name == "chunk_gap" or single)
        if counted and gaps and answers and figures.n("e2e") == answers:
            yield mean * gaps / answers, mean * gaps / answers, name, f"{gaps / answers:.4g} times {name}.mean"
        elif tokens is not None and tokens > 1:
            # The first chunk's tokens have no gap before them: with several in it there are fewer gaps than tokens.
            whole = mean * (tokens - 1)
            least = whole if name == "itl" and single else 0.0
            most = whole if name == "itl" else mean * (tokens + 1)  # a role and a finish reason may be chunks, too
            yield least, most, name, f"{tokens - 1:.4g} times {name}.mean"
    mean = figures.mean("tpot")
    if mean is None or tokens is None or tokens <= 1:
        return
    low, high, how = figures.get("tpot", "min"), figures.get("tpot", "max"), f"{tokens - 1:.4g} times tpot.mean"
    if figures.spreads["output_tokens"].fixed is not None:
        yield mean * (tokens - 1), mean * (tokens - 1), "tpot", how
    elif low is not None and high is not None:
        yield low * (tokens - 1), high * (tokens - 1), "tpot", f"{tokens - 1:.4g} times tpot from min to max"
    else:
        yield mean * (tokens - 1) / _LOOSE, mean * (tokens - 1) * _LOOSE, "tpot", f"{how} (lengths unknown)"


def _counts(figures: Figures, _: Limits | None = None) -> Iterator[Breach]:
    room = 1 + _room(figures)
    requests, output = figures.mean("request_throughput"), figures.mean("output_throughput")
    total, prompts = figures.mean("total_throughput"), figures.mean("prompt_throughput")
    for part, whole in (
        ("output_throughput", "total_throughput"), ("prompt_throughput", "total_throughput"),
        ("goodput", "request_throughput"),
    ):  # fmt: skip
        a, b = figures.mean(part), figures.mean(whole)
        if a is not None and b is not None and a > b * (1 + ROUNDING):
            what = f"{part} ({a:g}) is above {whole} ({b:g}), of which it is a part."
            yield Breach("counts", (part, whole), what, _ratio(a, b))
    if prompts is None and total is not None and output is not None and total > output:
        prompts = total - output
    lengths = {name: figures.mean(name) for name in LENGTHS}
    for rate, tokens, name in (
        (output, "output_tokens", "output_throughput"),
        (prompts, "prompt_tokens", "prompt_throughput" if "prompt_throughput" in figures.spreads
         else "total_throughput"),
    ):  # fmt: skip
        length = lengths[tokens]
        if rate is None or requests is None or length is None or not length:
            continue
        expected = requests * length
        within = room + figures.slack(name, "request_throughput", tokens)
        if not expected / within <= rate <= expected * within:
            shown = f"{name} ({rate:g} tokens/s)" if name != "total_throughput" else (
                f"total_throughput less output_throughput ({rate:g} tokens/s)"
            )  # fmt: skip
            what = f"{shown} isn't request_throughput ({requests:g}/s) times {tokens} ({length:g}): {expected:g}."
            yield Breach("counts", (name, "request_throughput", tokens), what, _ratio(rate, expected))
    count, seconds = figures.mean("requests"), figures.mean("duration")
    if count is not None and seconds and requests is not None:
        expected = count / seconds
        within = room + figures.slack("request_throughput", "requests", "duration")
        if not expected / within <= requests <= expected * within:
            what = f"request_throughput ({requests:g}/s) isn't {count:g} requests in {_time(seconds)}: {expected:g}/s."
            yield Breach("counts", ("request_throughput", "requests", "duration"), what, _ratio(requests, expected))


def _concurrency(figures: Figures, _: Limits | None = None) -> Iterator[Breach]:
    room = 1 + _room(figures) + figures.slack("request_throughput", "output_throughput", "output_tokens", "e2e",
                                              "itl", "tpot", "streams")  # fmt: skip
    rate, tokens = figures.mean("request_throughput"), figures.mean("output_tokens")
    output = figures.mean("output_throughput")
    of_rate = "request_throughput"
    if rate is None and output is not None and tokens:
        rate, of_rate = output / tokens, "output_throughput"
    cap, streams, e2e = figures.at_most, figures.mean("streams"), figures.mean("e2e")
    if rate is not None and e2e is not None:
        busy = rate * e2e
        told = f"{rate:.4g} requests/s of {_time(e2e)} each keep {busy:.4g} on their way"
        if cap is not None and busy > cap * room:
            yield Breach("concurrency", (of_rate, "e2e.mean"), f"{told}, and {cap:g} were allowed.", _ratio(busy, cap))
        if streams and not streams / room / (1 + WINDOW) <= busy <= streams * room * (1 + WINDOW):
            what = f"{told}, and {streams:.4g} were counted."
            yield Breach("concurrency", (of_rate, "e2e.mean", "streams"), what, _ratio(busy, streams))
    bound = cap if cap is not None else streams
    if bound is None or (rate is not None and e2e is not None):
        return
    if rate is not None:
        ttft = figures.mean("ttft") or 0.0
        for least, _most, name, how in _decoding(figures):
            busy = rate * (ttft + least)
            if busy > bound * room:
                what = (
                    f"{rate:.4g} requests/s of {_time(ttft + least)} each (TTFT and {how}) keep {busy:.4g} on their"
                    f" way, and {bound:g} were allowed."
                )
                yield Breach("concurrency", (of_rate, f"{name}.mean", "ttft.mean"), what, _ratio(busy, bound))
    elif output is not None:
        for name in ("itl", "tpot"):
            gap = figures.mean(name)
            # Without the lengths it isn't known how many tokens came first in their answers: half of them at most,
            # unless answers have a single token.
            if gap is not None and output * gap > 2 * bound * room:
                what = f"{output:.4g} tokens/s, {_time(gap)} apart in each stream, take {output * gap:.4g} streams"
                what += f" or half as many, and {bound:g} were allowed."
                yield Breach("concurrency", ("output_throughput", f"{name}.mean"), what, _ratio(output * gap, bound))


def _memory(figures: Figures, limits: Limits) -> Iterator[Breach]:
    if not limits.bandwidth or limits.weights_bytes <= _CACHED_BYTES:
        return
    step = limits.weights_bytes / limits.bandwidth
    source = f" ({limits.source})" if limits.source else ""
    told = f"reading {limits.weights_bytes / 1e9:.4g} GB at {limits.bandwidth / 1e9:.4g} GB/s{source} takes"
    several = max(limits.tokens_per_step, figures.tokens_per_step)
    for name, statistics, per in (("ttft", ("mean", "p50"), 1.0), ("tpot", ("mean", "p50"), several),
                                  ("itl", ("mean",), several)):  # fmt: skip
        for statistic in statistics:
            value = figures.get(name, statistic)
            if value is not None and value < step / per * (1 - _PEAK) - figures.spreads[name].half:
                each = f", of {per:g} tokens" if per > 1 else ""
                what = f"{name}.{statistic} is {_time(value)}, and {told} {_time(step)} a step{each}."
                yield Breach("memory", (f"{name}.{statistic}",), what, _ratio(step / per, value))


def _arithmetic(figures: Figures, limits: Limits) -> Iterator[Breach]:
    if not limits.operations or not limits.params:
        return
    fastest = limits.operations / (2 * limits.params) * (1 + _PEAK)  # tokens/s
    source = f" ({limits.source})" if limits.source else ""
    told = (
        f"{limits.operations / 1e12:.4g} T operations/s{source} are enough for {fastest:.4g} tokens/s of"
        f" {limits.params / 1e9:.4g} billion parameters"
    )
    output, total = figures.mean("output_throughput"), figures.mean("total_throughput")
    if output is not None and output > fastest:
        yield Breach("arithmetic", ("output_throughput",), f"output_throughput is {output:.4g} tokens/s, and {told}.",
                     _ratio(output, fastest))  # fmt: skip
    elif output is not None and total is not None:
        computed = output + max(0.0, total - output) * (1 - limits.cached)
        if computed > fastest:
            what = f"total_throughput is {total:.4g} tokens/s, {computed:.4g} of them computed, and {told}."
            yield Breach("arithmetic", ("total_throughput",), what, _ratio(computed, fastest))
    prompt, ttft = figures.mean("prompt_tokens"), figures.mean("ttft")
    if prompt is not None and ttft:
        speed = prompt * (1 - limits.cached) / ttft
        if speed > fastest:
            what = f"{prompt:.4g} tokens of a prompt in a TTFT of {_time(ttft)} are {speed:.4g} tokens/s, and {told}."
            yield Breach("arithmetic", ("ttft.mean", "prompt_tokens.mean"), what, _ratio(speed, fastest))


def _room(figures: Figures) -> float:
    """Share by which rates of one window and latencies of another may differ: requests astride an end of it."""
    answers = figures.answers
    if figures.job:
        return WINDOW
    if not answers:
        return _UNKNOWN_WINDOW
    rate, e2e = figures.mean("request_throughput"), figures.mean("e2e")
    repeats = figures.n("request_throughput") or 1
    busy = figures.mean("streams") or (rate * e2e if rate is not None and e2e is not None else figures.at_most) or 0.0
    if figures.at_most is not None:
        busy = min(busy, figures.at_most)
    return WINDOW + min(1.0, busy * repeats / answers)


def _ratio(a: float, b: float) -> float:
    low, high = sorted((abs(a), abs(b)))
    return high / low if low else math.inf


def _time(seconds: float) -> str:
    return f"{seconds:.4g} s" if seconds >= 1 else f"{seconds * 1e3:.4g} ms"


def _shown(name: str, value: float) -> str:
    return _time(value) if name in LATENCIES else f"{value:g}"


def _span(low: float, high: float) -> str:
    return _time(low) if low == high else f"{_time(low)} to {_time(high)}"
