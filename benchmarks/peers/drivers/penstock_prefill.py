"""Runs in Penstock's environment: how long prompts take by themselves. See benchmarks/prefill.py."""

from __future__ import annotations

import json
import os
import sys
import time

from penstock import __version__
from penstock.engine.runners.base import RunnerConfig
from penstock.engine.runners.native import NativeRunner
from penstock.engine.types import SampleSpec, SamplingParams, SequenceStep, StepBatch

_BLOCK = 16
_CHUNK = 512  # tokens of a step, as many as the peer takes
_GREEDY = SampleSpec(SamplingParams(temperature=0.0, ignore_eos=True), 0, (), (), ())


def main() -> None:
    gguf, context = sys.argv[1], int(sys.argv[2])
    threads = len(os.sched_getaffinity(0))
    runner = NativeRunner(RunnerConfig(model_path=gguf, max_model_len=context, threads=threads, runner_cache=True))
    runner.load()
    blocks = -(-context // _BLOCK)
    runner.allocate(blocks)
    say({"version": __version__, "configuration": {"chunk": _CHUNK, **runner.describe()}})
    for line in sys.stdin:
        seconds = []
        for prompt in json.loads(line)["prompts"]:
            began = time.perf_counter()
            for start in range(0, len(prompt), _CHUNK):
                part = prompt[start : start + _CHUNK]
                sample = _GREEDY if start + len(part) == len(prompt) else None
                step = SequenceStep("prompt", part, start, range(blocks), sample)
                (output,) = runner.execute(StepBatch([step])).sequences
                if output.error:
                    raise SystemExit(output.error)
            seconds.append(time.perf_counter() - began)
        say({"seconds": seconds})


def say(message: dict[str, object]) -> None:
    print(json.dumps(message), flush=True)


main()
