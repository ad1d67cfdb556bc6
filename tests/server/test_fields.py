"""The field manifest holds what the types and the page say, both ways."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from penstock.server import fields
from penstock.server.fields_page import page
from penstock.server.requests import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    LoadAdapterRequest,
    TokenizeRequest,
    UnloadAdapterRequest,
)

if TYPE_CHECKING:
    import msgspec

PAGE = Path(__file__).parents[2] / "docs" / "openai.md"


@pytest.mark.parametrize(
    ("kind", "manifest"),
    [
        (ChatRequest, fields.CHAT),
        (CompletionRequest, fields.COMPLETIONS),
        (TokenizeRequest, fields.TOKENIZE),
        (DetokenizeRequest, fields.DETOKENIZE),
        (LoadAdapterRequest, fields.LOAD_ADAPTER),
        (UnloadAdapterRequest, fields.UNLOAD_ADAPTER),
    ],
    ids=lambda each: each.__name__ if isinstance(each, type) else "",
)
def test_exactly_the_fields_that_are_read_are_called_supported(
    kind: type[msgspec.Struct], manifest: fields.Manifest
) -> None:
    supported = {name for name, field in manifest.items() if field.support == "supported"}
    assert supported == set(kind.__struct_fields__)


def test_the_page_is_what_the_manifest_says() -> None:
    expected = page()
    assert PAGE.read_text(encoding="utf-8") == expected, "run: python -m penstock.server.fields_page docs/openai.md"
