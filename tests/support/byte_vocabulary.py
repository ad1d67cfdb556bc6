"""A vocabulary without a model: every byte is the token of its number, then two special ones, then longer ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.engine.structured.grammar import GrammarTokenizer
from penstock.models.token_pieces import BYTE_ALPHABET, TokenPieces
from penstock.models.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.engine.structured.grammar import Matcher

END, MARK = 256, 257  # special tokens: the end of text, and another
LONGER = ("abc", "bca", "true", "false", "null", '{"', '":', '",', "}}", "00", "e5", "\\n", "é☃")
FIRST_LONGER = MARK + 1
SIZE = FIRST_LONGER + len(LONGER)

_SPECIAL = {END: "<|end|>", MARK: "<|mark|>"}
_SYMBOLS = {byte: symbol for symbol, byte in BYTE_ALPHABET.items()}


def _spelling(token: int) -> str | None:
    if token < END:
        return _SYMBOLS[token]
    if token in _SPECIAL:
        return _SPECIAL[token]
    return "".join(_SYMBOLS[byte] for byte in LONGER[token - FIRST_LONGER].encode()) if token < SIZE else None


def byte_vocabulary() -> Vocabulary:
    return Vocabulary(TokenPieces(_spelling, byte_level=True), frozenset(_SPECIAL), (END,))


def byte_tokenizer() -> GrammarTokenizer:
    """For grammars; with room for ids that have no token, as models often have."""
    return GrammarTokenizer(byte_vocabulary(), SIZE + 7, [END])


def allowed(mask: bytes) -> set[int]:
    return set(_set_bits(mask))


def follows(matcher: Matcher, text: str) -> bool:
    """Whether `text`, byte by byte, is a beginning of something the grammar allows."""
    return matcher.accept(list(text.encode())) == len(text.encode())


def _set_bits(mask: bytes) -> Iterator[int]:
    for at, byte in enumerate(mask):
        for bit in range(8):
            if byte >> bit & 1:
                yield 8 * at + bit
