"""Server-sent events that have names, as OpenAI's Responses and Anthropic's Messages send them."""

from __future__ import annotations

import json
from typing import Any

from penstock.server.manifest.events import EVENTS

SENT = {name for api in EVENTS for name, field in api.fields.items() if field.support == "supported"}


def named_events(text: str) -> list[dict[str, Any]]:
    """The data of each event, whose name must be the type that it bears itself and one that the manifest knows."""
    found = []
    for frame in text.split("\n\n"):
        if not frame or frame.startswith(":"):
            continue
        name, data = frame.split("\n")
        body = json.loads(data.removeprefix("data: "))
        assert name == f"event: {body['type']}"
        assert body["type"] in SENT
        found.append(body)
    return found
