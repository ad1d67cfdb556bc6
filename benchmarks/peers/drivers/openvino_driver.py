"""Runs in the OpenVINO GenAI environment: all requests in one continuous batch. See PipeEngine."""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import openvino
import openvino_genai


def main() -> None:
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.enable_prefix_caching = False
    pipeline = openvino_genai.ContinuousBatchingPipeline(sys.argv[1], scheduler, "CPU")
    configuration = {"weights": "GGUF, as the pipeline's reader converts it", "scheduler": scheduler.to_string()}
    say({"version": openvino_genai.__version__, "configuration": configuration})
    for number, line in enumerate(sys.stdin):
        order = json.loads(line)
        say(generate(pipeline, order["prompts"], order["max_tokens"], first_id=number * 1000))


def generate(
    pipeline: openvino_genai.ContinuousBatchingPipeline, prompts: list[list[int]], tokens: int, *, first_id: int
) -> dict[str, object]:
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = tokens
    config.ignore_eos = True
    config.do_sample = False
    sent = time.monotonic()
    handles = [
        pipeline.add_request(first_id + index, openvino.Tensor(np.array([ids], dtype=np.int64)), config)
        for index, ids in enumerate(prompts)
    ]
    arrivals: list[list[float]] = [[] for _ in prompts]
    counts = [0 for _ in prompts]
    while pipeline.has_non_finished_requests():
        pipeline.step()
        now = time.monotonic()
        for index, handle in enumerate(handles):
            while handle.can_read():
                for output in handle.read().values():
                    counts[index] += len(output.generated_ids)
                    arrivals[index].append(now)
    return {"sent": sent, "arrivals": arrivals, "tokens": counts}


def say(message: dict[str, object]) -> None:
    print(json.dumps(message), flush=True)


main()
