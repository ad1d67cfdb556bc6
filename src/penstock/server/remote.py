"""Talks to a running server over the OpenAI API: what `penstock chat --url` uses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx

from penstock.core import errors
from penstock.core.errors import ConfigError, EngineDeadError, InvalidRequestError, PenstockError
from penstock.engine.types import SamplingParams

if TYPE_CHECKING:
    from typing import Self

    from penstock.engine.chat import Message, Pieces, ReplyStats

# OpenAI's own, which every server knows; the rest is sent only when it differs from its default.
_ALWAYS = ("temperature", "top_p")
_WHEN_SET = (
    "max_tokens", "seed", "frequency_penalty", "presence_penalty", "top_k", "min_p", "repetition_penalty",
    "min_tokens", "ignore_eos", "stop", "stop_token_ids", "logit_bias",
)  # fmt: skip
_KINDS: dict[str, type[PenstockError]] = {
    kind.type: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PenstockError)
} | {InvalidRequestError.type: InvalidRequestError}  # which others share
# A first token may wait behind a long queue; the server's keep-alive comments come well within this.
_SILENCE_SECONDS = 300.0


class RemoteTalker:
    """A model behind `url`, the server's address with or without /v1.

    Args:
        model: None takes the first one that the server lists.
    """

    def __init__(self, url: str, *, api_key: str | None = None, model: str | None = None) -> None:
        self.model = model or ""
        base = url.rstrip("/").removesuffix("/v1") + "/v1/"
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            self._http = httpx.AsyncClient(
                base_url=base, headers=headers, timeout=httpx.Timeout(_SILENCE_SECONDS, connect=10.0)
            )
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise ConfigError(f"{url!r} is not a URL: {error}.", param="url") from error
        self._base = base

    async def start(self) -> None:
        """Find out the model's name. Raises ConfigError if no server answers, or what the server says."""
        try:
            self.model = self.model or await self._first_model()
        except BaseException:
            await self.close()
            raise

    async def _first_model(self) -> str:
        try:
            answer = await self._http.get("models")
            await _check(answer)
            return str(answer.json()["data"][0]["id"])
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ConfigError(f"{self._base} answers, but not as an OpenAI API does.", param="url") from error

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def reply(self, messages: list[Message], params: SamplingParams, stats: ReplyStats) -> Pieces:
        body = {"model": self.model, "messages": messages, "stream": True, **_fields(params)}
        body["stream_options"] = {"include_usage": True}
        try:
            async with self._http.stream("POST", "chat/completions", json=body) as answer:
                await _check(answer)
                async for line in answer.aiter_lines():
                    if line.startswith("data:"):
                        for text in _piece(line.removeprefix("data:").strip(), stats):
                            yield text
            if stats.finish_reason is None:
                raise EngineDeadError(f"{self._base} ended the answer before it was finished.")
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: httpx.HTTPError) -> PenstockError:
        if isinstance(error, httpx.ConnectError | httpx.UnsupportedProtocol):
            return ConfigError(
                f"No server answers at {self._base} ({error}). Start one with: penstock serve", param="url"
            )
        return EngineDeadError(f"The connection to {self._base} broke: {error or type(error).__name__}.")


def _fields(params: SamplingParams) -> dict[str, Any]:
    defaults = SamplingParams()
    found = {name: getattr(params, name) for name in _ALWAYS}
    for name in _WHEN_SET:
        value = getattr(params, name)
        # Not so for max_tokens: the engine's own default is a number, the API's is the whole context.
        if value is not None and (name == "max_tokens" or value != getattr(defaults, name)):
            found[name] = value
    return found


async def _check(answer: httpx.Response) -> None:
    """Raises what the server's error says, as the exception it was there."""
    if answer.is_success:
        return
    await answer.aread()
    try:
        body = answer.json()["error"]
        raise _error(body)
    except (ValueError, KeyError, TypeError):
        raise PenstockError(f"The server answered {answer.status_code} {answer.reason_phrase}.") from None


def _error(body: dict[str, Any]) -> PenstockError:
    kind = _KINDS.get(body.get("type") or "", PenstockError)
    return kind(str(body["message"]), param=body.get("param"), code=body.get("code"))


def _piece(data: str, stats: ReplyStats) -> list[str]:
    """The text in one server-sent event; what it says of tokens goes into `stats`."""
    if data == "[DONE]":
        return []
    event = json.loads(data)
    if "error" in event:
        raise _error(event["error"])
    if usage := event.get("usage"):
        stats.prompt_tokens = usage["prompt_tokens"]
        stats.completion_tokens = usage["completion_tokens"]
        stats.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    found = []
    for choice in event.get("choices") or []:
        stats.finish_reason = choice.get("finish_reason") or stats.finish_reason
        if text := (choice.get("delta") or {}).get("content"):
            found.append(text)
    return found
