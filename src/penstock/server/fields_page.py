"""Writes docs/openai.md from the field manifest: `python -m penstock.server.fields_page docs/openai.md`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from penstock.server import fields

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.server.fields import Field, Manifest, Support

_HEAD = """\
# The OpenAI API, field by field

This page is made from the server's own table (`python -m penstock.server.fields_page docs/openai.md`), and a test \
holds both together.

- **Supported** fields do what OpenAI's, or vLLM's, documentation says.
- Fields of **no effect** are accepted. They, and fields that nobody knows, are named in the response header \
`x-penstock-ignored-fields`.
- **Refused** fields would change what the answer means, and are not supported yet: a 400 names the field. `null`, and \
values that ask for nothing, pass.

Ranges are checked and a 400 names the field at fault. `/openapi.json` has the exact types.
"""

_PAGES: tuple[tuple[str, Manifest], ...] = (
    ("POST /v1/chat/completions", fields.CHAT),
    ("POST /v1/completions", fields.COMPLETIONS),
    ("POST /tokenize", fields.TOKENIZE),
    ("POST /detokenize", fields.DETOKENIZE),
    ("POST /v1/load_lora_adapter", fields.LOAD_ADAPTER),
    ("POST /v1/unload_lora_adapter", fields.UNLOAD_ADAPTER),
)
_KINDS: tuple[tuple[Support, str], ...] = (
    ("supported", "Supported"),
    ("no effect", "No effect"),
    ("refused", "Refused"),
)


def page() -> str:
    """The whole page, as Markdown."""
    return "\n".join([_HEAD, *(line for title, manifest in _PAGES for line in _section(title, manifest))])


def _section(title: str, manifest: Manifest) -> Iterator[str]:
    yield f"## `{title}`\n"
    for support, heading in _KINDS:
        rows = {name: field for name, field in manifest.items() if field.support == support}
        if not rows:
            continue
        yield f"### {heading}\n\n| field | |\n|---|---|"
        for name in sorted(rows):
            yield f"| `{name}` | {_note(rows[name])} |"
        yield ""


def _note(field: Field) -> str:
    passing = ", ".join(f"`{_as_json(value)}`" for value in field.neutral)
    return "; ".join(part for part in (field.note, f"{passing} passes" if passing else "") if part)


def _as_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
