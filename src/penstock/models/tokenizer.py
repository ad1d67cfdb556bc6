"""Text to token ids and back, for any supported model file."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError
from penstock.models.token_pieces import TokenPieces
from penstock.models.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self

    import tokenizers

    from penstock.models.gguf import GGUFFile
    from penstock.models.tokenizer_parts import TokenizerParts


class Tokenizer(Vocabulary):
    """A model's tokenizer; safe to share between threads, and `encode` lets other threads run.

    >>> tokenizer = Tokenizer.load(path)
    >>> tokenizer.decode(tokenizer.encode("Hello"))
    'Hello'
    """

    def __init__(self, parts: TokenizerParts) -> None:
        added = parts.backend.get_added_tokens_decoder()
        super().__init__(
            pieces=TokenPieces.of_backend(parts.backend, parts.source),
            special_token_ids=frozenset(i for i, token in added.items() if token.special),
            eos_token_ids=parts.eos_token_ids,
        )
        self._backend = parts.backend
        self.vocab_size: int = parts.vocab_size  # ids that may be named, padding included
        self.bos_token_id: int | None = parts.bos_token_id
        self.named_tokens: Mapping[str, str] = parts.named_tokens  # "bos_token", "eos_token", ...: their text

    @classmethod
    def load(cls, path: Path) -> Self:
        """From a GGUF file (the first part of a split one), or a directory with tokenizer.json.

        Raises NotFoundError if there is no such file, ModelFileError for a file that is damaged or of a kind
        that isn't supported.
        """
        if path.is_dir():
            from penstock.models.hf_tokenizer import tokenizer_from_directory

            return cls(tokenizer_from_directory(path))
        from penstock.models.gguf import GGUFFile

        with GGUFFile.open(path) as file:
            return cls.of(file)

    @classmethod
    def of(cls, file: GGUFFile) -> Self:
        """From an open GGUF file. Raises ModelFileError as `load` does."""
        from penstock.models.gguf_tokenizer import tokenizer_from_gguf

        return cls(tokenizer_from_gguf(file.metadata, str(file.path)))

    def encode(self, text: str, *, add_special_tokens: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of a text, as transformers' tokenizer gives them.

        Args:
            text: any valid Unicode.
            add_special_tokens: put the model's begin (and end) of text around it, where the model wants them.
            parse_special: whether "<|im_end|>" in the text is that control token, or just these characters.

        Raises InvalidRequestError for a text with lone surrogates, which no UTF-8 can say.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequestError(
                f"The text isn't valid Unicode: character {error.start} is the lone surrogate "
                f"U+{ord(text[error.start]):04X}. Send valid UTF-8, with surrogates in pairs.",
                code="invalid_unicode",
            ) from error
        backend = self._backend if parse_special else self._plain_backend
        # Not `encode`: that one keeps the interpreter lock, and finds out offsets that nobody needs.
        ids: list[int] = backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of some tokens; U+FFFD for bytes that aren't UTF-8. Raises InvalidRequestError for an id that
        the model doesn't have."""
        for token_id in (min(ids, default=0), max(ids, default=0)):
            self._check(token_id)
        text: str = self._backend.decode(ids, skip_special_tokens=skip_special_tokens)
        return text

    def token_to_piece(self, token_id: int) -> str:
        """One token alone as text, control tokens too; U+FFFD where it is only part of a character."""
        return self.token_bytes(token_id).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """One token's bytes; they may be part of a character. Raises InvalidRequestError for an unknown id."""
        self._check(token_id)
        return self.pieces[token_id].data

    def _check(self, token_id: int) -> None:
        if not 0 <= token_id < self.vocab_size:
            raise InvalidRequestError(
                f"Token {token_id} doesn't exist: this model's ids go from 0 to {self.vocab_size - 1}.",
                code="token_out_of_range",
            )

    @cached_property
    def _plain_backend(self) -> tokenizers.Tokenizer:
        """A copy that reads control tokens in text as plain characters: a switch, not an option of its calls."""
        plain: tokenizers.Tokenizer = self._backend.from_str(self._backend.to_str())
        plain.encode_special_tokens = True
        return plain
