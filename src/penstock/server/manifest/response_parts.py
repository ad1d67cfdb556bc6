"""Fields of the objects that go in and out under /v1/responses."""

from __future__ import annotations

from penstock.server.manifest.api import Part
from penstock.server.manifest.field import VLLM, absent, no_effect, supported
from penstock.server.manifest.references import VLLM_RESPONSES, openai_property, openai_streaming_parameter
from penstock.server.responses_api import objects, requests

_ONE_TURN = "a response is one turn: the client makes the calls"
_CREATE = openai_streaming_parameter("responses", "responses").partition("{")[0]


def _asked(name: str) -> dict[str, str]:
    return {"": _CREATE + name}


def _given(model: str, *inside: str) -> dict[str, str]:
    return {"": openai_property("responses", "responses", model, *inside)}


_LOGPROB = supported(token="", bytes="", logprob="-9999 for an impossible token")

PARTS = (
    Part(
        requests.InputItem,
        {
            **no_effect(
                phase="there is one",
                namespace="a function's name is all of it",
                caller="the client calls",
                **{"async": "the conversation goes on when the output is there"},
            ),
            **supported(
                type="message, function_call, function_call_output, reasoning; others are refused",
                id="made if absent",
                status="taken as it is",
                role="of a message",
                content="of a message or of reasoning; a text or parts",
                call_id="of a function_call or its output",
                name="of a function_call",
                arguments="of a function_call; JSON",
                output="of a function_call_output; a text or parts",
                summary="of reasoning; read where there is no content",
                encrypted_content="of reasoning; taken and not read",
            ),
        },
        _asked("input"),
    ),
    Part(
        requests.InputPart,
        {
            **supported(type="only text", text="", refusal=""),
            **no_effect(annotations="", logprobs="", prompt_cache_breakpoint="prefixes are cached without it"),
        },
        _asked("input"),
    ),
    Part(
        requests.ResponseTool,
        {
            **supported(type="`function`; others are refused", name="", description="", parameters="", strict=""),
            **no_effect(
                output_schema="say it in `description`",
                defer_loading="all tools are always before the model",
                allowed_callers="the client calls",
                **{"async": "the conversation goes on when the output is there"},
            ),
        },
        _asked("tools"),
    ),
    Part(
        requests.ResponseToolChoice,
        supported(type="function, allowed_tools", name="", mode="", tools=""),
        _asked("tool_choice"),
    ),
    Part(
        requests.TextConfig,
        {**supported(format=""), **no_effect(verbosity="")},
        _asked("text"),
    ),
    Part(
        requests.TextFormat,
        supported(type="text, json_object, json_schema", name="", schema="", description="", strict=""),
        _asked("text"),
    ),
    Part(
        requests.ReasoningConfig,
        {
            **supported(effort="for models whose template takes one"),
            **no_effect(
                summary="nothing sums thinking up",
                generate_summary="nothing sums thinking up",
                context="the template says which thoughts it shows",
                mode="there is one",
            ),
        },
        _asked("reasoning"),
    ),
    Part(
        objects.ResponseObject,
        {
            **supported(
                id="also in the header `x-request-id`",
                object="",
                created_at="",
                completed_at="",
                status="queued, in_progress, completed, incomplete, failed, cancelled",
                background="",
                error="",
                incomplete_details="",
                instructions="",
                max_output_tokens="",
                metadata="",
                model="the name that was asked for",
                output="messages, function calls, reasoning",
                parallel_tool_calls="",
                previous_response_id="",
                reasoning="",
                service_tier="always `default`",
                store="",
                temperature="",
                text="",
                tool_choice="",
                tools="",
                top_logprobs="",
                top_p="",
                truncation="",
                usage="",
            ),
            **absent(
                conversation="there are none",
                max_tool_calls="the client makes the calls",
                moderation="no model judges texts here",
                prompt="there are none",
                prompt_cache_key="not read",
                prompt_cache_options="not read",
                prompt_cache_retention="not read",
                prompt_cache_diagnostics="see `usage` for what was cached",
                tool_usage="the client makes the calls",
                image="only text goes in",
                input_transformations="nothing of the input is changed",
                access_programs="there are none",
                safety_identifier="not read",
                user="not read",
            ),
            **absent(
                VLLM,
                metrics="see /metrics",
                presence_penalty="not repeated",
                frequency_penalty="not repeated",
                kv_transfer_params="",
                ec_transfer_params="",
                input_messages="see /tokenize",
                output_messages="see /tokenize",
            ),
        },
        {**_given("response"), VLLM: VLLM_RESPONSES},
    ),
    Part(
        objects.OutputMessage,
        {
            **supported(id="", status="", role="", content=""),
            **absent(phase="there is one message"),
        },
        _given("response_output_message"),
    ),
    Part(
        objects.OutputText,
        supported(text="", annotations="always empty", logprobs="empty unless asked for"),
        _given("response_output_text"),
    ),
    Part(
        objects.OutputReasoning,
        {
            **supported(id="", status="", summary="always empty", content=""),
            **absent(encrypted_content="nothing is encrypted"),
        },
        _given("response_reasoning_item"),
    ),
    Part(objects.ReasoningText, supported(text=""), _given("response_reasoning_item", "content[]")),
    Part(
        objects.OutputCall,
        {
            **supported(id="", call_id="", status="", name="", arguments="JSON"),
            **absent(
                namespace="a function's name is all of it",
                caller="the model",
                **{"async": "the conversation goes on when the output is there"},
            ),
        },
        _given("response_function_tool_call"),
    ),
    Part(
        objects.OutputLogprob,
        {**_LOGPROB, **supported(top_logprobs="")},
        _given("response_output_text", "logprobs[]"),
    ),
    Part(
        objects.OutputTopLogprob,
        _LOGPROB,
        _given("response_output_text", "logprobs[]", "top_logprobs[]"),
    ),
    Part(
        objects.ResponseUsage,
        supported(
            input_tokens="", input_tokens_details="", output_tokens="", output_tokens_details="", total_tokens=""
        ),
        _given("response_usage"),
    ),
    Part(
        objects.InputTokensDetails,
        {
            **supported(cached_tokens="found in the prefix cache"),
            **absent(cache_write_tokens="writing costs nothing", cache_write_tokens_details="writing costs nothing"),
            **absent(VLLM, input_tokens_per_turn=_ONE_TURN, cached_tokens_per_turn=_ONE_TURN),
        },
        {**_given("response_usage", "input_tokens_details"), VLLM: VLLM_RESPONSES},
    ),
    Part(
        objects.OutputTokensDetails,
        {
            **supported(reasoning_tokens=""),
            **absent(
                VLLM,
                output_tokens_per_turn=_ONE_TURN,
                tool_output_tokens=_ONE_TURN,
                tool_output_tokens_per_turn=_ONE_TURN,
            ),
        },
        {**_given("response_usage", "output_tokens_details"), VLLM: VLLM_RESPONSES},
    ),
    Part(
        objects.ResponseError,
        {
            **supported(code="server_error, rate_limit_exceeded, invalid_prompt", message=""),
            **absent(type="see `code`", param="", misalignment="no model judges texts here"),
        },
        _given("response_error"),
    ),
    Part(
        objects.IncompleteDetails,
        supported(reason="`max_output_tokens`, also where the context is full"),
        _given("response", "incomplete_details"),
    ),
    Part(
        objects.ResponseEvent,
        supported(
            type="",
            sequence_number="from 0",
            response="",
            output_index="",
            content_index="",
            item_id="",
            item="",
            part="",
            delta="",
            text="",
            logprobs="",
            name="",
            arguments="",
        ),
        {"": "https://developers.openai.com/api/reference/resources/responses/streaming-events"},
    ),
    Part(objects.ResponseDeleted, supported(id="", object="", deleted=""), _given("response")),
    Part(
        objects.ItemList,
        supported(object="", data="", first_id="", last_id="", has_more=""),
        {"": openai_property("responses/subresources/input_items", "responses.input_items", "response_item_list")},
    ),
)
