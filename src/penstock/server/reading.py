"""The bodies of /v1/embeddings, /rerank, /score and /classify: what clients ask of models that read, and get.

Shapes are OpenAI's, Cohere's and Jina's as vLLM has them; fields beyond them are vLLM's.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from penstock.server.requests import INT32

MAX_INPUTS = 2048  # of one request, OpenAI's bound

Truncation = Annotated[int, Meta(ge=-1, le=INT32)]
# One text or several, one list of token ids or several. A union of array types has to be told apart afterwards.
Input = str | Annotated[list[str | int | list[int]], Meta(min_length=1)]
Texts = str | Annotated[list[str], Meta(min_length=1)]


class ReadingRequest(Struct, kw_only=True):
    """What all of them have in common."""

    model: str | None = None
    truncate_prompt_tokens: Truncation | None = None


class EmbeddingRequest(ReadingRequest, kw_only=True):
    """Body of POST /v1/embeddings."""

    input: Input
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=INT32)] | None = None
    add_special_tokens: bool | None = None
    priority: Annotated[int, Meta(ge=-INT32, le=INT32)] | None = None
    cache_salt: Annotated[str, Meta(min_length=1, max_length=256)] | None = None


class Document(Struct, kw_only=True, frozen=True):
    """One document as an object."""

    text: str


class RerankRequest(ReadingRequest, kw_only=True):
    """Body of POST /v1/rerank."""

    query: str
    documents: Annotated[list[str | Document], Meta(min_length=1)]
    top_n: Annotated[int, Meta(ge=0, le=INT32)] | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: Annotated[int, Meta(ge=0, le=INT32)] | None = None


class ScoreRequest(ReadingRequest, kw_only=True):
    """Body of POST /score: `text_1` and `text_2`, or `queries` and `documents`."""

    text_1: Texts | None = None
    text_2: Texts | None = None
    queries: Texts | None = None
    documents: Texts | None = None


class ClassifyRequest(ReadingRequest, kw_only=True):
    """Body of POST /classify."""

    input: Texts
    add_special_tokens: bool | None = None


class ReadingUsage(Struct, frozen=True):
    """Tokens that were read, special ones included."""

    prompt_tokens: int
    total_tokens: int


class Embedding(Struct, frozen=True, kw_only=True):
    """One text's vector: numbers, or float32 in little-endian order as base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | bytes


class Embeddings(Struct, frozen=True, kw_only=True):
    """Answer of /v1/embeddings, in the order of the input."""

    object: Literal["list"] = "list"
    id: str
    created: int
    model: str
    data: list[Embedding]
    usage: ReadingUsage


class RankedDocument(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A document, its place in the request and how much it has to do with the query."""

    index: int
    relevance_score: float
    document: Document | None = None


class Ranking(Struct, frozen=True, kw_only=True):
    """Answer of /v1/rerank, the most relevant document first."""

    id: str
    model: str
    usage: ReadingUsage
    results: list[RankedDocument]


class Score(Struct, frozen=True, kw_only=True):
    """One pair's score."""

    object: Literal["score"] = "score"
    index: int
    score: float


class Scores(Struct, frozen=True, kw_only=True):
    """Answer of /score, in the order of the pairs."""

    object: Literal["list"] = "list"
    id: str
    created: int
    model: str
    data: list[Score]
    usage: ReadingUsage


class Classification(Struct, frozen=True, kw_only=True):
    """One text's classes: the likeliest, and the probability of each."""

    index: int
    label: str
    probs: list[float]
    num_classes: int


class Classifications(Struct, frozen=True, kw_only=True):
    """Answer of /classify, in the order of the input."""

    object: Literal["list"] = "list"
    id: str
    created: int
    model: str
    data: list[Classification]
    usage: ReadingUsage
