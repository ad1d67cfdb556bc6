"""Whatever an answer's grammar lets a model say is read back as what was asked for."""

from __future__ import annotations

import json
import random
from itertools import product
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest

from penstock.engine.structured.grammar import GrammarTokenizer, Matcher
from penstock.models.answer_grammar import Function, ThinkingRules, ToolRules, answer_grammar
from penstock.models.chat_template import ChatTemplate
from penstock.models.message_parts import WholeMessage
from penstock.models.message_reader import MessageReader
from penstock.models.thinking import KNOWN_TAGS, ThinkingParser
from penstock.models.tokenizer import Tokenizer
from penstock.models.tool_formats.detect import tool_format
from penstock.models.tool_formats.parser import ToolCallParser
from support.fake_engine import write_model
from support.tiny_chat import TEMPLATE
from support.tool_templates import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTROL = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]")
VOCABULARY = 5 + 256 + len(CONTROL)
END = 2  # </s>
MOST_TOKENS = 400
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Köln", "東京"]},
        "days": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 3},
        "near": {"$ref": "#/$defs/place"},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {"place": {"type": "object", "properties": {"on": {"type": "boolean"}}, "additionalProperties": False}},
}
FUNCTIONS = (
    Function("weather", SCHEMA),
    Function("weather_in", {**SCHEMA, "required": ["near"]}),
    Function("clock", {"type": "object", "properties": {}, "additionalProperties": False}),
)
STRUCTURE_SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
STRUCTURE = f"start: %json {json.dumps(STRUCTURE_SCHEMA)}"
FORMATS = {
    name: tool_format(ChatTemplate({"default": case.template}, {"bos_token": "", "eos_token": ""}, "test"))
    for name, case in FAMILIES.items()
}
THINKING = {
    "at once": None,
    "goes on": ThinkingRules(KNOWN_TAGS[0], begun=True),
    "may": ThinkingRules(KNOWN_TAGS[0], begun=False),
    "may, in control tokens": ThinkingRules(KNOWN_TAGS[1], begun=False),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(write_model(tmp_path_factory.mktemp("bytes"), TEMPLATE, CONTROL))


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> GrammarTokenizer:
    return GrammarTokenizer(tokenizer, VOCABULARY, [END])


class Walk:
    """Says what it is told to, then whatever the grammar allows, and ends as soon as it may."""

    def __init__(self, tokenizer: Tokenizer, grammars: GrammarTokenizer, grammar: str) -> None:
        self._tokenizer = tokenizer
        self._matcher = Matcher(grammars.compile(grammar), grammars)
        self.text = ""
        self.ended = False

    def allows(self, text: str) -> bool:
        """Say it; whether all of it was allowed."""
        tokens = self._tokenizer.encode(text, add_special_tokens=False)
        if self._matcher.accept(tokens) < len(tokens):
            return False
        self.text += text
        return True

    def go_on(self, seed: int, *, ends: float = 1.0) -> str:
        """All of the text; where it may end, it does with this probability."""
        choose = random.Random(seed)
        tokens: list[int] = []
        while len(tokens) < MOST_TOKENS and not self.ended:
            allowed = [*self._allowed()]
            readable = [token for token in allowed if 5 <= token < 99 or token >= 261] or allowed
            if END in allowed and (len(allowed) == 1 or choose.random() < ends):
                self.ended = True
                break
            token = choose.choice([each for each in readable if each != END] or [END])
            assert self._matcher.accept([token]) == 1
            tokens.append(token)
        self.text += self._tokenizer.decode(tokens, skip_special_tokens=False)
        return self.text

    def _allowed(self) -> Iterator[int]:
        mask = self._matcher.mask()
        return (token for token in range(VOCABULARY) if mask[token >> 3] >> (token & 7) & 1)


def message_of(tokenizer: Tokenizer, text: str, name: str | None, thinking: ThinkingRules | None) -> WholeMessage:
    names = [function.name for function in FUNCTIONS]
    reader = MessageReader(
        tokenizer.pieces,
        thinking=None if thinking is None else ThinkingParser(thinking.tags, begun=thinking.begun),
        tools=None if name is None else ToolCallParser(FORMATS[name], names),
    )
    message = WholeMessage()
    for character in text:
        message.add(reader.push(character))
    message.add(reader.finish())
    return message


def assert_calls_are_valid(message: WholeMessage) -> None:
    schemas = {function.name: function.schema for function in FUNCTIONS}
    for call in message.calls:
        assert call.complete
        arguments = json.loads(call.arguments)
        assert jsonschema_rs.is_valid(schemas[call.name], arguments), (call.name, arguments)


def control_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    return {text: tokenizer.encode(text, add_special_tokens=False)[0] for text in CONTROL}


def thought_of(thinking: ThinkingRules | None, text: str) -> str:
    """As a model writes it before its answer."""
    if thinking is None:
        return ""
    return f"{'' if thinking.begun else thinking.tags.begin}\n{text}\n{thinking.tags.end}\n\n"


@pytest.mark.parametrize(("name", "kind"), [*product(FORMATS, THINKING)])
def test_required_calls_are_all_there_is_and_valid(
    tokenizer: Tokenizer, grammars: GrammarTokenizer, name: str, kind: str
) -> None:
    thinking = THINKING[kind]
    rules = ToolRules(FORMATS[name], FUNCTIONS, required=True, several=True)
    grammar = answer_grammar(control_tokens(tokenizer), tools=rules, thinking=thinking) or ""
    several = 0
    for seed in range(6):
        walk = Walk(tokenizer, grammars, grammar)
        thought = thought_of(thinking, f"hm {'' if CONTROL[0] in FORMATS[name].begin else FORMATS[name].begin}x")
        assert walk.allows(thought)
        message = message_of(tokenizer, walk.go_on(seed, ends=0.6), name, thinking)
        assert walk.ended, walk.text
        assert (message.content, bool(message.calls)) == ("", True)
        assert_calls_are_valid(message)
        several += len(message.calls) > 1
    assert several, "no walk called twice"


@pytest.mark.parametrize(("name", "kind"), [*product(FORMATS, THINKING)])
def test_text_goes_over_into_calls_where_the_trigger_comes(
    tokenizer: Tokenizer, grammars: GrammarTokenizer, name: str, kind: str
) -> None:
    thinking, spelling = THINKING[kind], FORMATS[name]
    rules = ToolRules(spelling, FUNCTIONS, required=False, several=False)
    grammar = answer_grammar(control_tokens(tokenizer), tools=rules, thinking=thinking) or ""
    said = "Let me { see <tool." if spelling.anywhere else ""
    for seed in range(4):
        walk = Walk(tokenizer, grammars, grammar)
        assert walk.allows(thought_of(thinking, "hm") + said + (spelling.trigger or "{"))
        message = message_of(tokenizer, walk.go_on(seed), name, thinking)
        assert walk.ended, walk.text
        assert (message.content, len(message.calls)) == (said, 1)
        assert_calls_are_valid(message)
    silent = Walk(tokenizer, grammars, grammar)
    assert silent.allows(thought_of(thinking, "hm") + "No <tool> helps: {}.")
    assert not message_of(tokenizer, silent.go_on(1), name, thinking).calls


@pytest.mark.parametrize("kind", THINKING)
@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS[name].anywhere])
def test_an_answer_is_either_calls_or_the_structure(
    tokenizer: Tokenizer, grammars: GrammarTokenizer, name: str, kind: str
) -> None:
    thinking, spelling = THINKING[kind], FORMATS[name]
    rules = ToolRules(spelling, FUNCTIONS, required=False, several=True)
    control = control_tokens(tokenizer)
    grammar = answer_grammar(control, tools=rules, structure=STRUCTURE, thinking=thinking) or ""
    for begin in (spelling.trigger, "{"):
        walk = Walk(tokenizer, grammars, grammar)
        assert walk.allows(thought_of(thinking, "hm") + begin)
        message = message_of(tokenizer, walk.go_on(3), name, thinking)
        assert walk.ended
        assert bool(message.calls) == (begin == spelling.trigger)
        assert_calls_are_valid(message)
        if not message.calls:
            assert jsonschema_rs.is_valid(STRUCTURE_SCHEMA, json.loads(message.content))
    assert not Walk(tokenizer, grammars, grammar).allows(thought_of(thinking, "hm") + "hi")


@pytest.mark.parametrize("kind", THINKING)
def test_a_structure_comes_after_the_thinking(tokenizer: Tokenizer, grammars: GrammarTokenizer, kind: str) -> None:
    thinking = THINKING[kind]
    grammar = answer_grammar(control_tokens(tokenizer), structure=STRUCTURE, thinking=thinking) or ""
    walk = Walk(tokenizer, grammars, grammar)
    assert walk.allows(thought_of(thinking, 'is {"ok": 1} it?'))
    message = message_of(tokenizer, walk.go_on(5), None, thinking)
    assert jsonschema_rs.is_valid(STRUCTURE_SCHEMA, json.loads(message.content))
    if thinking is not None:
        assert message.reasoning == 'is {"ok": 1} it?'
    if thinking is not None and not thinking.begun:
        assert Walk(tokenizer, grammars, grammar).allows('{"ok')


def test_arguments_are_spaced_as_the_model_has_seen_them(tokenizer: Tokenizer, grammars: GrammarTokenizer) -> None:
    rules = ToolRules(FORMATS["hermes"], FUNCTIONS[:1], required=True, several=False)
    walk = Walk(tokenizer, grammars, answer_grammar({}, tools=rules) or "")
    assert walk.allows('<tool_call>\n{"name": "weather", "arguments": {"city": "Köln", "days": [1, 2]}}\n</tool_call>')
    assert not Walk(tokenizer, grammars, answer_grammar({}, tools=rules) or "").allows(
        '<tool_call>\n{"name": "weather", "arguments": {"city":'.replace(": {", ":  {")
    )


def test_without_tools_and_structure_anything_may_be_said() -> None:
    assert answer_grammar({}, thinking=ThinkingRules(KNOWN_TAGS[0], begun=False)) is None
