"""The generated modules are those of the .proto file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
KSERVE = ROOT / "src/penstock/server/kserve"


@pytest.mark.parametrize("name", ["inference_pb2.py", "inference_pb2.pyi"])
def test_given_the_proto_file_when_it_is_compiled_then_the_modules_are_the_committed_ones(
    tmp_path: Path, name: str
) -> None:
    subprocess.run([sys.executable, ROOT / "scripts/generate-proto", tmp_path], check=True)
    assert (tmp_path / name).read_text() == (KSERVE / name).read_text(), "run scripts/generate-proto"
