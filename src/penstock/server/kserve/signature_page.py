"""The tables of docs/triton.md, made from the signature: `python -m penstock.server.kserve.signature_page PAGE`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.server.kserve import refused
from penstock.server.kserve.signature import INPUTS, OUTPUTS

if TYPE_CHECKING:
    from collections.abc import Sequence


def tables() -> dict[str, str]:
    """By the name of its place on the page, each table."""
    inputs = [("input", "datatype", "what it does")]
    inputs += [
        (f"`{name}`", f"{of.datatype}{', any number' if of.many else ''}", of.note or "as in the sampling parameters")
        for name, of in INPUTS.items()
    ]
    inputs += [(f"`{name}`", "", f"refused: {why}") for name, why in refused.INPUTS.items()]
    outputs = [("output", "datatype", "what it holds", "asked for by")]
    outputs += [
        (f"`{name}`", of.datatype, of.note, f"`{of.switch}`" if of.switch else "comes always")
        for name, of in OUTPUTS.items()
    ]
    return {"inputs": _table(inputs), "outputs": _table(outputs)}


def filled(page: str) -> str:
    """The page with its tables as they are now."""
    for place, table in tables().items():
        rows = re.compile(rf"(?<=<!-- {place} -->\n)(\|.*\n)*")
        page = rows.sub(table.replace("\\", r"\\"), page, count=1)
    return page


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
