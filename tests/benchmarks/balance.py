"""Skewed episodes over four workers: how close a run comes to the shortest time that it could take.

    python -m tests.benchmarks.balance [--json FILE] [--rounds N] [--check]

The dataset is one episode of ten minutes among fifty of five seconds, the long one in their midst. The server
answers each request after a fixed time, however many it has, so that nothing counts but how the workers share
the episodes and keep their requests in flight. No run can be shorter than the largest of

- all requests x latency / requests that all workers together have in flight;
- the requests of the long episode x latency / requests that one worker has in flight, as a result is made by
  one worker;
- the longest chain of requests that must follow each other x latency.

In the first case the long episode is the bound: who has it must do nothing else, and never wait for frames.
In the second the sum is: who takes more episodes than it can ask about leaves the others idle in the end. In
the third a chain is: the memory of the long episode grows subtask by subtask, and must not queue behind the
questions about its frames.
`makespan` is from the first request to the last answer; `wall` is the whole command with the start of five
processes, planning and merging. The goal holds for `wall` too where the machine has a core for each worker.
"""

import argparse
import json
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.benchmarks.measured_process import run_measured
from tests.support.annotation import write_manifest
from tests.support.many_episodes import (
    CAMERA,
    FPS,
    HEIGHT,
    VIDEO_PATH,
    WIDTH,
    write_rows_and_metadata,
)
from tests.support.plausible_model import (
    MODEL,
    MOST_SUBTASKS,
    kind_of,
    plausible_answer,
    plausible_server,
    text_of,
)
from tests.support.video_assets import write_pictures

LONG_SECONDS, SHORT_SECONDS, SHORT_EPISODES = 600, 5, 50
LONG_PLACE = 20
"""Index of the long episode."""
WORKERS = 4
GOAL_RATIO = 1.1
BLOCK_PIXELS = 8
WINDOW_FRAMES, SAMPLES_A_SECOND = 60, 2
"""Of the plan module, by default."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked, and how long the answers take."""

    name: str
    modules: dict[str, Any]
    requests_in_flight: int
    """Of one worker."""
    latency_seconds: float
    long_requests: int
    """About the long episode."""
    short_requests: int
    """About each short one."""
    chain: int
    """Requests that must follow each other, at most."""

    @property
    def requests(self) -> int:
        return self.long_requests + SHORT_EPISODES * self.short_requests

    @property
    def bound_seconds(self) -> float:
        """No run can be shorter."""
        rounds = max(
            self.requests / (WORKERS * self.requests_in_flight),
            self.long_requests / self.requests_in_flight,
            self.chain,
        )
        return rounds * self.latency_seconds


LOOKED_AT = {"questionTypes": ["count", "attribute", "spatial"]}
"""Questions without coordinates, whose scale each worker would try first."""
_WINDOWS = -(-(LONG_SECONDS * SAMPLES_A_SECOND + 1) // WINDOW_FRAMES)  # the last frame is a sample too
_MEMORIES = _WINDOWS * MOST_SUBTASKS - 1
CASES = (
    Case(
        name="the long episode is the bound",
        modules={"vqa": {"emissionHz": 1.0, **LOOKED_AT}},
        requests_in_flight=16,
        latency_seconds=1.0,
        long_requests=LONG_SECONDS,
        short_requests=SHORT_SECONDS,
        chain=1,
    ),
    Case(
        name="the sum is the bound",
        modules={
            "plan": {"emitMemory": False, "taskRephrasings": 0},
            "vqa": {"emissionHz": 0.02, "framesPerTick": 15, **LOOKED_AT},
        },
        requests_in_flight=4,
        latency_seconds=0.8,
        long_requests=2 * _WINDOWS + 12 * 15,
        short_requests=2 + 15,
        chain=2,
    ),
    Case(
        name="a chain is the bound",
        modules={"plan": {"taskRephrasings": 0}, "vqa": {"emissionHz": 1.0, **LOOKED_AT}},
        requests_in_flight=16,
        latency_seconds=0.3,
        long_requests=2 * _WINDOWS + _MEMORIES + LONG_SECONDS,
        short_requests=2 + SHORT_SECONDS,
        chain=2 + _MEMORIES,
    ),
)


@dataclass(frozen=True, slots=True)
class Figures:
    """One run of a case."""

    requests: int
    most_in_flight: int
    bound_seconds: float
    makespan_seconds: float
    before_seconds: float
    """From the start of the command to the first request."""
    after_seconds: float
    """From the last answer to the end of the command."""
    wall_seconds: float
    ratio: float
    """Makespan over bound."""
    wall_ratio: float


def make_dataset(root: Path) -> Path:
    """The skewed dataset, all episodes in one file of each kind."""
    lengths = np.full(SHORT_EPISODES + 1, SHORT_SECONDS * FPS)
    lengths[LONG_PLACE] = LONG_SECONDS * FPS
    write_rows_and_metadata(root, lengths)
    frames = int(lengths.sum())
    video = root / VIDEO_PATH.format(video_key=CAMERA, chunk_index=0, file_index=0)
    options = {"g": "2", "bf": "0", "preset": "ultrafast"}
    write_pictures(video, _pictures(frames), [n / FPS for n in range(frames)], options=options)
    return root


def _pictures(count: int) -> Iterator[NDArray[np.uint8]]:
    """No two alike: a question that was asked before is not asked again."""
    generator = np.random.default_rng(9)
    blocks = (HEIGHT // BLOCK_PIXELS, WIDTH // BLOCK_PIXELS, 3)
    for _ in range(count):
        small = generator.integers(0, 256, blocks, dtype=np.uint8)
        yield small.repeat(BLOCK_PIXELS, 0).repeat(BLOCK_PIXELS, 1)


def growing_memory(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """As the plausible model answers, but no two memories are alike, as with a model that reads them."""
    if kind_of(body) == "memory":
        return {"memory": f"I pushed the square on {zlib.crc32(text_of(body).encode())} times."}
    return plausible_answer(body)


def measure(case: Case, dataset: Path, folder: Path) -> Figures:
    """`annotationrun run --workers 4`, as a user starts it.

    Raises:
        RuntimeError: it asked for something else than what the bound counts.
    """
    folder.mkdir()
    with plausible_server(case.latency_seconds, growing_memory) as server:
        model = {
            "id": MODEL,
            "serving": {"mode": "External", "endpoints": [server.base_url]},
            "coordinateScale": "Pixels",
        }
        workers = {"requestConcurrency": case.requests_in_flight}
        manifest = write_manifest(
            folder, dataset, server.base_url, case.modules, model=model, workers=workers
        )
        command = ["run", "-f", str(manifest), "--workers", str(WORKERS)]
        process = run_measured([sys.executable, "-m", "annotationrun_worker", *command], folder, os.environ)
    counts = server.counts
    if counts.refused or counts.requests != case.requests:
        raise RuntimeError(
            f"{case.name}: {counts.requests} requests {dict(counts.kinds)}, expected {case.requests}; "
            f"refused: {counts.refused[:1]}"
        )
    first, last = counts.first_request_seconds, counts.last_answer_seconds
    assert first is not None
    assert last is not None
    makespan, bound = last - first, case.bound_seconds
    return Figures(
        requests=counts.requests,
        most_in_flight=counts.most_in_flight,
        bound_seconds=round(bound, 2),
        makespan_seconds=round(makespan, 2),
        before_seconds=round(first - process.started_seconds, 2),
        after_seconds=round(process.started_seconds + process.wall_seconds - last, 2),
        wall_seconds=round(process.wall_seconds, 2),
        ratio=round(makespan / bound, 3),
        wall_ratio=round(process.wall_seconds / bound, 3),
    )


def run_rounds(folder: Path, rounds: int) -> dict[str, Any]:
    """Measure each case; of its rounds the one with the shortest wall time counts."""
    dataset = make_dataset(folder / "dataset")
    cases = []
    for number, case in enumerate(CASES):
        runs = [measure(case, dataset, folder / f"{number}-{turn}") for turn in range(rounds)]
        best = min(runs, key=lambda figures: figures.wall_seconds)
        cases.append({**asdict(case), **asdict(best), "goal_met": best.ratio <= GOAL_RATIO})
    return {
        "episodes": f"1 of {LONG_SECONDS} s, {SHORT_EPISODES} of {SHORT_SECONDS} s",
        "workers": WORKERS,
        "cpus": os.cpu_count(),
        "rounds": rounds,
        "goal_ratio": GOAL_RATIO,
        "cases": cases,
    }


_ROWS = (
    ("latency [s]", "latency_seconds"),
    ("in flight, a worker", "requests_in_flight"),
    ("most in flight", "most_in_flight"),
    ("requests", "requests"),
    ("lower bound [s]", "bound_seconds"),
    ("makespan [s]", "makespan_seconds"),
    ("before the first request [s]", "before_seconds"),
    ("after the last answer [s]", "after_seconds"),
    ("wall [s]", "wall_seconds"),
    ("makespan / bound", "ratio"),
    ("wall / bound", "wall_ratio"),
)


def print_table(result: dict[str, Any]) -> None:
    """The cases side by side."""
    print(f"{result['episodes']}; {result['workers']} workers, {result['cpus']} cores")
    print(f"{'':<32}" + "".join(f"{case['name']:>32}" for case in result["cases"]))
    for title, name in _ROWS:
        print(f"{title:<32}" + "".join(f"{case[name]:>32g}" for case in result["cases"]))
    for case in result["cases"]:
        verdict = "met   " if case["goal_met"] else "missed"
        print(f"goal {verdict}  {case['name']}: makespan at most {GOAL_RATIO} x the lower bound")


def main() -> int:
    """Measure, print, and write the figures; 1 with `--check` where the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("out/bench-balance.json"))
    parser.add_argument("--rounds", type=int, default=1, help="runs of each case; the fastest counts")
    parser.add_argument("--check", action="store_true", help="end with 1 where the goal is missed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-balance-") as folder:
        result = run_rounds(Path(folder), arguments.rounds)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print_table(result)
    return int(arguments.check and not all(case["goal_met"] for case in result["cases"]))


if __name__ == "__main__":
    sys.exit(main())
