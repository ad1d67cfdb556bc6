"""What texts have to do with each other, two by two, by a reranker or an embedder."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError
from penstock.server.served_model import ModelInUse, wrong_kind
from penstock.server.vectors import check_count, cosine, counted, embed, encode, read_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.server.served_encoder import EncoderInUse


class Pairs:
    """Pairs of texts whose relation is wanted, and what each text is called in errors."""

    def __init__(self, ones: Sequence[str], others: Sequence[str], one_fields: Sequence[str], fields: Sequence[str]):
        check_count(len(others), fields[0].partition("[")[0])
        self._ones = ones
        self._others = others
        self._one_fields = one_fields
        self._fields = fields

    async def score(
        self, model: ModelInUse | EncoderInUse, truncate: int | None, request_id: str, arrived: float, priority: int = 0
    ) -> tuple[list[float], int]:
        """Each pair's score, and the tokens read: a reranker's own, an embedder's vectors' cosine similarity.

        Raises InvalidRequestError for a text that can't be read, and for a model that is neither.
        """
        if isinstance(model, ModelInUse) or model.kind == "classifier":
            raise wrong_kind(model, "This takes a reranker or an embedder.")
        if model.kind == "reranker":
            return await self._by_reranker(model, truncate, arrived, priority)
        return await self._by_embedder(model, truncate, request_id, arrived, priority)

    async def _by_reranker(
        self, model: EncoderInUse, truncate: int | None, arrived: float, priority: int
    ) -> tuple[list[float], int]:
        for text, field in zip(self._ones, self._one_fields, strict=True):
            if not text:
                raise InvalidRequestError(f"'{field}' is empty.", param=field, code="empty_input")
        pairs = list(zip(self._ones, self._others, strict=True))
        inputs = await model.read(pairs, self._fields, truncate=truncate)
        tokens = sum(len(each.token_ids) for each in inputs)

        async def work() -> list[bytes]:
            return await encode(model, inputs, priority)

        vectors = await counted(model.observer, tokens, len(inputs), arrived, work)
        return [array("f", vector)[0] for vector in vectors], tokens

    async def _by_embedder(
        self, model: EncoderInUse, truncate: int | None, request_id: str, arrived: float, priority: int
    ) -> tuple[list[float], int]:
        fields = dict(zip((*self._ones, *self._others), (*self._one_fields, *self._fields), strict=True))
        inputs = await read_texts(model, list(fields), list(fields.values()), truncate=truncate)  # each text once
        tokens = sum(len(each.token_ids) for each in inputs)

        async def work() -> list[bytes]:
            return await embed(model, inputs, request_id=request_id, priority=priority)

        vectors = dict(zip(fields, await counted(model.observer, tokens, len(inputs), arrived, work), strict=True))
        scores = [cosine(vectors[one], vectors[other]) for one, other in zip(self._ones, self._others, strict=True)]
        return scores, tokens
