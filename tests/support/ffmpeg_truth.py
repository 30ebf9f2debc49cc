"""What the ffmpeg program itself makes of a file: everything decoded from the start, without the product.

No seeking, no choice of frames, one thread, PTS as the file has them (``-copyts``), no rotation applied.
"""

import re
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TIMEOUT_SECONDS = 120.0

_CONFIG = re.compile(r"showinfo.* config in time_base: (\d+)/(\d+)")
_SHOWN = re.compile(r"showinfo.* n: *\d+ pts: *(-?\d+) .* s:(\d+)x(\d+) ")
_SAME_SECONDS = 1e-6


@dataclass(frozen=True, slots=True)
class DecodedFile:
    """The frames that ffmpeg gave, in its order."""

    pts_seconds: NDArray[np.float64]
    pictures: NDArray[np.uint8]
    """Shape (frames, height, width, 3), RGB."""

    def at(self, seconds: float, tolerance_seconds: float) -> list[NDArray[np.uint8]]:
        """The picture with the nearest PTS; several where PTS occur twice, none where all are too far."""
        return [self.pictures[i] for i in nearest_places(self.pts_seconds, seconds, tolerance_seconds)]


def nearest_places(pts_seconds: NDArray[np.float64], seconds: float, tolerance_seconds: float) -> list[int]:
    """Places of the PTS nearest to ``seconds``; none where all are further away than the tolerance."""
    if not len(pts_seconds):
        return []
    distances = np.abs(pts_seconds - seconds)
    limit = min(float(distances.min()) + _SAME_SECONDS, tolerance_seconds)
    return [int(place) for place in np.flatnonzero(distances <= limit)]


def decode_everything(path: Path, *, strict: bool = False) -> DecodedFile:
    """Decode the file from its start to its end, or if ``strict`` to the first damage that ffmpeg notices.

    A file that ffmpeg can't open, or of which it decodes nothing, gives no frames.
    """
    command = [
        *("ffmpeg", "-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+info", "-threads", "1"),
        *(("-err_detect", "explode") if strict else ()),
        *("-noautorotate", "-i", f"file:{path}", "-copyts", "-map", "0:v:0"),
        *(("-xerror",) if strict else ()),
        *("-vf", "format=rgb24,showinfo=checksum=0", "-fps_mode", "passthrough"),
        *("-threads", "1", "-flush_packets", "1", "-f", "rawvideo", "pipe:1"),
    ]
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_SECONDS, check=False)
    time_base, ticks, sizes = Fraction(0), [], []
    for line in done.stderr.decode(errors="replace").splitlines():
        if config := _CONFIG.search(line):
            time_base = Fraction(int(config[1]), int(config[2]))
        elif shown := _SHOWN.search(line):
            ticks.append(int(shown[1]))
            sizes.append((int(shown[3]), int(shown[2])))
    # Damage can change the size on the way: what comes before that is compared, nothing behind it.
    whole = next((place for place, size in enumerate(sizes) if size != sizes[0]), len(sizes))
    height, width = sizes[0] if sizes else (1, 1)
    whole = min(whole, len(done.stdout) // (height * width * 3))
    pictures = np.frombuffer(done.stdout, np.uint8, count=whole * height * width * 3)
    pts = np.array([float(tick * time_base) for tick in ticks[:whole]], np.float64)
    return DecodedFile(pts, pictures.reshape(whole, height, width, 3))


def frame_pts(path: Path) -> NDArray[np.float64]:
    """The PTS that the decoded frames carry, in order; NaN for none.

    ``decode_everything`` has ffmpeg's best guess at them, which differs where the file contradicts itself.
    """
    command = ["ffprobe", "-v", "quiet", "-select_streams", "v:0", "-show_frames"]
    command += ["-show_entries", "frame=pts_time", "-of", "csv=p=0", f"file:{path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    times = [line.split(",")[0] for line in done.stdout.splitlines() if line.strip()]
    return np.array([float("nan") if time == "N/A" else float(time) for time in times], np.float64)
