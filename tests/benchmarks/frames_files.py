"""The videos of the frame benchmark: made once by the ffmpeg program, kept in a folder.

640 x 480, 30 frames a second, 60 s: a moving test picture with noise that changes from frame to frame, as a
camera's does. AV1 as LeRobot records it (a keyframe every 2 frames), H.264 with x264's defaults (a keyframe
every 250 frames, B-frames), but none more where the scene changes.
"""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SECONDS = 60
RATE = 30
HOUR_SECONDS = 3600
CALLERS_FILES = 8

_SOURCE = f"testsrc2=s=640x480:r={RATE}:d={SECONDS},noise=c0s=8:c0f=t"
_ENCODERS = {
    "av1": ["-c:v", "libsvtav1", "-g", "2", "-crf", "30", "-preset", "10"],
    "h264": ["-c:v", "libx264", "-g", "250", "-sc_threshold", "0", "-preset", "medium"],
}


@dataclass(frozen=True, slots=True)
class BenchmarkFiles:
    """Paths of the videos."""

    av1: Path
    h264: Path
    av1_hour: Path
    """The AV1 file sixty times over."""
    for_callers: Sequence[Path]
    """AV1 and H.264 in turn."""


def make_files(folder: Path) -> BenchmarkFiles:
    """Make what is not there yet; takes some minutes the first time."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {name: _encoded(folder / f"{name}.mp4", options) for name, options in _ENCODERS.items()}
    hour = folder / "av1-hour.mp4"
    _ffmpeg(hour, ["-stream_loop", str(HOUR_SECONDS // SECONDS - 1), "-i", str(made["av1"]), "-c", "copy"])
    copies = []
    for number in range(CALLERS_FILES):
        source = made["h264" if number % 2 else "av1"]
        copy = folder / f"caller-{number}.mp4"
        if not copy.exists():
            shutil.copy(source, copy)
        copies.append(copy)
    return BenchmarkFiles(made["av1"], made["h264"], hour, copies)


def _encoded(path: Path, options: Sequence[str]) -> Path:
    _ffmpeg(path, ["-f", "lavfi", "-i", _SOURCE, "-pix_fmt", "yuv420p", *options])
    return path


def _ffmpeg(path: Path, arguments: Sequence[str]) -> None:
    if path.exists():
        return
    unfinished = path.with_name(f"unfinished-{path.name}")
    command = ["ffmpeg", "-nostdin", "-y", "-v", "error", *arguments, str(unfinished)]
    subprocess.run(command, check=True, capture_output=True)
    unfinished.replace(path)
