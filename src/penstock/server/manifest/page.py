"""Writes docs/openai.md from the manifest: `python -m penstock.server.manifest.page docs/openai.md`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from penstock.server.manifest.events import EVENTS
from penstock.server.manifest.kserve_objects import KSERVE_PARTS
from penstock.server.manifest.table import APIS, PARTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from penstock.server.manifest.field import Field, Manifest, Support

_HEAD = """\
# The APIs, field by field

This page is made from the server's own manifest (`python -m penstock.server.manifest.page docs/openai.md`). Tests \
hold it against the types that are read and written, against those of OpenAI's and Anthropic's own clients, and \
against the names that vLLM's protocol knows; each entry is proven by a test that names it.

- **Supported** fields do what the reference says that they link to: OpenAI's, or where it says so vLLM's.
- Fields of **no effect** are accepted. They, and fields that nobody knows, are named in the response header \
`x-penstock-ignored-fields`, those inside others by their path: `messages[].refusal`.
- **Refused** fields would change what the answer means, and are not supported yet: a 400 names the field. `null`, and \
values that ask for nothing, pass.
- **Never given** are fields of an answer, and events of a stream, that the reference has and this server doesn't.

Ranges are checked and a 400 names the field at fault. `/openapi.json` has the exact types.
"""

_KINDS: tuple[tuple[Support, str], ...] = (
    ("supported", "Supported"),
    ("no effect", "No effect"),
    ("refused", "Refused"),
    ("absent", "Never given"),
)


def page() -> str:
    """The whole page, as Markdown."""
    lines = [_HEAD]
    for api in APIS:
        lines += [f"## `{api.endpoint.replace(':path', '')}`\n", *_tables(api.fields, api.origins, "###")]
    lines.append("## Events of streams\n")
    for api in EVENTS:
        lines += [f"### `{api.endpoint}`\n", *_tables(api.fields, api.origins, "####")]
    lines.append("## Objects in requests and answers\n")
    for part in PARTS:
        lines += [f"### `{part.name}`\n", *_tables(part.fields, part.origins, "####")]
    lines.append("## Objects below `/v2`\n\nThe tensors of requests and answers are in [triton.md](triton.md).\n")
    for part in KSERVE_PARTS:
        lines += [f"### `{part.name}`\n", *_tables(part.fields, part.origins, "####")]
    return "\n".join(lines)


def address(field: Field, name: str, origins: Mapping[str, str]) -> str:
    """Where the reference speaks of the field."""
    return origins[field.origin].replace("{field}", name)


def _tables(manifest: Manifest, origins: Mapping[str, str], level: str) -> Iterator[str]:
    for support, heading in _KINDS:
        rows = {name: field for name, field in manifest.items() if field.support == support}
        if not rows:
            continue
        yield f"{level} {heading}\n\n| field | |\n|---|---|"
        for name in sorted(rows):
            yield f"| [`{name}`]({address(rows[name], name, origins)}) | {_note(rows[name])} |"
        yield ""


def _note(field: Field) -> str:
    passing = ", ".join(f"`{_as_json(value)}`" for value in field.neutral)
    origin = f"{field.origin}'s" if field.origin else ""
    return "; ".join(part for part in (origin, field.note, f"{passing} passes" if passing else "") if part)


def _as_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
