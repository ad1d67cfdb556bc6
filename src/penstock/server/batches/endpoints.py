"""The endpoints of files and batches."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.responses import StreamingResponse

from penstock.core.errors import InvalidRequestError
from penstock.server.batches.objects import Batch, BatchList, BatchRequest, FileDeleted, FileList, FileObject
from penstock.server.batches.upload import read_upload
from penstock.server.body import BodyReader
from penstock.server.manifest.batches import BATCHES
from penstock.server.paging import page_descends, page_limit
from penstock.server.service import json_response

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from penstock.server.service import Service

MOST_FILES, MOST_BATCHES = 10_000, 100  # of a page
MOST_SECONDS = 30 * 86400
BATCH_ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_body = BodyReader(BatchRequest, BATCHES)


async def upload_file(http: Request) -> Response:
    """Keep a file."""
    service: Service = http.app.state.service
    upload = await read_upload(http, service.files, max_bytes=service.settings.max_file_bytes)
    await service.files.add(upload)
    return json_response(upload)


async def list_files(http: Request) -> Response:
    """A page of files."""
    service: Service = http.app.state.service
    query = http.query_params
    newest_first, limit = page_descends(query), page_limit(query, MOST_FILES, MOST_FILES)
    purpose, after = query.get("purpose"), query.get("after")
    files, more = await service.files.page(purpose=purpose, after=after, limit=limit, newest_first=newest_first)
    ends = [files[end].id if files else None for end in (0, -1)]
    return json_response(FileList(data=files, first_id=ends[0], last_id=ends[1], has_more=more))


async def get_file(http: Request) -> Response:
    """One file, without its content."""
    service: Service = http.app.state.service
    return json_response(await service.files.get(http.path_params["file_id"]))


async def get_file_content(http: Request) -> Response:
    """A file's content."""
    service: Service = http.app.state.service
    file: FileObject = await service.files.get(http.path_params["file_id"])
    headers = {
        "content-length": str(file.bytes),
        "content-disposition": f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}",
    }
    pieces = service.files.read(file.id)
    return StreamingResponse(pieces, headers=headers, media_type="application/octet-stream")


async def delete_file(http: Request) -> Response:
    """Forget a file."""
    service: Service = http.app.state.service
    name = http.path_params["file_id"]
    await service.files.delete(name)
    return json_response(FileDeleted(id=name))


async def create_batch(http: Request) -> Response:
    """Run the requests of a file when there is time."""
    service: Service = http.app.state.service
    request, headers = await _body.read(http, service.settings.max_body_bytes)
    if request.endpoint not in BATCH_ENDPOINTS:
        raise InvalidRequestError(
            f"'endpoint' is {request.endpoint[:128]!r}; a batch may go to {', '.join(BATCH_ENDPOINTS)}.",
            param="endpoint",
            code="invalid_endpoint",
        )
    seconds = int(request.completion_window[:-1]) * _UNITS[request.completion_window[-1]]
    if seconds > MOST_SECONDS:
        raise InvalidRequestError(
            "'completion_window' may be 30 days at most.", param="completion_window", code="invalid_value"
        )
    file: FileObject = await service.files.get(request.input_file_id)
    if file.purpose != "batch":
        raise InvalidRequestError(
            f"The file {file.id} is for {file.purpose!r}; a batch needs one for 'batch'.",
            param="input_file_id",
            code="invalid_purpose",
        )
    now = int(time.time())
    batch = Batch(
        id=f"batch_{uuid.uuid4().hex}",
        endpoint=request.endpoint,
        input_file_id=file.id,
        completion_window=request.completion_window,
        status="validating",
        created_at=now,
        expires_at=now + seconds,
        metadata=request.metadata,
    )
    await service.batches.store.add(batch)
    service.batches.start(batch.id)
    return json_response(batch, headers)


async def get_batch(http: Request) -> Response:
    """A batch as it stands."""
    service: Service = http.app.state.service
    return json_response(await service.batches.store.get(http.path_params["batch_id"]))


async def list_batches(http: Request) -> Response:
    """A page of batches, the newest first."""
    service: Service = http.app.state.service
    limit = page_limit(http.query_params, 20, MOST_BATCHES)
    batches, more = await service.batches.store.page(after=http.query_params.get("after"), limit=limit)
    ends = [batches[end].id if batches else None for end in (0, -1)]
    return json_response(BatchList(data=batches, first_id=ends[0], last_id=ends[1], has_more=more))


async def cancel_batch(http: Request) -> Response:
    """End a batch early; what it has so far is kept."""
    service: Service = http.app.state.service
    return json_response(await service.batches.cancel(http.path_params["batch_id"]))
