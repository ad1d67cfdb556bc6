"""Fields of /v1/files and /v1/batches, and of what is under them."""

from __future__ import annotations

from penstock.server.batches import objects
from penstock.server.manifest.api import Api, Part
from penstock.server.manifest.field import Manifest, absent, refused, supported
from penstock.server.manifest.references import openai_parameter, openai_property

BATCHES: Manifest = {
    **supported(
        input_file_id="of a file for `batch`, one request a line",
        endpoint="/v1/chat/completions, /v1/completions, /v1/embeddings, /v1/responses",
        completion_window="`24h`; also other numbers of seconds, minutes, hours or days, up to 30 days",
        metadata="up to 16 texts of up to 512 characters",
    ),
    **refused(output_expires_after="delete the files when they have been read"),
}

_FILE = supported(file_id="in the path")
_BATCH = supported(batch_id="in the path")


def _files(method: str) -> dict[str, str]:
    return {"": openai_parameter("files", "files", method)}


def _batches(method: str) -> dict[str, str]:
    return {"": openai_parameter("batches", "batches", method)}


APIS = (
    Api(
        "file_upload",
        "POST /v1/files",
        supported(
            file="up to `--max-file-bytes`",
            purpose="`batch`",
            **{
                "expires_after[anchor]": "`created_at`",
                "expires_after[seconds]": "3600 to 2592000; a file is kept until it is deleted if absent",
            },
        ),
        _files("create"),
    ),
    Api(
        "file_list",
        "GET /v1/files",
        supported(limit="1 to 10000, the default", order="default desc", purpose="", after="a file's id"),
        _files("list"),
    ),
    Api("file", "GET /v1/files/{file_id}", _FILE, _files("retrieve")),
    Api("file_delete", "DELETE /v1/files/{file_id}", _FILE, _files("delete")),
    Api("file_content", "GET /v1/files/{file_id}/content", _FILE, _files("content")),
    Api("batches", "POST /v1/batches", BATCHES, _batches("create")),
    Api(
        "batch_list", "GET /v1/batches", supported(limit="1 to 100; default 20", after="a batch's id"), _batches("list")
    ),
    Api("batch", "GET /v1/batches/{batch_id}", _BATCH, _batches("retrieve")),
    Api("batch_cancel", "POST /v1/batches/{batch_id}/cancel", _BATCH, _batches("cancel")),
)

_PAGE = supported(object="", data="", first_id="", last_id="", has_more="")

PARTS = (
    Part(
        objects.FileObject,
        {
            **supported(
                id="",
                object="",
                bytes="",
                created_at="",
                expires_at="null if it is kept until it is deleted",
                filename="",
                purpose="`batch`, or `batch_output` of what a batch wrote",
                status="always `processed`",
            ),
            **absent(status_details=""),
        },
        {"": openai_property("files", "files", "file_object")},
    ),
    Part(objects.FileList, _PAGE, {"": openai_property("files", "files", "file_object").partition("#")[0]}),
    Part(
        objects.FileDeleted,
        supported(id="", object="", deleted=""),
        {"": openai_property("files", "files", "file_deleted")},
    ),
    Part(
        objects.Batch,
        {
            **supported(
                id="",
                object="",
                endpoint="",
                errors="of the file's bad lines, the first 100; all of them are in the error file",
                input_file_id="",
                completion_window="",
                status="validating, failed, in_progress, finalizing, completed, expired, cancelling, cancelled",
                output_file_id="of answers with status 200, in the order of the input; null if there is none",
                error_file_id="of all other lines; null if there is none",
                created_at="",
                in_progress_at="",
                expires_at="",
                finalizing_at="",
                completed_at="",
                failed_at="",
                expired_at="",
                cancelling_at="",
                cancelled_at="",
                request_counts="",
                metadata="",
            ),
            **absent(model="lines may name several", usage="each line's answer has its own"),
        },
        {"": openai_property("batches", "batches", "batch")},
    ),
    Part(
        objects.BatchErrors,
        supported(object="", data=""),
        {"": openai_property("batches", "batches", "batch", "errors")},
    ),
    Part(
        objects.BatchError,
        supported(code="", message="", line="counted from 1", param=""),
        {"": openai_property("batches", "batches", "batch_error")},
    ),
    Part(
        objects.RequestCounts,
        supported(total="", completed="status 200", failed="any other, and lines that could not be run"),
        {"": openai_property("batches", "batches", "batch_request_counts")},
    ),
    Part(objects.BatchList, _PAGE, {"": openai_property("batches", "batches", "batch").partition("#")[0]}),
)
