"""Reads the tokenizer of a Hugging Face model directory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.core.errors import ModelFileError
from penstock.models.strict_json import read_object
from penstock.models.tokenizer_parts import TokenizerParts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import tokenizers

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def read_optional(path: Path) -> dict[str, Any]:
    """The object in a JSON file, {} if there is no such file. Raises ModelFileError if it is anything else."""
    return read_object(path) if path.is_file() else {}


def tokenizer_from_directory(directory: Path) -> TokenizerParts:
    """From tokenizer.json, with what tokenizer_config.json, special_tokens_map.json, generation_config.json and
    config.json add to it. Its post-processor alone decides about begin and end of text: `add_bos_token` in the
    configuration has no say beside it, as in transformers.

    Raises ModelFileError for files that are missing or wrong.
    """
    backend = _backend(directory / "tokenizer.json")
    config = read_optional(directory / "special_tokens_map.json") | read_optional(directory / "tokenizer_config.json")
    named = {name: text for name in NAMED_TOKENS if (text := _text(config.get(name))) is not None}
    _mark_special(backend, [*named.values(), *_extra_tokens(config)])
    ids = {name: token_id for name, text in named.items() if (token_id := backend.token_to_id(text)) is not None}
    model_config = read_optional(directory / "config.json")
    padded = model_config.get("vocab_size")
    vocab_size = max(backend.get_vocab().values(), default=-1) + 1
    return TokenizerParts(
        backend=backend,
        vocab_size=max(vocab_size, padded) if isinstance(padded, int) else vocab_size,
        source=str(directory),
        bos_token_id=ids.get("bos_token"),
        eos_token_ids=tuple(dict.fromkeys(_eos_ids(directory, ids.get("eos_token"), model_config))),
        named_tokens=named,
    )


def _backend(path: Path) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer

    if not path.is_file():
        raise ModelFileError(
            f"{path.parent}: has no tokenizer.json. Get it with the model's other files, or save it from transformers."
        )
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ModelFileError(f"{path}: isn't a tokenizer ({error}). Download it again.") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def _text(token: Any) -> str | None:
    """A special token is given as its text, or as an object with it."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _extra_tokens(config: dict[str, Any]) -> Iterator[str]:
    for key in ("additional_special_tokens", "extra_special_tokens"):
        extra = config.get(key) or []
        tokens = extra.values() if isinstance(extra, dict) else extra
        yield from (text for token in tokens if (text := _text(token)) is not None)


def _mark_special(backend: tokenizers.Tokenizer, texts: list[str]) -> None:
    """Special tokens that only the configuration knows as such; one without an id would be no token at all."""
    from tokenizers import AddedToken

    known = {str(token.content) for token in backend.get_added_tokens_decoder().values() if token.special}
    missing = [text for text in texts if text not in known and backend.token_to_id(text) is not None]
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in missing])


def _eos_ids(directory: Path, named: int | None, model_config: dict[str, Any]) -> Iterator[int]:
    """Everything that ends a text, the tokenizer's own end first."""
    if named is not None:
        yield named
    generation = read_optional(directory / "generation_config.json")
    given = generation.get("eos_token_id", model_config.get("eos_token_id"))
    for token_id in given if isinstance(given, list) else [given]:
        if isinstance(token_id, int) and not isinstance(token_id, bool) and token_id >= 0:  # -1 says there is none
            yield token_id
