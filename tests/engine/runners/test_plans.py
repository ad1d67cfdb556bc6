"""Measured choices from one start to the next."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from penstock.engine.runners.base import RunnerConfig
from penstock.engine.runners.native import NativeRunner
from penstock.engine.runners.plans import PlansFile
from penstock.engine.types import SequenceStep, StepBatch
from support.runners import write_model

if TYPE_CHECKING:
    from pathlib import Path

PLANS = {"1 rows, 64 x 64, F32": (16, 96, 4)}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path / "home"))


def run(model: Path, steps: int, **fields: Any) -> NativeRunner:
    runner = NativeRunner(RunnerConfig(model_path=str(model), threads=1, max_model_len=64, **fields))
    runner.load()
    runner.allocate(4)
    for _ in range(steps):
        runner.execute(StepBatch([SequenceStep("a", [3], 0, (0,), None)]))
    runner.shutdown()
    return runner


def test_what_one_start_found_out_the_next_one_knows(tmp_path: Path) -> None:
    model = write_model(tmp_path, "llama", "native-int8")
    found = run(model, 80, runner_cache=True)._runner.plans()
    assert any(case.startswith("1 rows, ") for case in found)
    again = run(model, 0, runner_cache=True)
    assert again._runner.plans() == found
    assert run(model, 80)._runner.count_plans() == len(found), "without the cache it tries again"


def test_nothing_is_written_without_the_cache(tmp_path: Path) -> None:
    run(write_model(tmp_path, "llama", "native-int8"), 80)
    assert not (tmp_path / "home").exists()


def test_models_add_to_what_others_found() -> None:
    other = {"8 rows, 32 x 64, F32": (4, 48, 2)}
    PlansFile(path="avx2", threads=2).add(PLANS)
    PlansFile(path="avx2", threads=2).add(other)
    assert PlansFile(path="avx2", threads=2).read() == PLANS | other
    assert PlansFile(path="avx2", threads=1).read() == {}
    assert PlansFile(path="avx512", threads=2).read() == {}


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"plans": {}}', b'{"of": {}, "plans": {}}',
], ids=repr)  # fmt: skip
def test_a_file_that_makes_no_sense_is_as_good_as_none(content: bytes) -> None:
    file = PlansFile(path="avx2")
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(content)
    assert file.read() == {}
    file.add(PLANS)
    assert file.read() == PLANS


@pytest.mark.parametrize("plan", [[4, 48], [4, 48, 2, 1], ["x", 1, 1], None, 7], ids=repr)
def test_plans_that_are_none_are_not_taken(plan: object) -> None:
    file = PlansFile(path="avx2")
    file.add(PLANS)
    content = json.loads(file.path.read_bytes())
    content["plans"]["1 rows"] = plan
    file.path.write_text(json.dumps(content))
    assert file.read() == {}


def test_numbers_that_no_plan_can_have_do_no_harm(tmp_path: Path) -> None:
    model = write_model(tmp_path, "llama", "native-int8")
    plain = run(model, 80, runner_cache=True)
    (path,) = (tmp_path / "home" / "plans").iterdir()
    content = json.loads(path.read_bytes())
    for numbers in ([0, 0, 0], [-1, 96, 8], [4, 1 << 40, 8], [16, 96, 256]):
        content["plans"] = dict.fromkeys(plain._runner.plans(), numbers)
        path.write_text(json.dumps(content))
        assert run(model, 0, runner_cache=True)._runner.count_plans() == 0


def test_a_folder_that_cannot_be_made_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where the folder should be")
    run(write_model(tmp_path, "llama", "native-int8"), 80, runner_cache=True)
