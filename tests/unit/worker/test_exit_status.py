"""Which exit code an error ends a command with."""

import errno
import inspect
from pathlib import Path

import pytest

from annotationrun_api import errors as api_errors
from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker import errors
from annotationrun_worker.exit_status import EXIT_CODES
from annotationrun_worker.output.place import is_of_source

SOURCE, OUTPUT = Path("/data/in"), Path("/data/team/out")


def code_of(error: type[api_errors.AnnotationRunError]) -> ExitCode:
    """As ``exit_code_of``, by the class: some have arguments of their own."""
    return next(EXIT_CODES[base] for base in error.__mro__ if base in EXIT_CODES)


def test_only_what_storage_refuses_or_damages_ends_as_storage():
    classes = [
        found
        for module in (api_errors, errors)
        for _, found in inspect.getmembers(module, inspect.isclass)
        if issubclass(found, api_errors.AnnotationRunError)
    ]
    ended = {found.__name__ for found in classes if code_of(found) is ExitCode.STORAGE}
    assert ended == {"StorageError", "StagingError"}
    assert code_of(errors.OutputError) is ExitCode.OUTPUT
    assert code_of(errors.OutputMovedError) is ExitCode.OUTPUT_MOVED
    assert code_of(errors.HubAccessError) is ExitCode.CONFIGURATION


@pytest.mark.parametrize(
    ("path", "number", "expected"),
    [
        pytest.param(SOURCE / "meta/info.json", errno.EACCES, True, id="a file of the source"),
        pytest.param("/cache/files/0123", errno.EACCES, True, id="a file that the source links to"),
        pytest.param(SOURCE / "data/a.parquet", errno.ENOSPC, False, id="a full disk, linking"),
        pytest.param(SOURCE / ".annotationrun/new", errno.EACCES, False, id="of a merge in place"),
        pytest.param(OUTPUT.parent / ".out.lock", errno.EACCES, False, id="beside the output"),
        pytest.param(OUTPUT.parent, errno.EACCES, False, id="the folder of the output, to be made"),
        pytest.param("/data/.annotationrun-0a", errno.EACCES, False, id="above the output, to see"),
        pytest.param(None, errno.EIO, False, id="it does not say"),
    ],
)
def test_what_can_not_be_read_of_the_source_is_told_from_what_can_not_be_written(path, number, expected):
    error = OSError(number, "refused", None if path is None else str(path))
    assert is_of_source(error, SOURCE, OUTPUT) is expected
