"""Drafts beside everything else a request may ask at once, with and without enough memory."""

from __future__ import annotations

import queue
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from penstock.engine.config import EngineConfig
from penstock.engine.core import EngineCore
from penstock.engine.types import Request, RequestOutput, SamplingParams, ThinkingLimit
from penstock.models.tokenizer import Tokenizer
from support.merging import merge
from support.tiny_chat import write_tiny_chat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.engine.types import Speculation

PATIENCE = 30.0
FEW_BLOCKS = 70
GRAMMARS = ("/(ab|ba|c)*/", "/[a-d]{5,30}/", "/(abc){2,20}/", '%json {"type": "array"}', "/(?s:.*)/")


class Engine:
    """A core, driven until nothing is left to do."""

    def __init__(self, model: Path, **options: Any) -> None:
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        settings = {"dtype": "float32", "threads": 1, "kv_memory": 16 << 20, "block_size": 4, "runner_cache": False}
        config = EngineConfig(model_path=str(model), runner="native", **{**settings, **options})
        self.core = EngineCore(config, wake=lambda: self._wakes.put(None))

    def answers(self, asked: list[tuple[list[int], dict[str, Any]]], speculation: Speculation) -> list[tuple[Any, ...]]:
        """What comes of prompts and parameters, asked together."""
        requests = [
            Request(
                request_id=str(at),
                prompt_token_ids=prompt,
                params=SamplingParams(**params, speculation=speculation),
                arrival_time=float(at),
            )
            for at, (prompt, params) in enumerate(asked)
        ]
        whole = self._run(requests)
        return [comparable(whole[request.request_id]) for request in requests]

    def _run(self, requests: list[Request]) -> dict[str, RequestOutput]:
        whole: dict[str, RequestOutput] = {}
        for request in requests:
            assert self.core.add(request) is None
        while self.core.has_work or len(whole) < len(requests):
            if not self.core.has_work:
                self._wakes.get(timeout=PATIENCE)
            for delta in [*self.core.poll(), *(self.core.step() if self.core.has_work else ())]:
                whole[delta.request_id] = merge(whole.get(delta.request_id), delta)
        self.core.idle()
        return whole


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("combined"), max_position_embeddings=256)


@pytest.fixture(scope="module")
def engines(model: Path) -> Iterator[tuple[Engine, Engine]]:
    """With all the memory that is useful, and with too little."""
    roomy = Engine(model)
    info = roomy.core.info
    tight = Engine(model, kv_memory=info.kv_bytes // info.kv_blocks * FEW_BLOCKS)
    yield roomy, tight
    for engine in (roomy, tight):
        engine.core.shutdown()


def params_at_random(rng: Random, end: tuple[int, ...]) -> dict[str, Any]:
    params: dict[str, Any] = {
        "temperature": rng.choice([0, 0.7, 1.0]),
        "seed": rng.randrange(99),
        "max_tokens": rng.choice([0, 1, 40, 60, None]),
        "ignore_eos": rng.random() < 0.3,
        "include_stop_str_in_output": rng.random() < 0.5,
        "repetition_penalty": rng.choice([1.0, 1.0, 1.2]),
        "logprobs": rng.choice([None, None, 2]),
        "prompt_logprobs": rng.choice([None, None, 1]),
        "logit_bias": rng.choice([{}, dict.fromkeys(range(68, 72), 30.0)]),
        "stop": tuple(rng.sample(["a", "cab", "ca", "dd", "x"], rng.choice([0, 0, 2]))),
        "stop_token_ids": tuple(rng.sample(range(60, 75), rng.choice([0, 0, 2]))),
    }
    if params["max_tokens"]:
        params["min_tokens"] = rng.choice([0, 0, params["max_tokens"] // 2])
    grammar = rng.choice([None, *GRAMMARS])
    before = ""
    if rng.random() < 0.3:
        tokens, begun = rng.randrange(12), rng.random() < 0.6
        params["thinking"] = ThinkingLimit(
            tokens=tokens, begin="<think>", end="</think>", end_token_ids=end, begun=begun
        )
        before = "thoughts" if begun else '"<think>" thoughts'
    if grammar is not None:
        params["grammar"] = f'start: {before} answer\nthoughts[lazy]: /(?s:.*)/ "</think>"\nanswer: {grammar}'
    return params


def comparable(output: RequestOutput) -> tuple[Any, ...]:
    counts = [None if found is None else len(found) for found in (output.logprobs, output.prompt_logprobs)]
    return output.text, output.token_ids, output.finish_reason, output.stop_reason, output.error, counts


def test_what_a_request_says_depends_on_neither_drafts_nor_memory(engines: tuple[Engine, Engine], model: Path) -> None:
    rng = Random(0)
    end = tuple(Tokenizer.load(model).encode("</think>", add_special_tokens=False))
    roomy, tight = engines
    for _ in range(5):
        asked = [(rng.choices([5, 6, 7, 70, 71], k=rng.randint(1, 60)), params_at_random(rng, end)) for _ in range(10)]
        expected = roomy.answers(asked, "off")
        assert roomy.answers(asked, "ngram") == expected
        assert tight.answers(asked, "ngram") == expected
        assert tight.answers(asked, "off") == expected
    assert roomy.core.stats().accepted_draft_tokens > 20
    assert tight.core.stats().preemptions > 0
