"""`annotationrun run` as a user types it, on the reference dataset, with the demo model."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
from tests.support.annotation import (
    CAMERAS,
    REFERENCE,
    Annotation,
    annotated,
    read_frames,
    run_command,
    write_manifest,
)
from tests.support.openai_server import Reply, scripted_server

from annotationrun_api.exit_codes import ExitCode


def tree(folder: Path) -> dict[str, tuple[int, str]]:
    """(mtime in nanoseconds, SHA-256) of every file."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def three_episodes(tmp_path_factory) -> Annotation:
    with annotated(tmp_path_factory.mktemp("three"), source={"episodes": "0,2,4"}) as annotation:
        yield annotation


def test_the_output_is_valid(three_episodes):
    done = run_command("validate", three_episodes.output)
    assert done.returncode == ExitCode.OK, done.stdout
    assert "valid, 0 errors, 0 warnings" in done.stdout


def test_only_selected_episodes_have_rows_and_all_have_the_columns(three_episodes):
    episodes = read_frames(three_episodes.output)
    assert sorted(episodes) == [0, 1, 2, 3, 4, 5]
    with_rows = {number for number, episode in episodes.items() if episode.persistent or any(episode.events)}
    assert with_rows == {0, 2, 4}


def test_every_anchored_frame_has_a_pair_for_each_camera(three_episodes):
    for number in (0, 2, 4):
        episode = read_frames(three_episodes.output)[number]
        anchored = [frame for frame, events in enumerate(episode.events) if events]
        assert anchored == list(range(0, len(episode.timestamps), 30))
        for frame in anchored:
            found = [(event["role"], event["camera"]) for event in episode.events[frame]]
            assert sorted(found) == sorted(
                (role, camera) for role in ("user", "assistant") for camera in CAMERAS
            )


def test_the_source_is_untouched(three_episodes):
    digest = hashlib.sha256((REFERENCE / "meta" / "info.json").read_bytes()).hexdigest()
    assert "language_persistent" in (three_episodes.output / "meta" / "info.json").read_text()
    assert "language_persistent" not in (REFERENCE / "meta" / "info.json").read_text()
    assert digest != hashlib.sha256((three_episodes.output / "meta" / "info.json").read_bytes()).hexdigest()


def test_a_second_run_asks_nothing_and_changes_nothing(three_episodes, printed):
    before, asked = tree(three_episodes.output), len(three_episodes.log_lines())
    done = run_command("run", "-f", three_episodes.manifest)
    for line in done.stdout.splitlines():
        if "requests" in line or "bytes" in line:
            printed(line)
    assert done.returncode == 0, done.stderr
    assert "0 requests," in done.stdout
    assert "0 files and 0 bytes written" in done.stdout
    assert tree(three_episodes.output) == before
    assert len(three_episodes.log_lines()) == asked


def test_more_episodes_ask_only_for_themselves_and_the_rows_are_the_same(three_episodes, tmp_path):
    shutil.copytree(three_episodes.staging, tmp_path / "output.staging")
    with annotated(tmp_path, source={"episodes": "0-2"}) as more:
        shown = {
            tile["code"]["episode"]
            for line in more.log_lines()
            for image in line["images"]
            for tile in image["tiles"]
        }
        assert shown == {1}
        of_both = [read_frames(dataset)[2] for dataset in (three_episodes.output, more.output)]
        assert of_both[0].persistent == of_both[1].persistent
        assert of_both[0].events == of_both[1].events


def test_a_second_run_needs_no_server(three_episodes, tmp_path):
    shutil.copytree(three_episodes.staging, tmp_path / "output.staging")
    manifest = write_manifest(tmp_path, REFERENCE, "http://127.0.0.1:9/v1", source={"episodes": "0,2,4"})
    done = run_command("run", "-f", manifest)
    assert done.returncode == 0, done.stderr
    assert "0 requests," in done.stdout


def test_results_do_not_depend_on_how_much_runs_at_once(three_episodes, tmp_path):
    workers = {"episodeConcurrency": 1, "requestConcurrency": 1}
    with annotated(tmp_path, source={"episodes": "0,2,4"}, workers=workers) as alone:
        data = "data/chunk-000/file-000.parquet"
        assert (alone.output / data).read_bytes() == (three_episodes.output / data).read_bytes()


def test_without_a_server_the_run_says_so_and_leaves_no_output(tmp_path):
    manifest = write_manifest(tmp_path, REFERENCE, "http://127.0.0.1:9/v1")
    done = run_command("run", "-f", manifest)
    assert done.returncode == ExitCode.SERVER_NOT_READY
    assert "no model server at 'http://127.0.0.1:9/v1'" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.yaml", "output.staging"]


def test_an_output_that_is_somebody_elses_is_not_touched(three_episodes, tmp_path):
    shutil.copytree(three_episodes.staging, tmp_path / "output.staging")
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "thesis.txt").write_text("mine")
    manifest = write_manifest(tmp_path, REFERENCE, "http://127.0.0.1:9/v1", source={"episodes": "0,2,4"})
    done = run_command("run", "-f", manifest)
    assert done.returncode == ExitCode.OUTPUT == 9
    assert "holds files that no merge made" in done.stderr
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["thesis.txt"]


@pytest.fixture
def broken_video(tmp_path) -> Path:
    """The reference dataset with the end of one mp4 (episode 5, wrist) missing."""
    source = tmp_path / "broken"
    shutil.copytree(REFERENCE, source)
    video = source / f"videos/{CAMERAS[1]}/chunk-000/file-001.mp4"
    video.write_bytes(video.read_bytes()[: int(video.stat().st_size * 0.4)])
    return source


def test_what_can_not_be_decoded_is_named_and_nothing_is_asked_about_it(broken_video, tmp_path):
    with pytest.raises(AssertionError) as failed, annotated(tmp_path / "run", broken_video):
        pass
    text = str(failed.value)
    assert "1 of 6 episodes failed" in text
    assert "leave it out of spec.source.episodes" in text
    assert "episode 5, vqa" in text
    assert "file-001.mp4" in text
    assert not (tmp_path / "run" / "output").exists()
    log = (tmp_path / "run" / "model.log.jsonl").read_text().splitlines()
    codes = [
        tile["code"]
        for line in map(json.loads, log)
        if line["kind"] != "coordinate_probe"
        for image in line["images"]
        for tile in image["tiles"]
    ]
    assert {code["episode"] for code in codes if code["camera"] == 1} == {0, 1, 2, 3, 4}


def test_an_answer_that_stays_unusable_is_a_hole_and_too_many_fail_the_episode(tmp_path):
    with scripted_server(lambda n, b: Reply("I can't tell."), models=("demo-vlm",)) as server:
        modules = {"vqa": {"questionTypes": ["count", "attribute"]}}
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, modules, source={"episodes": "0"})
        done = run_command("run", "-f", manifest)
    assert done.returncode == ExitCode.INCOMPLETE
    assert "8 of 8 answers are unusable, more than failurePolicy.maxUnansweredPercent (10.0)" in done.stderr
    assert "I can't tell." in done.stderr


def test_settings_of_a_later_version_are_refused_and_named(tmp_path):
    manifest = write_manifest(tmp_path, REFERENCE, "http://127.0.0.1:9/v1", suspend=True)
    done = run_command("run", "-f", manifest)
    assert done.returncode == ExitCode.CONFIGURATION
    assert re.search(r"spec\.suspend.*not supported yet", done.stderr)


def test_a_typo_in_the_manifest_is_named_with_its_line(tmp_path):
    manifest = write_manifest(tmp_path, REFERENCE, "http://127.0.0.1:9/v1", {"vqa": {"emisionHz": 2.0}})
    done = run_command("run", "-f", manifest)
    assert done.returncode == ExitCode.CONFIGURATION
    assert "emissionHz" in done.stderr
    line = 1 + manifest.read_text().splitlines().index("      emisionHz: 2.0")
    assert f"manifest.yaml:{line}" in done.stderr
