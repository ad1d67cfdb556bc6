"""Stop rules: when a sequence ends, and which of its text may be shown.

Where the text has to match a grammar, stop strings and stop tokens end it only where it does; elsewhere they are text
like any other. So whatever ends in "stop" matches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError, InvariantError
from penstock.models.detokenizer import IncrementalDetokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from collections.abc import Sequence as Tokens

    from penstock.engine.structured.grammar import Matcher
    from penstock.engine.structured.thinking_budget import ThinkingBudget
    from penstock.engine.types import FinishReason, SamplingParams
    from penstock.models.vocabulary import Vocabulary


class StopStrings:
    """Finds stop strings in streamed text and holds back what may yet become one.

    Only a tail that is a proper prefix of some stop string is held back, so text flows at once otherwise.

    Args:
        stops: the strings.
        include: show the one that was found.
        may_cut: whether the text may end where, of what was pushed, only this is left out; None: anywhere.
    """

    def __init__(self, stops: Tokens[str], *, include: bool, may_cut: Callable[[str], bool] | None = None) -> None:
        self._stops = tuple(stops)
        self._include = include
        self._may_cut = may_cut
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """The text that may be shown now, and the stop string that ended it (None: none did)."""
        if not self._stops:
            return text, None
        text = self._held + text
        for at, stop in self._found(text):
            cut = at + len(stop) if self._include else at
            if self._may_cut is None or self._may_cut(text[cut:]):
                self._held = ""
                return text[:cut], stop
        keep = self._longest_tail(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def flush(self) -> str:
        """What was held back, now that no more text will come."""
        held, self._held = self._held, ""
        return held

    def _found(self, text: str) -> Iterator[tuple[int, str]]:
        """Where stop strings begin, in the order in which they end; of those that end together the longest first."""
        hits = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        while hits:
            at, stop = min(hits, key=lambda hit: (hit[0] + len(hit[1]), hit[0]))
            yield at, stop
            hits.remove((at, stop))
            again = text.find(stop, at + 1)
            if again >= 0:
                hits.append((again, stop))

    def _longest_tail(self, text: str) -> int:
        longest = max(map(len, self._stops)) - 1
        for size in range(min(longest, len(text)), 0, -1):
            tail = text[-size:]
            if any(stop.startswith(tail) for stop in self._stops):
                return size
        return 0


class OutputStream:
    """Turns one sequence's sampled tokens into text and decides when it ends.

    Args:
        vocabulary: the model's.
        params: the request's.
        prompt_token_ids: context for decoding the first token.
        eos_token_ids: tokens that end the text unless `ignore_eos`.
        max_tokens: how many tokens may be generated, context included in the reckoning.
        matcher: of the grammar that the text has to match.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        params: SamplingParams,
        prompt_token_ids: Tokens[int],
        eos_token_ids: Tokens[int],
        max_tokens: int,
        matcher: Matcher | None = None,
    ) -> None:
        self._pieces = vocabulary.pieces
        self._skipped = vocabulary.special_token_ids if params.skip_special_tokens else frozenset()
        self._skipped -= frozenset(params.shown_token_ids)
        self._detokenizer = IncrementalDetokenizer(
            vocabulary,
            skip_special_tokens=params.skip_special_tokens,
            prompt_token_ids=prompt_token_ids,
            shown_token_ids=params.shown_token_ids,
        )
        self._matcher = matcher
        self._accepted: list[bytes] = []  # with a grammar and stop strings: each token's bytes
        self._pending = 0  # bytes of them that are no text yet
        self._stop_strings = StopStrings(
            params.stop,
            include=params.include_stop_str_in_output,
            may_cut=None if matcher is None else self._is_complete_without,
        )
        self._params = params
        self._thinking: ThinkingBudget | None = None
        if params.thinking is not None:
            # Of few requests, and a start must not wait for it.
            from penstock.engine.structured.thinking_budget import ThinkingBudget

            self._thinking = ThinkingBudget(params.thinking, vocabulary.pieces)
        self._eos = frozenset(() if params.ignore_eos else eos_token_ids)
        self._stop_tokens = frozenset(params.stop_token_ids)
        self._max_tokens = max_tokens
        self._count = 0
        # Tokens that may not be sampled before min_tokens is reached; min_tokens beyond reach bans them throughout.
        self._ending = sorted(self._eos | self._stop_tokens) if params.min_tokens > 0 else []
        # Under a grammar stop tokens may be needed as text, and ends of text are allowed where they are ignored.
        if matcher is not None:
            self._ending = sorted(self._eos) if params.min_tokens > 0 else []
            self._ignored = sorted(eos_token_ids) if params.ignore_eos else []

    @property
    def tokens_left(self) -> int:
        """How many tokens may still be generated."""
        return self._max_tokens - self._count

    @property
    def banned_token_ids(self) -> Tokens[int]:
        """Tokens that the sampler must not choose next."""
        if self._thinking is not None and self._thinking.room == 0:
            return ()  # the one that is forced may be a stop token
        if self._matcher is not None and self._params.ignore_eos:
            return self._ignored
        return self._ending if self._count < self._params.min_tokens else ()

    @property
    def allowed(self) -> bytes | None:
        """The tokens that the grammar, and a budget of thinking, let follow, as `SampleSpec.allowed`; None for all.

        Raises InvalidRequestError if there are none.
        """
        if self._thinking is not None and (mask := self._thinking.mask) is not None:
            return mask
        if self._matcher is None:
            return None
        mask = self._matcher.mask()
        if self._stop_tokens and self._count >= self._params.min_tokens and self._matcher.is_complete:
            bits = bytearray(mask)
            for token in self._stop_tokens:
                if 0 <= token < 8 * len(bits):
                    bits[token // 8] |= 1 << token % 8
            return bytes(bits)
        return mask

    def ahead(self, drafts: Tokens[int]) -> list[tuple[Tokens[int], bytes | None]]:
        """What `banned_token_ids` and `allowed` would be after each of `drafts`; fewer where the text would end."""
        ways: list[tuple[Tokens[int], bytes | None]] = []
        count, matcher = self._count, self._matcher
        if self._thinking is not None and self._thinking.room is not None:
            drafts = drafts[: max(self._thinking.room - 1, 0)]
        # A draft that is wrong may bring a matcher to an end that it can't be brought back from: hence another.
        self._matcher = probe = None if matcher is None else matcher.fork()
        try:
            for token in drafts:
                if token in self._eos or token in self._stop_tokens:
                    break
                if probe is not None and (not probe.accept([token]) or probe.is_over):
                    break
                self._count += 1
                ways.append((self.banned_token_ids, self.allowed))
        except InvalidRequestError:
            return ways  # what is wrong after a draft is the request's mistake only if the draft is right
        finally:
            self._count, self._matcher = count, matcher
        return ways

    def push(self, token_id: int) -> tuple[str, FinishReason | None, int | str | None]:
        """The new text, why the sequence ended (None: it goes on), and the stop token or string that matched.

        Raises InvalidRequestError if the grammar can't go on after the token.
        """
        self._count += 1
        if self._thinking is not None:
            self._thinking.push(token_id)
        past_minimum = self._count >= self._params.min_tokens
        if past_minimum and self._ends(token_id):
            explicit = token_id in self._stop_tokens
            text = ""
            if explicit and self._params.include_stop_str_in_output and self._matcher is None:
                text = self._detokenizer.push(token_id)
            return self._rest(text), "stop", token_id if explicit else None
        text = self._detokenizer.push(token_id)
        if self._matcher is not None:
            self._accept(self._matcher, token_id, text)
            if self._matcher.is_over:
                return self._rest(text), "stop", None
        last = self._count >= self._max_tokens
        if last:
            text += self._detokenizer.flush()
        if not past_minimum:
            return text, "length" if last else None, None
        shown, stop = self._stop_strings.push(text)
        if stop is not None:
            return shown, "stop", stop
        if last:
            return shown + self._stop_strings.flush(), "length", None
        return shown, None, None

    def _ends(self, token_id: int) -> bool:
        if token_id not in self._eos and token_id not in self._stop_tokens:
            return False
        return self._matcher is None or self._matcher.is_complete

    def _rest(self, text: str) -> str:
        """`text` and what was held back, now that the sequence has ended."""
        shown, _ = self._stop_strings.push(text + self._detokenizer.flush())
        return shown + self._stop_strings.flush()

    def _accept(self, matcher: Matcher, token_id: int, text: str) -> None:
        if not matcher.accept([token_id]):
            raise InvariantError("A token was chosen that the request's grammar doesn't allow.")
        if self._params.stop:
            self._accepted.append(b"" if token_id in self._skipped else self._pieces[token_id].data)
            self._pending += len(self._accepted[-1]) - len(text.encode())

    def _is_complete_without(self, removed: str) -> bool:
        """Whether the grammar is satisfied by the text so far but its end."""
        if self._matcher is None:
            return True
        surplus = self._pending + len(removed.encode())
        count, data = 0, b""
        while len(data) < surplus and count < len(self._accepted):
            count += 1
            data = self._accepted[-count] + data
        return 0 <= surplus <= len(data) and self._matcher.completes(count, data[: len(data) - surplus])
