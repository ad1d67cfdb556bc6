"""The parts of grammars match what they say, whatever is in them."""

from __future__ import annotations

import re
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.errors import InvalidRequestError
from penstock.engine.structured import lark
from penstock.engine.structured.grammar import Matcher
from support.byte_vocabulary import MARK, byte_tokenizer, follows

tokenizer = cache(byte_tokenizer)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


def matches(grammar: str, text: str) -> bool:
    matcher = Matcher(tokenizer().compile(grammar), tokenizer())
    return matcher.accept(list(text.encode())) == len(text.encode()) and matcher.is_complete


@settings(max_examples=100, deadline=None)
@given(texts, texts)
def test_a_literal_is_itself_alone(text: str, other: str) -> None:
    grammar = lark.grammar(lark.literal(text))
    assert matches(grammar, text)
    assert other == text or not matches(grammar, other)


@settings(max_examples=60, deadline=None)
@given(st.lists(texts, min_size=1, max_size=5), texts)
def test_one_of_some_texts_is_one_of_them(choices: list[str], other: str) -> None:
    grammar = lark.grammar(lark.any_of(choices))
    assert all(matches(grammar, choice) for choice in choices)
    assert matches(grammar, other) == (other in choices)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("a/b", "a/b"),
        (r"a\/b", "a/b"),
        (r"\\/x", "\\/x"),
        ("^ab$", "ab"),
        ("a\nb", "a\nb"),
        ("a\\\nb", "a\nb"),
        ("[/]+", "//"),
        (r"\d{2,3}", "123"),
        ('"', '"'),
        ("yes|no", "no"),
        (r"\w+@[a-z]+\.com", "me@home.com"),
        ("é☃?", "é"),
    ],
)
def test_a_pattern_matches_from_beginning_to_end(pattern: str, text: str) -> None:
    grammar = lark.grammar(lark.regex(pattern))
    assert matches(grammar, text)
    assert not matches(grammar, text + "~")


@settings(max_examples=60, deadline=None)
@given(texts)
def test_an_escaped_text_is_a_pattern_of_itself(text: str) -> None:
    assert matches(lark.grammar(lark.regex(re.escape(text))), text)


def test_parts_go_together() -> None:
    value = lark.json_value({"type": "integer"})
    grammar = lark.grammar(f"{lark.literal('x=')} number ({lark.any_of([';', '.'])})", {"number": value})
    assert matches(grammar, "x=12;")
    assert not matches(grammar, "x=12")


def test_special_tokens_are_named_by_spelling_or_id() -> None:
    for part in (lark.special("<|mark|>"), lark.special_id(MARK)):
        matcher = Matcher(tokenizer().compile(lark.grammar(f'"a" {part} "b"')), tokenizer())
        assert matcher.accept([ord("a"), MARK, ord("b")]) == 3
        assert matcher.is_over


def test_ebnf_is_read_with_colons_or_as_lark() -> None:
    for text in ('root ::= "a" [0-9]+ rest\nrest ::= "b" | "c"', 'start: "a" /[0-9]/+ rest\nrest: "b" | "c"'):
        grammar = lark.from_ebnf(text)
        assert matches(grammar, "a12c")
        assert not matches(grammar, "ac")


@pytest.mark.parametrize(
    "text",
    ['x ::= "a"', 'root ::= "a', "root ::= missing", "::=", "root ::= " + "(" * 5000, 'root ::= "a"' + " " * 60_000],
    ids=lambda text: text[:12],
)
def test_ebnf_that_cant_be_read_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its sentence is the converter's
        lark.from_ebnf(text)
    assert str(caught.value)


def test_schemas_within_a_grammar_are_held_to_the_letter_too() -> None:
    grammar = lark.from_ebnf('start: "a" x | "b" y\nx: %json {"type": "number"}\ny: %json\n{"pattern": "^[^\\"]$"}\n')
    assert not follows(Matcher(tokenizer().compile(grammar), tokenizer()), "a1e5")
    assert not follows(Matcher(tokenizer().compile(grammar), tokenizer()), 'b"\\"')
    assert follows(Matcher(tokenizer().compile(grammar), tokenizer()), 'b"x"')


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('start: %json {"type": "integer", "minimum": -1e19, "maximum": -1e19}', "maximum"),
        ('start: %lark { start: %json {"type": "array", "uniqueItems": true} }', "uniqueItems"),
        ('start: %json {"x-guidance": {"lenient": true}}', "x-guidance"),
        ('start: %json {"a": ', "Expecting value"),
        ('start: %json {"a": ' + "[" * 5000, "nested"),
        (' {"grammars": [{"json_schema": {}}]}', "JSON"),
        ("start: " + "a " * 30_000, "longer"),
    ],
)
def test_what_could_slip_past_the_schemas_checks_is_refused(text: str, reason: str) -> None:
    with pytest.raises((ValueError, InvalidRequestError), match=reason):
        lark.from_ebnf(text)
