"""What a run refuses to measure, and how it says so."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
from starlette.responses import HTMLResponse, JSONResponse, Response

from penstock.core.errors import AuthenticationError, InvalidRequestError, NotFoundError, OverloadedError, PenstockError
from penstock.lab.bench.endpoint import Endpoint
from penstock.lab.bench.probe import probe
from penstock.lab.bench.stub import Stub
from support.one_answer import answering, refusal, stream

if TYPE_CHECKING:
    from collections.abc import Callable


def chat_stream(body: dict[str, Any]) -> Response:
    text = '{"choices": [{"index": 0, "delta": {"content": "one two"}, "finish_reason": "stop"}]}'
    return Response(f"data: {text}\n\ndata: [DONE]\n\n", media_type="text/event-stream")


def test_a_server_that_streams_and_counts_needs_no_notes() -> None:
    with Stub(ttft=0.001, itl=0.001) as stub:
        found = probe(Endpoint.open(stub.url))
    assert found.notes == ()
    assert found.endpoint.ignore_eos


def test_a_server_without_completions_is_asked_by_chat_if_any_api_will_do() -> None:
    with answering(chat=chat_stream) as url:
        found = probe(Endpoint.open(url), any_api=True)
        assert found.endpoint.api == "chat"
        assert "tells no usage" in found.notes[0]
        with pytest.raises(NotFoundError, match="may speak another API: see --api"):
            probe(Endpoint.open(url))


def test_a_server_that_refuses_ignore_eos_is_asked_without_where_that_will_do() -> None:
    def strict(body: dict[str, Any]) -> Response:
        return refusal(400, "unknown field ignore_eos") if "ignore_eos" in body else stream("a", "b")

    with answering(strict) as url:
        found = probe(Endpoint.open(url), any_end=True)
        assert not found.endpoint.ignore_eos
        assert found.notes[0].startswith("The server refuses ignore_eos")
        with pytest.raises(InvalidRequestError, match="status 400: unknown field ignore_eos"):
            probe(Endpoint.open(url))


def test_more_least_tokens_than_a_short_answer_has_are_no_reason_to_refuse() -> None:
    def strict(body: dict[str, Any]) -> Response:
        return stream("a", "b") if body.get("min_tokens", 0) <= body["max_tokens"] else refusal(400, "min_tokens")

    with answering(strict) as url:
        found = probe(Endpoint.open(url, body={"min_tokens": 64}))
    assert found.endpoint.body == {"min_tokens": 64}


def test_an_answer_in_one_piece_and_one_without_usage_are_noted() -> None:
    whole = {
        "choices": [{"index": 0, "text": "a b c", "finish_reason": "length"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 3},
    }
    with answering(lambda _: JSONResponse(whole)) as url:
        assert "doesn't stream" in probe(Endpoint.open(url)).notes[0]
    with answering(lambda _: stream("a", usage=False)) as url:
        assert "each piece of text counts as one output token" in probe(Endpoint.open(url)).notes[0]


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (lambda _: HTMLResponse("<html>hello</html>"), InvalidRequestError, "doesn't answer as the completions API"),
        (lambda _: HTMLResponse("<html>no</html>", 500), InvalidRequestError, "status 500: a page of HTML, so no API"),
        (lambda _: refusal(401, "no such key"), AuthenticationError, "refuses the key .status 401: no such key"),
        (lambda _: refusal(503, "loading"), OverloadedError, "takes no requests now .status 503: loading"),
        (lambda _: refusal(404, "no such path"), NotFoundError, "status 404: no such path"),
        (lambda _: stream(), InvalidRequestError, "no text at all"),
        (lambda _: JSONResponse({"hello": 1}), InvalidRequestError, "has none of choices"),
        (lambda _: Response("data: {no\n\n", media_type="text/event-stream"), InvalidRequestError, "can't be read"),
        (
            lambda _: Response('data: {"error": {"message": "out of memory"}}\n\n', media_type="text/event-stream"),
            InvalidRequestError,
            "failed in the middle of an answer: out of memory",
        ),
    ],
)  # fmt: skip
def test_what_is_no_such_api_is_named(
    answer: Callable[[dict[str, Any]], Response], error: type[PenstockError], said: str
) -> None:
    with answering(answer) as url, pytest.raises(error, match=said):
        probe(Endpoint.open(url))


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        ("1:cut", "truncated", "broke off in the middle"),
        ("1:malformed", "malformed", "Check the URL and --api"),
        ("1:hang", "timeout", "no whole answer within 0.3 s"),
    ],
)
def test_streams_that_stop_or_hang_are_told_apart(fault: str, code: str, said: str) -> None:
    with Stub(ttft=0.001, itl=0.001, faults=[fault]) as stub, pytest.raises(InvalidRequestError, match=said) as caught:
        probe(Endpoint.open(stub.url), timeout=0.3)
    assert caught.value.code == code


def test_an_address_where_nothing_listens_is_not_found() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(NotFoundError, match="Is the server up"):
        Endpoint.open(f"http://127.0.0.1:{port}")
