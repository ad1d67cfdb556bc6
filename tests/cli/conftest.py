"""The command, run in this process or in one of its own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from penstock.cli.main import main
from support.fake_engine import FakeEngine, write_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No settings, no store and no network but the test's own; returns the working directory."""
    for name in list(os.environ):
        if name.startswith("PENSTOCK_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PENSTOCK_OFFLINE", "1")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def penstock(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run `penstock` with these arguments in this process."""

    def run(*arguments: Any) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def echo_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model directory; the engine over it says the prompt back."""
    monkeypatch.setattr("penstock.engine.client.EngineClient", lambda config: FakeEngine(tmp_path / "echo"))
    (tmp_path / "echo").mkdir()
    return write_model(tmp_path / "echo")
