"""The one exception tree. Each class maps to one HTTP status and one exit code."""

from __future__ import annotations

from typing import ClassVar


class PenstockError(Exception):
    """Base of every error that a person is meant to read: what was wrong, where, what to do.

    Args:
        message: a whole sentence.
        param: the request field or option at fault, in the caller's own spelling.
        code: a stable machine-readable name, narrower than the class.
    """

    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    type: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class InvalidRequestError(PenstockError):
    """What was asked is malformed or out of range."""

    http_status = 400
    exit_code = 2
    type = "invalid_request_error"


class AuthenticationError(PenstockError):
    """No key, or a wrong one."""

    http_status = 401
    exit_code = 3
    type = "authentication_error"


class NotFoundError(PenstockError):
    """No such model, file or route."""

    http_status = 404
    exit_code = 4
    type = "not_found_error"


class PayloadTooLargeError(PenstockError):
    """A body, header or prompt over the configured limit."""

    http_status = 413
    exit_code = 2
    type = "invalid_request_error"


class OverloadedError(PenstockError):
    """The waiting queue is full; try again later."""

    http_status = 429
    exit_code = 5
    type = "rate_limit_error"


class EngineDeadError(PenstockError):
    """The engine core died with this request in it, or is being started again."""

    http_status = 503
    exit_code = 6
    type = "service_unavailable_error"


class ModelFileError(PenstockError):
    """A model file is truncated, hostile, or of a kind that isn't supported."""

    http_status = 422
    exit_code = 7
    type = "model_file_error"


class StoreError(PenstockError):
    """A model could not be fetched, stored or verified."""

    http_status = 502
    exit_code = 8
    type = "store_error"


class StorageError(PenstockError):
    """What the server keeps on disk can't be read or written."""

    http_status = 503
    exit_code = 11
    type = "service_unavailable_error"


class ConfigError(PenstockError):
    """A setting is wrong, or a piece of hardware or software that it asks for is missing."""

    http_status = 500
    exit_code = 9
    type = "configuration_error"


class RecordError(PenstockError):
    """A measurement that can't be true, or a record file that can't be read or written."""

    http_status = 500
    exit_code = 10
    type = "record_error"


class InvariantError(PenstockError):
    """Something Penstock promises itself is broken: a bug, never the caller's mistake."""

    http_status = 500
    exit_code = 70  # sysexits' EX_SOFTWARE
    type = "internal_error"
