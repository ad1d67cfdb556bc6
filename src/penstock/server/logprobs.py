"""The engine's log probabilities in the shapes that clients read."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

from penstock.server.responses import ChatLogprob, ChatLogprobs, CompletionLogprobs, PromptLogprob, TopLogprob

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from penstock.engine.types import PositionLogprobs, TokenLogprob
    from penstock.models.tokenizer import Tokenizer
    from penstock.server.responses import PromptLogprobs

LOWEST = -9999.0  # JSON has no infinity; OpenAI's number for a token that can't come


def chat_logprobs(tokenizer: Tokenizer, positions: Sequence[PositionLogprobs], top: int) -> ChatLogprobs:
    """OpenAI's shape for chat: the chosen token and the `top` likeliest, each with its bytes."""
    content = []
    for position in positions:
        chosen = tokenizer.token_bytes(position.chosen.token_id)
        content.append(
            ChatLogprob(
                token=_readable(chosen),
                logprob=_finite(position.chosen.logprob),
                bytes=list(chosen),
                top_logprobs=[_top(tokenizer, candidate) for candidate in position.top[:top]],
            )
        )
    return ChatLogprobs(content)


def prompt_logprobs(tokenizer: Tokenizer, positions: Iterable[PositionLogprobs | None], top: int) -> PromptLogprobs:
    """vLLM's shape for prompts: by token id, the prompt's own token and the `top` likeliest ones."""
    return [
        None
        if position is None
        else {
            str(candidate.token_id): PromptLogprob(
                logprob=_finite(candidate.logprob),
                rank=candidate.rank,
                decoded_token=_readable(tokenizer.token_bytes(candidate.token_id)),
            )
            for candidate in (position.chosen, *position.top[:top])
        }
        for position in positions
    ]


class CompletionLogprobsWriter:
    """OpenAI's shape for completions, in one go or delta by delta.

    `text_offset` is the character at which a token begins in the text so far; a token that goes on inside a
    character begins where that character does.

    Args:
        tokenizer: the model's.
        top: how many alternatives.
        skipped: tokens that have no place in the text.
        offset: characters before the first token.
    """

    def __init__(self, tokenizer: Tokenizer, *, top: int, skipped: frozenset[int], offset: int = 0) -> None:
        self._tokenizer = tokenizer
        self._top = top
        self._skipped = skipped
        self._offset = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, token_ids: Sequence[int], positions: Sequence[PositionLogprobs | None]) -> CompletionLogprobs:
        """One entry a token; a position is None for the first token of a prompt, which nothing precedes."""
        written = CompletionLogprobs([], [], [], [])
        for token_id, position in zip(token_ids, positions, strict=False):
            data = self._tokenizer.token_bytes(token_id)
            written.tokens.append(_distinct(data))
            written.text_offset.append(self._offset)
            if token_id not in self._skipped:
                self._offset += len(self._decoder.decode(data))
            written.token_logprobs.append(None if position is None else _finite(position.chosen.logprob))
            written.top_logprobs.append(None if position is None else self._candidates(position))
        return written

    def _candidates(self, position: PositionLogprobs) -> dict[str, float]:
        """The likeliest, and the chosen one even if it isn't among them."""
        candidates = {each.token_id: each for each in (*position.top[: self._top], position.chosen)}
        shown: dict[str, float] = {}
        for token_id, candidate in candidates.items():
            data = self._tokenizer.token_bytes(token_id)
            name = _distinct(data)
            shown[_as_bytes(data) if name in shown else name] = _finite(candidate.logprob)
        return shown


def _top(tokenizer: Tokenizer, candidate: TokenLogprob) -> TopLogprob:
    data = tokenizer.token_bytes(candidate.token_id)
    return TopLogprob(_readable(data), _finite(candidate.logprob), list(data))


def _readable(data: bytes) -> str:
    return data.decode(errors="replace")


def _distinct(data: bytes) -> str:
    """A token as a key: part of a character is written as its bytes, as OpenAI does.

    A byte's own token beside the character's, as SentencePiece has both, is written so too, lest two look alike.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        return _as_bytes(data)


def _as_bytes(data: bytes) -> str:
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _finite(logprob: float) -> float:
    return max(LOWEST, logprob)
