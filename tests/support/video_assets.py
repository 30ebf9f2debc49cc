"""Videos made for a test, each frame carrying its number in its pixels, and episodes that lie in them."""

import itertools
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from tests.support.checkout import REFERENCE

from annotationrun_worker.dataset.episodes import list_episodes, read_episode
from annotationrun_worker.dataset.metadata import read_features, read_info
from annotationrun_worker.dataset.types import CameraKey, EpisodeIndex, EpisodeRecord, Features, VideoSpan
from annotationrun_worker.demo import frame_code

CAMERA = CameraKey("observation.images.front")
FEATURES = Features(fps=30.0, cameras=(CAMERA,), camera_sizes={CAMERA: (320, 240)})
TICKS_PER_SECOND = 15360

LONG_GROUPS_WITH_B_FRAMES = {
    "bf": "3",
    "g": "250",
    "preset": "veryfast",
    "x264-params": "b-adapt=0:scenecut=0",
}
OPEN_GROUPS_WITH_B_FRAMES = {
    "bf": "3",
    "g": "24",
    "preset": "veryfast",
    "x264-params": "open-gop=1:b-adapt=0:scenecut=0:b-pyramid=0",
}


def write_video(
    path: Path,
    numbers: Sequence[int],
    pts_seconds: Sequence[float],
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> None:
    """Write a video whose frame i shows number ``numbers[i]`` (camera 0, episode 0) at ``pts_seconds[i]``."""
    pictures = (frame_code.render(number, 0, 0) for number in numbers)
    write_pictures(path, pictures, pts_seconds, codec, pix_fmt, options)


def write_pictures(
    path: Path,
    pictures: Iterable[NDArray[np.uint8]],
    pts_seconds: Sequence[float],
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> None:
    """Write a video whose frame i is ``pictures[i]`` at ``pts_seconds[i]``; all of one size."""
    pictures = iter(pictures)
    first = next(pictures)
    size = (first.shape[1], first.shape[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=30, options=options or LONG_GROUPS_WITH_B_FRAMES)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.time_base = stream.codec_context.time_base = Fraction(1, TICKS_PER_SECOND)
        for picture, seconds in zip(itertools.chain([first], pictures), pts_seconds, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(seconds * TICKS_PER_SECOND), Fraction(1, TICKS_PER_SECOND)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def copy_packets(source: Path, target: Path, start_seconds: float, shift_seconds: float) -> None:
    """Copy the packets shown from ``start_seconds`` on to a file of their own, ``shift_seconds`` earlier."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0], opaque=True)
        for packet in reader.demux(video=0):
            if packet.pts is None or packet.pts * packet.time_base < start_seconds:
                continue
            ticks = round(shift_seconds / packet.time_base)
            packet.pts, packet.dts = packet.pts - ticks, packet.dts - ticks
            packet.stream = stream
            writer.mux(packet)


def episode_in(
    path: Path, timestamps_seconds: Sequence[float], from_timestamp_seconds: float, index: int = 0
) -> EpisodeRecord:
    """An episode with these timestamps whose only video is ``path``."""
    timestamps = np.asarray(timestamps_seconds, dtype=np.float32)
    stop = from_timestamp_seconds + float(timestamps[-1]) + 1 / 30
    return EpisodeRecord(
        index=EpisodeIndex(index),
        task="Put the block down",
        timestamps_seconds=timestamps,
        fps=30.0,
        data_path=path.with_suffix(".parquet"),
        dataset_from_index=0,
        videos={CAMERA: VideoSpan(path, from_timestamp_seconds, stop)},
    )


def reference_features() -> Features:
    """Features of the reference dataset."""
    return read_features(read_info(REFERENCE))


def reference_episode(index: int, root: Path = REFERENCE) -> EpisodeRecord:
    """An episode of the reference dataset (or of a copy of it), with both cameras."""
    info = read_info(root)
    return read_episode(root, info, list_episodes(root, info)[index], read_features(info).cameras)


def shown_number(frame: Any) -> int | None:
    """The number that a frame (tensor or array) shows; None if it can't be read."""
    code = frame_code.read(np.asarray(frame))
    return None if code is None else int(code["index"])


def packet_places(path: Path) -> list[tuple[int, int]]:
    """(position, size) in bytes of each packet of the video, in file order."""
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


def overwrite(path: Path, position: int, content: bytes) -> None:
    """Write ``content`` over the bytes at ``position``."""
    with path.open("r+b") as file:
        file.seek(position)
        file.write(content)


def ramp(count: int, step: float = 1 / 30) -> NDArray[np.float32]:
    """``count`` timestamps as LeRobot writes them: number times step, as float32."""
    return (np.arange(count) * step).astype(np.float32)
