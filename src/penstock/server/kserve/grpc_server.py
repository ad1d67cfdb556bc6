"""The protocol over gRPC: inference.GRPCInferenceService, in the event loop that serves HTTP.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_grpc.md. Messages are in
the clear, as over HTTP; what faces other machines needs an API key, in the call's metadata as `authorization`. Which
name the server was reached by is not looked at, as it is for HTTP: pages in a browser can't make such calls.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from penstock.core.errors import ConfigError, InvalidRequestError, PenstockError
from penstock.server.errors import internal_error
from penstock.server.guards import KeyRing
from penstock.server.kserve import health_pb2, inference_pb2, refused
from penstock.server.kserve.grpc_calls import SERVICE, Calls

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
    from types import ModuleType

    from penstock.server.kserve.protocol import KServe
    from penstock.server.observe import Observer
    from penstock.server.settings import ServerSettings

    Answer = Callable[..., Awaitable[Any]]
    Context = Any  # gRPC's ServicerContext, which has no types

PROBES = frozenset({f"/{SERVICE}/ServerLive", f"/{SERVICE}/ServerReady", "/grpc.health.v1.Health/Check"})
_ERRORS_AS_STATUS = "triton_grpc_error"  # metadata with which a client has a stream end with its first error

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}


class GrpcListener:
    """A gRPC server whose port is taken, and which answers once it is given what to ask.

    Args:
        settings: where to listen, whom to let in, and limits.

    Raises ConfigError if the port can't be had.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._service = _Methods(settings)
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),  # or two servers would share a port, and each its requests
                ("grpc.max_receive_message_length", settings.max_body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", settings.max_header_bytes),
                ("grpc.absolute_max_metadata_size", settings.max_header_bytes),
            ]
        )
        self._server.add_generic_rpc_handlers((self._service,))
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            self.port: int = self._server.add_insecure_port(f"{host}:{settings.grpc_port}")
        except RuntimeError as error:
            raise ConfigError(
                f"Port {settings.grpc_port} of {settings.host} can't be listened on for gRPC; it may be in use. "
                "Choose another with --grpc-port, or 0 for a free one.",
                param="grpc_port",
            ) from error
        self.url = f"grpc://{host}:{self.port}"

    async def start(self, kserve: KServe, observer: Observer) -> None:
        """Answer calls from now on."""
        self._service.open(kserve, observer)
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Take no more calls; those running get `grace` seconds, and streams take no more requests."""
        self._service.close()
        await self._server.stop(grace)


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]  # gRPC is not followed by the type checker
    """Finds what answers a call, and puts the same frame around everything that does."""

    def __init__(self, settings: ServerSettings) -> None:
        self._keys = KeyRing(settings.api_keys) if settings.api_keys else None
        self._open = PROBES if settings.public_probes else frozenset()
        self._methods: dict[str, grpc.RpcMethodHandler] = {}
        self._observer: Observer
        self._closing = asyncio.Event()

    def open(self, kserve: KServe, observer: Observer) -> None:
        """From now on calls are answered."""
        self._observer = observer
        calls = Calls(kserve)
        self._add(inference_pb2, "GRPCInferenceService", calls.table())
        self._add(health_pb2, "Health", {"Check": calls.check})
        for name, why in refused.METHODS.items():
            self._methods[f"/{SERVICE}/{name}"] = grpc.unary_unary_rpc_method_handler(self._refuse(name, why))

    def close(self) -> None:
        """Streams end once the requests they have are answered: clients leave idle ones open for good."""
        self._closing.set()

    def _add(self, messages: ModuleType, service: str, answers: Mapping[str, Answer]) -> None:
        for method in messages.DESCRIPTOR.services_by_name[service].methods:
            name, takes = method.name, getattr(messages, method.input_type.name)
            frame, handler = self._unary, grpc.unary_unary_rpc_method_handler
            if method.client_streaming:
                frame, handler = self._stream, grpc.stream_stream_rpc_method_handler
            path = f"/{method.containing_service.full_name}/{name}"
            self._methods[path] = handler(  # requests stay bytes here: gRPC would call a broken one its own failure
                frame(name, takes, answers[name]),
                response_serializer=getattr(messages, method.output_type.name).SerializeToString,
            )

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """gRPC's question for what answers; None is UNIMPLEMENTED."""
        handler = self._methods.get(call.method)
        if handler is None or self._keys is None or call.method in self._open:
            return handler
        given = dict(call.invocation_metadata).get("authorization")
        problem = self._keys.problem(given if isinstance(given, str) else None)
        if problem is None:
            return handler

        async def refuse(_request: object, context: Context) -> None:
            await self._abort(call.method.rpartition("/")[2], context, problem)

        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(refuse)
        return grpc.unary_unary_rpc_method_handler(refuse)

    def _unary(self, name: str, takes: Any, answer: Answer) -> Answer:
        async def call(request: bytes, context: Context) -> object:
            async with self._framed(name, context):
                return await answer(_parse(takes, request))

        return call

    def _stream(self, name: str, takes: Any, answer: Answer) -> Answer:
        async def call(requests: AsyncIterator[bytes], context: Context) -> None:
            strict = dict(context.invocation_metadata() or ()).get(_ERRORS_AS_STATUS) == "true"
            async with self._framed(name, context):
                messages = (_parse(takes, request) async for request in _until(self._closing, requests))
                await answer(messages, context.write, strict=strict)

        return call

    @asynccontextmanager
    async def _framed(self, name: str, context: Context) -> AsyncGenerator[None, None]:
        """Errors become statuses, and every call is counted by its own."""
        try:
            yield
        except PenstockError as error:
            await self._abort(name, context, error)
        except asyncio.CancelledError:
            self._count(name, grpc.StatusCode.CANCELLED)
            raise
        except Exception as cause:  # noqa: BLE001 - the documented boundary, as for HTTP
            await self._abort(name, context, internal_error(cause))
        else:
            self._count(name, grpc.StatusCode.OK)

    def _refuse(self, name: str, why: str) -> Answer:
        async def call(_request: object, context: Context) -> None:
            self._count(name, grpc.StatusCode.UNIMPLEMENTED)
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, why)

        return call

    async def _abort(self, name: str, context: Context, error: PenstockError) -> None:
        """End a call with an error; its code and field go along as metadata."""
        status = _status(error)
        self._count(name, status)
        about = (("penstock-code", error.code), ("penstock-param", error.param))
        metadata = tuple((key, _ascii(value)) for key, value in about if value)
        await context.abort(status, error.message, metadata)

    def _count(self, name: str, status: grpc.StatusCode) -> None:
        self._observer.grpc_requests.labels(name, status.name).inc()


async def _until(event: asyncio.Event, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The requests that come before the event is set."""
    ended = asyncio.ensure_future(event.wait())
    coming: asyncio.Future[bytes | None] | None = None
    try:
        while True:
            coming = asyncio.ensure_future(anext(requests, None))
            await asyncio.wait({ended, coming}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done() or (request := coming.result()) is None:
                return
            yield request
    finally:
        ended.cancel()
        if coming is not None:
            coming.cancel()


def _parse(kind: Any, raw: bytes) -> Any:
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise InvalidRequestError(f"What came is no {kind.DESCRIPTOR.name} message.", code="invalid_message") from error


def _status(error: PenstockError) -> grpc.StatusCode:
    if error.code == "not_supported":
        return grpc.StatusCode.UNIMPLEMENTED
    return _CODES.get(error.http_status, grpc.StatusCode.INTERNAL)


def _ascii(text: str) -> str:
    """As metadata can hold it."""
    return text.encode("ascii", "backslashreplace").decode()[:256]
