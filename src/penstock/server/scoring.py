"""POST /v1/rerank, /score and /classify: what texts have to do with each other, and what they are."""

from __future__ import annotations

import time
from array import array
from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError
from penstock.server.body import BodyReader
from penstock.server.hangup import while_connected
from penstock.server.manifest.reading import CLASSIFY, RERANK, SCORE
from penstock.server.pairs import Pairs
from penstock.server.reading import (
    Classification,
    Classifications,
    ClassifyRequest,
    Document,
    RankedDocument,
    Ranking,
    ReadingUsage,
    RerankRequest,
    Score,
    ScoreRequest,
    Scores,
)
from penstock.server.served_model import ModelInUse, wrong_kind
from penstock.server.service import json_response
from penstock.server.vectors import check_count, counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from penstock.server.service import Service

_rerank_body = BodyReader(RerankRequest, RERANK)
_score_body = BodyReader(ScoreRequest, SCORE)
_classify_body = BodyReader(ClassifyRequest, CLASSIFY)


async def rerank(http: Request) -> Response:
    """Order documents by what they have to do with a query."""
    arrived = time.monotonic()
    service: Service = http.app.state.service
    request, headers = await _rerank_body.read(http, service.settings.max_body_bytes)
    model = await service.models.use_any(request.model)
    texts = [each if isinstance(each, str) else each.text for each in request.documents]
    fields = [f"documents[{index}]" for index in range(len(texts))]
    head = model.head("rerank")
    truncate, read = request.truncate_prompt_tokens, texts
    if request.max_tokens_per_doc and not isinstance(model, ModelInUse):
        check_count(len(texts), "documents")
        read = await model.heads(texts, request.max_tokens_per_doc)
        truncate = -1 if truncate is None else truncate
    pairs = Pairs([request.query] * len(texts), read, ["query"] * len(texts), fields)
    scores, tokens = await while_connected(http.receive, pairs.score(model, truncate, head.id, arrived))
    order = sorted(range(len(texts)), key=lambda index: -scores[index])
    documents = request.return_documents is not False
    answer = Ranking(
        id=head.id,
        model=head.model,
        usage=ReadingUsage(tokens, tokens),
        results=[
            RankedDocument(
                index=index, relevance_score=scores[index], document=Document(text=texts[index]) if documents else None
            )
            for index in order[: request.top_n or len(order)]
        ],
    )
    return json_response(answer, {"x-request-id": head.id, **headers})


async def score(http: Request) -> Response:
    """How much the texts of each pair have to do with each other."""
    arrived = time.monotonic()
    service: Service = http.app.state.service
    request, headers = await _score_body.read(http, service.settings.max_body_bytes)
    model = await service.models.use_any(request.model)
    pairs = _pairs_of(request)
    head = model.head("score")
    scores, tokens = await while_connected(
        http.receive, pairs.score(model, request.truncate_prompt_tokens, head.id, arrived)
    )
    answer = Scores(
        id=head.id,
        created=head.created,
        model=head.model,
        data=[Score(index=index, score=value) for index, value in enumerate(scores)],
        usage=ReadingUsage(tokens, tokens),
    )
    return json_response(answer, {"x-request-id": head.id, **headers})


async def classify(http: Request) -> Response:
    """The class of one text or several."""
    arrived = time.monotonic()
    service: Service = http.app.state.service
    request, headers = await _classify_body.read(http, service.settings.max_body_bytes)
    model = await service.models.use_any(request.model)
    if isinstance(model, ModelInUse) or model.kind != "classifier":
        raise wrong_kind(model, "This takes a classifier.")
    encoder = model
    texts, fields = _listed(request.input, "input")
    check_count(len(texts), "input")
    inputs = await encoder.read(
        texts,
        fields,
        truncate=request.truncate_prompt_tokens,
        add_special_tokens=request.add_special_tokens is not False,
    )
    head = model.head("classify")
    tokens = sum(len(each.token_ids) for each in inputs)

    async def work() -> list[bytes]:
        return await encoder.engine.encode(inputs)

    vectors = await while_connected(http.receive, counted(model.observer, tokens, len(inputs), arrived, work))
    labels = encoder.engine.spec.labels
    answer = Classifications(
        id=head.id,
        created=head.created,
        model=head.model,
        data=[_classification(index, array("f", vector).tolist(), labels) for index, vector in enumerate(vectors)],
        usage=ReadingUsage(tokens, tokens),
    )
    return json_response(answer, {"x-request-id": head.id, **headers})


def _classification(index: int, probabilities: list[float], labels: Sequence[str]) -> Classification:
    best = max(range(len(probabilities)), key=probabilities.__getitem__)
    label = labels[best] if best < len(labels) else f"LABEL_{best}"
    return Classification(index=index, label=label, probs=probabilities, num_classes=len(probabilities))


def _pairs_of(request: ScoreRequest) -> Pairs:
    """One text with each of several, or the same number of both, pair by pair."""
    old, new = (request.text_1, request.text_2), (request.queries, request.documents)
    given, names = (old, ("text_1", "text_2")) if any(old) or not any(new) else (new, ("queries", "documents"))
    if any(old) and any(new):
        raise InvalidRequestError(
            "Send 'text_1' and 'text_2' or 'queries' and 'documents', not both.", param="queries", code="invalid_value"
        )
    for value, name in zip(given, names, strict=True):
        if value is None or value == "":
            raise InvalidRequestError(f"'{name}' is missing or empty.", param=name, code="missing_field")
    ones, one_fields = _listed(given[0] or "", names[0])
    others, fields = _listed(given[1] or "", names[1])
    if len(ones) == 1:
        ones, one_fields = ones * len(others), one_fields * len(others)
    if len(ones) != len(others):
        raise InvalidRequestError(
            f"'{names[0]}' has {len(ones)} texts and '{names[1]}' {len(others)}: send one text with each of several, "
            "or as many of both.",
            param=names[1],
            code="invalid_value",
        )
    return Pairs(ones, others, one_fields, fields)


def _listed(texts: str | list[str], name: str) -> tuple[list[str], list[str]]:
    """The texts, and what each is called in errors."""
    if isinstance(texts, str):
        return [texts], [name]
    return texts, [f"{name}[{index}]" for index in range(len(texts))]
