"""Ten thousand episodes go through every step in bounded memory, at a cost that grows as their number.

Each step is a process of its own, measured, with a thousand episodes too. The model is a server with fixed
answers, and pictures are drawn in place of decoded ones: what is measured is ours.
"""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.benchmarks.measured_process import ProcessFigures, run_measured
from tests.support.annotation import write_manifest
from tests.support.plausible_model import MODEL, plausible_server

FEW, MANY = 1_000, 10_000
PLAN_SECONDS = 60.0
RSS_MEBIBYTES = 500.0
MORE_AN_EPISODE = 0.1
"""By so much may sizes and counts an episode differ between a thousand and ten thousand."""
DEARER_AN_EPISODE = 3.0
"""So many times the CPU time an episode is allowed with ten times the episodes: a busy machine may double it,
and if it grew with their number it would be ten."""
MODULES: dict[str, Any] = {
    "plan": {"describeFirst": False, "taskRephrasings": 0, "emitMemory": False, "deriveTask": "Never"},
    "vqa": {"emissionHz": 0.1, "questionTypes": ["count"]},
}
"""Two requests an episode."""
CACHE_BYTES = 32 * 1024**2
"""Of decoded frames: a setting, and so no part of what is measured."""
KINDS = {"answers", "index", "plans", "progress", "results", "usage"}
"""Of staged objects."""
STEPS = ("plan", "annotate", "merge", "validate", "show")
ONE_GROUP = "merge, one row group a file"

pytestmark = pytest.mark.timeout(3000)


@dataclass(frozen=True)
class Measured:
    """What came of a dataset of so many `episodes`, and what each step cost."""

    episodes: int
    figures: dict[str, ProcessFigures]
    plan_bytes: int
    objects: Counter[str]
    """Number of staged objects by top folder."""
    requests: int
    data_digests: dict[str, dict[str, str]]
    """Of the merged data files, by merging step."""


def annotate_all(folder: Path, episodes: int) -> Measured:
    folder.mkdir()
    figures: dict[str, ProcessFigures] = {}
    staging = folder / "output.staging"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    outputs = {"merge": folder / "output", ONE_GROUP: folder / "again" / "output"}

    def measure(step: str, *arguments: str | Path) -> None:
        command = [sys.executable, "-m", "tests.support.flat_frames", *map(str, arguments)]
        figures[step] = run_measured(command, folder, environment)

    with plausible_server() as server:
        manifest = _manifest(folder, _dataset(folder, episodes), server.base_url)
        again = folder / "again"
        again.mkdir()
        other = _manifest(again, _dataset(again, episodes, "--one-row-group"), server.base_url)
        measure("plan", "plan", "-f", manifest)
        (plan,) = (staging / "plans").iterdir()
        plan_bytes = plan.stat().st_size
        measure("annotate", "annotate", "-f", manifest)
        objects = Counter(path.relative_to(staging).parts[0] for path in staging.rglob("*") if path.is_file())
        measure("merge", "merge", "-f", manifest)
        measure(ONE_GROUP, "merge", "-f", other, "--staging", staging)
    measure("validate", "validate", outputs["merge"])
    measure("show", "show", outputs["merge"])
    assert not server.counts.refused
    digests = {step: _digests(output / "data") for step, output in outputs.items()}
    return Measured(episodes, figures, plan_bytes, objects, server.counts.requests, digests)


def _dataset(folder: Path, episodes: int, *options: str) -> Path:
    """Made by a process of its own, as the largest of this one counts to what is measured from it."""
    root = folder / "dataset"
    command = [sys.executable, "-m", "tests.support.many_episodes", str(root), str(episodes), *options]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True, timeout=600)
    return root


def _manifest(folder: Path, dataset: Path, endpoint: str) -> Path:
    model = {
        "id": MODEL,
        "serving": {"mode": "External", "endpoints": [endpoint]},
        "coordinateScale": "Pixels",
    }
    return write_manifest(folder, dataset, endpoint, MODULES, model=model, frames={"cacheBytes": CACHE_BYTES})


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(folder.rglob("*.parquet"))
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return annotate_all(tmp_path_factory.mktemp("few") / "run", FEW)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return annotate_all(tmp_path_factory.mktemp("many") / "run", MANY)


def test_every_step_stays_in_bounds(few, many, capsys):
    with capsys.disabled():
        _print_table(few, many)
    too_large = {
        step: figures.largest_process_mebibytes
        for step, figures in many.figures.items()
        if figures.largest_process_mebibytes >= RSS_MEBIBYTES
    }
    assert many.figures.keys() == {*STEPS, ONE_GROUP}
    assert not too_large
    assert min(figures.largest_process_mebibytes for figures in many.figures.values()) > 0
    assert many.figures["plan"].wall_seconds < PLAN_SECONDS


@pytest.mark.parametrize("step", [*STEPS, ONE_GROUP])
def test_a_step_costs_no_more_an_episode_with_ten_times_the_episodes(few, many, step):
    ratio = many.figures[step].cpu_seconds / few.figures[step].cpu_seconds
    assert 0 < ratio < DEARER_AN_EPISODE * MANY / FEW


def test_what_is_staged_grows_as_the_number_of_episodes(few, many):
    assert many.requests / MANY == few.requests / FEW == 2
    assert many.plan_bytes / MANY == pytest.approx(few.plan_bytes / FEW, rel=MORE_AN_EPISODE)
    assert many.objects.keys() == few.objects.keys() == KINDS
    assert many.objects["usage"] == few.objects["usage"] == 1, "one a worker, however many episodes"
    assert many.objects.total() / MANY == pytest.approx(few.objects.total() / FEW, rel=MORE_AN_EPISODE)


def test_the_row_groups_of_the_source_do_not_show_in_the_merged_data(many):
    assert many.data_digests["merge"] == many.data_digests[ONE_GROUP]
    assert len(many.data_digests["merge"]) > 1


def _print_table(*measured: Measured) -> None:
    print(f"\n{'step':<30}{'episodes':>10}{'seconds':>10}{'CPU':>10}{'MiB':>8}")
    for step in measured[0].figures:
        for one in measured:
            figures = one.figures[step]
            print(
                f"{step:<30}{one.episodes:>10}{figures.wall_seconds:>10.1f}{figures.cpu_seconds:>10.1f}"
                f"{figures.largest_process_mebibytes:>8.0f}"
            )
    for one in measured:
        print(
            f"{one.episodes} episodes; an episode: {one.plan_bytes / one.episodes:.1f} bytes of plan.json, "
            f"{one.objects.total() / one.episodes:.2f} staged objects {dict(one.objects)}"
        )
