"""The input of an offline run, checked whole before the first token is computed.

A `.jsonl` file holds one object a line: `{"prompt": "..."}` (text, or a list of token ids) or
`{"messages": [...]}`, with an optional `"id"`, `"priority"`, and any sampling parameter for this line alone.
A `.txt` file holds one prompt a line. Blank lines count for nothing in either.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.core.errors import InvalidRequestError, NotFoundError
from penstock.core.suggest import did_you_mean
from penstock.engine.params import params_from
from penstock.engine.types import SamplingParams

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_OWN_FIELDS = ("prompt", "messages", "id", "priority")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One line of the input. Exactly one of `prompt` and `messages` is set."""

    index: int  # from 0, blank lines not counted
    line: int  # from 1, as an editor shows it
    id: str | int | None
    prompt: str | list[int] | None
    messages: list[dict[str, Any]] | None
    params: SamplingParams
    priority: int


@dataclass(frozen=True, slots=True)
class PromptFile:
    """A readable input whose every line is known to be good, and what it held then."""

    path: Path
    defaults: SamplingParams
    chat: bool  # a bare prompt is a user's message, put through the chat template
    count: int
    sha256: str

    def __iter__(self) -> Iterator[Prompt]:
        return _parse(self.path, self.defaults, chat=self.chat)


def open_prompts(path: Path, defaults: SamplingParams, *, chat: bool = False) -> PromptFile:
    """Read `path` once and check every line.

    Raises NotFoundError if there is no such file, InvalidRequestError naming the first line that is wrong.
    """
    if not path.is_file():
        raise NotFoundError(f"There is no file {path}.", param="prompts")
    if path.suffix not in {".jsonl", ".ndjson", ".txt"}:
        raise InvalidRequestError(
            f"{path}: the name must end in .jsonl (one JSON object a line) or .txt (one prompt a line).",
            param="prompts",
        )
    count = sum(1 for _ in _parse(path, defaults, chat=chat))
    if not count:
        raise InvalidRequestError(f"{path} holds no prompts.", param="prompts")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return PromptFile(path, defaults, chat, count, digest)


def _parse(path: Path, defaults: SamplingParams, *, chat: bool) -> Iterator[Prompt]:
    index = 0
    with path.open("rb") as file:  # lines end at \n alone: JSON strings may hold any other separator as it is
        for line, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                fields = {"prompt": _text(raw)} if path.suffix == ".txt" else _object(raw)
                yield _prompt(fields, index, line, defaults, chat=chat)
            except InvalidRequestError as error:
                raise InvalidRequestError(f"{path}, line {line}: {error.message}", param=error.param) from error
            index += 1


def _text(raw: bytes) -> str:
    try:
        return raw.rstrip(b"\r\n").decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"not valid UTF-8 at byte {error.start}.") from error


def _object(raw: bytes) -> dict[str, Any]:
    try:
        fields = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"not valid JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise InvalidRequestError('expected an object such as {"prompt": "..."}.')
    return fields


def _prompt(fields: dict[str, Any], index: int, line: int, defaults: SamplingParams, *, chat: bool) -> Prompt:
    prompt, messages = fields.get("prompt"), fields.get("messages")
    if (prompt is None) == (messages is None):
        raise InvalidRequestError('needs either "prompt" or "messages".', param="prompt")
    if messages is not None and not _are_messages(messages):
        raise InvalidRequestError('"messages" must be a list of objects with a "role", not empty.', param="messages")
    if prompt is not None and not _is_prompt(prompt):
        raise InvalidRequestError('"prompt" must be a text or a list of token ids, not empty.', param="prompt")
    for name, kinds, words in (("id", str | int, "a text or a whole number"), ("priority", int, "a whole number")):
        if fields.get(name) is not None and (not isinstance(fields[name], kinds) or isinstance(fields[name], bool)):
            raise InvalidRequestError(f'"{name}" must be {words}.', param=name)
    given = {name: value for name, value in fields.items() if name not in _OWN_FIELDS}
    for name in given:
        if name not in SamplingParams.__struct_fields__:
            known = (*_OWN_FIELDS, *SamplingParams.__struct_fields__)
            raise InvalidRequestError(f'there is no field "{name}".{did_you_mean(name, known)}', param=name)
    if chat and isinstance(prompt, str):
        prompt, messages = None, [{"role": "user", "content": prompt}]
    params = params_from(given, defaults) if given else defaults
    return Prompt(index, line, fields.get("id"), prompt, messages, params, fields.get("priority") or 0)


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(m, dict) and "role" in m for m in value)


def _is_prompt(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in value)
    return isinstance(value, str) and bool(value)
