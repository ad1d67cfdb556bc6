"""What a KServe v2 client can ask, whichever way it comes: about the server, about its models, and to generate."""

from __future__ import annotations

import uuid
from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec

import penstock
from penstock.core.errors import InvalidRequestError, NotFoundError
from penstock.server.kserve.answer import Answer
from penstock.server.kserve.signature import INPUTS, OUTPUTS
from penstock.server.kserve.statistics import ModelCounts
from penstock.server.kserve.text_request import read_text_request
from penstock.server.kserve.types import (
    ConfigInput,
    ConfigOutput,
    ConfigParameter,
    ModelConfig,
    ModelIndex,
    ModelMetadata,
    ServerMetadata,
    Statistics,
    TensorMetadata,
    TransactionPolicy,
)
from penstock.server.sampling import check_room, sampling_params
from penstock.server.status import NOT_READY

if TYPE_CHECKING:
    from penstock.engine.types import SamplingParams
    from penstock.server.kserve.text_request import InferRequest, TextRequest
    from penstock.server.served_model import ModelInUse, ServedModel
    from penstock.server.service import Service

EXTENSIONS = ("binary_tensor_data", "generate", "model_configuration", "parameters", "statistics")
PLATFORM = "penstock"
DEFAULT_MAX_TOKENS = 16  # vLLM's
_CONFIG_TYPES = {"BYTES": "TYPE_STRING"}


class KServe:
    """The protocol over one server's models, for HTTP and gRPC alike.

    Args:
        service: what the server's other endpoints work on.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._counts: defaultdict[tuple[str, str], ModelCounts] = defaultdict(ModelCounts)

    @property
    def ready(self) -> bool:
        """Whether every model would take a request now."""
        return all(model.engine.state == "ready" for model in self._service.models)

    def server_metadata(self) -> ServerMetadata:
        """Name, version, and the extensions that are spoken in full."""
        return ServerMetadata("penstock", penstock.__version__, [*EXTENSIONS])

    def model_ready(self, name: str, version: str) -> bool:
        """Whether a model would take a request now. Raises NotFoundError for one that isn't there."""
        return self._find(name, version).engine.state == "ready"

    def model_metadata(self, name: str, version: str) -> ModelMetadata:
        """What goes in and what comes out. Raises NotFoundError."""
        model = self._find(name, version)
        return ModelMetadata(
            name=name,
            versions=[model.version],
            platform=PLATFORM,
            inputs=[TensorMetadata(each, of.datatype, [*of.shape]) for each, of in INPUTS.items()],
            outputs=[TensorMetadata(each, of.datatype, [*of.shape]) for each, of in OUTPUTS.items()],
        )

    def model_config(self, name: str, version: str) -> ModelConfig:
        """The model's configuration. Raises NotFoundError."""
        engine = self._find(name, version).engine
        facts = {"max_model_len": engine.info.max_model_len, "architecture": engine.spec.architecture}
        return ModelConfig(
            name=name,
            platform=PLATFORM,
            backend=PLATFORM,
            max_batch_size=0,  # requests are batched as they come, never by their sender
            input=[
                ConfigInput(each, _config_type(of.datatype), [*of.shape], of.optional) for each, of in INPUTS.items()
            ],
            output=[ConfigOutput(each, _config_type(of.datatype), [*of.shape]) for each, of in OUTPUTS.items()],
            model_transaction_policy=TransactionPolicy(decoupled=True),
            parameters={each: ConfigParameter(str(value)) for each, value in facts.items()},
        )

    def statistics(self, name: str, version: str) -> Statistics:
        """Of one model, or of all under "". Raises NotFoundError."""
        models = [self._find(name, version)] if name else [*self._service.models]
        counted = ((model, self._counts[model.name, model.version]) for model in models)
        return Statistics([counts.report(model.name, model.version) for model, counts in counted])

    def index(self, *, ready: bool) -> list[ModelIndex]:
        """The models there are; with `ready` those alone that would take a request now."""
        rows = []
        for model in self._service.models:
            state = model.engine.state
            if state == "ready":
                rows.append(ModelIndex(model.name, model.version, "READY", ""))
            elif not ready:
                rows.append(ModelIndex(model.name, model.version, "UNAVAILABLE", NOT_READY[state]))
        return rows

    def load(self, name: str) -> None:
        """Refused: see the error."""
        raise _fixed(f"{name[:256]!r} can't be loaded")

    def unload(self, name: str) -> None:
        """Refused: see the error."""
        raise _fixed(f"{name[:256]!r} can't be unloaded")

    async def infer(self, request: InferRequest) -> Answer:
        """Hand a request to its model's engine.

        Raises:
            NotFoundError: no such model or version.
            InvalidRequestError: a tensor or parameter that is wrong, a prompt that doesn't fit.
            OverloadedError: the queue is full.
            EngineDeadError: the engine's core is down.
        """
        served = self._find(request.model, request.version)
        asked = read_text_request(request)
        model = await self._service.models.use(request.model)
        completion = asked.completion
        max_tokens = DEFAULT_MAX_TOKENS if completion.max_tokens is None else completion.max_tokens
        params = sampling_params(
            completion,
            max_tokens=max_tokens,
            logprobs=completion.logprobs,
            prompt_logprobs=None,
            vocab_size=model.engine.spec.vocab_size,
        )
        params = _with_biases(model, asked, _with_end(model, asked.end_token, params))
        special = completion.add_special_tokens is not False
        try:
            prompt = await model.prompts.from_text(asked.text, add_special_tokens=special)
            check_room(len(prompt), max_tokens, model.context, prompt_field="prompt", max_tokens_field="max_tokens")
            generation = model.start(
                completion, [prompt], params, request_id=f"infer-{uuid.uuid4().hex}", arrived=request.arrived
            )
        except InvalidRequestError as error:
            error.param = "text_input" if error.param == "prompt" else error.param
            raise
        return Answer(
            model,
            served.version,
            asked,
            generation,
            self._counts[served.name, served.version],
            request_id=request.id,
            batched=request.batched,
            arrived=request.arrived,
        )

    def _find(self, name: str, version: str) -> ServedModel:
        served_name = self._service.models.card(name).root  # raises NotFoundError
        model = next(each for each in self._service.models if each.name == served_name)
        if version not in ("", model.version):
            raise NotFoundError(
                f"The model {name[:256]!r} has the version {model.version}, not {version[:64]!r}.",
                param="version",
                code="version_not_found",
            )
        return model


def _with_end(model: ModelInUse, end: int | None, params: SamplingParams) -> SamplingParams:
    """Another token ends the answer than the model's own."""
    if end is None or end in model.engine.spec.eos_token_ids:
        return params
    if not -1 <= end < model.engine.spec.vocab_size:
        raise InvalidRequestError(
            f"'end_id' is {end}; this model's tokens are 0 to {model.engine.spec.vocab_size - 1}.",
            param="end_id",
            code="invalid_token_id",
        )
    stops = params.stop_token_ids if end == -1 else (*params.stop_token_ids, end)
    return msgspec.structs.replace(params, ignore_eos=True, stop_token_ids=stops)


def _with_biases(model: ModelInUse, asked: TextRequest, params: SamplingParams) -> SamplingParams:
    """Words that must not come, or come more or less often, as biases of their tokens."""
    if not asked.bad_words and not asked.biased_words:
        return params
    encode = model.engine.tokenizer.encode
    biases = dict(params.logit_bias)
    for word, weight in asked.biased_words:
        for token in encode(word, add_special_tokens=False, parse_special=False):
            biases[token] = min(max(biases.get(token, 0.0) + weight, -100.0), 100.0)
    for word in asked.bad_words:
        forms = [encode(form, add_special_tokens=False, parse_special=False) for form in (word, " " + word)]
        single = [form[0] for form in forms if len(form) == 1]
        if not single:
            raise InvalidRequestError(
                f"'bad_words' has {word[:64]!r}, which is {len(forms[0])} tokens; only words of one token can be "
                "kept out.",
                param="bad_words",
                code="unsupported_value",
            )
        biases.update(dict.fromkeys(single, -100.0))
    return msgspec.structs.replace(params, logit_bias=biases)


def _config_type(datatype: str) -> str:
    return _CONFIG_TYPES.get(datatype, f"TYPE_{datatype}")


def _fixed(what: str) -> InvalidRequestError:
    return InvalidRequestError(f"{what}: models are loaded when the server starts.", code="not_supported")
