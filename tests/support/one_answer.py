"""A server of OpenAI's completions or chat that answers every request as a test wants."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from support.live_server import serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.requests import Request

MODELS = {"object": "list", "data": [{"id": "m", "object": "model"}]}


def stream(*texts: str, usage: bool = True) -> Response:
    """A whole stream of completion chunks."""
    chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "text": text}]} for text in texts]
    chunks.append({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]})
    if usage:
        chunks.append({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": len(texts)}})
    events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return Response("".join([*events, "data: [DONE]\n\n"]), media_type="text/event-stream")


def refusal(status: int, message: str) -> Response:
    """An error in OpenAI's form."""
    return JSONResponse({"error": {"message": message, "type": "t", "param": None, "code": None}}, status)


@contextmanager
def answering(
    completions: Callable[[dict[str, Any]], Response] | None = None,
    chat: Callable[[dict[str, Any]], Response] | None = None,
    **pages: Callable[[], Response],
) -> Iterator[str]:
    """The server's URL. Each function makes an answer of a request's body; `pages` are further GETs, by path."""

    async def models(_request: Request) -> Response:
        return JSONResponse(MODELS)

    def route(path: str, answer: Callable[[dict[str, Any]], Response]) -> Route:
        async def endpoint(request: Request) -> Response:
            return answer(await request.json())

        return Route(path, endpoint, methods=["POST"])

    def page(path: str, answer: Callable[[], Response]) -> Route:
        async def endpoint(_request: Request) -> Response:
            return answer()

        return Route(f"/{path}", endpoint)

    routes = [Route("/v1/models", models), *(page(path, answer) for path, answer in pages.items())]
    given = {"/v1/completions": completions, "/v1/chat/completions": chat}
    routes += [route(path, answer) for path, answer in given.items() if answer is not None]
    with serve(Starlette(routes=routes)) as live:
        yield live.url
