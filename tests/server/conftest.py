"""A model without weights for the fake engine, written once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.fake_engine import write_model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def echo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenizer and chat template of the engine that says prompts back."""
    return write_model(tmp_path_factory.mktemp("echo"))
