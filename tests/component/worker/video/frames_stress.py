"""Sixteen threads ask one provider for random frames of the reference dataset, without a cache.

    python -m tests.component.worker.video.frames_stress --seconds 60

prints for each backend how many frames were decoded, how many were wrong, and how many requests failed.
"""

import argparse
import logging
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from tests.component.worker.video.frames_exact import DATASET
from tests.support.video_assets import reference_episode, reference_features

from annotationrun_api.errors import AnnotationRunError
from annotationrun_worker.demo import frame_code
from annotationrun_worker.video.backends import BACKENDS
from annotationrun_worker.video.provider import FrameProvider, FrameSettings, make_frame_provider

THREADS = 16
FRAMES_A_CALL = 8
EPISODES = 6


@dataclass(frozen=True, slots=True)
class StressCounts:
    """Frames decoded, frames that are not those of their rows, calls that failed, children that died."""

    decoded: int
    wrong: int
    failed: int
    crashes: int


class CrashCount(logging.Handler):
    """Counts what the log says of children that died."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "process died" in record.getMessage()


def stress(backend: str, seconds: float, seed: int = 1729) -> StressCounts:
    """Ask from ``THREADS`` threads for ``seconds``, counted from the first answer."""
    episodes = [reference_episode(index) for index in range(EPISODES)]
    crashes = CrashCount()
    log = logging.getLogger("annotationrun_worker.video")
    log.addHandler(crashes)
    settings = FrameSettings(backend=backend, cache_bytes=0)
    try:
        with closing(make_frame_provider(reference_features(), settings)) as provider:
            provider.frames_by_index(episodes[0], [0])  # a library of hundreds of megabytes is loaded here
            stop = threading.Event()
            deadline = time.monotonic() + seconds

            def ask(thread: int) -> tuple[int, int]:
                draw = np.random.default_rng([seed, thread])
                wrong = failed = 0
                while not stop.is_set() and time.monotonic() < deadline:
                    episode = episodes[draw.integers(EPISODES)]
                    camera = int(draw.integers(len(provider.camera_keys)))
                    chosen = draw.integers(0, episode.frame_count, FRAMES_A_CALL).tolist()
                    # Beside the frames, but nearer to them than to their neighbours.
                    times = episode.timestamps_seconds[chosen] + draw.uniform(-0.4, 0.4, len(chosen)) / 30
                    try:
                        frames = provider.frames_at(episode, times.tolist(), provider.camera_keys[camera])
                    except AnnotationRunError:
                        failed += 1
                        continue
                    for index, frame in zip(chosen, frames, strict=True):
                        row = episode.dataset_from_index + index
                        expected = {"index": row, "camera": camera, "episode": int(episode.index)}
                        wrong += frame_code.read(frame.numpy()) != expected
                return wrong, failed

            return _counts(provider, _in_threads(ask, stop), crashes)
    finally:
        log.removeHandler(crashes)


def _in_threads(ask, stop) -> list[tuple[int, int]]:
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            return list(pool.map(ask, range(THREADS)))
        finally:
            stop.set()


def _counts(provider: FrameProvider, found: list[tuple[int, int]], crashes: CrashCount) -> StressCounts:
    wrong, failed = (sum(counts) for counts in zip(*found, strict=True))
    return StressCounts(provider.counts.decoded, wrong, failed, crashes.count)


def main(arguments: Sequence[str]) -> int:
    """Print the counts; 0 if nothing was wrong, failed or crashed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="for each backend")
    parser.add_argument("--backend", action="append", choices=list(BACKENDS))
    chosen = parser.parse_args(arguments)
    print(f"{THREADS} threads, {chosen.seconds:g} s a backend, {DATASET.name}")
    bad = 0
    for backend in chosen.backend or BACKENDS:
        counts = stress(backend, chosen.seconds)
        bad += counts.wrong + counts.failed + counts.crashes + (counts.decoded == 0)
        print(
            f"{backend:>11}: {counts.decoded} frames decoded, {counts.wrong} wrong, "
            f"{counts.failed} requests failed, {counts.crashes} crashes",
            flush=True,
        )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
