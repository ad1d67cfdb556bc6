"""The GGUF reader on files as they should be."""

from __future__ import annotations

import time
from array import array
from typing import TYPE_CHECKING

import numpy as np
import pytest

from penstock.core.errors import ModelFileError, NotFoundError
from penstock.models.gguf import GGUFFile
from support import gguf_files as g

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, *args: object, **kwargs: object) -> Path:
    path.write_bytes(g.encode_gguf(*args, **kwargs))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


@pytest.mark.parametrize("version", [2, 3])
def test_metadata_of_every_type_when_read_then_is_what_was_written(path: Path, version: int) -> None:
    scalars = {
        "u8": g.Value(g.U8, 255),
        "i8": g.Value(g.I8, -128),
        "u16": g.Value(g.U16, 65535),
        "i16": g.Value(g.I16, -32768),
        "u32": g.Value(g.U32, 2**32 - 1),
        "i32": g.Value(g.I32, -(2**31)),
        "f32": g.Value(g.F32, 0.5),
        "yes": g.Value(g.BOOL, 1),
        "no": g.Value(g.BOOL, 0),
        "text": g.Value(g.STRING, "naïve 漢字 \0 🙂"),
        "u64": g.Value(g.U64, 2**64 - 1),
        "i64": g.Value(g.I64, -(2**63)),
        "f64": g.Value(g.F64, 1e300),
    }
    with GGUFFile.open(write(path, scalars, version=version)) as file:
        assert file.version == version
        assert dict(file.metadata) == {key: value.value for key, value in scalars.items()}
        assert file.metadata["yes"] is True
        assert type(file.metadata["u8"]) is int


def test_arrays_when_read_then_strings_are_a_list_and_numbers_an_array(path: Path) -> None:
    arrays = {
        "strings": ["", "a", "漢字"],
        "none": g.Value(g.ARRAY, [], g.STRING),
        "ints": g.Value(g.ARRAY, [-1, 2], g.I32),
        "floats": g.Value(g.ARRAY, [0.25, 8.0], g.F64),
        "bools": g.Value(g.ARRAY, [1, 0], g.BOOL),
        "after": "still aligned",
    }
    with GGUFFile.open(write(path, arrays)) as file:
        assert file.metadata["strings"] == ["", "a", "漢字"]
        assert file.metadata["none"] == []
        assert file.metadata["ints"] == array("i", [-1, 2])
        assert file.metadata["floats"] == array("d", [0.25, 8.0])
        assert file.metadata["bools"] == array("B", [1, 0])
        assert file.metadata["after"] == "still aligned"
        assert len(file.metadata) == 6
        assert "strings" in file.metadata
        assert "absent" not in file.metadata


def test_array_when_asked_for_twice_then_is_decoded_once(path: Path) -> None:
    with GGUFFile.open(write(path, {"words": ["a", "b"]})) as file:
        assert file.metadata["words"] is file.metadata["words"]


def test_array_decoded_before_closing_when_read_after_then_is_still_there(path: Path) -> None:
    with GGUFFile.open(write(path, {"words": ["a", "b"], "numbers": [1, 2], "later": ["c"]})) as file:
        words, numbers = file.metadata["words"], file.metadata["numbers"]
    assert words == file.metadata["words"] == ["a", "b"]
    assert numbers.tolist() == [1, 2]
    with pytest.raises(ValueError, match="closed"):
        file.metadata["later"]


def test_array_of_strings_that_are_no_text_when_asked_for_then_is_refused_by_its_key(path: Path) -> None:
    file = GGUFFile.open(write(path, {"words": ["fine", b"\xff\xfe"]}))
    with file, pytest.raises(ModelFileError, match=r"string 1 of 'words' isn't valid UTF-8"):
        file.metadata["words"]


@pytest.mark.parametrize("alignment", [8, 32, 4096])
def test_tensors_when_read_then_have_row_major_shapes_and_their_own_bytes(path: Path, alignment: int) -> None:
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    blocks = g.random_blocks(128, "Q4_1", seed=1)
    tensors = [g.tensor("m", matrix), g.Tensor("q", (2, 64), g.TYPES["Q4_1"][0], blocks)]
    metadata = {"general.alignment": alignment} if alignment != 32 else {}
    with GGUFFile.open(write(path, metadata, tensors, alignment=alignment)) as file:
        assert list(file.tensors) == ["m", "q"]
        assert file.tensors["m"].shape == (3, 4)
        assert (file.tensors["q"].shape, file.tensors["q"].dtype, file.tensors["q"].nbytes) == ((2, 64), "Q4_1", 80)
        assert bytes(file.data("m")) == matrix.tobytes()
        assert bytes(file.data("q")) == blocks
        assert file.data("q").readonly


def test_pages_when_released_then_the_bytes_are_the_same(path: Path) -> None:
    matrix = np.arange(1 << 16, dtype=np.float32)
    with GGUFFile.open(write(path, {}, [g.tensor("a", matrix), g.tensor("b", matrix + 1)])) as file:
        view = file.data("b")
        before = bytes(view)
        file.release_pages("a")
        file.release_pages("b")
        assert bytes(view) == before == (matrix + 1).tobytes()


def test_file_when_closed_with_a_view_alive_then_the_view_stays_valid(path: Path) -> None:
    file = GGUFFile.open(write(path, {}, [g.tensor("a", np.ones(8, np.float32))]))
    view = file.data("a")
    file.close()
    assert bytes(view) == np.ones(8, np.float32).tobytes()


def test_path_without_a_file_when_opened_then_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no file .*nowhere\.gguf"):
        GGUFFile.open(tmp_path / "nowhere.gguf")


def test_vocabulary_of_a_real_size_when_opened_then_is_stepped_over_in_time(path: Path) -> None:
    tokens = [f"token-{i}" for i in range(50_000)]
    write(path, {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": tokens})
    start = time.process_time()
    with GGUFFile.open(path) as file:
        opened = time.process_time() - start
        assert file.metadata["tokenizer.ggml.tokens"] == tokens
    assert opened < 0.3
