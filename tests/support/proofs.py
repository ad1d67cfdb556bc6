"""Which test proves which entry of the field manifest, read from the tests' source.

A test says so by `@pytest.mark.proves(chat="temperature top_p", Usage="total_tokens")`. The source is read, not the
collected tests, so that a run of one file knows of all proofs.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parents[1]


@cache
def proofs() -> dict[str, list[str]]:
    """Entry to the tests that prove it, as "tests/server/test_x.py::test_y"."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        source = path.read_text(encoding="utf-8")
        if "mark.proves(" not in source:
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                test = f"{path.relative_to(TESTS.parent).as_posix()}::{node.name}"
                for entry in _marked(node, test):
                    found[entry].append(test)
    return dict(found)


def _marked(node: ast.FunctionDef | ast.AsyncFunctionDef, test: str) -> Iterator[str]:
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.proves":
            if decorator.args:
                raise TypeError(f"{test}: what is proven is given by keywords, as in proves(chat='temperature')")
            for keyword in decorator.keywords:
                names = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if keyword.arg is None or not isinstance(names, str):
                    raise TypeError(f"{test}: what a test proves is written out, not {ast.unparse(keyword)}")
                yield from (f"{keyword.arg}.{name}" for name in names.split())
