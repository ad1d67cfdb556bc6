"""The writer of ONNX models against the reference checker and runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from penstock.engine.encoders.onnx_graph import FLOAT, OnnxGraph


@pytest.fixture
def model() -> bytes:
    graph = OnnxGraph("test")
    graph.input("x", FLOAT, ["rows", 300])
    graph.weight("w", [300, 2])
    graph.node("MatMul", ["x", "w"], ["y"])
    graph.node("LeakyRelu", ["y"], ["z"], alpha=0.25)
    graph.node("Concat", ["z", "y"], ["both"], axis=1)
    graph.output("both", FLOAT, ["rows", 4])
    return graph.model()


def test_the_model_is_what_onnx_reads(model: bytes) -> None:
    read = onnx.load_model_from_string(model)
    graph = read.graph
    assert [node.op_type for node in graph.node] == ["MatMul", "LeakyRelu", "Concat"]
    assert [size.dim_param or size.dim_value for size in graph.input[0].type.tensor_type.shape.dim] == ["rows", 300]
    assert [*graph.initializer[0].dims] == [300, 2]
    assert graph.node[1].attribute[0].f == 0.25
    assert graph.node[2].attribute[0].i == 1
    assert read.SerializeToString() == onnx.load_model_from_string(read.SerializeToString()).SerializeToString()


def test_the_model_computes(model: bytes) -> None:
    random = np.random.default_rng(0)
    x, w = (random.normal(size=shape).astype(np.float32) for shape in ((5, 300), (300, 2)))
    options = onnxruntime.SessionOptions()
    options.add_external_initializers(["w"], [onnxruntime.OrtValue.ortvalue_from_numpy(w)])
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    y = x @ w
    expected = np.concatenate([np.where(y > 0, y, 0.25 * y), y], axis=1)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-4, atol=1e-4)
