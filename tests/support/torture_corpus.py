"""The torture corpus: videos of every kind that a camera's file may be, each made here and wanted whole.

Every frame shows its number. Pictures are small (160 x 120, odd ones 161 x 121), so that the corpus is made
in seconds. What damages them is in ``torture_damage``.
"""

import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray
from tests.support.video_assets import ramp, write_pictures

from annotationrun_worker.demo import frame_code

FPS = 30.0
SEED = 1729

Options = Mapping[str, str]
Picture = Callable[[int], NDArray[np.uint8]]

H264 = {"threads": "1", "preset": "veryfast", "bf": "3", "g": "250", "x264-params": "b-adapt=0:scenecut=0"}
OPEN_H264 = H264 | {"g": "24", "x264-params": "open-gop=1:b-adapt=0:scenecut=0:b-pyramid=0"}
FIELDS_H264 = H264 | {"x264-params": "b-adapt=0:scenecut=0:tff=1"}
AV1 = {"preset": "12", "crf": "30", "svtav1-params": "lp=1"}
HEVC = {"preset": "ultrafast", "x265-params": "log-level=0:pools=1:frame-threads=1:keyint=48:bframes=3"}
VP9 = {"g": "48", "deadline": "realtime", "cpu-used": "8", "threads": "1", "crf": "30", "b": "0"}


@dataclass(frozen=True, slots=True)
class TortureVideo:
    """A video that ffmpeg can decode from end to end."""

    name: str
    path: Path
    pts_seconds: NDArray[np.float64]
    """When each frame is shown, rising."""
    numbers: Sequence[int]
    """What each frame shows."""
    facts: str
    """What the file is, as ``facts_of`` tells it."""
    starts_seconds: Sequence[float] = (0.0,)
    """Where in the file episodes start."""

    def targets_seconds(self) -> NDArray[np.float64]:
        """The frames' PTS as a dataset gives them: the episode's start, and float32 timestamps from there."""
        starts = np.array([max(s for s in self.starts_seconds if s <= t + 1e-3) for t in self.pts_seconds])
        targets: NDArray[np.float64] = starts + (self.pts_seconds - starts).astype(np.float32)
        return targets

    def gaps_seconds(self) -> NDArray[np.float64]:
        """The distance to the nearer neighbour, by frame."""
        steps = np.diff(self.pts_seconds) if len(self.pts_seconds) > 1 else np.array([1 / FPS])
        return np.minimum(np.append(steps[:1], steps), np.append(steps, steps[-1:]))[: len(self.pts_seconds)]


@cache
def small(number: int) -> NDArray[np.uint8]:
    """The reference frame at half its size, 160 x 120."""
    whole = frame_code.render(number, 0, 0).astype(np.float32)
    picture: NDArray[np.uint8] = whole.reshape(120, 2, 160, 2, 3).mean((1, 3)).round().astype(np.uint8)
    return picture


def odd(number: int) -> NDArray[np.uint8]:
    """161 x 121 pixels."""
    return np.pad(small(number), ((0, 1), (0, 1), (0, 0)), mode="edge")


def uneven(count: int) -> list[float]:
    """Times of a camera that drops frames and doubles its rate; in whole milliseconds, as mkv keeps them."""
    steps = np.random.default_rng(SEED).choice([0.017, 0.033, 0.034, 0.067, 0.2], count - 1)
    return [0.0, *np.cumsum(steps).round(3).tolist()]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a video is encoded."""

    facts: str
    codec: str = "libx264"
    options: Options = field(default_factory=lambda: H264)
    pix_fmt: str = "yuv420p"
    count: int = 120
    picture: Picture = small
    suffix: str = ".mp4"
    pts_seconds: Sequence[float] | None = None
    starts_seconds: Sequence[float] = (0.0,)


_LATE = [5.0 + i / FPS for i in range(60)]
_SECOND_START = 60 / FPS + 0.0071  # off the grid of the first one's frames
_STARTS = (0.0, _SECOND_START)
_TWO_EPISODES = [*ramp(60).tolist(), *(_SECOND_START + ramp(60).astype(np.float64)).tolist()]

_RECIPES: Mapping[str, Recipe] = {
    "AV1, g=2": Recipe("av1 yuv420p 160x120, 60 keys", "libsvtav1", AV1 | {"g": "2"}),
    "AV1, g=240": Recipe("av1 yuv420p 160x120, 2 keys", "libsvtav1", AV1 | {"g": "240"}, count=300),
    "AV1, 10 bit": Recipe("av1 yuv420p10le 160x120, 4 keys", "libsvtav1", AV1 | {"g": "30"}, "yuv420p10le"),
    "AV1, odd size": Recipe(
        "av1 yuv420p 161x121, 2 keys", "libsvtav1", AV1 | {"g": "30"}, count=60, picture=odd
    ),
    "AV1, one frame": Recipe("av1 yuv420p 160x120, 1 key", "libsvtav1", AV1 | {"g": "2"}, count=1),
    "H.264, B-frames, g=250": Recipe("h264 yuv420p 160x120, 2 keys, reordered", count=300),
    "H.264, open groups": Recipe("h264 yuv420p 160x120, 5 keys, reordered", options=OPEN_H264),
    "H.264, 10 bit": Recipe("h264 yuv420p10le 160x120, 1 key, reordered", pix_fmt="yuv420p10le"),
    "H.264, 4:4:4": Recipe("h264 yuv444p 160x120, 1 key, reordered", pix_fmt="yuv444p"),
    "H.264, 4:4:4, odd size": Recipe(
        "h264 yuv444p 161x121, 1 key, reordered", pix_fmt="yuv444p", count=60, picture=odd
    ),
    "H.264, interlaced": Recipe("h264 yuv420p 160x120, 1 key, reordered, interlaced", options=FIELDS_H264),
    "H.264, one frame": Recipe("h264 yuv420p 160x120, 1 key", count=1),
    "H.264, one frame, late, mkv": Recipe(
        "h264 yuv420p 160x120, 1 key, from 3 s", count=1, suffix=".mkv", pts_seconds=[3.0]
    ),
    "H.264, uneven rate": Recipe("h264 yuv420p 160x120, 1 key, reordered", pts_seconds=uneven(120)),
    "H.264, uneven rate, mkv": Recipe(
        "h264 yuv420p 160x120, 1 key, reordered", suffix=".mkv", pts_seconds=uneven(120)
    ),
    "H.264, from 5 s": Recipe(
        "h264 yuv420p 160x120, 1 key, reordered, from 5 s", count=60, pts_seconds=_LATE
    ),
    "H.264, from 5 s, mkv": Recipe(
        "h264 yuv420p 160x120, 1 key, reordered, from 5 s", count=60, pts_seconds=_LATE, suffix=".mkv"
    ),
    "H.264, two episodes": Recipe(
        "h264 yuv420p 160x120, 1 key, reordered",
        pts_seconds=_TWO_EPISODES,
        starts_seconds=(0.0, _SECOND_START),
    ),
    "HEVC, B-frames": Recipe("hevc yuv420p 160x120, 3 keys, reordered", "libx265", HEVC),
    "HEVC, 10 bit": Recipe("hevc yuv420p10le 160x120, 3 keys, reordered", "libx265", HEVC, "yuv420p10le"),
    "VP9": Recipe("vp9 yuv420p 160x120, 3 keys", "libvpx-vp9", VP9),
    "VP9, mkv": Recipe("vp9 yuv420p 160x120, 3 keys", "libvpx-vp9", VP9, suffix=".mkv"),
    "VP9, 4:4:4": Recipe("vp9 yuv444p 160x120, 2 keys", "libvpx-vp9", VP9, "yuv444p", count=60),
    "VP9, odd size": Recipe("vp9 yuv420p 161x121, 2 keys", "libvpx-vp9", VP9, count=60, picture=odd),
}


def make_intact_videos(folder: Path) -> list[TortureVideo]:
    """Write all videos of the corpus that are well into ``folder``."""
    encoded = {name: encode(folder, name, recipe) for name, recipe in _RECIPES.items()}
    return [*encoded.values(), *_derived(folder, encoded)]


def facts_of(path: Path) -> str:
    """Codec, pixel format, size, key frames, order, start and rotation of a video, in words."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        context = stream.codec_context
        ticks = [packet.pts for packet in packets if packet.pts is not None]
        kept = [packet.pts for packet in packets if packet.pts is not None and not packet.is_discard]
        start = float(min(kept) * stream.time_base) if stream.time_base else 0.0
        keys = sum(packet.is_keyframe for packet in packets)
        codec = f"{context.codec.canonical_name} {context.pix_fmt} {context.width}x{context.height}"
        is_bt709 = (context.color_range, context.colorspace) == (ColorRange.JPEG, Colorspace.ITU709)
    with av.open(str(path)) as container:
        first = next(container.decode(video=0))
    others = {
        "reordered": ticks != sorted(ticks),
        f"from {start:g} s": start > 1,
        f"{len(packets) - len(kept)} cut off": len(kept) < len(packets),
        "interlaced": first.interlaced_frame,
        f"turned by {first.rotation}": first.rotation,
        "full range BT.709": is_bt709,
    }
    words = [codec, f"{keys} key{'s' * (keys != 1)}", *(word for word, is_so in others.items() if is_so)]
    return ", ".join(words)


def run_ffmpeg(*arguments: str | Path) -> None:
    """Run the ffmpeg program; it must succeed."""
    command = ["ffmpeg", "-nostdin", "-y", "-loglevel", "error", *map(str, arguments)]
    subprocess.run(command, check=True, timeout=120)


def set_rotation(path: Path) -> None:
    """Make the header of the track say: turn by 90 degrees (ISO 14496-12, `tkhd`, version 0)."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40
    if struct.unpack_from(">i", content, matrix) != (0x10000,):
        raise ValueError(f"{path}: the track's header holds no plain matrix")
    struct.pack_into(">9i", content, matrix, 0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    path.write_bytes(content)


def encode(folder: Path, name: str, recipe: Recipe) -> TortureVideo:
    """Write the video into ``folder``; frame i shows number i."""
    times = [i / FPS for i in range(recipe.count)] if recipe.pts_seconds is None else recipe.pts_seconds
    path = folder / f"{_word(name)}{recipe.suffix}"
    pictures = map(recipe.picture, range(recipe.count))
    write_pictures(path, pictures, times, recipe.codec, recipe.pix_fmt, dict(recipe.options))
    numbers = range(recipe.count)
    return TortureVideo(name, path, np.asarray(times), numbers, recipe.facts, recipe.starts_seconds)


def _derived(folder: Path, encoded: Mapping[str, TortureVideo]) -> Iterator[TortureVideo]:
    """Videos that are made of others, mostly without encoding again."""
    plain, opened, av1 = (encoded[n] for n in ("H.264, 4:4:4", "H.264, open groups", "AV1, 10 bit"))
    h264 = encoded["H.264, uneven rate"]
    for name, source, facts in (
        ("H.264, edit list", plain, "h264 yuv444p 160x120, 1 key, reordered, 33 cut off"),
        ("H.264, open groups, edit list", opened, "h264 yuv420p 160x120, 4 keys, reordered, 12 cut off"),
        ("AV1, edit list", av1, "av1 yuv420p10le 160x120, 3 keys, 3 cut off"),
    ):
        # From a keyframe on, with a list that says: not shown before frame 33.
        path = folder / f"{_word(name)}.mp4"
        run_ffmpeg("-ss", "1.1", "-i", source.path, "-c", "copy", path)
        pts = source.pts_seconds[33:] - source.pts_seconds[33]
        yield TortureVideo(name, path, pts, source.numbers[33:], facts)

    path = folder / "fragments.mp4"
    run_ffmpeg("-i", opened.path, "-c", "copy", "-movflags", "frag_keyframe+empty_moov", path)
    facts = "h264 yuv420p 160x120, 5 keys, reordered"
    yield TortureVideo("H.264, fragments", path, opened.pts_seconds + 1 / FPS, opened.numbers, facts)

    path = Path(shutil.copy(h264.path, folder / "turned.mp4"))
    set_rotation(path)
    yield TortureVideo("H.264, turned", path, h264.pts_seconds, h264.numbers, f"{h264.facts}, turned by -90")

    path = folder / "full_range.mp4"
    run_ffmpeg(
        *("-i", opened.path, "-vf", "scale=out_color_matrix=bt709:out_range=pc", "-c:v", "libx264"),
        *("-colorspace", "bt709", "-color_range", "pc", "-g", "60", "-threads", "1", path),
    )
    facts = "h264 yuvj420p 160x120, 2 keys, reordered, full range BT.709"
    yield TortureVideo("H.264, full range", path, opened.pts_seconds, opened.numbers, facts)


def _word(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)
