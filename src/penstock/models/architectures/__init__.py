"""The architectures that run, one small file each, and how to find a file's own.

To add one that is a variation of these: write its file, add it to `ARCHITECTURES`, and give the tests in
`tests/support/tiny_models.py` a variant of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.core.errors import ModelFileError
from penstock.models.architectures.gemma3 import GEMMA3
from penstock.models.architectures.llama import LLAMA
from penstock.models.architectures.qwen2 import QWEN2
from penstock.models.architectures.qwen3 import QWEN3

if TYPE_CHECKING:
    from penstock.models.architectures.base import Architecture, HFFamily

ARCHITECTURES: tuple[Architecture, ...] = (LLAMA, QWEN2, QWEN3, GEMMA3)


def find_gguf(general_architecture: str, where: str) -> Architecture:
    """By GGUF's `general.architecture`. Raises ModelFileError that lists what is supported."""
    for architecture in ARCHITECTURES:
        if architecture.gguf_name == general_architecture:
            return architecture
    supported = ", ".join(architecture.gguf_name for architecture in ARCHITECTURES)
    raise _unsupported(general_architecture, where, supported)


def find_hf(model_type: str, class_names: list[str], where: str) -> tuple[Architecture, HFFamily]:
    """By config.json's `model_type` and `architectures`. Raises ModelFileError that lists what is supported.

    Both must agree: a LlamaForSequenceClassification has the model type of a Llama, and no words to say.
    """
    for architecture in ARCHITECTURES:
        for family in architecture.families:
            if model_type == family.model_type and (not class_names or family.class_name in class_names):
                return architecture, family
    supported = ", ".join(family.class_name for architecture in ARCHITECTURES for family in architecture.families)
    raise _unsupported(", ".join([model_type, *class_names]), where, supported)


def _unsupported(found: str, where: str, supported: str) -> ModelFileError:
    return ModelFileError(
        f"{where}: the architecture {found[:200]!r} isn't supported. Supported: {supported}.",
        code="unsupported_architecture",
    )
