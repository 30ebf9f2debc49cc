"""Runs `annotationrun run` as a user does, against the demo model, and reads back what came of it."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from tests.support.checkout import REFERENCE
from tests.support.forked_command import forked_command

from annotationrun_worker.demo.vlm_server import run_server

CAMERAS = ("observation.images.front", "observation.images.wrist")

THIN_MODULES: dict[str, Any] = {
    "plan": {"taskRephrasings": 0, "emitMemory": False, "deriveTask": "Never"},
    "vqa": {},
}


@dataclass(frozen=True)
class Annotation:
    """The folders of one run."""

    source: Path
    output: Path
    staging: Path
    log: Path
    manifest: Path
    stdout: str = ""

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def write_manifest(
    folder: Path, dataset: Path | str, endpoint: str, modules: dict[str, Any] | None = None, **spec: Any
) -> Path:
    """A manifest that annotates `dataset`, a folder or a repository's name, into `folder/output`."""
    source = {"path": str(dataset)} if isinstance(dataset, Path) else {"repoID": dataset}
    content = {
        "apiVersion": "annotationrun.dev/v1alpha1",
        "kind": "AnnotationRun",
        "metadata": {"name": "test"},
        "spec": {
            "source": {**source, **spec.pop("source", {})},
            "output": spec.pop("output", {"path": str(folder / "output")}),
            "model": {"id": "demo-vlm", "serving": {"mode": "External", "endpoints": [endpoint]}},
            "modules": modules or THIN_MODULES,
            **spec,
        },
    }
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def run_command(
    *arguments: str | Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`annotationrun ARGUMENTS` in a process of its own, forked, with `environment` beside this one's."""
    return forked_command(*arguments, environment=environment)


def run_fresh_command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`annotationrun ARGUMENTS` in a Python of its own, so with another seed of hashes."""
    command = [sys.executable, "-m", "annotationrun_worker", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@contextmanager
def annotated(
    folder: Path, dataset: Path = REFERENCE, modules: dict[str, Any] | None = None, **spec: Any
) -> Iterator[Annotation]:
    """Annotate `dataset` with the demo model, which goes on serving within the context."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "model.log.jsonl"
    with run_server(log) as server:
        manifest = write_manifest(folder, dataset, server.base_url, modules, **spec)
        done = run_command("run", "-f", manifest)
        assert done.returncode == 0, done.stderr + done.stdout
        yield Annotation(dataset, folder / "output", folder / "output.staging", log, manifest, done.stdout)


def staged_rows(staging: Path) -> list[dict[str, Any]]:
    """Every staged row of every result."""
    files = sorted((staging / "results").rglob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().split("\n")[1:] if line]


@dataclass(frozen=True)
class EpisodeFrames:
    """An episode as its data file has it."""

    first_index: int
    timestamps: np.ndarray
    persistent: list[dict[str, Any]]
    events: list[list[dict[str, Any]]]


def read_frames(dataset: Path) -> dict[int, EpisodeFrames]:
    """By episode: global index of the first frame, timestamps, and both columns."""
    episodes = {}
    for file in sorted((dataset / "data").rglob("*.parquet")):
        table = pq.read_table(file)
        numbers = table["episode_index"].to_numpy()
        for number in np.unique(numbers):
            rows = table.take(np.flatnonzero(numbers == number))
            episodes[int(number)] = EpisodeFrames(
                first_index=rows["index"][0].as_py(),
                timestamps=rows["timestamp"].to_numpy(),
                persistent=rows["language_persistent"][0].as_py(),
                events=rows["language_events"].to_pylist(),
            )
    return episodes


def written_rows(dataset: Path, styles: Sequence[str]) -> list[tuple[Any, ...]]:
    """(episode, frame, style, role, camera, content) of the rows of these styles, as the dataset has them."""
    rows = []
    for number, episode in read_frames(dataset).items():
        for row in episode.persistent:
            frame = int(np.flatnonzero(episode.timestamps == np.float32(row["timestamp"]))[0])
            rows.append((number, frame, row["style"], row["role"], row["camera"], row["content"]))
        for frame, events in enumerate(episode.events):
            rows += [(number, frame, e["style"], e["role"], e["camera"], e["content"]) for e in events]
    return [row for row in rows if row[2] in styles]
