"""Our pipeline beside LeRobot's own: one dataset, one server that answers after 50 ms, 16 requests at once.

    python -m tests.benchmarks.pipeline [--json FILE] [--rounds N] [--ours-only] [--check]

Both annotate the reference dataset with all modules (LeRobot's switches off what ours does not do yet), each
in a process of its own that starts cold but for the page cache. The server looks at nothing and gives both
the same answers. `ideal` is the time that the answers alone take: requests x latency / requests at once.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.benchmarks.measured_process import ProcessFigures, run_measured
from tests.interop.judge_process import make_environment
from tests.interop.lerobot_pipeline import lerobot_annotate, lerobot_environment
from tests.support.annotated_dataset import copy_dataset
from tests.support.checkout import REFERENCE as DATASET
from tests.support.plausible_model import MODEL, Counts, plausible_server

from annotationrun_api.manifest import parse_manifest
from annotationrun_worker.pipeline.config import unsupported_settings

LATENCY_SECONDS = 0.05
REQUESTS_AT_ONCE = 16
GOAL_WALL_RATIO = 5.0
GOAL_BYTES_SHARE = 0.2
GOAL_RSS_MEBIBYTES = 700.0

_SWITCHES: dict[str, tuple[object, str]] = {
    "spec.modules.interjections": (None, "--interjections.enabled=false"),
    "spec.modules.plan.taskRephrasings": (0, "--plan.n_task_rephrasings=0"),
    "spec.modules.plan.emitMemory": (False, "--plan.emit_memory=false"),
    "spec.modules.plan.deriveTask": ("Never", "--plan.derive_task_from_video=off"),
}
"""What may be missing in ours: its value when off, and LeRobot's option for the same."""
_FRAMES = re.compile(r"(\d+) frames decoded")


@dataclass(frozen=True, slots=True)
class Figures:
    """One pipeline's run; the fields as in `ProcessFigures` and `Counts`."""

    wall_seconds: float
    cpu_seconds: float
    peak_rss_mebibytes: float
    largest_process_mebibytes: float
    requests: int
    requests_by_kind: dict[str, int]
    most_in_flight: int
    bytes_sent: int
    images_sent: int
    frames_decoded: int | None
    """None: it does not say."""
    ideal_seconds: float
    share_of_ideal: float


def benchmark_manifest() -> tuple[dict[str, Any], list[str]]:
    """A manifest of all modules that are supported; the paths of the settings that had to be switched off.

    Raises:
        RuntimeError: there is an unsupported setting that can't be switched off.
    """
    spec: dict[str, Any] = {
        "source": {"path": str(DATASET)},
        "output": {"path": "output"},
        "model": {
            "id": MODEL,
            "serving": {"mode": "External", "endpoints": ["http://127.0.0.1:1/v1"]},
            "coordinateScale": "Pixels",
        },
        "modules": {"plan": {}, "interjections": {}, "vqa": {}},
        "workers": {"requestConcurrency": REQUESTS_AT_ONCE},
    }
    manifest = {
        "apiVersion": "annotationrun.dev/v1alpha1",
        "kind": "AnnotationRun",
        "metadata": {"name": "bench"},
        "spec": spec,
    }
    run = parse_manifest(yaml.safe_dump(manifest), "bench.yaml")
    missing = [line.partition("=")[0] for line in unsupported_settings(run, endpoint_given=False)]
    if not _SWITCHES.keys() >= set(missing):
        raise RuntimeError(f"not supported, and with no switch here: {sorted(set(missing) - set(_SWITCHES))}")
    for path in missing:
        *parents, name = path.split(".")
        holder: dict[str, Any] = manifest
        for parent in parents:
            holder = holder[parent]
        holder[name] = _SWITCHES[path][0]
    return manifest, missing


def measure_ours(folder: Path, manifest: dict[str, Any]) -> Figures:
    """`annotationrun run`, as a user starts it."""

    def command(endpoint: str) -> list[str]:
        manifest["spec"]["model"]["serving"]["endpoints"] = [endpoint]
        manifest["spec"]["output"]["path"] = str(folder / "output")
        path = folder / "manifest.yaml"
        path.write_text(yaml.safe_dump(manifest), encoding="utf-8")
        return [sys.executable, "-m", "annotationrun_worker", "run", "-f", str(path)]

    return _measure(folder, command, os.environ)


def measure_lerobot(folder: Path, python: Path, options: Sequence[str]) -> Figures:
    """`lerobot-annotate`, which annotates a copy of the dataset in place."""
    dataset = copy_dataset(DATASET, folder / "dataset")
    at_once = f"--vlm.client_concurrency={REQUESTS_AT_ONCE}"

    def command(endpoint: str) -> list[str]:
        return lerobot_annotate(python, dataset, endpoint, MODEL, [at_once, *options])

    return _measure(folder, command, os.environ | lerobot_environment(folder / "cache"))


def _measure(folder: Path, command: Callable[[str], list[str]], environment: Any) -> Figures:
    with plausible_server(LATENCY_SECONDS) as server:
        process = run_measured(command(server.base_url), folder, environment)
    if server.counts.refused:
        raise RuntimeError(f"the server was asked what it does not know: {server.counts.refused[0]}")
    return _figures(process, server.counts)


def _figures(process: ProcessFigures, counts: Counts) -> Figures:
    ideal = counts.requests * LATENCY_SECONDS / REQUESTS_AT_ONCE
    frames = _FRAMES.search(process.stdout)
    return Figures(
        wall_seconds=round(process.wall_seconds, 2),
        cpu_seconds=round(process.cpu_seconds, 2),
        peak_rss_mebibytes=round(process.peak_rss_mebibytes, 1),
        largest_process_mebibytes=round(process.largest_process_mebibytes, 1),
        requests=counts.requests,
        requests_by_kind=dict(sorted(counts.kinds.items())),
        most_in_flight=counts.most_in_flight,
        bytes_sent=counts.bytes_received,
        images_sent=counts.images,
        frames_decoded=int(frames[1]) if frames else None,
        ideal_seconds=round(ideal, 3),
        share_of_ideal=round(ideal / process.wall_seconds, 4),
    )


def warm(python: Path) -> None:
    """Read both programs from the disk once: how cold the page cache is says nothing about either."""
    subprocess.run([sys.executable, "-m", "annotationrun_worker", "--help"], check=True, capture_output=True)
    subprocess.run(
        [str(python), "-P", "-c", "import lerobot.scripts.lerobot_annotate"], check=True, capture_output=True
    )


def run_rounds(folder: Path, rounds: int, *, with_lerobot: bool) -> dict[str, Any]:
    """Measure both in turn; of each the round with the shortest wall time counts."""
    manifest, missing = benchmark_manifest()
    python = make_environment() if with_lerobot else None
    runs: dict[str, list[Figures]] = {"ours": [], "lerobot": []}
    if python:
        warm(python)
    for number in range(rounds):
        if python:
            place = folder / f"lerobot-{number}"
            place.mkdir()
            runs["lerobot"].append(measure_lerobot(place, python, [_SWITCHES[path][1] for path in missing]))
        place = folder / f"ours-{number}"
        place.mkdir()
        runs["ours"].append(measure_ours(place, manifest))
    best = {
        name: min(of_one, key=lambda figures: figures.wall_seconds) for name, of_one in runs.items() if of_one
    }
    return {
        "dataset": DATASET.name,
        "latency_seconds": LATENCY_SECONDS,
        "requests_at_once": REQUESTS_AT_ONCE,
        "rounds": rounds,
        "switched_off": missing,
        **{name: asdict(figures) for name, figures in best.items()},
        "goals": _goals(best),
    }


def _goals(best: dict[str, Figures]) -> dict[str, bool]:
    ours = best["ours"]
    goals = {f"peak RSS < {GOAL_RSS_MEBIBYTES:.0f} MiB": ours.peak_rss_mebibytes < GOAL_RSS_MEBIBYTES}
    if "lerobot" in best:
        theirs = best["lerobot"]
        goals |= {
            f"wall time: {GOAL_WALL_RATIO:.0f} times faster": theirs.wall_seconds
            >= GOAL_WALL_RATIO * ours.wall_seconds,
            f"bytes: at most {GOAL_BYTES_SHARE:.0%}": ours.bytes_sent <= GOAL_BYTES_SHARE * theirs.bytes_sent,
        }
    return goals


_ROWS = (
    ("wall", "wall_seconds", "s"),
    ("CPU", "cpu_seconds", "s"),
    ("peak RSS of the process tree", "peak_rss_mebibytes", "MiB"),
    ("peak RSS of its largest process", "largest_process_mebibytes", "MiB"),
    ("requests", "requests", ""),
    ("most in flight", "most_in_flight", ""),
    ("bytes sent", "bytes_sent", ""),
    ("images sent", "images_sent", ""),
    ("frames decoded", "frames_decoded", ""),
    ("ideal", "ideal_seconds", "s"),
    ("share of the ideal", "share_of_ideal", ""),
)


def print_table(result: dict[str, Any]) -> None:
    """Both side by side, with LeRobot's figure by ours."""
    theirs = result.get("lerobot", {})
    print(f"{'':<32}{'ours':>12}{'LeRobot':>12}{'ratio':>8}")
    for title, name, unit in _ROWS:
        values = [result["ours"][name], theirs.get(name)]
        shown = "".join(f"{'-' if value is None else f'{value:g}':>12}" for value in values)
        ratio = f"{values[1] / values[0]:.1f}" if values[0] and values[1] else "-"
        print(f"{f'{title} [{unit}]' if unit else title:<32}{shown}{ratio:>8}")
    if result["switched_off"]:
        print(f"switched off in both: {', '.join(result['switched_off'])}")
    for goal, met in result["goals"].items():
        print(f"goal {'met   ' if met else 'missed'}  {goal}")


def main() -> int:
    """Measure, print, and write the figures; 1 with `--check` where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--json", type=Path, default=Path("out/bench-pipeline.json"), help="file for the figures"
    )
    parser.add_argument("--rounds", type=int, default=1, help="runs of each; the fastest counts")
    parser.add_argument("--ours-only", action="store_true", help="leave LeRobot's pipeline out")
    parser.add_argument("--check", action="store_true", help="end with 1 where a goal is missed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-pipeline-") as folder:
        result = run_rounds(Path(folder), arguments.rounds, with_lerobot=not arguments.ours_only)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print_table(result)
    return int(arguments.check and not all(result["goals"].values()))


if __name__ == "__main__":
    sys.exit(main())
