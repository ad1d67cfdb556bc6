"""How fast the load tests' workloads are made, on one core, up to the bytes that go to the server.

A generator that is slower than its load would be late by itself: 1,000 requests/s of 500 tokens must leave most of a
core to whoever sends them.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from itertools import islice
from typing import TYPE_CHECKING

from penstock.core.record import Metric, Record, Subject, Workload, git_state
from penstock.lab.bench.endpoint import Endpoint
from penstock.lab.bench.workloads import make
from penstock.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.scenarios.base import Setting
    from penstock.lab.bench.endpoint import Api
    from penstock.lab.bench.planned import Planned

NAME = "workloads"
REQUESTS = 4000
KINDS = {
    "synthetic": {"input_tokens": "500"},
    "synthetic_lognormal": {"input_tokens": "lognormal:median=330,sigma=0.91,max=8000"},  # 500 on average
    "prefixes": {"prefix_tokens": "400", "input_tokens": "100"},
    "conversations": {"input_tokens": "100", "turns": "5", "followup_tokens": "100", "systems": "0"},
}


def measure(setting: Setting) -> list[Record]:
    """Requests/s of CPU time for each kind, all of 500 tokens."""
    tokenizer = Tokenizer.load(setting.model.gguf)
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for repeat in range(setting.repeats):
        for kind, options in KINDS.items():
            requests = make(kind.partition("_")[0], options, setting.prompts.seed + repeat, tokenizer).requests()
            rates[kind].append(_rate(requests, "chat" if kind == "conversations" else "completions"))
    metrics = [Metric.from_samples(f"{kind}_rate", "1/s", samples) for kind, samples in rates.items()]
    for metric in metrics:
        print(f"  {metric.name}: median {metric.p50:,.0f}/s, {metric.min:,.0f} to {metric.max:,.0f}", flush=True)
    return [Record(
        subject=Subject("penstock", version("penstock"), {}), machine=setting.machine, git=git_state(),
        workload=Workload(NAME, setting.prompts.seed, {"requests": REQUESTS, "tokens": 500, "kinds": KINDS}),
        metrics=tuple(metrics), notes=("Requests made and encoded as HTTP in a second of CPU time, on one core.",),
    )]  # fmt: skip


def _rate(requests: Iterator[Planned], api: Api) -> float:
    endpoint = Endpoint(base="http://127.0.0.1:1", api=api, model="m", ip="127.0.0.1", port=1, tls_name=None)
    next(requests)  # what is made once, as prefixes are
    began = time.process_time()
    for number, planned in enumerate(islice(requests, REQUESTS)):
        endpoint.encode(planned, number)
    return REQUESTS / (time.process_time() - began)
