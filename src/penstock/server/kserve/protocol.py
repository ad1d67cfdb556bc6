"""What a KServe v2 client can ask, whichever way it comes: about the server, about its models, and to generate."""

from __future__ import annotations

import logging
import uuid
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import penstock
from penstock.core.errors import EngineDeadError, InvalidRequestError, ModelFileError, NotFoundError, PenstockError
from penstock.models.encoder_files import is_encoder
from penstock.server.kserve.answer import Answer
from penstock.server.kserve.signature import TEXT
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
from penstock.server.model_entry import NOT_LOADED
from penstock.server.prompts import INLINE_CHARACTERS
from penstock.server.sampling import check_room, sampling_params
from penstock.server.served_model import ModelInUse, ServedModel, wrong_kind
from penstock.server.status import NOT_READY
from penstock.server.structured import field_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.engine.types import SamplingParams
    from penstock.server.kserve.encoder import EncoderAnswer
    from penstock.server.kserve.signature import Signature
    from penstock.server.kserve.text_request import InferRequest, TextRequest
    from penstock.server.model_entry import ModelEntry
    from penstock.server.service import Service

    AnyAnswer = Answer | EncoderAnswer

log = logging.getLogger(__name__)

EXTENSIONS = ("binary_tensor_data", "generate", "model_configuration", "model_repository", "parameters", "statistics")
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
        self._models = service.models
        self._counts: defaultdict[tuple[str, str], ModelCounts] = defaultdict(ModelCounts)

    @property
    def ready(self) -> bool:
        """Whether every model would take a request now, save those that were unloaded on purpose."""
        return all(entry.can_serve or entry.state == "unloaded" for entry in self._models.entries)

    def server_metadata(self) -> ServerMetadata:
        """Name, version, and the extensions that are spoken."""
        return ServerMetadata("penstock", penstock.__version__, [*EXTENSIONS])

    def model_ready(self, name: str, version: str) -> bool:
        """Whether a model would take a request now, be it by waking up. Raises NotFoundError."""
        return self._find(name, version).can_serve

    def model_metadata(self, name: str, version: str) -> ModelMetadata:
        """What goes in and what comes out. Raises NotFoundError."""
        found = self._find(name, version)
        signature = self.signature(name, version)
        versions = [
            each.declared.version
            for each in self._models.entries
            if each.name == found.name and each.state != "unloaded"
        ]
        return ModelMetadata(
            name=name,
            versions=versions,
            platform=PLATFORM,
            inputs=[TensorMetadata(each, of.datatype, [*of.shape]) for each, of in signature.inputs.items()],
            outputs=[TensorMetadata(each, of.datatype, [*of.shape]) for each, of in signature.outputs.items()],
        )

    def model_config(self, name: str, version: str) -> ModelConfig:
        """The model's configuration. Raises NotFoundError."""
        entry = self._find(name, version)
        signature = self.signature(name, version)
        facts = {"max_model_len": entry.context, **entry.runner}  # nothing while it has never been in memory
        return ModelConfig(
            name=name,
            platform=PLATFORM,
            backend=PLATFORM,
            max_batch_size=0,  # requests are batched as they come, never by their sender
            input=[
                ConfigInput(each, _config_type(of.datatype), [*of.shape], of.optional)
                for each, of in signature.inputs.items()
            ],
            output=[
                ConfigOutput(each, _config_type(of.datatype), [*of.shape]) for each, of in signature.outputs.items()
            ],
            model_transaction_policy=TransactionPolicy(decoupled=signature is TEXT),
            parameters={each: ConfigParameter(str(value)) for each, value in facts.items() if value is not None},
        )

    def signature(self, name: str, version: str) -> Signature:
        """The tensors of a model, be it in memory or asleep.

        Raises NotFoundError, and EngineDeadError for one whose files don't tell.
        """
        entry = self._find(name, version)
        if isinstance(entry.served, ServedModel):
            return TEXT
        from penstock.models.encoder_spec import load_encoder_spec  # few servers have an encoder
        from penstock.server.kserve.encoder import signature_of

        if entry.served is not None:
            return signature_of(entry.served.engine.spec)
        path = Path(entry.declared.config.model_path)
        try:
            return signature_of(load_encoder_spec(path)) if is_encoder(path) else TEXT
        except ModelFileError as error:
            log.error("%s can't be read: %s", entry.label, error.message)  # noqa: TRY400
            raise EngineDeadError(
                f"The model {name[:256]!r} can't be loaded; the server's log says why.", code=NOT_LOADED
            ) from error

    def statistics(self, name: str, version: str) -> Statistics:
        """Of one model, or of all under "". Raises NotFoundError."""
        entries = [self._find(name, version)] if name else self._models.entries
        return Statistics([self._counts_of(entry).report(entry.name, entry.declared.version) for entry in entries])

    def index(self, *, ready: bool) -> list[ModelIndex]:
        """The models there are; with `ready` those alone that would take a request now."""
        rows = []
        for entry in self._models.entries:
            state, reason = "READY", ""
            if not entry.can_serve:
                state = "LOADING" if entry.state in {"starting", "loading"} else "UNAVAILABLE"
                reason = NOT_READY[entry.state]  # no more: why a load failed may name files of this machine
            if entry.can_serve or not ready:
                rows.append(ModelIndex(entry.name, entry.declared.version, state, reason))
        return rows

    async def load(self, name: str, parameters: Iterable[str]) -> None:
        """Load a model as it is declared now, all its versions; one that is there already is swapped.

        Raises InvalidRequestError if clients may not or it can't be loaded, NotFoundError if it isn't declared, and
        EngineDeadError if the server is stopping.
        """
        self._check_control(parameters)
        try:
            await self._models.reload(name)
        except PenstockError as error:
            if error.code in {"model_not_found", "engine_draining"}:
                raise
            log.error("%s could not be loaded: %s", name[:256], error.message)  # noqa: TRY400
            raise InvalidRequestError(  # no more: why it failed may name files of this machine
                f"The model {name[:256]!r} could not be loaded as it is declared; the server's log says why. What was "
                "served before still is.",
                param="model",
                code="load_failed",
            ) from error

    async def unload(self, name: str, parameters: Iterable[str]) -> None:
        """Take a model out of memory, all its versions, once its requests are done.

        Raises InvalidRequestError if clients may not, NotFoundError if it isn't declared.
        """
        self._check_control({*parameters} - {"unload_dependents"})  # no model depends on another
        entry = self._models.find(name)
        if name not in (entry.name, *entry.declared.aliases):  # one version, say
            raise NotFoundError(
                f"{name[:256]!r} is not all of a model; unload {entry.name!r}.", param="model", code="model_not_found"
            )
        await self._models.unload(entry.name)

    async def infer(self, request: InferRequest, *, streams_by: str = "") -> AnyAnswer:
        """Hand a request to its model's engine.

        Args:
            request: what is asked.
            streams_by: what to use for several responses, where there can be one only.

        Raises:
            NotFoundError: no such model or version.
            InvalidRequestError: a tensor or parameter that is wrong, a prompt that doesn't fit.
            OverloadedError: the queue is full.
            EngineDeadError: the engine's core is down.
        """
        entry = self._find(request.model, request.version)
        named = entry is self._models.find(request.model)  # else another version, of which it may be no name
        known_as = request.model if named else entry.name
        signature = self.signature(request.model, request.version)
        if signature is not TEXT:
            return await self._encode(entry, known_as, request, signature)
        asked = read_text_request(request)
        if asked.stream and streams_by:
            raise InvalidRequestError(
                f"With 'stream' there are several responses, and there can be one here. Use {streams_by}.",
                param="stream",
                code="invalid_value",
            )
        model = await entry.use(known_as)
        completion = asked.completion
        max_tokens = DEFAULT_MAX_TOKENS if completion.max_tokens is None else completion.max_tokens
        read = partial(
            sampling_params,
            completion,
            max_tokens=max_tokens,
            logprobs=completion.logprobs,
            prompt_logprobs=None,
            vocab_size=model.engine.spec.vocab_size,
        )
        params = await model.prompts.aside(read, quick=field_of(completion) is None)  # a schema may be long
        params = _with_end(model, asked.end_token, params)
        characters = sum(map(len, asked.bad_words)) + sum(len(word) for word, _ in asked.biased_words)
        params = await model.prompts.aside(
            lambda: _with_biases(model, asked, params), quick=characters <= INLINE_CHARACTERS
        )
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
            entry.declared.version,
            asked,
            generation,
            self._counts_of(entry),
            request_id=request.id,
            batched=request.batched,
            arrived=request.arrived,
        )

    async def _encode(
        self, entry: ModelEntry, known_as: str, request: InferRequest, signature: Signature
    ) -> EncoderAnswer:
        from penstock.server.kserve.encoder import EncoderAnswer

        model = await entry.use_any(known_as)
        if isinstance(model, ModelInUse):  # swapped meanwhile
            raise wrong_kind(model, "This takes an encoder.")
        outputs = request.outputs or tuple(signature.outputs)
        return EncoderAnswer(model, entry.declared.version, request, outputs, self._counts_of(entry))

    def _find(self, name: str, version: str) -> ModelEntry:
        """The last version of a model, or this one; an alias may come with a version too. Raises NotFoundError."""
        entry = self._models.find(name)
        if version and version != entry.declared.version:
            entry = self._models.find(entry.name, version)
        if entry.state == "unloaded":
            raise NotFoundError(f"The model {name[:256]!r} is not loaded.", param="model", code="model_not_found")
        return entry

    def _counts_of(self, entry: ModelEntry) -> ModelCounts:
        return self._counts[entry.name, entry.declared.version]

    def _check_control(self, parameters: Iterable[str]) -> None:
        if not self._service.settings.model_control:
            raise InvalidRequestError(
                "Clients may not load and unload models here. The server's --model-control lets them.",
                code="not_supported",
            )
        for name in parameters:
            raise InvalidRequestError(
                f"The parameter {name[:256]!r} is not supported: a model is served as it is declared.",
                param=name[:256],
                code="unsupported_parameter",
            )


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
