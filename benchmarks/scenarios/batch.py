"""What a batch of 1,000 requests does to the first tokens of live traffic, at default settings."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import numpy as np

from benchmarks.client import Exchange
from benchmarks.errors import BenchmarkError
from benchmarks.scenarios.base import make_record, penstock
from penstock.core.record import Metric, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.client import Post
    from benchmarks.peers.penstock import PenstockEngine
    from benchmarks.scenarios.base import Setting
    from benchmarks.workload import Prompt

NAME = "batch"
PATH = "/v1/completions"
_LINES = 1000
_LINE_TOKENS = 64
_LIVE = 40  # requests of a run
_LIVE_TOKENS = 32
_SECONDS_BETWEEN = 0.5  # arrivals; longer than a request takes, so that the batch gets its turns


def measure(setting: Setting) -> list[Record]:
    """Pairs of runs, with the batch behind them and without; every pair gives one ratio of TTFT p95s."""
    alone: list[float] = []
    beside: list[float] = []
    done: list[float] = []
    with penstock(setting) as engine:
        for number in range(-1, setting.repeats):  # the first pair warms up
            posts, again = (
                [engine.post(prompt, _LIVE_TOKENS) for prompt in setting.prompts.take(_LIVE, f"{kind} {number}")]
                for kind in ("alone", "beside")
            )
            quiet = _run(posts)
            batch = _begin(engine, setting.prompts.take(_LINES, f"lines {number}"))
            disturbed = _run(again)
            counts = _call(engine, f"/v1/batches/{batch}")["request_counts"]
            ended = _call(engine, f"/v1/batches/{batch}/cancel", b"")
            if ended["status"] == "completed" or not counts["completed"]:
                raise BenchmarkError(f"The batch did not run beside the live requests: {counts}.")
            if number >= 0:
                alone.append(quiet)
                beside.append(disturbed)
                done.append(float(counts["completed"]))
    metrics = [
        Metric.from_samples("ttft_p95_alone", "s", alone),
        Metric.from_samples("ttft_p95_beside_batch", "s", beside),
        Metric.from_samples("ttft_p95_ratio", "1", [b / a for a, b in zip(alone, beside, strict=True)]),
        Metric.from_samples("batch_lines_meanwhile", "1", done),
    ]
    parameters = {
        "lines": _LINES,
        "line_tokens": _LINE_TOKENS,
        "live_requests": _LIVE,
        "live_tokens": _LIVE_TOKENS,
        "seconds_between": _SECONDS_BETWEEN,
    }
    notes = ("One p95 a run. The batch is cancelled at the end of its run; 'meanwhile' counts the lines done by then.",)
    return [make_record(setting, engine, NAME, parameters, metrics, notes)]


def _run(posts: Sequence[Post]) -> float:
    """The p95 of the times to the first token of requests that arrive one after the other, at a fixed rate."""
    exchanges = [Exchange(post) for post in posts]

    async def go() -> None:
        for exchange in exchanges:
            await exchange.send()
            await asyncio.sleep(_SECONDS_BETWEEN)
        await asyncio.gather(*(exchange.finish() for exchange in exchanges))

    gc.disable()
    try:
        asyncio.run(go())
    finally:
        gc.enable()
    return float(np.percentile([exchange.answer().ttft for exchange in exchanges], 95))


def _begin(engine: PenstockEngine, prompts: Sequence[Prompt]) -> str:
    """Start a batch of these prompts; its id, once lines of it run."""
    body = {"max_tokens": _LINE_TOKENS, "temperature": 0, "ignore_eos": True}
    lines = "\n".join(
        json.dumps({"custom_id": str(at), "method": "POST", "url": PATH, "body": {"prompt": [*prompt.ids], **body}})
        for at, prompt in enumerate(prompts)
    )
    head = "\r\n--x\r\nContent-Disposition: form-data; name="
    form = f'{head}"purpose"\r\n\r\nbatch{head}"file"; filename="lines"\r\n\r\n{lines}\r\n--x--\r\n'
    file = _call(engine, "/v1/files", form.encode(), "multipart/form-data; boundary=x")
    asked = {"input_file_id": file["id"], "endpoint": PATH, "completion_window": "24h"}
    batch: str = _call(engine, "/v1/batches", json.dumps(asked).encode())["id"]
    while not _call(engine, f"/v1/batches/{batch}")["request_counts"]["completed"]:
        pass
    return batch


def _call(engine: PenstockEngine, path: str, body: bytes | None = None, kind: str = "application/json") -> Any:
    with urlopen(Request(f"http://127.0.0.1:{engine.port}{path}", body, {"content-type": kind})) as answer:
        return json.load(answer)
