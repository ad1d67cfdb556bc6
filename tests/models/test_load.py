"""From a path to weights: every kind of path, every type, and what is refused."""

from __future__ import annotations

import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.core.errors import ModelFileError, NotFoundError
from penstock.models.architectures.base import hf_name
from penstock.models.architectures.gemma3 import GEMMA3
from penstock.models.dequantize import dequantize
from penstock.models.load import load
from support import gguf_files as g
from support.safetensors_files import encode_safetensors, entry, store
from support.tiny_models import write_tiny_hf

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from penstock.models.spec import ModelSpec

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "vocab_size": 48,
}


def write_hf(
    directory: Path,
    dtype: str = "F32",
    spec: ModelSpec | None = None,
    renamed: Mapping[str, str] | None = None,
    **config: Any,
) -> dict[str, np.ndarray]:
    """A Hugging Face directory made without torch; returns its tensors by stored name."""
    tied = config.get("tie_word_embeddings", False)
    values = g.random_values(spec or g.tiny_spec(tied_embeddings=tied))
    stored = {hf_name(name, renamed): array for name, array in values.items()}
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(CONFIG | config))
    (directory / "model.safetensors").write_bytes(store(stored, dtype))
    return stored


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma3"])
def test_gguf_when_loaded_then_every_tensor_is_what_was_stored_under_its_canonical_name(
    tmp_path: Path, architecture: str
) -> None:
    _, values = g.write_tiny_gguf(tmp_path / "m.gguf", architecture)
    spec, weights = load(tmp_path / "m.gguf")
    with weights:
        assert list(weights.names()) == list(values)
        for name, array in values.items():
            assert name in weights
            assert weights.info(name).name == name
            assert weights.info(name).shape == array.shape
            np.testing.assert_array_equal(weights.read(name), array)
    assert spec.architecture == architecture


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize(
    "dtype", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
)
def test_raw_bytes_of_each_type_when_dequantized_then_equal_what_read_gives(
    tmp_path: Path, architecture: str, dtype: str
) -> None:
    sizes = {"hidden_size": 256, "ffn_size": 256, "head_dim": 64, "n_layers": 1}
    g.write_tiny_gguf(tmp_path / "m.gguf", types=dtype, spec=g.tiny_spec(architecture, **sizes))
    spec, weights = load(tmp_path / "m.gguf")
    with weights:
        assert spec.quantization == dtype
        for name in weights.names():
            info = weights.info(name)
            raw = weights.raw(name)
            assert len(raw) == info.nbytes
            assert raw.readonly
            values = weights.read(name)
            np.testing.assert_array_equal(values, dequantize(raw, info.dtype).reshape(info.shape))
            assert np.isfinite(values).all()


def test_tensor_when_read_then_is_the_caller_s_own(tmp_path: Path) -> None:
    g.write_tiny_gguf(tmp_path / "m.gguf")
    _, weights = load(tmp_path / "m.gguf")
    first = weights.read("final_norm.weight")
    first[:] = 7
    assert not (weights.read("final_norm.weight") == 7).any()
    raw = weights.raw("embed.weight")
    weights.close()  # while `raw` is held: it stays valid
    assert len(bytes(raw)) == 48 * 64 * 4


def test_tensor_that_is_not_there_when_asked_for_then_is_named(tmp_path: Path) -> None:
    g.write_tiny_gguf(tmp_path / "m.gguf", spec=g.tiny_spec(tied_embeddings=True))
    _, weights = load(tmp_path / "m.gguf")
    with weights:
        assert "head.weight" not in weights
        for method in (weights.info, weights.read, weights.raw):
            with pytest.raises(ModelFileError, match=r"no tensor 'head\.weight'"):
                method("head.weight")


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_safetensors_of_each_type_when_loaded_then_values_are_those_stored(tmp_path: Path, dtype: str) -> None:
    stored = write_hf(tmp_path, dtype)
    spec, weights = load(tmp_path)
    assert spec.quantization == dtype
    with weights:
        for name in weights.names():
            values = stored[hf_name(name)]
            if dtype == "F16":
                values = values.astype(np.float16).astype(np.float32)
            elif dtype == "BF16":
                values = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
            np.testing.assert_array_equal(weights.read(name), values)


@pytest.mark.parametrize(("dtype", "scale"), [("F32", 96**0.5), ("F16", 9.796875), ("BF16", 9.8125)])
def test_gemma_safetensors_when_loaded_then_norms_are_one_more_than_stored_and_the_scale_is_of_their_type(
    tmp_path: Path, dtype: str, scale: float
) -> None:
    stored = write_hf(
        tmp_path,
        dtype,
        spec=g.tiny_spec("gemma3", hidden_size=96),
        renamed=GEMMA3.families[0].renamed,
        model_type="gemma3_text",
        architectures=["Gemma3ForCausalLM"],
        hidden_size=96,
        head_dim=16,
        tie_word_embeddings=True,
    )
    spec, weights = load(tmp_path)
    assert spec.embedding_scale == np.float32(scale)
    with weights:
        for name in weights.names():
            array = stored[hf_name(name, GEMMA3.families[0].renamed)]
            values = {
                "F32": array,
                "F16": array.astype(np.float16).astype(np.float32),
                "BF16": (array.view(np.uint32) & 0xFFFF0000).view(np.float32),
            }[dtype]
            if name.endswith("norm.weight"):
                values = values + np.float32(1)
                assert weights.info(name).dtype == "F32"
                assert weights.info(name).nbytes == len(weights.raw(name)) == 4 * values.size
                assert bytes(weights.raw(name)) == values.tobytes()
            assert weights.are_finite(name)
            np.testing.assert_array_equal(weights.read(name), values)


def test_generation_config_when_there_then_says_which_tokens_end_an_answer(tmp_path: Path) -> None:
    write_hf(tmp_path, eos_token_id=2)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')
    spec, weights = load(tmp_path)
    weights.close()
    assert spec.eos_token_ids == (5, 6)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "qwen3"])
def test_sharded_checkpoint_when_loaded_then_equals_the_whole_one(tmp_path: Path, architecture: str) -> None:
    whole, sharded = tmp_path / "whole", tmp_path / "sharded"
    write_tiny_hf(whole, architecture)
    write_tiny_hf(sharded, architecture, sharded=True)
    assert len(list(sharded.glob("*.safetensors"))) > 1
    _, one = load(whole)
    _, many = load(sharded)
    with one, many:
        assert set(one.names()) == set(many.names())
        for name in one.names():
            np.testing.assert_array_equal(one.read(name), many.read(name))


@pytest.mark.parametrize("given_part", [1, 2, 3])
def test_split_gguf_when_any_part_is_given_then_equals_the_whole(tmp_path: Path, given_part: int) -> None:
    _, values = g.write_tiny_gguf(tmp_path / "whole.gguf")
    parts = g.write_split_gguf(tmp_path, 3)
    spec, weights = load(parts[given_part - 1])
    assert spec.name == "tiny"
    with weights:
        for name, array in values.items():
            np.testing.assert_array_equal(weights.read(name), array)


def test_split_gguf_when_a_part_is_missing_then_it_is_named(tmp_path: Path) -> None:
    parts = g.write_split_gguf(tmp_path, 3)
    parts[1].unlink()
    with pytest.raises(ModelFileError, match=r"3 parts, and .*tiny-00002-of-00003\.gguf is missing"):
        load(parts[2])


def test_split_gguf_when_parts_are_swapped_then_is_refused(tmp_path: Path) -> None:
    parts = g.write_split_gguf(tmp_path, 3)
    spare = parts[1].rename(tmp_path / "spare")
    parts[2].rename(parts[1])
    spare.rename(parts[2])
    with pytest.raises(ModelFileError, match=r"split\.no is 2, but the files here say 1"):
        load(parts[0])


def test_split_gguf_when_one_part_was_renamed_then_says_that_there_are_more(tmp_path: Path) -> None:
    parts = g.write_split_gguf(tmp_path, 3)
    with pytest.raises(ModelFileError, match=r"split\.count is 3, but the files here say 1"):
        load(parts[0].rename(tmp_path / "renamed.gguf"))


def test_split_gguf_when_a_part_holds_another_s_tensors_then_is_refused(tmp_path: Path) -> None:
    parts = g.write_split_gguf(tmp_path, 2)
    split = {"split.no": g.Value(g.U16, 1), "split.count": g.Value(g.U16, 2)}
    parts[1].write_bytes(g.encode_gguf(split, [g.tensor("token_embd.weight", np.ones((48, 64), np.float32))]))
    with pytest.raises(ModelFileError, match=r"'token_embd\.weight' is in .*00001.* and again in .*00002"):
        load(parts[0])


@pytest.mark.parametrize("count", [0, 1])
def test_split_gguf_when_merged_again_then_loads_whatever_count_it_kept(tmp_path: Path, count: int) -> None:
    g.write_tiny_gguf(tmp_path / "m.gguf", split__no=g.Value(g.U16, 0), split__count=g.Value(g.U16, count))
    load(tmp_path / "m.gguf")[1].close()


def test_part_number_over_the_count_when_loaded_then_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m-00004-of-00003.gguf"
    g.write_tiny_gguf(path)
    with pytest.raises(ModelFileError, match="part 4 of 3"):
        load(path)


def test_directory_with_one_gguf_when_loaded_then_takes_it(tmp_path: Path) -> None:
    g.write_tiny_gguf(tmp_path / "m.gguf")
    load(tmp_path)[1].close()


def test_directory_with_one_split_gguf_when_loaded_then_takes_all_parts(tmp_path: Path) -> None:
    g.write_split_gguf(tmp_path, 3)
    _, weights = load(tmp_path)
    assert "final_norm.weight" in weights
    weights.close()


def test_directory_with_two_models_when_loaded_then_names_them(tmp_path: Path) -> None:
    g.write_tiny_gguf(tmp_path / "b.gguf")
    g.write_split_gguf(tmp_path, 2, stem="a")
    with pytest.raises(ModelFileError, match=r"2 GGUF models \(a-00001-of-00002\.gguf, b\.gguf"):
        load(tmp_path)


def test_directory_with_both_formats_when_loaded_then_takes_the_safetensors(tmp_path: Path) -> None:
    write_hf(tmp_path, "BF16")
    g.write_tiny_gguf(tmp_path / "m.gguf", types="Q8_0")
    spec, weights = load(tmp_path)
    weights.close()
    assert spec.quantization == "BF16"


def fill_pytorch(directory: Path) -> None:
    (directory / "pytorch_model.bin").write_bytes(b"PK")
    (directory / "config.json").write_text(json.dumps(CONFIG))


def fill_without_config(directory: Path) -> None:
    write_hf(directory)
    (directory / "config.json").unlink()


def fill_index(directory: Path, weight_map: object) -> None:
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    ("fill", "reason"),
    [
        (lambda directory: None, "holds no model"),
        (fill_pytorch, "PyTorch .bin files, which can run code"),
        (fill_without_config, "no config.json"),
        (lambda d: fill_index(d, {}), "weight_map must map"),
        (lambda d: fill_index(d, ["a"]), "weight_map must map"),
        (lambda d: fill_index(d, {"a": "../secret.safetensors"}), "isn't a file of this directory"),
        (lambda d: fill_index(d, {"a": "/etc/x.safetensors"}), "isn't a file of this directory"),
        (lambda d: fill_index(d, {"a": ".."}), "isn't a file of this directory"),
        (lambda d: fill_index(d, {"a": "a\0.safetensors"}), "isn't a file of this directory"),
        (lambda d: fill_index(d, {"a": 7}), "names '7'"),
        (
            lambda d: fill_index(d, {"a": "x.safetensors"}),
            "x.safetensors, which model.safetensors.index.json names, is",
        ),
    ],
)
def test_directory_without_a_whole_model_when_loaded_then_says_what_is_missing(
    tmp_path: Path, fill: Any, reason: str
) -> None:
    fill(tmp_path)
    with pytest.raises(ModelFileError) as caught:
        load(tmp_path)
    assert reason in caught.value.message


def test_index_that_names_the_wrong_shard_when_loaded_then_is_refused(tmp_path: Path) -> None:
    write_tiny_hf(tmp_path, sharded=True)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    name = next(iter(content["weight_map"]))
    content["weight_map"][name] = next(s for s in content["weight_map"].values() if s != content["weight_map"][name])
    index.write_text(json.dumps(content))
    with pytest.raises(ModelFileError, match="though the index says so"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["nothing", "nothing.gguf", "nothing-00001-of-00002.gguf"])
def test_path_with_nothing_there_when_loaded_then_is_not_found(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFoundError, match="nothing at"):
        load(tmp_path / name)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_path_that_can_be_none_when_loaded_then_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises((ModelFileError, NotFoundError)):
        load(tmp_path / name)


def test_one_safetensors_file_when_loaded_then_asks_for_its_directory(tmp_path: Path) -> None:
    write_hf(tmp_path)
    with pytest.raises(ModelFileError, match="give the directory"):
        load(tmp_path / "model.safetensors")


def rewrite(path: Path, change: Any) -> None:
    """Write a tiny GGUF after `change` has had its way with the list of its tensors."""
    spec = g.tiny_spec()
    path.write_bytes(g.encode_gguf(g.gguf_metadata(spec), change(g.gguf_tensors(spec, g.random_values(spec)))))


def test_missing_tensor_when_loaded_then_is_named_with_its_shape(tmp_path: Path) -> None:
    rewrite(tmp_path / "m.gguf", lambda tensors: [t for t in tensors if t.name != "blk.1.ffn_up.weight"])
    with pytest.raises(ModelFileError, match=r"'blk\.1\.ffn_up\.weight' of shape \(96, 64\) is missing"):
        load(tmp_path / "m.gguf")


def test_tensor_of_another_shape_when_loaded_then_both_shapes_are_named(tmp_path: Path) -> None:
    wrong = g.tensor("blk.0.attn_k.weight", np.ones((16, 64), np.float32))
    rewrite(tmp_path / "m.gguf", lambda tensors: [wrong if t.name == wrong.name else t for t in tensors])
    with pytest.raises(ModelFileError, match=r"'blk\.0\.attn_k\.weight' has the shape \(16, 64\), and .* \(32, 64\)"):
        load(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    "name",
    ["blk.0.attn_output.bias", "blk.0.ffn_gate_exps.weight", "blk.2.attn_norm.weight", "rope_factors_long.weight"],
)
def test_tensor_that_no_runner_would_use_when_loaded_then_is_refused_by_name(tmp_path: Path, name: str) -> None:
    rewrite(tmp_path / "m.gguf", lambda tensors: [*tensors, g.tensor(name, np.ones(64, np.float32))])
    with pytest.raises(ModelFileError) as caught:
        load(tmp_path / "m.gguf")
    assert name in caught.value.message


@pytest.mark.parametrize("dtype", ["IQ4_NL", "MXFP4", "IQ4_XS", "TQ1_0"])
def test_unsupported_gguf_type_when_loaded_then_is_refused_by_name_with_a_way_out(tmp_path: Path, dtype: str) -> None:
    sizes = {"hidden_size": 256, "ffn_size": 256, "head_dim": 64, "n_layers": 1}
    g.write_tiny_gguf(
        tmp_path / "m.gguf", types=lambda n: dtype if n.endswith("up.weight") else "F16", spec=g.tiny_spec(**sizes)
    )
    with pytest.raises(ModelFileError, match=rf"'blk\.0\.ffn_up\.weight' is stored as {dtype}.*Q4_K_M GGUF") as caught:
        load(tmp_path / "m.gguf")
    assert caught.value.code == "unsupported_tensor_type"


def test_unsupported_safetensors_type_when_loaded_then_is_refused_by_name(tmp_path: Path) -> None:
    write_hf(tmp_path)
    header = {"model.embed_tokens.weight": entry("F8_E4M3", [48, 64], 0, 48 * 64)}
    (tmp_path / "model.safetensors").write_bytes(encode_safetensors(header, bytes(48 * 64)))
    with pytest.raises(ModelFileError, match=r"is stored as F8_E4M3.*F32, F16, BF16"):
        load(tmp_path)


def test_tied_checkpoint_that_stores_an_equal_head_when_loaded_then_is_tied(tmp_path: Path) -> None:
    stored = write_hf(tmp_path, tie_word_embeddings=True)
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"]
    (tmp_path / "model.safetensors").write_bytes(store(stored))
    spec, weights = load(tmp_path)
    assert spec.tied_embeddings
    assert "head.weight" not in weights
    weights.close()


def test_tied_checkpoint_that_stores_another_head_when_loaded_then_uses_it_as_transformers_does(
    tmp_path: Path,
) -> None:
    stored = write_hf(tmp_path, tie_word_embeddings=True)
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"] + 1
    (tmp_path / "model.safetensors").write_bytes(store(stored))
    spec, weights = load(tmp_path)
    assert not spec.tied_embeddings
    np.testing.assert_array_equal(weights.read("head.weight"), stored["lm_head.weight"])
    weights.close()


def test_tables_that_everybody_computes_when_stored_then_are_ignored(tmp_path: Path) -> None:
    stored = write_hf(tmp_path)
    stored["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
    (tmp_path / "model.safetensors").write_bytes(store(stored))
    load(tmp_path)[1].close()


@pytest.mark.parametrize("content", ["", "[]", '{"model_type": "llama", "model_type": "qwen2"}', "{" * 100_000, "nul"])
def test_config_that_is_no_object_when_loaded_then_is_refused_by_name(tmp_path: Path, content: str) -> None:
    write_hf(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelFileError, match=r"config\.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("dtype", "name"), [("F32", "q"), ("Q8_0", "q"), ("Q4_K", "down"), ("BF16", "up"), ("F16", "k")]
)
def test_tensor_when_read_then_memory_peaks_at_the_tensor_and_a_little(tmp_path: Path, dtype: str, name: str) -> None:
    spec = g.tiny_spec(hidden_size=1024, ffn_size=1024, n_heads=16, n_kv_heads=16, head_dim=64, n_layers=1)
    g.write_tiny_gguf(tmp_path / "m.gguf", types=dtype, spec=spec)
    tracemalloc.start()
    try:
        _, weights = load(tmp_path / "m.gguf")
        opened = tracemalloc.get_traced_memory()[1]
        values = weights.read(f"layers.0.{name}.weight")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    weights.close()
    assert values.nbytes == 4 * 2**20
    assert opened < 2**20
    assert peak < values.nbytes + 2 * 2**20


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_model_when_bits_of_its_header_flip_then_loads_or_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["gguf", "safetensors", "config"]))
    write_hf(tmp_path)
    g.write_tiny_gguf(tmp_path / "m.gguf")
    file = {"gguf": "m.gguf", "safetensors": "model.safetensors", "config": "config.json"}[kind]
    content = bytearray((tmp_path / file).read_bytes())
    header = min(len(content), 2900)
    for bit in data.draw(st.lists(st.integers(0, header * 8 - 1), min_size=1, max_size=4)):
        content[bit // 8] ^= 1 << bit % 8
    (tmp_path / file).write_bytes(content)
    try:
        _, weights = load(tmp_path / "m.gguf" if kind == "gguf" else tmp_path)
    except ModelFileError:
        return
    with weights:
        for name in weights.names():
            assert weights.read(name).shape == weights.info(name).shape
