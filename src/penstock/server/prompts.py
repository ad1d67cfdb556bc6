"""From a request's messages or prompt to token ids, without holding up other requests' streams meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from penstock.core.errors import InvalidRequestError
from penstock.server.requests import ChatRequest
from penstock.server.tool_choice import shown_tools

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.engine.client import EngineClient
    from penstock.server.dialect import ChatDialect
    from penstock.server.requests import ContentPart, Message, Prompt, TokenizeRequest

T = TypeVar("T")

INLINE_CHARACTERS = 4096  # a shorter text takes less time than handing it to a thread and back
RESERVED_VARIABLES = frozenset({"self", "messages", "tools", "add_generation_prompt"})
COMMON_BYTES_PER_TOKEN = 16  # text denser than this is worth looking at the vocabulary


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """A conversation in the model's own format, and its token ids."""

    text: str
    token_ids: list[int]


class PromptReader:
    """Tokenizes prompts, long ones in a thread (the tokenizer lets the event loop run meanwhile).

    Args:
        engine: whose tokenizer, template and context length count; it has been started.
        dialect: of the same model.
    """

    def __init__(self, engine: EngineClient, dialect: ChatDialect) -> None:
        self._engine = engine
        self._dialect = dialect
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="tokenize")

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def from_messages(self, request: ChatRequest | TokenizeRequest, messages: list[Message]) -> RenderedPrompt:
        """A conversation in the model's own format, with the tools that may be used.

        Raises InvalidRequestError for content that isn't text, a model without a template, or a text that can't
        fit the context.
        """
        turns = [_turn(message, f"messages[{index}]") for index, message in enumerate(messages)]
        size = sum(len(text) for turn in turns for text in _texts(turn["content"]))
        unused = isinstance(request, ChatRequest) and request.tool_choice == "none"
        tools = None if unused else shown_tools(request.tools or []) or None

        def work() -> RenderedPrompt:
            self._check_length(size, "messages")
            text = self._render(request, turns, tools)
            return RenderedPrompt(
                text, self._engine.tokenizer.encode(text, add_special_tokens=bool(request.add_special_tokens))
            )

        plain = not (request.chat_template_kwargs or tools or any("tool_calls" in turn for turn in turns))
        quick = len(turns) < 64 and plain
        return await self.aside(work, quick=quick and size <= INLINE_CHARACTERS)

    async def from_text(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text. Raises InvalidRequestError for one that can't fit the context."""
        return (await self._encode([text], ["prompt"], add_special_tokens=add_special_tokens))[0]

    async def from_prompt(self, prompt: Prompt, *, add_special_tokens: bool) -> list[list[int]]:
        """Token ids of each prompt of a completion. Raises InvalidRequestError for a mixed or empty list."""
        if isinstance(prompt, str):
            return [await self.from_text(prompt, add_special_tokens=add_special_tokens)]
        if not prompt:
            raise InvalidRequestError("'prompt' is an empty list.", param="prompt", code="empty_prompt")
        token_ids = [item for item in prompt if isinstance(item, int)]
        if len(token_ids) == len(prompt):
            return [token_ids]
        if token_ids or len({type(item) for item in prompt}) > 1:
            raise InvalidRequestError(
                "'prompt' mixes texts and token ids; send one text, a list of texts, a list of token ids, or a list "
                "of such lists.",
                param="prompt",
                code="invalid_value",
            )
        texts = [item for item in prompt if isinstance(item, str)]
        if not texts:
            return [item for item in prompt if isinstance(item, list)]
        fields = [f"prompt[{index}]" for index in range(len(texts))]
        return await self._encode(texts, fields, add_special_tokens=add_special_tokens)

    async def aside(self, work: Callable[[], T], *, quick: bool) -> T:
        """The result of `work`, done here if it is quick, else in a thread."""
        if quick:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _encode(self, texts: list[str], fields: list[str], *, add_special_tokens: bool) -> list[list[int]]:
        def work() -> list[list[int]]:
            for text, field in zip(texts, fields, strict=True):
                self._check_length(len(text), field)
            encode = self._engine.tokenizer.encode
            return [encode(text, add_special_tokens=add_special_tokens) for text in texts]

        return await self.aside(work, quick=len(texts) < 64 and sum(map(len, texts)) <= INLINE_CHARACTERS)

    def _render(
        self, request: ChatRequest | TokenizeRequest, turns: list[dict[str, Any]], tools: list[dict[str, Any]] | None
    ) -> str:
        template = self._engine.chat_template
        if template is None:
            raise InvalidRequestError(
                "This model has no chat template, so it can't take messages. Use /v1/completions with a prompt.",
                param="messages",
                code="no_chat_template",
            )
        goes_on = bool(request.continue_final_message)
        opens_answer = request.add_generation_prompt
        if opens_answer is None:
            opens_answer = not goes_on
        if goes_on and opens_answer:
            raise InvalidRequestError(
                "'continue_final_message' goes on with the last message, so 'add_generation_prompt', which begins "
                "another, must be false.",
                param="continue_final_message",
                code="invalid_value",
            )
        variables = request.chat_template_kwargs or {}
        clash = variables.keys() & RESERVED_VARIABLES
        if clash:
            name = min(clash)
            raise InvalidRequestError(
                f"'chat_template_kwargs' may not set '{name}', which has a field of its own.",
                param=f"chat_template_kwargs.{name}",
                code="invalid_value",
            )
        effort = request.reasoning_effort if isinstance(request, ChatRequest) else None
        variables = self._dialect.variables(effort, variables)
        if tools is not None or any(turn["role"] == "tool" or "tool_calls" in turn for turn in turns):
            turns, tools = self._with_tools(turns, tools)
        text = template.render(turns, tools=tools, add_generation_prompt=opens_answer, **variables)
        return _up_to_end_of(turns[-1], text) if goes_on else text

    def _with_tools(
        self, turns: list[dict[str, Any]], tools: list[dict[str, Any]] | None
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
        """Turns and tools as the model's template wants them."""
        spelling = self._dialect.tools
        if spelling.in_messages:
            from penstock.models.tool_formats.generic import into_messages

            return into_messages(turns, tools, system_role=self._dialect.system_role, spelling=spelling), None
        if spelling.id_characters is not None:
            turns = [_with_ids(turn, spelling.id_characters) for turn in turns]
        return turns, tools

    def _check_length(self, characters: int, field: str) -> None:
        """Refuse a text that can't fit, whatever its tokens are, before they are counted."""
        context = self._engine.info.max_model_len
        if characters <= context * COMMON_BYTES_PER_TOKEN or characters <= context * self._longest_token:
            return
        raise InvalidRequestError(
            f"The prompt is {characters} characters long, at least {-(-characters // self._longest_token)} tokens, and "
            f"the model's context is {context} tokens. Shorten the prompt.",
            param=field,
            code="context_length_exceeded",
        )

    @cached_property
    def _longest_token(self) -> int:
        """Bytes of the longest token: a text of N bytes has at least N / this tokens."""
        tokenizer = self._engine.tokenizer
        return max(len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size))


def _turn(message: Message, place: str) -> dict[str, Any]:
    """One message as chat templates know it: text parts are dicts, a call's arguments an object."""
    for name in ("function_call", "audio"):
        if getattr(message, name) is not None:
            raise InvalidRequestError(
                f"'{place}.{name}' is not supported.", param=f"{place}.{name}", code="unsupported_parameter"
            )
    if message.content is None and message.role != "assistant":
        raise InvalidRequestError(f"'{place}.content' is missing.", param=f"{place}.content", code="missing_field")
    role = "system" if message.role == "developer" else message.role
    turn: dict[str, Any] = {"role": role, "content": _content(message.content, f"{place}.content")}
    for name in ("name", "tool_call_id", "reasoning_content", "reasoning"):
        if getattr(message, name) is not None:
            turn[name] = getattr(message, name)
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "id": call.id,
                "type": call.type,
                "function": {"name": call.function.name, "arguments": _arguments(call.function.arguments)},
            }
            for call in message.tool_calls
        ]
    return turn


def _content(content: str | list[ContentPart] | None, place: str) -> str | list[dict[str, str]]:
    if content is None or isinstance(content, str):
        return content or ""
    parts = []
    for index, part in enumerate(content):
        if part.type != "text":
            raise InvalidRequestError(
                f"'{place}[{index}]' is of type {part.type[:64]!r}; this model takes text only.",
                param=f"{place}[{index}].type",
                code="unsupported_content",
            )
        if part.text is None:
            raise InvalidRequestError(
                f"'{place}[{index}].text' is missing.", param=f"{place}[{index}].text", code="missing_field"
            )
        parts.append({"type": "text", "text": part.text})
    return parts


def _texts(content: str | list[dict[str, str]]) -> list[str]:
    return [content] if isinstance(content, str) else [part["text"] for part in content]


def _arguments(arguments: str | dict[str, Any]) -> str | dict[str, Any]:
    """OpenAI's API has them as JSON in a string; templates expect the object."""
    if isinstance(arguments, dict):
        return arguments
    try:
        parsed = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        return arguments
    return parsed if isinstance(parsed, dict) else arguments


def _with_ids(turn: dict[str, Any], characters: int) -> dict[str, Any]:
    """The turn with ids of calls that the template takes; another server's are replaced, each always by the same."""
    if "tool_call_id" in turn:
        turn = {**turn, "tool_call_id": _fitting(turn["tool_call_id"], characters)}
    if "tool_calls" in turn:
        calls = [{**call, "id": _fitting(call["id"] or "", characters)} for call in turn["tool_calls"]]
        turn = {**turn, "tool_calls": calls}
    return turn


def _fitting(call_id: str, characters: int) -> str:
    if len(call_id) == characters and call_id.isascii() and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode(errors="surrogatepass")).hexdigest()[:characters]


def _up_to_end_of(last: dict[str, Any], text: str) -> str:
    """The rendered conversation cut where the last message's content ends, so that generation goes on there."""
    content = "".join(_texts(last["content"])[-1:]).rstrip()
    at = text.rfind(content) if content else -1
    if at < 0:
        raise InvalidRequestError(
            "The last message can't be continued: it is empty, or the model's template changes it.",
            param="continue_final_message",
            code="invalid_value",
        )
    return text[: at + len(content)]
