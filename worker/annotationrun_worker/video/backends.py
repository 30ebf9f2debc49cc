"""The decoders by the name that ``frames.backend`` gives them."""

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.errors import (
    ConfigurationError,
    DecoderLostError,
    FrameDamagedError,
    FrameDecodeError,
    FrameMissingError,
    FrameSizeError,
)
from annotationrun_worker.video.decoder import (
    CHILDREN,
    DECODE_TIMEOUT_SECONDS,
    TORCHCODEC_CHILD,
    Decoder,
    DecoderProcess,
    EpisodeVideo,
    VideoFrames,
)
from annotationrun_worker.video.ffmpeg_decoder import FfmpegDecoder, find_ffmpeg
from annotationrun_worker.video.tiles import TileSize

_LOG = logging.getLogger(__name__)


class AutoDecoder:
    """PyAV's children; the ffmpeg program for a file that they refuse and it can decode.

    It also stands in where a child was lost, for that request alone.
    """

    def __init__(self, first: DecoderProcess, second: VideoFrames) -> None:
        """Take over both: closing this closes them."""
        self._first = first
        self._second = second
        self._by_second: set[Path] = set()
        self._lock = threading.Lock()

    @property
    def fallback_files(self) -> int:
        """Number of files that the ffmpeg program decodes."""
        return len(self._by_second)

    def frames(
        self,
        video: EpisodeVideo,
        targets_seconds: NDArray[np.float64],
        tolerances_seconds: NDArray[np.float64],
        tile: TileSize | None = None,
    ) -> NDArray[np.uint8]:
        """Decode the frames with the nearest PTS; see ``VideoFrames.frames``."""
        if video.span.path in self._by_second:
            return self._second.frames(video, targets_seconds, tolerances_seconds, tile)
        try:
            return self._first.frames(video, targets_seconds, tolerances_seconds, tile)
        except (FrameMissingError, FrameDamagedError, FrameSizeError):
            # The file can be decoded: no other program finds a frame that is not there, or another size, and
            # an older one may give a picture of one that is damaged.
            raise
        except FrameDecodeError as error:
            if self._first.closed or not video.span.path.is_file():
                raise
            try:
                find_ffmpeg()
                frames = self._second.frames(video, targets_seconds, tolerances_seconds, tile)
            except FrameSizeError:
                raise
            except (FrameDecodeError, ConfigurationError) as second_error:
                raise error from second_error
            if isinstance(error, DecoderLostError):  # it may be well the next time
                _LOG.warning("some frames were decoded by the ffmpeg program: %s", error)
            else:
                self._take_second(video, error)
            return frames

    def frame_size(self, video: EpisodeVideo) -> tuple[int, int]:
        """(width, height); see ``Decoder.frame_size``."""
        return self._first.frame_size(video)

    def packet_digest(self, video: EpisodeVideo, start_seconds: float, stop_seconds: float) -> str:
        """Digest of the compressed packets; see ``Decoder.packet_digest``."""
        return self._first.packet_digest(video, start_seconds, stop_seconds)

    def close(self) -> None:
        """End all processes; requests under way fail. Nothing can be asked afterwards."""
        self._first.close()
        self._second.close()

    def _take_second(self, video: EpisodeVideo, error: FrameDecodeError) -> None:
        with self._lock:
            is_new = video.span.path not in self._by_second
            self._by_second.add(video.span.path)
        if is_new:
            _LOG.warning("%s is decoded by the ffmpeg program from here on: %s", video.span.path, error)


class TorchcodecDecoder:
    """Frames through torchcodec, packets, which it does not give, through PyAV."""

    def __init__(self, frames: DecoderProcess, packets: DecoderProcess) -> None:
        """Take over both: closing this closes them."""
        self._frames = frames
        self._packets = packets

    @property
    def fallback_files(self) -> int:
        """There is no other way."""
        return 0

    def frames(
        self,
        video: EpisodeVideo,
        targets_seconds: NDArray[np.float64],
        tolerances_seconds: NDArray[np.float64],
        tile: TileSize | None = None,
    ) -> NDArray[np.uint8]:
        """Decode the frames with the nearest PTS; see ``VideoFrames.frames``."""
        return self._frames.frames(video, targets_seconds, tolerances_seconds, tile)

    def frame_size(self, video: EpisodeVideo) -> tuple[int, int]:
        """(width, height); see ``Decoder.frame_size``."""
        return self._packets.frame_size(video)

    def packet_digest(self, video: EpisodeVideo, start_seconds: float, stop_seconds: float) -> str:
        """Digest of the compressed packets; see ``Decoder.packet_digest``."""
        return self._packets.packet_digest(video, start_seconds, stop_seconds)

    def close(self) -> None:
        """End all processes; requests under way fail. Nothing can be asked afterwards."""
        self._frames.close()
        self._packets.close()


def _pyav() -> DecoderProcess:
    return DecoderProcess(children=CHILDREN)


def _ffmpeg() -> FfmpegDecoder:
    find_ffmpeg()
    return FfmpegDecoder(DecoderProcess())


def _torchcodec() -> TorchcodecDecoder:
    frames = DecoderProcess(DECODE_TIMEOUT_SECONDS, module=TORCHCODEC_CHILD, children=CHILDREN)
    return TorchcodecDecoder(frames, DecoderProcess())


def _auto() -> AutoDecoder:
    return AutoDecoder(_pyav(), FfmpegDecoder(DecoderProcess()))


BACKENDS: Mapping[str, Callable[[], Decoder]] = {
    "auto": _auto,
    "ffmpeg": _ffmpeg,
    "pyav": _pyav,
    "torchcodec": _torchcodec,
}


def make_decoder(backend: str) -> Decoder:
    """Make the decoder called ``backend``; no child starts before the first request.

    Raises:
        ConfigurationError: there is none of that name (the text lists those there are), or the ffmpeg
            program is missing.
    """
    if backend not in BACKENDS:
        raise ConfigurationError(f"frames.backend is {backend!r}; this version has {sorted(BACKENDS)}")
    return BACKENDS[backend]()
