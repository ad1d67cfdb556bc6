"""Packed weights that outlive the process: taken again, packed again after any change, and never in the way."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest

from penstock.core.errors import ModelFileError
from penstock.engine.runners import native, packed
from penstock.engine.runners.base import RunnerConfig
from penstock.engine.runners.native import NativeRunner
from support.runners import write_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

PROMPT = [5, 9, 11, 200, 3]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of any size are kept, here; and each is there before the next start."""
    monkeypatch.setattr(native, "LEAST_BYTES", 0)
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path / "home"))
    aside = packed.PackedFile.write_aside

    def at_once(self: packed.PackedFile, *arguments: object) -> None:
        aside(self, *arguments).join()  # type: ignore[arg-type]

    monkeypatch.setattr(packed.PackedFile, "write_aside", at_once)
    return tmp_path / "home" / "packed"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path, "llama", "native-int8")


def start(model: Path, **fields: Any) -> tuple[str, list[list[float]]]:
    """Where the weights came from, and what they compute."""
    config = RunnerConfig(model_path=str(model), runner_cache=True, threads=1, max_model_len=64)
    runner = NativeRunner(dataclasses.replace(config, **fields))
    runner.load()
    runner.allocate(4)
    scores = runner._runner.logits(PROMPT, 0, [0])
    source = runner.describe()["weights"]
    runner.shutdown()
    return source, scores


def files(folder: Path) -> Sequence[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


def test_a_second_start_takes_what_the_first_one_packed(model: Path, folder: Path) -> None:
    first, scores = start(model)
    again, same = start(model)
    assert (first, again) == ("packed at this start", "packed by an earlier start")
    assert same == scores
    assert [path.suffix for path in files(folder)] == [".packed"]


def test_what_is_packed_otherwise_is_kept_apart(model: Path, folder: Path) -> None:
    for dtype in ("auto", "float32"):
        assert start(model, dtype=dtype)[0] == "packed at this start"
    assert len(files(folder)) == 2
    for dtype in ("auto", "float32"):
        assert start(model, dtype=dtype)[0] == "packed by an earlier start"


def test_a_changed_model_is_packed_again_and_the_old_file_goes(model: Path, folder: Path) -> None:
    start(model)
    (old,) = files(folder)
    stat = model.stat()
    os.utime(model, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert start(model)[0] == "packed at this start"
    (new,) = files(folder)
    assert new != old
    assert start(model)[0] == "packed by an earlier start"


def test_files_of_models_that_are_gone_and_of_writers_that_died_are_removed(
    model: Path, folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.gguf"
    shutil.copy(model, other)
    start(other)
    other.unlink()
    (gone,) = files(folder)
    stale, fresh = folder / "a.1.partial", folder / "b.2.partial"
    for partial in (stale, fresh):
        partial.write_bytes(b"half")
    long_ago = time.time() - 2 * 3600
    os.utime(stale, (long_ago, long_ago))
    current = other.with_name("current.gguf")
    shutil.copy(model, current)
    start(current)
    (kept,) = (path for path in files(folder) if path != gone and path.suffix == ".packed")
    kept.write_bytes(kept.read_bytes().replace(b"weights 1", b"weights 0", 1))
    (folder / "damaged.packed").write_bytes(b"Penstock packed weights 1\n12\nsomehow\nnonsense\n")
    start(model)
    left = files(folder)
    assert gone not in left
    assert kept not in left
    assert fresh in left
    assert len(left) == 2


@pytest.mark.parametrize("damage", [
    pytest.param(lambda _: b"", id="empty"),
    pytest.param(lambda whole: whole[:-64], id="cut"),
    pytest.param(lambda whole: whole.replace(b"weights 1", b"weights 9", 1), id="of another version"),
    pytest.param(lambda whole: b"\0" * len(whole), id="zeros"),
])  # fmt: skip
def test_a_damaged_file_is_written_again(model: Path, folder: Path, damage: Callable[[bytes], bytes]) -> None:
    _, scores = start(model)
    (path,) = files(folder)
    path.write_bytes(damage(path.read_bytes()))
    assert start(model) == ("packed at this start", scores)
    assert start(model) == ("packed by an earlier start", scores)


def test_a_model_whose_tensors_are_cut_is_refused_though_its_weights_were_kept(model: Path) -> None:
    start(model)
    stat = model.stat()
    with model.open("r+b") as file:
        file.truncate(stat.st_size - 1000)
    with pytest.raises(ModelFileError):
        start(model)


def test_nothing_is_kept_unless_asked_for_or_if_it_is_small(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start(model, runner_cache=False)[0] == "packed at this start"
    monkeypatch.setattr(native, "LEAST_BYTES", packed.LEAST_BYTES)
    assert start(model)[0] == "packed at this start"
    assert files(folder) == []


def test_a_disk_that_is_full_or_a_folder_that_cannot_be_made_is_told_and_does_no_harm(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    full = shutil.disk_usage(model)._replace(free=10)
    with monkeypatch.context() as context:
        context.setattr(shutil, "disk_usage", lambda _: full)
        start(model)
    assert "has 10 B left" in caplog.text
    assert files(folder) == []
    caplog.clear()
    folder.parent.joinpath("packed").rmdir()
    folder.write_text("a file where the folder should be")
    assert start(model)[0] == "packed at this start"
    assert "aren't kept" in caplog.text


def test_removing_outdated_files_leaves_those_of_models_that_are_there(model: Path, folder: Path) -> None:
    packed.remove_outdated()  # there is no folder yet
    start(model)
    (kept,) = files(folder)
    packed.remove_outdated()
    assert files(folder) == [kept]
    model.unlink()
    packed.remove_outdated()
    assert files(folder) == []
