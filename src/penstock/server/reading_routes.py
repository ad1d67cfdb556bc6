"""The endpoints that read texts and write none."""

from __future__ import annotations

from penstock.server import reading, scoring
from penstock.server.embeddings import embeddings
from penstock.server.endpoint import GENERATION_ERRORS, Endpoint

ENDPOINTS = (
    Endpoint(
        "/v1/embeddings",
        "POST",
        embeddings,
        "Vectors of texts",
        takes=reading.EmbeddingRequest,
        gives=reading.Embeddings,
        errors=GENERATION_ERRORS,
    ),
    Endpoint(
        "/rerank",
        "POST",
        scoring.rerank,
        "Order documents by a query",
        takes=reading.RerankRequest,
        gives=reading.Ranking,
        errors=GENERATION_ERRORS,
        aliases=("/v1/rerank", "/v2/rerank"),
    ),
    Endpoint(
        "/score",
        "POST",
        scoring.score,
        "How much two texts have to do with each other",
        takes=reading.ScoreRequest,
        gives=reading.Scores,
        errors=GENERATION_ERRORS,
        aliases=("/v1/score",),
    ),
    Endpoint(
        "/classify",
        "POST",
        scoring.classify,
        "Classes of texts",
        takes=reading.ClassifyRequest,
        gives=reading.Classifications,
        errors=GENERATION_ERRORS,
    ),
)
