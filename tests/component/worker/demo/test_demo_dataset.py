"""The demo dataset as it lies on disk: LeRobot v3.0, every frame where the metadata says it is."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.support.checkout import REFERENCE
from tests.support.demo import decode_video

from annotationrun_worker.demo import frame_code
from annotationrun_worker.demo.dataset import make_demo_dataset
from annotationrun_worker.demo.scene import CAMERAS, FPS, make_episodes

EPISODES_FILE = "meta/episodes/chunk-000/file-000.parquet"
SCRIPT = make_episodes(4, 7)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "dataset"
    make_demo_dataset(folder, episodes=4, seed=7)
    return folder


@pytest.mark.parametrize(("number", "camera"), list(enumerate(CAMERAS)))
def test_every_frame_lies_where_the_metadata_says_and_carries_its_code(dataset, number, camera):
    files: dict[int, list[np.ndarray]] = {}
    checked = 0
    for row in pq.read_table(dataset / EPISODES_FILE).to_pylist():
        file_index = row[f"videos/{camera}/file_index"]
        if file_index not in files:
            files[file_index] = decode_video(dataset / f"videos/{camera}/chunk-000/file-{file_index:03d}.mp4")
        first = round(row[f"videos/{camera}/from_timestamp"] * FPS)
        assert round(row[f"videos/{camera}/to_timestamp"] * FPS) == first + row["length"]
        for frame in range(row["length"]):
            code = frame_code.read(files[file_index][first + frame])
            index = row["dataset_from_index"] + frame
            assert code == {"index": index, "camera": number, "episode": row["episode_index"]}
            checked += 1
    assert len(files) == 2
    assert checked == sum(map(len, files.values())) == sum(episode.frame_count for episode in SCRIPT)


def test_the_rows_are_numbered_and_timed_as_lerobot_does_it(dataset):
    files = sorted((dataset / "data").rglob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert len(files) == 2
    assert [row["index"] for row in rows] == list(range(len(rows)))
    for episode in SCRIPT:
        own = [row for row in rows if row["episode_index"] == episode.index]
        assert [row["frame_index"] for row in own] == list(range(episode.frame_count))
        stamps = (np.arange(episode.frame_count) / FPS).astype(np.float32)
        assert [row["timestamp"] for row in own] == stamps.tolist()
        assert [row["action"] for row in own[:-1]] == [row["observation.state"] for row in own[1:]]
    assert [pq.ParquetFile(file).num_row_groups for file in files] == [2, 2]


def test_the_columns_and_their_types_are_those_of_the_reference_dataset(dataset):
    reference = pq.read_schema(REFERENCE / EPISODES_FILE)
    schema = pq.read_schema(dataset / EPISODES_FILE)
    assert set(schema.names) == set(reference.names)
    assert {name: schema.field(name).type for name in schema.names} == {
        name: reference.field(name).type for name in reference.names
    }
    assert len([name for name in schema.names if not name.startswith("stats/")]) == 17
    rows = pq.read_schema(dataset / "data/chunk-000/file-000.parquet")
    wanted = pq.read_schema(REFERENCE / "data/chunk-000/file-000.parquet")
    assert rows.names == wanted.names
    for name in rows.names[2:]:
        assert rows.field(name).type == wanted.field(name).type


def test_the_tasks_are_the_index_that_pandas_will_read(dataset):
    table = pq.read_table(dataset / "meta/tasks.parquet")
    assert json.loads(table.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    tasks = {row["task_index"]: row["task"] for row in table.to_pylist()}
    for episode, row in zip(SCRIPT, pq.read_table(dataset / EPISODES_FILE).to_pylist(), strict=True):
        assert row["tasks"] == [episode.task]
        file = dataset / f"data/chunk-000/file-{row['data/file_index']:03d}.parquet"
        rows = pq.read_table(file, filters=[("episode_index", "=", episode.index)])
        assert {tasks[index] for index in rows["task_index"].to_pylist()} == {episode.task}


def test_info_and_stats_speak_of_every_feature(dataset):
    info = json.loads((dataset / "meta/info.json").read_text())
    stats = json.loads((dataset / "meta/stats.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert info["total_episodes"] == 4
    assert info["total_frames"] == sum(episode.frame_count for episode in SCRIPT)
    assert info["total_tasks"] == 2
    assert set(stats) == set(info["features"])
    assert stats["index"]["max"] == [info["total_frames"] - 1]
    assert np.shape(stats[CAMERAS[0]]["mean"]) == (3, 1, 1)
    assert 0 < np.min(stats[CAMERAS[0]]["mean"]) < np.max(stats[CAMERAS[0]]["mean"]) < 1


def test_the_same_seed_writes_the_same_bytes(dataset, tmp_path):
    make_demo_dataset(tmp_path / "one", episodes=1, seed=3)
    make_demo_dataset(tmp_path / "other", episodes=1, seed=3)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert len(files) == 7
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes(), file


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty; name a new folder"):
        make_demo_dataset(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["keep.txt"]
