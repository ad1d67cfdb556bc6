"""A Hugging Face hub on loopback with one repository: its listing, its files, and ways to serve them badly."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import anyio
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

REVISION = "0123456789abcdef0123456789abcdef01234567"
LFS = (".gguf", ".safetensors")  # what a hub keeps outside git


class FakeHub:
    """Serves `files` (name -> content) as the repository `repo`."""

    def __init__(self, repo: str, files: dict[str, bytes]) -> None:
        self.repo = repo
        self.files = files
        self.served: list[tuple[str, str]] = []  # (file, range asked for)
        self.listings = 0
        self.status: int | None = None  # answer everything with this error
        self.error_code = ""
        self.corrupt: set[str] = set()  # one bit is flipped on the way
        self.hold_after: dict[str, int] = {}  # bytes after which nothing more comes, the connection open
        self.app = Starlette(
            routes=[
                Route("/api/models/{repo:path}", self._info),
                Route("/{owner}/{name}/resolve/{revision}/{file:path}", self._file, methods=["GET", "HEAD"]),
            ]
        )

    async def _info(self, request: Request) -> Response:
        self.listings += 1
        if refused := self._refusal():
            return refused
        if request.path_params["repo"].split("/revision/")[0] != self.repo:
            return _missing("RepoNotFound")
        return JSONResponse(
            {
                "id": self.repo,
                "sha": REVISION,
                "private": False,
                "gated": False,
                "tags": [],
                "cardData": {"license": "apache-2.0"},
                "siblings": [self._sibling(name, content) for name, content in self.files.items()],
            }
        )

    def _sibling(self, name: str, content: bytes) -> dict[str, Any]:
        facts: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_id(content)}
        if name.endswith(LFS):
            sha256 = hashlib.sha256(content).hexdigest()
            facts["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
        return facts

    async def _file(self, request: Request) -> Response:
        if refused := self._refusal():
            return refused
        name = request.path_params["file"]
        content = self.files.get(name)
        if content is None:
            return _missing("EntryNotFound")
        etag = hashlib.sha256(content).hexdigest() if name.endswith(LFS) else git_id(content)
        headers = {"etag": f'"{etag}"', "x-repo-commit": REVISION, "accept-ranges": "bytes"}
        if request.method == "HEAD":
            return Response(headers={**headers, "content-length": str(len(content))})
        asked = request.headers.get("range", "")
        self.served.append((name, asked))
        if name in self.corrupt:
            content = bytes([content[0] ^ 1]) + content[1:]
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        if asked:
            headers["content-range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        headers["content-length"] = str(len(content) - start)
        return StreamingResponse(
            _body(content[start:], self.hold_after.get(name)), status_code=206 if asked else 200, headers=headers
        )

    def _refusal(self) -> Response | None:
        return None if self.status is None else _missing(self.error_code, self.status)


async def _body(content: bytes, end: int | None) -> AsyncIterator[bytes]:
    yield content[:end]
    if end is not None:
        await anyio.sleep_forever()  # until the client goes


def _missing(code: str, status: int = 404) -> Response:
    headers = {"x-error-code": code, "x-error-message": code} if code else {}
    return JSONResponse({"error": code or "no"}, status, headers)


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
