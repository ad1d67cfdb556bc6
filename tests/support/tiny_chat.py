"""A tiny random model that can be served: weights, a byte-level tokenizer and a chat template."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from support.tiny_models import write_tiny_hf

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SPECIALS = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tiny_chat(
    directory: Path,
    architecture: str = "llama",
    *,
    template: str = TEMPLATE,
    control: Sequence[str] = (),
    **overrides: Any,
) -> Path:
    """A model whose every byte is a token (ids 5 to 260), with `</s>` as end of text; returns `directory`.

    `control` are control tokens beside `SPECIALS`, from id 261 on.
    """
    write_tiny_hf(directory, architecture, **overrides)
    write_tokenizer(directory, template, control)
    return directory


def write_tokenizer(directory: Path, template: str = TEMPLATE, control: Sequence[str] = ()) -> None:
    """The tokenizer and the template alone."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: index for index, piece in enumerate((*SPECIALS, *alphabet, *control))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in (*SPECIALS, *control)])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
