"""The traces as workloads with options."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from penstock.lab.bench.workloads.kinds import FORM, Kind, Option, existing, real, switch, whole, word
from penstock.lab.bench.workloads.traces import azure, burstgpt, mooncake, servegen
from penstock.lab.bench.workloads.traces.replay import Replay
from penstock.lab.bench.workloads.traces.trace import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from penstock.lab.bench.workloads.kinds import Making
    from penstock.lab.bench.workloads.traces.trace import Trace

COMMON = (
    Option("path", existing, None, "The trace's file, plain or .gz."),
    Option("speed", real(1e-3, 1e6), 1.0, "How many times as fast as it was."),
    Option("from", real(0, 1e9), 0.0, "Seconds after its first request at which to begin."),
    Option("to", real(0, 1e9), None, "Seconds after its first request at which to end."),
    Option("timing", word("trace", "none"), "trace", "none: its lengths alone, arrivals as for any workload."),
    Option("max_input", whole(1), None, "Cut longer prompts to so many tokens."),
    Option("max_output", whole(1), None, "Cut longer answers to so many tokens."),
    Option("skip_bad_rows", switch, "no", "Pass over rows that can't be read, and count them."),
    FORM,
)


def kind(
    name: str,
    summary: str,
    read: Callable[[Source, Mapping[str, Any], Making], Trace],
    options: tuple[Option, ...] = (),
) -> Kind:
    """A kind whose file `read` reads."""

    def build(making: Making, given: Mapping[str, Any]) -> Replay:
        stop = math.inf if given["to"] is None else given["to"]
        trace = read(Source(given["path"], given["skip_bad_rows"], stop), given, making)
        return Replay(
            name=name, seed=making.seed, words=making.words, form=given["prompt"], file=given["path"].name, trace=trace,
            speed=given["speed"], start=given["from"], stop=stop, max_input=given["max_input"],
            max_output=given["max_output"], timed=given["timing"] == "trace",
        )  # fmt: skip

    return Kind(name, summary, (*COMMON, *options), build, takes_path=True)


AZURE = kind("azure", "Azure LLM inference traces of 2023 and 2024.", lambda source, *_: azure.read(source))
MOONCAKE = kind(
    "mooncake",
    "Mooncake's traces, whose prompts share their prefixes as the real ones did.",
    lambda source, given, _: mooncake.read(source, given["block_tokens"]),
    (Option("block_tokens", whole(1, 1 << 20), 512, "Tokens for which each hash id stands."),),
)
BURSTGPT = kind(
    "burstgpt",
    "BurstGPT's traces.",
    lambda source, given, _: burstgpt.read(source, given["model"], given["log_type"]),
    (
        Option("model", lambda value, _: str(value), None, "Of this model alone: GPT-4 or ChatGPT."),
        Option("log_type", lambda value, _: str(value), None, "Of this type alone: API log or Conversation log."),
    ),
)
SERVEGEN = kind(
    "servegen",
    "ServeGen: its published clients (a directory; ten minutes unless told otherwise), or a CSV that it wrote.",
    lambda source, given, making: servegen.read(source, given["from"], given["rate"], making.seed),
    (Option("rate", real(1e-6, 1e6), None, "Of a directory: requests/s on average, instead of the published rate."),),
)
