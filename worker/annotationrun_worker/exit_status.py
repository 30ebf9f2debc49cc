"""The one place that says which exit code an error ends a command with."""

from annotationrun_api.errors import (
    AnnotationRunError,
    ManifestError,
    PermanentError,
    TransientError,
    UnsupportedError,
)
from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker import errors

EXIT_CODES: dict[type[AnnotationRunError], ExitCode] = {
    AnnotationRunError: ExitCode.FAILED,
    TransientError: ExitCode.FAILED,
    PermanentError: ExitCode.FAILED,
    ManifestError: ExitCode.CONFIGURATION,
    UnsupportedError: ExitCode.CONFIGURATION,
    errors.ConfigurationError: ExitCode.CONFIGURATION,
    errors.UnknownCameraError: ExitCode.CONFIGURATION,
    errors.NoCamerasError: ExitCode.CONFIGURATION,
    errors.DatasetError: ExitCode.DATASET,
    errors.TimestampOutOfRangeError: ExitCode.DATASET,
    errors.FrameDecodeError: ExitCode.DATASET,
    errors.AnswerError: ExitCode.INCOMPLETE,
    errors.RequestFailedError: ExitCode.INCOMPLETE,
    errors.IncompleteError: ExitCode.INCOMPLETE,
    errors.WorkerDiedError: ExitCode.INCOMPLETE,
    errors.ServerNotReadyError: ExitCode.SERVER_NOT_READY,
    errors.StagingError: ExitCode.STORAGE,
    errors.StorageError: ExitCode.STORAGE,
    errors.OutputError: ExitCode.OUTPUT,
    errors.OutputMovedError: ExitCode.OUTPUT_MOVED,
}


def exit_code_of(error: AnnotationRunError) -> ExitCode:
    """The exit code of ``error``: its class's, or the nearest base's."""
    return next(EXIT_CODES[base] for base in type(error).__mro__ if base in EXIT_CODES)
