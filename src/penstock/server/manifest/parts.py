"""Fields of what is answered, by the generating, tokenizing and status endpoints."""

from __future__ import annotations

from penstock.server import responses
from penstock.server.manifest.api import Part
from penstock.server.manifest.field import OURS, VLLM, absent, supported
from penstock.server.manifest.references import PENSTOCK, openai_property, vllm

_ENSEMBLES = "ensembles.md"
_OWN = {"": PENSTOCK}
_TOKENS = {"": vllm("#utility-apis")}


def _chat(model: str, *inside: str) -> dict[str, str]:
    return {
        "": openai_property("chat", "chat.completions", model, *inside),
        VLLM: vllm("openai_compatible_server/#chat-api"),
        OURS: _ENSEMBLES,
    }


def _completion(model: str, *inside: str) -> dict[str, str]:
    return {
        "": openai_property("completions", "completions", model, *inside),
        VLLM: vllm("openai_compatible_server/#completions-api"),
    }


_HEAD = {
    "id": "begins with `chatcmpl-` or `cmpl-`; also in the header `x-request-id`",
    "object": "",
    "created": "",
    "model": "the name that was asked for",
    "system_fingerprint": "changes with the version, the model and the runner",
    "choices": "",
}
_UNKNOWN_HERE = {"moderation": "no model judges texts here", "service_tier": "there is one tier"}
_NOT_TOLD = {
    "metrics": "see /metrics",
    "kv_transfer_params": "",
    "ec_transfer_params": "",
}
_ROUTED = "which experts were asked is not told"
_NO_IDS = {"token_ids": "use /tokenize", "prompt_token_ids": "use /tokenize"}

CHAT_PARTS = (
    Part(
        responses.StepReport,
        supported(
            step="guard, embed, rerank, generate",
            model="",
            seconds="",
            kept="of embed and rerank: places in `documents`, the best first",
        ),
        {"": _ENSEMBLES},
    ),
    Part(
        responses.ChatCompletion,
        {
            **supported(**_HEAD, usage=""),
            **supported(VLLM, prompt_logprobs="if asked for"),
            **supported(OURS, steps="an ensemble's"),
            **absent(**_UNKNOWN_HERE, metadata="nothing is stored"),
            **absent(VLLM, **_NOT_TOLD, prompt_token_ids="use /tokenize", prompt_text="see the request"),
        },
        _chat("chat_completion"),
    ),
    Part(
        responses.ChatChoice,
        {
            **supported(
                index="", message="", logprobs="null unless asked for", finish_reason="`stop`, `length` or `tool_calls`"
            ),
            **supported(VLLM, stop_reason="the stop string or token that ended the text"),
            **absent(VLLM, token_ids="use /tokenize", routed_experts=_ROUTED),
        },
        _chat("chat_completion", "choices[]"),
    ),
    Part(
        responses.AssistantMessage,
        {
            **supported(
                content="null where there are only calls or thinking",
                role="",
                refusal="always null",
                tool_calls="if any",
            ),
            **supported(VLLM, reasoning_content="what the model thought, if it did", reasoning="the same"),
            **absent(
                function_call="see `tool_calls`",
                annotations="the model reaches no network",
                audio="only text comes out",
            ),
        },
        _chat("chat_completion", "choices[]", "message"),
    ),
    Part(
        responses.ChatChunk,
        {
            **supported(**_HEAD, usage="if asked for"),
            **supported(OURS, steps="an ensemble's, with the last `finish_reason`"),
            **absent(**_UNKNOWN_HERE, obfuscation="nothing is padded"),
            **absent(
                VLLM,
                metrics=_NOT_TOLD["metrics"],
                prompt_token_ids="use /tokenize",
                prompt_text="see the request",
            ),
        },
        _chat("chat_completion_chunk"),
    ),
    Part(
        responses.ChatChunkChoice,
        {
            **supported(
                index="", delta="", logprobs="null unless asked for", finish_reason="null but in the last chunk"
            ),
            **supported(VLLM, stop_reason="with `finish_reason`"),
            **absent(VLLM, token_ids="use /tokenize"),
        },
        _chat("chat_completion_chunk", "choices[]"),
    ),
    Part(
        responses.Delta,
        {
            **supported(role="in the first chunk of each choice", content="", tool_calls=""),
            **supported(VLLM, reasoning_content="", reasoning="the same"),
            **absent(
                function_call="see `tool_calls`",
                refusal="never refused",
                audio="only text comes out",
            ),
        },
        _chat("chat_completion_chunk", "choices[]", "delta"),
    ),
    Part(
        responses.MessageToolCall,
        supported(id="OpenAI's, or of nine characters for Mistral's templates", type="`function`", function=""),
        _chat("chat_completion_message_tool_call"),
    ),
    Part(
        responses.CalledFunction,
        {
            **supported(name="", arguments="JSON that fits the function's schema, unless `finish_reason` is `length`"),
            **absent(VLLM, id="the call has one"),
        },
        _chat("chat_completion_message_tool_call", "function"),
    ),
    Part(
        responses.ToolCallDelta,
        supported(index="", id="in a call's first chunk", type="in a call's first chunk", function=""),
        _chat("chat_completion_chunk", "choices[]", "delta", "tool_calls[]"),
    ),
    Part(
        responses.FunctionDelta,
        supported(name="in a call's first chunk", arguments="more of the JSON"),
        _chat("chat_completion_chunk", "choices[]", "delta", "tool_calls[]", "function"),
    ),
    Part(
        responses.ChatLogprobs,
        supported(content="", refusal="always null"),
        _chat("chat_completion", "choices[]", "logprobs"),
    ),
    Part(
        responses.ChatLogprob,
        supported(token="", logprob="-9999 for an impossible token", bytes="", top_logprobs=""),
        _chat("chat_completion_token_logprob"),
    ),
    Part(
        responses.TopLogprob,
        supported(token="", logprob="-9999 for an impossible token", bytes=""),
        _chat("chat_completion_token_logprob", "top_logprobs[]"),
    ),
)

COMPLETION_PARTS = (
    Part(
        responses.Completion,
        {
            **supported(**_HEAD, usage="in a stream if asked for"),
            **absent(VLLM, **_NOT_TOLD, service_tier="there is one tier"),
        },
        _completion("completion"),
    ),
    Part(
        responses.CompletionChoice,
        {
            **supported(index="prompt by prompt, `n` each", text="", logprobs="", finish_reason="`stop` or `length`"),
            **supported(
                VLLM,
                stop_reason="the stop string or token that ended the text",
                prompt_logprobs="if asked for",
            ),
            **absent(VLLM, **_NO_IDS, routed_experts=_ROUTED),
        },
        _completion("completion_choice"),
    ),
    Part(
        responses.CompletionLogprobs,
        supported(
            tokens="part of a character is written as its bytes",
            token_logprobs="null for a prompt's first token",
            top_logprobs="the likeliest, and the chosen one even if it isn't among them",
            text_offset="characters",
        ),
        _completion("completion_choice", "logprobs"),
    ),
    Part(
        responses.PromptLogprob,
        supported(logprob="", rank="", decoded_token=""),
        {"": vllm("openai_compatible_server/#completions-api")},
    ),
    Part(
        responses.Usage,
        {
            **supported(
                prompt_tokens="a prompt counts once, however many choices it has",
                completion_tokens="",
                total_tokens="",
                prompt_tokens_details="",
                completion_tokens_details="of models that think",
            ),
        },
        _completion("completion_usage"),
    ),
    Part(
        responses.CompletionTokensDetails,
        {
            **supported(reasoning_tokens="the tags that mark it left out"),
            **absent(
                accepted_prediction_tokens="predictions are of no effect",
                rejected_prediction_tokens="predictions are of no effect",
                audio_tokens="only text comes out",
                text_tokens="all of them are",
            ),
        },
        _completion("completion_usage", "completion_tokens_details"),
    ),
    Part(
        responses.PromptTokensDetails,
        {
            **supported(cached_tokens="found in the prefix cache"),
            **absent(
                text_tokens="all of them are",
                audio_tokens="only text goes in",
                image_tokens="only text goes in",
                cache_write_tokens="writing costs nothing",
            ),
            **absent(VLLM, created_cache_tokens="writing costs nothing", multimodal_tokens="only text goes in"),
        },
        _completion("completion_usage", "prompt_tokens_details"),
    ),
)

OTHER_PARTS = (
    Part(
        responses.ModelCard,
        {
            **supported(id="", object="", created="when the server started", owned_by=""),
            **supported(
                VLLM,
                root="the model behind an alias, the directory of an adapter",
                parent="the model of an adapter",
                max_model_len="tokens; null before the model is loaded",
            ),
            **absent(shutdown_date=""),
            **absent(VLLM, permission="whoever has the key may use it"),
        },
        {"": openai_property("models", "models", "model"), VLLM: vllm("#openai-compatible-server")},
    ),
    Part(
        responses.ModelList,
        supported(object="", data="every name the model answers to"),
        {"": openai_property("models/methods/list", "models", "model").partition("#")[0]},
    ),
    Part(
        responses.Tokenized,
        supported(count="", max_model_len="", tokens="", token_strs="null unless `return_token_strs`"),
        _TOKENS,
    ),
    Part(responses.Detokenized, supported(prompt="control tokens included"), _TOKENS),
    Part(
        responses.TokenizerInfo,
        supported(
            tokenizer_class="the class of transformers that reads any tokenizer.json",
            vocab_size="ids end below it",
            model_max_length="tokens of the context",
            add_bos_token="whether a text gets it",
            add_eos_token="whether a text gets it",
            bos_token="",
            eos_token="",
            unk_token="",
            pad_token="",
            sep_token="",
            cls_token="",
            mask_token="",
            additional_special_tokens="control tokens without a name",
            chat_template="the default one, in Jinja2",
        ),
        _TOKENS,
    ),
    Part(
        responses.Health,
        supported(
            status="`ok`", engine="how the first model's core does", restarts="of that core", models="how each does"
        ),
        _OWN,
    ),
    Part(responses.Ready, supported(status="`ready`"), _OWN),
    Part(responses.Version, supported(version="", model="", max_model_len="", runner=""), _OWN),
    Part(
        responses.LatencyReport,
        supported(target_ms="", requests="", window_seconds="", duration="", time_to_first_token=""),
        _OWN,
    ),
    Part(
        responses.LatencySummary,
        supported(within_target="the share of requests", p50_ms="", p95_ms="", p99_ms=""),
        _OWN,
    ),
    Part(responses.ErrorBody, supported(error=""), {"": "https://developers.openai.com/api/docs/guides/error-codes"}),
    Part(
        responses.ErrorDetail,
        {
            **supported(message="what, where, what to do", type="", param="the field at fault", code="a stable name"),
            **absent(misalignment="no model judges texts here"),
        },
        {"": "https://developers.openai.com/api/docs/guides/error-codes"},
    ),
)
