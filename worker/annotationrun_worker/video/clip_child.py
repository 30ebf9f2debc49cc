"""The child process that encodes clips: ``python -m annotationrun_worker.video.clip_child``.

Request (see ``child_server`` for the answers)::

    {"path": "/c/.ep_000001.mp4.tmp", "fps": 30.0, "ticks_per_second": 90000, "pts_ticks": [0, 3000, ..]}

Behind it, for each tick of ``pts_ticks``, a line ``{"width": 320, "height": 240}`` and the frame's
``height * width * 3`` bytes (RGB, row by row). It answers ``{"frames": n}`` when the file is whole.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, BinaryIO

import av
import av.logging
import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.video.child_server import RefusedError, Request, serve

ENCODER = "libx264"

ENCODER_OPTIONS = {"preset": "ultrafast", "crf": "23", "threads": "1"}
"""One thread, so that the same frames give the same bytes on any number of cores: a request that carries the
clip is found again by its digest."""

FPS_DENOMINATOR_LIMIT = 1001
"""Holds 30000/1001 and its like exactly."""


def main() -> None:
    """Serve requests until the input ends."""
    av.logging.restore_default_callback()
    av.logging.set_libav_level(av.logging.ERROR)

    def carry_out(request: Request, answers: BinaryIO) -> Mapping[str, object]:
        pts_ticks = request["pts_ticks"]
        frames = _received_frames(len(pts_ticks))
        try:
            _encode(request, frames)
            found = _count_packets(request["path"])
        except (av.FFmpegError, OSError) as error:
            for _ in frames:  # the rest of what belongs to this request
                continue
            kind = "write" if isinstance(error, OSError) else "encode"  # the encoder's own are no OSErrors
            raise RefusedError(kind, f"encoding failed: {error}") from error
        if found != len(pts_ticks):
            raise RefusedError("encode", f"the encoded file holds {found} of {len(pts_ticks)} frames")
        return {"frames": found}

    serve(carry_out)


def _received_frames(count: int) -> Iterator[NDArray[np.uint8]]:
    for _ in range(count):
        header = json.loads(sys.stdin.buffer.readline())
        height, width = header["height"], header["width"]
        content = sys.stdin.buffer.read(height * width * 3)
        yield np.frombuffer(content, np.uint8).reshape(height, width, 3)


def _encode(request: Request, frames: Iterator[NDArray[np.uint8]]) -> None:
    time_base = Fraction(1, request["ticks_per_second"])
    pts_ticks: Sequence[int] = request["pts_ticks"]
    rate = Fraction(request["fps"]).limit_denominator(FPS_DENOMINATOR_LIMIT)
    durations = _durations(pts_ticks, round(1 / (rate * time_base)))
    with av.open(request["path"], "w", format="mp4") as container:
        stream: Any = None
        for pts, rgb in zip(pts_ticks, frames, strict=True):
            padded = _padded(rgb)
            if stream is None:
                stream = container.add_stream(ENCODER, rate=rate, options=ENCODER_OPTIONS)
                stream.height, stream.width = padded.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.time_base = stream.codec_context.time_base = time_base
            frame = av.VideoFrame.from_ndarray(padded, format="rgb24")
            frame.pts, frame.time_base = pts, time_base
            _write(container, stream.encode(frame), durations)
        _write(container, stream.encode(None), durations)


def _write(container: Any, packets: Sequence[Any], durations: Mapping[int, int]) -> None:  # noqa: ANN401
    for packet in packets:
        packet.duration = durations[packet.pts]  # the encoder knows none: the last frame would be a blink
        container.mux(packet)


def _durations(pts_ticks: Sequence[int], last: int) -> dict[int, int]:
    """How long each frame is shown, by its PTS."""
    stops = [*pts_ticks[1:], pts_ticks[-1] + last]
    return {pts: stop - pts for pts, stop in zip(pts_ticks, stops, strict=True)}


def _padded(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture with a black row and column more where yuv420p needs an even size."""
    height, width, _ = rgb.shape
    if height % 2 == 0 and width % 2 == 0:
        return rgb
    return np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)))


def _count_packets(path: str) -> int:
    with av.open(path, "r", format="mp4") as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


if __name__ == "__main__":
    main()
