"""A vocabulary without a model: every byte is the token of its number, then an end of text, then some longer tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.engine.grammar import GrammarTokenizer
from penstock.models.token_pieces import BYTE_ALPHABET, TokenPieces
from penstock.models.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.engine.grammar import Matcher

END = 256
LONGER = ("abc", "bca", "true", "false", "null", '{"', '":', '",', "}}", "00", "e5", "\\n", "é☃")
SIZE = END + 1 + len(LONGER)

_SYMBOLS = {byte: symbol for symbol, byte in BYTE_ALPHABET.items()}


def _spelling(token: int) -> str | None:
    if token < END:
        return _SYMBOLS[token]
    if token == END:
        return "<|end|>"
    return "".join(_SYMBOLS[byte] for byte in LONGER[token - END - 1].encode()) if token < SIZE else None


def byte_vocabulary() -> Vocabulary:
    return Vocabulary(TokenPieces(_spelling, byte_level=True), frozenset({END}), (END,))


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
