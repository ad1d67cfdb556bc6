"""The field manifest against the types of OpenAI's own client: whatever those know, the manifest has a state for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai.types as o
import openai.types.chat as c
import openai.types.responses as r
import pytest
from openai.types import completion_create_params as completions
from openai.types import create_embedding_response, shared_params
from openai.types.batch import Errors
from openai.types.chat import chat_completion, chat_completion_chunk, chat_completion_message_function_tool_call
from openai.types.chat import chat_completion_message_function_tool_call_param as tool_call_param
from openai.types.chat import chat_completion_named_tool_choice_param as named_tool
from openai.types.chat import completion_create_params as chat
from openai.types.chat.chat_completion_token_logprob import TopLogprob
from openai.types.completion_choice import Logprobs
from openai.types.completion_usage import CompletionTokensDetails, PromptTokensDetails
from openai.types.responses import (
    response,
    response_create_params,
    response_output_text,
    response_retrieve_params,
    response_usage,
)
from openai.types.responses import response_input_item_param as items
from openai.types.responses import response_reasoning_item as reasoning_item
from openai.types.shared import ErrorObject
from openai.types.shared_params import response_format_json_schema

from penstock.server.responses_api.requests import ITEM_TYPES
from support.asking import ask, error_of
from support.fake_engine import FakeEngine, write_model
from support.reference_types import TABLES, difference, fields_of, members, named, tags

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.oracle

OPENAI = "https://developers.openai.com/"
KINDS: dict[str, Any] = {
    "chat": chat.CompletionCreateParamsNonStreaming | chat.CompletionCreateParamsStreaming,
    "completions": completions.CompletionCreateParamsNonStreaming | completions.CompletionCreateParamsStreaming,
    "ChatCompletion": c.ChatCompletion,
    "ChatChoice": chat_completion.Choice,
    "AssistantMessage": c.ChatCompletionMessage,
    "MessageToolCall": c.ChatCompletionMessageFunctionToolCall,
    "CalledFunction": chat_completion_message_function_tool_call.Function,
    "ChatLogprobs": chat_completion.ChoiceLogprobs,
    "ChatLogprob": c.ChatCompletionTokenLogprob,
    "TopLogprob": TopLogprob,
    "ChatChunk": c.ChatCompletionChunk,
    "ChatChunkChoice": chat_completion_chunk.Choice,
    "Delta": chat_completion_chunk.ChoiceDelta,
    "ToolCallDelta": chat_completion_chunk.ChoiceDeltaToolCall,
    "FunctionDelta": chat_completion_chunk.ChoiceDeltaToolCallFunction,
    "Completion": o.Completion,
    "CompletionChoice": o.CompletionChoice,
    "CompletionLogprobs": Logprobs,
    "Usage": o.CompletionUsage,
    "PromptTokensDetails": PromptTokensDetails,
    "CompletionTokensDetails": CompletionTokensDetails,
    "ModelCard": o.Model,
    "ErrorDetail": ErrorObject,
    "StreamOptions": c.ChatCompletionStreamOptionsParam,
    "Message": c.ChatCompletionMessageParam,
    "ToolCall": c.ChatCompletionMessageFunctionToolCallParam,
    "FunctionCall": tool_call_param.Function,
    "ContentPart": c.ChatCompletionContentPartTextParam,
    "ResponseFormat": shared_params.ResponseFormatText
    | shared_params.ResponseFormatJSONObject
    | shared_params.ResponseFormatJSONSchema,
    "JsonSchemaFormat": response_format_json_schema.JSONSchema,
    "Tool": c.ChatCompletionFunctionToolParam,
    "FunctionDefinition": shared_params.FunctionDefinition,
    "NamedTool": c.ChatCompletionNamedToolChoiceParam,
    "NamedFunction": named_tool.Function,
    "ToolChoice": c.ChatCompletionNamedToolChoiceParam | c.ChatCompletionAllowedToolChoiceParam,
    "AllowedTools": c.ChatCompletionAllowedToolsParam,
    "embeddings": o.EmbeddingCreateParams,
    "Embeddings": o.CreateEmbeddingResponse,
    "Embedding": o.Embedding,
    "ReadingUsage": create_embedding_response.Usage,
    "file_upload": o.FileCreateParams,
    "file_list": o.FileListParams,
    "FileObject": o.FileObject,
    "FileDeleted": o.FileDeleted,
    "batches": o.BatchCreateParams,
    "batch_list": o.BatchListParams,
    "Batch": o.Batch,
    "BatchErrors": Errors,
    "BatchError": o.BatchError,
    "RequestCounts": o.BatchRequestCounts,
    "responses": response_create_params.ResponseCreateParamsNonStreaming
    | response_create_params.ResponseCreateParamsStreaming,
    "response": response_retrieve_params.ResponseRetrieveParamsNonStreaming
    | response_retrieve_params.ResponseRetrieveParamsStreaming,
    "input_items": r.InputItemListParams,
    "InputItem": r.EasyInputMessageParam
    | items.Message
    | r.ResponseOutputMessageParam
    | r.ResponseFunctionToolCallParam
    | items.FunctionCallOutput
    | r.ResponseReasoningItemParam,
    "InputPart": r.ResponseInputTextParam | r.ResponseOutputTextParam | r.ResponseOutputRefusalParam,
    "ResponseTool": r.FunctionToolParam,
    "ResponseToolChoice": r.ToolChoiceFunctionParam | r.ToolChoiceAllowedParam,
    "TextConfig": r.ResponseTextConfigParam,
    "TextFormat": r.ResponseFormatTextConfigParam,
    "ReasoningConfig": shared_params.Reasoning,
    "ResponseObject": r.Response,
    "OutputMessage": r.ResponseOutputMessage,
    "OutputText": r.ResponseOutputText,
    "OutputReasoning": r.ResponseReasoningItem,
    "ReasoningText": reasoning_item.Content,
    "OutputCall": r.ResponseFunctionToolCall,
    "OutputLogprob": response_output_text.Logprob,
    "OutputTopLogprob": response_output_text.LogprobTopLogprob,
    "ResponseUsage": r.ResponseUsage,
    "InputTokensDetails": response_usage.InputTokensDetails,
    "OutputTokensDetails": response_usage.OutputTokensDetails,
    "ResponseError": r.ResponseError,
    "IncompleteDetails": response.IncompleteDetails,
}
# Of these the client has no type: it makes them of a path, or of a page of any object.
UNTYPED = {"model", "response_delete", "response_cancel", "file", "file_delete", "file_content", "batch"} | {
    *("batch_cancel", "ModelList", "FileList", "BatchList", "ItemList", "ResponseDeleted", "ErrorBody")
}
# What the reference has beyond its client's types: a path's names, a form's names, and what both were given later.
BEYOND: dict[str, set[str]] = {
    "response": {"response_id"},
    "input_items": {"response_id"},
    "file_upload": {"expires_after[anchor]", "expires_after[seconds]"},
    "ResponseObject": {"store"},
    "ResponseEvent": {"name"},
}
IN_A_FORM = {"expires_after"}  # is sent as two fields
EVENTS = members(r.ResponseStreamEvent)
SENT = {name for name, field in TABLES["response_events"].fields.items() if field.support == "supported"}


@pytest.mark.parametrize("name", KINDS)
def test_each_field_of_the_clients_is_in_the_manifest_and_openais_in_the_clients(name: str) -> None:
    missing, invented = difference(name, fields_of(KINDS[name]), BEYOND.get(name, set()))
    assert missing - (IN_A_FORM if name == "file_upload" else set()) == set()
    assert invented == set(), "of another origin"


def test_each_object_of_openais_is_held_against_its_type() -> None:
    assert named(OPENAI) == {*KINDS, *UNTYPED, "ResponseEvent", "response_events"}


def test_each_event_of_the_clients_is_in_the_manifest_and_the_other_way_round() -> None:
    assert difference("response_events", tags(r.ResponseStreamEvent)) == (set(), set())


def test_each_field_of_an_event_that_is_sent_is_in_the_manifest_and_the_other_way_round() -> None:
    sent = [event for event in EVENTS if tags(event) <= SENT]
    theirs = set[str]().union(*(fields_of(event) for event in sent))
    # what keeps a stream's length from telling its text isn't sent
    assert difference("ResponseEvent", theirs - {"obfuscation"}, BEYOND["ResponseEvent"]) == (set(), set())


OTHER_ITEMS = {tag for kind in members(r.ResponseInputItemParam) if "type" in fields_of(kind) for tag in tags(kind)}
OTHER_TOOLS = {tag for kind in members(r.ToolParam) for tag in tags(kind)}


def test_an_item_or_a_tool_of_another_type_is_a_400_that_names_it(tmp_path: Path) -> None:
    engine = FakeEngine(write_model(tmp_path))
    bodies = [({"input": [{"type": kind}]}, "input[0].type") for kind in OTHER_ITEMS - {*ITEM_TYPES}]
    bodies += [
        ({"input": "a", "tools": [{"type": kind, "name": "f"}]}, "tools[0].type") for kind in OTHER_TOOLS - {"function"}
    ]
    assert len(bodies) > 40
    for body, place in bodies:
        error = error_of(ask(engine, "POST", "/v1/responses", body, data_dir=tmp_path))
        assert (error["param"], error["code"]) in {(place, "unsupported_content"), (place, "unsupported_parameter")}
