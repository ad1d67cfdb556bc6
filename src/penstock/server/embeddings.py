"""POST /v1/embeddings."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError
from penstock.server.body import BodyReader
from penstock.server.hangup import while_connected
from penstock.server.manifest.reading import EMBEDDINGS
from penstock.server.reading import Embedding, EmbeddingRequest, Embeddings, ReadingUsage
from penstock.server.service import json_response
from penstock.server.vectors import check_count, counted, cut, embed, little_endian, numbers, read_texts, read_tokens

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from penstock.models.encoder_tokenizer import EncoderInput
    from penstock.server.served_encoder import EncoderInUse
    from penstock.server.served_model import ModelInUse
    from penstock.server.service import Service

FLOAT_BYTES = 4

_body = BodyReader(EmbeddingRequest, EMBEDDINGS)


async def embeddings(http: Request) -> Response:
    """The vector of one text or several."""
    arrived = time.monotonic()
    service: Service = http.app.state.service
    request, headers = await _body.read(http, service.settings.max_body_bytes)
    model = await service.models.use_any(request.model)
    _check_dimensions(request.dimensions, model.engine.spec.hidden_size or request.dimensions)
    inputs = await _read(request, model)
    head = model.head("embd")
    tokens = sum(len(each.token_ids) for each in inputs)

    async def work() -> list[bytes]:
        return await embed(
            model, inputs, request_id=head.id, priority=request.priority or 0, cache_salt=request.cache_salt or ""
        )

    vectors = await while_connected(http.receive, counted(model.observer, tokens, len(inputs), arrived, work))
    _check_dimensions(request.dimensions, len(vectors[0]) // FLOAT_BYTES)
    if request.dimensions is not None:
        vectors = [cut(vector, request.dimensions) for vector in vectors]
    form = little_endian if request.encoding_format == "base64" else numbers
    answer = Embeddings(
        id=head.id,
        created=head.created,
        model=head.model,
        data=[Embedding(index=index, embedding=form(vector)) for index, vector in enumerate(vectors)],
        usage=ReadingUsage(tokens, tokens),
    )
    return json_response(answer, {"x-request-id": head.id, **headers})


async def _read(request: EmbeddingRequest, model: ModelInUse | EncoderInUse) -> list[EncoderInput]:
    given = request.input
    items = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    check_count(len(items), "input")
    fields = ["input"] if items is not given else [f"input[{index}]" for index in range(len(items))]
    texts = [item for item in items if isinstance(item, str)]
    if len(texts) == len(items):
        return await read_texts(
            model,
            texts,
            fields,
            truncate=request.truncate_prompt_tokens,
            add_special_tokens=request.add_special_tokens is not False,
        )
    lists = [[token for token in item if isinstance(token, int)] for item in items if isinstance(item, list)]
    if len(lists) != len(items) or any(len(ids) != len(item) for ids, item in zip(lists, items, strict=True)):  # type: ignore[arg-type]  # strings were ruled out by the count
        raise InvalidRequestError(
            "'input' mixes texts and token ids; send one text, a list of texts, a list of token ids, or a list of such "
            "lists.",
            param="input",
            code="invalid_value",
        )
    await read_texts(model, [], [], truncate=None)  # refuses a model that makes no vectors
    return read_tokens(model, lists, fields, request.truncate_prompt_tokens)


def _check_dimensions(wanted: int | None, size: int | None) -> None:
    """Raises InvalidRequestError for more numbers than vectors have; of some graphs that shows only in the result."""
    if wanted is not None and size is not None and wanted > size:
        raise InvalidRequestError(
            f"'dimensions' is {wanted}, and this model's vectors have {size}.",
            param="dimensions",
            code="invalid_value",
        )
