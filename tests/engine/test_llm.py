"""The engine in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from penstock import LLM, SamplingParams
from penstock.core.errors import ConfigError, InvalidRequestError, NotFoundError
from penstock.models.load import load
from support.adapters import write_adapter
from support.tiny_chat import write_tiny_chat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHORT = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    path = write_tiny_chat(tmp_path_factory.mktemp("tiny"))
    with LLM(str(path), dtype="float32", kv_memory=1 << 22, threads=1) as llm:
        yield llm


def test_prompts_as_text_and_as_tokens_come_back_in_order(llm: LLM) -> None:
    prompts = [f"prompt number {i}" for i in range(8)]
    results = llm.generate(prompts, SHORT)
    assert [result.prompt for result in results] == prompts
    tokens = [result.prompt_token_ids for result in results]
    assert [result.text for result in llm.generate(tokens, SHORT)] == [result.text for result in results]
    assert all(len(result.choices[0].token_ids) == 6 for result in results)


def test_an_encoder_is_refused_with_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match="is an encoder, which reads texts and writes none"):
        LLM(str(tmp_path))


def test_each_prompt_may_have_its_own_parameters(llm: LLM) -> None:
    params = [SamplingParams(max_tokens=count, ignore_eos=True, logprobs=1) for count in (1, 3)]
    results = llm.generate(["a", "b"], params)
    assert [len(result.choices[0].token_ids) for result in results] == [1, 3]
    assert results[1].choices[0].logprobs is not None
    assert len(results[1].choices[0].logprobs) == 3


def test_a_conversation_goes_through_the_models_template(llm: LLM) -> None:
    result = llm.chat([{"role": "user", "content": "hello"}], SHORT)
    assert result.choices[0].finish_reason == "length"
    assert len(result.prompt_token_ids) > len("hello")


def test_a_wrong_prompt_raises_its_own_error_and_the_engine_goes_on(llm: LLM) -> None:
    with pytest.raises(InvalidRequestError, match="tokens long"):
        llm.generate(["fine", "x" * 5000], SHORT)
    with pytest.raises(InvalidRequestError, match="2 prompts but 1"):
        llm.generate(["a", "b"], [SHORT])
    assert llm.generate("still here", SHORT)[0].choices[0].finish_reason == "length"


def test_given_adapters_when_prompts_name_them_then_each_is_answered_by_its_own(tmp_path: Path) -> None:
    path = write_tiny_chat(tmp_path / "tiny")
    spec, weights = load(path)
    weights.close()
    one, two = (write_adapter(tmp_path / str(seed), spec, 8, seed=seed) for seed in (1, 2))
    options = {"dtype": "float32", "kv_memory": 1 << 22, "threads": 1, "max_loras": 2}
    with LLM(str(path), lora={"one": one}, **options) as llm:

        def ask(*adapters: str) -> list[str]:
            return [found.text for found in llm.generate(["same prompt"] * len(adapters), SHORT, adapter=[*adapters])]

        assert llm.load_adapter("two", two).rank == 8
        texts = ask("", "one", "two")
        assert len(set(texts)) == 3
        assert [ask(name)[0] for name in ("", "one", "two")] == texts
        assert llm.generate("same prompt", SHORT, adapter="one")[0].text == texts[1]
        messages = [{"role": "user", "content": "hello"}]
        assert llm.chat(messages, SHORT, adapter="two").text != llm.chat(messages, SHORT).text
        llm.unload_adapter("two")
        with pytest.raises(NotFoundError, match="two"):
            ask("two")
        with pytest.raises(InvalidRequestError, match="2 prompts but 1 adapters"):
            llm.generate(["a", "b"], SHORT, adapter=["one"])
        assert ask("one") == texts[1:2]
