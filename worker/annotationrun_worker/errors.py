"""Errors of the worker.

AnnotationRunError                     annotationrun_api.errors
├── TransientError
│   ├── ServerNotReadyError            the model server can't be reached, or refuses for now
│   ├── RequestFailedError             a request failed after its retries
│   ├── WorkerDiedError                worker processes die, and nothing is answered between
│   └── HubUnavailableError            the Hub can't be reached, or refuses for now
└── PermanentError
    ├── DatasetError                   the dataset is broken, of another version, or a file is missing
    │   ├── NoCamerasError             no camera, and a module that must see
    │   ├── UnknownCameraError         a camera name the dataset does not have
    │   ├── TimestampOutOfRangeError   no frame near the time asked for
    │   └── FrameDecodeError           a frame could not be decoded
    │       ├── FrameMissingError      the video has no frame at the time asked for
    │       ├── FrameDamagedError      the decoder found damage in the frame, or on the way to it
    │       ├── DecoderLostError       the decoder's process died, or could not be started
    │       │   └── DecoderSilentError it gave no sign of life in time
    │       └── FrameSizeError         the video holds frames of another size than was foreseen
    ├── ConfigurationError             model or settings can't give right labels
    │   └── HubAccessError             no such repository or revision, or the token may not
    ├── IncompleteError                results are missing; what is done is staged
    │   ├── TooManyFailedError         more episodes failed than may
    │   └── GivenUpError               a result failed as often as it may
    ├── AnswerError                    the model's answer stays unusable
    ├── StagingError                   a staged object is not what was written
    ├── StorageError                   disk full, read-only, no permission; nothing else
    └── OutputError                    the output can't be there, is taken, or would be invalid
        └── OutputMovedError           somebody else pushed what our commit would overwrite
"""

import errno
from typing import Final

from annotationrun_api.errors import PermanentError, TransientError

_NO_PLACE: Final = frozenset({errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP})


def is_no_place(error: OSError) -> bool:
    """Whether nothing can be at a path, however much room there is: a file is in the way, a name too long."""
    return error.errno in _NO_PLACE


class ServerNotReadyError(TransientError):
    """The model server can't be reached, or refuses for now."""


class RequestFailedError(TransientError):
    """A request to the model server failed after all its retries."""


class WorkerDiedError(TransientError):
    """Worker processes die one after another, and nothing is answered between."""


class HubUnavailableError(TransientError):
    """The Hub can't be reached or refuses for now, after all retries."""


class DatasetError(PermanentError):
    """The dataset can't be read as LeRobot v3.0."""


class NoCamerasError(DatasetError):
    """A module that must see was asked of a dataset without cameras."""


class UnknownCameraError(DatasetError):
    """A camera was named that the dataset does not have."""


class TimestampOutOfRangeError(DatasetError):
    """The time asked for lies further from any frame than half the local gap."""


class FrameDecodeError(DatasetError):
    """A frame could not be decoded, or the decoded one is not the one asked for."""


class FrameMissingError(FrameDecodeError):
    """The video has no frame at the time asked for; the nearest one is too far away."""


class FrameDamagedError(FrameDecodeError):
    """The library can decode the video, but finds the frame, or what it needs, damaged."""


class DecoderLostError(FrameDecodeError):
    """The decoder's process died or could not be started, which need not be the file's fault."""


class DecoderSilentError(DecoderLostError):
    """The decoder's process gave no sign of life in time, and was killed."""


class FrameSizeError(FrameDecodeError):
    """The video holds frames of another size (``width`` x ``height`` pixels) than was foreseen."""

    def __init__(self, message: str, width: int, height: int) -> None:
        super().__init__(message)
        self.width = width
        self.height = height


class ConfigurationError(PermanentError):
    """Model, server or settings can't give right labels as they are."""


class HubAccessError(ConfigurationError):
    """The Hub has no such repository or revision, or the token may not do what is asked."""


class IncompleteError(PermanentError):
    """Episodes lack results; what is done is staged."""


class TooManyFailedError(IncompleteError):
    """More episodes failed than the manifest allows."""


class GivenUpError(IncompleteError):
    """A result failed as often as it may; a new retry token tries it again."""

    def __init__(self, cause: str, attempts: int, time: str = "") -> None:
        super().__init__(f"given up before, not tried now; the last time: {cause}")
        self.attempts = attempts
        self.time = time
        """Of the last attempt: ISO 8601, UTC; empty: not known."""


class AnswerError(PermanentError):
    """The model answered, and the answer stays unusable."""


class StagingError(PermanentError):
    """A staged object does not hold what its key says."""


class StorageError(PermanentError):
    """Staging, output or cache can't be read or written: the disk or the object store refuses."""


class OutputError(PermanentError):
    """The output can't be made here, or would not be a valid dataset."""


class OutputMovedError(OutputError):
    """Somebody else pushed to the output what our commit would overwrite."""
