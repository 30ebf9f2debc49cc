"""The rows of a data file by episode: read once for all of its episodes, however they lie in it."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.many_episodes import FPS, episode_lengths, write_many_episodes

from annotationrun_worker.dataset.data_rows import DataFileCache, read_data_rows
from annotationrun_worker.dataset.episodes import EpisodeReader, list_episodes
from annotationrun_worker.dataset.layout import FolderFiles
from annotationrun_worker.dataset.metadata import read_info
from annotationrun_worker.dataset.types import EpisodeIndex
from annotationrun_worker.errors import DatasetError

DATA = "data/chunk-000/file-000.parquet"
FIRST, SECOND = EpisodeIndex(0), EpisodeIndex(1)


@pytest.fixture(scope="module", params=[False, True], ids=["a row group an episode", "one row group"])
def many(request, tmp_path_factory):
    """Two hundred episodes in one data file."""
    root = tmp_path_factory.mktemp("many") / "dataset"
    return write_many_episodes(root, 200, one_row_group=request.param)


def _write(path: Path, episodes: list[int | None], frames: list[int]) -> Path:
    table = pa.table(
        {
            "timestamp": pa.array(np.array(frames, np.float32) / 2),
            "frame_index": pa.array(frames, pa.int64()),
            "episode_index": pa.array(episodes, pa.int64()),
            "task_index": pa.array([3] * len(frames), pa.int64()),
        }
    )
    pq.write_table(table, path, row_group_size=2)
    return path


def test_sixteen_threads_that_read_in_any_order_get_each_its_own_timestamps(many):
    info = read_info(many)
    reader = EpisodeReader(many, info)
    shuffled = list_episodes(many, info)
    random.Random(3).shuffle(shuffled)
    with ThreadPoolExecutor(16) as pool:
        read = list(pool.map(lambda summary: reader.read(summary, []), shuffled))
    lengths = episode_lengths(200)
    assert [episode.index for episode in read] == [summary.index for summary in shuffled]
    for episode in read:
        expected = (np.arange(lengths[episode.index]) / FPS).astype(np.float32)
        assert episode.timestamps_seconds.tobytes() == expected.tobytes()


@dataclass(frozen=True)
class ReadMeanwhile(FolderFiles):
    """Another thread reads a file just as somebody begins to look for an episode."""

    meanwhile: Callable[[], object] = lambda: None

    def data_files(self):
        self.meanwhile()
        return super().data_files()


def test_rows_that_another_thread_found_meanwhile_are_found(tmp_path):
    root = write_many_episodes(tmp_path / "dataset", 3)
    info, readers = read_info(root), []

    def read_another() -> None:
        reader = readers.pop()
        reader.read_file(root / DATA, "the rows of another")

    summaries = list_episodes(root, info)
    reader = EpisodeReader(root, info, ReadMeanwhile(root, meanwhile=read_another))
    readers.append(reader)
    assert reader.read(summaries[2], []).frame_count == summaries[2].length
    assert readers == []


def test_a_file_is_read_once_for_all_of_its_episodes(tmp_path):
    root = write_many_episodes(tmp_path / "dataset", 3)
    info = read_info(root)
    reader, summaries = EpisodeReader(root, info), list_episodes(root, info)
    first = reader.read(summaries[0], [])
    (root / DATA).unlink()
    assert reader.read(summaries[2], []).frame_count == summaries[2].length
    assert reader.read(summaries[0], []).timestamps_seconds.tobytes() == first.timestamps_seconds.tobytes()
    with pytest.raises(DatasetError, match=r"the rows of episode 2: .* is missing"):
        EpisodeReader(root, info).read(summaries[2], [])


def test_beyond_its_bound_the_cache_forgets_what_was_used_longest_ago(tmp_path):
    paths = [_write(tmp_path / f"{name}.parquet", [0, 0], [0, 1]) for name in "abc"]
    cache = DataFileCache(max_bytes=2 * read_data_rows(paths[0]).size_bytes)
    for path in (paths[0], paths[1], paths[0], paths[2]):
        cache.rows_of(path, "it")
    for path in paths:
        path.unlink()
    assert len(cache.rows_of(paths[0], "it").timestamps_of(FIRST, 2)) == 2
    assert len(cache.rows_of(paths[2], "it").timestamps_of(FIRST, 2)) == 2
    with pytest.raises(DatasetError, match=r"it: the file .*b\.parquet' is missing"):
        cache.rows_of(paths[1], "it")


def test_a_file_larger_than_the_bound_is_kept_until_the_next(tmp_path):
    path = _write(tmp_path / "a.parquet", [0, 0], [0, 1])
    cache = DataFileCache(max_bytes=1)
    assert cache.rows_of(path, "it") is cache.rows_of(path, "it")


def test_an_episode_whose_rows_lie_apart_is_put_together(tmp_path):
    rows = read_data_rows(_write(tmp_path / "a.parquet", [0, 1, 1, 0, 0, 1], [0, 0, 1, 1, 2, 2]))
    assert rows.timestamps_of(FIRST, 3).tolist() == [0.0, 0.5, 1.0]
    assert rows.timestamps_of(SECOND, 3).tolist() == [0.0, 0.5, 1.0]
    with pytest.raises(DatasetError, match="rows of episode 1 lie apart in the file"):
        rows.block_of(SECOND)


def test_a_wrong_frame_index_is_named_by_its_row_in_the_episode(tmp_path):
    rows = read_data_rows(_write(tmp_path / "a.parquet", [0, 1, 1, 0, 0, 1], [0, 0, 1, 1, 7, 2]))
    with pytest.raises(DatasetError, match=r"episode 0 in .*, row 2: frame_index is 7, expected 2"):
        rows.timestamps_of(FIRST, 3)
    assert len(rows.timestamps_of(SECOND, 3)) == 3


def test_a_file_without_rows_has_no_episodes(tmp_path):
    rows = read_data_rows(_write(tmp_path / "a.parquet", [], []))
    with pytest.raises(DatasetError, match=r"0 rows, but meta/episodes says 2"):
        rows.timestamps_of(FIRST, 2)
    with pytest.raises(DatasetError, match="rows of episode 0 are missing"):
        rows.block_of(FIRST)


def test_a_row_of_no_episode_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="rows without an episode_index"):
        read_data_rows(_write(tmp_path / "a.parquet", [0, None], [0, 1]))


def test_an_episode_index_that_is_no_number_is_an_error(tmp_path):
    path = _write(tmp_path / "a.parquet", [0, 0], [0, 1])
    table = pq.read_table(path)
    pq.write_table(table.set_column(2, "episode_index", pa.array(["a", "b"])), path)
    with pytest.raises(DatasetError, match="'episode_index' is of type string, expected int64"):
        read_data_rows(path)


def test_numbers_that_pandas_made_floats_are_taken_and_fractions_are_not(tmp_path):
    path = _write(tmp_path / "a.parquet", [0, 0], [0, 1])
    table = pq.read_table(path)
    floats = [name for name in table.column_names if name != "timestamp"]
    for name in floats:
        place = table.column_names.index(name)
        table = table.set_column(place, name, table[name].cast(pa.float64()))
    pq.write_table(table, path)
    rows = read_data_rows(path)
    assert rows.timestamps_of(FIRST, 2).tolist() == [0.0, 0.5]
    assert rows.tasks_of(FIRST, {3: "push"}) == ("push",)
    place = table.column_names.index("frame_index")
    pq.write_table(table.set_column(place, "frame_index", pa.array([0.0, 1.5])), path)
    with pytest.raises(DatasetError, match="'frame_index' holds more than whole numbers"):
        read_data_rows(path)


def test_timestamps_of_float64_are_cast_as_lerobot_casts_them(tmp_path):
    path = _write(tmp_path / "a.parquet", [0, 0, 0], [0, 1, 2])
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, "timestamp", pa.array([0.0, 0.1, 1e300])), path)
    rows = read_data_rows(path)
    assert rows.timestamps_seconds[:2].tobytes() == np.array([0.0, 0.1], np.float32).tobytes()
    with pytest.raises(DatasetError, match="row 2: timestamp is inf, expected a finite number"):
        rows.timestamps_of(FIRST, 3)


def test_the_tasks_of_an_episode_come_in_the_order_of_its_rows(tmp_path):
    path = _write(tmp_path / "a.parquet", [0, 0, 1, 0], [0, 1, 0, 2])
    table = pq.read_table(path)
    place = table.column_names.index("task_index")
    pq.write_table(table.set_column(place, "task_index", pa.array([7, 2, 5, 7])), path)
    rows = read_data_rows(path)
    texts = {2: "put", 5: "push", 7: "pick"}
    assert rows.tasks_of(FIRST, texts) == ("pick", "put")
    assert rows.tasks_of(SECOND, texts) == ("push",)
    with pytest.raises(
        DatasetError, match=r"episode 1 in .*: rows with task_index 5, which meta/tasks.parquet"
    ):
        rows.tasks_of(SECOND, {2: "put", 7: "pick"})
