"""Our decoders beside others, on the same files in one run: ratios count, not seconds.

    python -m tests.benchmarks.frames [--json FILE] [--quick] [--check]

Every round carries out each row by each method in turn; the figures are medians over the rounds, the ratios
medians of the rounds' own ratios. `warm`: the children run and have the file open, and so do the libraries in
process. `cold`: the children run, the file was not opened before. `start`: the children start as well.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.frames_callers import CALLERS, decode
from tests.benchmarks.frames_files import RATE, SECONDS, BenchmarkFiles, make_files
from tests.benchmarks.frames_methods import InProcess, bare_start, seed
from tests.benchmarks.frames_tiles import FOLDER, print_tiles
from tests.benchmarks.measured_process import tree_pss_bytes

from annotationrun_worker.video.backends import BACKENDS, make_decoder

ROUNDS = 5
DEFAULT = "auto"
GOAL_SLOWEST_OF_LIBRARIES = 1.05
GOAL_SUM = 1.2
GOAL_CALLERS = 0.9
GOAL_PSS_MEBIBYTES = 1024
LIBRARIES = ("PyAV", "torchcodec", "torchcodec, all threads")


@dataclass(frozen=True, slots=True)
class Row:
    """One request."""

    name: str
    path: Path
    targets_seconds: Sequence[float]
    goal_over_seed: float


def rows_of(files: BenchmarkFiles) -> list[Row]:
    """The requests that are measured."""
    at_1_hz = [float(second) for second in range(SECONDS)]
    at_2_hz = [half / 2 for half in range(2 * SECONDS)]
    neighbours = [(20 * RATE + number) / RATE for number in range(4)]
    return [
        Row("AV1 g=2, 60 frames at 1 Hz", files.av1, at_1_hz, 25),
        Row("AV1 g=2, 120 frames at 2 Hz", files.av1, at_2_hz, 25),
        Row("H.264 g=250, 60 frames at 1 Hz", files.h264, at_1_hz, 7),
        Row("H.264 g=250, 120 frames at 2 Hz", files.h264, at_2_hz, 7),
        Row("AV1 g=2, 4 neighbouring frames", files.av1, neighbours, 20),
    ]


Timed = Callable[[Row], float]


def timed(work: Callable[[Row], object]) -> Timed:
    """``work`` with a watch."""

    def run(row: Row) -> float:
        started = time.perf_counter()
        frames = work(row)
        seconds = time.perf_counter() - started
        del frames  # the others free theirs when the watch has stopped, too
        return seconds

    return run


def methods(stack: ExitStack, folder: Path, backends: Sequence[str], *, with_seed: bool) -> dict[str, Timed]:
    """All that are compared, by name; the processes end with ``stack``."""

    def ours(name: str) -> Timed:
        decoder = stack.enter_context(closing(make_decoder(name)))
        return timed(lambda row: decode(decoder, row.path, row.targets_seconds))

    def in_process(name: str, *options: str) -> Timed:
        process = stack.enter_context(closing(InProcess(name, *options)))
        return lambda row: process.seconds(row.path, row.targets_seconds)

    colds = (folder / f"{number}.mp4" for number in itertools.count())
    cold_decoder = stack.enter_context(closing(make_decoder(DEFAULT)))

    def new_file(row: Row) -> Path:
        path = next(colds)
        shutil.copy(row.path, path)
        return path

    def cold(row: Row) -> float:
        path = new_file(row)
        return timed(lambda row: decode(cold_decoder, path, row.targets_seconds))(row)

    def start(row: Row) -> float:
        with closing(make_decoder(DEFAULT)) as decoder:
            return timed(lambda row: decode(decoder, row.path, row.targets_seconds))(row)

    all_methods: dict[str, Timed] = {}
    if with_seed:
        all_methods["seed"] = timed(lambda row: seed(str(row.path), row.targets_seconds))
    all_methods |= {
        "PyAV": in_process("pyav"),
        "torchcodec": in_process("torchcodec"),
        "torchcodec, all threads": in_process("torchcodec", "0"),
        "everything": in_process("everything"),
    }
    all_methods |= {f"ours: {name}": ours(name) for name in backends}
    return all_methods | {"ours, cold": cold, "ours, start": start}


def measure_rows(
    rows: Sequence[Row], by_name: Mapping[str, Timed], rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Seconds of each round by row and method; one more round goes ahead for what is kept open."""
    seconds: dict[str, dict[str, list[float]]] = {row.name: {name: [] for name in by_name} for row in rows}
    for number in range(-1, rounds):
        for row in rows:
            for name, method in by_name.items():
                if number >= 0 or name != "seed":  # it keeps nothing open
                    taken = method(row)
                    if number >= 0:
                        seconds[row.name][name].append(taken)
    return seconds


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def fastest_library(of_row: Mapping[str, Sequence[float]]) -> str:
    """The library in process with the shortest median."""
    return min(LIBRARIES, key=lambda name: statistics.median(of_row[name]))


def goals_of_rows(
    rows: Sequence[Row], seconds: Mapping[str, Mapping[str, Sequence[float]]]
) -> dict[str, Any]:
    """What the ratios must be, what they are."""
    ours, goals = f"ours: {DEFAULT}", {}
    library_sum = [0.0] * len(seconds[rows[0].name][ours])
    for row in rows:
        of_row = seconds[row.name]
        if "seed" in of_row:
            ratio = median_ratio(of_row["seed"], of_row[ours])
            goals[f"{row.name}: times faster than the seed"] = _goal(ratio, row.goal_over_seed)
        best = of_row[fastest_library(of_row)]
        library_sum = [a + b for a, b in zip(library_sum, best, strict=True)]
        ratio = median_ratio(of_row[ours], best)
        goals[f"{row.name}: seconds over {fastest_library(of_row)}'s"] = _goal(
            ratio, GOAL_SLOWEST_OF_LIBRARIES, at_most=True
        )
    our_sum = [sum(one) for one in zip(*(seconds[row.name][ours] for row in rows), strict=True)]
    goals["sum of all rows: times faster than the faster library"] = _goal(
        median_ratio(library_sum, our_sum), GOAL_SUM
    )
    return goals


def _goal(value: float, goal: float, *, at_most: bool = False) -> dict[str, Any]:
    return {
        "value": round(value, 3),
        "goal": goal,
        "at_most": at_most,
        "met": value <= goal if at_most else value >= goal,
    }


def measure_callers(folder: Path, rounds: int, requests: int) -> dict[str, Any]:
    """Throughput and memory of 1 to 16 callers, in a process of their own."""
    command = [sys.executable, "-m", "tests.benchmarks.frames_callers", str(folder)]
    command += ["--rounds", str(rounds), "--requests", str(requests)]
    peak_bytes = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        ended = threading.Event()

        def watch() -> None:
            nonlocal peak_bytes
            while not ended.wait(0.1):
                peak_bytes = max(peak_bytes, tree_pss_bytes(process.pid))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        printed, _ = process.communicate()
        ended.set()
        watcher.join()
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    figures: dict[str, Any] = json.loads(printed)
    by_callers = {
        callers: statistics.median(one[str(callers)] for one in figures["requests_a_second"])
        for callers in CALLERS
    }
    share = statistics.median(
        one[str(CALLERS[-1])] / max(one.values()) for one in figures["requests_a_second"]
    )
    return {
        "requests_a_second": by_callers,
        "hour_cold_seconds": figures["hour_cold_seconds"],
        "hour_warm_seconds": figures["hour_warm_seconds"],
        "peak_pss_mebibytes": round(peak_bytes / 1024**2, 1),
        "goals": {
            f"{CALLERS[-1]} callers: share of the best throughput": _goal(share, GOAL_CALLERS),
            "peak PSS of the process tree [MiB]": _goal(
                peak_bytes / 1024**2, GOAL_PSS_MEBIBYTES, at_most=True
            ),
        },
    }


def print_rows(rows: Sequence[Row], seconds: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """The medians, a method a line."""
    print(f"{'median seconds':<26}" + "".join(f"{row.name.replace(' frames', ''):>27}" for row in rows))
    for name in seconds[rows[0].name]:
        medians = [statistics.median(seconds[row.name][name]) for row in rows]
        print(f"{name:<26}" + "".join(f"{median:>27.4f}" for median in medians))


def print_goals(goals: Mapping[str, Mapping[str, Any]]) -> None:
    """A goal a line."""
    for name, goal in goals.items():
        word = "met   " if goal["met"] else "missed"
        sign = "<=" if goal["at_most"] else ">="
        print(f"goal {word} {name}: {goal['value']:g} ({sign} {goal['goal']:g})")


def main() -> int:
    """Measure, print, and write the figures; 1 with `--check` where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("out/bench-frames.json"), help="for the figures")
    parser.add_argument("--quick", action="store_true", help="one round, fewer requests of the callers")
    parser.add_argument("--no-seed", action="store_true", help="leave the seed's method out: it is slow")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--backend", action="append", choices=list(BACKENDS), help="those to measure")
    parser.add_argument("--files", type=Path, default=FOLDER, help="where the videos are kept")
    parser.add_argument("--check", action="store_true", help="end with 1 where a goal is missed")
    chosen = parser.parse_args()
    rounds = 1 if chosen.quick else chosen.rounds
    rows = rows_of(make_files(chosen.files))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-frames-")))
        backends = list(dict.fromkeys([DEFAULT, *(chosen.backend or BACKENDS)]))
        by_name = methods(stack, folder, backends, with_seed=not chosen.no_seed)
        seconds = measure_rows(rows, by_name, rounds)
    starts = [timed(lambda _: bare_start(1))(rows[0]) for _ in range(10)]
    callers = measure_callers(chosen.files, rounds, 16 if chosen.quick else 48)
    goals = goals_of_rows(rows, seconds) | callers.pop("goals")
    start = statistics.median(starts)
    print_rows(rows, seconds)
    print(f"bare start of one ffmpeg: {start:.4f} s")
    shown = ", ".join(f"{n}: {value:.1f}" for n, value in callers["requests_a_second"].items())
    print(f"requests a second by callers: {shown}; peak PSS {callers['peak_pss_mebibytes']:g} MiB")
    print(f"60 frames of one hour: cold {callers['hour_cold_seconds']:.3f} s, ", end="")
    print(f"warm {callers['hour_warm_seconds']:.3f} s")
    files = make_files(chosen.files)
    print_tiles(files.av1, rounds)
    print_goals(goals)
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    figures = {"rounds": rounds, "seconds": seconds, "bare_start_seconds": start, **callers, "goals": goals}
    chosen.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return int(chosen.check and not all(goal["met"] for goal in goals.values()))


if __name__ == "__main__":
    sys.exit(main())
