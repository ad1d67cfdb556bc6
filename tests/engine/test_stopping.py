"""Stop strings, stop tokens and lengths, on streamed text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.engine.stopping import OutputStream, StopStrings
from penstock.engine.types import SamplingParams
from penstock.models.tokenizer import Tokenizer
from support.tiny_chat import write_tiny_chat

EOS = 2


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(write_tiny_chat(tmp_path_factory.mktemp("tiny")))


def run(stops: StopStrings, pieces: list[str]) -> tuple[str, str | None]:
    shown = ""
    for piece in pieces:
        text, stop = stops.push(piece)
        shown += text
        if stop is not None:
            return shown, stop
    return shown + stops.flush(), None


def whole_text_rule(text: str, stops: list[str], *, include: bool) -> tuple[str, str | None]:
    """The definition: cut at the stop string that is complete first, the one that began first among equals."""
    best = min(
        ((text.find(s) + len(s), text.find(s), s) for s in stops if s in text), default=None, key=lambda hit: hit[:2]
    )
    if best is None:
        return text, None
    end, at, stop = best
    return text[: end if include else at], stop


def test_a_stop_string_split_over_pieces_is_found_and_never_shown() -> None:
    stops = StopStrings(["STOP"], include=False)
    assert stops.push("go S") == ("go ", None)
    assert stops.push("TO") == ("", None)
    assert stops.push("P more") == ("", "STOP")


def test_text_that_only_began_like_a_stop_string_is_shown_in_full() -> None:
    assert run(StopStrings(["STOP"], include=False), ["go ST", "AY"]) == ("go STAY", None)


def test_nothing_is_held_back_when_the_tail_begins_no_stop_string() -> None:
    assert StopStrings(["###"], include=False).push("hello") == ("hello", None)


@given(
    text=st.text(alphabet="abc", max_size=40),
    stops=st.lists(st.text(alphabet="abc", min_size=1, max_size=4), min_size=1, max_size=3, unique=True),
    cuts=st.lists(st.integers(1, 5), max_size=40),
    include=st.booleans(),
)
def test_streamed_one_piece_at_a_time_equals_the_rule_on_the_text_up_to_the_stop(
    text: str, stops: list[str], cuts: list[int], include: bool
) -> None:
    pieces = list(text)  # characters: the first moment at which a stop string can be complete
    assert run(StopStrings(stops, include=include), pieces) == whole_text_rule(text, stops, include=include)
    at, coarse = 0, []
    for cut in cuts:
        coarse.append(text[at : at + cut])
        at += cut
    coarse.append(text[at:])
    shown, stop = run(StopStrings(stops, include=include), coarse)
    expected, expected_stop = whole_text_rule(text, stops, include=include)
    assert (shown, stop) == (expected, expected_stop)


def stream(tokenizer: Tokenizer, *, max_tokens: int = 100, **params: object) -> OutputStream:
    return OutputStream(tokenizer, SamplingParams(**params), [5], [EOS], max_tokens)  # type: ignore[arg-type]


def feed(out: OutputStream, tokens: list[int]) -> tuple[str, object, object, int]:
    shown = ""
    for count, token in enumerate(tokens, 1):
        text, reason, matched = out.push(token)
        shown += text
        if reason is not None:
            return shown, reason, matched, count
    return shown, None, None, len(tokens)


def test_end_of_text_stops_without_being_shown(tokenizer: Tokenizer) -> None:
    tokens = [*tokenizer.encode("hi", add_special_tokens=False), EOS, 9]
    assert feed(stream(tokenizer), tokens) == ("hi", "stop", None, 3)


def test_ignore_eos_runs_to_the_length(tokenizer: Tokenizer) -> None:
    tokens = [*tokenizer.encode("hi", add_special_tokens=False), EOS, *tokenizer.encode("yo", add_special_tokens=False)]
    assert feed(stream(tokenizer, max_tokens=5, ignore_eos=True), tokens) == ("hiyo", "length", None, 5)


def test_a_stop_token_is_named_and_shown_only_when_asked(tokenizer: Tokenizer) -> None:
    (bang,) = tokenizer.encode("!", add_special_tokens=False)
    tokens = [*tokenizer.encode("hi", add_special_tokens=False), bang]
    assert feed(stream(tokenizer, stop_token_ids=(bang,)), tokens) == ("hi", "stop", bang, 3)
    included = stream(tokenizer, stop_token_ids=(bang,), include_stop_str_in_output=True)
    assert feed(included, tokens) == ("hi!", "stop", bang, 3)


def test_min_tokens_bans_the_ending_tokens_until_enough_were_generated(tokenizer: Tokenizer) -> None:
    out = stream(tokenizer, min_tokens=2, stop_token_ids=(7,))
    assert list(out.banned_token_ids) == [EOS, 7]
    out.push(10)
    assert list(out.banned_token_ids) == [EOS, 7]
    out.push(11)
    assert list(out.banned_token_ids) == []


def test_a_character_cut_by_the_length_is_shown_as_its_replacement(tokenizer: Tokenizer) -> None:
    first_byte_of_euro = tokenizer.encode("€", add_special_tokens=False)[:1]
    assert feed(stream(tokenizer, max_tokens=1), first_byte_of_euro) == ("\ufffd", "length", None, 1)


def test_text_held_back_for_a_stop_string_is_shown_when_the_length_ends_it(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("ab##", add_special_tokens=False)
    assert feed(stream(tokenizer, max_tokens=4, stop=("###",)), tokens) == ("ab##", "length", None, 4)
