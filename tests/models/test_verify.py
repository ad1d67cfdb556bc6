"""Checking a model on disk in full."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from penstock.core.errors import InvalidRequestError, ModelFileError, NotFoundError
from penstock.models.verify import verify
from support import gguf_files as g

if TYPE_CHECKING:
    from pathlib import Path


def test_sound_model_when_verified_then_the_report_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    spec, values = g.write_tiny_gguf(path)
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    steps: list[tuple[int, int]] = []
    report = verify(path, checksum.upper(), on_progress=lambda done, total: steps.append((done, total)))
    assert report.sha256_checked
    assert (report.tensors, report.spec.hidden_size) == (len(values), spec.hidden_size)
    assert [(file.path, file.sha256) for file in report.files] == [(path, checksum)]
    assert steps[-1] == (path.stat().st_size, path.stat().st_size)


def test_split_model_when_verified_then_every_part_is_hashed(tmp_path: Path) -> None:
    parts = g.write_split_gguf(tmp_path, 3)
    report = verify(parts[0])
    assert [file.path for file in report.files] == parts
    assert not report.sha256_checked
    with pytest.raises(InvalidRequestError, match="3 files, and a checksum is of one"):
        verify(parts[0], "0" * 64)


def test_model_when_its_checksum_differs_then_both_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    g.write_tiny_gguf(path)
    with pytest.raises(ModelFileError, match=r"has the SHA-256 [0-9a-f]{64}, and 0{64} was expected") as caught:
        verify(path, "0" * 64)
    assert caught.value.code == "checksum_mismatch"


@pytest.mark.parametrize("types", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_when_verified_then_the_tensor_is_named(
    tmp_path: Path, poison: float, types: str
) -> None:
    spec = g.tiny_spec()
    values = g.random_values(spec)
    values["layers.1.down.weight"][3, 5] = poison
    (tmp_path / "m.gguf").write_bytes(g.encode_gguf(g.gguf_metadata(spec), g.gguf_tensors(spec, values, types)))
    with pytest.raises(ModelFileError, match=r"layers\.1\.down\.weight holds infinities or NaNs"):
        verify(tmp_path / "m.gguf")


def test_infinities_that_cancel_when_verified_then_are_found(tmp_path: Path) -> None:
    spec = g.tiny_spec()
    values = g.random_values(spec)
    values["final_norm.weight"][:2] = (np.inf, -np.inf)
    (tmp_path / "m.gguf").write_bytes(g.encode_gguf(g.gguf_metadata(spec), g.gguf_tensors(spec, values)))
    with pytest.raises(ModelFileError, match="infinities or NaNs"):
        verify(tmp_path / "m.gguf")


def test_vocabulary_that_is_no_text_when_verified_then_is_refused(tmp_path: Path) -> None:
    g.write_tiny_gguf(tmp_path / "m.gguf", tokenizer__ggml__tokens=["a", b"\xff"])
    with pytest.raises(ModelFileError, match=r"string 1 of 'tokenizer\.ggml\.tokens' isn't valid UTF-8"):
        verify(tmp_path / "m.gguf")


def test_pipe_when_verified_then_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.gguf")
    with pytest.raises(ModelFileError, match="not a regular file"):
        verify(tmp_path / "m.gguf")


def test_path_with_nothing_there_when_verified_then_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        verify(tmp_path / "nowhere.gguf")
