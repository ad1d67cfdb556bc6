"""Fields of others' protocols that nothing here can do: refused by name where they stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.asking import COMPLETIONS, ask, error_of
from support.fake_engine import FakeEngine

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.proves(StructuredOutputs="disable_additional_properties whitespace_pattern structural_tag")
@pytest.mark.parametrize("name", ["disable_additional_properties", "whitespace_pattern", "structural_tag"])
def test_given_a_way_to_structure_that_is_not_there_then_the_400_names_it(echo_model: Path, name: str) -> None:
    engine = FakeEngine(echo_model)
    body = {"prompt": "a", "structured_outputs": {"json": {}, name: "x"}}
    error = error_of(ask(engine, "POST", COMPLETIONS, body))
    assert (error["param"], error["code"]) == (f"structured_outputs.{name}", "invalid_value")
    assert name in error["message"]
    assert not engine.added
