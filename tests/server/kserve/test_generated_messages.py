"""The generated modules are those of the .proto file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from penstock.server.kserve.signature_page import filled, tables

ROOT = Path(__file__).resolve().parents[3]
KSERVE = ROOT / "src/penstock/server/kserve"


@pytest.mark.parametrize("name", ["inference_pb2.py", "inference_pb2.pyi", "health_pb2.py", "health_pb2.pyi"])
def test_given_the_proto_file_when_it_is_compiled_then_the_modules_are_the_committed_ones(
    tmp_path: Path, name: str
) -> None:
    subprocess.run([sys.executable, ROOT / "scripts/generate-proto", tmp_path], check=True)
    assert (tmp_path / name).read_text() == (KSERVE / name).read_text(), "run scripts/generate-proto"


def test_given_the_signature_when_its_tables_are_written_then_the_documentation_has_them() -> None:
    page = (ROOT / "docs/triton.md").read_text()
    assert filled(page) == page, "run python -m penstock.server.kserve.signature_page docs/triton.md"
    assert all(table in page for table in tables().values())
