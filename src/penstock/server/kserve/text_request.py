"""From an inference request's tensors and parameters to a completion request: one way for all that generates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.core.errors import InvalidRequestError
from penstock.core.suggest import did_you_mean
from penstock.server.body import explain
from penstock.server.kserve import refused
from penstock.server.kserve.signature import INPUTS, OUTPUTS, check_value
from penstock.server.manifest.generation import COMPLETIONS
from penstock.server.requests import CompletionRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.server.kserve.tensors import Value

Parameter = bool | int | float | str

# Fields of a completion request that are something else here: an input of their own, or nothing.
_NO_PARAMETERS = frozenset({"model", "prompt", "stream", "stream_options", "echo", "prompt_logprobs", "suffix"})
_SCORED = frozenset({"cumulative_logprob", "cum_log_probs", "output_log_probs"})
_SEED_VALUES = 2**64


@dataclass(frozen=True, slots=True)
class InferRequest:
    """An inference request, by whichever protocol it came.

    Attributes:
        model: as the client names it.
        version: "" is any.
        id: the client's own, which the answer bears too.
        parameters: those that aren't the protocol's.
        inputs: of each input tensor its elements.
        outputs: those asked for; none named are those that the inputs switch on.
        batched: the tensors had a batch dimension, so those of the answer get one.
        arrived: `time.monotonic()` then.
    """

    model: str
    version: str
    id: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, list[Value]]
    outputs: tuple[str, ...]
    batched: bool
    arrived: float


@dataclass(frozen=True, slots=True)
class TextRequest:
    """What an inference request asks of a text model.

    Attributes:
        completion: the same as a completion request.
        text: the prompt.
        stream: a response for each piece.
        prepends: the answer begins with the prompt.
        outputs: the tensors of each response.
        bad_words: words that must not come.
        biased_words: words and what is added to the logits of their tokens.
        end_token: ends the answer instead of the model's own; -1: none does.
    """

    completion: CompletionRequest
    text: str
    stream: bool
    prepends: bool
    outputs: tuple[str, ...]
    bad_words: tuple[str, ...]
    biased_words: tuple[tuple[str, float], ...]
    end_token: int | None


def read_text_request(request: InferRequest) -> TextRequest:
    """Check an inference request and translate it.

    Raises InvalidRequestError naming the tensor or the parameter at fault.
    """
    for name, known in INPUTS.items():
        if not known.optional and name not in request.inputs:
            raise InvalidRequestError(f"The input '{name}' is missing.", param=name, code="missing_field")
    for name, values in request.inputs.items():
        check_value(name, values)
    stream = _switch(request, "stream")
    excludes = _switch(request, "exclude_input_in_output", default=stream)
    if stream and not excludes:
        raise InvalidRequestError(
            "A stream doesn't begin with the prompt: 'exclude_input_in_output' can't be false with 'stream'.",
            param="exclude_input_in_output",
            code="invalid_value",
        )
    outputs = request.outputs or tuple(
        name for name, output in OUTPUTS.items() if not output.switch or _switch(request, output.switch)
    )
    return TextRequest(
        completion=_completion(request, scored=not _SCORED.isdisjoint(outputs)),
        text=_text("text_input", request.inputs["text_input"][0]),
        stream=stream,
        prepends=not excludes,
        outputs=outputs,
        bad_words=_words(request, "bad_words"),
        biased_words=_biased_words(request),
        end_token=int(request.inputs["end_id"][0]) if "end_id" in request.inputs else None,
    )


@dataclass(slots=True)
class _Body:
    """A completion request in the making: its fields, and what the client calls each."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, value: Any, origin: str) -> None:
        if name in self.values:
            raise InvalidRequestError(
                f"'{origin}' and '{self.origins[name]}' set the same; send one of them.",
                param=origin,
                code="invalid_value",
            )
        self.values[name], self.origins[name] = value, origin


def _completion(request: InferRequest, *, scored: bool) -> CompletionRequest:
    body = _Body({"prompt": ""})
    for name, values in request.inputs.items():
        target = INPUTS[name].field
        if target == "stop":
            words = _words(request, name)
            if words:
                body.put(target, list(words), name)
        elif target == "seed":
            seed = int(values[0])
            body.put(target, seed - _SEED_VALUES if seed >= _SEED_VALUES // 2 else seed, name)
        elif target:
            body.put(target, values[0], name)
    for name, value in _sampling_parameters(request).items():
        _put_parameter(body, name, value)
    if scored and body.values.get("logprobs") is None:
        body.values["logprobs"] = 0
    try:
        return msgspec.convert(body.values, CompletionRequest, strict=False, str_keys=True)
    except msgspec.ValidationError as error:
        problem = explain(str(error))
        at_fault = (problem.param or "").partition("[")[0].partition(".")[0]
        origin = body.origins.get(at_fault, at_fault)
        message = problem.message.replace(f"'{at_fault}", f"'{origin}", 1)
        raise InvalidRequestError(message, param=origin, code=problem.code) from error


def _sampling_parameters(request: InferRequest) -> dict[str, Any]:
    """From the tensor and from the request's own parameters."""
    parameters = dict(request.parameters)
    if "sampling_parameters" not in request.inputs:
        return parameters
    text = _text("sampling_parameters", request.inputs["sampling_parameters"][0])
    given = _object(text, "sampling_parameters")
    for name in given.keys() & parameters.keys():
        raise InvalidRequestError(
            f"'{name[:256]}' is in 'sampling_parameters' and among the request's parameters.",
            param=name[:256],
            code="invalid_value",
        )
    return {**parameters, **given}


def _put_parameter(body: _Body, name: str, value: Any) -> None:
    if value is None:
        return
    if name in refused.PARAMETERS:
        raise _unsupported(name, refused.PARAMETERS[name])
    if name == "structured_outputs" and isinstance(value, str):
        value = _object(value, name)  # vLLM's back end takes it as a string in the string
    known = COMPLETIONS.get(name)
    if known is None or known.support == "no effect" or name in _NO_PARAMETERS:
        names = [each for each, entry in COMPLETIONS.items() if entry.support == "supported"]
        raise InvalidRequestError(
            f"There is no sampling parameter {name[:256]!r}.{did_you_mean(name, {*names} - _NO_PARAMETERS)}",
            param=name[:256],
            code="unknown_parameter",
        )
    if known.support == "refused":
        if value not in known.neutral:
            raise _unsupported(name, known.note)
        return
    body.put(name, value, name)


def _object(text: str, name: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequestError(
            f"'{name}' must be a JSON object in a string: {error}.", param=name, code="invalid_json"
        ) from error


def _unsupported(name: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"'{name}' is not supported{': ' if why else ''}{why}.", param=name, code="unsupported_parameter"
    )


def _biased_words(request: InferRequest) -> tuple[tuple[str, float], ...]:
    words = [_text("embedding_bias_words", word) for word in request.inputs.get("embedding_bias_words", ())]
    weights = [float(weight) for weight in request.inputs.get("embedding_bias_weights", ())]
    if len(words) != len(weights):
        raise InvalidRequestError(
            f"There are {len(words)} 'embedding_bias_words' and {len(weights)} 'embedding_bias_weights'; each word "
            "needs one.",
            param="embedding_bias_weights",
            code="invalid_value",
        )
    for weight in weights:
        if not -100 <= weight <= 100:
            raise InvalidRequestError(
                f"'embedding_bias_weights' must be from -100 to 100, not {weight:g}.",
                param="embedding_bias_weights",
                code="invalid_value",
            )
    return tuple(zip(words, weights, strict=True))


def _words(request: InferRequest, name: str) -> tuple[str, ...]:
    """Clients that have none often send one that is empty."""
    return tuple(filter(None, (_text(name, word) for word in request.inputs.get(name, ()))))


def _switch(request: InferRequest, name: str, *, default: bool = False) -> bool:
    values = request.inputs.get(name)
    return default if values is None else bool(values[0])


def _text(name: str, value: Value) -> str:
    assert isinstance(value, bytes)  # the codec saw to it
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"'{name}' is not valid UTF-8 (byte {error.start}).", param=name, code="invalid_utf8"
        ) from error
