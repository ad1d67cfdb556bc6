"""Answers that follow a JSON schema, asked for as `response_format`.

What: each request asks for one of the schemas given, or of those below, which range from one enumeration to nested
records. Answers end when the JSON is whole, so their lengths are the model's, up to `output_tokens`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any

from penstock.core.errors import InvalidRequestError
from penstock.lab.bench.planned import Planned
from penstock.lab.bench.workloads.kinds import INPUT, Kind, Option, existing, lengths
from penstock.lab.bench.workloads.lengths import tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from penstock.lab.bench.workloads.kinds import Making
    from penstock.lab.bench.workloads.lengths import Distribution
    from penstock.lab.bench.workloads.wordlist import WordList


def _record(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


_STRING, _NUMBER, _COUNT = {"type": "string", "maxLength": 40}, {"type": "number"}, {"type": "integer"}
_PERSON = _record(name=_STRING, age=_COUNT, email=_STRING)
SCHEMAS: dict[str, dict[str, Any]] = {
    "sentiment": _record(sentiment={"enum": ["positive", "neutral", "negative"]}, confidence=_NUMBER),
    "person": _PERSON,
    "event": _record(title=_STRING, year=_COUNT, public={"type": "boolean"}, place=_STRING),
    "invoice": _record(
        number=_STRING,
        customer=_PERSON,
        lines={"type": "array", "maxItems": 4, "items": _record(article=_STRING, count=_COUNT, price=_NUMBER)},
        currency={"enum": ["EUR", "USD", "GBP"]},
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonSchema:
    """Endless."""

    name: str
    seed: int
    words: WordList
    schemas: Mapping[str, dict[str, Any]]
    file: str | None
    input_tokens: Distribution
    output_tokens: Distribution

    def describe(self) -> dict[str, Any]:
        """For records."""
        return {
            "schemas": [*self.schemas][:20], "schema_count": len(self.schemas), "file": self.file,
            "input_tokens": str(self.input_tokens), "output_tokens": str(self.output_tokens),
            "exact": self.words.exact,
        }  # fmt: skip

    def requests(self) -> Iterator[Planned]:
        """Endless."""
        random = Random(f"json {self.seed}")
        first = random.randrange(1 << 40)
        names = [*self.schemas]
        for number in count(first):
            name, wanted = random.choice(names), tokens(self.input_tokens, random)
            yield Planned(
                prompt=self.words.text(self.words.draw(random, self.words.count(wanted, "text"), number)),
                max_tokens=tokens(self.output_tokens, random),
                prompt_tokens=wanted if self.words.exact else None,
                exact=False,
                extra={
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"name": name, "strict": True, "schema": self.schemas[name]},
                    }
                },
            )


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """One schema, or one a line. Raises InvalidRequestError for what is none, with its line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"{path} can't be read: {error}.", param="path") from error
    try:
        whole = json.loads(text)
    except ValueError:
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    else:
        lines = [(1, json.dumps(whole))]
    schemas = {}
    for number, line in lines:
        try:
            schema = json.loads(line)
        except ValueError as error:
            raise InvalidRequestError(f"{path}, line {number}: it is no JSON: {error}.", param="path") from error
        if not isinstance(schema, dict):
            raise InvalidRequestError(f"{path}, line {number}: a JSON schema is an object.", param="path")
        schemas[f"schema_{number}"] = schema
    if not schemas:
        raise InvalidRequestError(f"{path} holds no JSON schema.", param="path")
    return schemas


def _build(making: Making, given: Mapping[str, Any]) -> JsonSchema:
    path = given["path"]
    return JsonSchema(
        name="json-schema", seed=making.seed, words=making.words, schemas=SCHEMAS if path is None else _read(path),
        file=None if path is None else path.name, input_tokens=given["input_tokens"],
        output_tokens=given["output_tokens"],
    )  # fmt: skip


JSON_SCHEMA = Kind(
    "json-schema",
    "Answers in JSON after a schema, by response_format.",
    (
        Option("path", existing, None, "A JSON schema, or one a line; without, four small ones."),
        INPUT,
        Option("output_tokens", lengths, "256", "Longest answer."),
    ),
    _build,
)
