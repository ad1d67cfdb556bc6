"""Stop rules: when a sequence ends, and which of its text may be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.models.detokenizer import IncrementalDetokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence as Tokens

    from penstock.engine.types import FinishReason, SamplingParams
    from penstock.models.vocabulary import Vocabulary


class StopStrings:
    """Finds stop strings in streamed text and holds back what may yet become one.

    Only a tail that is a proper prefix of some stop string is held back, so text flows at once otherwise.
    """

    def __init__(self, stops: Tokens[str], *, include: bool) -> None:
        self._stops = tuple(stops)
        self._include = include
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """The text that may be shown now, and the stop string that ended it (None: none did)."""
        if not self._stops:
            return text, None
        text = self._held + text
        found = min(
            ((at, stop) for stop in self._stops if (at := text.find(stop)) >= 0),
            key=lambda hit: (hit[0] + len(hit[1]), hit[0]),
            default=None,
        )
        if found is not None:
            at, stop = found
            self._held = ""
            return text[: at + len(stop) if self._include else at], stop
        keep = self._longest_tail(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def flush(self) -> str:
        """What was held back, now that no more text will come."""
        held, self._held = self._held, ""
        return held

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
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        params: SamplingParams,
        prompt_token_ids: Tokens[int],
        eos_token_ids: Tokens[int],
        max_tokens: int,
    ) -> None:
        self._detokenizer = IncrementalDetokenizer(
            vocabulary, skip_special_tokens=params.skip_special_tokens, prompt_token_ids=prompt_token_ids
        )
        self._stop_strings = StopStrings(params.stop, include=params.include_stop_str_in_output)
        self._params = params
        self._eos = frozenset(() if params.ignore_eos else eos_token_ids)
        self._stop_tokens = frozenset(params.stop_token_ids)
        self._max_tokens = max_tokens
        self._count = 0
        # Tokens that may not be sampled before min_tokens is reached; min_tokens beyond reach bans them throughout.
        self._ending = sorted(self._eos | self._stop_tokens) if params.min_tokens > 0 else []

    @property
    def banned_token_ids(self) -> Tokens[int]:
        """Tokens that the sampler must not choose next."""
        return self._ending if self._count < self._params.min_tokens else ()

    def push(self, token_id: int) -> tuple[str, FinishReason | None, int | str | None]:
        """The new text, why the sequence ended (None: it goes on), and the stop token or string that matched."""
        self._count += 1
        past_minimum = self._count >= self._params.min_tokens
        if past_minimum and (token_id in self._eos or token_id in self._stop_tokens):
            explicit = token_id in self._stop_tokens
            text = ""
            if explicit and self._params.include_stop_str_in_output:
                text = self._detokenizer.push(token_id)
            text += self._detokenizer.flush()
            shown, _ = self._stop_strings.push(text)
            return shown + self._stop_strings.flush(), "stop", token_id if explicit else None
        text = self._detokenizer.push(token_id)
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
