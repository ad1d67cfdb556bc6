"""Fields of /v1/embeddings, /rerank, /score and /classify, and of what they answer."""

from __future__ import annotations

from penstock.server import reading
from penstock.server.manifest.api import Api, Part
from penstock.server.manifest.field import VLLM, Field, Manifest, absent, no_effect, refused, supported
from penstock.server.manifest.references import openai_parameter, openai_property, vllm

_CUT = "-1 cuts at what the model reads; the end goes, special tokens stay; too long is refused without it"
_OF_MESSAGES = "belongs to `messages`"
_MODEL = "an embedder or a generator; the first served model if absent"
_SCORES = {
    **no_effect(
        priority="texts are taken in turn",
        request_id="the server makes its own",
        user="",
        chat_template_kwargs="texts are read without a template",
    ),
    "cache_salt": Field("refused", "/v1/embeddings takes it"),
    "truncation_side": Field("refused", "the end is cut", ("right",)),
    "padding": Field("refused", "it changes no result", ("do_not_pad",)),
    "activation": Field("refused", "the model's files say what turns logits into scores"),
    "use_activation": Field("refused", "the model's files say what turns logits into scores", (True,)),
    "mm_processor_kwargs": Field("refused", "only text goes in", ({},)),
}

EMBEDDINGS: Manifest = {
    **supported(
        model=_MODEL,
        input="a text or up to 2048, a list of token ids or several",
        encoding_format="`float`, the default, or `base64`: float32, little-endian",
        dimensions="the vector is cut to so many and scaled to the length 1",
    ),
    **supported(
        VLLM,
        truncate_prompt_tokens=_CUT,
        add_special_tokens="default true",
        priority="a generator's; lower runs first; of an encoder 1048576 or more is the background",
        cache_salt="a generator's: requests share cached prefixes only under the same salt",
    ),
    **no_effect(user=""),
    **no_effect(
        VLLM,
        request_id="the server makes its own",
        add_generation_prompt=_OF_MESSAGES,
        continue_final_message=_OF_MESSAGES,
        chat_template_kwargs=_OF_MESSAGES,
        media_io_kwargs=_OF_MESSAGES,
    ),
    "truncation_side": Field("refused", "the end is cut", ("right",), VLLM),
    "padding": Field("refused", "it changes no result", ("do_not_pad",), VLLM),
    **refused(VLLM, messages="send `input`", chat_template="send `input`"),
    "normalize": Field("refused", "the model's files say it", (True,), VLLM),
    "use_activation": Field("refused", "the model's files say it", (True,), VLLM),
    "embed_dtype": Field("refused", "vectors are float32", ("float32",), VLLM),
    "endianness": Field("refused", "bytes are little-endian", ("native", "little"), VLLM),
    "mm_processor_kwargs": Field("refused", "only text goes in", ({},), VLLM),
}
_PAIRS: Manifest = {
    **_SCORES,
    "instruction": Field("refused", "put it into the query"),
    "max_tokens_per_query": Field("refused", "use `truncate_prompt_tokens`", (0,)),
}
RERANK: Manifest = {
    **supported(
        model="a reranker, or an embedder, whose vectors' cosine similarity is the score",
        query="",
        documents="up to 2048 texts, or objects with `text`",
        top_n="so many of the best; 0 or none is all",
        return_documents="default true",
        truncate_prompt_tokens=_CUT,
        max_tokens_per_doc="each document is cut after so many tokens, and at what the model reads; 0 is no limit",
    ),
    **_PAIRS,
    "max_chunks_per_doc": Field("refused", "documents are not cut into chunks", (1,)),
    "rank_fields": Field("refused", "a document's `text` is ranked", (["text"],)),
}
SCORE: Manifest = {
    **supported(
        model="as for /rerank",
        text_1="a text, or as many as `text_2`",
        text_2="a text or up to 2048",
        queries="another name of `text_1`",
        documents="another name of `text_2`",
        truncate_prompt_tokens=_CUT,
    ),
    **_PAIRS,
    "max_tokens_per_doc": Field("refused", "use `truncate_prompt_tokens`", (0,)),
    "items": Field("refused", "use `documents`"),
    "data_1": Field("refused", "use `text_1`"),
    "data_2": Field("refused", "use `text_2`"),
}
CLASSIFY: Manifest = {
    **supported(
        model="a classifier",
        input="a text or up to 2048",
        truncate_prompt_tokens=_CUT,
        add_special_tokens="default true",
    ),
    **_SCORES,
    **no_effect(
        add_generation_prompt=_OF_MESSAGES,
        continue_final_message=_OF_MESSAGES,
        media_io_kwargs=_OF_MESSAGES,
    ),
    "messages": Field("refused", "send `input`"),
    "chat_template": Field("refused", "send `input`"),
}

_SCORE_API = {"": vllm("openai_compatible_server/#score-api")}
_RERANK_API = {"": vllm("openai_compatible_server/#re-rank-api")}
_CLASSIFY_API = {"": vllm("openai_compatible_server/#classification-api")}
_EMBEDDINGS_API = vllm("openai_compatible_server/#embeddings-api")

READING_APIS = (
    Api(
        "embeddings",
        "POST /v1/embeddings",
        EMBEDDINGS,
        {"": openai_parameter("embeddings", "embeddings"), VLLM: _EMBEDDINGS_API},
    ),
    Api("rerank", "POST /rerank", RERANK, _RERANK_API),
    Api("score", "POST /score", SCORE, _SCORE_API),
    Api("classify", "POST /classify", CLASSIFY, _CLASSIFY_API),
)


def _embeddings(model: str, *inside: str) -> dict[str, str]:
    return {"": openai_property("embeddings", "embeddings", model, *inside), VLLM: _EMBEDDINGS_API}


READING_PARTS = (
    Part(
        reading.Embeddings,
        {
            **supported(object="", model="the name that was asked for", data="in the order of the input", usage=""),
            **supported(VLLM, id="also in the header `x-request-id`", created=""),
        },
        _embeddings("create_embedding_response"),
    ),
    Part(
        reading.Embedding,
        supported(object="", index="", embedding="of the length 1, unless the model's files say otherwise"),
        _embeddings("embedding"),
    ),
    Part(
        reading.ReadingUsage,
        {
            **supported(prompt_tokens="special ones included", total_tokens="the same"),
            **absent(VLLM, completion_tokens="there are none", prompt_tokens_details="nothing is cached"),
        },
        _embeddings("create_embedding_response", "usage"),
    ),
    Part(reading.Document, {**supported(text=""), **no_effect(multi_modal="only text goes in")}, _RERANK_API),
    Part(
        reading.Ranking,
        supported(id="", model="", usage="", results="the most relevant first"),
        _RERANK_API,
    ),
    Part(
        reading.RankedDocument,
        supported(index="in the request", relevance_score="", document="unless `return_documents` is false"),
        _RERANK_API,
    ),
    Part(reading.Scores, supported(id="", object="", created="", model="", data="", usage=""), _SCORE_API),
    Part(reading.Score, supported(index="", object="", score=""), _SCORE_API),
    Part(reading.Classifications, supported(id="", object="", created="", model="", data="", usage=""), _CLASSIFY_API),
    Part(
        reading.Classification,
        supported(index="", label="the likeliest class", probs="of each class", num_classes=""),
        _CLASSIFY_API,
    ),
)
