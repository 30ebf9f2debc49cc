"""The damaged part of the torture corpus: cut off, bits flipped, and files that never were videos.

What is asked of a damaged file is aimed: the frame that the damage hits, frames before it, which are well,
and one behind it, which is decoded from the damaged one unless a key frame lies between.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from tests.support.torture_corpus import (
    AV1,
    H264,
    HEVC,
    OPEN_H264,
    SEED,
    VP9,
    Recipe,
    TortureVideo,
    encode,
    run_ffmpeg,
)

IN_THE_INDEX = "bit in the index"
IN_A_PICTURE = "bit in a picture"
HEVC_NAME = "HEVC"
AV1_NAME = "AV1, g=2"

MP4_HEAD = b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41"
MATROSKA_HEAD = b"\x1a\x45\xdf\xa3"

FRAMES = 60
FLIPS_A_VIDEO = 40
OF_WHICH_IN_THE_INDEX = 8
CUTS_A_VIDEO = 7

_RECIPES: Mapping[str, Recipe] = {
    "H.264": Recipe("", options=H264, count=FRAMES),
    "H.264, open groups": Recipe("", options=OPEN_H264, count=FRAMES),
    AV1_NAME: Recipe("", "libsvtav1", AV1 | {"g": "2"}, count=FRAMES),
    HEVC_NAME: Recipe("", "libx265", HEVC, count=FRAMES),
    "VP9": Recipe("", "libvpx-vp9", VP9, count=FRAMES),
}


@dataclass(frozen=True, slots=True)
class DamagedVideo:
    """A video with a fault, and what to ask of it."""

    kind: str
    """For the table of counts."""
    path: Path
    intact: TortureVideo
    requests: tuple[tuple[int, ...], ...]
    """Numbers of frames, rising in each request."""


def make_damaged_videos(folder: Path) -> list[DamagedVideo]:
    """Write 50 truncated videos and 200 with a flipped bit into ``folder``."""
    draw = np.random.default_rng(SEED)
    folder = folder / "damaged"
    at_the_end = {name: encode(folder, name, recipe) for name, recipe in _RECIPES.items()}
    videos = [_index_first(video) for video in at_the_end.values()]
    damaged: list[DamagedVideo] = []
    for video in videos:
        damaged += _truncated(video, "cut off", CUTS_A_VIDEO)
        damaged += _flipped(video, draw)
    damaged += _truncated(_in_matroska(at_the_end["VP9"]), "cut off", CUTS_A_VIDEO)
    damaged += _truncated(_in_matroska(at_the_end["H.264"]), "cut off", CUTS_A_VIDEO - 3)
    damaged += _truncated(at_the_end[AV1_NAME], "cut off, index lost", CUTS_A_VIDEO - 3)
    return damaged


def make_no_videos(folder: Path) -> dict[str, Path]:
    """Write files called mp4 that are no videos into ``folder``."""
    draw = np.random.default_rng(SEED)
    contents = {
        "empty": b"",
        "one byte": b"\0",
        "text": b"this is no video\n" * 1000,
        "garbage": draw.bytes(50_000),
        "zeros": bytes(50_000),
        "garbage behind the head of an mp4": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41"
        + draw.bytes(50_000),
        "garbage behind the head of an mkv": b"\x1a\x45\xdf\xa3" + draw.bytes(50_000),
        "an mp4 of which nothing but the index is left": _without_pictures(folder),
    }
    paths = {name: folder / f"no_video_{number}.mp4" for number, name in enumerate(contents)}
    for name, path in paths.items():
        path.write_bytes(contents[name])
    return paths


def _index_first(video: TortureVideo) -> TortureVideo:
    """The same with the index before the pictures, so that what is left of it can be opened."""
    path = video.path.with_stem(f"{video.path.stem}_index_first")
    run_ffmpeg("-i", video.path, "-c", "copy", "-movflags", "+faststart", path)
    return TortureVideo(video.name, path, video.pts_seconds, video.numbers, video.facts)


def _in_matroska(video: TortureVideo) -> TortureVideo:
    path = video.path.with_suffix(".mkv")
    run_ffmpeg("-i", video.path, "-c", "copy", path)
    # Matroska counts in milliseconds.
    return TortureVideo(f"{video.name}, mkv", path, video.pts_seconds.round(3), video.numbers, video.facts)


def _without_pictures(folder: Path) -> bytes:
    video = _index_first(encode(folder, "index_only", _RECIPES["H.264"]))
    content = video.path.read_bytes()
    return content[: content.index(b"mdat") + 4]


def _truncated(video: TortureVideo, kind: str, cuts: int) -> Iterator[DamagedVideo]:
    content = video.path.read_bytes()
    for cut in range(cuts):
        size = round(len(content) * (cut + 0.5) / cuts)
        path = video.path.with_stem(f"{video.path.stem}_cut_{size}")
        path.write_bytes(content[:size])
        yield DamagedVideo(kind, path, video, _aimed(_frame_at(video, size))[:2])


def _flipped(video: TortureVideo, draw: np.random.Generator) -> Iterator[DamagedVideo]:
    content = video.path.read_bytes()
    pictures = content.index(b"mdat")
    for flip in range(FLIPS_A_VIDEO):
        in_index = flip < OF_WHICH_IN_THE_INDEX
        position = int(draw.integers(0, pictures) if in_index else draw.integers(pictures, len(content)))
        bit = int(draw.integers(8))
        changed = bytearray(content)
        changed[position] ^= 1 << bit
        path = video.path.with_stem(f"{video.path.stem}_flip_{position}_{bit}")
        path.write_bytes(changed)
        hit = int(draw.integers(FRAMES)) if in_index else _frame_at(video, position)
        yield DamagedVideo(IN_THE_INDEX if in_index else IN_A_PICTURE, path, video, _aimed(hit))


def _frame_at(video: TortureVideo, position: int) -> int:
    """Number of the frame whose packet holds the byte at ``position``, or is the next behind it."""
    with av.open(str(video.path)) as container:
        stream = container.streams.video[0]
        for packet in container.demux(stream):
            place = packet.pos
            if place is not None and packet.pts is not None and place + packet.size > position:
                seconds = float(packet.pts * packet.time_base)
                return int(np.argmin(np.abs(video.pts_seconds - seconds)))
    return FRAMES - 1


def _aimed(hit: int) -> tuple[tuple[int, ...], ...]:
    before = tuple(sorted({max(hit - 9, 0), max(hit - 5, 0)}))
    behind = min(hit + 7, FRAMES - 1)
    return (before, (hit,), (behind,))
