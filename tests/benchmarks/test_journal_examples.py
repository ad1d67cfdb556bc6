"""The examples of the project's own notebook run, and show what they say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

TOPICS = Path(__file__).resolve().parents[2] / "benchmarks" / "topics"
EXAMPLES = sorted(TOPICS.glob("*/examples/*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_shows_its_figures(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(example), run_name="__main__")
    assert any(letter.isdigit() for letter in capsys.readouterr().out)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 2
