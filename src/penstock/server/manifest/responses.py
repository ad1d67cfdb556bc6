"""Fields of /v1/responses and of what is under it."""

from __future__ import annotations

from penstock.server.manifest.api import Api, Part
from penstock.server.manifest.field import CHAT_FORM, OURS, VLLM, Field, Manifest, absent, no_effect, refused, supported
from penstock.server.manifest.references import openai_parameter, openai_property, openai_streaming_parameter, vllm
from penstock.server.responses_api import objects, requests

_VLLM = vllm("openai_compatible_server/#responses-api")
_ONE_TURN = "a response is one turn: the client makes the calls"
_UNSTORED = "put them into `input`"

RESPONSES: Manifest = {
    **supported(
        model="the served name or an alias; the served model if absent",
        input="a text or items: messages of text, function calls and their outputs, reasoning",
        instructions="come first, and are not carried over by `previous_response_id`",
        previous_response_id="of a response that was stored and has ended",
        store="default true; kept for 30 days, the oldest go first beyond 1 GiB",
        background="polled by its id; made again from its beginning if the server dies meanwhile",
        stream="",
        text="`format`",
        tools="functions",
        tool_choice="",
        parallel_tool_calls="",
        reasoning="`effort`",
        include="`message.output_text.logprobs`; `reasoning.encrypted_content` is taken, since nothing is encrypted",
        max_output_tokens="up to what the context leaves, which is also the default",
        temperature="0 to 2; 0 is greedy; default 1",
        top_p="above 0, up to 1",
        top_logprobs="0 to 20; includes log probabilities too",
        truncation="`auto` leaves out the oldest turns until the rest fits; default `disabled`",
        metadata="up to 16 texts of up to 512 characters",
    ),
    **supported(
        VLLM,
        top_k="0 or -1 is all",
        min_p="0 to 1",
        presence_penalty="-2 to 2",
        frequency_penalty="-2 to 2",
        repetition_penalty="above 0, up to 10",
        seed="the same seed gives the same text",
        stop="one string or up to 16, each of 1 to 1000 characters",
        stop_token_ids="up to 128",
        include_stop_str_in_output="",
        ignore_eos="",
        skip_special_tokens="default true",
        logit_bias="token id to -100..100, up to 1024 of them",
        structured_outputs="as for chat",
        priority="lower runs first",
        cache_salt="requests share cached prefixes only under the same salt",
        chat_template_kwargs="variables for the model's template",
    ),
    **supported(OURS, documents="for an ensemble that chooses among them; otherwise refused"),
    **no_effect(
        user="",
        stream_options="nothing is padded",
        service_tier="there is one tier",
        safety_identifier="",
        prompt_cache_key="prefixes are cached without it",
        prompt_cache_retention="",
        prompt_cache_options="",
    ),
    **no_effect(
        VLLM,
        request_id="the server makes its own",
        session_id="",
        mm_payload="belongs to vLLM's renderer",
        return_mm_kwargs="belongs to vLLM's renderer",
    ),
    "include_reasoning": Field("refused", "thinking is an item of its own", (True,), VLLM),
    "enable_response_messages": Field("refused", "", (False,), VLLM),
    "media_io_kwargs": Field("refused", "only text goes in", ({},), VLLM),
    "mm_processor_kwargs": Field("refused", "only text goes in", ({},), VLLM),
    "watermarking": Field("refused", "", (False,), VLLM),
    "vllm_xargs": Field("refused", "", ({},), VLLM),
    **refused(VLLM, previous_input_messages=_UNSTORED, kv_transfer_params="", ec_transfer_params=""),
    "max_tool_calls": Field("refused", "the client makes the calls"),
    **refused(
        conversation=_UNSTORED,
        prompt=_UNSTORED,
        context_management="use `truncation`",
        moderation="no model judges texts here",
        access_programs="",
        image="only text comes out",
    ),
    **refused(
        CHAT_FORM,
        messages="use `input`",
        max_tokens="use `max_output_tokens`",
        max_completion_tokens="use `max_output_tokens`",
        response_format="use `text.format`",
        reasoning_effort="use `reasoning.effort`",
    ),
    "n": Field("refused", "ask as often", (1,), CHAT_FORM),
}

_GET = {"": openai_parameter("responses", "responses", "retrieve")}
_ID = supported(response_id="in the path")
_POLLED = "a response that is kept can't be streamed; ask again until its status is final"

RESPONSE: Manifest = {
    **_ID,
    "include": Field("refused", "what was asked for when it was made is in it"),
    "stream": Field("refused", _POLLED, ("false", "0")),
    "starting_after": Field("refused", _POLLED),
    "include_obfuscation": Field("refused", _POLLED, ("false", "0")),
}
INPUT_ITEMS: Manifest = {
    **_ID,
    **supported(limit="1 to 100; default 20", order="default desc", after="an item's id"),
    "include": Field("refused", "items are as they were sent"),
}

APIS = (
    Api(
        "responses",
        "POST /v1/responses",
        RESPONSES,
        {
            "": openai_streaming_parameter("responses", "responses"),
            VLLM: _VLLM,
            OURS: "ensembles.md",
            CHAT_FORM: openai_streaming_parameter("chat/subresources/completions", "chat.completions"),
        },
    ),
    Api("response", "GET /v1/responses/{response_id}", RESPONSE, _GET),
    Api(
        "response_delete",
        "DELETE /v1/responses/{response_id}",
        _ID,
        {"": openai_parameter("responses", "responses", "delete")},
    ),
    Api(
        "response_cancel",
        "POST /v1/responses/{response_id}/cancel",
        _ID,
        {"": openai_parameter("responses", "responses", "cancel")},
    ),
    Api(
        "input_items",
        "GET /v1/responses/{response_id}/input_items",
        INPUT_ITEMS,
        {"": openai_parameter("responses/subresources/input_items", "responses.input_items", "list")},
    ),
)

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
        {**_given("response"), VLLM: _VLLM},
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
        {**_given("response_usage", "input_tokens_details"), VLLM: _VLLM},
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
        {**_given("response_usage", "output_tokens_details"), VLLM: _VLLM},
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
