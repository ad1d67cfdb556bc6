"""What a request holds its output to, as one grammar: OpenAI's `response_format`, and vLLM's fields for the same.

`docs/structured.md` is the page for people.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from penstock.core.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.server.requests import GenerationRequest


def grammar_of(request: GenerationRequest) -> str | None:
    """The grammar, None if the output is free.

    Raises InvalidRequestError naming the field at fault: more than one is given, or it can't be enforced.
    """
    asked = list(_asked(request))
    if len(asked) > 1:
        names = " and ".join(f"'{field}'" for field, _, _ in asked[:2])
        raise InvalidRequestError(
            f"{names} both say what the output must be; give one of them.", param=asked[1][0], code="invalid_value"
        )
    if not asked:
        return None
    [(field, kind, value)] = asked
    compact = request.structured_outputs is not None and bool(request.structured_outputs.disable_any_whitespace)
    return _grammar(field, kind, value, compact=compact)


def field_of(request: GenerationRequest) -> str | None:
    """The field that asks for a grammar, for errors that come later."""
    return next((field for field, _, _ in _asked(request)), None)


def _asked(request: GenerationRequest) -> Iterator[tuple[str, str, Any]]:
    """Field, kind and value of each field that asks for a grammar."""
    form, outputs = request.response_format, request.structured_outputs
    if form is not None and form.type != "json_schema" and form.json_schema is not None:
        raise InvalidRequestError(
            f'\'response_format.json_schema\' is for the type "json_schema", not "{form.type}".',
            param="response_format.json_schema",
            code="invalid_value",
        )
    if form is not None and form.type == "json_object":
        yield "response_format", "json_object", True
    elif form is not None and form.type == "json_schema":
        if form.json_schema is None:
            raise InvalidRequestError(
                "'response_format.json_schema' is missing.", param="response_format.json_schema", code="missing_field"
            )
        yield "response_format.json_schema.schema", "json", form.json_schema.schema
    if outputs is not None:
        for kind in ("json", "regex", "choice", "grammar", "json_object"):
            value = getattr(outputs, kind)
            if value is not None and value is not False:
                yield f"structured_outputs.{kind}", kind, value
    for kind in ("json", "regex", "choice", "grammar"):
        value = getattr(request, f"guided_{kind}")
        if value is not None and value != []:
            yield f"guided_{kind}", kind, value


def _grammar(field: str, kind: str, value: Any, *, compact: bool) -> str:
    from penstock.engine.structured import lark, schemas  # of few requests, and a start must not wait for it

    match kind:
        case "json":
            schema = _decoded(value, field) if isinstance(value, str) else value
            return lark.grammar(lark.json_value(schemas.prepare(schema, field=field, compact=compact)))
        case "json_object":
            return lark.grammar(lark.json_value(schemas.prepare({"type": "object"}, field=field, compact=compact)))
        case "regex":
            return lark.grammar(lark.regex(value))
        case "choice":
            return lark.grammar(lark.any_of(value))
        case _:
            try:
                return lark.from_ebnf(value, field=field)
            except ValueError as error:
                raise InvalidRequestError(
                    f"'{field}' can't be read: {str(error)[:300]}.", param=field, code="invalid_grammar"
                ) from error


def _decoded(text: str, field: str) -> object:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidRequestError(f"'{field}' is not JSON: {error}.", param=field, code="invalid_json") from error
    except RecursionError as error:
        raise InvalidRequestError(f"'{field}' is nested too deeply.", param=field, code="invalid_json") from error
