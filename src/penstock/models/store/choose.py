"""Which files of a hub repository make up the model that was asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError, NotFoundError, StoreError
from penstock.core.suggest import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from penstock.models.store.names import HubName

# Four bits first: the usual balance of size and quality; then upwards, then what is smaller, unquantized last.
PREFERENCE = (
    "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "Q4_K_L", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q6_K", "Q8_0",
    "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K", "BF16", "F16", "F32",
)  # fmt: skip

_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
_QUANTIZATION = re.compile(
    r"(?:^|[-._/])((?:UD-)?(?:I?Q\d(?:_K)?(?:_[A-Z0-9]+)*|TQ\d_\d|MXFP4(?:_[A-Z]+)*|BF16|F16|FP16|F32|FP32))(?=[-._/]|$)",
    re.IGNORECASE,
)
_SAFETENSORS_FILES = re.compile(
    r"config\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|"
    r"added_tokens\.json|vocab\.json|merges\.txt|tokenizer\.model|chat_template\.(jinja|json)|"
    r"model.*\.safetensors|model\.safetensors\.index\.json|"
    r"modules\.json|1_Pooling/config\.json|sentence_bert_config\.json|config_sentence_transformers\.json"
)
_ONNX_FILES = re.compile(r"(onnx/)?model\.onnx([._]data)?")  # of an encoder that has no safetensors


@dataclass(frozen=True, slots=True)
class Choice:
    """The files to fetch; `load` is what a loader opens, `label` what the name ends with ("" for safetensors)."""

    label: str
    load: str
    files: tuple[str, ...]


def choose_files(name: HubName, files: Sequence[str]) -> Choice:
    """Pick the files of `name` out of its repository's.

    Raises NotFoundError if there is no such quantization or no model at all, InvalidRequestError if several files
    answer to it, StoreError if a part of a split file is missing.
    """
    models = gguf_models(files)
    wants_safetensors = (name.choice or "").casefold() == "safetensors"
    if not models or wants_safetensors:
        if name.choice and not wants_safetensors:
            raise NotFoundError(
                f"{name.repo} holds no GGUF files, so there is no quantization {name.choice!r} to choose; "
                f"write hf:{name.repo} for its safetensors files.",
                param="model",
            )
        return _safetensors(name, files)
    found = _matching(name.choice, models) if name.choice else _preferred(models)
    if not found:
        labels = sorted({label_of(model[0]) for model in models})
        raise NotFoundError(
            f"{name.repo} has no quantization {name.choice!r}.{did_you_mean(name.choice or '', labels)} "
            f"It has: {', '.join(labels)}.",
            param="model",
        )
    if len(found) > 1:
        files_named = ", ".join(model[0] for model in found)
        raise InvalidRequestError(
            f"{name} could mean any of these files: {files_named}. Name one: hf:{name.repo}:{found[0][0]}",
            param="model",
        )
    return _gguf_choice(name, found[0], models)


def label_of(file: str) -> str:
    """The quantization in a file's name, in capitals as the format's own names are, else the file's name.

    It only helps to pick a file; what a file really holds is read from its header.
    """
    found = _QUANTIZATION.findall(_SPLIT.sub("", file.removesuffix(".gguf")))
    return found[-1].upper() if found else file


def gguf_models(files: Iterable[str]) -> list[list[str]]:
    """The repository's GGUF models, each as the list of its parts in order; vision projectors are none."""
    groups: dict[str, list[str]] = {}
    for file in sorted(files):
        if file.lower().endswith(".gguf") and not file.rpartition("/")[2].lower().startswith("mmproj"):
            split = _SPLIT.search(file)
            groups.setdefault(file[: split.start()] + f"-of-{split[2]}" if split else file, []).append(file)
    return list(groups.values())


def _matching(choice: str, models: list[list[str]]) -> list[list[str]]:
    wanted = choice.casefold()
    named = [model for model in models if any(wanted in _names(file) for file in model)]
    return named or [model for model in models if label_of(model[0]).casefold() == wanted]


def _names(file: str) -> set[str]:
    """A file's path and its last part, as someone may write either."""
    return {file.casefold(), file.rpartition("/")[2].casefold()}


def _preferred(models: list[list[str]]) -> list[list[str]]:
    for label in PREFERENCE:
        if found := [model for model in models if label_of(model[0]) == label]:
            return found
    return models  # nothing we would choose for someone: fine if it is the only one


def _gguf_choice(name: HubName, model: list[str], models: list[list[str]]) -> Choice:
    split = _SPLIT.search(model[0])
    if split and len(model) != int(split[2]):
        raise StoreError(
            f"{name.repo} holds only {len(model)} of the {int(split[2])} parts of {model[0]}.",
            code="incomplete",
        )
    label = label_of(model[0])
    unique = sum(label_of(other[0]) == label for other in models) == 1
    return Choice(label if unique else model[0], model[0], tuple(model))


def _safetensors(name: HubName, files: Iterable[str]) -> Choice:
    files = sorted(files)
    chosen = tuple(file for file in files if _SAFETENSORS_FILES.fullmatch(file))
    if not any(file.endswith(".safetensors") for file in chosen):
        chosen += tuple(file for file in files if _ONNX_FILES.fullmatch(file))
    if "config.json" not in chosen or not any(file.endswith((".safetensors", ".onnx")) for file in chosen):
        raise NotFoundError(
            f"{name.repo} holds no model that can be loaded: neither GGUF files nor config.json with safetensors or "
            "ONNX.",
            param="model",
        )
    return Choice("", ".", chosen)
