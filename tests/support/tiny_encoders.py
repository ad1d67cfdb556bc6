"""Tiny random encoders on disk, as transformers and sentence-transformers write them, and as ONNX."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from support.text_corpus import CORPUS

if TYPE_CHECKING:
    from pathlib import Path

LABELS = ("calm", "cross", "glad")
VOCABULARY = 200
_SIZES = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def write_encoder(directory: Path, kind: str, architecture: str = "bert", *, seed: int = 0, **config: Any) -> Path:
    """A "bert" or "roberta" model of 64 positions with its tokenizer.

    `kind` is "embedder", "reranker" or "classifier" (of `LABELS`); `AutoModel...from_pretrained` and
    sentence-transformers load the same weights.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    fields = {**_SIZES, "vocab_size": VOCABULARY, **config}
    if kind != "embedder":
        names = LABELS if kind == "classifier" else ("relevance",)
        fields |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    if architecture != "bert":
        fields |= {"pad_token_id": 1, "type_vocab_size": 1, "max_position_embeddings": 66}
    own = AutoConfig.for_model(architecture, **fields)
    model = (AutoModel if kind == "embedder" else AutoModelForSequenceClassification).from_config(own)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if "LayerNorm.weight" in name else 0.15 * noise)
    model.eval().save_pretrained(directory)
    _write_tokenizer(directory, architecture)
    return directory


def write_pooling(directory: Path, mode: str, *, normalize: bool, most: int = 64) -> Path:
    """sentence-transformers' files beside an embedder; `mode` as its configuration calls it, such as "mean_tokens"."""
    modules = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    listed = [
        {"idx": i, "name": str(i), "path": paths[i], "type": f"sentence_transformers.models.{name}"}
        for i, name in enumerate(modules)
    ]
    (directory / "modules.json").write_text(json.dumps(listed))
    (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": most, "do_lower_case": False}))
    (directory / "1_Pooling").mkdir(exist_ok=True)
    pooling = {"word_embedding_dimension": 48, **{f"pooling_mode_{m}": m == mode for m in (
        "cls_token", "mean_tokens", "max_tokens", "lasttoken")}}  # fmt: skip
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return directory


def to_onnx(source: Path, directory: Path) -> Path:
    """A classifier of `source`'s tokens in ONNX, int64 inputs as exporters write them: a mean of token scores."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    scores = np.random.default_rng(3).normal(size=(VOCABULARY, len(LABELS))).astype(np.float32)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask")
    ]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["each"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["each", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["sums"], keepdims=0),
        helper.make_node("ReduceSum", ["column", "middle"], ["lengths"], keepdims=0),
        helper.make_node("Div", ["sums", "lengths"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        inputs,
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LABELS)])],
        [
            numpy_helper.from_array(scores, "table"),
            numpy_helper.from_array(np.array([2], np.int64), "last"),
            numpy_helper.from_array(np.array([1], np.int64), "middle"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, directory / "model.onnx")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (source / name).is_file():
            (directory / name).write_bytes((source / name).read_bytes())
    return directory


def _write_tokenizer(directory: Path, architecture: str) -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bert = architecture == "bert"
    named = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] if bert else ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    first, last, pad, unknown = ("[CLS]", "[SEP]", "[PAD]", "[UNK]") if bert else ("<s>", "</s>", "<pad>", "<unk>")
    backend = Tokenizer(models.WordPiece(unk_token=unknown))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY, special_tokens=named, limit_alphabet=60, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    marks = [(mark, backend.token_to_id(mark)) for mark in (first, last)]
    second = "1" if bert else "0"
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", pair=f"{first} $A {last} $B:{second} {last}:{second}", special_tokens=marks
    )
    backend.decoder = decoders.WordPiece()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token=first, sep_token=last, pad_token=pad, unk_token=unknown, model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    wrapped.save_pretrained(directory)
