"""Fields of /v1/responses and of what is under it."""

from __future__ import annotations

from penstock.server.manifest.api import Api
from penstock.server.manifest.field import CHAT_FORM, OURS, VLLM, Field, Manifest, no_effect, refused, supported
from penstock.server.manifest.references import VLLM_RESPONSES, openai_parameter, openai_streaming_parameter

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
            VLLM: VLLM_RESPONSES,
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
