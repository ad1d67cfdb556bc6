"""A conversation on its way to the engine: its prompt, what its answer may be, and how that is read.

Every API that holds conversations goes this way: it says what it is asked as a `ChatRequest`, and writes the parts
that the answer's reader gives it in its own shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from penstock.core.errors import InvalidRequestError
from penstock.engine.types import ThinkingLimit
from penstock.models.message_reader import MessageReader
from penstock.server.sampling import check_room, sampling_params
from penstock.server.structured import field_of
from penstock.server.tool_choice import tool_use

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.engine.types import SamplingParams
    from penstock.models.answer_grammar import ThinkingRules
    from penstock.models.token_pieces import TokenPieces
    from penstock.models.tool_formats.base import ToolFormat
    from penstock.server.dialect import ChatDialect
    from penstock.server.requests import ChatRequest
    from penstock.server.served_model import ModelInUse
    from penstock.server.tool_choice import ToolUse


@dataclass(frozen=True, slots=True)
class PreparedChat:
    """What the engine needs for a conversation, and what reads its answers.

    Attributes:
        prompt: token ids.
        params: for the engine.
        new_reader: makes the reader of one choice; None where all of an answer's text is its content.
        unenforced: places in the request of what the answer need not fit, to be named in its headers.
    """

    prompt: list[int]
    params: SamplingParams
    new_reader: Callable[[], MessageReader] | None
    unenforced: Sequence[str] = ()


async def prepare_chat(model: ModelInUse, request: ChatRequest) -> PreparedChat:
    """Check a request, render and tokenize its messages, and decide how its answer is written.

    Raises InvalidRequestError for what is wrong with it.
    """
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequestError(
            "'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs", code="invalid_value"
        )
    field = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    max_tokens = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens

    def read() -> tuple[SamplingParams, ToolUse | None]:
        params = sampling_params(
            request,
            max_tokens=max_tokens,
            logprobs=(request.top_logprobs or 0) if request.logprobs else None,
            prompt_logprobs=request.prompt_logprobs,
            vocab_size=model.engine.spec.vocab_size,
        )
        return params, tool_use(request)

    plain = not request.tools and field_of(request) is None  # schemas may be long
    params, use = await model.prompts.aside(read, quick=plain)
    prompt = await model.prompts.from_messages(request, request.messages)
    check_room(len(prompt.token_ids), max_tokens, model.context, prompt_field="messages", max_tokens_field=field)
    thinking = _thinking(model.dialect, request, prompt.text)
    if use is None and thinking is None:
        return PreparedChat(prompt.token_ids, params, None)
    spelling = None if use is None else model.dialect.tools
    if params.grammar is not None and use is not None and spelling is not None:
        _check_together(use, spelling)
    params = await model.prompts.aside(
        partial(_with_rules, model.dialect, params, use, spelling, thinking), quick=plain
    )
    budget = request.thinking_token_budget
    if thinking is not None and budget is not None and budget >= 0:
        params = _with_budget(model, params, thinking, budget)
    names = [] if use is None else [function.name for function in use.functions]
    pieces = model.engine.tokenizer.pieces
    unenforced = () if use is None else use.unenforced
    return PreparedChat(prompt.token_ids, params, partial(_reader, pieces, thinking, spelling, names), unenforced)


def _check_together(use: ToolUse, spelling: ToolFormat) -> None:
    """Raises InvalidRequestError where a call and a structured answer would begin alike."""
    if not use.required and not spelling.anywhere:
        raise InvalidRequestError(
            "This model writes calls as plain JSON, so an answer can't be either a call or JSON of another shape. Set "
            "'tool_choice' to \"required\" or \"none\", or leave out 'response_format'.",
            param="response_format",
            code="unsupported_value",
        )


def _thinking(dialect: ChatDialect, request: ChatRequest, prompt: str) -> ThinkingRules | None:
    """Whether the answer may begin with thinking, must go on with it, or (None) comes without."""
    tags = dialect.thinking
    if tags is None:
        return None
    from penstock.models.answer_grammar import ThinkingRules

    if request.continue_final_message:
        return ThinkingRules(tags, begun=True) if tags.left_open(_last_text(request)) else None
    end = prompt.rstrip()
    return None if end.endswith(tags.end) else ThinkingRules(tags, begun=end.endswith(tags.begin))


def _last_text(request: ChatRequest) -> str:
    content = request.messages[-1].content
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text or "" for part in content)


def _with_rules(
    dialect: ChatDialect,
    params: SamplingParams,
    use: ToolUse | None,
    spelling: ToolFormat | None,
    thinking: ThinkingRules | None,
) -> SamplingParams:
    """The parameters, and what makes the answer one that its reader understands."""
    from penstock.models.answer_grammar import ToolRules, answer_grammar

    markup = [] if thinking is None else [thinking.tags.begin, thinking.tags.end]
    tools = None
    if use is not None and spelling is not None:
        markup += [spelling.begin, spelling.arguments_open, spelling.between]
        tools = ToolRules(spelling, use.functions, required=use.required, several=use.several and spelling.parallel)
    control = dialect.control_tokens(markup)
    return msgspec.structs.replace(
        params,
        grammar=answer_grammar(control, tools=tools, structure=params.grammar, thinking=thinking),
        shown_token_ids=tuple(control.values()),
    )


def _with_budget(model: ModelInUse, params: SamplingParams, thinking: ThinkingRules, tokens: int) -> SamplingParams:
    """The parameters, and how many tokens of thinking there may be."""
    tags = thinking.tags
    end = tuple(model.engine.tokenizer.encode(tags.end, add_special_tokens=False))
    limit = ThinkingLimit(tokens=tokens, begin=tags.begin, end=tags.end, end_token_ids=end, begun=thinking.begun)
    return msgspec.structs.replace(params, thinking=limit)


def _reader(
    pieces: TokenPieces, thinking: ThinkingRules | None, spelling: ToolFormat | None, names: Sequence[str]
) -> MessageReader:
    from penstock.models.thinking import ThinkingParser, ThinkingTracker
    from penstock.models.tool_formats.parser import ToolCallParser

    return MessageReader(
        pieces,
        thinking=None if thinking is None else ThinkingParser(thinking.tags, begun=thinking.begun),
        tracker=None if thinking is None else ThinkingTracker(thinking.tags, begun=thinking.begun),
        tools=None if spelling is None else ToolCallParser(spelling, names),
    )
