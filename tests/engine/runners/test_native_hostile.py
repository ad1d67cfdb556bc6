"""GGUF files whose header is in order and whose weights are any bytes: a request gets a token or its own error, the
same with all instructions, and nothing crashes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from penstock import _native
from penstock.core.errors import ModelFileError
from penstock.engine.runners.base import RunnerConfig
from penstock.engine.runners.native import NativeRunner
from penstock.engine.runners.refusal import NOT_FINITE
from penstock.engine.types import SampleSpec, SamplingParams, SequenceStep, StepBatch
from support.gguf_files import encode_gguf, gguf_metadata, gguf_tensors, random_values, tiny_spec, write_tiny_gguf

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from penstock.engine.types import SequenceOutput

TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
SPEC = tiny_spec(hidden_size=256, ffn_size=256, head_dim=64)
PROMPTS = [[5, 9, 3], [7], list(range(20))]


def bytes_of(kind: str, count: int, rng: np.random.Generator) -> bytes:
    if kind == "random":
        return rng.bytes(count)
    return {"zeros": b"\x00", "ones": b"\xff", "sevens": b"\x77"}[kind] * count


def write(path: Path, dtype: str, kind: str, *, norms: bool) -> Path:
    """A model whose matrices, and norms if so asked, are bytes of a kind."""
    rng = np.random.default_rng(TYPES.index(dtype))
    tensors = [
        replace(t, data=bytes_of(kind, len(t.data), rng)) if norms or len(t.shape) > 1 else t
        for t in gguf_tensors(SPEC, random_values(SPEC), dtype)
    ]
    path.write_bytes(encode_gguf(gguf_metadata(SPEC), tensors))
    return path


def answers(path: Path, dtype: str) -> Sequence[SequenceOutput]:
    runner = NativeRunner(RunnerConfig(model_path=str(path), dtype=dtype, threads=1, max_model_len=64))
    runner.load()
    runner.allocate(8)
    params = SamplingParams(temperature=1.0, top_p=0.9, top_k=20, logprobs=2, prompt_logprobs=1)
    steps = [
        SequenceStep(str(i), prompt, 0, (2 * i, 2 * i + 1), SampleSpec(params, i, prompt, (), ()), 1, prompt[1:])
        for i, prompt in enumerate(PROMPTS)
    ]
    outputs = runner.execute(StepBatch(steps)).sequences
    runner.shutdown()
    return outputs


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("kind", ["zeros", "ones", "sevens", "random"])
@pytest.mark.parametrize("dtype", TYPES)
def test_weights_of_any_bytes_give_a_token_or_an_error_the_same_with_all_instructions(
    dtype: str, kind: str, norms: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "any.gguf", dtype, kind, norms=norms)
    for computed in ("auto", "float32"):
        found = []
        for instructions in _native.supported_paths():
            monkeypatch.setenv("PENSTOCK_CPU_PATH", instructions)
            found.append(answers(path, computed))
        assert all(outputs == found[0] for outputs in found)
        for output in found[0]:
            if output.error is None:
                assert output.token_id in range(SPEC.vocab_size)
            else:
                assert output.error == NOT_FINITE
                assert output.token_id is None


@pytest.mark.parametrize("dtype", ["Q4_0", "Q6_K", "F16"])
def test_a_file_cut_off_anywhere_among_its_weights_is_refused(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    write_tiny_gguf(path, types=dtype, spec=SPEC)
    whole = path.read_bytes()
    for length in (len(whole) - 33, len(whole) * 3 // 4, len(whole) // 2, len(whole) // 4):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError, match=r"ends at byte|left"):
            NativeRunner(RunnerConfig(model_path=str(path), threads=1)).load()
