"""A real tokenizer for exact prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from penstock.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def tokenizer(smollm2_path: Path) -> Tokenizer:
    """The default model's."""
    return Tokenizer.load(smollm2_path)
