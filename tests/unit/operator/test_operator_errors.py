"""How soon a pass that failed is tried again."""

import inspect

import pytest

from annotationrun_api.errors import AnnotationRunError, PermanentError, TransientError
from annotationrun_operator import errors
from annotationrun_operator.errors import (
    ApiConflictError,
    ApiNotFoundError,
    ApiRefusedError,
    ApiUnavailableError,
    retry_seconds,
)

AWAY = ApiUnavailableError("get runs", "no answer")
CLASSES = [
    member
    for _, member in inspect.getmembers(errors, inspect.isclass)
    if issubclass(member, AnnotationRunError) and member.__module__ == errors.__name__
]


@pytest.mark.parametrize(
    ("error", "failures", "seconds"),
    [
        pytest.param(
            ApiConflictError("update run", "changed"), 1, 0, id="a conflict is looked at again at once"
        ),
        pytest.param(ApiConflictError("update run", "changed"), 3, 4, id="not for ever"),
        pytest.param(AWAY, 1, 1, id="first"),
        pytest.param(AWAY, 4, 8, id="fourth"),
        pytest.param(AWAY, 7, 60, id="a minute at most"),
        pytest.param(AWAY, 10_000, 60, id="after a long night"),
        pytest.param(ApiUnavailableError("get runs", "busy", 17), 1, 17, id="as long as the API server asks"),
        pytest.param(
            ApiRefusedError("update run", 403, "forbidden"), 1, 60, id="a role that does not suffice"
        ),
        pytest.param(ApiNotFoundError("create Job", "no namespace"), 1, 60, id="a namespace that is gone"),
        pytest.param(KeyError("metadata"), 1, 60, id="a defect"),
    ],
)
def test_a_failed_pass_waits(error, failures, seconds):
    assert retry_seconds(error, failures) == seconds


def test_every_error_passes_or_does_not():
    assert len(CLASSES) >= 8
    assert all(issubclass(member, TransientError | PermanentError) for member in CLASSES)


def test_every_error_stands_in_the_drawn_tree():
    assert [member.__name__ for member in CLASSES if member.__name__ not in errors.__doc__] == []


def test_what_a_server_says_is_cut():
    error = ApiRefusedError("create jobs", 422, "x" * 100_000)
    assert len(str(error)) < 1200
    assert error.code == 422
