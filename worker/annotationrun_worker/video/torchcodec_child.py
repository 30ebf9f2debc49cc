"""The decoder's child process over torchcodec: ``python -m annotationrun_worker.video.torchcodec_child``.

It takes the requests ``index`` and ``frames`` of ``pyav_child`` and answers them in the same way; the
index shows one group, as torchcodec seeks by itself. torchcodec is an extra of this package; without it every
request is refused with the word how to install it.
"""

import importlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from annotationrun_worker.video.child_server import (
    OpenFiles,
    Picture,
    RefusedError,
    Request,
    send_index,
    serve,
)
from annotationrun_worker.video.decode_plan import FileIndex
from annotationrun_worker.video.shared_frames import FrameSender

MEMORY_BYTES = 8 * 1024**3
"""torch maps gigabytes of code, of which little is used."""

HOW_TO_INSTALL = "pip install 'annotationrun[torchcodec]'"

MATROSKA_START = b"\x1a\x45\xdf\xa3"
MP4_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp"})
"""The boxes that an mp4 or mov file can begin with (ISO/IEC 14496-12, QuickTime File Format)."""

SURE_SECONDS = 1e-4
"""No other frame of a camera can be nearer than one this near: do not look for one."""

BACK_SECONDS = 1e-6
"""Shorter than any time base's tick: what is shown just before a frame is the frame before it."""


DAMAGE = re.compile(
    r".*(error while decoding|concealing|corrupt|partial file|Invalid|Error parsing|[Mm]issing reference"
    r"|illegal|no frame!).*"
)
"""What FFmpeg's log says of damage that it patches up. torchcodec has no option that makes it an error."""

STANDARD_ERROR = 2


class FfmpegLog:
    """What FFmpeg writes to standard error while torchcodec decodes."""

    def __init__(self) -> None:
        # Else torchcodec silences FFmpeg; that pictures are patched up, it tells at this level.
        os.environ["TORCHCODEC_FFMPEG_LOG_LEVEL"] = "INFO"
        self._log = os.memfd_create("log")
        self._elsewhere = os.dup(STANDARD_ERROR)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Refuse what is done meanwhile if FFmpeg speaks of damage."""
        os.ftruncate(self._log, 0)
        os.lseek(self._log, 0, os.SEEK_SET)
        os.dup2(self._log, STANDARD_ERROR)
        try:
            yield
        finally:
            os.dup2(self._elsewhere, STANDARD_ERROR)
        log = os.pread(self._log, os.fstat(self._log).st_size, 0).decode(errors="replace")
        if damage := DAMAGE.search(log):
            raise RefusedError("decode", f"FFmpeg found damage: {damage[0]}")


class TorchcodecFile:
    """An open video whose frames' PTS torchcodec has listed; not safe for several threads."""

    def __init__(self, path: str, log: FfmpegLog) -> None:
        _check_container(path)
        self._path = path
        self._log = log
        self._open()
        metadata = self._decoder.metadata
        self._begin = float(metadata.begin_stream_seconds)
        self._end = float(metadata.end_stream_seconds)
        self._quarter_turns = _quarter_turns(metadata.rotation)

    def _open(self) -> None:
        try:
            self._decoder = _decoder_class()(
                self._path, dimension_order="NHWC", seek_mode="exact", num_ffmpeg_threads=1
            )
        except (RuntimeError, ValueError) as error:
            raise RefusedError("open", f"can't be opened as a video: {error}") from error

    def close(self) -> None:
        """Close the file."""
        del self._decoder

    def index(self) -> FileIndex:
        """The size, and one group that holds all frames."""
        metadata = self._decoder.metadata
        return FileIndex(
            width=metadata.width,
            height=metadata.height,
            key_seconds=np.array([self._begin]),
            key_numbers=np.zeros(1, dtype=np.int64),
            frame_count=len(self._decoder),
            end_seconds=self._end,
        )

    def pictures_at(
        self, targets_seconds: Sequence[float], tolerances_seconds: Sequence[float]
    ) -> Iterator[Picture]:
        """Give the frame with the nearest PTS for each target (rising).

        Raises:
            RefusedError: decoding failed, or the nearest frame is further away than its tolerance.
        """
        limits = [t + tolerance for t, tolerance in zip(targets_seconds, tolerances_seconds, strict=True)]
        shown = self._shown_at(limits, targets_seconds[-1])
        for (pts, frame), target, tolerance in zip(shown, targets_seconds, tolerances_seconds, strict=True):
            nearest, picture = pts, frame
            if pts - target > SURE_SECONDS and pts > self._begin:
                before, frame_before = self._shown_at([pts - BACK_SECONDS], target)[0]
                if target - before <= pts - target:
                    nearest, picture = before, frame_before
            if abs(nearest - target) > tolerance:
                raise RefusedError(
                    "no_frame",
                    f"the frame nearest to {target:.6f} s of the file is at {nearest:.6f} s, "
                    f"at most {tolerance:.6f} s off is taken",
                )
            rgb = picture.rot90(self._quarter_turns, (0, 1)).numpy()
            height, width, _ = rgb.shape
            yield Picture(f"{nearest:.3f} s of the file", width, height, rgb)

    def _shown_at(self, times_seconds: Sequence[float], target_seconds: float) -> list[tuple[float, Any]]:
        """PTS and frame (a tensor) of what is on the screen at each time (rising).

        ``target_seconds`` is what it is for, for the error.
        """
        inside = [max(time, self._begin) for time in times_seconds if time < self._end]
        behind = len(times_seconds) - len(inside)
        try:
            with self._log.watched():
                batch = self._decoder.get_frames_played_at(inside) if inside else None
                # By its number: a last frame that lasts no time is never on the screen.
                last = self._decoder.get_frame_at(len(self._decoder) - 1) if behind else None
        except (RuntimeError, ValueError, IndexError, RefusedError) as error:
            self._open()  # it would go on from a damaged picture, without a word
            raise RefusedError(
                "decode", f"decoding failed on the way to {target_seconds:.6f} s of the file: {error}"
            ) from error
        shown = [] if batch is None else list(zip(batch.pts_seconds.tolist(), batch.data, strict=True))
        return shown if last is None else [*shown, *[(last.pts_seconds, last.data)] * behind]


def _check_container(path: str) -> None:
    """Refuse what is no mp4 or mkv: torchcodec has no white list, and a playlist would open other files."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  (the path came as text and goes to FFmpeg as text)
            start = file.read(8)
    except OSError as error:
        raise RefusedError("open", f"can't be read: {error.strerror}") from error
    if not start.startswith(MATROSKA_START) and start[4:] not in MP4_BOXES:
        raise RefusedError("open", f"can't be opened as a video: it begins with {start!r}, as no mp4 does")


def _decoder_class() -> Any:  # noqa: ANN401  (torchcodec may be missing)
    try:
        return importlib.import_module("torchcodec.decoders").VideoDecoder
    except ImportError as error:
        raise RefusedError(
            "not_installed",
            f"frames.backend torchcodec: the package is not installed; {HOW_TO_INSTALL}, or set "
            "frames.backend to auto",
        ) from error
    except (RuntimeError, OSError) as error:
        raise RefusedError(
            "not_installed",
            f"frames.backend torchcodec: the package can't be loaded; it needs FFmpeg's shared libraries "
            f"(apt-get install ffmpeg) and the torch that it was built for ({HOW_TO_INSTALL}), or set "
            f"frames.backend to auto: {str(error).strip().splitlines()[0]}",
        ) from error


def _quarter_turns(rotation_degrees: float | None) -> int:
    """How often to turn a frame by 90 degrees, so that torchcodec's own turn is undone."""
    return round(-(rotation_degrees or 0.0) / 90) % 4


def main() -> None:
    """Serve requests until the input ends."""
    sender = FrameSender()
    log = FfmpegLog()
    files = OpenFiles(lambda path: TorchcodecFile(path, log))

    def carry_out(request: Request, answers: BinaryIO) -> Mapping[str, object]:
        if request["op"] == "index":
            send_index(answers, files.get(request["path"]).index())
        else:
            sender.send(request, answers, files.get)
        return {}

    serve(carry_out, MEMORY_BYTES)


if __name__ == "__main__":
    main()
