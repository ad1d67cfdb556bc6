"""Draws a BERT encoder as an ONNX graph of fused operators, over weights from safetensors.

BERT (Devlin et al., 2019, https://arxiv.org/abs/1810.04805) with learned positions, post-layer normalization and GELU;
RoBERTa and XLM-RoBERTa differ in where positions begin and in the classifying head. Operators:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md. The graph takes right-padded
`input_ids`, `token_type_ids` and `attention_mask`, int32 [batch, length], and gives float32 `last_hidden_state`
[batch, length, hidden], or with a classifying head `logits` [batch, classes].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from penstock.core.errors import ModelFileError
from penstock.engine.encoders.onnx_graph import FLOAT, INT32, MICROSOFT, OnnxGraph
from penstock.engine.encoders.tensor_names import prefix_of, today
from penstock.models.dequantize import dequantize_into
from penstock.models.safetensors import SafetensorsFile

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from penstock.models.encoder_spec import EncoderSpec

    Floats = NDArray[np.float32]

_FLOATS = ("F32", "F16", "BF16")


def draw(spec: EncoderSpec, path: Path) -> tuple[bytes, dict[str, Floats]]:
    """The ONNX model, and its weights by their names in it.

    Raises ModelFileError if the file at `path` lacks a tensor or has one of another shape than the spec's sizes say.
    """
    if min(spec.vocab_size, spec.hidden_size, spec.ffn_size, spec.n_layers, spec.n_heads) < 1:
        raise ModelFileError(f"{path.parent / 'config.json'} doesn't say the model's sizes. Download it again.")
    if spec.hidden_size % spec.n_heads:
        raise ModelFileError(f"{path.parent / 'config.json'}: {spec.n_heads} heads don't share {spec.hidden_size}.")
    with SafetensorsFile.open(path) as file:
        drawing = _Drawing(spec, file)
        hidden = drawing.layers()
        if spec.kind == "embedder":
            drawing.graph.output(hidden, FLOAT, ["batch", "length", spec.hidden_size])
        else:
            drawing.head(hidden)
        return drawing.graph.model(), drawing.weights


class _Drawing:
    """A graph, and the weights that have been read for it."""

    def __init__(self, spec: EncoderSpec, file: SafetensorsFile) -> None:
        self.graph = OnnxGraph(spec.architecture)
        self.weights: dict[str, Floats] = {}
        self._spec = spec
        self._file = file
        self._base = prefix_of(file.tensors)
        self._stored = {today(name): name for name in file.tensors}
        for name in ("input_ids", "token_type_ids", "attention_mask"):
            self.graph.input(name, INT32, ["batch", "length"])

    def layers(self) -> str:
        """Embeddings and all layers; the name of the last hidden state."""
        spec = self._spec
        hidden = spec.hidden_size
        at = f"{self._base}embeddings."
        positions = self._read(f"{at}position_embeddings.weight", None, hidden)[spec.first_position :]
        if len(positions) < spec.max_length:
            raise ModelFileError(f"{self._file.path} has {len(positions)} positions for {spec.max_length} tokens.")
        tables = [
            self._put("words", self._read(f"{at}word_embeddings.weight", spec.vocab_size, hidden)),
            self._put("positions", positions),
            self._put("types", self._read(f"{at}token_type_embeddings.weight", None, hidden)),
        ]
        self.graph.node(
            "EmbedLayerNormalization",
            ["input_ids", "token_type_ids", *tables, *self._norm(f"{at}LayerNorm"), "attention_mask"],
            ["embedded", "lengths"],
            domain=MICROSOFT,
            epsilon=spec.norm_eps,
        )
        x = "embedded"
        for index in range(spec.n_layers):
            last = index == spec.n_layers - 1
            x = self._layer(
                f"{self._base}encoder.layer.{index}.", x, "last_hidden_state" if last else f"hidden.{index}"
            )
        return x

    def head(self, hidden: str) -> None:
        """The first token's hidden state through the classifying head."""
        spec, graph = self._spec, self.graph
        bert = spec.architecture == "bert"
        first, last = ("bert.pooler.dense", "classifier") if bert else ("classifier.dense", "classifier.out_proj")
        graph.node("Constant", [], ["zero"], value_int=0)
        graph.node("Gather", [hidden, "zero"], ["first"], axis=1)
        graph.node("Gemm", ["first", *self._dense(first, spec.hidden_size, spec.hidden_size)], ["pooled"])
        graph.node("Tanh", ["pooled"], ["bent"])
        graph.node("Gemm", ["bent", *self._dense(last, len(spec.labels), spec.hidden_size)], ["logits"])
        graph.output("logits", FLOAT, ["batch", len(spec.labels)])

    def _layer(self, at: str, x: str, to: str) -> str:
        spec, graph = self._spec, self.graph
        hidden, ffn = spec.hidden_size, spec.ffn_size
        parts = [self._dense_arrays(f"{at}attention.self.{part}", hidden, hidden) for part in ("query", "key", "value")]
        qkv = self._put(f"{at}qkv", np.concatenate([weight for weight, _ in parts], axis=1))
        bias = self._put(f"{at}qkv.bias", np.concatenate([bias for _, bias in parts]))
        graph.node("Attention", [x, qkv, bias, "lengths"], [f"{at}attended"], domain=MICROSOFT, num_heads=spec.n_heads)
        y = self._add_product(f"{at}attention.output", f"{at}attended", x, hidden, f"{at}between")
        weight, bias = self._dense(f"{at}intermediate.dense", ffn, hidden)
        graph.node("MatMul", [y, weight], [f"{at}wide"])
        graph.node("BiasGelu", [f"{at}wide", bias], [f"{at}bent"], domain=MICROSOFT)
        return self._add_product(f"{at}output", f"{at}bent", y, ffn, to)

    def _add_product(self, at: str, x: str, residual: str, inputs: int, to: str) -> str:
        """`norm(residual + dense(x))`."""
        weight, bias = self._dense(f"{at}.dense", self._spec.hidden_size, inputs)
        # onnxruntime's SkipLayerNormalization does all this in one, and takes five times as long on a CPU.
        self.graph.node("MatMul", [x, weight], [f"{at}.product"])
        self.graph.node("Add", [f"{at}.product", bias], [f"{at}.biased"])
        self.graph.node("Add", [f"{at}.biased", residual], [f"{at}.sum"])
        self.graph.node(
            "LayerNormalization", [f"{at}.sum", *self._norm(f"{at}.LayerNorm")], [to], epsilon=self._spec.norm_eps
        )
        return to

    def _dense(self, name: str, outputs: int, inputs: int) -> list[str]:
        weight, bias = self._dense_arrays(name, outputs, inputs)
        return [self._put(f"{name}.weight", weight), self._put(f"{name}.bias", bias)]

    def _dense_arrays(self, name: str, outputs: int, inputs: int) -> tuple[Floats, Floats]:
        """Weight [inputs, outputs], as ONNX multiplies, and bias [outputs]."""
        return self._read(f"{name}.weight", outputs, inputs).T, self._read(f"{name}.bias", outputs)

    def _norm(self, name: str) -> list[str]:
        return [self._put(f"{name}.{part}", self._read(f"{name}.{part}", self._spec.hidden_size)) for part in
                ("weight", "bias")]  # fmt: skip

    def _put(self, name: str, array: Floats) -> str:
        self.weights[name] = np.ascontiguousarray(array)
        self.graph.weight(name, array.shape)
        return name

    def _read(self, name: str, *shape: int | None) -> Floats:
        """A stored tensor as float32; None fits any size."""
        stored = self._stored.get(name, name)
        info = self._file.tensors.get(stored)
        if info is None or info.dtype not in _FLOATS:
            raise ModelFileError(f"{self._file.path} has no tensor {name} of floats. Download the model again.")
        fits = len(info.shape) == len(shape) and all(w in {None, s} for w, s in zip(shape, info.shape, strict=True))
        if not fits:
            raise ModelFileError(f"{self._file.path}: {name} has the shape {info.shape}, and config.json says {shape}.")
        out = np.empty(info.shape, np.float32)
        dequantize_into(self._file.data(stored), info.dtype, out.reshape(-1))
        self._file.release_pages(stored)
        return out
