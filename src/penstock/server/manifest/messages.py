"""Fields of /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from penstock.server.manifest.api import Api, Part
from penstock.server.manifest.field import CHAT_FORM, OURS, VLLM, Field, Manifest, absent, no_effect, refused, supported
from penstock.server.manifest.references import openai_streaming_parameter, vllm
from penstock.server.messages_api import objects, requests

_REFERENCE = "https://docs.anthropic.com/en/api/messages"
_CHAT = openai_streaming_parameter("chat/subresources/completions", "chat.completions")
_COUNT_REFERENCE = "https://docs.anthropic.com/en/api/messages-count-tokens"
_STREAMING = "https://docs.anthropic.com/en/docs/build-with-claude/streaming"
_ERRORS = "https://docs.anthropic.com/en/api/errors"
_ENSEMBLES = "ensembles.md"
_VLLM = vllm("#anthropic-messages-api")
_CACHED = "prefixes are cached without it"
_LOADED = "all tools are always before the model"

COUNT: Manifest = {
    **supported(
        model="the served name or an alias",
        messages="roles user and assistant; the answer goes on where a last message of the assistant ends",
        system="a text or text blocks",
        tools="the client's own",
        tool_choice="",
        thinking="for models whose template has a switch for it",
        output_config="`format`",
    ),
    **supported(VLLM, chat_template_kwargs="variables for the model's template"),
    **no_effect(
        cache_control=_CACHED,
        billing_policy="nothing is billed",
        speed="there is one",
        user_profile_id="",
        workspace_id="",
    ),
    **refused(
        mcp_servers="the model reaches no network",
        context_management="a conversation is never cut in silence",
        compaction="nothing sums a conversation up",
    ),
}

MESSAGES: Manifest = {
    **COUNT,
    **supported(
        max_tokens="needed; more than the context leaves is cut to that",
        stream="",
        stop_sequences="up to 16, each of 1 to 1000 characters",
        temperature="0 to 2; 0 is greedy; default 1",
        top_p="above 0, up to 1",
        top_k="0 is all",
    ),
    **supported(VLLM, cache_salt="requests share cached prefixes only under the same salt"),
    **supported(
        OURS,
        priority="lower runs first",
        documents="for an [ensemble](ensembles.md) that chooses among them; otherwise refused",
    ),
    **no_effect(
        metadata="nothing is stored",
        service_tier="there is one tier",
        inference_geo="",
        diagnostics="",
        fallbacks="no model declines here",
        fallback_credit_token="nothing is billed",
    ),
    **no_effect(VLLM, mm_payload="belongs to vLLM's renderer", return_mm_kwargs="belongs to vLLM's renderer"),
    **refused(
        container="nothing is executed here",
        thread="no conversation is kept here; send all of it",
    ),
    **refused(VLLM, kv_transfer_params="", ec_transfer_params=""),
    **refused(
        CHAT_FORM,
        stop="use `stop_sequences`",
        max_completion_tokens="use `max_tokens`",
        response_format="use `output_config.format`",
    ),
    "watermarking": Field("refused", "", (False,), VLLM),
    "vllm_xargs": Field("refused", "", ({},), VLLM),
}

APIS = (
    Api("messages", "POST /v1/messages", MESSAGES, {"": _REFERENCE, VLLM: _VLLM, OURS: _ENSEMBLES, CHAT_FORM: _CHAT}),
    Api("count_tokens", "POST /v1/messages/count_tokens", COUNT, {"": _COUNT_REFERENCE, VLLM: _VLLM}),
)

_ASKED = {"": _REFERENCE}
_STREAMED = {"": _STREAMING}

PARTS = (
    Part(
        requests.AnthropicMessage,
        {
            **supported(role="user, assistant", content="a text or blocks"),
            **no_effect(clear_at="a conversation is never cut in silence", output_config="the request's own counts"),
        },
        _ASKED,
    ),
    Part(
        requests.Block,
        {
            **supported(
                type="text, tool_result of the user; text, tool_use, thinking, redacted_thinking of the assistant",
                text="",
                id="of a tool_use",
                name="of a tool_use",
                input="of a tool_use",
                tool_use_id="of a tool_result",
                content="of a tool_result; a text or text blocks",
                is_error="of a tool_result, which then says so",
                thinking="for the template",
                signature="taken as it is; nothing is signed here",
                data="of a redacted_thinking, which the model can't read and which is left out",
            ),
            **no_effect(
                cache_control=_CACHED,
                citations="nothing is cited",
                caller="the client calls",
                toolset_name="there are no sets",
            ),
        },
        _ASKED,
    ),
    Part(
        requests.AnthropicTool,
        {
            **supported(name="", description="", input_schema="", type="`custom` or absent", strict=""),
            **no_effect(
                cache_control=_CACHED,
                defer_loading=_LOADED,
                allowed_callers="the client calls",
                eager_input_streaming="arguments are always streamed as they come",
                input_examples="say it in `description`",
            ),
        },
        _ASKED,
    ),
    Part(requests.AnthropicToolChoice, supported(type="", name="", disable_parallel_tool_use=""), _ASKED),
    Part(
        requests.Thinking,
        {
            **supported(type="`adaptive` leaves it to the template", budget_tokens="then the thinking is ended"),
            **no_effect(display="thinking is always shown", block_binding="nothing is signed here"),
        },
        _ASKED,
    ),
    Part(
        requests.OutputConfig,
        {
            **supported(format="", effort="for models whose template takes one"),
            **no_effect(task_budget="use `max_tokens`"),
        },
        _ASKED,
    ),
    Part(requests.OutputFormat, supported(type="`json_schema`", schema=""), _ASKED),
    Part(
        objects.AnthropicAnswer,
        {
            **supported(
                id="also in the headers `request-id` and `x-request-id`",
                role="",
                model="the name that was asked for",
                content="",
                stop_reason="end_turn, max_tokens, stop_sequence, tool_use, model_context_window_exceeded",
                stop_sequence="",
                usage="",
                stop_details="always null: no text is judged here",
                container="always null: nothing is executed here",
            ),
            **absent(
                diagnostics="see `usage` for what was cached",
                context_management="a conversation is never cut in silence",
                input_transformations="nothing of the input is changed",
            ),
            **absent(VLLM, kv_transfer_params="", ec_transfer_params=""),
        },
        {**_ASKED, VLLM: _VLLM},
    ),
    Part(objects.TextBlock, supported(text="", citations="always null"), _ASKED),
    Part(objects.ThinkingBlock, supported(thinking="", signature="always empty"), _ASKED),
    Part(
        objects.ToolUseBlock,
        {**supported(id="", name="", input=""), **absent(caller="the model", toolset_name="there are no sets")},
        _ASKED,
    ),
    Part(
        objects.MessageUsage,
        {
            **supported(
                input_tokens="those of the prompt that were not cached",
                output_tokens="",
                output_tokens_details="",
                cache_creation_input_tokens="always 0: caching costs nothing",
                cache_read_input_tokens="found in the prefix cache",
                cache_creation="always null: caching costs nothing",
                server_tool_use="always null: the client makes the calls",
                service_tier="always `standard`",
                inference_geo="always null",
            ),
            **absent(
                speed="there is one",
                iterations="there is one",
                fallback_credit="nothing is billed",
            ),
        },
        _ASKED,
    ),
    Part(objects.ThinkingTokens, supported(thinking_tokens="the tags that mark it left out"), _ASKED),
    Part(
        objects.TokenCount,
        {**supported(input_tokens=""), **absent(context_management="a conversation is never cut in silence")},
        {"": _COUNT_REFERENCE},
    ),
    Part(
        objects.MessageEvent,
        {
            **supported(
                type="",
                message="of message_start",
                index="of the block",
                content_block="of content_block_start",
                delta="",
                usage="of message_delta; final",
                error="of an error",
            ),
            **absent(
                context_management="a conversation is never cut in silence",
                input_transformations="nothing of the input is changed",
            ),
        },
        _STREAMED,
    ),
    Part(
        objects.EventDelta,
        {
            **supported(
                type="text_delta, thinking_delta, input_json_delta",
                text="",
                thinking="",
                partial_json="",
                stop_reason="of message_delta",
                stop_sequence="of message_delta",
            ),
            **absent(
                citation="nothing is cited",
                signature="nothing is signed",
                content="of what sums a conversation up, which nothing does",
                encrypted_content="nothing is encrypted",
                estimated_tokens="see `usage`",
                stop_details="no text is judged here",
                container="nothing is executed here",
            ),
        },
        _STREAMED,
    ),
    Part(objects.AnthropicErrorDetail, supported(type="", message=""), {"": _ERRORS}),
)
