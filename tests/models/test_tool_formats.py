"""How families write calls: recognised from their templates, read back from text however it is cut."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.models.chat_template import ChatTemplate
from penstock.models.message_parts import CallBegun, Content, WholeMessage
from penstock.models.tool_formats.detect import takes_system_role, tool_format
from penstock.models.tool_formats.generic import GENERIC, into_messages
from penstock.models.tool_formats.parser import ToolCallParser, new_call_id
from support.chat_templates import LLAMA_STYLE, MISTRAL_STYLE, QWEN_STYLE, TOOLS
from support.tool_templates import FAMILIES

if TYPE_CHECKING:
    from penstock.models.message_parts import Part
    from penstock.models.tool_families import Spelling
    from penstock.models.tool_formats.base import ToolFormat

NAMES = ("weather", "clock", "weather_in")
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def template(source: str) -> ChatTemplate:
    return ChatTemplate({"default": source}, TOKENS, "test")


FORMATS = {name: tool_format(template(case.template)) for name, case in FAMILIES.items()}


def read(spelling: ToolFormat, pieces: list[str]) -> list[Part]:
    parser = ToolCallParser(spelling, NAMES)
    return [part for piece in pieces for part in parser.push(piece)] + parser.finish()


def joined(parts: list[Part]) -> list[Any]:
    """Parts as they are however they were cut, and without ids."""
    whole: list[Any] = []
    for part in parts:
        kind, text = type(part).__name__, getattr(part, "text", None)
        if text is not None and whole and whole[-1][0] == kind:
            whole[-1][1] += text
        else:
            whole.append([kind, getattr(part, "name", None) if text is None else text])
    return whole


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({place % (len(text) + 1) for place in places})
    return [text[begin:end] for begin, end in zip([0, *ends], [*ends, len(text)], strict=True)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_recognised_by_what_its_template_writes(name: str) -> None:
    spelling, case = FORMATS[name], FAMILIES[name]
    assert (spelling.family, spelling.parallel) == (case.family, case.parallel)


def test_spaces_and_order_are_taken_from_the_template() -> None:
    compact = QWEN_STYLE.replace('<tool_call>\\n{"name": "', '<tool_call>{"name":"').replace(
        '", "arguments": \'', '","arguments":\''
    )
    spelling = tool_format(template(compact.replace("'}\\n</tool_call>'", "'}</tool_call>'")))
    assert spelling.family == "hermes"
    assert spelling.write([("f", "{}"), ("g", "{}")]) == (
        '<tool_call>{"name":"f","arguments":{}}</tool_call>\n<tool_call>{"name":"g","arguments":{}}</tool_call>'
    )
    listed = template(MISTRAL_STYLE.replace('"[CALLS] ["', '"[TOOL_CALLS]["'))
    assert tool_format(listed).begin == "[TOOL_CALLS]["


@pytest.mark.parametrize(
    "source",
    [
        QWEN_STYLE.replace('"name"', '"tool"'),
        QWEN_STYLE.replace("tools %}", "toolbox %}"),
        LLAMA_STYLE.replace("call.arguments | tojson", "'?'"),
        "{{ raise_exception('no') }}",
    ],
    ids=["another key", "no tools shown", "no arguments written", "refuses"],
)
def test_a_template_that_cannot_tell_gets_the_generic_format(source: str) -> None:
    assert tool_format(template(source)) is GENERIC


@pytest.mark.parametrize("family", ["hermes", "llama3", "mistral"])
def test_a_family_that_is_told_counts_whatever_the_template_shows(family: Spelling) -> None:
    unclear = template(QWEN_STYLE.replace('"name"', '"tool"'))
    told = tool_format(unclear, family)
    assert (told.family, told.in_messages) == (family, False)
    silent = tool_format(template(QWEN_STYLE.replace("tools %}", "toolbox %}")), family)
    assert (silent.family, silent.in_messages) == (family, True)
    call = silent.write([("f", "{}")])
    assert joined(read(told, [call])) == joined(read(silent, [call]))
    [question] = into_messages([{"role": "user", "content": "time?"}], TOOLS, system_role=False, spelling=silent)
    assert silent.head("<function name>").replace('"<function name>"', "<function name>") in question["content"]


def test_a_family_that_is_told_is_spelled_as_the_template_spells_it() -> None:
    listed = template(MISTRAL_STYLE.replace('"[CALLS] ["', '"[TOOL_CALLS]["'))
    assert tool_format(listed, "mistral") == tool_format(listed)
    assert tool_format(listed, "generic") is GENERIC


@pytest.mark.parametrize("name", FAMILIES)
def test_a_format_spells_calls_as_the_template_does(name: str) -> None:
    spelling = FORMATS[name]
    calls = [{"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": {"city": "東京"}}}]
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": calls},
    ]
    if spelling.in_messages:
        turns = into_messages(turns, None, system_role=True)
    written = template(FAMILIES[name].template).render(turns, tools=TOOLS, add_generation_prompt=False)
    assert spelling.begin + spelling.head("weather") + '{"city": "東京"}' in written.replace("[CALL_ID]abcdefghi", "")


@pytest.mark.parametrize("name", FAMILIES)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_however_text_is_cut_its_parts_are_the_same(name: str, data: st.DataObject) -> None:
    spelling = FORMATS[name]
    markup = [spelling.begin, spelling.trigger, spelling.between, spelling.end, spelling.call_close, spelling.head("f")]
    words = st.sampled_from([*markup, *(spelling.head(each) for each in NAMES), '{"a": "}\\""}', "{}", "\n", " ", "hi"])
    text = "".join(data.draw(st.lists(st.one_of(words, st.text(max_size=4)), max_size=12)))
    pieces = cut(text, data.draw(st.lists(st.integers(0, 400), max_size=20)))
    assert joined(read(spelling, pieces)) == joined(read(spelling, [text]))
    assert joined(read(spelling, list(text))) == joined(read(spelling, [text]))


ARGUMENTS = st.dictionaries(
    st.text(max_size=5), st.recursive(st.text(max_size=8) | st.integers(), st.lists), max_size=3
)


@pytest.mark.parametrize("name", FAMILIES)
@given(
    calls=st.lists(st.tuples(st.sampled_from(NAMES), ARGUMENTS), min_size=1, max_size=4),
    places=st.lists(st.integers(0, 900)),
)
@settings(max_examples=40, deadline=None)
def test_calls_come_back_as_they_were_written(name: str, calls: list[tuple[str, Any]], places: list[int]) -> None:
    spelling = FORMATS[name]
    text = spelling.write([(called, json.dumps(arguments)) for called, arguments in calls])
    said = "Let me see.\n\n" if spelling.anywhere else ""
    message = WholeMessage()
    message.add(read(spelling, cut(said + text, places)))
    assert message.content == said.rstrip()
    assert [(call.name, json.loads(call.arguments), call.complete) for call in message.calls] == [
        (called, arguments, True) for called, arguments in calls
    ]
    assert len({call.id for call in message.calls}) == len(calls)
    if spelling.id_characters is not None:
        assert all(len(call.id) == spelling.id_characters and call.id.isalnum() for call in message.calls)


@pytest.mark.parametrize("name", FAMILIES)
@given(text=st.text(alphabet='<tool_call>\n{}"[TOOL_CALLS] ae', max_size=60))
@settings(max_examples=40, deadline=None)
def test_text_that_names_no_function_is_content_to_the_letter(name: str, text: str) -> None:
    assert "".join(part.text for part in read(FORMATS[name], list(text)) if isinstance(part, Content)) == text


def test_a_call_that_is_cut_short_keeps_what_there_is_of_it() -> None:
    spelling = FORMATS["hermes"]
    message = WholeMessage()
    message.add(read(spelling, ["ok ", spelling.begin, spelling.head("clock"), '{"a": [1, ']))
    assert (message.content, message.calls[0].arguments, message.calls[0].complete) == ("ok", '{"a": [1, ', False)


def test_a_name_that_begins_like_another_is_told_from_it() -> None:
    spelling = FORMATS["hermes"]
    parts = read(spelling, list(spelling.write([("weather_in", "{}"), ("weather", "{}")])))
    assert [part.name for part in parts if isinstance(part, CallBegun)] == ["weather_in", "weather"]


def test_ids_are_openais_unless_the_template_wants_others() -> None:
    assert new_call_id(None).startswith("call_")
    assert len(new_call_id(9)) == 9


# --- the generic format ---

CALL = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": {"at": "Köln"}}}


def test_tools_calls_and_results_become_messages_that_any_template_takes() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "time?"}]},
        {"role": "assistant", "content": "Wait.", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "12:00", "tool_call_id": "c1"},
        {"role": "tool", "content": [{"type": "text", "text": "13:00"}], "tool_call_id": "c1"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "14:00", "tool_call_id": "c1"},
    ]
    system, user, first, results, second, last = into_messages(messages, TOOLS, system_role=True)
    assert system["content"].startswith("Be brief.\n\nYou can call functions.")
    assert '"name": "weather"' in system["content"]
    assert user == messages[1]
    assert first == {
        "role": "assistant",
        "content": 'Wait.\n<tool_call>\n{"name": "clock", "arguments": {"at": "Köln"}}\n</tool_call>\n<tool_call>\n'
        '{"name": "clock", "arguments": {"at": "Köln"}}\n</tool_call>',
    }
    expected = "<tool_response>\n12:00\n</tool_response>\n<tool_response>\n13:00\n</tool_response>"
    assert results == {"role": "user", "content": expected}
    assert second["content"].startswith("<tool_call>")
    assert last["content"] == "<tool_response>\n14:00\n</tool_response>"


def test_a_template_without_a_system_role_gets_the_tools_with_the_first_question() -> None:
    refusal = "{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    strict = "{% for m in messages %}" + refusal + "{{ m.content }}{% endfor %}"
    assert not takes_system_role(template(strict))
    assert takes_system_role(template(FAMILIES["generic"].template))
    [question] = into_messages([{"role": "user", "content": "time?"}], TOOLS, system_role=False)
    assert question["role"] == "user"
    assert question["content"].startswith("You can call functions.")
    assert question["content"].endswith("\n\ntime?")


def test_without_tools_only_the_past_is_rewritten() -> None:
    assert into_messages([{"role": "user", "content": "hi"}], None, system_role=True) == [
        {"role": "user", "content": "hi"}
    ]
