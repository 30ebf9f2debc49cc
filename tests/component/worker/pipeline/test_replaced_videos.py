"""Videos of the source that are others than those that the output's rows speak of."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.component.worker.pipeline.test_hub_rows_stay import OUTPUT, Runs
from tests.component.worker.pipeline.test_shrinking import PLAN, VQA, rows
from tests.support.annotation import run_command, write_manifest
from tests.support.bad_input import Bench
from tests.support.hub_server.server import HubServer
from tests.support.module_runs import demo_model, look

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.dataset.episodes import list_episodes
from annotationrun_worker.dataset.metadata import read_info

CAMERA = "observation.images.front"
ALL = "0-2"
NEGATIVE = ("-vf", "negate", "-c:v", "libsvtav1", "-preset", "12", "-fps_mode", "passthrough")
REMUXED = ("-c", "copy", "-movflags", "faststart")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path, episodes=ALL, modules=VQA)
    made.copy_dataset()
    return made


def run(bench: Bench, modules: dict[str, Any], **spec: Any) -> str:
    done = bench.run(lambda number, body: look(body), modules=modules, **spec)
    assert done.exit_code == ExitCode.OK, done.stderr
    return done.stderr


def video_of(dataset: Path, index: int) -> Path:
    return list_episodes(dataset, read_info(dataset))[index].videos[CAMERA].path  # type: ignore[index]


def episodes_in(video: Path, dataset: Path) -> set[int]:
    return {
        int(episode.index)
        for episode in list_episodes(dataset, read_info(dataset))
        if episode.videos[CAMERA].path == video  # type: ignore[index]
    }


def write_anew(video: Path, *how: str) -> None:
    """Put another file in the place of a video, so that hard links to it keep what it was."""
    made = video.with_name("made.mp4")
    command = ["ffmpeg", "-v", "error", "-i", video, *how, made]
    subprocess.run(list(map(str, command)), check=True, timeout=120)
    made.replace(video)


def test_rows_of_a_video_that_was_replaced_go_and_are_named(bench: Bench) -> None:
    run(bench, {**VQA, **PLAN})
    before = rows(bench.output)
    video = video_of(bench.dataset, 0)
    replaced = episodes_in(video, bench.dataset) & {0, 1, 2}
    assert replaced, "some rows have to be in danger"
    write_anew(video, *NEGATIVE)
    said = run(bench, VQA)
    after = rows(bench.output)
    assert {index for index, style in after if style == "subtask"} == {0, 1, 2} - replaced
    assert {index for index, style in after if style == "vqa"} == {0, 1, 2}, "asked of the new pictures"
    lost = sum(count for (index, style), count in before.items() if style == "subtask" and index in replaced)
    assert f"the output loses {lost} rows 'subtask' of the episodes " in said


@pytest.mark.parametrize("how", ["remuxed", "copied", "touched"])
def test_rows_of_the_same_packets_in_another_file_stay(bench: Bench, how: str) -> None:
    run(bench, {**VQA, **PLAN})
    before = rows(bench.output)
    video = video_of(bench.dataset, 0)
    inode, content = video.stat().st_ino, video.read_bytes()
    if how == "remuxed":
        write_anew(video, *REMUXED)
        assert video.read_bytes() != content
    else:
        made = video.with_name("made.mp4")
        made.write_bytes(content)
        made.replace(video)
        if how == "touched":
            os.utime(video, (0, 0))
    assert video.stat().st_ino != inode
    said = run(bench, VQA)
    assert rows(bench.output) == before
    assert "the output loses" not in said


@pytest.mark.parametrize(("how", "stays"), [(NEGATIVE, False), (REMUXED, True)], ids=["replaced", "remuxed"])
def test_videos_of_an_output_on_the_hub_are_compared_too(
    bench: Bench, tmp_path: Path, how: tuple[str, ...], stays: bool
) -> None:
    with HubServer() as hub, demo_model() as model:
        runs = Runs(tmp_path, hub, model, OUTPUT)

        def publish(modules: dict[str, Any]) -> str:
            manifest = write_manifest(
                tmp_path, bench.dataset, model.base_url, modules,
                source={"episodes": ALL}, output={"repoID": OUTPUT},
            )  # fmt: skip
            done = run_command(
                "run", "-f", manifest, "--cache", tmp_path / "cache", "--staging", tmp_path / "staging",
                environment=hub.environment,
            )  # fmt: skip
            assert done.returncode == ExitCode.OK, done.stderr
            return done.stderr

        publish({**VQA, **PLAN})
        before, video = runs.rows(), video_of(bench.dataset, 0)
        replaced = set() if stays else episodes_in(video, bench.dataset)
        write_anew(video, *how)
        said = publish(VQA)
        after = {index for index, style in runs.rows() if style == "subtask"}
        assert after == {index for index, style in before if style == "subtask"} - replaced
        assert ("the output loses" in said) is not stays
