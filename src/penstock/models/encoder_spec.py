"""What a model is that reads a text whole, from the small files of its directory; the weights stay closed.

Files as Hugging Face and sentence-transformers write them: `config.json`; `modules.json`, `1_Pooling/config.json` and
`sentence_bert_config.json` of an embedder, with `config_sentence_transformers.json`. Weights are `model.onnx` (or
`onnx/model.onnx`), or the safetensors of an architecture in `DRAWN`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

from penstock.core.errors import ModelFileError
from penstock.models.encoder_files import DRAWN, onnx_file
from penstock.models.model_files import model_name
from penstock.models.strict_json import parse_object, read_object

if TYPE_CHECKING:
    from pathlib import Path

EncoderKind = Literal["embedder", "reranker", "classifier"]
EncoderPooling = Literal["mean", "cls", "last", "max"]
Activation = Literal["sigmoid", "softmax", "none"]

_POOLING: dict[str, EncoderPooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
}
_UNBOUNDED = 1_000_000  # what tokenizers write for no bound is far above


class EncoderSpec(Struct, frozen=True, kw_only=True):
    """An encoder. It crosses to its process, so it is a message.

    `labels` are a classifier's, by class; a reranker has one, whose score `activation` maps, and an embedder none.
    """

    name: str
    kind: EncoderKind
    architecture: str
    file: str  # model.onnx, or model.safetensors, whose graph is drawn from the sizes below
    max_length: int  # tokens, special ones included
    pooling: EncoderPooling = "mean"
    normalize: bool = False
    labels: tuple[str, ...] = ()
    activation: Activation = "none"
    prefix: str = ""  # put before each text
    vocab_size: int = 0
    hidden_size: int = 0
    ffn_size: int = 0
    n_layers: int = 0
    n_heads: int = 0
    norm_eps: float = 1e-12
    first_position: int = 0  # row of the position table that a text's first token takes

    @property
    def quantization(self) -> str:
        """As a generator's: what the weights are."""
        return "float32" if self.drawn else "ONNX"

    @property
    def drawn(self) -> bool:
        """Whether the graph is made here, from safetensors."""
        return self.file.endswith(".safetensors")


def load_encoder_spec(directory: Path) -> EncoderSpec:
    """Read what the directory says. Raises ModelFileError for what is missing, wrong or not supported."""
    config = _Config(directory / "config.json")
    file = onnx_file(directory)
    architecture = config.text("model_type")
    if file is None:
        if architecture not in DRAWN:
            raise ModelFileError(
                f"{directory}: encoders of the type {architecture!r} run from ONNX, and there is no model.onnx. Export "
                f"it (optimum-cli export onnx), or take a model of the type {', '.join(DRAWN)}."
            )
        if not (directory / "model.safetensors").is_file():
            raise ModelFileError(f"{directory} holds neither model.onnx nor model.safetensors. Download it again.")
        if config.raw.get("hidden_act", "gelu") != "gelu" or config.raw.get("is_decoder"):
            raise ModelFileError(f"{directory}: only encoders with the activation 'gelu' are drawn; export it to ONNX.")
        if config.raw.get("position_embedding_type", "absolute") != "absolute":
            raise ModelFileError(f"{directory}: only absolute positions are drawn; export it to ONNX.")
        file = "model.safetensors"
    # RoBERTa counts positions from the padding token's id on.
    first = 0 if architecture == "bert" else config.integer("pad_token_id", 1) + 1
    kind, labels, activation = _head(config)
    pooling, normalize = _pooling(directory, kind)
    return EncoderSpec(
        name=model_name(directory),
        kind=kind,
        architecture=architecture,
        file=file,
        max_length=_max_length(directory, config.integer("max_position_embeddings", 512) - first),
        pooling=pooling,
        normalize=normalize,
        labels=labels,
        activation=activation,
        prefix=_prefix(directory),
        vocab_size=config.integer("vocab_size", 0),
        hidden_size=config.integer("hidden_size", 0),
        ffn_size=config.integer("intermediate_size", 0),
        n_layers=config.integer("num_hidden_layers", 0),
        n_heads=config.integer("num_attention_heads", 0),
        norm_eps=config.number("layer_norm_eps", 1e-12),
        first_position=first,
    )


class _Config:
    """A JSON object whose fields are checked as they are read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.raw = read_object(path)

    def integer(self, name: str, default: int) -> int:
        value = self.raw.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
            raise self._wrong(name)
        return value

    def number(self, name: str, default: float) -> float:
        value = self.raw.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            raise self._wrong(name)
        return float(value)

    def text(self, name: str) -> str:
        value = self.raw.get(name)
        if not isinstance(value, str):
            raise self._wrong(name)
        return value

    def labels(self) -> tuple[str, ...]:
        """By class; two without names, as transformers has it, if there are none."""
        given = self.raw.get("id2label")
        if given is None:
            return tuple(f"LABEL_{index}" for index in range(self.integer("num_labels", 2)))
        if not isinstance(given, dict) or {*given} != {str(index) for index in range(len(given))} or not given:
            raise self._wrong("id2label")
        return tuple(str(given[str(index)]) for index in range(len(given)))

    def _wrong(self, name: str) -> ModelFileError:
        return ModelFileError(f"{self._path}: {name} is {str(self.raw.get(name))[:100]!r}, which can't be.")


def _head(config: _Config) -> tuple[EncoderKind, tuple[str, ...], Activation]:
    """What the model is for, its labels and what turns logits into scores."""
    architectures = config.raw.get("architectures")
    if not isinstance(architectures, list) or not any("ForSequenceClassification" in str(a) for a in architectures):
        return "embedder", (), "none"
    labels = config.labels()
    if len(labels) > 1:
        multiple = config.raw.get("problem_type") == "multi_label_classification"
        return "classifier", labels, "sigmoid" if multiple else "softmax"
    # sentence-transformers' cross-encoders say so where the score is the logit itself.
    own = config.raw.get("sentence_transformers")
    named = own.get("activation_fn") if isinstance(own, dict) else None
    named = named or config.raw.get("sbert_ce_default_activation_function") or ""
    return "reranker", labels, "none" if str(named).endswith(".Identity") else "sigmoid"


def _pooling(directory: Path, kind: EncoderKind) -> tuple[EncoderPooling, bool]:
    """How tokens become a vector, and whether it is normalized: by the modules, else the mean as it is."""
    modules = directory / "modules.json"
    if kind != "embedder" or not modules.is_file():
        return "mean", kind == "embedder" and not modules.is_file()
    types = [str(module.get("type", "")).rpartition(".")[2] for module in _modules(modules)]
    unknown = set(types) - {"Transformer", "Pooling", "Normalize"}
    if unknown:
        raise ModelFileError(f"{modules}: the module {min(unknown)} isn't supported.")
    given = _Config(directory / "1_Pooling" / "config.json").raw
    modes = [name for name, on in given.items() if name.startswith("pooling_mode_") and on is True]
    if isinstance(given.get("pooling_mode"), str):  # sentence-transformers 6 names it
        modes = [{"lasttoken": "pooling_mode_lasttoken", "cls": "pooling_mode_cls_token"}.get(
            given["pooling_mode"], f"pooling_mode_{given['pooling_mode']}_tokens"
        )]  # fmt: skip
    if len(modes) != 1 or modes[0] not in _POOLING:
        raise ModelFileError(f"{directory / '1_Pooling' / 'config.json'}: {modes} isn't supported as pooling.")
    return _POOLING[modes[0]], "Normalize" in types


def _modules(path: Path) -> list[dict[str, Any]]:
    try:
        wrapped = b'{"modules":' + path.read_bytes() + b"}"
    except OSError as error:
        raise ModelFileError(f"{path} can't be read: {error}.") from error
    modules = parse_object(wrapped, str(path)).get("modules")
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelFileError(f"{path} must be a list of modules.")
    return modules


def _max_length(directory: Path, positions: int) -> int:
    """Tokens: sentence-transformers' own bound, else the tokenizer's, and no more than there are positions."""
    bounds = [positions]
    for name, field in (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        found = read_object(directory / name).get(field) if (directory / name).is_file() else None
        if isinstance(found, int) and not isinstance(found, bool) and 0 < found < _UNBOUNDED:
            bounds.append(found)
    if min(bounds) < 3:
        raise ModelFileError(f"{directory}: the model reads {min(bounds)} tokens, which hold no text.")
    return min(bounds)


def _prefix(directory: Path) -> str:
    """sentence-transformers' default prompt."""
    path = directory / "config_sentence_transformers.json"
    own = read_object(path) if path.is_file() else {}
    prompts, name = own.get("prompts"), own.get("default_prompt_name")
    found = prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else None
    return found if isinstance(found, str) else ""
