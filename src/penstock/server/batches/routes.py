"""The endpoints of files and batches, as the router and the OpenAPI document know them."""

from __future__ import annotations

from penstock.server.batches import endpoints, objects
from penstock.server.endpoint import BODY_ERRORS, Endpoint

ENDPOINTS = (
    Endpoint(
        "/v1/files",
        "POST",
        endpoints.upload_file,
        "Keep a file",
        takes=objects.FileUpload,
        gives=objects.FileObject,
        errors=(400, 408, 413),
        media="multipart/form-data",
    ),
    Endpoint(
        "/v1/files",
        "GET",
        endpoints.list_files,
        "A page of files",
        gives=objects.FileList,
        query={
            "limit": {"type": "integer", "minimum": 1, "maximum": endpoints.MOST_FILES},
            "order": {"enum": ["asc", "desc"]},
            "purpose": {"type": "string"},
            "after": {"type": "string"},
        },
        errors=(400, 404),
    ),
    Endpoint("/v1/files/{file_id}", "GET", endpoints.get_file, "One file", gives=objects.FileObject, errors=(404,)),
    Endpoint(
        "/v1/files/{file_id}",
        "DELETE",
        endpoints.delete_file,
        "Forget a file",
        gives=objects.FileDeleted,
        errors=(404,),
    ),
    Endpoint(
        "/v1/files/{file_id}/content",
        "GET",
        endpoints.get_file_content,
        "A file's content",
        errors=(404,),
        gives_media="application/octet-stream",
    ),
    Endpoint(
        "/v1/batches",
        "POST",
        endpoints.create_batch,
        "Run the requests of a file when there is time",
        takes=objects.BatchRequest,
        gives=objects.Batch,
        errors=BODY_ERRORS,
    ),
    Endpoint(
        "/v1/batches",
        "GET",
        endpoints.list_batches,
        "A page of batches",
        gives=objects.BatchList,
        query={
            "limit": {"type": "integer", "minimum": 1, "maximum": endpoints.MOST_BATCHES},
            "after": {"type": "string"},
        },
        errors=(400, 404),
    ),
    Endpoint("/v1/batches/{batch_id}", "GET", endpoints.get_batch, "One batch", gives=objects.Batch, errors=(404,)),
    Endpoint(
        "/v1/batches/{batch_id}/cancel",
        "POST",
        endpoints.cancel_batch,
        "End a batch early",
        gives=objects.Batch,
        errors=(404,),
    ),
)
