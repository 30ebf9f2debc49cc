"""Reading a LeRobot v3.0 dataset: the reference one, and copies of it that were spoilt in one place."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.video_assets import REFERENCE

from annotationrun_worker.dataset.episodes import list_episodes, read_episode, select_episodes
from annotationrun_worker.dataset.metadata import read_features, read_info
from annotationrun_worker.dataset.types import CameraKey
from annotationrun_worker.errors import ConfigurationError, DatasetError, UnknownCameraError

FRONT, WRIST = CameraKey("observation.images.front"), CameraKey("observation.images.wrist")
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
DATA = "data/chunk-000/file-000.parquet"


@pytest.fixture
def root(tmp_path):
    """A copy of the reference dataset that a test may spoil."""
    return Path(shutil.copytree(REFERENCE, tmp_path / "dataset"))


def _edit_info(root: Path, edit: Any) -> None:
    path = root / "meta/info.json"
    info = json.loads(path.read_text(encoding="utf-8"))
    edit(info)
    path.write_text(json.dumps(info), encoding="utf-8")


def _set_value(path: Path, column: str, row: int, value: Any) -> None:
    """Write one value of a parquet file anew."""
    table = pq.read_table(path)
    values = table.column(column).to_pylist()
    values[row] = value
    index = table.column_names.index(column)
    field = table.schema.field(column)
    pq.write_table(table.set_column(index, field, pa.array(values, type=field.type)), path)


def _read(root: Path, index: int = 0):
    info = read_info(root)
    return read_episode(root, info, list_episodes(root, info)[index], read_features(info).cameras)


def test_the_reference_dataset_reads_as_it_was_written():
    info = read_info(REFERENCE)
    features = read_features(info)
    summaries = list_episodes(REFERENCE, info)
    assert features.fps == 30.0
    assert features.camera_sizes == {FRONT: (320, 240), WRIST: (320, 240)}
    assert features.cameras == (FRONT, WRIST)
    assert [summary.length for summary in summaries] == [120, 225, 360, 903, 570, 1050]
    assert [summary.dataset_from_index for summary in summaries] == [0, 120, 345, 705, 1608, 2178]
    assert summaries[1].task == "Stack blocks"


@pytest.mark.parametrize("index", range(6))
def test_timestamps_are_the_float32_values_of_the_rows_bit_by_bit(index):
    episode = _read(REFERENCE, index)
    rows = pq.read_table(episode.data_path, columns=["timestamp", "episode_index"])
    mine = rows.filter(pa.compute.equal(rows["episode_index"], index))["timestamp"].to_numpy()
    assert episode.timestamps_seconds.dtype == np.float32
    assert episode.timestamps_seconds.tobytes() == mine.tobytes()
    assert episode.timestamps_seconds.flags.writeable is False


def test_an_episode_knows_where_its_videos_lie():
    episode = _read(REFERENCE, 5)
    assert list(episode.videos) == [FRONT, WRIST]
    span = episode.videos[WRIST]
    assert span.path == (REFERENCE / "videos" / WRIST / "chunk-000/file-001.mp4").absolute()
    assert (span.from_timestamp_seconds, span.to_timestamp_seconds) == (19.0, 54.0)


def test_cameras_that_are_not_asked_for_are_not_touched(root):
    shutil.rmtree(root / "videos" / WRIST)
    info = read_info(root)
    summary = list_episodes(root, info)[0]
    assert list(read_episode(root, info, summary, [FRONT]).videos) == [FRONT]
    assert read_episode(root, info, summary, []).videos == {}
    with pytest.raises(DatasetError, match=r"episode 0, camera 'observation\.images\.wrist': .* is missing"):
        read_episode(root, info, summary, [WRIST])
    with pytest.raises(UnknownCameraError, match=r"no camera 'top'; its cameras are .*front.*wrist"):
        read_episode(root, info, summary, [CameraKey("top")])


def test_other_episodes_files_are_not_opened(root):
    (root / "data/chunk-000/file-002.parquet").unlink()
    assert _read(root, 0).frame_count == 120
    with pytest.raises(DatasetError, match=r"rows of episode 5: the file .*file-002\.parquet' is missing"):
        _read(root, 5)


def test_the_rows_tasks_are_joined_in_the_order_that_the_list_of_episodes_has(root):
    texts = pq.read_table(root / "meta/tasks.parquet")["task"].to_pylist()
    indices = pq.read_table(root / DATA)["task_index"].to_pylist()[:2]
    assert indices[0] == indices[1], "one task"
    other = next(index for index in range(len(texts)) if index != indices[0])
    _set_value(root / DATA, "task_index", 1, other)
    first, second = texts[indices[0]], texts[other]
    assert _read(root).task == f"{first}; {second}"
    _set_value(root / EPISODES, "tasks", 0, [second, first])
    assert _read(root).task == f"{second}; {first}"
    _set_value(root / EPISODES, "tasks", 0, ["Pick up the cube", "Put it down"])
    assert _read(root).task == f"{first}; {second}"


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        pytest.param(None, [0, 1, 2, 3, 4, 5], id="none: all"),
        pytest.param([range(2, 4)], [2, 3], id="a range"),
        pytest.param([range(5, 6), range(1), range(4, 6)], [0, 4, 5], id="overlapping, in any order"),
    ],
)
def test_episodes_are_selected_by_range(ranges, expected):
    summaries = list_episodes(REFERENCE, read_info(REFERENCE))
    assert [summary.index for summary in select_episodes(summaries, ranges)] == expected


def test_a_selected_episode_that_does_not_exist_is_an_error_that_lists_those_that_do():
    summaries = list_episodes(REFERENCE, read_info(REFERENCE))
    del summaries[3]
    with pytest.raises(ConfigurationError, match=r"episode 3 was selected, .* the episodes 0-2, 4-5"):
        select_episodes(summaries, [range(2, 10**9)])


def _depth(**info: Any) -> dict[str, Any]:
    return {"dtype": "video", "shape": [240, 320, 1], "names": ["height", "width", "channels"], **info}


@pytest.mark.parametrize(
    "feature",
    [
        pytest.param(_depth(info={"is_depth_map": True}), id="in info"),
        pytest.param(_depth(info={"video.is_depth_map": True}), id="older, in info"),
        pytest.param(_depth(video_info={"video.is_depth_map": True}), id="older, in video_info"),
        pytest.param({**_depth(info={"is_depth_map": True}), "dtype": "image"}, id="stored as images"),
    ],
)
def test_depth_streams_are_no_cameras(root, feature):
    _edit_info(root, lambda info: info["features"].update({"observation.images.depth": feature}))
    assert read_features(read_info(root)).cameras == (FRONT, WRIST)
    assert _read(root).frame_count == 120


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        pytest.param([480, 640, 3], ["height", "width", "channels"], id="height, width, channels"),
        pytest.param([480, 640, 3], None, id="no names"),
        pytest.param([3, 480, 640], ["channels", "height", "width"], id="channels first"),
        pytest.param([3, 480, 640], None, id="channels first, no names"),
    ],
)
def test_the_size_of_a_camera_is_read_from_its_shape(root, shape, names):
    _edit_info(root, lambda info: info["features"][FRONT].update(shape=shape, names=names))
    assert read_features(read_info(root)).camera_sizes[FRONT] == (640, 480)


def test_a_camera_that_should_be_in_the_rows_and_is_not_is_named(root):
    _edit_info(root, lambda info: info["features"][WRIST].update(dtype="image"))
    with pytest.raises(DatasetError, match=r"no column 'observation\.images\.wrist'.*dtype 'image'"):
        _read(root)


def test_a_dataset_without_cameras_reads(root):
    def remove_cameras(info: dict[str, Any]) -> None:
        del info["features"][FRONT], info["features"][WRIST]
        info["video_path"] = None

    _edit_info(root, remove_cameras)
    assert read_features(read_info(root)).cameras == ()
    assert _read(root).videos == {}


INFO_FAULTS = [
    pytest.param({"codebase_version": "v2.1"}, r"'v2\.1', expected 'v3\.0'; convert it: ", id="v2.1"),
    pytest.param({"codebase_version": "v2.0"}, r"versions before v2\.1 go to v2\.1 first", id="v2.0"),
    pytest.param({"codebase_version": "v4.0"}, r"v3\.x datasets only", id="a later version"),
    pytest.param({"codebase_version": 3}, "codebase_version is 3", id="a version that is no text"),
    pytest.param({"fps": 0}, "'fps' is 0", id="no frames per second"),
    pytest.param({"fps": "30"}, "'fps' is '30'", id="fps as text"),
    pytest.param({"features": ["a"]}, "'features' must map", id="features as a list"),
    pytest.param({"data_path": "../{chunk_index}{file_index}"}, "outside of the dataset's folder", id="up"),
    pytest.param({"data_path": "/etc/{file_index}"}, "outside of the dataset", id="an absolute path"),
    pytest.param({"video_path": "{video_key.__class__}"}, r"\['video_key\.__class__'\]", id="attributes"),
    pytest.param({"video_path": "{home}/a.mp4"}, r"fields \['home'\]", id="a field that nobody fills"),
    pytest.param({"data_path": "{chunk_index"}, "not a path template", id="a template that is none"),
    pytest.param({"video_path": None}, "'video_path' is None", id="videos, but no path for them"),
    pytest.param({"fps": 1e-300}, "'fps' is 1e-300, .* from 0.001 to 100000", id="hardly a frame"),
    pytest.param({"fps": 1e300}, r"'fps' is 1e\+300", id="more frames than there can be"),
    pytest.param({"fps": 10**400}, "'fps' is 1000.*from 0.001", id="frames that no float counts"),
    pytest.param({"fps": float("nan")}, "'fps' is nan", id="not a number of frames"),
    pytest.param(
        {"features": {"x": {"dtype": ["video"], "shape": [1]}}},
        r"feature 'x' has dtype \['video'\], expected text",
        id="a dtype that is a list",
    ),
    *(
        pytest.param(
            {"video_path": template}, f"{says}; expected at most a number's digits", id=template[:20]
        )
        for template, says in (
            ("{video_key:>300000000}/{file_index}", "'video_key' is formatted with '>300000000'"),
            ("{file_index:300000000d}", "'file_index' is formatted with '300000000d'"),
            ("{file_index:{chunk_index}d}", "'file_index' is formatted with '{chunk_index}d'"),
            ("{file_index:.300000000f}", "'file_index' is formatted with '.300000000f'"),
            ("{video_key!a}", "'video_key' is formatted with 'a'"),
            ("{chunk_index:}{file_index:010d}", "'file_index' is formatted with '010d'"),
        )
    ),
    pytest.param({"data_path": "a" * 2000}, "expected a path template", id="a long template"),
]


@pytest.mark.parametrize(("changes", "says"), INFO_FAULTS)
def test_a_faulty_info_is_an_error_that_says_why(root, changes, says):
    _edit_info(root, lambda info: info.update(changes))
    with pytest.raises(DatasetError, match=says):
        read_info(root)


@pytest.mark.parametrize(
    "template", ["{chunk_index:03d}", "{chunk_index}", "{chunk_index:6}", "{chunk_index:d}"]
)
def test_the_digits_of_a_number_are_free(root, template):
    _edit_info(root, lambda info: info.update(data_path=template))
    assert read_info(root)["data_path"] == template


def test_a_camera_of_more_pixels_than_any_has_is_refused(root):
    _edit_info(root, lambda info: info["features"][FRONT].update(shape=[9000, 9000, 3]))
    with pytest.raises(
        DatasetError, match=r"camera '.*front' has frames of 9000 x 9000 pixels, expected at most"
    ):
        read_features(read_info(root))


def test_missing_keys_are_all_named(root):
    _edit_info(root, lambda info: [info.pop(key) for key in ("fps", "data_path")])
    with pytest.raises(DatasetError, match=r"the keys \['fps', 'data_path'\] are missing"):
        read_info(root)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(None, "does not exist; expected the folder of a LeRobot", id="missing"),
        pytest.param("{", "is not JSON", id="cut off"),
        pytest.param("[]", "holds list, expected a JSON object", id="a list"),
        pytest.param("[" * 100_000, "is not JSON", id="endlessly nested"),
    ],
)
def test_an_info_that_is_no_json_object_is_an_error(root, content, says):
    path = root / "meta/info.json"
    path.unlink()
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError, match=says):
        read_info(root)


def test_a_camera_name_that_leads_out_of_the_folder_is_refused(root):
    def rename(info: dict[str, Any]) -> None:
        info["features"]["../../../secret"] = info["features"].pop(FRONT)

    _edit_info(root, rename)
    table = pq.read_table(root / EPISODES)
    names = [name.replace(FRONT, "../../../secret") for name in table.column_names]
    pq.write_table(table.rename_columns(names), root / EPISODES)
    with pytest.raises(DatasetError, match="outside of the dataset's folder"):
        _read(root)


NAN = float("nan")
LIST_FAULTS = [
    pytest.param("episode_index", 1, 0, "episode 0 is there twice", id="an index that is there twice"),
    pytest.param("episode_index", 1, None, "'episode_index' = None", id="no index"),
]
EPISODE_FAULTS = [
    pytest.param("length", 0, 119, r"length 119, but its rows go from 0 to 120", id="another length"),
    pytest.param("length", 0, None, "episode 0 has 'length' = None, expected a number", id="no length"),
    pytest.param(f"videos/{WRIST}/from_timestamp", 3, NAN, "episode 3, .*wrist.*from nan", id="NaN start"),
    pytest.param(f"videos/{WRIST}/to_timestamp", 3, 1.0, "episode 3, .* from 23.5 to 1.0", id="end first"),
    pytest.param(f"videos/{WRIST}/file_index", 3, None, "episode 3, .*wrist.*file None", id="no file"),
    pytest.param(
        f"videos/{WRIST}/to_timestamp", 5, 36.0, r"episode 5, .*frames take 35\.0+ s", id="another span"
    ),
]


@pytest.mark.parametrize(("column", "row", "value", "says"), LIST_FAULTS)
def test_a_list_of_episodes_that_contradicts_itself_is_an_error_that_names_it(root, column, row, value, says):
    _set_value(root / EPISODES, column, row, value)
    with pytest.raises(DatasetError, match=says):
        list_episodes(root, read_info(root))


@pytest.mark.parametrize(("column", "row", "value", "says"), EPISODE_FAULTS)
def test_what_is_wrong_with_an_episode_fails_it_and_no_other(root, column, row, value, says):
    _set_value(root / EPISODES, column, row, value)
    with pytest.raises(DatasetError, match=says):
        _read(root, row)
    assert _read(root, 1).frame_count == 225


def test_a_camera_whose_span_is_wrong_does_not_fail_those_who_look_at_another(root):
    _set_value(root / EPISODES, f"videos/{WRIST}/from_timestamp", 3, None)
    info = read_info(root)
    assert list(read_episode(root, info, list_episodes(root, info)[3], [FRONT]).videos) == [FRONT]


def test_spans_that_overlap_fail_both_episodes(root):
    table = pq.read_table(root / EPISODES)
    start, end = (table[f"videos/{FRONT}/{name}"].to_pylist() for name in ("from_timestamp", "to_timestamp"))
    assert end[0] == start[1], "one file"
    for name, seconds in (("from_timestamp", start[1] - 0.1), ("to_timestamp", end[1] - 0.1)):
        _set_value(root / EPISODES, f"videos/{FRONT}/{name}", 1, seconds)
    for index in (0, 1):
        with pytest.raises(DatasetError, match="they overlap by more than half a frame"):
            _read(root, index)
    assert _read(root, 2).frame_count == 360


@pytest.mark.parametrize(
    ("row", "seconds", "is_taken"),
    [
        pytest.param(60, 0.4, True, id="less than half a frame"),
        pytest.param(60, 0.6, False, id="more than half a frame"),
        pytest.param(119, 0.6, False, id="the last one"),
    ],
)
def test_a_timestamp_may_differ_from_its_frame_s_by_half_a_frame(root, row, seconds, is_taken):
    _set_value(root / DATA, "timestamp", row, (row + seconds) / 30)
    if is_taken:
        assert _read(root, 0).frame_count == 120
        return
    with pytest.raises(DatasetError, match=rf"row {row}: timestamp is .* but frame {row} .* stands at"):
        _read(root, 0)


@pytest.mark.parametrize("file_index", [1, 2, -1, 99, None])
def test_rows_are_found_by_their_episode_whatever_file_is_named(root, file_index):
    expected = _read(root, 0).timestamps_seconds.tobytes()
    _set_value(root / EPISODES, "data/file_index", 0, file_index)
    episode = _read(root, 0)
    assert episode.timestamps_seconds.tobytes() == expected
    assert episode.data_path == (root / DATA).absolute()


def test_an_episode_that_no_data_file_holds_is_named_with_the_file_that_should(root):
    table = pq.read_table(root / DATA)
    pq.write_table(table.slice(120), root / DATA)
    with pytest.raises(DatasetError, match=r"episode 0: no data file holds a row of it; .*file-000\.parquet"):
        _read(root, 0)


def test_whole_numbers_that_pandas_made_floats_are_taken(root):
    table = pq.read_table(root / EPISODES)
    numbers = [name for name in table.column_names if pa.types.is_int64(table.schema.field(name).type)]
    assert "length" in numbers
    for name in numbers:
        place = table.column_names.index(name)
        table = table.set_column(place, name, table[name].cast(pa.float64()))
    pq.write_table(table, root / EPISODES)
    assert [_read(root, index).frame_count for index in (0, 5)] == [120, 1050]


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        pytest.param(lambda path: path.unlink(), "the tasks, .*is missing", id="missing"),
        pytest.param(lambda path: path.write_bytes(b"PAR1"), "can't be read as parquet", id="no parquet"),
        pytest.param(
            lambda path: pq.write_table(pa.table({"task": ["a"]}), path),
            r"has the columns \['task'\], expected 'task_index' and 'task'",
            id="no index",
        ),
        pytest.param(
            lambda path: pq.write_table(pa.table({"task_index": [0, 0], "task": ["a", "b"]}), path),
            "names a 'task_index' twice",
            id="twice",
        ),
        pytest.param(
            lambda path: pq.write_table(
                pa.table({"task_index": [0], "task": pa.nulls(1, pa.string())}), path
            ),
            "a row without 'task_index' or 'task'",
            id="null",
        ),
    ],
)
def test_tasks_that_can_not_be_read_are_an_error(root, edit, says):
    edit(root / "meta/tasks.parquet")
    with pytest.raises(DatasetError, match=says):
        _read(root, 0)


def test_the_index_of_a_data_frame_without_a_name_holds_the_tasks_too(root):
    expected = _read(root, 0).task
    path = root / "meta/tasks.parquet"
    table = pq.read_table(path)
    renamed = table.rename_columns(["__index_level_0__" if n == "task" else n for n in table.column_names])
    pq.write_table(renamed.replace_schema_metadata(None), path)
    assert _read(root, 0).task == expected


@pytest.mark.parametrize("name", [DATA, EPISODES, "meta/tasks.parquet"])
def test_a_pointer_of_git_lfs_is_called_one(root, name):
    (root / name).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 9\n")
    with pytest.raises(DatasetError, match=r"is a pointer of Git LFS.*git lfs pull"):
        _read(root, 0)


def test_a_list_of_episodes_that_is_incomplete_is_an_error(root):
    table = pq.read_table(root / EPISODES)
    pq.write_table(table.slice(0, 4), root / EPISODES)
    with pytest.raises(DatasetError, match="info.json says 6 episodes, meta/episodes holds 4"):  # noqa: RUF043
        list_episodes(root, read_info(root))
    pq.write_table(table.drop_columns(["length", "tasks"]), root / EPISODES)
    with pytest.raises(DatasetError, match=r"the columns \['tasks', 'length'\] are missing"):
        list_episodes(root, read_info(root))
    (root / EPISODES).write_bytes(b"PAR1 this is none")
    with pytest.raises(DatasetError, match=r"file-000\.parquet can't be read as parquet"):
        list_episodes(root, read_info(root))
    (root / EPISODES).unlink()
    with pytest.raises(DatasetError, match="holds no parquet file"):
        list_episodes(root, read_info(root))


ROW_FAULTS = [
    pytest.param("timestamp", 121, NAN, r"row 1: timestamp is nan", id="NaN"),
    pytest.param("timestamp", 121, float("inf"), r"row 1: timestamp is inf", id="infinite"),
    pytest.param(
        "timestamp", 122, 0.0333333351, r"row 2: timestamp 0\.033.* follows 0\.0", id="twice the same"
    ),
    pytest.param("timestamp", 344, 0.0, r"row 224: timestamp 0\.0 s follows 7\.43", id="falling"),
    pytest.param("timestamp", 122, None, r"1 rows without a timestamp", id="null"),
    pytest.param("frame_index", 130, 11, r"row 10: frame_index is 11, expected 10", id="a skipped index"),
    pytest.param("episode_index", 344, 7, r"224 rows, but meta/episodes says 225", id="a row lost"),
]


@pytest.mark.parametrize(("column", "row", "value", "says"), ROW_FAULTS)
def test_faulty_rows_fail_their_episode_and_no_other(root, column, row, value, says):
    _set_value(root / DATA, column, row, value)
    with pytest.raises(DatasetError, match=rf"episode 1 in .*file-000\.parquet.*{says}"):
        _read(root, 1)
    assert (_read(root, 0).frame_count, _read(root, 2).frame_count) == (120, 360)


def test_timestamps_that_are_no_numbers_are_an_error(root):
    table = pq.read_table(root / DATA)
    index = table.column_names.index("timestamp")
    texts = pa.array(["0"] * table.num_rows)
    pq.write_table(table.set_column(index, "timestamp", texts), root / DATA)
    with pytest.raises(DatasetError, match="'timestamp' is of type string, expected float"):
        _read(root)


def test_a_folder_name_with_an_equals_sign_changes_nothing(tmp_path):
    copy = Path(shutil.copytree(REFERENCE, tmp_path / "episode_index=3"))
    assert _read(copy, 1).timestamps_seconds.tobytes() == _read(REFERENCE, 1).timestamps_seconds.tobytes()
