"""Runs whose source is a dataset on the Hub: what is fetched, and how often, and what comes of it."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.annotation import CAMERAS, REFERENCE, run_command, write_manifest
from tests.support.file_trees import tree
from tests.support.hub_server.faults import Fault, When
from tests.support.hub_server.server import DEFAULT_TOKEN, HubServer
from tests.support.image_dataset import FPS, FRONT, LENGTHS, VIDEO_PATH, WRIST, write_image_dataset
from tests.support.module_runs import demo_model
from tests.support.openai_server import ScriptedServer
from tests.support.video_assets import write_pictures

from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.step_results import PlanResult, read_result
from annotationrun_worker.demo import frame_code

REPO, KEY = "me/source", "datasets/me/source"
MODULES = {"vqa": {"emissionHz": 0.1, "cameras": "Default"}}
SOURCE = {"episodes": "1,2,4"}
LIMIT_SECONDS = 300


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add_repo(REPO, REFERENCE)
        yield server


@pytest.fixture
def model() -> Iterator[ScriptedServer]:
    with demo_model() as server:
        yield server


def environment(hub: HubServer) -> dict[str, str]:
    """Nothing but where the Hub is, and who asks."""
    return {"HF_ENDPOINT": hub.url, "HF_TOKEN": DEFAULT_TOKEN}


def run(hub: HubServer, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    done = run_command(*arguments, environment=environment(hub))
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    return done


def begin(hub: HubServer, *arguments: str | Path, **more: str) -> subprocess.Popen[str]:
    """The same as a process that goes on."""
    return subprocess.Popen(
        [sys.executable, "-m", "annotationrun_worker", *map(str, arguments)],
        env={**os.environ, **environment(hub), **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fetches(hub: HubServer, folder: str = "", key: str = KEY) -> Counter[str]:
    """How often each file below `folder` was fetched."""
    return Counter(
        {
            path: count
            for (repo, path), count in hub.counters.fetches.items()
            if repo == key and path.startswith(folder)
        }
    )


def plan_of(hub: HubServer, folder: Path, *arguments: str | Path) -> PlanResult:
    result = folder / "result"
    run(hub, "plan", *arguments, "--result", result)
    return read_result(result.read_bytes(), PlanResult)


def test_the_output_is_that_of_the_same_dataset_in_a_folder(
    tmp_path: Path, hub: HubServer, model: ScriptedServer
) -> None:
    (tmp_path / "folder").mkdir()
    manifest = write_manifest(tmp_path / "folder", REFERENCE, model.base_url, MODULES, source=SOURCE)
    run(hub, "run", "-f", manifest)
    asked = len(model.bodies)
    manifest = write_manifest(tmp_path, REPO, model.base_url, MODULES, source=SOURCE)
    run(hub, "run", "-f", manifest, "--cache", tmp_path / "cache")
    assert len(model.bodies) == 2 * asked > 0
    assert tree(tmp_path / "output") == tree(tmp_path / "folder" / "output")
    assert not [path for path in (tmp_path / "output").rglob("*") if path.is_symlink()]
    assert fetches(hub).keys() >= tree(REFERENCE).keys()
    assert set(fetches(hub).values()) == {1}


def test_each_step_fetches_what_it_needs_of_the_commit_that_was_planned(
    tmp_path: Path, hub: HubServer, model: ScriptedServer
) -> None:
    manifest = write_manifest(tmp_path, REPO, model.base_url, MODULES, source=SOURCE)
    options = ("-f", manifest, "--cache", tmp_path / "cache")
    commit = hub.commits(REPO)[0].sha
    planned = plan_of(hub, tmp_path, *options)
    assert planned.source_commit == commit
    videos = {path for path in tree(REFERENCE) if path.endswith(".mp4")}
    assert fetches(hub) == Counter(tree(REFERENCE).keys() - videos - {"README.md"}), "each once, no video"
    assert hub.counters.requests["tree"] == 1
    assert f"source: {REPO} at {commit}" in run(hub, "plan", *options).stdout

    hub.append_commit(REPO, {"meta/info.json": b"{}"})
    pinned = (*options, "--revision", commit)
    hub.counters.clear()
    run(hub, "annotate", *pinned, "--plan", planned.plan)
    looked_at = {f"videos/{CAMERAS[0]}/chunk-000/file-{number:03d}.mp4" for number in (0, 1)}
    print(f"fetched by annotate: {dict(fetches(hub))}")
    assert fetches(hub) == Counter(looked_at), "each once, of the default camera alone"
    assert "info" not in hub.counters.requests

    hub.counters.clear()
    run(hub, "merge", *pinned)
    assert fetches(hub) == Counter(videos - looked_at), "each once, what was not fetched before"
    assert (tmp_path / "output" / "meta/info.json").read_bytes() != b"{}"


def test_a_fresh_cache_needs_no_video_for_what_is_staged(
    tmp_path: Path, hub: HubServer, model: ScriptedServer
) -> None:
    manifest = write_manifest(tmp_path, REPO, model.base_url, MODULES, source=SOURCE)
    run(hub, "annotate", "-f", manifest, "--cache", tmp_path / "first")
    asked = len(model.bodies)
    hub.counters.clear()
    hub.faults.add(Fault("status", 503), When(path=".mp4"), times=None)
    run(hub, "annotate", "-f", manifest, "--cache", tmp_path / "second")
    assert len(model.bodies) == asked > 0
    assert fetches(hub, "videos") == {}
    assert fetches(hub, "data"), "timestamps are looked at"
    assert hub.faults.hit == []


def test_workers_of_one_machine_fetch_each_file_once(
    tmp_path: Path, hub: HubServer, model: ScriptedServer
) -> None:
    manifest = write_manifest(tmp_path, REPO, model.base_url, MODULES)
    run(hub, "run", "-f", manifest, "--cache", tmp_path / "cache", "--workers", "3")
    print(f"requests of 3 workers: {dict(hub.counters.requests)}")
    assert fetches(hub).keys() >= tree(REFERENCE).keys()
    assert set(fetches(hub).values()) == {1}
    assert hub.counters.requests["info"] == 1


@contextmanager
def side_by_side(
    hub: HubServer, manifest: Path, folder: Path, workers: int
) -> Iterator[list[subprocess.Popen[str]]]:
    """As pods of several nodes: each with a cache of its own, at the same plan; to the end of all."""
    planned = plan_of(hub, folder, "-f", manifest, "--cache", folder / "cache")
    hub.counters.clear()
    started = [
        begin(
            hub, "annotate", "-f", manifest, "--cache", folder / f"cache-{number}",
            "--revision", planned.source_commit, "--plan", planned.plan, HF_HUB_DOWNLOAD_TIMEOUT="120",
        )
        for number in range(workers)
    ]  # fmt: skip
    try:
        yield started
        for process in started:
            out, said = process.communicate(timeout=LIMIT_SECONDS)
            assert process.returncode == ExitCode.OK, out + said
    finally:
        for process in started:
            process.kill()


def wait_for_faults(hub: HubServer, count: int, processes: list[subprocess.Popen[str]]) -> list[str]:
    """The paths of the requests that the Hub has spoilt, when there are so many."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while len(hub.faults.hit) < count:
        assert all(process.poll() is None for process in processes), "a process has ended"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return [call.path for call, _ in hub.faults.hit]


def test_workers_of_several_machines_fetch_each_video_once_each_at_most(
    tmp_path: Path, hub: HubServer, model: ScriptedServer
) -> None:
    manifest = write_manifest(tmp_path, REPO, model.base_url, MODULES)
    with side_by_side(hub, manifest, tmp_path, workers=3):
        pass
    videos = fetches(hub, "videos")
    print(f"3 workers fetched {dict(videos)}: {videos.total()} fetches of {len(videos)} videos")
    assert videos.keys() == {f"videos/{CAMERAS[0]}/chunk-000/file-{number:03d}.mp4" for number in (0, 1)}
    assert max(videos.values()) <= 3


def write_one_file_an_episode(root: Path) -> Path:
    """As datasets that were converted from older formats: a video for each episode."""
    write_image_dataset(root, {FRONT: "video"})
    (root / VIDEO_PATH.format(video_key=FRONT, chunk_index=0, file_index=0)).unlink()
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    rows = pq.read_table(path).to_pylist()
    for row, first in zip(rows, np.cumsum([0, *LENGTHS]), strict=False):
        number, length = row["episode_index"], row["length"]
        pictures = [frame_code.render(first + frame, 0, number) for frame in range(length)]
        video = root / VIDEO_PATH.format(video_key=FRONT, chunk_index=0, file_index=number)
        write_pictures(video, pictures, [frame / FPS for frame in range(length)])
        row[f"videos/{FRONT}/file_index"] = number
        row[f"videos/{FRONT}/from_timestamp"] = 0.0
        row[f"videos/{FRONT}/to_timestamp"] = length / FPS
    pq.write_table(pa.Table.from_pylist(rows), path)
    return root


def test_no_video_is_fetched_by_two_workers_where_each_episode_has_its_own(
    tmp_path: Path, hub: HubServer, model: ScriptedServer
) -> None:
    hub.add_repo("me/split", write_one_file_an_episode(tmp_path / "source"))
    one_at_once = {"episodeConcurrency": 1}
    manifest = write_manifest(tmp_path, "me/split", model.base_url, MODULES, workers=one_at_once)
    hub.faults.add(Fault("hang"), When(kind="cdn", path=".mp4"), times=2)
    with side_by_side(hub, manifest, tmp_path, workers=2) as workers:
        first = wait_for_faults(hub, 2, workers)
        assert len(set(first)) == 2, "both began with the same episode"
        hub.faults.release()
    videos = fetches(hub, "videos", "datasets/me/split")
    print(f"2 workers fetched {dict(videos)}")
    assert len(videos) == len(LENGTHS)
    assert set(videos.values()) == {1}


def test_cameras_in_the_rows_come_with_the_data_files(
    tmp_path: Path, hub: HubServer, model: ScriptedServer
) -> None:
    source = write_image_dataset(tmp_path / "source", {FRONT: "image", WRIST: "video"})
    hub.add_repo("me/images", source)
    modules = {"vqa": {"emissionHz": 0.1}}
    (tmp_path / "folder").mkdir()
    manifest = write_manifest(tmp_path / "folder", source, model.base_url, modules)
    run(hub, "run", "-f", manifest)
    manifest = write_manifest(tmp_path, "me/images", model.base_url, modules)
    run(hub, "run", "-f", manifest, "--cache", tmp_path / "cache")
    assert tree(tmp_path / "output") == tree(tmp_path / "folder" / "output")
    assert set(fetches(hub, key="datasets/me/images").values()) == {1}


def test_a_cache_smaller_than_the_videos_lets_them_come_and_go(
    tmp_path: Path, hub: HubServer, model: ScriptedServer
) -> None:
    source = {"cacheBytes": 3_000_000}
    manifest = write_manifest(
        tmp_path,
        REPO,
        model.base_url,
        {"vqa": {"emissionHz": 0.1}},
        source=source,
        output={"repoID": "me/out"},
    )
    run(hub, "annotate", "-f", manifest, "--cache", tmp_path / "cache", "--staging", tmp_path / "staging")
    assert fetches(hub, "videos").keys() == {path for path in tree(REFERENCE) if path.endswith(".mp4")}
    kept = sum(path.stat().st_size for path in (tmp_path / "cache" / "files").iterdir())
    print(f"{kept} bytes are kept, {sum(hub.counters.served.values())} came: {dict(fetches(hub))}")
    assert 0 < kept <= source["cacheBytes"] < sum(hub.counters.served.values())


def test_a_worker_that_is_told_to_stop_waits_for_no_transfer(
    tmp_path: Path, hub: HubServer, model: ScriptedServer
) -> None:
    manifest = write_manifest(tmp_path, REPO, model.base_url, MODULES, source=SOURCE)
    hub.faults.add(Fault("hang"), When(kind="cdn", path=".mp4"), times=None)
    command = ("annotate", "-f", manifest, "--cache", tmp_path / "cache")
    process = begin(hub, *command, HF_HUB_DOWNLOAD_TIMEOUT="10")
    try:
        wait_for_faults(hub, 1, [process])
        process.terminate()
        _, said = process.communicate(timeout=LIMIT_SECONDS)
    finally:
        process.kill()
    assert process.returncode == ExitCode.INTERRUPTED, said
    asked = Counter(call.path for call, _ in hub.faults.hit)
    assert set(asked.values()) == {1}, "a transfer was tried again"


def test_a_cache_that_is_too_small_for_the_merge_is_told_before_any_question(tmp_path, hub):
    """A folder output needs all files at once."""
    with demo_model() as server:
        manifest = write_manifest(
            tmp_path, REPO, server.base_url, MODULES, source={**SOURCE, "cacheBytes": 1 << 20}
        )
        done = run_command("plan", "-f", manifest, "--cache", tmp_path / "cache", environment=hub.environment)
        assert done.returncode == ExitCode.CONFIGURATION
        assert "spec.source.cacheBytes" in done.stderr
        assert not server.bodies
