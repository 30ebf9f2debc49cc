"""What relabeling costs: a dataset on the Hub is annotated, then again after each kind of change.

    python -m tests.benchmarks.relabel [--json FILE] [--episodes N] [--check]

The Hub is the tests' own, which counts every byte; the dataset has one camera, with several episodes in each
file. A run has an empty cache, as a pod has; what was answered is staged. `whole dataset` is what downloading
the source and uploading the annotated dataset would move, which is what tools without a plan do each time.
"""

import argparse
import json
import os
import sys
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tests.benchmarks.measured_process import run_measured
from tests.support.annotation import write_manifest
from tests.support.hub_server.server import HubServer
from tests.support.hub_server.state import folder_contents
from tests.support.many_episodes import (
    CAMERA,
    FPS,
    HEIGHT,
    VIDEO_PATH,
    WIDTH,
    FileSizes,
    write_rows_and_metadata,
)
from tests.support.plausible_model import MODEL, kind_of, plausible_answer, plausible_server, text_of
from tests.support.video_assets import write_pictures

SOURCE, OUTPUT = "me/blocks", "me/blocks_annotated"
EPISODES, EPISODE_SECONDS = 200, 5
SIZES = FileSizes(data=60, video=30)
"""The last file of each kind has room: an episode more goes into it."""
LATENCY_SECONDS = 0.02
BLOCK_PIXELS = 8
MODULES: Mapping[str, Any] = {
    "plan": {"taskRephrasings": 0, "emitMemory": False, "deriveTask": "Never"},
    "vqa": {"emissionHz": 0.4, "questionTypes": ["count", "attribute"]},
}
CHANGED_PROMPTS = {
    "vqa_count": "Ask how many of one kind of thing there are, and answer. Task: {task}.",
    "vqa_attribute": "Ask about a property of one thing, and answer. Task: {task}.",
}
_MEGABYTE = 1e6


@dataclass(frozen=True, slots=True)
class Figures:
    """One run."""

    name: str
    vlm_requests: int
    bytes_pulled: int
    """All that the Hub sent, listings and the like too."""
    bytes_pushed: int
    video_bytes_pulled: int
    video_bytes_pushed: int
    commits: int
    wall_seconds: float


def make_dataset(root: Path, episodes: int) -> dict[str, bytes]:
    """The files of a dataset; one with more episodes begins with the same bytes of video."""
    frames = EPISODE_SECONDS * FPS
    write_rows_and_metadata(root, np.full(episodes, frames), SIZES)
    for file, first in enumerate(range(0, episodes, SIZES.video)):
        count = frames * min(SIZES.video, episodes - first)
        generator = np.random.default_rng(file)
        blocks = (HEIGHT // BLOCK_PIXELS, WIDTH // BLOCK_PIXELS, 3)
        pictures = (
            generator.integers(0, 256, blocks, dtype=np.uint8).repeat(BLOCK_PIXELS, 0).repeat(BLOCK_PIXELS, 1)
            for _ in range(count)
        )
        video = root / VIDEO_PATH.format(video_key=CAMERA, chunk_index=0, file_index=file)
        options = {"g": "2", "bf": "0", "preset": "ultrafast", "threads": "1"}
        write_pictures(video, pictures, [n / FPS for n in range(count)], options=options)
    return folder_contents(root)


def telling_answer(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """As the plausible model answers, but to another prompt with another question: as a model that reads."""
    answer = plausible_answer(body)
    if not kind_of(body).startswith("vqa_"):
        return answer
    return {**answer, "question": f"What about square {zlib.crc32(text_of(body).encode())}?"}


class Relabeling:
    """The manifest, its staging store, and the Hub."""

    def __init__(self, folder: Path, hub: HubServer) -> None:
        self.folder = folder
        self.hub = hub

    def run(self, name: str, **spec: Any) -> Figures:
        """`annotationrun run`, as a user starts it, on a machine that has nothing in its cache."""
        place = self.folder / name.replace(" ", "-")
        place.mkdir()
        self.hub.counters.clear()
        before = self._commits()
        with plausible_server(LATENCY_SECONDS, telling_answer) as server:
            model = {
                "id": MODEL,
                "serving": {"mode": "External", "endpoints": [server.base_url]},
                "coordinateScale": "Pixels",
            }
            output = {"repoID": OUTPUT}
            manifest = write_manifest(
                place, SOURCE, server.base_url, dict(MODULES), model=model, output=output, **spec
            )
            options = ["--cache", str(place / "cache"), "--staging", str(self.folder / "staging")]
            process = run_measured(
                [sys.executable, "-m", "annotationrun_worker", "run", "-f", str(manifest), *options],
                place,
                {**os.environ, **self.hub.environment},
            )
        if server.counts.refused:
            raise RuntimeError(f"the server was asked what it does not know: {server.counts.refused[0]}")
        counters = self.hub.counters
        return Figures(
            name=name,
            vlm_requests=server.counts.requests,
            bytes_pulled=sum(counters.sent_by_kind.values()),
            bytes_pushed=sum(counters.received_by_kind.values()),
            video_bytes_pulled=_of_videos(counters.served),
            video_bytes_pushed=_of_videos(counters.received),
            commits=self._commits() - before,
            wall_seconds=round(process.wall_seconds, 2),
        )

    def _commits(self) -> int:
        return len(self.hub.commits(OUTPUT)) if f"datasets/{OUTPUT}" in self.hub.hub.repos else 0


def _of_videos(counter: Mapping[tuple[str, str], int]) -> int:
    return sum(count for (_, path), count in counter.items() if path.endswith(".mp4"))


def _size(files: Mapping[str, bytes]) -> int:
    return sum(map(len, files.values()))


def measure(folder: Path, episodes: int) -> dict[str, Any]:
    """All runs, one after the other."""
    source = make_dataset(folder / "source", episodes)
    longer = make_dataset(folder / "longer", episodes + 1)
    with HubServer() as hub:
        hub.add_repo(SOURCE, source)
        relabeling = Relabeling(folder, hub)
        runs = [
            relabeling.run("full run"),
            relabeling.run("unchanged"),
            relabeling.run("one module changed", prompts=CHANGED_PROMPTS),
        ]
        hub.append_commit(SOURCE, longer)
        runs.append(relabeling.run("one episode added", prompts=CHANGED_PROMPTS))
        output = hub.files(OUTPUT)
    return {
        "episodes": episodes,
        "episode_seconds": EPISODE_SECONDS,
        "latency_seconds": LATENCY_SECONDS,
        "cpus": os.cpu_count(),
        "whole_dataset": {"bytes_pulled": _size(longer), "bytes_pushed": _size(output)},
        "runs": [asdict(figures) for figures in runs],
        "goals": _goals(runs),
    }


def _goals(runs: list[Figures]) -> dict[str, bool]:
    full, unchanged, changed, added = runs
    return {
        "unchanged: no request, no commit": (unchanged.vlm_requests, unchanged.commits) == (0, 0),
        "no video is pushed": not any(run.video_bytes_pushed for run in runs),
        "one module changed: fewer requests than all": 0 < changed.vlm_requests < full.vlm_requests,
        "one episode added: at most 2% of the requests": 0 < added.vlm_requests <= 0.02 * full.vlm_requests,
        "one commit a change": [run.commits for run in (changed, added)] == [1, 1],
    }


_ROWS = (
    ("VLM requests", "vlm_requests", 1.0),
    ("pulled [MB]", "bytes_pulled", _MEGABYTE),
    ("of it videos [MB]", "video_bytes_pulled", _MEGABYTE),
    ("pushed [MB]", "bytes_pushed", _MEGABYTE),
    ("of it videos [MB]", "video_bytes_pushed", _MEGABYTE),
    ("commits", "commits", 1.0),
    ("wall [s]", "wall_seconds", 1.0),
)


def print_table(result: Mapping[str, Any]) -> None:
    """The runs side by side, and what moving the whole dataset would have been."""
    print(f"{result['episodes']} episodes of {result['episode_seconds']} s; {result['cpus']} cores")
    columns = [*result["runs"], {"name": "whole dataset", **result["whole_dataset"]}]
    print(f"{'':<20}" + "".join(f"{column['name']:>20}" for column in columns))
    for title, name, unit in _ROWS:
        shown = (f"{column[name] / unit:.5g}" if name in column else "-" for column in columns)
        print(f"{title:<20}" + "".join(f"{text:>20}" for text in shown))
    for goal, met in result["goals"].items():
        print(f"goal {'met   ' if met else 'missed'}  {goal}")


def main() -> int:
    """Measure, print, and write the figures; 1 with `--check` where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("out/bench-relabel.json"))
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--check", action="store_true", help="end with 1 where a goal is missed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-relabel-") as folder:
        result = measure(Path(folder), arguments.episodes)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print_table(result)
    return int(arguments.check and not all(result["goals"].values()))


if __name__ == "__main__":
    sys.exit(main())
