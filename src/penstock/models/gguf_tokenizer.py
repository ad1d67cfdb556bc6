"""Builds a tokenizer from GGUF metadata (`tokenizer.ggml.*`).

Two kinds are known: "gpt2", byte-level BPE whose cut into words is named by `tokenizer.ggml.pre`, and "llama",
SentencePiece BPE with byte fallback, whose merges follow from the tokens' scores.
Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer
"""

from __future__ import annotations

import logging
import math
from array import array
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from penstock._native import merges_by_score
from penstock.core.errors import ModelFileError
from penstock.models.token_pieces import TokenPieces
from penstock.models.tokenizer_parts import TokenizerParts, enclosing_processor
from penstock.models.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Mapping

    import tokenizers

_log = logging.getLogger(__name__)

# Tokens that end a turn by their text. A file may name only one end of text and yet have a chat template that
# ends turns with another, so a control token of this list that the file's own template writes counts too.
TURN_ENDS = ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|end_of_turn|>")

# SentencePiece's own ids, where a "llama" file doesn't give them.
SENTENCEPIECE_IDS = {"unknown": 0, "bos": 1, "eos": 2}

# SentencePiece's own limit is 16 characters by default; finding merges takes the square of it.
MAX_SENTENCEPIECE_CHARACTERS = 256


class TokenType(IntEnum):
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def tokenizer_from_gguf(metadata: Mapping[str, Any], source: str) -> TokenizerParts:
    """Raises ModelFileError for metadata that is missing, contradictory or of a kind that isn't supported."""
    return _Builder(metadata, source).build()


def vocabulary_from_gguf(metadata: Mapping[str, Any], source: str) -> Vocabulary:
    """Its tokens alone, without merges. Raises ModelFileError as `tokenizer_from_gguf` does."""
    return _Builder(metadata, source).vocabulary()


class _Builder:
    def __init__(self, metadata: Mapping[str, Any], source: str) -> None:
        self._metadata = metadata
        self._source = source
        self._tokens: list[str] = self._list("tokens", str)
        if not self._tokens:
            raise self._error("the file has no vocabulary (tokenizer.ggml.tokens)")
        self._types = self._numbers("token_type", TokenType.NORMAL)
        self._vocab = dict(zip(self._tokens, range(len(self._tokens)), strict=True))
        if len(self._vocab) != len(self._tokens):
            twice = next(token for token_id, token in enumerate(self._tokens) if self._vocab[token] != token_id)
            raise self._error(f"the token {twice!r} is in the vocabulary twice")
        kind = self._value("model", str)
        if kind not in {"gpt2", "llama"}:
            raise self._error(
                f"the tokenizer model {kind!r} (tokenizer.ggml.model) isn't supported, only 'gpt2' (byte-level BPE) "
                "and 'llama' (SentencePiece BPE) are",
                damaged=False,
            )
        self._is_byte_level = kind == "gpt2"
        self._prefix_space = self._value("add_space_prefix", bool, default=True)
        self._ids = self._special_ids({} if self._is_byte_level else SENTENCEPIECE_IDS)

    def vocabulary(self) -> Vocabulary:
        tokens = self._tokens
        return Vocabulary(
            pieces=TokenPieces(
                lambda token_id: tokens[token_id] if token_id < len(tokens) else None,
                byte_level=self._is_byte_level,
                byte_fallback=not self._is_byte_level,
                strips_leading_space=not self._is_byte_level and self._prefix_space,
            ),
            special_token_ids=self._special_tokens(),
            eos_token_ids=self._eos_ids(self._ids),
        )

    def build(self) -> TokenizerParts:
        backend, add_bos = self._byte_level() if self._is_byte_level else (self._sentencepiece(), True)
        ids = self._ids
        self._add_tokens(backend)
        bos, eos = self._named(ids, "bos"), self._named(ids, "eos")
        backend.post_processor = enclosing_processor(
            bos if self._value("add_bos_token", bool, default=add_bos) else None,
            eos if self._value("add_eos_token", bool, default=False) else None,
        )
        texts = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
        return TokenizerParts(
            backend=backend,
            vocab_size=len(self._tokens),
            source=self._source,
            bos_token_id=ids.get("bos"),
            eos_token_ids=self._eos_ids(ids),
            named_tokens={text: self._tokens[ids[name]] for text, name in texts.items() if name in ids},
        )

    def _byte_level(self) -> tuple[tokenizers.Tokenizer, bool]:
        from tokenizers import Tokenizer, decoders, models

        from penstock.models.pre_tokenizers import pre_tokenizer_rule

        name = self._value("pre", str)
        if name is None:
            _log.warning("%s names no pre-tokenizer (tokenizer.ggml.pre): GPT-2's is used", self._source)
        rule = pre_tokenizer_rule(name or "default", self._source)
        merges = self._list("merges", str)
        pairs = [merge.partition(" ")[::2] for merge in merges]
        backend = Tokenizer(self._bpe(models.BPE, merges=pairs, ignore_merges=rule.ignore_merges))
        normalizer = rule.normalizer()
        if normalizer is not None:
            backend.normalizer = normalizer
        backend.pre_tokenizer = rule.pre_tokenizer()
        backend.decoder = decoders.ByteLevel()
        return backend, rule.add_bos

    def _sentencepiece(self) -> tokenizers.Tokenizer:
        from tokenizers import Tokenizer, decoders, models, normalizers

        unknown = self._ids.get("unknown")
        backend = Tokenizer(
            self._bpe(
                models.BPE,
                merges=self._merges_from_scores(),
                unk_token=None if unknown is None else self._tokens[unknown],
                fuse_unk=True,
                byte_fallback=TokenType.BYTE in self._types,
            )
        )
        # SentencePiece puts its space before any text, even one that starts with a space, and so do the published
        # tokenizer.json files; the Metaspace pre-tokenizer wouldn't, and would lose that space.
        space = normalizers.Replace(" ", "▁")
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space]) if self._prefix_space else space
        steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        if self._prefix_space:
            steps.append(decoders.Strip(" ", 1, 0))
        backend.decoder = decoders.Sequence(steps)
        return backend

    def _merges_from_scores(self) -> list[tuple[str, str]]:
        """Every way to make a token of two others, best score first.

        SentencePiece always joins the neighbours whose whole has the best score, which is what BPE does with this
        list. Among equal scores the longer left half comes first, as transformers has it. Only normal tokens are
        made: control tokens spelt out in a text must not come together again.
        """
        longest = max(map(len, self._tokens))
        if longest > MAX_SENTENCEPIECE_CHARACTERS:
            raise self._error(f"a token has {longest} characters, more than the {MAX_SENTENCEPIECE_CHARACTERS} allowed")
        normal = int(TokenType.NORMAL)
        return merges_by_score(self._tokens, self._numbers("scores", 0.0), [kind == normal for kind in self._types])

    def _bpe(self, bpe: Any, **options: Any) -> Any:
        try:
            return bpe(vocab=self._vocab, **options)
        except Exception as error:  # the library raises nothing narrower
            raise self._error(f"the merges don't fit the vocabulary: {error}") from error

    def _add_tokens(self, backend: tokenizers.Tokenizer) -> None:
        """Tokens that are found in text before any merging: control tokens, and those a user defined."""
        from tokenizers import AddedToken

        special = self._special_tokens()
        plain = [token_id for token_id in self._of_type(TokenType.USER_DEFINED) if token_id not in special]
        marked = [AddedToken(self._tokens[i], special=True, normalized=False) for i in sorted(special)]
        backend.add_special_tokens(marked)
        backend.add_tokens([AddedToken(self._tokens[i], special=False, normalized=False) for i in plain])

    def _special_tokens(self) -> frozenset[int]:
        """Control tokens, and those that end or enclose texts whatever their type; not the padding token, as some
        files name "!" or another word for it."""
        named = (self._ids[name] for name in ("bos", "eos", "eot", "eom") if name in self._ids)
        return frozenset([*self._of_type(TokenType.CONTROL, TokenType.UNKNOWN), *named])

    def _of_type(self, *kinds: int) -> list[int]:
        kinds = tuple(map(int, kinds))  # an enum's members hash and compare far slower than integers
        return [token_id for token_id, kind in enumerate(self._types) if kind in kinds]

    def _special_ids(self, defaults: Mapping[str, int]) -> dict[str, int]:
        ids = {}
        for name in ("bos", "eos", "eot", "eom", "unknown", "padding"):
            token_id = self._value(f"{name}_token_id", int)
            if token_id is None:
                default = defaults.get(name, len(self._tokens))
                if default < len(self._tokens) and self._types[default] in {TokenType.CONTROL, TokenType.UNKNOWN}:
                    ids[name] = default
            elif 0 <= token_id < len(self._tokens):
                ids[name] = token_id
            else:
                raise self._error(
                    f"tokenizer.ggml.{name}_token_id is {token_id}, but there are only {len(self._tokens)} tokens"
                )
        return ids

    def _named(self, ids: Mapping[str, int], name: str) -> tuple[str, int] | None:
        return (self._tokens[ids[name]], ids[name]) if name in ids else None

    def _eos_ids(self, ids: Mapping[str, int]) -> tuple[int, ...]:
        named = [ids[name] for name in ("eos", "eot", "eom") if name in ids]
        template = self._metadata.get("tokenizer.chat_template")
        written = [
            self._vocab[token]
            for token in TURN_ENDS
            if isinstance(template, str) and token in template and self._is_control(token)
        ]
        return tuple(dict.fromkeys([*named, *written]))

    def _is_control(self, token: str) -> bool:
        return token in self._vocab and self._types[self._vocab[token]] == TokenType.CONTROL

    def _value(self, name: str, kind: type, *, default: Any = None) -> Any:
        key = f"tokenizer.ggml.{name}"
        value = self._metadata.get(key)
        if value is None:
            return default
        if not isinstance(value, kind):
            raise self._error(f"{key} is {value!r:.40}, not of type {kind.__name__}")
        return value

    def _list(self, name: str, kind: type) -> list[Any]:
        values: Any = self._metadata.get(f"tokenizer.ggml.{name}", [])
        if not isinstance(values, list) or not {*map(type, values)} <= {kind}:
            raise self._error(f"tokenizer.ggml.{name} isn't a list of type {kind.__name__}")
        return values

    def _numbers(self, name: str, default: float) -> list[float]:
        """One finite number per token, `default` for each if the key isn't there."""
        values = self._metadata.get(f"tokenizer.ggml.{name}")
        if values is None:
            return [default] * len(self._tokens)
        numbers: list[Any] = list(values) if isinstance(values, array | list) else []
        numeric = {*map(type, numbers)} <= {int, float} and all(map(math.isfinite, numbers))
        if not numeric or len(numbers) != len(self._tokens):
            raise self._error(f"tokenizer.ggml.{name} isn't one number for each of the {len(self._tokens)} tokens")
        return numbers

    def _error(self, reason: str, *, damaged: bool = True) -> ModelFileError:
        advice = "Download it again, or another file of this model." if damaged else "Use another model."
        return ModelFileError(f"{self._source}: {reason}. {advice}")
