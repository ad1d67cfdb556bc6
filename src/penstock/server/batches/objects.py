"""Bodies of /v1/files and /v1/batches, and the lines of a batch's files."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]


class FileUpload(Struct, kw_only=True):
    """Body of POST /v1/files, as multipart/form-data; `file` comes after the others or before them."""

    file: Annotated[str, Meta(extra_json_schema={"format": "binary"})]
    purpose: Literal["batch"]
    anchor: Literal["created_at"] | None = msgspec.field(name="expires_after[anchor]", default=None)
    seconds: Annotated[int, Meta(ge=3600, le=2592000)] | None = msgspec.field(
        name="expires_after[seconds]", default=None
    )


class FileObject(Struct, frozen=True, kw_only=True):
    """One file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"


class FileList(Struct, frozen=True, kw_only=True):
    """A page of files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(Struct, frozen=True, kw_only=True):
    """Body of an answer of DELETE /v1/files/{file_id}."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


class BatchRequest(Struct, kw_only=True):
    """Body of POST /v1/batches."""

    input_file_id: str
    endpoint: str
    completion_window: Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,5}[smhd]$")]
    metadata: Annotated[dict[str, Annotated[str, Meta(max_length=512)]], Meta(max_length=16)] | None = None


class BatchError(Struct, frozen=True, kw_only=True):
    """What was wrong with the input file, or with one line of it, counted from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchErrors(Struct, frozen=True, kw_only=True):
    """The first errors of the input file."""

    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(Struct, frozen=True, kw_only=True):
    """Lines of the input file; those that are neither completed nor failed are still to come."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Batch(Struct, frozen=True, kw_only=True):
    """One batch."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchErrors | None = None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = RequestCounts()
    metadata: dict[str, str] | None = None


class BatchList(Struct, frozen=True, kw_only=True):
    """A page of batches, the newest first."""

    object: Literal["list"] = "list"
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool


class InputLine(Struct, kw_only=True):
    """One line of an input file: a request and the name that its answer is to bear."""

    custom_id: Annotated[str, Meta(min_length=1, max_length=512)]
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


class LineResponse(Struct, frozen=True, kw_only=True):
    """The answer to one line's request; `ignored_fields` are what had no effect, of the line and of its body."""

    status_code: int
    request_id: str
    body: msgspec.Raw
    ignored_fields: str | UnsetType = UNSET


class LineError(Struct, frozen=True, kw_only=True):
    """Why a line has no answer."""

    code: str
    message: str
    line: int | UnsetType = UNSET


class OutputLine(Struct, frozen=True, kw_only=True):
    """One line of an output or error file."""

    id: str
    custom_id: str | None
    response: LineResponse | None = None
    error: LineError | None = None
