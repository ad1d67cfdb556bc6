"""Encoders over the protocol: texts in one tensor, and a row of vectors, scores or classes for each.

The name of the texts is that of Triton's LLM back ends; of the results there are no names to follow.
"""

from __future__ import annotations

import time
from array import array
from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError
from penstock.server.kserve.answer import InferResponse
from penstock.server.kserve.signature import Input, Output, Signature
from penstock.server.kserve.tensors import Tensor
from penstock.server.pairs import Pairs
from penstock.server.vectors import counted, cut, read_texts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from penstock.models.encoder_spec import EncoderSpec
    from penstock.server.kserve.statistics import ModelCounts
    from penstock.server.kserve.tensors import Value
    from penstock.server.kserve.text_request import InferRequest
    from penstock.server.served_encoder import EncoderInUse

_TEXTS = Input("BYTES", "the texts", many=True, optional=False)
_CUT = Input("INT32", "cut texts to so many tokens; -1 to as many as the model reads; default: refuse longer ones")


def signature_of(spec: EncoderSpec) -> Signature:
    """The tensors that an encoder takes and gives."""
    inputs = {"text_input": _TEXTS, "truncate_prompt_tokens": _CUT}
    match spec.kind:
        case "embedder":
            inputs["dimensions"] = Input("INT32", "keep so many numbers of each vector, scaled to the length 1")
            outputs = {"embedding": Output("FP32", "", "of each text", (-1, spec.hidden_size or -1))}
        case "reranker":
            inputs["query"] = Input("BYTES", "what the texts are to answer", optional=False)
            outputs = {"score": Output("FP32", "", "of each text")}
        case "classifier":
            outputs = {
                "label": Output("BYTES", "", "the likeliest class of each text"),
                "probs": Output("FP32", "", "of each text by class", (-1, len(spec.labels))),
            }
    return Signature(inputs, outputs, in_rows=True)


class EncoderAnswer:
    """One request's only response.

    Args:
        model: what answers.
        version: of it.
        request: checked against the model's signature.
        outputs: the tensors of the response.
        counts: where the request is counted.

    Raises InvalidRequestError for a parameter, a missing input, or bytes that are no text.
    """

    stream = False

    def __init__(
        self, model: EncoderInUse, version: str, request: InferRequest, outputs: Sequence[str], counts: ModelCounts
    ) -> None:
        for name in request.parameters:
            raise InvalidRequestError(
                f"The parameter {name[:256]!r} is not supported: this model reads texts.",
                param=name[:256],
                code="unsupported_parameter",
            )
        self._model = model
        self._version = version
        self._request = request
        self._outputs = outputs
        self._counts = counts
        self._texts = [_text("text_input", value) for value in _given(request, "text_input")]
        if model.kind == "reranker":
            self._query = _text("query", _given(request, "query")[0])
        self._truncate = _integer(request, "truncate_prompt_tokens", low=-1)
        self._dimensions = _integer(request, "dimensions", low=1)

    async def whole(self) -> InferResponse:
        """The response. Raises what the model refuses the texts with; cancelling it gives the request up."""
        counts, arrived = self._counts, self._request.arrived
        failed = True
        try:
            began = time.monotonic()
            rows = await self._rows()
            now = time.monotonic()
            outputs = [self._output(name, rows) for name in self._outputs]
            counts.compute_output.ns += int((time.monotonic() - now) * 1e9)
            counts.finished(read=began - arrived, queued=0.0, computed=now - began)
            failed = False
        finally:
            (counts.fail if failed else counts.success).add(time.monotonic() - arrived)
        return InferResponse(self._model.name, self._version, self._request.id, outputs, final=True)

    async def parts(self) -> AsyncGenerator[InferResponse, None]:
        """The same, where responses may be several."""
        yield await self.whole()

    async def _rows(self) -> list[array[float]]:
        """The numbers of each text."""
        if not self._texts:
            return []
        model, texts, arrived = self._model, self._texts, self._request.arrived
        fields = ["text_input"] * len(texts)
        if model.kind == "reranker":
            pairs = Pairs([self._query] * len(texts), texts, ["query"] * len(texts), fields)
            scores, _ = await pairs.score(model, self._truncate, "", arrived)
            return [array("f", [score]) for score in scores]
        if model.kind == "classifier":
            inputs = await model.read(texts, fields, truncate=self._truncate)
        else:
            inputs = await read_texts(model, texts, fields, truncate=self._truncate)

        async def work() -> list[bytes]:
            return await model.engine.encode(inputs)

        tokens = sum(len(each.token_ids) for each in inputs)
        rows = [array("f", row) for row in await counted(model.observer, tokens, len(inputs), arrived, work)]
        if self._dimensions is None:
            return rows
        if self._dimensions > len(rows[0]):
            raise InvalidRequestError(
                f"'dimensions' is {self._dimensions}, and this model's vectors have {len(rows[0])}.",
                param="dimensions",
                code="invalid_value",
            )
        return [array("f", cut(row.tobytes(), self._dimensions)) for row in rows]

    def _output(self, name: str, rows: Sequence[array[float]]) -> Tensor:
        if name == "label":
            labels = self._model.engine.spec.labels
            likeliest: list[Value] = [labels[max(range(len(row)), key=row.__getitem__)].encode() for row in rows]
            return Tensor(name, "BYTES", (len(rows),), likeliest)
        values: list[Value] = [value for row in rows for value in row]
        shape = (len(rows),) if name == "score" else (len(rows), len(rows[0]) if rows else 0)
        return Tensor(name, "FP32", shape, values)


def _given(request: InferRequest, name: str) -> list[Value]:
    if name not in request.inputs:
        raise InvalidRequestError(f"The input '{name}' is missing.", param=name, code="missing_field")
    return request.inputs[name]


def _integer(request: InferRequest, name: str, *, low: int) -> int | None:
    """Raises InvalidRequestError for 0, and for less than `low`."""
    if name not in request.inputs:
        return None
    value = int(request.inputs[name][0])
    if value < low or value == 0:
        raise InvalidRequestError(f"'{name}' can't be {value}.", param=name, code="invalid_value")
    return value


def _text(name: str, value: Value) -> str:
    assert isinstance(value, bytes)  # the codec saw to it
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"'{name}' is not valid UTF-8 (byte {error.start}).", param=name, code="invalid_utf8"
        ) from error
