"""The ffmpeg program's arguments for frames by PTS, and what its log says of the frames it gave.

Everything goes by PTS: ``-copyts`` keeps those of the file, ``select`` lets the frames near the targets pass,
and ``showinfo`` tells each one's PTS in ticks, so that nothing rests on a rounded time or on counting.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from annotationrun_worker.dataset.types import FRAME_PIXELS_LIMIT

FORMAT_WHITELIST = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm"
"""A file that calls itself mp4 but holds a playlist must not make FFmpeg open other files or addresses."""

MICROSECOND = 1e-6
"""What ``-ss`` and ``trim`` count in."""

_CONFIG = re.compile(r"showinfo.* config in time_base: (\d+)/(\d+)")
_SHOWN = re.compile(r"showinfo.* n: *\d+ pts: *(-?\d+) .* s:(\d+)x(\d+) ")
_LOUD = re.compile(r"\[(error|fatal|panic)\]")
_TAIL_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class ShownFrame:
    """A frame that ffmpeg wrote, as ``showinfo`` tells of it."""

    pts_seconds: float
    width: int
    height: int


def build_decode_command(
    program: str,
    path: Path,
    targets_seconds: Sequence[float],
    tolerances_seconds: Sequence[float],
    seek_seconds: float,
    frame_size: tuple[int, int] | None = None,
) -> list[str]:
    """Arguments to write the frames near the targets (rising) as raw RGB to standard output.

    Decoding starts at the keyframe at or before ``seek_seconds``. The first frame decoded is written whether
    a target is near it or not: its PTS tells where decoding began. At most twice as many frames as targets
    are written, and no more bytes than frames of ``frame_size`` (width, height) have, if that is given.
    """
    windows = [
        f"between(t,{target - tolerance:.9f},{target + tolerance:.9f})"
        for target, tolerance in zip(targets_seconds, tolerances_seconds, strict=True)
    ]
    end = targets_seconds[-1] + tolerances_seconds[-1] + MICROSECOND
    filters = [
        f"trim=end={math.ceil(end / MICROSECOND)}us",
        f"select='eq(n,0)+{_sum(windows)}'",
        "scale=flags=bicubic",
        "format=rgb24",
        "showinfo=checksum=0",
    ]
    most_frames = 2 * len(windows) + 1
    bound = [] if frame_size is None else ["-fs", str((most_frames + 1) * 3 * frame_size[0] * frame_size[1])]
    seek = ["-seek_timestamp", "1", "-ss", f"{math.floor(seek_seconds / MICROSECOND)}us"]
    return [
        *(program, "-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+info"),
        # One thread, as packets behind the frames wanted are not to be touched: damage there is not theirs.
        *("-threads", "1", "-err_detect", "explode", "-noautorotate"),
        *("-max_pixels", str(FRAME_PIXELS_LIMIT)),
        *("-protocol_whitelist", "file", "-format_whitelist", FORMAT_WHITELIST),
        *("-noaccurate_seek", *(seek if seek_seconds > 0 else ()), "-i", f"file:{path}"),
        *("-copyts", "-map", "0:v:0", "-xerror", "-filter_threads", "1", "-vf", ",".join(filters)),
        *("-fps_mode", "passthrough", "-frames:v", str(most_frames), *bound),
        # What was decoded before damage is reached is written out before ffmpeg stops there.
        *("-threads", "1", "-flush_packets", "1", "-f", "rawvideo", "pipe:1"),
    ]


def parse_shown_frames(log: str) -> list[ShownFrame]:
    """The frames that ffmpeg wrote, in order, from its log."""
    time_base = Fraction(0)
    frames = []
    for line in log.splitlines():
        if config := _CONFIG.search(line):
            time_base = Fraction(int(config[1]), int(config[2]))
        elif shown := _SHOWN.search(line):
            frames.append(ShownFrame(float(int(shown[1]) * time_base), int(shown[2]), int(shown[3])))
    return frames


def log_tail(log: str) -> str:
    """What ffmpeg complained of, on one line; else the end of its log, but for the frames that it lists."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    loud = [line for line in lines if _LOUD.search(line)]
    calm = [line for line in lines if "_showinfo_" not in line]
    return " | ".join(loud or calm[-3:])[-_TAIL_CHARACTERS:]


def _sum(terms: Sequence[str]) -> str:
    """The terms added up as a balanced tree: ffmpeg's parser takes no chain of more than a hundred."""
    if len(terms) == 1:
        return terms[0]
    half = len(terms) // 2
    return f"({_sum(terms[:half])}+{_sum(terms[half:])})"
