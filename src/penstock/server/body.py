"""From bytes to a typed request, under limits: size before reading, then shape, then fields that can't be."""

from __future__ import annotations

import asyncio
import re
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, get_args, get_origin

import msgspec
from starlette.exceptions import HTTPException

from penstock.core.errors import InvalidRequestError, PayloadTooLargeError
from penstock.server.hangup import ClientGoneError
from penstock.server.manifest.field import without_effect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from penstock.server.manifest.field import Manifest

T = TypeVar("T")

READ_SECONDS = 60.0  # a body that takes longer is not coming
MAX_NAMED_FIELDS = 16
IGNORED_FIELDS = "x-penstock-ignored-fields"

_fields_of = msgspec.json.Decoder(dict[str, msgspec.Raw])
_items_of = msgspec.json.Decoder(list[msgspec.Raw])
_HOLDERS = (msgspec.Struct, list)
_PATH = re.compile(r"`\$\.?([^`]*)`$")
_UNKNOWN = re.compile(r"unknown field `([^`]*)`")
_MISSING = re.compile(r"missing required field `([^`]+)`")
_STEP = re.compile(r"\[[^\]]*\]|[^.\[\]]+")
_NOT_A_NAME = re.compile(r"[^A-Za-z0-9_.\[\]-]")


class BodyReader(Generic[T]):
    """Reads one endpoint's body.

    Args:
        kind: the msgspec type of the body.
        manifest: what becomes of its fields.
    """

    def __init__(self, kind: type[T], manifest: Manifest) -> None:
        self._decoder = msgspec.json.Decoder(kind)
        self._manifest = manifest

    async def read(self, request: Request, max_bytes: int) -> tuple[T, dict[str, str]]:
        """The request, and a header that names the fields without effect, if any.

        Raises:
            PayloadTooLargeError: over `max_bytes`, announced or not.
            InvalidRequestError: not JSON, not of this type, or a field that is refused.
            ClientGoneError: the client left meanwhile.
        """
        return self.decode(await read_bytes(request, max_bytes))

    def decode(self, raw: bytes) -> tuple[T, dict[str, str]]:
        """As `read`, from the bytes."""
        try:
            raw.decode()  # msgspec doesn't look into strings that it skips
            given = _fields_of.decode(raw)
            ignored = without_effect(self._manifest, given)
            request = self._decoder.decode(raw)
            return request, _name_ignored([*ignored, *_unread_inside(request, given)])
        except UnicodeDecodeError as error:
            raise InvalidRequestError(
                f"The body is not valid UTF-8 (byte {error.start}).", code="invalid_utf8"
            ) from error
        except RecursionError as error:
            raise InvalidRequestError("The body is nested too deeply.", code="invalid_json") from error
        except msgspec.ValidationError as error:
            raise explain(str(error), self._decoder.type) from error
        except msgspec.DecodeError as error:
            raise InvalidRequestError(f"The body is not valid JSON: {error}.", code="invalid_json") from error


async def read_bytes(request: Request, max_bytes: int) -> bytes:
    """A request's body. Raises PayloadTooLargeError, ClientGoneError, or HTTPException if it doesn't come."""
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size, more = 0, True
    try:
        async with asyncio.timeout(READ_SECONDS):
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                more = message.get("more_body", False)
                if size > max_bytes:
                    raise _too_large(max_bytes)
    except TimeoutError:
        raise HTTPException(408, f"The body did not arrive within {READ_SECONDS:.0f} seconds.") from None
    return b"".join(chunks)


def _too_large(max_bytes: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(
        f"The body is larger than this server takes ({max_bytes} bytes).", code="body_too_large"
    )


def explain(complaint: str, kind: object = None, *, whole: str = "The body") -> InvalidRequestError:
    """msgspec's sentence, with its path as the parameter: "Expected `int`, got `str` - at `$.messages[0].content`".

    Args:
        complaint: the sentence.
        kind: the type that was expected at the top; says what a text may be where there is a choice.
        whole: what is to be an object.
    """
    sentence, _, place = complaint.partition(" - at ")
    found = _PATH.search(place)
    param = found.group(1).removesuffix("[...]") if found else ""
    missing = _MISSING.search(sentence)
    if missing:
        param = f"{param}.{missing.group(1)}" if param else missing.group(1)
        return InvalidRequestError(f"'{param}' is missing.", param=param, code="missing_field")
    unknown = _UNKNOWN.search(sentence)
    if unknown:
        param = f"{param}.{unknown.group(1)[:64]}" if param else unknown.group(1)[:64]
        return InvalidRequestError(f"'{param}' is an unknown field.", param=param, code="invalid_value")
    if not param:
        return InvalidRequestError(f"{whole} must be a JSON object: {_lower(sentence)}.", code="invalid_json")
    if sentence.startswith("Invalid enum value") and (choices := _choices(kind, _STEP.findall(param))):
        sentence = f"{sentence.partition(' value ')[2]} is none of {', '.join(choices)}"
    return InvalidRequestError(f"'{param}' is not valid: {_lower(sentence)}.", param=param, code="invalid_value")


def _choices(kind: object, path: Sequence[str]) -> list[str]:
    """The texts that a type allows at a path of names and indices, such as ["messages", "[0]", "role"]."""
    if get_origin(kind) is Literal:
        return [value for value in get_args(kind) if isinstance(value, str)] if not path else []
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        return _choices(hints[path[0]], path[1:]) if path and path[0] in hints else []
    is_item = get_origin(kind) in (list, tuple) and bool(path) and path[0].startswith("[")
    inside = (_choices(each, path[1:] if is_item else path) for each in get_args(kind))
    return next(filter(None, inside), [])


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _unread_inside(request: object, given: dict[str, msgspec.Raw]) -> list[str]:
    """Paths of fields that stand inside others and have no place in their types, such as "messages[].refusal"."""
    found: dict[str, None] = {}
    for name, raw in given.items():
        value = getattr(request, name, None)
        if isinstance(value, _HOLDERS):
            _compare(value, raw, name, found)
    return [*found]


def _compare(typed: msgspec.Struct | list[Any], sent: msgspec.Raw, path: str, found: dict[str, None]) -> None:
    if isinstance(typed, list):
        if typed and not isinstance(typed[0], int | float):  # of numbers there may be a great many
            for one, raw in zip(typed, _items_of.decode(sent), strict=True):
                if isinstance(one, _HOLDERS):
                    _compare(one, raw, f"{path}[]", found)
    elif isinstance(typed, msgspec.Struct):
        attributes = _attributes(type(typed))
        for name, raw in _fields_of.decode(sent).items():
            if name in attributes:
                value = getattr(typed, attributes[name])
                if isinstance(value, _HOLDERS):
                    _compare(value, raw, f"{path}.{name}", found)
            elif bytes(raw).strip() != b"null":  # clients send back what they got, nulls and all
                found[f"{path}.{name}"] = None


@cache
def _attributes(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Names on the wire to those of a type's attributes."""
    return dict(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))


def with_ignored(headers: dict[str, str], names: Sequence[str]) -> dict[str, str]:
    """The headers of an answer, naming these fields too among those without effect."""
    if not names:
        return headers
    named = [headers[IGNORED_FIELDS]] if IGNORED_FIELDS in headers else []
    return {**headers, IGNORED_FIELDS: ", ".join([*named, _name_ignored([*names])[IGNORED_FIELDS]])}


def _name_ignored(names: list[str]) -> dict[str, str]:
    """A response header that names fields without effect; a client chose the names, so they are cut to safe ones."""
    if not names:
        return {}
    shown = [_NOT_A_NAME.sub("?", name[:64]) or "?" for name in names[:MAX_NAMED_FIELDS]]  # "" can't end a header
    if len(names) > MAX_NAMED_FIELDS:
        shown.append(f"and {len(names) - MAX_NAMED_FIELDS} more")
    return {IGNORED_FIELDS: ", ".join(shown)}
