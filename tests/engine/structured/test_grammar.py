"""A sequence's place in its grammar, and how grammars are compiled beside everything else."""

from __future__ import annotations

import re
import threading
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.errors import InvalidRequestError
from penstock.engine.stopping import OutputStream
from penstock.engine.structured.awaiting import TIME_LIMIT_SECONDS, WARM_UP_SECONDS, AwaitingGrammars
from penstock.engine.structured.grammar import Compilation, GrammarCompiler, GrammarTokenizer, Matcher
from penstock.engine.types import Request, SamplingParams
from penstock.models.vocabulary import Vocabulary
from support.byte_vocabulary import (
    END,
    FIRST_LONGER,
    LONGER,
    MARK,
    SIZE,
    allowed,
    byte_tokenizer,
    byte_vocabulary,
    follows,
)

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 30.0
ABC = FIRST_LONGER + LONGER.index("abc")


@pytest.fixture(scope="module")
def tokenizer() -> GrammarTokenizer:
    return byte_tokenizer()


@pytest.fixture
def at(tokenizer: GrammarTokenizer) -> Callable[[str], Matcher]:
    return lambda grammar: Matcher(tokenizer.compile(grammar), tokenizer)


def test_the_end_of_text_is_allowed_exactly_where_the_text_satisfies_the_grammar(at: Callable[[str], Matcher]) -> None:
    matcher = at("start: /(ab)+/")
    assert allowed(matcher.mask()) == {ord("a")}
    assert not matcher.is_complete
    assert matcher.accept([ord("a"), ord("b")]) == 2
    assert allowed(matcher.mask()) == {ord("a"), END}
    assert matcher.is_complete
    assert not matcher.is_over


def test_a_grammar_that_nothing_may_follow_is_over(at: Callable[[str], Matcher]) -> None:
    matcher = at('start: "abc" | "x"')
    assert allowed(matcher.mask()) == {ord("a"), ord("x"), ABC, *_prefixes("abc")}
    assert matcher.accept([ABC]) == 1
    assert matcher.is_over


def _prefixes(text: str) -> set[int]:
    return {FIRST_LONGER + at for at, longer in enumerate(LONGER) if text.startswith(longer)}


def test_only_the_tokens_that_are_allowed_are_accepted_and_the_rest_leave_no_trace(
    at: Callable[[str], Matcher],
) -> None:
    matcher = at("start: /(ab)+c/")
    assert matcher.accept(list(b"abaX")) == 3
    before = matcher.mask()
    assert matcher.accept(list(b"Y")) == 0
    assert matcher.mask() == before
    assert matcher.accept(list(b"bc")) == 2
    assert matcher.is_over


def test_special_tokens_and_ids_without_a_token_match_no_text(at: Callable[[str], Matcher]) -> None:
    mask = allowed(at(r"start: /(?s:.)+/").mask())
    assert not {END, MARK} & mask
    assert not any(token >= SIZE for token in mask)
    assert ord("<") in mask


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_fork_goes_its_own_way(data: st.DataObject) -> None:
    tokenizer = byte_tokenizer_of_this_module()
    matcher = Matcher(tokenizer.compile('start: %json {"type": ["object", "array", "integer"]}'), tokenizer)
    for _ in range(data.draw(st.integers(0, 10))):
        choices = sorted(allowed(matcher.mask()) - {END})
        if not choices:
            break
        assert matcher.accept([data.draw(st.sampled_from(choices))]) == 1
    before = matcher.mask(), matcher.is_complete
    fork = matcher.fork()
    assert (fork.mask(), fork.is_complete) == before
    choices = sorted(allowed(fork.mask()) - {END})
    if choices:
        assert fork.accept([data.draw(st.sampled_from(choices))]) == 1
    assert (matcher.mask(), matcher.is_complete) == before


_shared: list[GrammarTokenizer] = []


def byte_tokenizer_of_this_module() -> GrammarTokenizer:
    if not _shared:
        _shared.append(byte_tokenizer())
    return _shared[0]


def test_whether_another_end_would_complete_the_text_is_told_without_moving(at: Callable[[str], Matcher]) -> None:
    matcher = at("start: /(abc)+/")
    matcher.accept([ABC, *b"ab"])
    before = matcher.mask()
    assert matcher.completes(2, b"")
    assert not matcher.completes(1, b"")
    assert matcher.completes(0, b"c")
    assert matcher.completes(3, b"abcabc")
    assert not matcher.completes(1, b"zz")
    assert matcher.mask() == before
    assert follows(matcher, "c")


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ("nonsense", "Expected"),
        ("start: missing", "missing"),
        ('start: ""', "nothing but the empty text"),
        ("start: a\na: a", "allows no token"),
        ('start: %json {"not": {}}', "not"),
        ("start: /(?=a)b/", "look"),
        ("start: " + "(" * 3000 + '"a"' + ")" * 3000, "nested"),
        ("", "can't be followed"),
        ("\0", "can't be followed"),
        ("start: /[/", "can't be followed"),
    ],
)
def test_a_grammar_that_cant_be_is_refused_with_the_reason(
    tokenizer: GrammarTokenizer, grammar: str, reason: str
) -> None:
    with pytest.raises(InvalidRequestError, match=reason) as caught:
        tokenizer.compile(grammar)
    assert caught.value.code == "invalid_grammar"
    assert caught.value.param == "grammar"
    assert len(caught.value.message) < 700


def test_a_grammar_that_never_ends_fails_where_it_can_be_told(at: Callable[[str], Matcher]) -> None:
    endless = at('start: "a" x\nx: "b" x')
    with pytest.raises(InvalidRequestError, match="can't be followed"):
        endless.accept([ord("a")])


def test_a_vocabulary_without_an_end_of_text_takes_no_grammar() -> None:
    with pytest.raises(InvalidRequestError, match="no token that ends"):
        GrammarTokenizer(byte_vocabulary(), SIZE, [])


class Compiling:
    """A compiler, and a way to wait for it."""

    def __init__(self, make: Callable[[], GrammarTokenizer] = byte_tokenizer) -> None:
        self.done = threading.Semaphore(0)
        self.compiler = GrammarCompiler(make, self.done.release)

    def wait(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.done.acquire(timeout=PATIENCE)


def test_a_grammar_is_compiled_once_and_each_matcher_begins_at_its_beginning() -> None:
    compiling = Compiling()
    first = compiling.compiler.compile("start: /a+/")
    assert compiling.compiler.compile("start: /a+/") is first
    compiling.wait()
    one, other = first.matcher(), first.matcher()
    assert one is not None
    assert other is not None
    assert follows(one, "aa")
    assert not other.is_complete
    compiling.compiler.close()


def test_grammars_that_took_much_memory_are_forgotten_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = iter(range(0, 100 << 30, 400 << 20))  # each compilation takes 400 MiB
    monkeypatch.setattr("penstock.engine.structured.grammar._resident_bytes", lambda: next(resident))
    compiling = Compiling()
    compile_ = compiling.compiler.compile
    kept = []
    for letter in "abc":
        kept.append(compile_(f'start: "{letter}"'))
        compiling.wait()
    assert compile_('start: "c"') is kept[2]
    assert compile_('start: "b"') is kept[1]
    assert compile_('start: "a"') is not kept[0]
    compiling.compiler.close()


@pytest.mark.parametrize("letter", "aA")
def test_a_long_chain_of_rules_is_compiled_without_overflowing_the_stack(letter: str) -> None:
    chain = "\n".join(f"{letter}{at}: {letter}{at + 1}" for at in range(4000))
    compiling = Compiling()
    compilation = compiling.compiler.compile(f'start: {letter}0\n{chain}\n{letter}4000: "x"')
    compiling.wait()
    matcher = compilation.matcher()
    assert matcher is not None
    assert follows(matcher, "x")
    compiling.compiler.close()


def test_the_least_recently_used_grammars_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.engine.structured.grammar._KEPT", 2)
    compiling = Compiling()
    compile_ = compiling.compiler.compile
    a, b = compile_('start: "a"'), compile_('start: "b"')
    assert compile_('start: "a"') is a
    c = compile_('start: "c"')
    assert compile_('start: "c"') is c
    assert compile_('start: "a"') is a
    assert compile_('start: "b"') is not b
    compiling.wait(4)
    assert b.matcher() is not None, "who holds a compilation keeps it"
    compiling.compiler.close()


def test_a_tokenizer_that_cant_be_made_refuses_every_grammar() -> None:
    compiling = Compiling(lambda: GrammarTokenizer(byte_vocabulary(), SIZE, []))
    found = compiling.compiler.compile('start: "a"')
    compiling.wait()
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match="no token that ends"):
            found.matcher()
    compiling.compiler.close()


def test_what_fails_unexpectedly_refuses_one_grammar_and_the_next_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = GrammarTokenizer.compile

    def compile_(self: GrammarTokenizer, grammar: str) -> object:
        if "bad" in grammar:
            raise RuntimeError("out of luck")
        return real(self, grammar)

    monkeypatch.setattr(GrammarTokenizer, "compile", compile_)
    compiling = Compiling()
    bad, good = (compiling.compiler.compile(f'start: "{text}"') for text in ("bad", "good"))
    compiling.wait(2)
    with pytest.raises(InvalidRequestError, match="could not be compiled"):
        bad.matcher()
    assert good.matcher() is not None
    compiling.compiler.close()


@pytest.mark.parametrize("drafts", [0, 3])
def test_a_lexer_that_many_texts_have_filled_is_replaced_and_none_of_them_notices(
    monkeypatch: pytest.MonkeyPatch, drafts: int
) -> None:
    monkeypatch.setattr("penstock.engine.structured.grammar._MAX_LEXER_STATES", 400)
    rng = Random(7)
    compilation = Compilation("start: /(a|b)*a(a|b){10}/")
    compilation.run(byte_tokenizer())
    for _ in range(3):
        matchers = [found for _ in range(4) if (found := compilation.matcher()) is not None]
        for at in range(80):
            for matcher in matchers:
                assert allowed(matcher.mask()) - {END} == {ord("a"), ord("b")}
                if drafts:
                    assert matcher.fork().accept(rng.choices(b"ab", k=drafts)) == drafts
                assert matcher.accept([b"ab"[(at + rng.randrange(2)) % 2]]) == 1
        for matcher in matchers:
            assert follows(matcher, "abbbbbbbbbb")
            assert matcher.is_complete
            assert END in allowed(matcher.mask())


def test_given_a_grammar_in_frequent_use_when_its_lexer_is_full_then_another_has_been_compiled_beside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("penstock.engine.structured.grammar._MAX_LEXER_STATES", 400)
    threads: list[str] = []
    compile_ = GrammarTokenizer.compile

    def compile_and_tell(tokenizer: GrammarTokenizer, grammar: str) -> Any:
        threads.append(threading.current_thread().name)
        return compile_(tokenizer, grammar)

    monkeypatch.setattr(GrammarTokenizer, "compile", compile_and_tell)
    compiling = Compiling()
    compilation = compiling.compiler.compile("start: /(a|b)*a(a|b){10}/")
    compiling.wait()
    matchers = [found for _ in range(16) if (found := compilation.matcher()) is not None]
    compiling.wait()
    assert threads == ["grammars"] * 2
    rng = Random(7)
    for matcher in matchers:
        for _ in range(60):
            assert allowed(matcher.mask()) - {END} == {ord("a"), ord("b")}
            assert matcher.accept([rng.choice(b"ab")]) == 1
        if compiling.done.acquire(blocking=False) or len(threads) > 2:
            break
    else:
        pytest.fail("no lexer was full")
    assert set(threads) == {"grammars"}
    compiling.compiler.close()


def test_a_text_that_fills_a_lexer_by_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.engine.structured.grammar._MAX_LEXER_STATES", 400)
    compilation = Compilation("start: /(a|b)*a(a|b){18}/")
    compilation.run(byte_tokenizer())
    matcher = compilation.matcher()
    assert matcher is not None
    with pytest.raises(InvalidRequestError, match="too many states"):
        matcher.accept(Random(7).choices(b"ab", k=2000))


def test_a_vocabulary_that_cant_be_prepared_refuses_grammars_and_keeps_nobody_waiting() -> None:
    def make() -> GrammarTokenizer:
        raise RuntimeError("out of luck")

    compiling = Compiling(make)
    for grammar in ('start: "a"', 'start: "b"'):
        found = compiling.compiler.compile(grammar)
        compiling.wait()
        with pytest.raises(InvalidRequestError, match="this model's vocabulary"):
            found.matcher()
    compiling.compiler.close()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def request(name: str, grammar: str) -> Request:
    return Request(request_id=name, prompt_token_ids=[1], params=SamplingParams(grammar=grammar))


def test_requests_wait_for_their_own_grammar_and_leave_in_the_order_they_came() -> None:
    done = threading.Semaphore(0)
    gate = threading.Event()

    def make() -> GrammarTokenizer:
        assert gate.wait(PATIENCE)
        return byte_tokenizer()

    awaiting = AwaitingGrammars(make, done.release)
    for name, grammar in (
        ("first", 'start: "a"'),
        ("wrong", "nonsense"),
        ("left", 'start: "b"'),
        ("last", 'start: "a"'),
    ):
        assert awaiting.open(request(name, grammar), grammar) is None
    assert "left" in awaiting
    awaiting.drop("left")
    awaiting.drop("unknown")
    assert awaiting.ready() == []
    gate.set()
    for _ in range(2):
        assert done.acquire(timeout=PATIENCE)
    found = {each.request_id: outcome for each, outcome in awaiting.ready()}
    assert list(found) == ["first", "wrong", "last"]
    assert isinstance(found["first"], Matcher)
    assert isinstance(found["wrong"], InvalidRequestError)
    assert len(awaiting) == 0
    assert awaiting.open(request("again", 'start: "a"'), 'start: "a"') is not None
    with pytest.raises(InvalidRequestError):
        awaiting.open(request("wrong again", "nonsense"), "nonsense")
    awaiting.close()


def test_given_grammars_that_wait_for_their_turn_when_their_clients_leave_then_they_are_not_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[str] = []
    real = GrammarTokenizer.compile

    def compile_(self: GrammarTokenizer, grammar: str) -> object:
        compiled.append(grammar)
        return real(self, grammar)

    monkeypatch.setattr(GrammarTokenizer, "compile", compile_)
    done = threading.Semaphore(0)
    gate = threading.Event()

    def make() -> GrammarTokenizer:
        assert gate.wait(PATIENCE)
        return byte_tokenizer()

    clock = Clock()
    awaiting = AwaitingGrammars(make, done.release, clock)
    a, b, c, d = (f'start: "{letter}"' for letter in "abcd")
    awaiting.open(request("late", d), d)
    clock.now += 1
    for name, grammar in (("one", a), ("two", b), ("also two", b), ("three", a), ("four", c)):
        assert awaiting.open(request(name, grammar), grammar) is None
    for name in ("one", "two", "three"):
        awaiting.drop(name)
    assert awaiting.open(request("one again", a), a) is None
    clock.now += TIME_LIMIT_SECONDS - 1
    assert [each.request_id for each, _ in awaiting.ready()] == ["late"]
    gate.set()
    for _ in range(3):
        assert done.acquire(timeout=PATIENCE)
    assert [each.request_id for each, _ in awaiting.ready()] == ["also two", "four", "one again"]
    assert compiled == [b, c, a]
    awaiting.close()


def test_a_grammar_that_takes_too_long_fails_its_request_alone() -> None:
    gate = threading.Event()
    clock = Clock()
    done = threading.Semaphore(0)

    def make() -> GrammarTokenizer:
        assert gate.wait(PATIENCE)
        return byte_tokenizer()

    awaiting = AwaitingGrammars(make, done.release, clock)
    assert awaiting.patience == WARM_UP_SECONDS
    awaiting.open(request("slow", 'start: "a"'), 'start: "a"')
    clock.now += 4
    awaiting.open(request("later", 'start: "b"'), 'start: "b"')
    assert awaiting.patience == TIME_LIMIT_SECONDS - 4
    clock.now += TIME_LIMIT_SECONDS - 4
    [(late, outcome)] = awaiting.ready()
    assert late.request_id == "slow"
    assert isinstance(outcome, InvalidRequestError)
    assert "10 seconds" in outcome.message
    gate.set()
    assert done.acquire(timeout=PATIENCE)
    assert [each.request_id for each, _ in awaiting.ready()] == ["later"]
    assert awaiting.patience is None
    awaiting.close()


def test_silence_makes_the_tokenizer_once() -> None:
    made = threading.Semaphore(0)

    def make() -> GrammarTokenizer:
        made.release()
        return byte_tokenizer()

    awaiting = AwaitingGrammars(make, lambda: None)
    for _ in range(3):
        awaiting.settle()
    assert made.acquire(timeout=PATIENCE)
    assert awaiting.patience is None
    awaiting.close()
    assert not made.acquire(blocking=False)


def test_a_vocabulary_is_what_the_model_has(tokenizer: GrammarTokenizer) -> None:
    assert isinstance(byte_vocabulary(), Vocabulary)
    assert tokenizer.tokens("abcé☃x".encode()) == [ABC, FIRST_LONGER + LONGER.index("é☃"), ord("x")]
    assert allowed(tokenizer.ends) == {END}


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([r"(abc){1,6}", r"([ab]{2},?){1,5}", r"é?(☃b|a){0,9}x?y", r"(aa|b)+"]),
    st.lists(st.text("abcx,é☃", min_size=1, max_size=4), max_size=3),
    st.booleans(),
    st.integers(0, 8),
    st.sets(st.sampled_from([ord("a"), ord("b"), ABC]), max_size=2),
    st.randoms(use_true_random=False),
)
def test_whatever_stop_strings_and_tokens_there_are_what_ends_in_stop_matches(
    pattern: str, stops: list[str], include: bool, least: int, stop_tokens: set[int], rng: Random
) -> None:
    tokenizer = byte_tokenizer_of_this_module()
    params = SamplingParams(
        stop=tuple(stops),
        include_stop_str_in_output=include,
        min_tokens=least,
        stop_token_ids=tuple(stop_tokens),
        max_tokens=40,
    )
    matcher = Matcher(tokenizer.compile(grammar_of(pattern)), tokenizer)
    stream = OutputStream(byte_vocabulary(), params, [], [END], 40, matcher)
    text, reason, matched = "", None, None
    while reason is None:
        mask = stream.allowed
        assert mask is not None
        choices = sorted(allowed(mask) - set(stream.banned_token_ids))
        more, reason, matched = stream.push(rng.choice(choices))
        text += more
    if reason == "stop":
        assert re.fullmatch(pattern, text)
    if isinstance(matched, str):
        assert matched in stops
        assert not include or text.endswith(matched)


def grammar_of(pattern: str) -> str:
    return f"start: /{pattern}/"
