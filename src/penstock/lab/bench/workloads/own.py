"""Requests of one's own, from a JSONL (or a JSON array, as ShareGPT's is published; both plain or .gz).

| shape | taken as |
|---|---|
| `{"prompt": "..." or [ids], "max_tokens": 64}` | one request |
| `{"messages": [...], "max_tokens": 64}` | one request to the chat API |
| `{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", ...}]}` | a conversation; each answer as long as the one given |
| `{"custom_id": ..., "method": "POST", "url": "/v1/...", "body": {...}}` | the body of a line of OpenAI's batch API |

`max_completion_tokens`, `max_new_tokens`, `output_tokens` and `output_len` are read as `max_tokens`; `due` (seconds) and
`timestamp` (milliseconds, as in Mooncake's traces) as arrival times. Fields of the OpenAI API go along; any other field
is left aside, and named in the record.
"""  # noqa: E501 - a table

from __future__ import annotations

import gzip
import json
import math
import zlib
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any, cast

from penstock.core.errors import InvalidRequestError
from penstock.lab.bench.planned import Planned, Turn
from penstock.lab.bench.workloads.kinds import Kind, Option, existing, real, switch, whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from penstock.lab.bench.planned import Message
    from penstock.lab.bench.workloads.kinds import Making
    from penstock.lab.bench.workloads.wordlist import Tokenizing

_MAX_TOKENS = ("max_tokens", "max_completion_tokens", "max_new_tokens", "output_tokens", "output_len")
_SENT_ALONG = frozenset((
    "temperature", "top_p", "top_k", "min_p", "seed", "stop", "n", "frequency_penalty", "presence_penalty",
    "repetition_penalty", "logit_bias", "logprobs", "top_logprobs", "response_format", "tools", "tool_choice",
    "reasoning_effort", "ignore_eos", "min_tokens", "priority", "user",
))  # fmt: skip
_OURS = frozenset(("model", "stream", "stream_options"))  # the endpoint's own to say
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant",
          "bing": "assistant", "bard": "assistant", "system": "system"}  # fmt: skip


class _LineError(ValueError):
    """What is wrong with one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """Ends with the file, after `repeat` times."""

    name: str
    seed: int
    file: str
    planned: tuple[Planned, ...]
    repeat: int
    shuffle: bool
    bad: int  # lines passed over
    ignored: tuple[str, ...]  # fields of which nothing is made

    def describe(self) -> dict[str, Any]:
        """For records."""
        return {
            "file": self.file, "requests": len(self.planned) * self.repeat, "repeat": self.repeat,
            "shuffle": self.shuffle, "bad_lines": self.bad, "ignored_fields": list(self.ignored),
        }  # fmt: skip

    def requests(self) -> Iterator[Planned]:
        """Those of the file, in order or shuffled."""
        random, order = Random(f"own {self.seed}"), list(self.planned)
        for _ in range(self.repeat):
            if self.shuffle:
                random.shuffle(order)
            yield from order


@dataclass(slots=True)
class _Reader:
    """Makes requests of lines."""

    tokenizer: Tokenizing | None
    output_tokens: int  # where a line says nothing
    speed: float
    exact: bool
    ignored: set[str]

    def planned(self, line: Any) -> Planned:
        """Raises _LineError."""
        if not isinstance(line, dict):
            raise _LineError("it is no JSON object")
        if isinstance(turns := line.get("conversations", line.get("conversation")), list):
            self.ignored.update({*line} - {"conversations", "conversation"})
            return self._conversation(turns)
        if isinstance(body := line.get("body"), dict):
            self.ignored.update({*line} - {"body", "custom_id", "method", "url"})
            line = body
        prompt = _prompt(line)
        extra = {name: value for name, value in line.items() if name in _SENT_ALONG}
        limits = [name for name in _MAX_TOKENS if line.get(name) is not None]
        self.ignored.update({*line} - {*extra, *_MAX_TOKENS, *_OURS, "prompt", "messages", "due", "timestamp"})
        wanted = line[limits[0]] if limits else self.output_tokens
        if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
            raise _LineError(f"{limits[0]} is no whole number from 1: {wanted!r}")
        return Planned(
            prompt=prompt, max_tokens=wanted, due=self._due(line), prompt_tokens=self._count(prompt),
            exact=self.exact and "response_format" not in extra, extra=extra,
        )  # fmt: skip

    def _conversation(self, turns: list[Any]) -> Planned:
        said: list[Message] = []
        for turn in turns:
            if not isinstance(turn, dict):
                raise _LineError("a turn of its conversation is no object")
            role = _ROLES.get(str(turn.get("from", turn.get("role"))))
            text = turn.get("value", turn.get("content"))
            if role is None or not isinstance(text, str):
                raise _LineError("a turn of its conversation has no known speaker, or no text")
            said.append({"role": role, "content": text})
        asked = [place for place, message in enumerate(said) if message["role"] == "user"]
        if not asked:
            raise _LineError("its conversation has no turn of a user")
        lengths = [self._answer(said, place) for place in asked]
        later = (said[place]["content"] for place in asked[1:])
        turns_after = tuple(Turn(text, wanted) for text, wanted in zip(later, lengths[1:], strict=True))
        first = [message for message in said[: asked[0] + 1] if message["role"] != "assistant"]
        return Planned(prompt=first, max_tokens=lengths[0], exact=self.exact, turns=turns_after)

    def _answer(self, said: list[Message], place: int) -> int:
        """Tokens of the answer to the turn at `place`."""
        after = said[place + 1] if place + 1 < len(said) else None
        if after is None or after["role"] != "assistant" or self.tokenizer is None:
            return self.output_tokens
        return max(1, len(self.tokenizer.encode(after["content"], add_special_tokens=False)))

    def _count(self, prompt: str | list[int] | list[Message]) -> int | None:
        if isinstance(prompt, str):
            return None if self.tokenizer is None else len(self.tokenizer.encode(prompt))
        return len(prompt) if isinstance(prompt[0], int) else None

    def _due(self, line: dict[str, Any]) -> float | None:
        for name, scale in (("due", 1.0), ("timestamp", 1e-3)):
            value = line.get(name)
            if value is not None:
                if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                    raise _LineError(f"{name} is no number from 0: {value!r}")
                return value * scale / self.speed
        return None


def _prompt(line: dict[str, Any]) -> str | list[int] | list[Message]:
    prompt, messages = line.get("prompt"), line.get("messages")
    if (prompt is None) == (messages is None):
        raise _LineError("it has neither a prompt, messages, conversations nor a body" if prompt is None else
                         "it has both a prompt and messages")  # fmt: skip
    if messages is not None:
        good = isinstance(messages, list) and messages and all(
            isinstance(one, dict) and isinstance(one.get("role"), str) and "content" in one for one in messages
        )  # fmt: skip
        if not good:
            raise _LineError("its messages are no list of objects with role and content")
        return messages  # type: ignore[no-any-return]
    ids = isinstance(prompt, list) and prompt and all(type(one) is int and one >= 0 for one in prompt)
    if not (isinstance(prompt, str) and prompt) and not ids:
        raise _LineError("its prompt is no text and no list of token ids, or is empty")
    return cast("str | list[int]", prompt)


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Each line's number and JSON, or a _LineError in its place; of an array, each item's."""
    with (
        gzip.open(path, "rt", encoding="utf-8-sig") if path.suffix == ".gz" else path.open(encoding="utf-8-sig") as file
    ):
        start = file.read(64).lstrip()
        file.seek(0)
        if start.startswith("["):
            yield from enumerate(json.load(file), 1)
            return
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, _LineError(f"it is no JSON: {error}")


def _build(making: Making, given: Mapping[str, Any]) -> Own:
    path = given["path"]
    reader = _Reader(making.tokenizer, given["output_tokens"], given["speed"], given["exact"], set())
    planned: list[Planned] = []
    bad = 0
    try:
        for number, line in _lines(path):
            try:
                if isinstance(line, _LineError):
                    raise line
                planned.append(reader.planned(line))
            except _LineError as error:
                if not given["skip_bad_lines"]:
                    hint = "Mend it, or pass over such lines with skip_bad_lines=yes."
                    raise InvalidRequestError(f"{path}, line {number}: {error}. {hint}", param="path") from error
                bad += 1
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InvalidRequestError(f"{path} can't be read: {error}.", param="path") from error
    if not planned:
        raise InvalidRequestError(f"{path} has no request.", param="path")
    planned = _in_time(planned, path, given)
    return Own(
        name="jsonl", seed=making.seed, file=path.name, planned=tuple(planned), repeat=given["repeat"],
        shuffle=given["shuffle"], bad=bad, ignored=tuple(sorted(reader.ignored)),
    )  # fmt: skip


def _in_time(planned: list[Planned], path: Path, given: Mapping[str, Any]) -> list[Planned]:
    """In order of arrival from 0, if they have times."""
    times = [one.due for one in planned if one.due is not None]
    if not times:
        return planned
    if len(times) < len(planned):
        raise InvalidRequestError(f"In {path} only {len(times)} of {len(planned)} requests have a time.", param="path")
    if given["shuffle"] or given["repeat"] > 1:
        raise InvalidRequestError(f"{path} has times of its own: it can't be shuffled or repeated.", param="repeat")
    first = min(times)
    timed = zip(times, planned, strict=True)
    return [replace(one, due=due - first) for due, one in sorted(timed, key=lambda pair: pair[0])]


OWN = Kind(
    "jsonl",
    "Requests of your own: prompts, messages, ShareGPT conversations or OpenAI batch lines.",
    (
        Option("path", existing, None, "The file, plain or .gz."),
        Option("output_tokens", whole(1), 128, "Length of answers where a line doesn't say."),
        Option("exact", switch, "no", "Have answers be as long as asked, the model's end ignored."),
        Option("repeat", whole(1), 1, "How many times the file is gone through."),
        Option("shuffle", switch, "no", "In another order each time."),
        Option("speed", real(1e-3, 1e6), 1.0, "How many times as fast as its times say."),
        Option("skip_bad_lines", switch, "no", "Pass over lines that can't be read, and count them."),
    ),
    _build,
    takes_path=True,
)
