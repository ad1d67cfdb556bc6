"""What every endpoint of one server shares, and the way that both kinds of generation go."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response

from penstock.core.errors import InvalidRequestError
from penstock.core.paths import data_dir
from penstock.server.hangup import while_connected
from penstock.server.sse import EventStream
from penstock.server.storage import Storage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from starlette.applications import Starlette
    from starlette.requests import Request

    from penstock.server.batches.files import FileStore
    from penstock.server.batches.runner import BatchRunner
    from penstock.server.generation import Choice, Generation
    from penstock.server.observe import Observer
    from penstock.server.registry import ModelRegistry
    from penstock.server.requests import GenerationRequest
    from penstock.server.responses_api.work import BackgroundResponses
    from penstock.server.settings import ServerSettings

_encode = msgspec.json.Encoder().encode


class Service:
    """One server over its models.

    Args:
        models: what is served.
        settings: limits and targets.
        observer: where requests are counted.
        inside: answers the requests that the server makes to itself.
    """

    def __init__(self, models: ModelRegistry, settings: ServerSettings, observer: Observer, inside: Starlette) -> None:
        self.models = models
        self.settings = settings
        self.observer = observer
        self.storage = Storage(settings.data_dir or data_dir())
        self.inside = inside

    # What is kept is of a few servers only: its code is imported at the first use.

    @cached_property
    def responses(self) -> BackgroundResponses:
        """Responses that are kept, and made in the background."""
        from penstock.server.responses_api.work import BackgroundResponses

        return BackgroundResponses(self.models, self.storage)

    @cached_property
    def files(self) -> FileStore:
        """Files of clients and of batches."""
        from penstock.server.batches.files import FileStore

        return FileStore(self.storage)

    @cached_property
    def batches(self) -> BatchRunner:
        """Batches that are kept and run."""
        from penstock.server.batches.runner import BatchRunner

        return BatchRunner(self.inside, self.models, self.storage, places=self.settings.batch_concurrency)

    async def resume(self) -> None:
        """Take up what servers that are gone have left unfinished."""
        if self.storage.exists:
            await self.responses.take_up()
            await self.batches.take_up()

    async def close(self) -> None:
        """Leave what is unfinished to the next server."""
        if "batches" in self.__dict__:
            await self.batches.close()
        if "responses" in self.__dict__:
            await self.responses.close()
        self.storage.close()

    async def answer(
        self,
        http: Request,
        generation: Generation,
        *,
        whole: Callable[[list[Choice]], msgspec.Struct],
        events: AsyncGenerator[bytes, None] | None,
        headers: Mapping[str, str],
    ) -> Response:
        """`events` as they come, or if there are none, the whole once it is there.

        Raises ClientGoneError if the client hangs up first; what it asked for has then been aborted.
        """
        if events is not None:
            return EventStream(events, headers=headers, keepalive_seconds=self.settings.keepalive_seconds)
        choices = await while_connected(http.receive, generation.collect())
        return json_response(whole(choices), headers)


def json_response(body: msgspec.Struct, headers: Mapping[str, str] | None = None) -> Response:
    """A success, as JSON."""
    return Response(_encode(body), headers=headers, media_type="application/json")


def check_stream_options(request: GenerationRequest) -> None:
    """Raises InvalidRequestError for options of a stream without a stream."""
    if request.stream_options is not None and not request.stream:
        raise InvalidRequestError(
            "'stream_options' is for streams; set 'stream' to true.", param="stream_options", code="invalid_value"
        )
