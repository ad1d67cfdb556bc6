"""The exception tree: one HTTP status and one exit code a class."""

from __future__ import annotations

import pytest

from penstock.core import errors
from penstock.core.errors import PenstockError

ALL = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PenstockError)]


@pytest.mark.parametrize("kind", ALL)
def test_each_class_has_a_failing_status_an_exit_code_and_a_type(kind: type[PenstockError]) -> None:
    assert 400 <= kind.http_status < 600
    assert 1 <= kind.exit_code < 126, "126 and above belong to the shell"
    assert kind.type
    assert kind.__doc__


def test_an_error_carries_what_a_client_needs() -> None:
    error = errors.InvalidRequestError("top_p must be at most 1.", param="top_p", code="out_of_range")
    assert str(error) == error.message == "top_p must be at most 1."
    assert (error.param, error.code) == ("top_p", "out_of_range")


def test_bad_input_is_the_callers_fault_and_the_rest_is_not() -> None:
    blamed = {kind.__name__ for kind in ALL if kind.http_status < 500}
    assert blamed == {
        "InvalidRequestError", "AuthenticationError", "NotFoundError", "PayloadTooLargeError", "OverloadedError",
        "ModelFileError",
    }  # fmt: skip
