"""Which runner a configuration gets: native on a CPU, torch for all else, and errors that say what to do."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from penstock import _native
from penstock.core.errors import ConfigError
from penstock.engine.runners import select
from penstock.engine.runners.base import RunnerConfig
from penstock.engine.runners.native import NativeRunner
from penstock.engine.runners.torch import device
from penstock.engine.runners.torch.runner import TorchRunner

if TYPE_CHECKING:
    from pathlib import Path


def choose(**fields: object) -> object:
    return select.make_runner(RunnerConfig(model_path="unused", **fields))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "_GPU_FILES", ())
    monkeypatch.setattr(device, "present_accelerators", tuple)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Pretends that a driver and torch show a CUDA device."""
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(select, "_GPU_FILES", (tmp_path / "nvidiactl", tmp_path / "kfd"))
    monkeypatch.setattr(device, "present_accelerators", lambda: ("cuda",))


@pytest.fixture
def no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretends that the processor can't multiply it."""
    monkeypatch.setattr(_native, "has_bfloat16", lambda: False)


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.mark.parametrize("fields", [
    {}, {"device": "cpu"}, {"dtype": "float32"}, {"runner": "native"}, {"runner": "native", "device": "cpu"},
    {"allow_unverified": True},
])  # fmt: skip
def test_without_a_gpu_the_native_runner_is_chosen(fields: dict[str, object]) -> None:
    assert isinstance(choose(**fields), NativeRunner)


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize("fields", [{}, {"device": "cpu"}, {"allow_unverified": True}])
def test_without_torch_the_native_runner_is_chosen(fields: dict[str, object]) -> None:
    assert isinstance(choose(**fields), NativeRunner)


@pytest.mark.usefixtures("gpu", "no_torch")
def test_a_gpu_that_nothing_installed_can_use_leaves_the_native_runner() -> None:
    assert isinstance(choose(), NativeRunner)


@pytest.mark.parametrize("fields", [
    {"runner": "torch"}, {"runner": "torch", "dtype": "float32"}, {"runner": "torch", "dtype": "bfloat16"},
    {"dtype": "bfloat16"}, {"dtype": "bfloat16", "device": "cpu"},
])  # fmt: skip
@pytest.mark.usefixtures("no_bfloat16")
def test_torch_is_chosen_where_it_is_asked_for_or_alone_has_the_dtype(fields: dict[str, object]) -> None:
    assert isinstance(choose(**fields), TorchRunner)


@pytest.mark.skipif(not _native.has_bfloat16(), reason="this processor has no bfloat16 products")
@pytest.mark.parametrize("fields", [{}, {"device": "cpu"}, {"runner": "native"}])
def test_bfloat16_is_the_native_runners_where_the_processor_has_it(fields: dict[str, object]) -> None:
    assert isinstance(choose(dtype="bfloat16", **fields), NativeRunner)


@pytest.mark.usefixtures("gpu")
def test_an_unverified_gpu_leaves_the_native_runner_which_says_so() -> None:
    runner = choose()
    assert isinstance(runner, NativeRunner)
    assert "--allow-unverified" in runner._note


@pytest.mark.usefixtures("gpu")
def test_a_gpu_is_taken_by_torch_once_allowed() -> None:
    assert isinstance(choose(allow_unverified=True), TorchRunner)
    assert isinstance(choose(device="cuda", allow_unverified=True), TorchRunner)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("fields", [{"device": "cpu"}, {"runner": "native"}, {"runner": "native", "device": "cpu"}])
def test_a_gpu_beside_a_request_for_the_cpu_is_not_looked_at(fields: dict[str, object]) -> None:
    runner = choose(allow_unverified=True, **fields)
    assert isinstance(runner, NativeRunner)
    assert not runner._note


@pytest.mark.parametrize(("fields", "param", "message"), [
    ({"runner": "onnx"}, "runner", "Unknown runner 'onnx': choose auto, native or torch"),
    ({"device": "cuda"}, "device", "torch finds none"),
    ({"device": "tpu"}, "device", "Unknown device 'tpu'"),
    ({"dtype": "float16"}, "dtype", "choose bfloat16 or float32"),
    ({"runner": "native", "device": "cuda"}, "device", "--runner torch"),
    ({"runner": "native", "dtype": "float16"}, "dtype", "--runner torch"),
    ({"dtype": "int4"}, "dtype", "'int4'"),
])  # fmt: skip
def test_what_no_runner_can_do_is_refused_with_the_option_named(
    fields: dict[str, object], param: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        choose(**fields)
    assert caught.value.param == param


@pytest.mark.usefixtures("no_torch", "no_bfloat16")
@pytest.mark.parametrize("fields", [{"runner": "torch"}, {"device": "cuda"}, {"dtype": "bfloat16"}])
def test_what_needs_torch_says_how_to_install_it(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"pip install 'penstock\[torch\]'"):
        choose(**fields)
