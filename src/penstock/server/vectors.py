"""Texts to vectors, whatever kind of model makes them; and what becomes of vectors, without numpy."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from array import array
from operator import mul
from typing import TYPE_CHECKING, TypeVar

from penstock.core.errors import InvalidRequestError, PenstockError
from penstock.engine.types import BACKGROUND_PRIORITY
from penstock.models.encoder_tokenizer import EncoderInput, too_long
from penstock.server.reading import MAX_INPUTS
from penstock.server.served_model import ModelInUse, wrong_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from penstock.server.observe import ModelObserver
    from penstock.server.served_encoder import EncoderInUse

T = TypeVar("T")
INLINE_CHARACTERS = 4096  # a shorter text takes less time than handing it to a thread and back


def check_count(count: int, field: str) -> None:
    """Raises InvalidRequestError for more texts than one request may have."""
    if count > MAX_INPUTS:
        raise InvalidRequestError(
            f"'{field}' makes {count} texts; one request may have {MAX_INPUTS}.", param=field, code="too_many_inputs"
        )


async def read_texts(
    model: ModelInUse | EncoderInUse,
    texts: Sequence[str],
    fields: Sequence[str],
    *,
    truncate: int | None,
    add_special_tokens: bool = True,
) -> list[EncoderInput]:
    """Token ids of texts that are to become vectors.

    Raises InvalidRequestError for one that is empty, too long or not Unicode, and for a model that makes no vectors.
    """
    if not isinstance(model, ModelInUse):
        if model.kind != "embedder":
            raise wrong_kind(model, "This takes an embedder or a generator.")
        prefix = model.engine.spec.prefix
        return await model.read(
            [prefix + text for text in texts], fields, truncate=truncate, add_special_tokens=add_special_tokens
        )
    most = model.context if truncate is None or truncate < 0 else min(truncate, model.context)
    encode = model.engine.tokenizer.encode

    def work() -> list[EncoderInput]:
        inputs = []
        for text, field in zip(texts, fields, strict=True):
            if not text:
                raise InvalidRequestError(f"'{field}' is empty.", param=field, code="empty_input")
            try:
                token_ids = encode(text, add_special_tokens=add_special_tokens)
            except InvalidRequestError as error:
                error.param = field
                raise
            if len(token_ids) > most:
                if truncate is None:
                    raise too_long(field, len(token_ids), most)
                token_ids = token_ids[:most]
            inputs.append(EncoderInput(token_ids, ()))
        return inputs

    return await model.prompts.aside(work, quick=sum(map(len, texts)) <= INLINE_CHARACTERS)


def read_tokens(
    model: ModelInUse | EncoderInUse, token_ids: Sequence[Sequence[int]], fields: Sequence[str], truncate: int | None
) -> list[EncoderInput]:
    """Token ids as a client gave them, special ones included. Raises InvalidRequestError as `read_texts` does."""
    vocabulary = model.engine.spec.vocab_size if isinstance(model, ModelInUse) else model.engine.vocab_size
    most = model.engine.info.max_model_len
    bound = most if truncate is None or truncate < 0 else min(truncate, most)
    inputs = []
    for ids, field in zip(token_ids, fields, strict=True):
        if not ids or bound < 1:
            raise InvalidRequestError(f"'{field}' has no tokens.", param=field, code="empty_input")
        if len(ids) > bound and truncate is None:
            raise too_long(field, len(ids), bound)
        if min(ids) < 0 or max(ids) >= vocabulary:
            raise InvalidRequestError(
                f"'{field}' holds a token that isn't there: ids go from 0 to {vocabulary - 1}.",
                param=field,
                code="invalid_token_id",
            )
        inputs.append(EncoderInput(ids[:bound], [0] * min(len(ids), bound)))
    return inputs


async def embed(
    model: ModelInUse | EncoderInUse,
    inputs: Sequence[EncoderInput],
    *,
    request_id: str,
    priority: int = 0,
    cache_salt: str = "",
) -> list[bytes]:
    """The vector of each input, float32 in the machine's byte order; a generator's has the length 1.

    Raises what the engine refuses them with, and EngineDeadError if it dies.
    """
    if not isinstance(model, ModelInUse):
        return await encode(model, inputs, priority)
    pooling = await model.pooling()

    async def vector(index: int, token_ids: list[int]) -> bytes:
        output = await model.engine.embed(
            token_ids,
            pooling,
            request_id=f"{request_id}-{index}",
            priority=priority,
            cache_salt=cache_salt,
            adapter=model.adapter,
        )
        return _finite(output.embedding or b"")

    tasks = [asyncio.create_task(vector(index, list(each.token_ids))) for index, each in enumerate(inputs)]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def encode(model: EncoderInUse, inputs: Sequence[EncoderInput], priority: int = 0) -> list[bytes]:
    """What an encoder makes of each input; a priority of the background gives way to every other."""
    return await model.engine.encode(inputs, background=priority >= BACKGROUND_PRIORITY)


def _finite(vector: bytes) -> bytes:
    values = array("f", vector)
    if not values or not all(map(math.isfinite, values)):
        raise PenstockError("The model's result is not a finite number.")
    return unit(values).tobytes()


def unit(values: array[float]) -> array[float]:
    """A vector scaled to the length 1; the null vector as it is."""
    length = math.sqrt(sum(map(mul, values, values)))
    return array("f", (value / length for value in values)) if length else values


def cut(vector: bytes, dimensions: int) -> bytes:
    """The first dimensions of a vector, scaled to the length 1: Matryoshka representations (Kusupati et al., 2022,
    https://arxiv.org/abs/2205.13147)."""
    return unit(array("f", vector)[:dimensions]).tobytes()


def cosine(one: bytes, other: bytes) -> float:
    """The similarity of two vectors, -1 to 1."""
    a, b = unit(array("f", one)), unit(array("f", other))
    similarity: float = sum(map(mul, a, b))
    return similarity


def numbers(vector: bytes) -> list[float]:
    """A vector as numbers."""
    return array("f", vector).tolist()


def little_endian(vector: bytes) -> bytes:
    """A vector as clients expect its bytes."""
    if sys.byteorder == "little":
        return vector
    values = array("f", vector)
    values.byteswap()
    return values.tobytes()


async def counted(
    observer: ModelObserver, tokens: int, texts: int, arrived: float, work: Callable[[], Coroutine[None, None, T]]
) -> T:
    """The result of `work`, which reads so many tokens, with the request's metrics."""
    observer.prompt_tokens.inc(tokens)
    observer.prompt_length.observe(tokens)
    reason = "abort"
    try:
        result = await work()
        reason = "stop"
    except PenstockError:
        reason = "error"
        raise
    finally:
        observer.finished[reason].inc(texts)
    observer.end_to_end.observe(time.monotonic() - arrived)
    return result
