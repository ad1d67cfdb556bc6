"""Runs in a llama.cpp environment: how long prompts take by themselves. See benchmarks/prefill.py."""

from __future__ import annotations

import json
import os
import sys
import time

import llama_cpp


def main() -> None:
    gguf, context = sys.argv[1], int(sys.argv[2])
    threads = len(os.sched_getaffinity(0))
    llama = llama_cpp.Llama(
        gguf, n_ctx=context, n_batch=512, n_ubatch=512, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    features = llama_cpp.llama_print_system_info().decode()
    say({"version": llama_cpp.__version__, "configuration": {"n_batch": 512, "threads": threads, "system": features}})
    for line in sys.stdin:
        seconds = []
        for prompt in json.loads(line)["prompts"]:
            llama.reset()
            began = time.perf_counter()
            llama.eval(prompt)
            llama.sample(temp=0.0)  # waits for the scores
            seconds.append(time.perf_counter() - began)
        say({"seconds": seconds})


def say(message: dict[str, object]) -> None:
    print(json.dumps(message), flush=True)


main()
