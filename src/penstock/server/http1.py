"""uvicorn's HTTP/1.1, with errors below the application in the same shape as those above it."""

from __future__ import annotations

import sys
from http import HTTPStatus

import h11
import msgspec

from penstock.server.errors import HEAD_TOO_LARGE
from penstock.server.responses import ErrorBody, ErrorDetail
from penstock.server.uvicorn_parts import H11Protocol


class Http1Protocol(H11Protocol):  # type: ignore[misc]  # uvicorn is not followed by the type checker
    """Answers a request that isn't HTTP, or whose head is too large, with OpenAI's error body."""

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn while it handles h11's error, whose hint is the better status."""
        status = getattr(sys.exception(), "error_status_hint", 400)
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()  # an answer has begun; nothing can be put into it
            return
        code = "bad_http"
        if status == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
            msg, code = HEAD_TOO_LARGE, "head_too_large"
        body = msgspec.json.encode(ErrorBody(ErrorDetail(message=msg, type="invalid_request_error", code=code)))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        head = h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase.encode())
        for part in (head, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(part))
        self.transport.close()
