"""Turns a stream of tokens into text, whole characters only."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from penstock.models.token_pieces import Piece
    from penstock.models.vocabulary import Vocabulary

REPLACEMENT = "\ufffd"
MAX_INCOMPLETE = 3  # bytes that UTF-8 can leave of an unfinished character


class IncrementalDetokenizer:
    """Decodes one sequence token by token, at constant cost per token.

    >>> detokenizer = IncrementalDetokenizer(tokenizer, prompt_token_ids=prompt)
    >>> text = "".join(detokenizer.push(token) for token in generated) + detokenizer.flush()

    All pushes and the flush together are `tokenizer.decode(generated)`, or, after a prompt, what
    `decode(prompt + generated)` has more than `decode(prompt)`: a leading space is kept, and a character that
    the prompt began comes out when it is complete. U+FFFD comes as soon as bytes can't become a character
    any more. An id that the tokenizer has no token for (padding of the embedding) is no text, not an error:
    the model chose it, not the user.

    Args:
        vocabulary: the model's, or its tokenizer.
        skip_special_tokens: leave control tokens out of the text.
        prompt_token_ids: what came before; only its end is looked at.
        shown_token_ids: control tokens that are text even where others are left out.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        skip_special_tokens: bool = True,
        prompt_token_ids: Sequence[int] = (),
        shown_token_ids: Sequence[int] = (),
    ) -> None:
        self._pieces = vocabulary.pieces
        self._skipped = vocabulary.special_token_ids if skip_special_tokens else frozenset()
        if shown_token_ids:
            self._skipped = self._skipped.difference(shown_token_ids)
        before = (self._pieces[token] for token in reversed(prompt_token_ids) if token not in self._skipped)
        self._stream: _ByteLevelStream | _FallbackStream
        if self._pieces.byte_level:
            self._stream = _ByteLevelStream(before)
        else:
            self._stream = _FallbackStream(before, strips_space=self._pieces.strips_leading_space)

    def push(self, token_id: int) -> str:
        """The characters that this token completes, "" while there are none."""
        if token_id in self._skipped:
            return ""
        return self._stream.push(self._pieces[token_id])

    def flush(self) -> str:
        """What was still held back, with U+FFFD for an incomplete character; call it once, at the end."""
        return self._stream.flush()


class _ByteLevelStream:
    """Every token is bytes, and all of them together are decoded as UTF-8, replacing what is invalid."""

    def __init__(self, before: Iterator[Piece]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        tail = b""
        for piece in before:
            tail = piece.data + tail
            if len(tail) > MAX_INCOMPLETE:
                break
        self._decode(tail)
        self._prompt_began_character = bool(self._decoder.getstate()[0])

    def push(self, piece: Piece) -> str:
        return self._without_prompts_share(self._decode(piece.data))

    def flush(self) -> str:
        return self._without_prompts_share(self._decoder.decode(b"", final=True))

    def _decode(self, data: bytes) -> str:
        text = self._decoder.decode(data)
        held = self._decoder.getstate()[0]
        if held >= b"\xed\xa0" and held[0] == 0xED:  # half of a surrogate, which Python waits for and UTF-8 forbids
            text += self._decoder.decode(b"", final=True)
        return text

    def _without_prompts_share(self, text: str) -> str:
        """Drop the U+FFFD of bytes that the prompt ended with: the prompt's own text has it already."""
        if not (self._prompt_began_character and text):
            return text
        self._prompt_began_character = False
        return text.removeprefix(REPLACEMENT)


class _FallbackStream:
    """Tokens are text, but runs of byte tokens are decoded as a whole: if any of it is invalid, every byte of
    the run becomes U+FFFD. So a run's characters are held back until another token ends it."""

    def __init__(self, before: Iterator[Piece], *, strips_space: bool) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")
        self._characters: list[str] = []
        self._bytes = 0  # of the run, those of the prompt not counted
        self._broken = False
        run = b""
        at_start = True
        for piece in before:
            at_start = at_start and not piece.data
            if piece.text is None:
                run = piece.data + run
            elif piece.data:
                break
        self._strips_space = strips_space and at_start
        self._resume(run)

    def push(self, piece: Piece) -> str:
        if piece.text is None:
            return self._strip(self._push_byte(piece.data))
        return self._strip(self._end_run() + piece.text) if piece.text else ""

    def flush(self) -> str:
        return self._strip(self._end_run())

    def _resume(self, run: bytes) -> None:
        """Go on in the prompt's last run; its whole characters are the prompt's, and done."""
        try:
            self._decoder.decode(run)
        except UnicodeDecodeError:
            self._broken = True

    def _push_byte(self, data: bytes) -> str:
        self._bytes += 1
        if self._broken:
            return REPLACEMENT
        try:
            self._characters.append(self._decoder.decode(data))
        except UnicodeDecodeError:
            self._broken = True
            return REPLACEMENT * self._bytes
        return ""

    def _end_run(self) -> str:
        incomplete = bool(self._decoder.getstate()[0])
        text = REPLACEMENT * self._bytes if incomplete else "".join(self._characters)
        if self._broken:
            text = ""  # all of it was replaced as it came
        self._decoder.reset()
        self._characters.clear()
        self._bytes = 0
        self._broken = False
        return text

    def _strip(self, text: str) -> str:
        if not (self._strips_space and text):
            return text
        self._strips_space = False
        return text.removeprefix(" ")
