"""The chat page's files, read once: what isn't in the folder at the start can't be asked for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.requests import Request

FOLDER = Path(__file__).parent / "page"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".webmanifest": "application/manifest+json",
}
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    headers: dict[str, str]


class Page:
    """Serves `index.html` at `/` and every file of the folder under `/page/`.

    Args:
        folder: where the files are; files of other types than TYPES are left alone.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files = {
            path.relative_to(folder).as_posix(): _read(path)
            for path in folder.rglob("*")
            if path.is_file() and path.suffix in TYPES
        }

    async def index(self, http: Request) -> Response:
        """The page."""
        return self._answer(http, "index.html")

    async def file(self, http: Request) -> Response:
        """What the page is made of."""
        return self._answer(http, http.path_params["name"])

    def _answer(self, http: Request, name: str) -> Response:
        found = self._files.get(name)
        if found is None:
            raise HTTPException(404)
        if http.headers.get("if-none-match") == found.headers["etag"]:
            return Response(status_code=304, headers=found.headers)
        return Response(found.body, headers=found.headers)


def _read(path: Path) -> _File:
    body = path.read_bytes()
    return _File(
        body,
        {
            "content-type": TYPES[path.suffix],
            "cache-control": "no-cache",  # the names don't change with the content: ask, and get a 304
            "etag": f'"{hashlib.sha256(body).hexdigest()[:16]}"',
            "content-security-policy": CONTENT_SECURITY_POLICY,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
        },
    )
