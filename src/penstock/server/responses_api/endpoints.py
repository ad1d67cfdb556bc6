"""POST /v1/responses, and what can be done with a response that is kept."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

from msgspec import UNSET, structs

from penstock.core.errors import InvalidRequestError
from penstock.server.body import BodyReader
from penstock.server.hangup import while_connected
from penstock.server.manifest.field import refuse_in_query
from penstock.server.manifest.responses import INPUT_ITEMS, RESPONSE, RESPONSES
from penstock.server.paging import page_descends, page_limit
from penstock.server.responses_api.objects import ItemList, ResponseDeleted, ResponseObject
from penstock.server.responses_api.requests import (
    InputItem,
    ReasoningConfig,
    ResponseRequest,
    TextConfig,
    TextFormat,
)
from penstock.server.responses_api.store import StoredResponse
from penstock.server.responses_api.work import start_answer
from penstock.server.service import json_response
from penstock.server.sse import EventStream

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from penstock.server.service import Service

_body = BodyReader(ResponseRequest, RESPONSES)
_INCLUDABLE = ("message.output_text.logprobs", "reasoning.encrypted_content")
MOST_ITEMS = 100


async def create_response(http: Request) -> Response:
    """Answer a conversation, whole, as a stream, or in the background."""
    arrived = time.monotonic()
    service: Service = http.app.state.service
    request, headers = await _body.read(http, service.settings.max_body_bytes)
    _check(request)
    model = await service.models.use_for_chat(request.model)
    stored = StoredResponse(request, _items(request), _begun(request, model.name))
    name = stored.response.id
    headers = {"x-request-id": name, **headers}
    if request.background:
        return json_response(await service.responses.start(model, stored), headers)

    async def keep(response: ResponseObject) -> None:
        if request.store is not False:
            await service.responses.store.add(StoredResponse(request, stored.input, response))

    answer = await start_answer(service.responses.store, model, stored, keep, arrived=arrived, receive=http.receive)
    headers |= model.timing
    if request.stream:
        return EventStream(
            answer.events(),
            headers=headers,
            keepalive_seconds=service.settings.keepalive_seconds,
            failure=answer.failed,
        )
    return json_response(await while_connected(http.receive, answer.whole()), headers)


async def get_response(http: Request) -> Response:
    """A response that is kept, as it is now."""
    refuse_in_query(RESPONSE, http.query_params)
    service: Service = http.app.state.service
    return json_response((await service.responses.store.get(http.path_params["response_id"])).response)


async def delete_response(http: Request) -> Response:
    """Forget a response; one that is still being made is cancelled."""
    service: Service = http.app.state.service
    name = http.path_params["response_id"]
    await service.responses.store.delete(name)
    service.responses.stop(name)
    return json_response(ResponseDeleted(id=name))


async def cancel_response(http: Request) -> Response:
    """End a response that is made in the background; one that has ended stays as it is."""
    service: Service = http.app.state.service
    name = http.path_params["response_id"]
    stored = await service.responses.store.get(name)
    if not stored.response.background:
        raise InvalidRequestError(
            "Only a response that is made in the background can be cancelled; hang up to end another.",
            param="response_id",
            code="not_in_background",
        )
    cancelled = structs.replace(stored.response, status="cancelled")
    if await service.responses.store.end(name, cancelled):
        service.responses.stop(name)
        return json_response(cancelled)
    return json_response((await service.responses.store.get(name)).response)


async def list_input_items(http: Request) -> Response:
    """What a response answers: its own input, not that of those before it."""
    service: Service = http.app.state.service
    query = http.query_params
    refuse_in_query(INPUT_ITEMS, query)
    limit, newest_first, after = page_limit(query, 20, MOST_ITEMS), page_descends(query), query.get("after")
    items = (await service.responses.store.get(http.path_params["response_id"])).input
    if newest_first:
        items.reverse()
    if after is not None:
        at = next((index for index, item in enumerate(items) if item.id == after), None)
        if at is None:
            raise InvalidRequestError("'after' names no item of this response.", param="after", code="invalid_value")
        items = items[at + 1 :]
    page = items[:limit]
    ends = [str(page[end].id) if page else None for end in (0, -1)]
    return json_response(ItemList(data=page, first_id=ends[0], last_id=ends[1], has_more=len(page) < len(items)))


def _check(request: ResponseRequest) -> None:
    for index, name in enumerate(request.include or ()):
        if name not in _INCLUDABLE:
            raise InvalidRequestError(
                f"'include[{index}]' is {name[:128]!r}; there is only {' and '.join(_INCLUDABLE)} here.",
                param=f"include[{index}]",
                code="unsupported_parameter",
            )
    if request.background and request.stream:
        raise InvalidRequestError(
            "A response can be made in the background or streamed, not both here. Poll it by its id.",
            param="stream",
            code="unsupported_parameter",
        )
    if request.background and request.store is False:
        raise InvalidRequestError(
            "A response that is made in the background has to be stored.", param="store", code="invalid_value"
        )


def _items(request: ResponseRequest) -> list[InputItem]:
    if isinstance(request.input, str):
        return [InputItem(type="message", id=_new("msg"), role="user", content=request.input)]
    return [
        structs.replace(item, id=_new("msg")) if item.id is UNSET or item.id is None else item for item in request.input
    ]


def _begun(request: ResponseRequest, model: str) -> ResponseObject:
    reasoning = request.reasoning or ReasoningConfig()
    text = request.text or TextConfig()
    return ResponseObject(
        id=_new("resp"),
        created_at=int(time.time()),
        status="queued" if request.background else "in_progress",
        background=bool(request.background),
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        metadata=request.metadata or {},
        model=model,
        output=[],
        parallel_tool_calls=request.parallel_tool_calls is not False,
        previous_response_id=request.previous_response_id,
        reasoning=reasoning,
        store=request.store is not False,
        temperature=1.0 if request.temperature is None else request.temperature,
        text=text if text.format is not None else TextConfig(format=TextFormat(type="text")),
        tool_choice=request.tool_choice or "auto",
        tools=request.tools or [],
        top_logprobs=request.top_logprobs or 0,
        top_p=1.0 if request.top_p is None else request.top_p,
        truncation=request.truncation or "disabled",
    )


def _new(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"
