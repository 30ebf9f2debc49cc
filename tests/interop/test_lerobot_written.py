"""We annotate what LeRobot wrote, and what LeRobot annotated, and LeRobot loads the outcome."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from tests.component.worker.video.frames_exact import count_wrong_frames
from tests.interop.lerobot_recordings import RECORDINGS, Recording
from tests.support.annotation import read_frames, run_command, write_manifest

from annotationrun_api.spec_source import parse_episodes
from annotationrun_worker.dataset.metadata import read_features, read_info
from annotationrun_worker.demo.vlm_server import run_server
from annotationrun_worker.video.provider import FrameSettings, make_frame_provider

pytest_plugins = ["tests.interop.lerobot_written"]
pytestmark = pytest.mark.timeout(2400)  # the first test makes LeRobot's environment

EVERY_MODULE: dict[str, Any] = {"plan": {}, "interjections": {}, "vqa": {}}
OWNED_STYLES: dict[str, frozenset[str | None]] = {
    "plan": frozenset({"task_aug", "subtask", "plan", "memory"}),
    "interjections": frozenset({"interjection", None}),
    "vqa": frozenset({"vqa"}),
}
"""Styles of each module's rows; None is the style of speech."""
BY_LEROBOT = "annotated by LeRobot"


@dataclass(frozen=True)
class Task:
    """One run of ours.

    Attributes:
        source: name of a recording, or `BY_LEROBOT`.
        modules: of the manifest.
        episodes: of the manifest; None is all.
    """

    source: str
    modules: dict[str, Any]
    episodes: str | None = None

    @property
    def owned_styles(self) -> frozenset[str | None]:
        """Styles of the rows that the run may write."""
        return frozenset().union(*(OWNED_STYLES[module] for module in self.modules))


ALONE = {f"{module} alone": Task("one camera", {module: {}}) for module in EVERY_MODULE}
OVER_LEROBOT = {
    "every module over two episodes of LeRobot": Task(BY_LEROBOT, EVERY_MODULE, "1-2"),
    "every module over the first two episodes of LeRobot": Task(BY_LEROBOT, EVERY_MODULE, "0-1"),
    "interjections over two episodes of LeRobot": Task(BY_LEROBOT, {"interjections": {}}, "1-2"),
    "vqa over two episodes of LeRobot": Task(BY_LEROBOT, {"vqa": {}}, "1-2"),
}
TASKS = {r.name: Task(r.name, EVERY_MODULE) for r in RECORDINGS} | ALONE | OVER_LEROBOT


@pytest.fixture(scope="module")
def outputs(
    lerobot_written: dict[str, Path], lerobot_annotated: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path | str]:
    """By name of the task: the annotated dataset, or what the command said when it failed."""
    sources = {**lerobot_written, BY_LEROBOT: lerobot_annotated}
    folder = tmp_path_factory.mktemp("runs")
    outcomes: dict[str, Path | str] = {}
    with run_server(folder / "model.log.jsonl") as server:
        for name, task in TASKS.items():
            place = folder / name
            place.mkdir()
            chosen = {"source": {"episodes": task.episodes}} if task.episodes else {}
            manifest = write_manifest(place, sources[task.source], server.base_url, task.modules, **chosen)
            done = run_command("run", "-f", manifest)
            outcomes[name] = place / "output" if done.returncode == 0 else done.stderr + done.stdout
    return outcomes


@pytest.fixture(scope="module")
def verdicts(judge: Callable[..., Mapping[str, Any]], outputs: dict[str, Path | str]) -> Mapping[str, Any]:
    """LeRobot's verdict on every output, from one process."""
    return judge({name: outcome for name, outcome in outputs.items() if isinstance(outcome, Path)})


def output_of(outputs: dict[str, Path | str], name: str) -> Path:
    outcome = outputs[name]
    assert isinstance(outcome, Path), outcome
    return outcome


@pytest.mark.parametrize("name", TASKS)
def test_lerobot_accepts_our_rows(
    name: str, outputs: dict[str, Path | str], verdicts: Mapping[str, Any]
) -> None:
    output_of(outputs, name)
    assert verdicts[name]["errors"] == []
    assert verdicts[name]["rows"], "no rows to judge"


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_every_frame_is_the_one_of_its_row(recording: Recording, outputs: dict[str, Path | str]) -> None:
    root = output_of(outputs, recording.name)
    provider = make_frame_provider(read_features(read_info(root)), FrameSettings(cache_bytes=0))
    try:
        asked = sum(recording.lengths) * len(recording.cameras)
        assert count_wrong_frames(root, provider) == (asked, 0)
    finally:
        provider.close()


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_every_episode_has_rows_of_every_module(recording: Recording, outputs: dict[str, Path | str]) -> None:
    by_episode = comparable_rows(output_of(outputs, recording.name))
    assert len(by_episode) == len(recording.lengths)
    for episode, rows in by_episode.items():
        styles = {row.style for row in rows}
        assert {"task_aug", "subtask", "plan", "vqa", None} <= styles, f"episode {episode}"


@pytest.mark.parametrize("name", ALONE)
def test_a_module_alone_writes_its_own_rows_only(name: str, outputs: dict[str, Path | str]) -> None:
    styles = {row.style for rows in comparable_rows(output_of(outputs, name)).values() for row in rows}
    assert styles
    assert styles <= TASKS[name].owned_styles


@pytest.mark.parametrize("name", OVER_LEROBOT)
def test_rows_of_lerobot_survive_but_for_the_chosen_modules_in_the_chosen_episodes(
    name: str, outputs: dict[str, Path | str], lerobot_annotated: Path
) -> None:
    owned = TASKS[name].owned_styles
    before, after = comparable_rows(lerobot_annotated), comparable_rows(output_of(outputs, name))
    all_styles = frozenset().union(*OWNED_STYLES.values())
    assert {row.style for rows in before.values() for row in rows} == all_styles
    chosen = {episode for episodes in parse_episodes(TASKS[name].episodes) for episode in episodes}
    assert len(chosen) == 2
    assert set(before) > chosen
    for episode in set(before) - chosen:
        assert before[episode]
        assert after[episode] == before[episode], f"episode {episode} was not chosen"
    for episode in chosen:
        kept = [row for row in before[episode] if row.style not in owned]
        assert [row for row in after[episode] if row.style not in owned] == kept
        replaced = {row for row in before[episode] if row.style in owned}
        made = {row for row in after[episode] if row.style in owned}
        # the first is one subtask long: nothing to remember, and no boundary to speak at
        impossible = {"memory", "interjection"} if episode == 0 else set()
        assert {row.style for row in made} == owned - impossible
        assert not {row for row in made & replaced if row.style == "vqa"}, "questions of LeRobot's model"


def test_interjections_alone_stand_where_lerobot_has_its_subtasks(
    outputs: dict[str, Path | str], lerobot_annotated: Path
) -> None:
    after = comparable_rows(output_of(outputs, "interjections over two episodes of LeRobot"))
    for episode in (1, 2):
        starts = {row.frame for row in after[episode] if row.style == "subtask"}
        asked = {row.frame for row in after[episode] if row.style == "interjection"}
        assert asked
        assert asked <= starts


def test_replacing_subtasks_under_interjections_of_lerobot_is_refused(
    lerobot_annotated: Path, tmp_path: Path
) -> None:
    with run_server(tmp_path / "model.log.jsonl") as server:
        chosen = {"episodes": "1-2"}
        manifest = write_manifest(tmp_path, lerobot_annotated, server.base_url, {"plan": {}}, source=chosen)
        done = run_command("run", "-f", manifest)
    assert done.returncode != 0
    assert "existingRows" in done.stderr
    assert not (tmp_path / "output").exists()


class Row(NamedTuple):
    """A row as any types may hold it; `said` is the JSON of its tool calls."""

    frame: int
    role: str
    style: str | None
    content: str | None
    camera: str | None
    said: str


def comparable_rows(dataset: Path) -> dict[int, list[Row]]:
    """By episode, sorted, whatever types the file has.

    LeRobot's own types hold the same rows in other clothes: timestamps in double precision, tool calls as
    structs with every key that any call of the file has.
    """
    rows: dict[int, list[Row]] = {}
    for number, episode in read_frames(dataset).items():
        of_frames = [
            (int(np.flatnonzero(episode.timestamps == np.float32(row["timestamp"]))[0]), row)
            for row in episode.persistent
        ] + [(frame, row) for frame, events in enumerate(episode.events) for row in events]
        rows[number] = sorted((_comparable(frame, row) for frame, row in of_frames), key=repr)
    return rows


def _comparable(frame: int, row: dict[str, Any]) -> Row:
    calls = [json.loads(call) if isinstance(call, str) else call for call in row["tool_calls"] or []]
    said = json.dumps([_without_nulls(call) for call in calls], sort_keys=True)
    return Row(frame, row["role"], row["style"], row["content"], row["camera"], said)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value
