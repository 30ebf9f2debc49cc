"""A decoder that runs the ffmpeg program: one short-lived process for each stretch of frames."""

import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.bound_process import CHILD_MEMORY_BYTES, Bounds, start_bound
from annotationrun_worker.dataset.layout import check_readable
from annotationrun_worker.errors import ConfigurationError, DatasetError, FrameDecodeError, FrameMissingError
from annotationrun_worker.video.child_process import child_environment, ending
from annotationrun_worker.video.decode_plan import steps_back
from annotationrun_worker.video.decoder import CHILDREN, DecoderProcess, EpisodeVideo, check_frame_size
from annotationrun_worker.video.ffmpeg_command import (
    ShownFrame,
    build_decode_command,
    log_tail,
    parse_shown_frames,
)
from annotationrun_worker.video.tiles import TileSize, tiles_of

PROGRAM = "ffmpeg"

STRETCH_GAP_SECONDS = 2.0
"""Targets further apart than this get a process of their own: starting one costs 50 ms, as much as decoding
some 50 frames."""

STRETCH_SECONDS = 10.0
"""Longest stretch of video that one process decodes, so that a time limit means something."""

STRETCH_TIMEOUT_SECONDS = 120.0
"""A stretch and a long group before it, 4K on a busy core."""

PROGRAM_BOUNDS = Bounds(
    memory_bytes=CHILD_MEMORY_BYTES, cpu_seconds=int(2 * STRETCH_TIMEOUT_SECONDS), first_to_go=True
)
"""It decodes on one thread, and writes out on another."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Targets that one process decodes, and their tolerances, in seconds of the file's PTS."""

    targets_seconds: NDArray[np.float64]
    tolerances_seconds: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ProgramOutput:
    """What one process gave."""

    shown: Sequence[ShownFrame]
    rgb: bytes
    end: str
    """How it ended, with what it complained of; empty if it ended well."""


class FfmpegDecoder:
    """Frames by the ffmpeg program (5.1 or later); packets, which no such program gives, through PyAV.

    Safe for any number of threads; at most ``processes`` run at once.
    """

    def __init__(
        self,
        packets: DecoderProcess,
        processes: int = CHILDREN,
        timeout_seconds: float = STRETCH_TIMEOUT_SECONDS,
    ) -> None:
        """Take over ``packets``: closing this closes it."""
        self._packets = packets
        self._timeout_seconds = timeout_seconds
        self._running: set[subprocess.Popen[bytes]] = set()
        self._slots = threading.BoundedSemaphore(processes)
        self._lock = threading.Lock()
        self._closed = False

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
        program = find_ffmpeg()
        parts = [
            self._decoded(program, video, stretch, tile)
            for stretch in split_stretches(targets_seconds, tolerances_seconds)
        ]
        if len({part.shape[1:] for part in parts}) > 1:
            raise FrameDecodeError(
                f"{video.at(targets_seconds[0], targets_seconds[-1])}: the size changes within the video"
            )
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def frame_size(self, video: EpisodeVideo) -> tuple[int, int]:
        """(width, height); see ``Decoder.frame_size``."""
        return self._packets.frame_size(video)

    def packet_digest(self, video: EpisodeVideo, start_seconds: float, stop_seconds: float) -> str:
        """Digest of the compressed packets; see ``Decoder.packet_digest``."""
        return self._packets.packet_digest(video, start_seconds, stop_seconds)

    def close(self) -> None:
        """Kill the processes; requests under way fail. Nothing can be asked afterwards."""
        self._closed = True
        with self._lock:
            for process in self._running:
                process.kill()
        self._packets.close()

    def _decoded(
        self, program: str, video: EpisodeVideo, stretch: Stretch, tile: TileSize | None
    ) -> NDArray[np.uint8]:
        targets, tolerances = stretch.targets_seconds, stretch.tolerances_seconds
        where = video.at(targets[0], targets[-1])
        # The frame wanted may lie behind its target, but not by more than this; and nothing else is there.
        nearest_start = float(targets[0] + tolerances[0])
        for seek_seconds in steps_back(nearest_start):
            command = build_decode_command(
                program,
                video.span.path,
                targets.tolist(),
                tolerances.tolist(),
                seek_seconds,
                video.frame_size,
            )
            output = self._run(command, where)
            if output.end or seek_seconds <= 0:
                break
            if output.shown and output.shown[0].pts_seconds <= nearest_start:
                break
        _check_file(video, where, output)
        if video.frame_size is not None and output.shown:
            width, height = video.frame_size
            check_frame_size(
                where, TileSize(width, height, width), output.shown[0].width, output.shown[0].height
            )
        frames = _chosen(stretch, output, where)
        if tile is None:
            return frames
        check_frame_size(where, tile, frames.shape[2], frames.shape[1])
        return tiles_of(frames, tile.width)

    def _run(self, command: Sequence[str], where: str) -> ProgramOutput:
        with self._slots, self._start(command, where) as process:
            try:
                rgb, log = process.communicate(timeout=self._timeout_seconds)
            except subprocess.TimeoutExpired as error:
                raise FrameDecodeError(
                    f"{where}: ffmpeg gave no frames for {self._timeout_seconds:g} s and was killed"
                ) from error
            finally:
                with self._lock:
                    self._running.discard(process)
                process.kill()
        if self._closed:
            raise FrameDecodeError(f"{where}: the decoder is closed")
        text = log.decode(errors="replace")
        end = f"{ending(process.returncode)}; it wrote: {log_tail(text)}" if process.returncode else ""
        return ProgramOutput(parse_shown_frames(text), rgb, end)

    def _start(self, command: Sequence[str], where: str) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise FrameDecodeError(f"{where}: the decoder is closed")
            process = start_bound(
                command,
                PROGRAM_BOUNDS,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                env=child_environment(),
            )
            self._running.add(process)
            return process


def find_ffmpeg() -> str:
    """Path of the ffmpeg program.

    Raises:
        ConfigurationError: there is none.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise ConfigurationError(
            "frames.backend ffmpeg needs the program ffmpeg (5.1 or later), which is not in PATH; install it "
            "(apt-get install ffmpeg) or set frames.backend to auto or pyav"
        )
    return program


def split_stretches(
    targets_seconds: NDArray[np.float64], tolerances_seconds: NDArray[np.float64]
) -> Iterator[Stretch]:
    """Cut rising targets where they are far apart, or a stretch would grow too long."""
    start = 0
    for number in range(1, len(targets_seconds) + 1):
        if (
            number == len(targets_seconds)
            or targets_seconds[number] - targets_seconds[number - 1] > STRETCH_GAP_SECONDS
            or targets_seconds[number] - targets_seconds[start] > STRETCH_SECONDS
        ):
            yield Stretch(targets_seconds[start:number], tolerances_seconds[start:number])
            start = number


def _check_file(video: EpisodeVideo, where: str, output: ProgramOutput) -> None:
    """A file that can't even be read is named as such."""
    if output.end and not output.shown:
        try:
            check_readable(video.span.path, where)
        except DatasetError as error:
            raise FrameDecodeError(f"{error} (ffmpeg: {output.end})") from error


def _chosen(stretch: Stretch, output: ProgramOutput, where: str) -> NDArray[np.uint8]:
    """The frame with the nearest PTS for each target: uint8 of shape (targets, height, width, 3)."""
    sizes = {(frame.height, frame.width) for frame in output.shown}
    if len(sizes) > 1:
        raise FrameDecodeError(f"{where}: the size changes within the video: {sorted(sizes)}")
    height, width = sizes.pop() if sizes else (0, 0)
    whole = len(output.rgb) // (height * width * 3) if sizes or output.shown else 0
    pts = np.array([frame.pts_seconds for frame in output.shown[:whole]])
    frames = np.frombuffer(output.rgb, np.uint8, count=whole * height * width * 3)
    chosen = []
    for target, tolerance in zip(stretch.targets_seconds, stretch.tolerances_seconds, strict=True):
        nearest = int(np.argmin(np.abs(pts - target))) if len(pts) else -1
        if nearest < 0 or abs(pts[nearest] - target) > tolerance:
            if output.end:
                raise FrameDecodeError(
                    f"{where}: decoding failed on the way to {target:.6f} s of the file: ffmpeg ended with "
                    f"{output.end}"
                )
            raise FrameMissingError(
                f"{where}: there is no frame within {tolerance:.6f} s of {target:.6f} s of the file"
            )
        chosen.append(nearest)
    # Frames that came whole are right even if the process failed later: with -xerror it stops at damage.
    return frames.reshape(whole, height, width, 3)[chosen]
