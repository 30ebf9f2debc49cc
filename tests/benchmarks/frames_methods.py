"""Other ways to get frames out of a video, to compare with: each a function of the path and the times.

The two libraries run in a process of their own each, with the file kept open between calls, as our children
keep it: `python -m tests.benchmarks.frames_methods NAME` takes {"path": .., "targets_seconds": [..]} a line
and answers with the seconds that the decoding took.
"""

import importlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

Frames = list[NDArray[Any]]
Method = Callable[[str, Sequence[float]], Any]


def seed(path: str, targets_seconds: Sequence[float]) -> Frames:
    """One ffmpeg process a frame, `-ss` with three decimals, a PNG through a pipe."""
    frames = []
    for target in targets_seconds:
        command = [
            *("ffmpeg", "-nostdin", "-loglevel", "error", "-ss", f"{target:.3f}", "-i", path),
            *("-frames:v", "1", "-f", "image2pipe", "-vcodec", "png", "pipe:1"),
        ]
        done = subprocess.run(command, check=True, capture_output=True, timeout=120)
        frames.append(np.asarray(PIL.Image.open(io.BytesIO(done.stdout)).convert("RGB")).copy())
    return frames


def bare_start(times: int) -> None:
    """Start the ffmpeg program and let it do nothing."""
    for _ in range(times):
        subprocess.run(["ffmpeg", "-version"], check=True, capture_output=True)


def make_pyav(_: Sequence[str]) -> Method:
    """Seek for each frame and decode forward to it, with PyAV's own settings."""
    import av

    opened: dict[str, Any] = {}

    def decode(path: str, targets_seconds: Sequence[float]) -> Frames:
        if path not in opened:
            opened[path] = av.open(path)
        container = opened[path]
        stream = container.streams.video[0]
        half_tick = float(stream.time_base) / 2
        frames = []
        for target in targets_seconds:
            container.seek(int(target / stream.time_base), stream=stream)
            found = next(frame for frame in container.decode(stream) if frame.time >= target - half_tick)
            frames.append(found.to_ndarray(format="rgb24"))
        return frames

    return decode


def make_everything(_: Sequence[str]) -> Method:
    """PyAV with all threads from the first frame to the last; the wanted ones become RGB."""
    import av

    def decode(path: str, targets_seconds: Sequence[float]) -> Frames:
        frames: Frames = []
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            half_tick = float(stream.time_base or 0) / 2
            for frame in container.decode(stream):
                if (
                    len(frames) < len(targets_seconds)
                    and frame.time >= targets_seconds[len(frames)] - half_tick
                ):
                    frames.append(frame.to_ndarray(format="rgb24"))
        return frames

    return decode


def make_torchcodec(options: Sequence[str]) -> Method:
    """torchcodec's batch call; `options` may name the number of FFmpeg's threads (0: all, 1 by default)."""
    decoders: Any = importlib.import_module("torchcodec.decoders")
    threads = int(options[0]) if options else 1
    opened: dict[str, Any] = {}

    def decode(path: str, targets_seconds: Sequence[float]) -> Any:
        if path not in opened:
            opened[path] = decoders.VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=threads)
        # A microsecond later: what is on the screen then is the frame whose PTS is the target.
        return opened[path].get_frames_played_at([target + 1e-6 for target in targets_seconds]).data

    return decode


IN_PROCESS: dict[str, Callable[[Sequence[str]], Method]] = {
    "pyav": make_pyav,
    "torchcodec": make_torchcodec,
    "everything": make_everything,
}


class InProcess:
    """A process that decodes with one of `IN_PROCESS`."""

    def __init__(self, name: str, *options: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.frames_methods", name, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self, path: Path, targets_seconds: Sequence[float]) -> float:
        """How long the frames took, measured in the process itself."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"path": str(path), "targets_seconds": list(targets_seconds)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def main(name: str, options: Sequence[str]) -> None:
    """Decode what standard input asks for."""
    decode = IN_PROCESS[name](options)
    for line in sys.stdin:
        request = json.loads(line)
        started = time.perf_counter()
        frames = decode(request["path"], request["targets_seconds"])
        seconds = time.perf_counter() - started
        assert len(frames) == len(request["targets_seconds"])
        del frames
        print(seconds, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
