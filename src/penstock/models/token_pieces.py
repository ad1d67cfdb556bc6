"""What each token is in bytes, as the tokenizer's own decoder sees it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.core.errors import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    import tokenizers

_FALLBACK_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE_SYMBOL = "▁"


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling of the 256 bytes: printable ones as themselves, the others from U+0100 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


BYTE_ALPHABET = _byte_alphabet()


class Piece(NamedTuple):
    """One token's bytes. `text` is None where they mean something only together with their neighbours."""

    data: bytes
    text: str | None


class TokenPieces(dict[int, Piece]):
    """Pieces by token id, computed when first asked for; an id without a token is an empty piece.

    Two families of decoders are known. Byte-level ones join the bytes of all tokens and decode the whole as
    UTF-8. SentencePiece-like ones join text, in which `byte_fallback` tokens ("<0xE2>") stand for bytes that
    are decoded run by run, and may drop one leading space.

    Args:
        spelling: a token as the vocabulary has it; None or "" for an id without one.
        byte_level: of the first family.
        byte_fallback: of the second, with tokens for bytes.
        strips_leading_space: of the second, and the text's first space is no text.
    """

    def __init__(
        self,
        spelling: Callable[[int], str | None],
        *,
        byte_level: bool,
        byte_fallback: bool = False,
        strips_leading_space: bool = False,
    ) -> None:
        super().__init__()
        self._spelling = spelling
        self.byte_level = byte_level
        self.byte_fallback = byte_fallback
        self.strips_leading_space = strips_leading_space

    @classmethod
    def of_backend(cls, backend: tokenizers.Tokenizer, source: str) -> Self:
        """As the decoder of `backend` has them.

        Raises ModelFileError for a decoder of another family: its text couldn't be streamed without errors.
        """
        steps = _decoder_steps(backend)
        kinds = [step["type"] for step in steps]
        byte_level = kinds == ["ByteLevel"]
        known = [step for step in _SENTENCEPIECE_STEPS if step["type"] in kinds]
        if not byte_level and (steps != known or {"Replace", "Fuse"} - set(kinds)):
            raise ModelFileError(
                f"{source}: a tokenizer with the decoder {' + '.join(kinds) or 'none'} isn't supported, only "
                "byte-level and SentencePiece-like BPE are. Use a model of one of these kinds."
            )
        return cls(
            backend.id_to_token,
            byte_level=byte_level,
            byte_fallback="ByteFallback" in kinds,
            strips_leading_space="Strip" in kinds,
        )

    def __missing__(self, token_id: int) -> Piece:
        token = self._spelling(token_id)
        piece = self[token_id] = self._piece(token) if token else Piece(b"", "")
        return piece

    def data(self, token_id: int) -> bytes:
        """One token's bytes, not remembered: for whoever wants them of all tokens."""
        token = self._spelling(token_id)
        return self._piece(token).data if token else b""

    def _piece(self, token: str) -> Piece:
        if self.byte_level:
            try:
                return Piece(bytes(BYTE_ALPHABET[symbol] for symbol in token), None)
            except KeyError:  # an added token, spelt as it is
                return Piece(token.encode(), None)
        text = token.replace(_SPACE_SYMBOL, " ")
        byte = _FALLBACK_BYTE.fullmatch(text) if self.byte_fallback else None
        return Piece(bytes.fromhex(byte[1]), None) if byte else Piece(text.encode(), text)


_SENTENCEPIECE_STEPS: list[dict[str, Any]] = [
    {"type": "Replace", "pattern": {"String": _SPACE_SYMBOL}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
]


def _decoder_steps(backend: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    if backend.decoder is None:
        return []
    steps: list[dict[str, Any]] = [json.loads(backend.decoder.__getstate__())]
    while any(step["type"] == "Sequence" for step in steps):
        steps = [inner for step in steps for inner in step.get("decoders", [step])]
    return [{"type": "ByteLevel"} if step["type"] == "ByteLevel" else step for step in steps]
