"""Rendered prompts against transformers' apply_chat_template."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from jinja2 import TemplateError

from penstock.core.errors import InvalidRequestError
from penstock.models.chat_template import ChatTemplate
from penstock.models.pre_tokenizers import RULES
from penstock.models.tokenizer import Tokenizer
from support.chat_templates import CONVERSATIONS, GEMMA_STYLE, STYLES, TOOLS
from support.tiny_tokenizers import CONTROL, byte_level_backend, write_directory

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module", params=[*STYLES, "gemma", "smollm2"])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, smollm2_path: Path
) -> tuple[Any, ChatTemplate]:
    from transformers import AutoTokenizer

    backend = byte_level_backend(RULES["gpt-2"].pre_tokenizer(), vocab_size=260)
    source = (STYLES | {"gemma": GEMMA_STYLE}).get(request.param) or AutoTokenizer.from_pretrained(
        smollm2_path.parent, gguf_file=smollm2_path.name
    ).chat_template
    directory = write_directory(
        tmp_path_factory.mktemp("model"),
        backend,
        bos_token=CONTROL[0],
        eos_token=CONTROL[1],
        chat_template=source,
    )
    path = smollm2_path if request.param == "smollm2" else directory
    ours = ChatTemplate.load(path, Tokenizer.load(path))
    assert ours is not None
    return AutoTokenizer.from_pretrained(directory), ours


def reference_prompt(reference: Any, messages: list[dict[str, Any]], **options: Any) -> str:
    prompt: str = reference.apply_chat_template(messages, tokenize=False, **options)
    return prompt


@pytest.mark.parametrize("generate", [True, False], ids=["to answer", "as it is"])
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_prompts_are_the_same(
    both: tuple[Any, ChatTemplate], name: str, tools: list[dict[str, Any]] | None, generate: bool
) -> None:
    reference, ours = both
    options: dict[str, Any] = {"tools": tools, "add_generation_prompt": generate, "enable_thinking": False}

    try:
        expected = reference_prompt(reference, CONVERSATIONS[name], **options)
    except TemplateError as refusal:  # of a template that knows no tools
        assert name == "a tool call"
        with pytest.raises(InvalidRequestError, match=re.escape(str(refusal))):
            ours.render(CONVERSATIONS[name], **options)
    else:
        assert ours.render(CONVERSATIONS[name], **options) == expected


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
        [{"role": "assistant", "content": "x", "tool_calls": [{"function": {"name": "f", "arguments": {}}}] * 2}],
        [{"role": "wizard", "content": "x"}],
    ],
    ids=["no turns", "two calls", "unknown role"],
)
def test_what_a_template_refuses_is_refused_by_both_in_the_same_words(
    both: tuple[Any, ChatTemplate], messages: list[dict[str, Any]]
) -> None:
    reference, ours = both

    try:
        expected = reference_prompt(reference, messages)
    except TemplateError as refusal:
        with pytest.raises(InvalidRequestError, match=re.escape(str(refusal))):
            ours.render(messages, add_generation_prompt=False)
    else:
        assert ours.render(messages, add_generation_prompt=False) == expected
