"""What the files of an encoder say, and what they may not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from penstock.core.errors import ModelFileError
from penstock.models.encoder_files import is_encoder
from penstock.models.encoder_spec import load_encoder_spec
from penstock.models.pooling import pooling_of
from support.gguf_files import write_tiny_gguf
from support.tiny_encoders import write_pooling

if TYPE_CHECKING:
    from pathlib import Path

BERT: dict[str, Any] = {
    "model_type": "bert", "architectures": ["BertModel"], "vocab_size": 30, "hidden_size": 8, "intermediate_size": 16,
    "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip


def write(directory: Path, **fields: Any) -> Path:
    config = {name: value for name, value in {**BERT, **fields}.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "model.safetensors").write_bytes(b"weights")
    return directory


def test_given_a_bare_directory_then_vectors_are_means_of_length_1(tmp_path: Path) -> None:
    spec = load_encoder_spec(write(tmp_path))
    assert is_encoder(tmp_path)
    assert (spec.kind, spec.pooling, spec.normalize, spec.max_length, spec.drawn) == (
        "embedder",
        "mean",
        True,
        32,
        True,
    )


def test_given_sentence_transformers_files_then_they_decide(tmp_path: Path) -> None:
    write_pooling(write(tmp_path), "cls_token", normalize=False, most=20)
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    spec = load_encoder_spec(tmp_path)
    assert (spec.pooling, spec.normalize, spec.max_length, spec.prefix) == ("cls", False, 20, "query: ")


@pytest.mark.parametrize(
    ("fields", "kind", "activation"),
    [
        ({"id2label": {"0": "x"}}, "reranker", "sigmoid"),
        ({"id2label": {"0": "x"}, "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
         "reranker", "none"),
        ({"id2label": {"0": "x"}, "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
         "reranker", "none"),
        ({"id2label": {"1": "b", "0": "a"}}, "classifier", "softmax"),
        ({"id2label": {"1": "b", "0": "a"}, "problem_type": "multi_label_classification"}, "classifier", "sigmoid"),
        ({}, "classifier", "softmax"),
    ],
)  # fmt: skip
def test_a_classifying_head_is_told_by_its_labels(
    tmp_path: Path, fields: dict[str, Any], kind: str, activation: str
) -> None:
    spec = load_encoder_spec(write(tmp_path, architectures=["BertForSequenceClassification"], **fields))
    assert (spec.kind, spec.activation) == (kind, activation)
    if "1" in fields.get("id2label", {}):
        assert spec.labels == ("a", "b")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"hidden_act": "relu"}, "gelu"),
        ({"position_embedding_type": "relative_key"}, "absolute"),
        ({"model_type": "distilbert"}, "model.onnx"),
        ({"hidden_size": "8"}, "hidden_size"),
        ({"hidden_size": -8}, "hidden_size"),
        ({"layer_norm_eps": 5}, "layer_norm_eps"),
        ({"max_position_embeddings": 2}, "2 tokens"),
        ({"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "2": "b"}}, "id2label"),
    ],
)
def test_given_a_config_that_cannot_be_then_the_error_names_what(
    tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelFileError, match=said):
        load_encoder_spec(write(tmp_path, **fields))


def test_given_modules_that_are_not_known_then_they_are_refused(tmp_path: Path) -> None:
    write_pooling(write(tmp_path), "mean_tokens", normalize=True)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules.append({"type": "sentence_transformers.models.Dense", "path": "3_Dense"})
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelFileError, match="Dense"):
        load_encoder_spec(tmp_path)
    (tmp_path / "modules.json").write_text('{"a": 1}')
    with pytest.raises(ModelFileError, match="list of modules"):
        load_encoder_spec(tmp_path)


def test_given_weights_of_a_generator_then_it_is_no_encoder(tmp_path: Path) -> None:
    assert not is_encoder(write(tmp_path, model_type="llama", architectures=["LlamaForCausalLM"]))
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"graph")
    assert not is_encoder(tmp_path)
    assert is_encoder(write(tmp_path, model_type="distilbert", architectures=["DistilBertModel"]))
    assert load_encoder_spec(tmp_path).file == "onnx/model.onnx"
    assert not is_encoder(tmp_path / "m.gguf")


@pytest.mark.parametrize(("given", "pooling"), [(0, "last"), (1, "mean"), (3, "last"), (None, "last")])
def test_a_gguf_files_pooling_is_followed(tmp_path: Path, given: int | None, pooling: str) -> None:
    metadata = {} if given is None else {"llama__pooling_type": given}
    write_tiny_gguf(tmp_path / "m.gguf", **metadata)
    assert pooling_of(tmp_path / "m.gguf") == pooling


@pytest.mark.parametrize(("mode", "pooling"), [("lasttoken", "last"), ("mean_tokens", "mean")])
def test_a_directorys_pooling_is_followed(tmp_path: Path, mode: str, pooling: str) -> None:
    assert pooling_of(tmp_path) == "last"
    assert pooling_of(write_pooling(tmp_path, mode, normalize=True)) == pooling
    with pytest.raises(ModelFileError, match="cls_token"):
        pooling_of(write_pooling(tmp_path, "cls_token", normalize=True))
