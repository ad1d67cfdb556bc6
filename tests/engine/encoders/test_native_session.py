"""The native runner's vectors of encoders, held against onnxruntime's of the same weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from penstock import _native
from penstock.core.errors import ConfigError, ModelFileError
from penstock.engine.encoders.native_session import NativeSession, instructions
from penstock.engine.encoders.session import EncoderSession
from penstock.models.encoder_spec import load_encoder_spec
from support.tiny_encoders import VOCABULARY, to_onnx, write_encoder, write_pooling

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.engine.encoders.results import Ids

LENGTHS = (1, 2, 15, 16, 17, 33, 64, 5)
PLACEMENT = _native.Placement(2, 0, "off")


def texts(kinds: int) -> tuple[list[Ids], list[Ids]]:
    random = np.random.default_rng(7)
    ids = [random.integers(0, VOCABULARY, length).astype(np.int32) for length in LENGTHS]
    return ids, [random.integers(0, kinds, length).astype(np.int32) for length in LENGTHS]


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
@pytest.mark.parametrize(
    ("kind", "mode"),
    [("embedder", "mean_tokens"), ("embedder", "max_tokens"), ("embedder", "lasttoken"), ("classifier", ""),
     ("reranker", "")],
)  # fmt: skip
def test_vectors_and_scores_are_those_of_onnxruntime(tmp_path: Path, kind: str, mode: str, architecture: str) -> None:
    path = write_encoder(tmp_path, kind, architecture)
    if mode:
        write_pooling(path, mode, normalize=True)
    spec = load_encoder_spec(path)
    given = texts(2 if architecture == "bert" else 1)
    native = NativeSession(spec, path, PLACEMENT)
    found = native.run(*given)
    np.testing.assert_allclose(found, EncoderSession(spec, path, 2).run(*given), atol=1e-5)
    for index, (ids, types) in enumerate(zip(*given, strict=True)):  # bit for bit the same alone
        np.testing.assert_array_equal(native.run([ids], [types])[0], found[index])


def test_given_norms_named_as_in_the_first_files_then_both_runners_read_them(tmp_path: Path) -> None:
    path = write_encoder(tmp_path, "classifier")
    spec, given = load_encoder_spec(path), texts(2)
    before = NativeSession(spec, path, PLACEMENT).run(*given)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    weights = load_file(path / spec.file)
    renamed = {
        name.replace(new, was): array for name, array in weights.items() for new, was in old.items() if new in name
    }
    rest = {name: array for name, array in weights.items() if "LayerNorm" not in name}
    assert len(renamed) == 10
    save_file(renamed | rest, path / spec.file)
    np.testing.assert_array_equal(NativeSession(spec, path, PLACEMENT).run(*given), before)
    np.testing.assert_allclose(EncoderSession(spec, path, 2).run(*given), before, atol=1e-5)


def test_given_a_graph_as_a_file_or_only_plain_code_then_onnxruntime_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_encoder(tmp_path / "own", "embedder")
    monkeypatch.delenv("PENSTOCK_CPU_PATH", raising=False)
    best = _native.best_path()
    assert instructions(load_encoder_spec(path)) == (None if best == "scalar" else best)
    monkeypatch.setenv("PENSTOCK_CPU_PATH", "scalar")
    assert instructions(load_encoder_spec(path)) is None
    monkeypatch.delenv("PENSTOCK_CPU_PATH")
    (tmp_path / "onnx").mkdir()
    to_onnx(write_encoder(tmp_path / "source", "classifier"), tmp_path / "onnx")
    assert instructions(load_encoder_spec(tmp_path / "onnx")) is None


def test_given_instructions_that_nobody_has_then_the_start_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_encoder(tmp_path, "embedder")
    monkeypatch.setenv("PENSTOCK_CPU_PATH", "mmx")
    with pytest.raises(ConfigError, match="'mmx' is no instruction path"):
        NativeSession(load_encoder_spec(path), path, PLACEMENT)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"intermediate_size": 96}, "intermediate.dense.weight is 80 x 48, and config.json says 96 x 48"),
        ({"num_hidden_layers": 3}, "no tensor encoder.layer.2"),
        ({"num_attention_heads": 7}, "7 heads can't share 48 numbers"),
    ],
)
def test_given_weights_of_other_sizes_then_the_start_names_what_does_not_fit(
    tmp_path: Path, sizes: dict[str, int], said: str
) -> None:
    path = write_encoder(tmp_path, "embedder")
    config = path / "config.json"
    text = config.read_text()
    for name, size in sizes.items():
        before = text
        text = "\n".join(f'  "{name}": {size},' if f'"{name}"' in line else line for line in text.splitlines())
        assert text != before
    config.write_text(text)
    with pytest.raises(ModelFileError, match=said):
        NativeSession(load_encoder_spec(path), path, PLACEMENT)


def test_given_weights_that_are_no_floats_then_the_start_names_their_type(tmp_path: Path) -> None:
    path = write_encoder(tmp_path, "embedder")
    file = path / "model.safetensors"
    tensors = load_file(file)
    name = "encoder.layer.1.output.dense.weight"
    save_file({**tensors, name: tensors[name].astype(np.int8)}, file)
    with pytest.raises(ModelFileError, match=f"{name} is stored as I8, not as floats"):
        NativeSession(load_encoder_spec(path), path, PLACEMENT)
