"""Errors of the operator, and how soon each is tried again.

AnnotationRunError                annotationrun_api.errors
├── TransientError
│   ├── ApiUnavailableError       the API server can't be reached, is busy, or failed
│   ├── ApiConflictError          what was to be written has changed meanwhile, or is there already
│   └── ProgressUnavailableError  a worker does not tell its progress
└── PermanentError
    ├── SettingsError             an environment variable of the operator is wrong
    ├── ConnectionSettingsError   no credentials for an API server
    ├── ApiNotFoundError          the object, or its whole kind, is not there
    ├── ApiRefusedError           the API server refuses the request: rights, quota, admission, validation
    └── UnreadableObjectError     an object of the cluster is not what its schema says
"""

from annotationrun_api.errors import PermanentError, TransientError

_REMOTE_TEXT_CHARACTERS = 1000
_LONGEST_RETRY_SECONDS = 60.0
_PERMANENT_RETRY_SECONDS = 60.0


class ApiUnavailableError(TransientError):
    """The API server can't be reached, is busy, or failed; what was asked may or may not be done."""

    def __init__(self, what: str, cause: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(f"{what}: {cause[:_REMOTE_TEXT_CHARACTERS]}; it is tried again")
        self.retry_after_seconds = retry_after_seconds


class ApiConflictError(TransientError):
    """The object has changed since it was read, or is there already (HTTP 409)."""

    def __init__(self, what: str, message: str) -> None:
        super().__init__(f"{what}: {message[:_REMOTE_TEXT_CHARACTERS]}")


class ProgressUnavailableError(TransientError):
    """A worker does not tell its progress."""


class SettingsError(PermanentError):
    """An environment variable of the operator is wrong; the text names it."""


class ConnectionSettingsError(PermanentError):
    """Neither a service account nor a kubeconfig file says how to reach an API server."""


class ApiNotFoundError(PermanentError):
    """The object, its namespace or its whole kind is not there (HTTP 404)."""

    def __init__(self, what: str, message: str) -> None:
        super().__init__(f"{what}: {message[:_REMOTE_TEXT_CHARACTERS]}")


class ApiRefusedError(PermanentError):
    """The API server refuses the request for good: rights, quota, admission, validation."""

    def __init__(self, what: str, code: int, message: str) -> None:
        super().__init__(f"{what}: HTTP {code}: {message[:_REMOTE_TEXT_CHARACTERS]}")
        self.code = code
        """HTTP status."""
        self.message = message[:_REMOTE_TEXT_CHARACTERS]
        """What the API server said."""


class UnreadableObjectError(PermanentError):
    """An object of the cluster is not what its schema says."""


def retry_seconds(error: Exception, failures: int) -> float:
    """Seconds until a run whose reconciling ended with `error` is tried again; `failures` in a row, from 1.

    A conflict is looked at again at once. Other passing errors wait 1, 2, 4 ... 60 s, and no shorter than the
    API server asks for. What another try won't mend is tried once a minute, as somebody may mend it.
    """
    doubled: float = min(2.0 ** min(failures - 1, 10), _LONGEST_RETRY_SECONDS)
    match error:
        case ApiConflictError() if failures == 1:
            return 0.0
        case ApiUnavailableError():
            return max(doubled, error.retry_after_seconds)
        case TransientError():
            return doubled
        case _:
            return _PERMANENT_RETRY_SECONDS
