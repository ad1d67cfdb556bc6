"""The endpoints of the Responses API."""

from __future__ import annotations

from penstock.server.endpoint import GENERATION_ERRORS, Endpoint
from penstock.server.responses_api import endpoints, objects, requests

ENDPOINTS = (
    Endpoint(
        "/v1/responses",
        "POST",
        endpoints.create_response,
        "Answer a conversation, in the shape of OpenAI's Responses",
        takes=requests.ResponseRequest,
        gives=objects.ResponseObject,
        chunk=objects.ResponseEvent,
        errors=GENERATION_ERRORS,
        events="named",
    ),
    Endpoint(
        "/v1/responses/{response_id}",
        "GET",
        endpoints.get_response,
        "A response that is kept",
        gives=objects.ResponseObject,
        errors=(400, 404),
    ),
    Endpoint(
        "/v1/responses/{response_id}",
        "DELETE",
        endpoints.delete_response,
        "Forget a response",
        gives=objects.ResponseDeleted,
        errors=(404,),
    ),
    Endpoint(
        "/v1/responses/{response_id}/cancel",
        "POST",
        endpoints.cancel_response,
        "End a response that is made in the background",
        gives=objects.ResponseObject,
        errors=(400, 404),
    ),
    Endpoint(
        "/v1/responses/{response_id}/input_items",
        "GET",
        endpoints.list_input_items,
        "What a response answers",
        gives=objects.ItemList,
        query={
            "limit": {"type": "integer", "minimum": 1, "maximum": endpoints.MOST_ITEMS},
            "order": {"enum": ["asc", "desc"]},
            "after": {"type": "string"},
        },
        errors=(400, 404),
    ),
)
