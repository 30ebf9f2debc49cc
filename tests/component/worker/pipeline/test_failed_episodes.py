"""Episodes that fail: how many may, and what is published without them."""

import json
import re
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.support.annotated_dataset import annotate_by_hand
from tests.support.annotation import CAMERAS, REFERENCE, read_frames, run_command, write_manifest
from tests.support.module_runs import demo_model, run_here
from tests.support.openai_server import Reply, scripted_server

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.errors import IncompleteError
from annotationrun_worker.language.validate import validate_dataset

VQA = {"vqa": {"emissionHz": 0.5, "questionTypes": ["count"]}}
ONE_AFTER_ANOTHER = {"episodeConcurrency": 1, "requestConcurrency": 1, "episodeAttempts": 1}

LONGEST_FIRST = (1050, 903, 570, 360, 225, 120)
"""Frames of the reference dataset's episodes."""


@pytest.fixture
def broken_video(tmp_path: Path) -> Path:
    """An annotated dataset with the end of one mp4 (episode 5, wrist) missing."""
    source = annotate_by_hand(REFERENCE, tmp_path / "broken")
    video = source / f"videos/{CAMERAS[1]}/chunk-000/file-001.mp4"
    content = video.read_bytes()
    video.unlink()
    video.write_bytes(content[: int(len(content) * 0.4)])
    return source


def test_an_allowed_failure_is_listed_and_its_rows_stay(broken_video: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with demo_model() as server:
        manifest = write_manifest(
            run, broken_video, server.base_url, VQA, failurePolicy={"maxFailedEpisodes": "17%"}
        )
        done = run_command("run", "-f", manifest, "--report", run / "report.json")
        again = run_command("run", "-f", manifest)
    assert done.returncode == ExitCode.OK, done.stderr
    assert "failed: episode 5, vqa" in done.stdout
    assert "5 of 6 episodes, 1 failed (rows stay as they were)" in done.stdout
    assert re.findall(r"^\d of 6 episodes(?:, \d failed)?$", done.stdout, re.MULTILINE)[-1] == (
        "5 of 6 episodes, 1 failed"
    )
    counts = json.loads((run / "report.json").read_text())
    assert (counts["episodes"], counts["episodesDone"], counts["episodesFailed"]) == (6, 5, 1)
    assert "0 files and 0 bytes written" in again.stdout
    record = json.loads((run / "output/meta/annotationrun.json").read_text())
    assert record["failedEpisodes"] == [5]
    assert validate_dataset(run / "output") == []
    before, after = read_frames(broken_video), read_frames(run / "output")
    assert [number for number in before if before[number].events != after[number].events] == [0, 1, 2, 3, 4]
    assert any(event["style"] == "vqa" for events in after[5].events for event in events)


def test_an_episode_whose_other_module_succeeded_keeps_all_its_rows(
    broken_video: Path, tmp_path: Path
) -> None:
    modules = {**VQA, "interjections": {}}
    with demo_model() as server:
        report = run_here(
            tmp_path / "run", server.base_url, modules, broken_video,
            source={"episodes": "4-5"}, failurePolicy={"maxFailedEpisodes": 1},
        )  # fmt: skip
    assert report.annotated.failed_episodes == [5]
    before, after = read_frames(broken_video), read_frames(tmp_path / "run/output")
    assert after[5].events == before[5].events
    assert after[4].events != before[4].events


@pytest.mark.parametrize(
    ("limit", "tried"),
    [
        pytest.param(0, 1, id="none may fail: the first one ends the run"),
        pytest.param(2, 3, id="two may fail: the third one ends the run"),
        pytest.param("40%", 3, id="two of six may fail: the third one ends the run"),
    ],
)
def test_no_episode_is_begun_after_one_failure_too_many(limit: int | str, tried: int, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(REFERENCE, source)
    with (
        scripted_server(lambda n, b: Reply("I can't tell."), models=("demo-vlm",)) as server,
        pytest.raises(IncompleteError) as failed,
    ):
        run_here(
            tmp_path, server.base_url, VQA, source,
            workers=ONE_AFTER_ANOTHER, failurePolicy={"maxFailedEpisodes": limit},
        )  # fmt: skip
    text = str(failed.value)
    assert f"{tried} of 6 episodes failed, spec.failurePolicy.maxFailedEpisodes allows {tried - 1};" in text
    assert f"stopped with {6 - tried} episodes not begun" in text
    assert "leave it out of spec.source.episodes" in text
    assert not (tmp_path / "output").exists()
    asked = {json.dumps(body["messages"][0]) for body in server.bodies}
    assert len(asked) == sum(2 * len(range(0, frames, 60)) for frames in LONGEST_FIRST[:tried])


def reported(folder: Path, manifest: Path) -> dict[str, Any]:
    """The one failure that a run reports."""
    done = run_command("run", "-f", manifest, "--report", folder / "report.json")
    assert done.returncode == ExitCode.INCOMPLETE, done.stderr
    (failure,) = json.loads((folder / "report.json").read_text())["failures"]
    return dict(failure)


def test_a_failure_before_a_question_counts_and_has_its_time(broken_video: Path, tmp_path: Path) -> None:
    """What can't be read has no key yet; it counts all the same, and is looked at again."""
    spec = {"source": {"episodes": "5"}, "workers": {"episodeAttempts": 2}}
    with demo_model() as server:
        manifest = write_manifest(tmp_path, broken_video, server.base_url, VQA, **spec)
        began = datetime.now(UTC).replace(microsecond=0)
        first = reported(tmp_path, manifest)
        between = datetime.now(UTC)
        second = reported(tmp_path, manifest)
        assert server.bodies == []
    assert (first["episode"], first["module"]) == (5, "vqa")
    assert began <= datetime.fromisoformat(first["time"]) <= between
    assert between.replace(microsecond=0) <= datetime.fromisoformat(second["time"]) <= datetime.now(UTC)
    assert 0 < first["attempts"] < second["attempts"]


def test_a_failure_that_is_not_tried_again_keeps_its_time_and_its_attempts(tmp_path: Path) -> None:
    spec = {"source": {"episodes": "5"}, "workers": {"episodeAttempts": 2}}
    with scripted_server(lambda number, body: Reply("no answer"), models=("demo-vlm",)) as server:
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, VQA, **spec)
        first = reported(tmp_path, manifest)
        asked = len(server.bodies)
        time.sleep(1.1)  # as long as a time tells apart
        second = reported(tmp_path, manifest)
        assert len(server.bodies) == asked > 0
    assert first["attempts"] == second["attempts"] == 2
    assert first["time"] == second["time"]
