"""What a long prompt does to the streams that are running when it arrives, at default settings."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.client import Answer, Exchange
from benchmarks.errors import BenchmarkError
from benchmarks.scenarios.base import make_record, penstock
from penstock.core.record import Metric, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.client import Post
    from benchmarks.scenarios.base import Setting

NAME = "long-prompt"
_STREAMS = 8
_STREAM_TOKENS = 384
_LONG_TOKENS = 4096
_SETTLED = 48  # reads of each stream before the long prompt is sent


def measure(setting: Setting) -> list[Record]:
    """Pairs of runs, with the long prompt and without; every pair gives one ratio of inter-token p99s."""
    quiet: list[float] = []
    disturbed: list[float] = []
    whole: list[float] = []
    long_ttft: list[float] = []
    with penstock(setting) as engine:
        for number in range(-1, setting.repeats):  # the first pair warms up
            streams = setting.prompts.take(_STREAMS, f"streams {number}")
            posts = [engine.post(prompt, _STREAM_TOKENS) for prompt in streams]
            again = [engine.post(p, _STREAM_TOKENS) for p in setting.prompts.take(_STREAMS, f"others {number}")]
            long = engine.post(setting.prompts.take(1, f"long {number}", tokens=_LONG_TOKENS)[0], 4)
            without, since, _ = _run(posts, None)
            with_long, _, answer = _run(again, long)
            if number < 0 or answer is None:
                continue
            until = answer.arrivals[0]
            quiet.append(_p99(_gaps(without, since, float("inf"))))
            disturbed.append(_p99(_gaps(with_long, answer.sent, until)))
            whole.append(_p99(_gaps(with_long, answer.sent, float("inf"))))
            long_ttft.append(answer.ttft)
    ratios = [with_it / alone for with_it, alone in zip(disturbed, quiet, strict=True)]
    metrics = [
        Metric.from_samples("inter_token_p99_alone", "s", quiet),
        Metric.from_samples("inter_token_p99_during_long_prompt", "s", disturbed),
        Metric.from_samples("inter_token_p99_from_long_prompt_on", "s", whole),
        Metric.from_samples("p99_ratio_during_long_prompt", "1", ratios),
        Metric.from_samples("p99_ratio_from_long_prompt_on", "1", [a / b for a, b in zip(whole, quiet, strict=True)]),
        Metric.from_samples("long_prompt_ttft", "s", long_ttft),
    ]
    parameters = {"streams": _STREAMS, "stream_tokens": _STREAM_TOKENS, "long_prompt_tokens": _LONG_TOKENS}
    notes = (
        "One p99 a run. 'during' takes the gaps that ended between the long prompt's sending and its first token, "
        "'from ... on' all gaps from its sending to the end of the streams.",
    )
    return [make_record(setting, engine, NAME, parameters, metrics, notes)]


def _run(posts: Sequence[Post], long: Post | None) -> tuple[list[Answer], float, Answer | None]:
    """Start the streams, send `long` once they have settled; (their answers, when settled, the long one's answer)."""
    exchanges = [Exchange(post) for post in posts]
    extra = [Exchange(long)] if long else []

    async def go() -> float:
        await asyncio.gather(*(exchange.send(milestone=_SETTLED) for exchange in exchanges))
        await asyncio.gather(*(exchange.reached() for exchange in exchanges))
        settled = asyncio.get_running_loop().time()
        for exchange in extra:
            await exchange.send()
        await asyncio.gather(*(exchange.finish() for exchange in [*exchanges, *extra]))
        return settled

    gc.disable()
    try:
        settled = asyncio.run(go())
    finally:
        gc.enable()
    answers = [exchange.answer() for exchange in exchanges]
    return answers, settled, extra[0].answer() if extra else None


def _gaps(answers: Sequence[Answer], since: float, until: float) -> list[float]:
    """Times between pieces of text, of those that came between `since` and `until`."""
    return [
        gap
        for answer in answers
        for gap, came in zip(answer.gaps, answer.arrivals[1:], strict=True)
        if since <= came <= until
    ]


def _p99(gaps: Sequence[float]) -> float:
    if not gaps:
        raise BenchmarkError("No token of the running streams fell into the time of the long prompt.")
    return float(np.percentile(gaps, 99))
