"""Decoders as the rest of the worker sees them, and the one that works through a living child process."""

import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.dataset.layout import check_readable
from annotationrun_worker.dataset.records import CameraKey, EpisodeIndex, VideoSpan
from annotationrun_worker.errors import ConfigurationError, DatasetError, FrameDecodeError
from annotationrun_worker.frames.child_process import ChildDiedError, ChildProcess, ChildTimeoutError

_LOG = logging.getLogger(__name__)

CHILD_MODULE = "annotationrun_worker.frames.decoder_child"

DECODE_TIMEOUT_SECONDS = 60.0
"""Longest wait for the next answer of the child: a frame at the end of a long group of a large video."""

FRAME_BYTES_LIMIT = 256 * 1024 * 1024
"""Larger than any camera's frame (8K RGB has 100 MB): more than this is a broken answer."""

TRIES = 2
"""A child that died may have been killed for a reason of its own: one more try, on a fresh one."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class EpisodeVideo:
    """Where to decode, and for whom; the latter for the errors."""

    episode: EpisodeIndex
    camera: CameraKey
    span: VideoSpan

    def at(self, first_pts_seconds: float, last_pts_seconds: float) -> str:
        """Whose frames from when to when, in the episode's time, for an error."""
        start = self.span.from_timestamp_seconds
        first, last = (f"{pts - start:.3f}" for pts in (first_pts_seconds, last_pts_seconds))
        times = f"at {first} s" if first == last else f"from {first} to {last} s"
        return f"episode {self.episode}, camera {self.camera!r}, {times}, file {str(self.span.path)!r}"


class Decoder(Protocol):
    """Decodes outside of this process; safe for any number of threads."""

    def frames(
        self,
        video: EpisodeVideo,
        targets_seconds: NDArray[np.float64],
        tolerances_seconds: NDArray[np.float64],
    ) -> NDArray[np.uint8]:
        """Decode the frames with the nearest PTS: uint8 of shape (targets, height, width, 3), RGB.

        ``targets_seconds`` are PTS in the file, at least one, rising; each frame may be off by its tolerance.

        Raises:
            FrameDecodeError: one of them can't be had; there is no partial answer.
        """

    def packet_digest(self, video: EpisodeVideo, start_seconds: float, stop_seconds: float) -> str:
        """SHA-256 (hex) over the compressed packets with PTS in [start, stop); see ``video_file``.

        Raises:
            FrameDecodeError: the packets can't be read.
        """

    def close(self) -> None:
        """End the child processes; a request under way fails."""


class DecoderProcess:
    """A decoder in one living child process that uses PyAV; requests wait for each other.

    A child that dies in mid-request is replaced once; one that gives no sign of life for ``timeout_seconds``
    is killed, and the request fails.
    """

    def __init__(self, timeout_seconds: float = DECODE_TIMEOUT_SECONDS) -> None:
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def child_pid(self) -> int | None:
        """Process id of the child; None before the first request and after the close."""
        child = self._child
        return child.pid if child is not None else None

    def frames(
        self,
        video: EpisodeVideo,
        targets_seconds: NDArray[np.float64],
        tolerances_seconds: NDArray[np.float64],
    ) -> NDArray[np.uint8]:
        """Decode the frames with the nearest PTS; see ``Decoder.frames``."""
        request = {
            "op": "frames",
            "path": str(video.span.path),
            "targets_seconds": targets_seconds.tolist(),
            "tolerances_seconds": tolerances_seconds.tolist(),
        }
        where = video.at(targets_seconds[0], targets_seconds[-1])
        count = len(targets_seconds)
        return self._served(video, where, request, lambda child: _receive_frames(child, count))

    def packet_digest(self, video: EpisodeVideo, start_seconds: float, stop_seconds: float) -> str:
        """Digest of the compressed packets; see ``Decoder.packet_digest``."""
        request = {
            "op": "packets",
            "path": str(video.span.path),
            "start_seconds": start_seconds,
            "stop_seconds": stop_seconds,
        }
        where = video.at(start_seconds, stop_seconds)
        return self._served(video, where, request, lambda child: str(_receive(child, "done")["sha256"]))

    def close(self) -> None:
        """Kill the child; a request under way fails. Nothing can be asked afterwards."""
        self._closed = True
        child = self._child
        if child is not None:
            child.kill()
        with self._lock:
            self._drop_child()

    def _served(
        self,
        video: EpisodeVideo,
        where: str,
        request: Mapping[str, object],
        receive: Callable[[ChildProcess], Answer],
    ) -> Answer:
        line = json.dumps(request).encode()
        with self._lock:
            for tries_left in reversed(range(TRIES)):
                if self._closed:
                    break
                if self._child is None:
                    self._child = ChildProcess(CHILD_MODULE, self._timeout_seconds)
                try:
                    self._child.send(line)
                    return receive(self._child)
                except _RefusedError as refusal:
                    _raise_refusal(refusal, video, where, self._child.stderr_tail())
                except ChildTimeoutError as error:
                    self._child.kill()
                    end = self._drop_child()
                    raise FrameDecodeError(
                        f"{where}: no answer from the decoder for {self._timeout_seconds:g} s; {end}"
                    ) from error
                except _MisfitError as error:
                    self._drop_child()
                    raise FrameDecodeError(f"{where}: {error}") from error
                except ChildDiedError as error:
                    end = self._drop_child()
                    if not tries_left and not self._closed:
                        raise FrameDecodeError(
                            f"{where}: the decoder's process died {TRIES} times ({end}); check the video file"
                        ) from error
                    _LOG.warning("%s: the decoder's process died (%s); trying once more", where, end)
                except BaseException:
                    self._drop_child()  # its answer is half read: the rest would be taken for the next one
                    raise
        raise FrameDecodeError(f"{where}: the decoder is closed")

    def _drop_child(self) -> str:
        """Free the child; how it ended, with the end of its log."""
        child, self._child = self._child, None
        if child is None:
            return "it had ended"
        end = child.close()
        tail = child.stderr_tail()
        return f"{end}; it wrote: {tail}" if tail else end


class _RefusedError(Exception):
    """The child is well, and says why the request can't be carried out."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class _MisfitError(Exception):
    """The child's answer is none that frames can be made of."""


def _raise_refusal(refusal: _RefusedError, video: EpisodeVideo, where: str, tail: str) -> NoReturn:
    if refusal.kind == "open":
        try:
            check_readable(video.span.path, where)
        except DatasetError as error:
            raise FrameDecodeError(str(error)) from refusal
    log = f"; FFmpeg wrote: {tail}" if tail else ""
    raise FrameDecodeError(f"{where}: {refusal}{log}") from refusal


def _receive(child: ChildProcess, expected: str) -> Mapping[str, Any]:
    answer = json.loads(child.receive_line())
    if "error" in answer:
        raise _RefusedError(answer["error"]["kind"], answer["error"]["message"])
    content: Mapping[str, Any] = answer[expected]
    return content


def _receive_frames(child: ChildProcess, count: int) -> NDArray[np.uint8]:
    header = _receive(child, "frame")
    width, height = header["width"], header["height"]
    if not 0 < height * width * 3 <= FRAME_BYTES_LIMIT:
        raise _MisfitError(f"a frame of {width} x {height} pixels is out of bounds")
    frames = np.empty((count, height, width, 3), dtype=np.uint8)
    for number in range(count):
        if number:
            header = _receive(child, "frame")
        if (header["width"], header["height"]) != (width, height):
            raise _MisfitError(
                f"the size changes within the video, from {width} x {height} to {header['width']} x "
                f"{header['height']} pixels at {header['pts_seconds']:.3f} s of the file"
            )
        child.receive_into(memoryview(frames[number]).cast("B"))
    _receive(child, "done")
    return frames


BACKENDS: Mapping[str, Callable[[], Decoder]] = {"auto": DecoderProcess, "pyav": DecoderProcess}
"""Decoders by the name that ``frames.backend`` gives them."""


def make_decoder(backend: str) -> Decoder:
    """Make the decoder called ``backend``; no child starts before the first request.

    Raises:
        ConfigurationError: there is none of that name; the text lists those there are.
    """
    if backend not in BACKENDS:
        raise ConfigurationError(f"frames.backend is {backend!r}; this version has {sorted(BACKENDS)}")
    return BACKENDS[backend]()
