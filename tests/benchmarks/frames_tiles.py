"""Tiles for contact sheets: made in the decoder's children, or in the worker of the whole frames.

    python -m tests.benchmarks.frames_tiles [FOLDER]

Both ways in turn, through the provider that a run has: seconds, and the CPU's seconds of worker and children.
"""

import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tests.benchmarks.frames_files import RATE, SECONDS, make_files

from annotationrun_worker.dataset.types import CameraKey, EpisodeIndex, EpisodeRecord, Features, VideoSpan
from annotationrun_worker.video.decoder import CHILDREN, DecoderProcess
from annotationrun_worker.video.provider import FrameSettings, VideoFrameProvider

CAMERA = CameraKey("camera")
FEATURES = Features(fps=RATE, cameras=(CAMERA,), camera_sizes={CAMERA: (640, 480)})
WIDTH = 224
"""The manifest's default."""
CACHE_BYTES = 128 * 1024 * 1024
"""Some rounds' frames: what is decoded takes the place of what was, as in a long run."""
FOLDER = Path(tempfile.gettempdir()) / "annotationrun-bench-frames"


@dataclass
class Way:
    """One way to tiles, and what it has taken so far."""

    provider: VideoFrameProvider
    decoder: DecoderProcess
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0

    def take(self, episode: EpisodeRecord) -> None:
        """A tile a second of the episode."""
        cpu, started = self._cpu_seconds(), time.perf_counter()
        tiles = self.provider.tiles_by_index(episode, range(0, SECONDS * RATE, RATE), WIDTH)
        self.seconds.append(time.perf_counter() - started)
        self.cpu_seconds += self._cpu_seconds() - cpu
        assert len(tiles) == SECONDS

    def _cpu_seconds(self) -> float:
        ticks = 0
        for pid in self.decoder.child_pids:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # utime and stime; see proc(5)
        return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def print_tiles(path: Path, rounds: int) -> None:
    """Measure both ways on a video, and print a line."""
    timestamps = (np.arange(SECONDS * RATE) / RATE).astype(np.float32)
    span = VideoSpan(path, 0.0, float(SECONDS))
    episode = EpisodeRecord(EpisodeIndex(0), "", timestamps, RATE, path, 0, {CAMERA: span})
    with ExitStack() as stack:
        ways = []
        for whole_cameras in (frozenset[CameraKey](), frozenset([CAMERA])):
            decoder = DecoderProcess(children=CHILDREN)
            settings = FrameSettings(cache_bytes=CACHE_BYTES, whole_cameras=whole_cameras)
            ways.append(Way(stack.enter_context(VideoFrameProvider(FEATURES, settings, decoder)), decoder))
            ways[-1].take(episode)  # the children start, the file is opened
        for way in ways:
            way.seconds, way.cpu_seconds = [], 0.0
        for number in range(1, rounds + 1):
            for way in ways:
                way.take(replace(episode, index=EpisodeIndex(number)))  # one that the cache does not know
        child, worker = ways
        ratio = statistics.median(b / a for a, b in zip(child.seconds, worker.seconds, strict=True))
        print(
            f"{SECONDS} tiles of {path.name} at 1 Hz: in the child {statistics.median(child.seconds):.3f} s "
            f"(CPU {child.cpu_seconds / rounds:.3f} s), in the worker "
            f"{statistics.median(worker.seconds):.3f} s (CPU {worker.cpu_seconds / rounds:.3f} s): "
            f"{ratio:.2f} times as fast, {worker.cpu_seconds / child.cpu_seconds:.2f} times less CPU"
        )


if __name__ == "__main__":
    files = make_files(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
    for video in (files.av1, files.h264):
        print_tiles(video, 10)
