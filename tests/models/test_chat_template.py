from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from penstock.core.errors import InvalidRequestError, ModelFileError
from penstock.models.chat_template import ChatTemplate, flatten_content
from penstock.models.pre_tokenizers import RULES
from penstock.models.tokenizer import Tokenizer
from support.chat_templates import CONVERSATIONS, GEMMA_STYLE, MISTRAL_STYLE, QWEN_STYLE, STYLES, TOOLS
from support.tiny_tokenizers import CONTROL, byte_level_backend, write_directory, write_gguf

if TYPE_CHECKING:
    from pathlib import Path

USER = [{"role": "user", "content": "hi"}]


def template(source: str, **named: str) -> ChatTemplate:
    return ChatTemplate({"default": source}, named, "some.gguf")


# Where templates come from


def test_the_default_model_speaks_chatml_with_its_own_system_prompt(smollm2_path: Path) -> None:
    chat = ChatTemplate.load(smollm2_path, Tokenizer.load(smollm2_path))

    assert chat is not None
    assert chat.render(USER) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chat.render([{"role": "system", "content": "S"}, *USER], add_generation_prompt=False) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
    )


@pytest.fixture(scope="module")
def directory_without(tmp_path_factory: pytest.TempPathFactory) -> Path:
    backend = byte_level_backend(RULES["gpt-2"].pre_tokenizer(), vocab_size=260)
    return write_directory(tmp_path_factory.mktemp("model"), backend, bos_token=CONTROL[0], eos_token=CONTROL[1])


@pytest.fixture
def directory(directory_without: Path, tmp_path: Path) -> Path:
    for file in directory_without.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def load(path: Path) -> ChatTemplate | None:
    return ChatTemplate.load(path, Tokenizer.load(path))


def configure(directory: Path, chat_template: Any) -> None:
    config = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": chat_template}))


def test_a_model_without_a_template_has_none(directory: Path) -> None:
    assert load(directory) is None


def test_a_template_in_the_configuration_knows_the_models_tokens(directory: Path) -> None:
    configure(directory, "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ unk_token }}")

    chat = load(directory)

    assert chat is not None
    assert chat.render(USER) == f"{CONTROL[0]}hi{CONTROL[1]}"


def test_a_template_in_a_file_of_its_own_comes_first(directory: Path) -> None:
    configure(directory, "old")
    (directory / "chat_template.jinja").write_text("new")

    chat = load(directory)

    assert chat is not None
    assert chat.render(USER) == "new"


def test_named_templates_are_chosen_by_whether_there_are_tools(directory: Path) -> None:
    configure(directory, [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}])

    chat = load(directory)

    assert chat is not None
    assert chat.render(USER) == "plain"
    assert chat.render(USER, tools=TOOLS) == "tools"


def test_an_additional_template_file_is_a_named_one(directory: Path) -> None:
    (directory / "chat_template.jinja").write_text("plain")
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates" / "tool_use.jinja").write_text("tools")

    chat = load(directory)

    assert chat is not None
    assert chat.render(USER, tools=TOOLS) == "tools"


def test_a_gguf_file_may_hold_several_templates(tmp_path: Path) -> None:
    keys = {"model": "gpt2", "pre": "gpt-2", "tokens": ["a", "b"], "merges": ["a b"]}
    templates = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    keys |= {"tokens": ["a", "b", "ab"]}

    chat = load(write_gguf(tmp_path / "m.gguf", keys, chat_template=templates))

    assert chat is not None
    assert chat.render(USER) == "plain"
    assert chat.render(USER, tools=TOOLS) == "tools"


@pytest.mark.parametrize(
    ("chat_template", "message"),
    [
        (5, "template 'default' is a int, not text"),
        ([{"name": "other", "template": "x"}], "none is the default"),
        ("line\n{% if %}", "wrong in line 2"),
        ("{{ x | no_such_filter }}", "wrong in line 1"),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "doesn't compile"),
        ("{% for a in b %}" * 60 + "{% endfor %}" * 60, "doesn't compile"),
        ("x" * (1 << 21), "2097152 characters"),
    ],
)
def test_a_damaged_template_is_refused_when_the_model_is_loaded(
    directory: Path, chat_template: Any, message: str
) -> None:
    configure(directory, chat_template)

    with pytest.raises(ModelFileError, match=message):
        load(directory)


def test_a_template_file_that_is_not_text_is_refused(directory: Path) -> None:
    (directory / "chat_template.jinja").write_bytes(b"\xff\xfe")

    with pytest.raises(ModelFileError, match=r"chat_template\.jinja: can't be read"):
        load(directory)


# What templates are offered


def test_json_is_written_without_escapes() -> None:
    text = template("{{ tools[0] | tojson }}").render(USER, tools=TOOLS)

    assert json.loads(text) == TOOLS[0]
    assert "Köln? <b>&amp; 'quotes'</b>" in text


def test_blocks_leave_no_lines_behind() -> None:
    assert template("{% if true %}\n    {% if true %}\nx\n    {% endif %}\n{% endif %}\n").render(USER) == "x\n"


def test_loops_can_break_and_the_generation_tag_is_transparent() -> None:
    source = "{% for i in 'abcdef' %}{% if i == 'd' %}{% break %}{% endif %}"
    source += "{% generation %}{{ i }}{% endgeneration %}{% endfor %}"

    assert template(source).render(USER) == "abc"


def test_loop_variables_work() -> None:
    source = "{% for i in 'abc' %}{{ loop.index }}/{{ loop.length }}{{ loop.last }}{{ loop.nextitem }} {% endfor %}"

    assert template(source).render(USER) == "1/3Falseb 2/3Falsec 3/3True "


def test_templates_know_the_date() -> None:
    year = time.localtime().tm_year

    assert template("{{ strftime_now('%Y') }}").render(USER) in {str(year), str(year + 1)}


def test_further_arguments_reach_the_template_but_cannot_replace_the_messages() -> None:
    chat = template("{{ enable_thinking }}{{ messages | length }}")

    assert chat.render(USER, enable_thinking=False) == "False1"


def test_a_generation_prompt_without_thinking() -> None:
    text = template(QWEN_STYLE).render(USER, enable_thinking=False)

    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
def test_reasoning_is_found_under_each_of_its_names(name: str) -> None:
    chat = template("{{ messages[0].reasoning_content }} {{ messages[0].thinking }}")

    assert chat.render([{"role": "assistant", "content": "x", name: "why"}]) == "why why"


def test_messages_are_left_as_they_were() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}], "reasoning": "r"}]
    before = json.dumps(messages)

    template("{{ messages[0].content }}").render(messages)

    assert json.dumps(messages) == before


def test_threads_may_share_one_template() -> None:
    chat = template(QWEN_STYLE)
    alone = [chat.render([{"role": "user", "content": str(number)}]) for number in range(200)]

    with ThreadPoolExecutor(4) as pool:
        together = pool.map(lambda number: chat.render([{"role": "user", "content": str(number)}]), range(200))

    assert list(together) == alone


# Content


def test_text_parts_are_joined_where_a_template_wants_a_string() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]

    assert template("{{ messages[0]['content'] }}").render([{"role": "user", "content": parts}]) == "a\nb"


@pytest.mark.parametrize(
    "source",
    [
        "{% for part in messages[0].content %}[{{ part.text }}]{% endfor %}",
        "{% for part in messages[0]['content'] %}[{{ part.text }}]{% endfor %}",
        "{% set content = messages[0].content %}{% for part in content | list %}[{{ part.text }}]{% endfor %}",
    ],
)
def test_text_parts_are_left_to_a_template_that_reads_them(source: str) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]

    assert template(source).render([{"role": "user", "content": parts}]) == "[a][b]"


def test_content_is_flattened_to_text() -> None:
    assert flatten_content(None) == ""
    assert flatten_content("x") == "x"
    assert flatten_content([]) == ""
    assert flatten_content([{"type": "text", "text": "x"}]) == "x"


@pytest.mark.parametrize("part", [{"type": "image_url", "image_url": {}}, {"type": "text"}, "text", {"text": "x"}])
def test_a_part_that_is_not_text_is_refused(part: Any) -> None:
    with pytest.raises(InvalidRequestError, match="content part") as caught:
        flatten_content([part])

    assert caught.value.param == "messages"


# Refusals


def test_a_template_that_refuses_the_messages_is_quoted() -> None:
    chat = template(MISTRAL_STYLE, bos_token="<s>", eos_token="</s>")

    with pytest.raises(InvalidRequestError, match="user and assistant must take turns") as caught:
        chat.render([*USER, *USER])

    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "source", ["{{ messages[5].content + 'x' }}", "{{ 1 + 'x' }}", "{% include 'x' %}", "{{ f() }}"]
)
def test_messages_that_a_template_cannot_handle_are_the_requests_fault(source: str) -> None:
    with pytest.raises(InvalidRequestError, match="can't make a prompt of these messages"):
        template(source).render(USER)


def test_a_template_that_failed_can_be_used_again() -> None:
    chat = template("{{ raise_exception('no') if messages[0].content == 'bad' else 'fine' }}")
    with pytest.raises(InvalidRequestError):
        chat.render([{"role": "user", "content": "bad"}])

    assert chat.render(USER) == "fine"


# Hostile templates

MEGABYTE = "{% set big = 'a' * 1000000 %}"
DOUBLING = "{% set ns = namespace(x=START) %}{% for i in range(200) %}{% set ns.x = STEP %}{% endfor %}{{ LAST }}"


def doubling(step: str, start: str = "'aaaa'", last: str = "1") -> str:
    return DOUBLING.replace("START", start).replace("STEP", step).replace("LAST", last)


HOSTILE = {
    "a huge range": "{% for i in range(10 ** 12) %}x{% endfor %}",
    "nested loops": "{% for a in range(9999) %}" * 3 + "{% endfor %}" * 3,
    "calls without end": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(99) }}",
    "a string times a number": "{{ 'a' * 10 ** 10 }}",
    "a list times a number": "{{ [1] * 10 ** 10 }}",
    "growing powers": doubling("ns.x * ns.x", "3"),
    "a large power": "{{ 9 ** 99999 }}",
    "doubling by ~": doubling("ns.x ~ ns.x"),
    "doubling by +": doubling("ns.x + ns.x"),
    "doubling a list": doubling("ns.x + ns.x", "[1]"),
    "doubling by sum": doubling("[ns.x, ns.x] | sum(start=[])", "[1]"),
    "doubling by join": doubling("[ns.x, ns.x] | join"),
    "doubling by format": doubling("'%s%s' % (ns.x, ns.x)"),
    "doubling by str.format": doubling("'{0}{0}'.format(ns.x)"),
    "nested lists written out": doubling("[ns.x, ns.x]", "[]", "ns.x"),
    "nested lists as json": doubling("[ns.x, ns.x]", "[]", "ns.x | tojson"),
    "nested lists as string": doubling("[ns.x, ns.x]", "[]", "ns.x | string | length"),
    "a growing block": "{% set ns = namespace(x='aa') %}{% for i in range(99) %}"
    "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "much static text": "{% set x %}{% for i in range(9999) %}" + "y" * 100000 + "{% endfor %}{% endset %}",
    "a huge output": "{% for i in range(9999) %}" + "y" * 10000 + "{% endfor %}",
    "wide padding": "{{ 'a'.ljust(10 ** 10) }}",
    "wide padding by a filter": "{{ 'a' | center(10 ** 10) }}",
    "wide padding in a filter block": "{% filter center(10 ** 10) %}a{% endfilter %}",
    "wide padding by map": "{{ ['a'] | map('center', 10 ** 10) | list }}",
    "a wide format": "{{ '%10000000000d' % 1 }}",
    "a computed width": "{{ '%*d' % (10 ** 10, 1) }}",
    "a wide str.format": "{{ '{:10000000000}'.format(1) }}",
    "a computed str.format": "{{ '{:{w}}'.format(1, w=10 ** 10) }}",
    "a wide date": "{{ strftime_now('%10000000000d') }}",
    "a growing replacement": MEGABYTE + "{{ big.replace('a', big) }}",
    "a growing replace filter": MEGABYTE + "{{ big | replace('a', big) }}",
    "a long separator": MEGABYTE + "{{ big.join(big) }}",
    "a long separator in a filter": MEGABYTE + "{{ big | list | join(big) }}",
    "much indentation": "{% set big = 'a\\n' * 1000000 %}{{ big | indent(9999) }}",
    "much indentation in json": "{{ messages | tojson(indent=10 ** 10) }}",
    "long separators in json": MEGABYTE + "{{ range(9999) | list | tojson(separators=(big, big)) }}",
    "huge batches": "{{ [1] | batch(10 ** 9, 0) | list }}",
    "many copies by slicing": MEGABYTE + doubling("ns.x + [big[1:]]", "[]"),
    "many copies by a method": MEGABYTE + doubling("ns.x + [big.upper()]", "[]"),
    "bytes": "{{ (10).to_bytes(10 ** 10, 'big') }}",
    "encoded text": "{{ 'a'.encode() * 10 ** 10 }}",
    "a translation": "{{ 'a'.translate({97: 'b'}) }}",
    "a class": "{{ ''.__class__.__mro__ }}",
    "a class by index": "{{ ''['__class__']['__mro__'] }}",
    "globals of a function": "{{ raise_exception.__globals__['x'] }}",
    "globals of a class": "{{ cycler.__init__.__globals__ }}",
    "changing the messages": "{{ messages.append(1) }}",
    "changing a message": "{{ messages[0].update({'a': 1}) }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_stopped(name: str) -> None:
    resource = pytest.importorskip("resource", reason="needs a system that counts memory")
    chat = template(HOSTILE[name])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()

    with pytest.raises(ModelFileError, match=r"chat template (does what it may not|writes more than)"):
        chat.render(USER)

    assert time.process_time() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 600_000  # KiB


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages | attr('__class__') }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ self._TemplateReference__context }}",
        "{{ raise_exception.__globals__ }}",
        "{{ namespace.__subclasses__ }}",
    ],
)
def test_internals_are_nothing_to_a_template(source: str) -> None:
    assert template(source).render(USER) == ""


def test_hostile_constants_cost_nothing_while_compiling() -> None:
    start = time.process_time()

    template("{{ 'a' | center(10 ** 10) }}{{ 9 ** 9 ** 9 ** 9 }}{{ 'a' * 10 ** 10 }}")

    assert time.process_time() - start < 2


@pytest.mark.parametrize("style", STYLES)
def test_a_long_conversation_stays_within_the_limits(style: str) -> None:
    turns = [
        [{"role": "user", "content": "u" * 2000}, {"role": "assistant", "content": "a" * 2000}] for _ in range(1000)
    ]
    messages = [message for turn in turns for message in turn]

    text = template(STYLES[style], bos_token="<s>", eos_token="</s>").render([*messages, *USER], tools=TOOLS)

    assert text.count("u" * 2000) == 1000


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_every_style_renders_every_conversation(style: str, conversation: str) -> None:
    chat = template(STYLES[style], bos_token="<s>", eos_token="</s>")

    text = chat.render(CONVERSATIONS[conversation], tools=TOOLS)

    assert CONVERSATIONS[conversation][0]["content"].strip() in text
    assert "weather" in text


def test_a_template_in_the_manner_of_gemma_folds_the_system_prompt_into_the_first_turn() -> None:
    chat = template(GEMMA_STYLE, bos_token="<bos>", eos_token="<eos>")
    assert chat.render(CONVERSATIONS["with a system prompt"][:2]) == (
        "<bos><start_of_turn>user\nBe brief. \n\nHi<end_of_turn>\n<start_of_turn>model\n"
    )
    with pytest.raises(InvalidRequestError, match="must alternate"):
        chat.render([*USER, *USER])
