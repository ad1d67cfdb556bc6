"""Requests with a grammar, through the whole engine: how it goes together with everything else a request may ask."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest

from penstock.core.errors import InvalidRequestError
from penstock.engine.client import EngineClient
from penstock.engine.config import EngineConfig
from penstock.engine.types import RequestOutput, SamplingParams
from support.merging import merge
from support.tiny_chat import SPECIALS, write_tiny_chat

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

PROMPT = [5, 6, 7, 8]
WORDS = "start: /(abc)+/"
EOS = SPECIALS.index("</s>")
KV = 8 << 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("tiny"), max_position_embeddings=1024)


def with_engine(model: Path, work: Callable[[EngineClient], Awaitable[Any]], **options: Any) -> Any:
    async def run() -> Any:
        settings = {"dtype": "float32", "kv_memory": KV, "threads": 1, "runner_cache": False, **options}
        client = EngineClient(EngineConfig(model_path=str(model), **settings))
        await client.start()
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(run())


async def collect(
    client: EngineClient, request_id: str, prompt: list[int] | None = None, **params: Any
) -> list[RequestOutput]:
    whole: dict[int, RequestOutput] = {}
    asked = SamplingParams(**{"temperature": 1.0, "max_tokens": 60, "seed": 3, **params})
    async for index, delta in client.generate(prompt or PROMPT, asked, request_id=request_id):
        whole[index] = merge(whole.get(index), delta)
    return [whole[index] for index in sorted(whole)]


# parameters, and what text, finish reason and stop reason must be
CASES: dict[str, tuple[dict[str, Any], str, str, int | str | None]] = {
    "alone": ({"max_tokens": 1000}, r"(abc)+", "stop", None),
    "greedy": ({"temperature": 0.0, "grammar": "start: /(abc){2,4}/"}, r"(abc){2,4}", "stop", None),
    "cut by length": ({"grammar": "start: /(abc){30}/", "max_tokens": 50}, r"(abc){16}ab", "length", None),
    "ended by its last token": ({"grammar": "start: /(abc){16}/", "max_tokens": 48}, r"(abc){16}", "stop", None),
    "min_tokens": ({"min_tokens": 20, "max_tokens": 1000}, r"(abc){7,}", "stop", None),
    "min_tokens beyond the grammar": (
        {"grammar": "start: /(abc){2}/", "min_tokens": 20},
        r"(abc){2}",
        "stop",
        None,
    ),
    "ignore_eos": ({"ignore_eos": True, "max_tokens": 30}, r"(abc){10}", "length", None),
    "ignore_eos until the grammar ends": (
        {"grammar": "start: /(abc){1,9}/", "ignore_eos": True},
        r"(abc){9}",
        "stop",
        None,
    ),
    "stop string in the middle": ({"grammar": "start: /(abc){5}/", "stop": ("ca",)}, r"(abc){5}", "stop", None),
    "stop string at a good end": ({"grammar": "start: /(abc){2,9}/", "stop": ("a",)}, r"(abc){2}", "stop", "a"),
    "stop string included": (
        {"grammar": "start: /(abc){2,9}/", "stop": ("bc",), "include_stop_str_in_output": True},
        r"(abc){2}",
        "stop",
        "bc",
    ),
    "stop token in the middle": (
        {"grammar": "start: /(abc){5}/", "stop_token_ids": (5 + 65,)},
        r"(abc){5}",
        "stop",
        None,
    ),
    "bias against": ({"grammar": 'start: "a" | "b"', "logit_bias": {5 + 64: -100.0}}, r"b", "stop", None),
    "bias for what isn't allowed": ({"logit_bias": {200: 100.0}, "max_tokens": 1000}, r"(abc)+", "stop", None),
    "penalties": (
        {"repetition_penalty": 10.0, "frequency_penalty": 2.0, "grammar": "start: /(abc){6}/"},
        r"(abc){6}",
        "stop",
        None,
    ),
    "top-k of one": ({"top_k": 1, "grammar": 'start: "yes" | "no"'}, r"yes|no", "stop", None),
    "special tokens": (
        {"grammar": 'start: <|im_start|> "a" <|im_end|>', "skip_special_tokens": False},
        r"<\|im_start\|>a<\|im_end\|>",
        "stop",
        None,
    ),
}


def test_given_a_grammar_when_it_meets_other_parameters_then_what_ends_in_stop_matches(model: Path) -> None:
    async def work(client: EngineClient) -> None:
        outputs = await asyncio.gather(
            *(collect(client, name, **{"grammar": WORDS, **params}) for name, (params, *_) in CASES.items())
        )
        for (name, (_, text, reason, matched)), [output] in zip(CASES.items(), outputs, strict=True):
            assert re.fullmatch(text, output.text), (name, output.text)
            assert (output.finish_reason, output.stop_reason) == (reason, matched), name

    with_engine(model, work)


def test_a_stop_token_outside_of_the_grammar_may_end_a_text_that_matches(model: Path) -> None:
    async def work(client: EngineClient) -> None:
        token = 5 + 100
        [output] = await collect(
            client,
            "stop",
            grammar=WORDS,
            stop_token_ids=(token,),
            logit_bias={token: 100.0, EOS: -100.0},
            include_stop_str_in_output=True,
        )
        assert (output.text, output.finish_reason, output.stop_reason) == ("abc", "stop", token)

    with_engine(model, work)


def test_choices_of_one_request_go_their_own_ways(model: Path) -> None:
    async def work(client: EngineClient) -> None:
        outputs = await collect(client, "n", grammar="start: /[a-z]{8}/", n=12)
        texts = [output.text for output in outputs]
        assert all(re.fullmatch("[a-z]{8}", text) for text in texts)
        assert len(set(texts)) > 6

    with_engine(model, work)


def test_logprobs_are_those_of_all_tokens_and_a_prompt_can_be_scored_alone(model: Path) -> None:
    async def work(client: EngineClient) -> None:
        [free] = await collect(client, "free", logprobs=0, max_tokens=1, prompt_logprobs=1)
        [held] = await collect(client, "held", logprobs=5, max_tokens=1, prompt_logprobs=1, grammar='start: "ab"')
        assert held.text == "a"
        assert held.logprobs is not None
        assert held.logprobs[0].chosen.logprob < 0
        assert len(held.logprobs[0].top) == 5
        assert held.prompt_logprobs == free.prompt_logprobs
        [scored] = await collect(client, "scored", max_tokens=0, prompt_logprobs=1, grammar='start: "ab"')
        assert (scored.text, scored.finish_reason) == ("", "length")
        assert scored.prompt_logprobs == free.prompt_logprobs

    with_engine(model, work)


def test_given_too_little_memory_when_sequences_are_pushed_out_then_their_grammars_go_on_where_they_were(
    model: Path,
) -> None:
    prompts = [[5 + (7 * i + at) % 250 for at in range(40)] for i in range(6)]
    asked = {"grammar": "start: /([a-f]{10},)+/", "ignore_eos": True, "max_tokens": 120}

    async def one_by_one(client: EngineClient) -> list[str]:
        return [(await collect(client, str(i), prompt, **asked))[0].text for i, prompt in enumerate(prompts)]

    async def crowded(client: EngineClient) -> list[str]:
        outputs = await asyncio.gather(*(collect(client, str(i), p, **asked) for i, p in enumerate(prompts)))
        assert client.stats.preemptions > 0, "the pool was meant to be too small"
        return [output.text for [output] in outputs]

    expected = with_engine(model, one_by_one)
    assert all(re.fullmatch(r"([a-f]{10},)+[a-f]{0,10}", text) for text in expected)
    bytes_per_token = 2 * 3 * 2 * 16 * 4
    assert with_engine(model, crowded, kv_memory=400 * bytes_per_token, max_model_len=200) == expected


def test_given_a_wrong_grammar_when_others_run_then_it_fails_alone(model: Path) -> None:
    async def work(client: EngineClient) -> None:
        running = asyncio.create_task(collect(client, "running", max_tokens=200, ignore_eos=True))
        for at, grammar in enumerate(("nonsense", 'start: %json {"not": {}}', "nonsense")):
            with pytest.raises(InvalidRequestError) as caught:
                await collect(client, f"wrong{at}", grammar=grammar)
            assert (caught.value.param, caught.value.code) == ("grammar", "invalid_grammar")
        [output] = await running
        assert output.finish_reason == "length"
        assert (await collect(client, "after", grammar=WORDS, max_tokens=1000))[0].finish_reason == "stop"

    with_engine(model, work)


@pytest.mark.parametrize("runner", ["native", "torch"])
def test_a_grammar_that_asks_for_what_min_tokens_bans_is_the_requests_own_mistake(model: Path, runner: str) -> None:
    async def work(client: EngineClient) -> None:
        with pytest.raises(InvalidRequestError, match="no token to choose"):
            await collect(client, "a", grammar=f'start: "abc" <[{EOS}]> "x"', min_tokens=20)

    with_engine(model, work, runner=runner)


def test_given_a_grammar_being_compiled_when_its_client_leaves_then_nothing_is_left_behind(model: Path) -> None:
    async def work(client: EngineClient) -> None:
        stream = client.generate(PROMPT, SamplingParams(grammar=WORDS), request_id="left")
        waiting = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await stream.aclose()
        assert (await collect(client, "left/0", grammar=WORDS, max_tokens=1000))[0].finish_reason == "stop"

    with_engine(model, work)


def test_the_torch_runner_keeps_to_grammars_too(model: Path) -> None:
    async def work(client: EngineClient) -> None:
        outputs = await asyncio.gather(
            *(collect(client, str(at), grammar="start: /[a-z]{3}-[0-9]{3}/", seed=at) for at in range(4)),
            collect(client, "free", max_tokens=8, ignore_eos=True),
        )
        for [output] in outputs[:4]:
            assert re.fullmatch("[a-z]{3}-[0-9]{3}", output.text)
            assert output.finish_reason == "stop"
        assert outputs[4][0].finish_reason == "length"

    with_engine(model, work, runner="torch", device="cpu")
