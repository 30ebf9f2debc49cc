"""Many callers on one decoder: `python -m tests.benchmarks.frames_callers FOLDER` prints JSON.

The same requests, over eight files, are carried out by 1, 2, 4, 8 and 16 threads in turn; then frames of
the one-hour file. The caller measures this process and its children from outside.
"""

import argparse
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tests.benchmarks.frames_files import HOUR_SECONDS, RATE, SECONDS, BenchmarkFiles, make_files

from annotationrun_worker.dataset.types import CameraKey, EpisodeIndex, VideoSpan
from annotationrun_worker.video.backends import make_decoder
from annotationrun_worker.video.decoder import Decoder, EpisodeVideo

CALLERS = (1, 2, 4, 8, 16)
FRAMES_A_REQUEST = 8
TOLERANCE_SECONDS = 0.01


def video_of(path: Path) -> EpisodeVideo:
    """The file as one episode."""
    return EpisodeVideo(EpisodeIndex(0), CameraKey("camera"), VideoSpan(path, 0.0, float("inf")), 1)


def decode(decoder: Decoder, path: Path, targets_seconds: Sequence[float]) -> NDArray[np.uint8]:
    """The frames, which the caller frees: who measures does so when the watch has stopped."""
    targets = np.asarray(targets_seconds, dtype=np.float64)
    frames = decoder.frames(video_of(path), targets, np.full(len(targets), TOLERANCE_SECONDS))
    assert len(frames) == len(targets)
    return frames


def requests_of(files: BenchmarkFiles, count: int) -> list[tuple[Path, list[float]]]:
    """(file, times) of each request: eight frames at 1 Hz from a drawn frame on, the files in turn."""
    draw = np.random.default_rng(8)
    latest = (SECONDS - FRAMES_A_REQUEST) * RATE
    return [
        (
            files.for_callers[number % len(files.for_callers)],
            [int(draw.integers(latest)) / RATE + second for second in range(FRAMES_A_REQUEST)],
        )
        for number in range(count)
    ]


def requests_a_second(decoder: Decoder, requests: Sequence[tuple[Path, list[float]]], callers: int) -> float:
    """Throughput of so many threads that share the requests."""
    left = iter(requests)
    taking = threading.Lock()

    def work(_: int) -> None:
        while True:
            with taking:
                request = next(left, None)
            if request is None:
                return
            decode(decoder, *request)

    started = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(work, range(callers)))
    return len(requests) / (time.perf_counter() - started)


def hour_seconds(decoder: Decoder, path: Path) -> float:
    """How long 60 frames take that are a minute apart."""
    started = time.perf_counter()
    decode(decoder, path, [float(second) for second in range(0, HOUR_SECONDS, 60)])
    return time.perf_counter() - started


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=48)
    chosen = parser.parse_args()
    files = make_files(chosen.folder)
    requests = requests_of(files, chosen.requests)
    rounds: list[dict[int, float]] = []
    with closing(make_decoder("auto")) as decoder:
        requests_a_second(decoder, requests[: 2 * len(files.for_callers)], 4)
        for _ in range(chosen.rounds):
            rounds.append({callers: requests_a_second(decoder, requests, callers) for callers in CALLERS})
        hour = [hour_seconds(decoder, files.av1_hour) for _ in range(2)]
    print(
        json.dumps({"requests_a_second": rounds, "hour_cold_seconds": hour[0], "hour_warm_seconds": hour[1]})
    )


if __name__ == "__main__":
    main()
