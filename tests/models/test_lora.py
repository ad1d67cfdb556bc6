"""Adapters' files: what is read of a good one, and why each bad one is refused."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.core.errors import ModelFileError, NotFoundError, PenstockError
from penstock.models.lora import CONFIG, MODULES, WEIGHTS, LoraAdapter
from penstock.models.spec import ModelSpec
from support.adapters import ALL_TARGETS, adapter_tensors, write_adapter
from support.safetensors_files import store

if TYPE_CHECKING:
    from pathlib import Path

SPEC = ModelSpec(
    architecture="llama", name="tiny", vocab_size=320, hidden_size=32, ffn_size=48, n_layers=3, n_heads=4, n_kv_heads=2,
    head_dim=8, context_length=64, rms_norm_eps=1e-5, rope_theta=10000.0,
)  # fmt: skip
Q = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"


def opened(directory: Path, max_rank: int = 64) -> LoraAdapter:
    return LoraAdapter.open(directory, SPEC, max_rank)


def refusal(directory: Path, **fields: Any) -> PenstockError:
    with pytest.raises((ModelFileError, NotFoundError)) as caught:
        opened(directory, **fields)
    return caught.value


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_all_pairs_are_found_with_their_weights(dtype: str, tmp_path: Path) -> None:
    tensors = adapter_tensors(SPEC)
    with opened(write_adapter(tmp_path, SPEC, dtype=dtype)) as adapter:
        assert adapter.pairs.keys() == {f"layers.{i}.{module}" for i in range(3) for module in MODULES}
        assert adapter.rank == 8
        pair = adapter.pairs["layers.2.down"]
        assert (pair.rank, pair.scale, pair.a.shape, pair.b.shape) == (8, 2.0, (8, 48), (32, 8))
        name = "base_model.model.model.layers.2.mlp.down_proj.lora_A.weight"
        np.testing.assert_allclose(adapter.read(pair.a), tensors[name], rtol=1e-2)
        assert len(adapter.raw(pair.b)) == 32 * 8 * (4 if dtype == "F32" else 2)


def test_ranks_and_scales_follow_the_settings_patterns(tmp_path: Path) -> None:
    tensors = adapter_tensors(SPEC, 4, ("v_proj",)) | adapter_tensors(SPEC, 6, ("q_proj",))
    directory = write_adapter(
        tmp_path, SPEC, 4, ("q_proj", "v_proj"), tensors=tensors, lora_alpha=8, use_rslora=True,
        rank_pattern={"q_proj": 6},
        alpha_pattern={"^model.layers.1.self_attn.v_proj": 3, "layers.0.self_attn.v_proj": 5},
    )  # fmt: skip
    with opened(directory) as adapter:
        scales = {name: pair.scale for name, pair in adapter.pairs.items()}
    assert scales["layers.0.q"] == pytest.approx(8 / math.sqrt(6))
    assert [scales[f"layers.{i}.v"] for i in range(3)] == pytest.approx([5 / 2, 3 / 2, 8 / 2])


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        ({"peft_type": "IA3"}, "peft_type"),
        ({"bias": "all"}, "bias"),
        ({"use_dora": True}, "use_dora"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"some_new_way": {"a": 1}}, "some_new_way"),
        ({"task_type": "SEQ_CLS"}, "task_type"),
        ({"r": 0}, "r is 0"),
        ({"lora_alpha": "much"}, "lora_alpha"),
        ({"rank_pattern": {"(a+)+$": 8}}, "rank_pattern"),
        ({"target_modules": [*ALL_TARGETS, "lm_head"]}, "lm_head"),
        ({"r": 9}, "its rank is 9"),
    ],
)
def test_settings_that_ask_for_more_than_is_computed_are_refused_by_name(
    overrides: dict[str, Any], part: str, tmp_path: Path
) -> None:
    config = {"rank": 8, **overrides}
    error = refusal(write_adapter(tmp_path, SPEC, **config))
    assert part in error.message


@pytest.mark.parametrize(
    "excluded", [["q_proj"], ["self_attn.q_proj"], [f"model.layers.{i}.self_attn.q_proj" for i in range(3)], ".*q_proj"]
)
def test_modules_that_are_excluded_may_be_absent(excluded: list[str] | str, tmp_path: Path) -> None:
    tensors = {name: each for name, each in adapter_tensors(SPEC).items() if "q_proj" not in name}
    with opened(write_adapter(tmp_path, SPEC, tensors=tensors, exclude_modules=excluded)) as adapter:
        assert adapter.pairs.keys() == {f"layers.{i}.{module}" for i in range(3) for module in MODULES if module != "q"}


def test_a_file_without_more_than_is_excluded_is_incomplete(tmp_path: Path) -> None:
    tensors = {name: each for name, each in adapter_tensors(SPEC).items() if "q_proj" not in name}
    directory = write_adapter(tmp_path, SPEC, tensors=tensors, exclude_modules=["model.layers.1.self_attn.q_proj"])
    assert "'q_proj'" in refusal(directory).message
    some = {name: each for name, each in adapter_tensors(SPEC).items() if "layers.2.self_attn.q_proj" not in name}
    directory = write_adapter(tmp_path, SPEC, tensors=some, exclude_modules=["model.layers.1.self_attn.q_proj"])
    assert "q_proj has no tensor in layer 2" in refusal(directory).message


def _without(tensors: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda t: {}, "no tensors"),
        (lambda t: _without(t, Q.format(1, "B")), "lora_B.weight is missing"),
        (lambda t: _without(_without(t, Q.format(1, "B")), Q.format(1, "A")), "in layer 1"),
        (lambda t: {k: v for k, v in t.items() if "up_proj" not in k}, "'up_proj'"),
        (lambda t: {**t, Q.format(0, "A"): t[Q.format(0, "A")][:, :-1]}, "another base model"),
        (lambda t: {**t, Q.format(0, "A"): t[Q.format(0, "A")][:-1]}, "7 rows of lora_A"),
        (lambda t: {**t, Q.format(3, "A"): t[Q.format(0, "A")]}, "layer 3"),
        (lambda t: {**t, Q.format("01", "A"): t[Q.format(0, "A")]}, "twice"),
        (lambda t: {**t, "base_model.model.lm_head.lora_A.weight": t[Q.format(0, "A")]}, "lm_head"),
        (lambda t: {**t, Q.format(0, "magnitude_vector"): t[Q.format(0, "A")]}, "magnitude_vector"),
        (lambda t: {**t, Q.format(0, "A"): t[Q.format(0, "A")] * np.inf}, "NaN or infinite"),
        (lambda t: {**t, Q.format(2, "B"): t[Q.format(2, "B")] * np.nan}, "NaN or infinite"),
    ],
)
def test_tensors_that_are_missing_odd_or_of_another_base_are_refused(change: Any, part: str, tmp_path: Path) -> None:
    error = refusal(write_adapter(tmp_path, SPEC, tensors=change(adapter_tensors(SPEC))))
    assert part in error.message


def test_a_rank_over_the_limit_is_refused_with_the_option_that_raises_it(tmp_path: Path) -> None:
    write_adapter(tmp_path, SPEC, 16)
    error = refusal(tmp_path, max_rank=8)
    assert error.code == "rank_too_large"
    assert "--max-lora-rank" in error.message
    opened(tmp_path, max_rank=16).close()


def test_a_pickle_is_refused_unread_with_the_way_out(tmp_path: Path) -> None:
    write_adapter(tmp_path, SPEC)
    (tmp_path / WEIGHTS).rename(tmp_path / "adapter_model.bin")
    error = refusal(tmp_path)
    assert error.code == "unsafe_format"
    assert "safe_serialization" in error.message


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_directory_without_one_of_both_files_holds_no_adapter(name: str, tmp_path: Path) -> None:
    write_adapter(tmp_path, SPEC)
    (tmp_path / name).unlink()
    error = refusal(tmp_path)
    assert isinstance(error, NotFoundError)
    assert name in error.message


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read_but_never_anything_else(data: st.DataObject, tmp_path: Path) -> None:
    write_adapter(tmp_path, SPEC, 2, ("q_proj",))
    path = tmp_path / data.draw(st.sampled_from([CONFIG, WEIGHTS]))
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        most = len(content) if path.name == CONFIG else 600
        for at, byte in data.draw(st.dictionaries(st.integers(0, most - 1), st.integers(0, 255), max_size=4)).items():
            content[at] = byte
    path.write_bytes(bytes(content))
    with suppress(ModelFileError, NotFoundError):
        opened(tmp_path).close()


def test_numbers_in_the_config_of_any_kind_end_in_a_clear_refusal(tmp_path: Path) -> None:
    write_adapter(tmp_path, SPEC)
    config = json.loads((tmp_path / CONFIG).read_text())
    for key in ("r", "lora_alpha", "rank_pattern", "target_modules", "use_rslora"):
        for wrong in (-1, {"q_proj": "x"}, [1], 1e400):
            (tmp_path / CONFIG).write_text(json.dumps({**config, key: wrong}))
            assert key in refusal(tmp_path).message


def test_stored_types_other_than_floats_are_refused(tmp_path: Path) -> None:
    write_adapter(tmp_path, SPEC, 2, ("q_proj",))
    data = store(adapter_tensors(SPEC, 2, ("q_proj",)), "F16").replace(b'"F16"', b'"I16"')
    (tmp_path / WEIGHTS).write_bytes(data)
    assert "I16" in refusal(tmp_path).message
