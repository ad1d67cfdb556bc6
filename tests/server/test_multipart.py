"""multipart/form-data however it is cut, and what isn't."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from random import Random

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.errors import InvalidRequestError
from penstock.server.multipart import MultipartParser, PartHead

TYPE = "multipart/form-data; boundary=xyz"


def read(body: bytes, content_type: str = TYPE, *, cuts: list[int] | None = None) -> list[tuple[PartHead, bytes]]:
    """The parts of a body that arrives cut at these places."""
    parser = MultipartParser(content_type)
    places = [0, *sorted(cuts or []), len(body)]
    parts: list[tuple[PartHead, bytes]] = []
    for start, end in pairwise(places):
        for found in parser.feed(body[start:end]):
            if isinstance(found, PartHead):
                parts.append((found, b""))
            else:
                head, content = parts[-1]
                parts[-1] = (head, content + found)
    parser.finish()
    return parts


contents = st.binary(max_size=60) | st.lists(st.sampled_from([b"\r", b"\n", b"-", b"xyz", b"\r\n--", b"a"])).map(
    b"".join
)


@given(
    st.lists(st.tuples(st.text('ab"\\ ü;=', min_size=1, max_size=5), contents), min_size=1, max_size=4), st.integers()
)
def test_what_httpx_sends_is_read_back_wherever_it_is_cut(files: list[tuple[str, bytes]], seed: int) -> None:
    request = httpx.Request("POST", "http://x", files=[("file", (name, content)) for name, content in files])
    body, random = request.read(), Random(seed)
    cuts = [random.randint(0, len(body)) for _ in range(random.randint(0, 12))]
    parts = read(body, request.headers["content-type"], cuts=cuts)
    assert [content for _, content in parts] == [content for _, content in files]
    assert {head.name for head, _ in parts} == {"file"}


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_parts_or_refused(body: bytes, begins: bool) -> None:
    with suppress(InvalidRequestError):
        read((b"--xyz\r\n" if begins else b"") + body)


def test_fields_and_files_are_told_apart() -> None:
    body = (
        b'preamble\r\n--xyz\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--xyz\r\n'
        b'Content-Type: text/plain\r\ncontent-disposition: form-data; name=file; filename="a \\"b\\".txt"\r\n\r\n'
        b"one\r\n\r\ntwo\r\n--xyz--\r\nepilogue"
    )
    for cut in range(len(body)):
        assert read(body, cuts=[cut]) == [
            (PartHead("purpose", None), b"batch"),
            (PartHead("file", 'a "b".txt'), b"one\r\n\r\ntwo"),
        ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--xyz\r\n",
        b'--xyz\r\nContent-Disposition: form-data; name="a"\r\n\r\nno end',
        b"--xyz\r\nContent-Type: text/plain\r\n\r\nno name\r\n--xyz--",
        b"--xyz and more\r\n\r\n\r\n--xyz--",
        b"--xyz\r\n" + b"a" * 10_000,
        b"--xyz" + b" " * 10_000,
    ],
)
def test_a_broken_body_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        read(body)
    assert refused.value.code == "invalid_multipart"


@pytest.mark.parametrize(
    "content_type", ["", "application/json", "multipart/form-data", "multipart/form-data; boundary="]
)
def test_a_body_without_a_boundary_is_refused(content_type: str) -> None:
    with pytest.raises(InvalidRequestError, match="multipart/form-data"):
        MultipartParser(content_type)
