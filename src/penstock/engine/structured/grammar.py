"""What a text must match, token by token: grammars compiled beside the step loop, and a sequence's place in one.

Grammars are in llguidance's dialect of Lark (https://github.com/guidance-ai/llguidance, docs/syntax.md): rules over
literals and regular expressions, `%json {...}` for a JSON schema, `%regex`, and special tokens such as `<|im_start|>`.
Its lexer is a lazy automaton over derivatives and its parser Earley's, so that compiling takes a millisecond or two and
a mask some microseconds: each is bounded by fuel, not by the clock.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from copy import copy
from functools import cached_property
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar, cast

from penstock.core.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

    from penstock.models.vocabulary import Vocabulary

log = logging.getLogger(__name__)

T = TypeVar("T")

CODE = "invalid_grammar"
_KEPT = 128  # compiled grammars that are remembered
_KEPT_BYTES = 1 << 30  # and what they may have taken in all: most take some kilobytes, the worst a hundred megabytes
_OFTEN = 16  # matchers of one grammar, after which its lexer may fill
_MAX_LEXER_STATES = 50_000  # of one grammar; at one to two KB each
_STACK = 512 << 20  # llguidance recurses into rules: what the longest grammar may need, taken only if it does
_FULL = "too many states"  # what a matcher says whose lexer has that many


class Matcher:
    """One sequence's place in its grammar. Not for several threads at once.

    Copies of a matcher share its lexer, whose states only grow in number: where many texts have filled it, this one
    goes on with a new lexer, which the others then share.

    Args:
        root: llguidance's, at the beginning, to be copied.
        tokenizer: of the same vocabulary.
        renew: gives a matcher like `root` whose lexer has room, when it is told which one's is full; None: a full one
            is an error.
    """

    def __init__(
        self, root: LLMatcher, tokenizer: GrammarTokenizer, renew: Callable[[LLMatcher], LLMatcher] | None = None
    ) -> None:
        self._root = root
        self._matcher = root.deep_copy()
        self._tokenizer = tokenizer
        self._renew = renew
        self._tokens: list[int] = []  # from the beginning to this place
        self._mask: bytes | None = None

    def mask(self) -> bytes:
        """The tokens that may come next, a bit each, the least significant of a byte first; ends of text where the
        text so far satisfies the grammar.

        Raises InvalidRequestError where the grammar allows nothing, or is too complex to tell.
        """
        if self._mask is None:
            self._mask = self._ask(lambda matcher: matcher.compute_bitmask())
        return self._mask

    def accept(self, tokens: Sequence[int]) -> int:
        """Move on over `tokens` as far as the grammar allows them; how many it did."""
        self._mask = None
        tokens = list(tokens)
        count = self._ask(lambda matcher: matcher.try_consume_tokens(tokens))
        self._tokens += tokens[:count]
        if count < len(tokens):
            # A full lexer takes no new text for allowed, and says why only when it is asked for a mask.
            before = self._root
            self.mask()
            if self._root is not before:
                count += self.accept(tokens[count:])
        return count

    def fork(self) -> Matcher:
        """Another at the same place."""
        fork = copy(self)
        fork._matcher = self._matcher.deep_copy()
        fork._tokens = self._tokens.copy()
        return fork

    @property
    def is_complete(self) -> bool:
        """The text so far satisfies the grammar."""
        return self._matcher.is_accepting()

    @property
    def is_over(self) -> bool:
        """The text so far satisfies the grammar, and nothing may follow. Raises as `mask` does."""
        return self.is_complete and (self._matcher.is_stopped() or self.mask() == self._tokenizer.ends)

    def completes(self, count: int, data: bytes) -> bool:
        """Whether the text would satisfy the grammar with `data` in place of its last `count` tokens."""
        probe = self._matcher.deep_copy()
        tokens = self._tokenizer.tokens(data)
        # Accepting tokens and taking them back leaves no trace, an error would: hence the copy.
        return probe.rollback(count) and probe.try_consume_tokens(tokens) == len(tokens) and probe.is_accepting()

    def _ask(self, question: Callable[[LLMatcher], T]) -> T:
        """The matcher's answer, or that of one with a new lexer. Raises InvalidRequestError if neither has one."""
        answer = question(self._matcher)
        for _ in range(2):  # the first may have been filled by others already, the second is new
            if self._renew is None or _FULL not in self._matcher.get_error():
                break
            self._root = self._renew(self._root)
            self._matcher = self._root.deep_copy()
            self._matcher.try_consume_tokens(self._tokens)
            answer = question(self._matcher)
        if self._matcher.is_error():
            raise _refusal(self._matcher)
        return answer


class GrammarTokenizer:
    """A model's vocabulary as llguidance wants it. Making one takes a tenth of a second for 50,000 tokens.

    What a grammar forces is cut into the longest tokens there are, which differs little from what the model's own
    encoder would do and needs none of it.

    Args:
        vocabulary: the model's.
        vocab_size: of its scores; ids beyond the vocabulary are never allowed.
        eos_token_ids: what ends a text; at least one.
    """

    def __init__(self, vocabulary: Vocabulary, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        from llguidance import LLParserLimits, LLTokenizer

        ends = [token for token in eos_token_ids if 0 <= token < vocab_size]
        if not ends:
            raise InvalidRequestError(
                "This model has no token that ends a text, without which no grammar can be enforced.", code=CODE
            )
        tokens = _Tokens(vocabulary, vocab_size, ends[0], self._cut)
        self._tokenizer: LLTokenizer = LLTokenizer(cast("Any", tokens), n_vocab=vocab_size, eos_token=ends)
        tokens.tokens.clear()  # llguidance has its own copy, and keeps this object for as long
        self._limits: LLParserLimits = LLParserLimits(max_lexer_states=_MAX_LEXER_STATES, verbose_errors=False)
        self._ends = ends

    def compile(self, grammar: str) -> LLMatcher:
        """A matcher at the beginning of `grammar`, to be copied. Raises InvalidRequestError if there can be none."""
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._limits)
        if matcher.is_error():
            raise _refusal(matcher)
        mask = matcher.compute_bitmask()  # now rather than in the step loop; copies share what it finds
        if matcher.is_error():
            raise _refusal(matcher)
        if matcher.is_accepting() and mask == self.ends:
            raise InvalidRequestError("The grammar allows nothing but the empty text.", param="grammar", code=CODE)
        return matcher

    def tokens(self, data: bytes) -> list[int]:
        """`data` cut into the longest tokens there are."""
        return self._tokenizer.tokenize_bytes(data)

    @cached_property
    def ends(self) -> bytes:
        """The mask that allows only ends of text."""
        from llguidance import LLMatcher

        over = LLMatcher(self._tokenizer, 'start: ""', log_level=0)
        return over.compute_bitmask()

    def _cut(self, text: str) -> list[int]:
        return self._tokenizer.greedy_tokenize(text)


class _Tokens:
    """The attributes that `LLTokenizer` reads, and how it cuts text into tokens."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(
        self, vocabulary: Vocabulary, vocab_size: int, eos_token_id: int, cut: Callable[[str], list[int]]
    ) -> None:
        self.eos_token_id = eos_token_id
        self.tokens = [vocabulary.pieces.data(token) for token in range(vocab_size)]
        self.special_token_ids = [token for token in sorted(vocabulary.special_token_ids) if token < vocab_size]
        self._cut = cut

    def __call__(self, text: str) -> list[int]:
        return self._cut(text)


class Compilation:
    """A grammar and what became of it.

    Where it is used often, its lexer may fill, so another is made in time.

    Args:
        grammar: Lark.
        again: has `run` called once more; None: a full lexer is replaced when it is found full.
    """

    def __init__(self, grammar: str, again: Callable[[Compilation], None] | None = None) -> None:
        self.grammar = grammar
        self.is_wanted = True
        self.nbytes = 0  # by which compiling made the process grow
        self._again = again
        self._uses = 0
        self._spare: LLMatcher | None = None
        self._outcome: tuple[LLMatcher, GrammarTokenizer] | InvalidRequestError | None = None

    @property
    def is_settled(self) -> bool:
        """It has been compiled or refused."""
        return self._outcome is not None

    def matcher(self) -> Matcher | None:
        """A new matcher at the grammar's beginning; None while it is being compiled.

        Raises InvalidRequestError if it can't be compiled.
        """
        outcome = self._outcome
        if isinstance(outcome, InvalidRequestError):
            # Anew each time: an exception that is raised again grows by each traceback.
            raise InvalidRequestError(outcome.message, param=outcome.param, code=outcome.code)
        if outcome is None:
            return None
        self._uses += 1
        if self._uses == _OFTEN:
            self._want_spare()
        return Matcher(*outcome, self._renew)

    def run(self, tokenizer: GrammarTokenizer | InvalidRequestError) -> None:
        """Compile, or fail with what there is instead of a tokenizer; in another thread."""
        if isinstance(tokenizer, InvalidRequestError):
            self._outcome = tokenizer
            return
        before = _resident_bytes()
        try:
            root = tokenizer.compile(self.grammar)
            self.nbytes = max(self.nbytes, _resident_bytes() - before)
            if self.is_settled:
                self._spare = root
            else:
                self._outcome = root, tokenizer
        except InvalidRequestError as error:
            self._outcome = error
        except Exception:
            log.exception("a grammar could not be compiled")
            self._outcome = InvalidRequestError("The grammar could not be compiled.", param="grammar", code=CODE)

    def _renew(self, full: LLMatcher) -> LLMatcher:
        """The spare, or compile again in the step loop: whoever shares the full lexer can't go on before."""
        assert isinstance(self._outcome, tuple)  # there are matchers of it
        root, tokenizer = self._outcome
        if root is full:
            root, self._spare = self._spare or tokenizer.compile(self.grammar), None
            self._outcome = root, tokenizer
            self._want_spare()
        return root

    def _want_spare(self) -> None:
        if self._again is not None:
            self._again(self)


class GrammarCompiler:
    """Compiles grammars in a thread of its own, one after the other, and remembers the latest.

    Args:
        make_tokenizer: called once, in that thread, before the first grammar.
        done: called in that thread whenever a grammar has been compiled or refused.
    """

    def __init__(self, make_tokenizer: Callable[[], GrammarTokenizer], done: Callable[[], None]) -> None:
        self._make_tokenizer = make_tokenizer
        self._done = done
        self._work: SimpleQueue[Compilation | None] = SimpleQueue()
        self._known: OrderedDict[str, Compilation] = OrderedDict()  # the least recently used first
        self._thread: threading.Thread | None = None

    @property
    def is_warm(self) -> bool:
        """Whether the thread has been started, and so the tokenizer made or about to be."""
        return self._thread is not None

    def warm_up(self) -> None:
        """Make the tokenizer if it isn't there."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="grammars", daemon=True)
            before = threading.stack_size(_STACK)
            try:
                self._thread.start()
            finally:
                threading.stack_size(before)

    def compile(self, grammar: str) -> Compilation:
        """Of `grammar`: one that is remembered, or one that this call starts."""
        found = self._known.get(grammar)
        if found is None:
            found = self._known[grammar] = Compilation(grammar, self._work.put)
            self._work.put(found)
            self.warm_up()
        self._known.move_to_end(grammar)
        self._forget()
        return found

    def abandon(self, compilation: Compilation) -> None:
        """Nobody waits for it any more: if its turn hasn't come yet, it never will."""
        if not compilation.is_settled:
            compilation.is_wanted = False
            if self._known.get(compilation.grammar) is compilation:
                del self._known[compilation.grammar]

    def _forget(self) -> None:
        held = sum(compilation.nbytes for compilation in self._known.values())
        while len(self._known) > 1 and (len(self._known) > _KEPT or held > _KEPT_BYTES):
            held -= self._known.popitem(last=False)[1].nbytes

    def close(self) -> None:
        """End the thread when it is done with what it is at."""
        self._work.put(None)

    def _run(self) -> None:
        tokenizer: GrammarTokenizer | InvalidRequestError
        try:
            tokenizer = self._make_tokenizer()
            _ = tokenizer.ends
        except InvalidRequestError as error:
            tokenizer = error
        except Exception:
            log.exception("the vocabulary could not be prepared for grammars")
            tokenizer = InvalidRequestError("Grammars can't be enforced for this model's vocabulary.", code=CODE)
        while (work := self._work.get()) is not None:
            if work.is_wanted:
                work.run(tokenizer)
                self._done()


def _resident_bytes() -> int:
    import psutil  # type: ignore[import-untyped]

    resident: int = psutil.Process().memory_info().rss
    return resident


def _refusal(matcher: LLMatcher) -> InvalidRequestError:
    reason = matcher.get_error().partition("\n   1 |")[0].partition("<non-verbose/>")[0]
    reason = reason.partition("<backtrace>")[0].strip()
    if reason in {"NoExtensionBias", "NoExtension"}:
        reason = "after what has been generated it allows no token"
    at, found, of_schema = reason.partition("failed to compile JSON schema: ")
    if found and at.startswith("at "):  # a place in the Lark that was made of it tells nobody anything
        return InvalidRequestError(f"The schema can't be enforced: {of_schema[:500]}.", param="grammar", code=CODE)
    return InvalidRequestError(f"The grammar can't be followed: {reason[:500]}.", param="grammar", code=CODE)
