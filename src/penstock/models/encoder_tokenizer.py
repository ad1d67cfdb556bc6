"""Texts and pairs of texts to what an encoder reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.core.errors import InvalidRequestError
from penstock.models.hf_tokenizer import tokenizer_from_directory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Self

    import tokenizers

INLINE_CHARACTERS = 2048  # a shorter text is tokenized sooner than a thread would have it


def _length(text: str | tuple[str, str]) -> int:
    return len(text) if isinstance(text, str) else len(text[0]) + len(text[1])


@dataclass(frozen=True, slots=True)
class EncoderInput:
    """Token ids, special ones included, and for each the text that it belongs to, 0 or 1."""

    token_ids: Sequence[int]
    type_ids: Sequence[int]


class EncoderTokenizer:
    """An encoder's tokenizer; safe to share between threads, and `encode` lets other threads run.

    Args:
        backend: without truncation and padding.
        max_length: tokens that an input may have, special ones included.
    """

    def __init__(self, backend: tokenizers.Tokenizer, max_length: int) -> None:
        self._backend = backend
        self.max_length = max_length
        self.vocab_size: int = max(backend.get_vocab().values(), default=-1) + 1

    @classmethod
    def load(cls, directory: Path, max_length: int) -> Self:
        """From tokenizer.json. Raises ModelFileError for files that are missing or wrong."""
        return cls(tokenizer_from_directory(directory).backend, max_length)

    def encode(
        self,
        texts: Sequence[str | tuple[str, str]],
        *,
        fields: Sequence[str],
        truncate: int | None = None,
        add_special_tokens: bool = True,
    ) -> list[EncoderInput]:
        """What the encoder reads for each text or pair of texts.

        Args:
            texts: any valid Unicode.
            fields: what each is called in errors.
            truncate: cut an input to so many tokens, special ones included; -1 to `max_length`. Of a pair the longer
                text is cut, as transformers does. None refuses one that is too long.
            add_special_tokens: put the model's special tokens around it.

        Raises InvalidRequestError for a text that is empty, too long or not Unicode.
        """
        for text, field in zip(texts, fields, strict=True):
            _check(text, field)
        most = self.max_length if truncate is None or truncate < 0 else min(truncate, self.max_length)
        if len(texts) == 1 and _length(texts[0]) <= INLINE_CHARACTERS:
            encoded = [self._encode_here(texts[0], add_special_tokens=add_special_tokens)]
        else:
            encoded = self._backend.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        inputs = []
        for text, field, whole in zip(texts, fields, encoded, strict=True):
            if len(whole) > most:
                if truncate is None:
                    raise too_long(field, len(whole), most)
                whole = self._cut(text, most, field, add_special_tokens=add_special_tokens)  # noqa: PLW2901
            if not len(whole):
                raise InvalidRequestError(f"'{field}' has no tokens.", param=field, code="empty_input")
            inputs.append(EncoderInput(whole.ids, whole.type_ids))
        return inputs

    def encode_pieces(self, text: str, field: str) -> list[EncoderInput]:
        """One text in as many pieces as it takes, each begun a quarter before the end of the one before it.

        Raises InvalidRequestError for a text that is empty or not Unicode.
        """
        _check(text, field)
        backend = self._backend
        own = self._encode_aside(text)
        room = self.max_length - backend.num_special_tokens_to_add(is_pair=False)
        own.truncate(room, stride=room // 4)
        wholes = [backend.post_process(piece, add_special_tokens=True) for piece in (own, *own.overflowing)]
        return [EncoderInput(whole.ids, whole.type_ids) for whole in wholes]

    def heads(self, texts: Sequence[str], most: int) -> list[str]:
        """Each text up to the end of its token number `most`, special ones not counted; what isn't Unicode whole."""
        return [self._head(text, most) for text in texts]

    def _head(self, text: str, most: int) -> str:
        try:
            if len(text.encode()) <= most:  # a token is at least a byte
                return text
        except UnicodeEncodeError:
            return text  # `encode` refuses it by its field
        offsets = self._encode_aside(text).offsets
        return text if len(offsets) <= most else text[: offsets[most - 1][1]]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of some tokens, without special ones."""
        text: str = self._backend.decode(token_ids, skip_special_tokens=True)
        return text

    def _encode_here(self, text: str | tuple[str, str], *, add_special_tokens: bool) -> tokenizers.Encoding:
        """Without letting others run. The library has threads for a batch, even of one; to wake one takes longer."""
        first, second = text if isinstance(text, tuple) else (text, None)
        return self._backend.encode(first, second, add_special_tokens=add_special_tokens)

    def _encode_aside(self, text: str) -> tokenizers.Encoding:
        """A text of any length, without special tokens, while others run: only of a batch does the library let them."""
        return self._backend.encode_batch([text], add_special_tokens=False)[0]

    def _cut(self, text: str | tuple[str, str], most: int, field: str, *, add_special_tokens: bool) -> Any:
        """The tokens of a text that is too long, cut at its end before special ones are put around."""
        backend = self._backend
        first, second = text if isinstance(text, tuple) else (text, None)
        special = backend.num_special_tokens_to_add(second is not None) if add_special_tokens else 0
        room = most - special
        if room < (1 if second is None else 2):
            raise InvalidRequestError(
                f"'{field}' can't be cut to {most} tokens: {special} of them are special ones.",
                param=field,
                code="context_length_exceeded",
            )
        own = self._encode_aside(first)
        if second is None:
            own.truncate(room)
            return backend.post_process(own, None, add_special_tokens)
        other = self._encode_aside(second)
        own_room, other_room = _share(room, len(own), len(other))
        own.truncate(own_room)
        other.truncate(other_room)
        return backend.post_process(own, other, add_special_tokens)


def _share(room: int, first: int, second: int) -> tuple[int, int]:
    """What two texts of these lengths get of the room that they don't fit: the longer is cut, then both alike."""
    shorter = min(first, second)
    if 2 * shorter > room:
        less, more = room // 2, room - room // 2
    else:
        less, more = shorter, room - shorter
    return (less, more) if first <= second else (more, less)


def too_long(field: str, length: int, most: int) -> InvalidRequestError:
    """An input that the model can't hold."""
    return InvalidRequestError(
        f"'{field}' is {length} tokens long and the model reads {most}. Shorten it, or have it cut with "
        "'truncate_prompt_tokens'.",
        param=field,
        code="context_length_exceeded",
    )


def _check(text: str | tuple[str, str], field: str) -> None:
    for part in text if isinstance(text, tuple) else (text,):
        if not part:
            raise InvalidRequestError(f"'{field}' is empty.", param=field, code="empty_input")
        try:
            part.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequestError(
                f"'{field}' isn't valid Unicode: character {error.start} is a lone surrogate.",
                param=field,
                code="invalid_unicode",
            ) from error
