"""Decoders of videos as the rest of the worker sees them, and the one that works through PyAV."""

import os
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.dataset.records import CameraKey, EpisodeIndex, VideoSpan
from annotationrun_worker.frames.child_service import ChildService, Errand, receive_frames, receive_line

PYAV_CHILD = "annotationrun_worker.frames.decoder_child"
TORCHCODEC_CHILD = "annotationrun_worker.frames.torchcodec_child"

DECODE_TIMEOUT_SECONDS = 60.0
"""Longest wait for the next answer of a child: a frame at the end of a long group of a large video."""

CHILDREN = min(os.cpu_count() or 1, 4)
"""Decoding processes at once: one a core, as each decodes with few threads. Four keep up with 16 requests in
flight, for a frame is decoded in milliseconds and a request to the model takes seconds."""


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


class VideoFrames(Protocol):
    """Decodes frames outside of this process; safe for any number of threads."""

    def frames(
        self,
        video: EpisodeVideo,
        targets_seconds: NDArray[np.float64],
        tolerances_seconds: NDArray[np.float64],
    ) -> NDArray[np.uint8]:
        """Decode the frames with the nearest PTS: uint8 of shape (targets, height, width, 3), RGB.

        ``targets_seconds`` are PTS in the file, at least one, rising; each frame may be off by its tolerance.

        Raises:
            FrameMissingError: no frame lies so near to one of them.
            FrameDecodeError: one of them can't be had; there is no partial answer.
            ConfigurationError: the library or program that decodes is not installed.
        """

    def close(self) -> None:
        """End the child processes; a request under way fails."""


class Decoder(VideoFrames, Protocol):
    """Decodes frames, and reads the packets that they are coded in."""

    @property
    def fallback_files(self) -> int:
        """Number of files that had to be decoded in another way than the first choice."""

    def packet_digest(self, video: EpisodeVideo, start_seconds: float, stop_seconds: float) -> str:
        """SHA-256 (hex) over the compressed packets with PTS in [start, stop); see ``video_file``.

        The same for every backend.

        Raises:
            FrameDecodeError: the packets can't be read.
        """


class DecoderProcess:
    """A decoder in living child processes that use PyAV, or another library that is asked in the same way."""

    def __init__(
        self,
        timeout_seconds: float = DECODE_TIMEOUT_SECONDS,
        *,
        module: str | None = None,
        children: int = 1,
    ) -> None:
        """``module`` is what a child runs; None: PyAV's."""
        self._service = ChildService(module or PYAV_CHILD, timeout_seconds, children)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def child_pid(self) -> int | None:
        """Process id of the first child; None before the first request and after the close."""
        return next(iter(self._service.child_pids), None)

    @property
    def fallback_files(self) -> int:
        """There is no other way."""
        return 0

    @property
    def closed(self) -> bool:
        """Whether nothing can be asked any more."""
        return self._service.closed

    def frames(
        self,
        video: EpisodeVideo,
        targets_seconds: NDArray[np.float64],
        tolerances_seconds: NDArray[np.float64],
    ) -> NDArray[np.uint8]:
        """Decode the frames with the nearest PTS; see ``VideoFrames.frames``."""
        request = {
            "op": "frames",
            "path": str(video.span.path),
            "targets_seconds": targets_seconds.tolist(),
            "tolerances_seconds": tolerances_seconds.tolist(),
        }
        errand = Errand(video.at(targets_seconds[0], targets_seconds[-1]), video.span.path, request)
        count = len(targets_seconds)
        return self._service.ask(errand, lambda child: receive_frames(child, count))

    def packet_digest(self, video: EpisodeVideo, start_seconds: float, stop_seconds: float) -> str:
        """Digest of the compressed packets; see ``Decoder.packet_digest``."""
        request = {
            "op": "packets",
            "path": str(video.span.path),
            "start_seconds": start_seconds,
            "stop_seconds": stop_seconds,
        }
        errand = Errand(video.at(start_seconds, stop_seconds), video.span.path, request)
        return self._service.ask(errand, lambda child: str(receive_line(child, "done")["sha256"]))

    def close(self) -> None:
        """Kill the children; requests under way fail. Nothing can be asked afterwards."""
        self._service.close()
