"""What every kind of tokenizer file is read into."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import tokenizers
    from tokenizers.processors import PostProcessor


@dataclass(frozen=True, slots=True)
class TokenizerParts:
    """A ready `tokenizers.Tokenizer` and what it doesn't know of itself.

    `vocab_size` counts the ids a model may name, padding included. `named_tokens` are the texts that chat
    templates know by name ("bos_token", "eos_token", ...). `source` is the file, for messages.
    """

    backend: tokenizers.Tokenizer
    vocab_size: int
    source: str
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    named_tokens: Mapping[str, str] = field(default_factory=dict)


def enclosing_processor(bos: tuple[str, int] | None, eos: tuple[str, int] | None) -> PostProcessor:
    """A post-processor that puts `bos` before and `eos` after the text, each a (text, id) or None for not."""
    from tokenizers import processors

    before = [f"{bos[0]}:0"] if bos else []
    after = [f"{eos[0]}:0"] if eos else []
    tokens = [token for token in (bos, eos) if token]
    return processors.TemplateProcessing(single=[*before, "$A:0", *after], special_tokens=tokens)
