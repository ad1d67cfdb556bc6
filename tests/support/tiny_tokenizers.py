"""Small trained tokenizers, as a Hugging Face directory and as a GGUF file with the same content."""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from support.text_corpus import CORPUS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import tokenizers

CONTROL = ("<|begin|>", "<|end|>", "<|user|>")
USER_DEFINED = ("<think>", "</think>", "    ")
NORMAL_TYPE, UNKNOWN_TYPE, CONTROL_TYPE, USER_TYPE, UNUSED_TYPE, BYTE_TYPE = range(1, 7)
ENGLISH = (
    "The quick brown fox jumps over the lazy dog, and then the other fox said that nothing was the matter. "
    "In the beginning there were words, and words were counted: one, two, three thousand and 45 of them. "
    "Don't worry, we'll see what they've done; it isn't here and it wasn't there.\n\n"
)


@dataclass(frozen=True)
class TinyFiles:
    """One tokenizer in both forms."""

    directory: Path
    gguf: Path
    backend: tokenizers.Tokenizer


def byte_level_backend(
    pre_tokenizer: Any, *, normalizer: Any = None, ignore_merges: bool = False, vocab_size: int = 900
) -> tokenizers.Tokenizer:
    """A byte-level BPE trained on the corpus, with `CONTROL` and `USER_DEFINED` tokens after its vocabulary."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    backend.train_from_iterator([ENGLISH] * 8 + list(CORPUS) * 3, trainer)
    backend.model.ignore_merges = ignore_merges
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in CONTROL])
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in USER_DEFINED])
    return backend


def write_byte_level(directory: Path, backend: tokenizers.Tokenizer, pre: str, *, add_bos: bool = False) -> TinyFiles:
    """The directory holds `backend`, given a post-processor; the GGUF file names its pre-tokenizer `pre`."""
    from tokenizers import processors

    if add_bos:
        begin = (CONTROL[0], backend.token_to_id(CONTROL[0]))
        backend.post_processor = processors.TemplateProcessing(single=f"{CONTROL[0]} $A", special_tokens=[begin])
    write_directory(directory, backend, bos_token=CONTROL[0], eos_token=CONTROL[1])
    model = json.loads(backend.to_str())["model"]
    tokens = [backend.id_to_token(token_id) for token_id in range(backend.get_vocab_size())]
    types = [CONTROL_TYPE if t in CONTROL else USER_TYPE if t in USER_DEFINED else NORMAL_TYPE for t in tokens]
    gguf = write_gguf(
        directory / "model.gguf",
        {
            "model": "gpt2",
            "pre": pre,
            "tokens": tokens,
            "token_type": types,
            "merges": [" ".join(pair) for pair in model["merges"]],
            "bos_token_id": tokens.index(CONTROL[0]),
            "eos_token_id": tokens.index(CONTROL[1]),
            "add_bos_token": add_bos,
        },
    )
    return TinyFiles(directory, gguf, backend)


# Tokens that Gemma's vocabulary has whatever a text is: runs of line ends, tabs and spaces, and tags.
GEMMA_TOKENS = (
    *("\n" * n for n in range(1, 6)),
    *("\t" * n for n in range(1, 4)),
    *("▁" * n for n in range(2, 9)),
    "<b>",
)


def train_sentencepiece(**options: Any) -> Any:
    """A SentencePiece BPE with byte fallback, made as Llama 2's was; `options` of the trainer say otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its SWIG bindings, on import
        import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([ENGLISH.replace("\n", " ")] * 8 + [text for text in CORPUS if text.strip()] * 3),
        model_writer=model,
        vocab_size=700,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        character_coverage=0.98,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def sentencepiece_metadata(model: Any, user_defined: Sequence[str] = ()) -> dict[str, Any]:
    """What a converter writes about a SentencePiece model; `user_defined` are its tokens of that type."""
    ids = range(model.get_piece_size())

    def kind(token_id: int) -> int:
        if model.is_unknown(token_id):
            return UNKNOWN_TYPE
        if model.is_control(token_id):
            return CONTROL_TYPE
        if model.id_to_piece(token_id) in user_defined:
            return USER_TYPE
        return BYTE_TYPE if model.is_byte(token_id) else NORMAL_TYPE

    return {
        "model": "llama",
        "pre": "default",
        # The spaces of tokens that are found before any other are written as such.
        "tokens": [
            piece.replace("▁", " ") if (piece := model.id_to_piece(token_id)) in user_defined else piece
            for token_id in ids
        ],
        "scores": [model.get_score(token_id) for token_id in ids],
        "token_type": [kind(token_id) for token_id in ids],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }


def write_directory(directory: Path, backend: tokenizers.Tokenizer, **config: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    backend.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False} | config
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


def write_gguf(path: Path, tokenizer: dict[str, Any], *, chat_template: Any = None) -> Path:
    """A GGUF file with one tiny tensor and these `tokenizer.ggml.*` keys."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    for key, value in tokenizer.items():
        _add(writer, f"tokenizer.ggml.{key}", value)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    writer.add_tensor("token_embd.weight", np.zeros((1, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: Any, key: str, value: str | bool | int | Sequence[Any]) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
