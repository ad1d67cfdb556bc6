"""An encoder as requests meet it: texts in, vectors out."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from penstock.models.encoder_tokenizer import INLINE_CHARACTERS
from penstock.server.served_model import InUse, Served

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.engine.encoders.client import EncoderClient
    from penstock.models.encoder_tokenizer import EncoderInput
    from penstock.server.observe import ModelObserver

T = TypeVar("T")


class ServedEncoder(Served["EncoderClient"]):
    """A model that reads texts whole; arguments as for `Served`."""

    def __init__(self, engine: EncoderClient, *, name: str, version: str, observer: ModelObserver) -> None:
        super().__init__(engine, name=name, version=version, observer=observer)
        self.threads = ThreadPoolExecutor(2, thread_name_prefix="tokenize")

    def use(self, name: str) -> EncoderInUse:
        """The model for one request, under the name that it was asked for by."""
        return EncoderInUse(self, name)

    async def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)
        await super().close()


class EncoderInUse(InUse["EncoderClient"]):
    """An encoder in the hands of one request."""

    def __init__(self, served: ServedEncoder, name: str) -> None:
        super().__init__(served, name)
        self.kind = served.engine.spec.kind
        self._threads = served.threads

    async def read(
        self,
        texts: Sequence[str | tuple[str, str]],
        fields: Sequence[str],
        *,
        truncate: int | None = None,
        add_special_tokens: bool = True,
    ) -> list[EncoderInput]:
        """Token ids of texts or pairs of texts, as `EncoderTokenizer.encode`; many or long ones in a thread."""

        def work() -> list[EncoderInput]:
            return self.engine.tokenizer.encode(
                texts, fields=fields, truncate=truncate, add_special_tokens=add_special_tokens
            )

        size = sum(len(text) if isinstance(text, str) else len(text[0]) + len(text[1]) for text in texts)
        return await self._aside(work, size)

    async def read_pieces(self, text: str, field: str) -> list[EncoderInput]:
        """Token ids of a text of any length, as `EncoderTokenizer.encode_pieces`."""
        return await self._aside(lambda: self.engine.tokenizer.encode_pieces(text, field), len(text))

    async def heads(self, texts: Sequence[str], most: int) -> list[str]:
        """The beginning of each text, as `EncoderTokenizer.heads`."""
        return await self._aside(lambda: self.engine.tokenizer.heads(texts, most), sum(map(len, texts)))

    async def _aside(self, work: Callable[[], list[T]], characters: int) -> list[T]:
        if characters <= INLINE_CHARACTERS:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
