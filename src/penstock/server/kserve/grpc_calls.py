"""What answers each method of inference.GRPCInferenceService."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from penstock.core.errors import NotFoundError, PenstockError
from penstock.server.errors import internal_error
from penstock.server.kserve import inference_pb2 as pb
from penstock.server.kserve.grpc_messages import (
    as_message,
    read_request,
    write_response,
    write_stream_error,
    write_stream_response,
)
from penstock.server.kserve.health_pb2 import HealthCheckRequest, HealthCheckResponse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from penstock.server.kserve.protocol import KServe
    from penstock.server.kserve.text_request import InferRequest

    Write = Callable[[object], Awaitable[None]]


MAX_ON_A_STREAM = 1024  # requests at once; a client that reads no answers waits then, and its next ones with it
SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name


class Calls:
    """The service's methods, from message to message; they raise the project's errors.

    Args:
        kserve: what is asked.
    """

    def __init__(self, kserve: KServe) -> None:
        self._kserve = kserve

    def table(self) -> dict[str, Callable[..., Awaitable[Any]]]:
        """All of them, by the protocol's names."""
        return {
            "ServerLive": self.live,
            "ServerReady": self.ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelConfig": self.model_config,
            "ModelStatistics": self.statistics,
            "RepositoryIndex": self.index,
            "RepositoryModelLoad": self.load,
            "RepositoryModelUnload": self.unload,
            "ModelInfer": self.infer,
            "ModelStreamInfer": self.stream_infer,
        }

    async def check(self, request: HealthCheckRequest) -> HealthCheckResponse:
        """Whether the service that is asked about, or the server, would take a request now. Raises NotFoundError."""
        if request.service not in {"", SERVICE}:
            raise NotFoundError(f"There is no service {request.service[:256]!r} here.", param="service")
        return HealthCheckResponse(status="SERVING" if self._kserve.ready else "NOT_SERVING")

    async def live(self, _request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        """True."""
        return pb.ServerLiveResponse(live=True)

    async def ready(self, _request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        """Whether every model would take a request now."""
        return pb.ServerReadyResponse(ready=self._kserve.ready)

    async def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        """Whether this model would."""
        try:
            return pb.ModelReadyResponse(ready=self._kserve.model_ready(request.name, request.version))
        except NotFoundError:
            return pb.ModelReadyResponse(ready=False)

    async def server_metadata(self, _request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        """What the server is."""
        return as_message(self._kserve.server_metadata(), pb.ServerMetadataResponse)

    async def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        """What goes into a model and what comes out."""
        return as_message(self._kserve.model_metadata(request.name, request.version), pb.ModelMetadataResponse)

    async def model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        """A model's configuration."""
        config = as_message(self._kserve.model_config(request.name, request.version), pb.ModelConfig)
        return pb.ModelConfigResponse(config=config)

    async def statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        """Of one model, or of all."""
        return as_message(self._kserve.statistics(request.name, request.version), pb.ModelStatisticsResponse)

    async def index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """The models there are."""
        return as_message({"models": self._kserve.index(ready=request.ready)}, pb.RepositoryIndexResponse)

    async def load(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        """Load a model."""
        await self._kserve.load(request.model_name, request.parameters)
        return pb.RepositoryModelLoadResponse()

    async def unload(self, request: pb.RepositoryModelUnloadRequest) -> pb.RepositoryModelUnloadResponse:
        """Unload a model."""
        await self._kserve.unload(request.model_name, request.parameters)
        return pb.RepositoryModelUnloadResponse()

    async def infer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        """Tensors in, tensors out."""
        asked = self._read(request, time.monotonic())
        answer = await self._kserve.infer(asked, streams_by="ModelStreamInfer")
        return write_response(await answer.whole())

    async def stream_infer(self, requests: AsyncIterator[pb.ModelInferRequest], write: Write, *, strict: bool) -> None:
        """Requests as they come, and their responses as they come, each with its request's id."""
        writing = asyncio.Lock()  # a stream takes one message at a time
        places = asyncio.Semaphore(MAX_ON_A_STREAM)

        async def answer_one(request: pb.ModelInferRequest, arrived: float) -> None:
            try:
                async with aclosing(self._responses(request, arrived, strict=strict)) as responses:
                    async for message in responses:
                        async with writing:
                            await write(message)
            finally:
                places.release()

        try:
            async with asyncio.TaskGroup() as running:
                async for request in requests:
                    running.create_task(answer_one(request, time.monotonic()))
                    await places.acquire()
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None

    def _read(self, request: pb.ModelInferRequest, arrived: float) -> InferRequest:
        signature = self._kserve.signature(request.model_name, request.model_version)
        return read_request(request, arrived=arrived, signature=signature)

    async def _responses(
        self, request: pb.ModelInferRequest, arrived: float, *, strict: bool
    ) -> AsyncGenerator[pb.ModelStreamInferResponse, None]:
        """One request's responses on a stream that others share; unless `strict`, its failure is one of them."""
        try:
            answer = await self._kserve.infer(self._read(request, arrived))
            if not answer.stream:
                yield write_stream_response(await answer.whole())
                return
            async with aclosing(answer.parts()) as parts:
                async for response in parts:
                    yield write_stream_response(response)
        except PenstockError as error:
            if strict:
                raise
            yield write_stream_error(request.id, error.message)
        except Exception as cause:
            if strict:
                raise
            yield write_stream_error(request.id, internal_error(cause).message)
