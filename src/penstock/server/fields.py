"""What becomes of each request field: supported, accepted without effect, or refused.

`docs/openai.md` is made from this manifest, and a test holds it against the request types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from penstock.core.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

Support = Literal["supported", "no effect", "refused"]


@dataclass(frozen=True, slots=True)
class Field:
    """One known field. A refused one may still hold a `neutral` value: null, or one that asks for nothing."""

    support: Support
    note: str = ""
    neutral: tuple[Any, ...] = ()


Manifest = dict[str, Field]


def _supported(**notes: str) -> Manifest:
    return {name: Field("supported", note) for name, note in notes.items()}


def _no_effect(**notes: str) -> Manifest:
    return {name: Field("no effect", note) for name, note in notes.items()}


_COMMON: Manifest = {
    **_supported(
        model="the served name, an alias or an adapter; the served model if absent",
        stream="",
        stream_options="`include_usage`, `continuous_usage_stats`",
        n="1 to 128",
        temperature="0 to 2; 0 is greedy; default 1",
        top_p="above 0, up to 1",
        top_k="vLLM's; 0 or -1 is all",
        min_p="vLLM's; 0 to 1",
        presence_penalty="-2 to 2",
        frequency_penalty="-2 to 2",
        repetition_penalty="vLLM's; above 0, up to 10",
        logit_bias="token id to -100..100, up to 1024 of them",
        seed="the same seed gives the same text",
        stop="one string or up to 16, each of 1 to 1000 characters",
        stop_token_ids="vLLM's; up to 128",
        include_stop_str_in_output="vLLM's",
        ignore_eos="vLLM's",
        min_tokens="vLLM's",
        skip_special_tokens="vLLM's; default true",
        add_special_tokens="vLLM's; default true for completions, false for chat, whose template adds them",
        prompt_logprobs="vLLM's; 0 to 20, not when streaming",
        priority="vLLM's; lower runs first",
        cache_salt="vLLM's; requests share cached prefixes only under the same salt",
    ),
    **_no_effect(
        user="",
        metadata="nothing is stored",
        store="nothing is stored",
        service_tier="there is one tier",
        safety_identifier="",
        prompt_cache_key="prefixes are cached without it",
        prompt_cache_retention="",
        request_id="the server makes its own",
    ),
    "best_of": Field("refused", "use `n`", (1,)),
    "use_beam_search": Field("refused", "", (False,)),
    "length_penalty": Field("refused", "belongs to beam search", (1,)),
    "response_format": Field("refused", "only text comes out yet", ({"type": "text"},)),
    "structured_outputs": Field("refused", "only text comes out yet", ({},)),
    "guided_json": Field("refused", "only text comes out yet"),
    "guided_regex": Field("refused", "only text comes out yet"),
    "guided_choice": Field("refused", "only text comes out yet", ([],)),
    "guided_grammar": Field("refused", "only text comes out yet"),
    "logits_processors": Field("refused", "", ([],)),
    "allowed_token_ids": Field("refused", ""),
    "bad_words": Field("refused", "use `logit_bias`", ([],)),
    "truncate_prompt_tokens": Field("refused", "a prompt is never cut in silence"),
    "spaces_between_special_tokens": Field("refused", "", (True,)),
    "return_token_ids": Field("refused", "use /tokenize", (False,)),
    "return_tokens_as_token_ids": Field("refused", "", (False,)),
}

CHAT: Manifest = {
    **_COMMON,
    **_supported(
        messages="text content; roles system, developer (read as system), user, assistant, tool",
        max_tokens="up to what the context leaves, which is also the default",
        max_completion_tokens="the newer name of `max_tokens`, and wins over it",
        logprobs="",
        top_logprobs="0 to 20, with `logprobs`",
        add_generation_prompt="vLLM's; default true",
        continue_final_message="vLLM's; the answer goes on where the last message ends",
        chat_template_kwargs="vLLM's; variables for the model's template",
    ),
    **_no_effect(
        reasoning_effort="the model's template decides; see `chat_template_kwargs`",
        verbosity="",
        parallel_tool_calls="",
        prediction="only ever a speed-up",
        include_reasoning="",
    ),
    "tools": Field("refused", 'calls can\'t be parsed yet; with `tool_choice` "none" they have no effect', ([],)),
    "tool_choice": Field("refused", "calls can't be parsed yet", ("none", "auto")),
    "functions": Field("refused", "calls can't be parsed yet", ([],)),
    "function_call": Field("refused", "calls can't be parsed yet", ("none", "auto")),
    "modalities": Field("refused", "only text comes out", (["text"],)),
    "audio": Field("refused", "only text comes out"),
    "web_search_options": Field("refused", "the model reaches no network"),
    "chat_template": Field("refused", "the model's own template is used"),
    "documents": Field("refused", "put them into a message", ([],)),
    "mm_processor_kwargs": Field("refused", "only text goes in", ({},)),
    "echo": Field("refused", "use /v1/completions", (False,)),
}

COMPLETIONS: Manifest = {
    **_COMMON,
    **_supported(
        prompt="a text or several, a list of token ids or several",
        max_tokens="default 16; 0 with `echo` only scores the prompt",
        logprobs="0 to 20",
        echo="the prompt comes first, with its log probabilities if asked for",
    ),
    "suffix": Field("refused", "the model can't fill in", ("",)),
}

TOKENIZE: Manifest = {
    **_supported(
        model="as above",
        prompt="a text; or `messages`",
        messages="as for chat",
        add_special_tokens="default true for `prompt`, false for `messages`",
        return_token_strs="",
        add_generation_prompt="default true",
        continue_final_message="",
        chat_template_kwargs="",
    ),
    "tools": Field("refused", "calls can't be parsed yet", ([],)),
    "chat_template": Field("refused", "the model's own template is used"),
    "mm_processor_kwargs": Field("refused", "only text goes in", ({},)),
}

DETOKENIZE: Manifest = _supported(model="as above", tokens="token ids")

LOAD_ADAPTER: Manifest = {
    **_supported(
        lora_name="what requests will call it",
        lora_path="its directory, below the server's `--lora-dir`",
        base_model_name="the served model it is for; the first if absent",
    ),
    "load_inplace": Field("refused", "unload it first", (False,)),
}

UNLOAD_ADAPTER: Manifest = {
    **_supported(lora_name="what requests called it"),
    **_no_effect(lora_int_id="the name says it"),
}


def without_effect(manifest: Manifest, given: Mapping[str, msgspec.Raw]) -> list[str]:
    """Names of the given fields that change nothing. Raises InvalidRequestError for one that is refused."""
    idle = []
    for name, raw in given.items():
        field = manifest.get(name)
        if field is not None and field.support == "supported":
            continue
        if field is not None and field.support == "refused" and not _switched_off(name, given):
            value = msgspec.json.decode(raw)
            if value is not None and value not in field.neutral:
                raise InvalidRequestError(
                    f"'{name}' is not supported{': ' if field.note else ''}{field.note}.",
                    param=name,
                    code="unsupported_parameter",
                )
        idle.append(name)
    return idle


def _switched_off(name: str, given: Mapping[str, msgspec.Raw]) -> bool:
    """Tools that the model is told not to use ask for nothing."""
    switch = {"tools": "tool_choice", "functions": "function_call"}.get(name)
    return switch is not None and switch in given and bytes(given[switch]).strip() == b'"none"'
