"""Runs in the transformers environment: greedy `generate`, one request after another. See PipeEngine."""

from __future__ import annotations

import json
import os
import sys
import time

import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.generation.streamers import BaseStreamer


class Clock(BaseStreamer):
    """Notes when each token comes; the first call carries the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:  # noqa: ARG002 (the library's signature)
        self.times.append(time.monotonic())

    def end(self) -> None:
        """Nothing is held back."""


def main() -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1])  # in the dtype of its files, as is the default
    configuration = {"weights": str(model.dtype).removeprefix("torch."), "threads": torch.get_num_threads()}
    configuration |= {"torch": torch.__version__, "attention": model.config._attn_implementation}
    say({"version": transformers.__version__, "configuration": configuration})
    for line in sys.stdin:
        order = json.loads(line)
        sent = time.monotonic()
        arrivals = [generate(model, ids, order["max_tokens"]) for ids in order["prompts"]]
        say({"sent": sent, "arrivals": arrivals, "tokens": [len(times) for times in arrivals]})


@torch.inference_mode()
def generate(model: torch.nn.Module, ids: list[int], tokens: int) -> list[float]:
    clock = Clock()
    prompt = torch.tensor([ids])
    model.generate(  # type: ignore[operator]
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        streamer=clock,
    )
    return clock.times[1:]


def say(message: dict[str, object]) -> None:
    print(json.dumps(message), flush=True)


main()
