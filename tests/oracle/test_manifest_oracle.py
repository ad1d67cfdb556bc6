"""The field manifest against the types of OpenAI's own client: whatever those know, the manifest has a state for."""

from __future__ import annotations

from typing import Any, get_args, get_origin, get_type_hints

import openai.types as o
import openai.types.chat as c
import pytest
from openai.types import completion_create_params as completions
from openai.types.chat import completion_create_params as chat
from openai.types.chat.chat_completion import Choice
from openai.types.chat.chat_completion import ChoiceLogprobs as ChatLogprobs
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
from openai.types.chat.chat_completion_chunk import ChoiceDelta
from openai.types.chat.chat_completion_token_logprob import TopLogprob
from openai.types.completion_choice import Logprobs
from openai.types.completion_usage import PromptTokensDetails
from openai.types.shared import ErrorObject

from penstock.server.manifest.table import APIS, PARTS

pytestmark = pytest.mark.oracle

BODIES: dict[str, tuple[Any, ...]] = {
    "chat": (chat.CompletionCreateParamsNonStreaming, chat.CompletionCreateParamsStreaming),
    "completions": (completions.CompletionCreateParamsNonStreaming, completions.CompletionCreateParamsStreaming),
}
OBJECTS: dict[str, Any] = {
    "ChatCompletion": c.ChatCompletion,
    "ChatChoice": Choice,
    "AssistantMessage": c.ChatCompletionMessage,
    "ChatLogprobs": ChatLogprobs,
    "ChatLogprob": c.ChatCompletionTokenLogprob,
    "TopLogprob": TopLogprob,
    "ChatChunk": c.ChatCompletionChunk,
    "ChatChunkChoice": ChunkChoice,
    "Delta": ChoiceDelta,
    "Completion": o.Completion,
    "CompletionChoice": o.CompletionChoice,
    "CompletionLogprobs": Logprobs,
    "Usage": o.CompletionUsage,
    "PromptTokensDetails": PromptTokensDetails,
    "ModelCard": o.Model,
    "ErrorDetail": ErrorObject,
    "StreamOptions": c.ChatCompletionStreamOptionsParam,
    "Message": c.ChatCompletionMessageParam,
    "ToolCall": c.ChatCompletionMessageFunctionToolCallParam,
    "ContentPart": c.ChatCompletionContentPartTextParam,
}
OF_OPENAI = {
    table.name: {name for name, field in table.fields.items() if not field.origin} for table in (*APIS, *PARTS)
}
KNOWN = {table.name: set(table.fields) for table in (*APIS, *PARTS)}


def fields_of(kind: Any) -> set[str]:
    """Of a pydantic model, a typed dict, or a union of them."""
    if get_origin(kind) is not None:
        return set().union(*(fields_of(each) for each in get_args(kind)))
    return set(kind.model_fields) if hasattr(kind, "model_fields") else set(get_type_hints(kind))


@pytest.mark.parametrize("name", BODIES)
def test_each_field_of_a_body_is_in_the_manifest_and_openais_in_the_body(name: str) -> None:
    theirs = set().union(*(fields_of(kind) for kind in BODIES[name]))
    assert theirs - KNOWN[name] == set()
    assert OF_OPENAI[name] - theirs == set(), "of another origin"


@pytest.mark.parametrize("name", OBJECTS)
def test_each_field_of_an_object_is_in_the_manifest_and_openais_in_the_object(name: str) -> None:
    theirs = fields_of(OBJECTS[name])
    assert theirs - KNOWN[name] == set()
    assert OF_OPENAI[name] - theirs == set(), "of another origin"
