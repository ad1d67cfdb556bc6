"""From a request's fields to the engine's sampling parameters; what ranges alone can't say is checked here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError
from penstock.engine.types import SamplingParams
from penstock.server.structured import grammar_of

if TYPE_CHECKING:
    from penstock.server.requests import GenerationRequest

INT64 = 2**63 - 1


def sampling_params(
    request: GenerationRequest,
    *,
    max_tokens: int | None,
    logprobs: int | None,
    prompt_logprobs: int | None,
    vocab_size: int,
) -> SamplingParams:
    """The engine's parameters. Raises InvalidRequestError naming the field at fault.

    Args:
        request: the client's fields, each within its own range.
        max_tokens: None is up to the context.
        logprobs: alternatives per generated token; None is none at all.
        prompt_logprobs: the same for the prompt.
        vocab_size: token ids end below it.
    """
    _check(request, max_tokens, vocab_size)
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    return SamplingParams(
        n=request.n or 1,
        temperature=_or(request.temperature, 1.0),
        top_k=max(request.top_k or 0, 0),
        top_p=_or(request.top_p, 1.0),
        min_p=request.min_p or 0.0,
        repetition_penalty=_or(request.repetition_penalty, 1.0),
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        logit_bias=request.logit_bias or {},
        stop=stop,
        stop_token_ids=tuple(request.stop_token_ids or ()),
        include_stop_str_in_output=bool(request.include_stop_str_in_output),
        ignore_eos=bool(request.ignore_eos),
        min_tokens=request.min_tokens or 0,
        max_tokens=max_tokens,
        seed=request.seed,
        speculation=request.speculation,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        skip_special_tokens=request.skip_special_tokens is not False,
        grammar=grammar_of(request),
    )


def check_room(
    prompt_tokens: int, max_tokens: int | None, context: int, *, prompt_field: str, max_tokens_field: str
) -> None:
    """Raises InvalidRequestError, with both lengths, if the prompt or what is asked for doesn't fit the context."""
    if prompt_tokens + (max_tokens != 0) > context:
        raise InvalidRequestError(
            f"The prompt is {prompt_tokens} tokens long, and the model's context of {context} tokens must hold it "
            "and the answer. Shorten the prompt.",
            param=prompt_field,
            code="context_length_exceeded",
        )
    if max_tokens is not None and prompt_tokens + max_tokens > context:
        raise InvalidRequestError(
            f"{max_tokens_field} is {max_tokens}, and the prompt is {prompt_tokens} tokens long: together "
            f"{prompt_tokens + max_tokens}, over the model's context of {context} tokens. At most "
            f"{context - prompt_tokens} can be generated.",
            param=max_tokens_field,
            code="context_length_exceeded",
        )


def _check(request: GenerationRequest, max_tokens: int | None, vocab_size: int) -> None:
    if request.seed is not None and not -INT64 - 1 <= request.seed <= INT64:
        raise InvalidRequestError("'seed' must be a 64-bit integer.", param="seed", code="invalid_value")
    if request.min_tokens and max_tokens is not None and request.min_tokens > max_tokens:
        raise InvalidRequestError(
            f"'min_tokens' is {request.min_tokens}, over the {max_tokens} tokens that may be generated at most.",
            param="min_tokens",
            code="invalid_value",
        )
    for field, ids in (("logit_bias", request.logit_bias or {}), ("stop_token_ids", request.stop_token_ids or ())):
        for token in ids:
            if not 0 <= token < vocab_size:
                raise InvalidRequestError(
                    f"'{field}' names token {_short(token)}; this model's tokens are 0 to {vocab_size - 1}.",
                    param=field,
                    code="invalid_token_id",
                )
    if request.prompt_logprobs is not None and request.stream:
        raise InvalidRequestError(
            "'prompt_logprobs' is not given in a stream; ask without 'stream', or use 'echo' and 'logprobs' of "
            "/v1/completions.",
            param="prompt_logprobs",
            code="unsupported_parameter",
        )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _short(token: int) -> str:
    """A number for a message; a client may send one with thousands of digits."""
    return str(token) if abs(token) <= INT64 else "a number beyond 64 bits"
