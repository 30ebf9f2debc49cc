"""Sources that contradict themselves: what metadata and rows show, `plan` tells before anything is asked."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.annotated_dataset import edit_json
from tests.support.annotation import read_frames, run_command, write_manifest
from tests.support.bad_input import Bench, Outcome, outcome
from tests.support.tiny_dataset import (
    EPISODES,
    LENGTHS,
    SIDE,
    TASK,
    TASKS,
    TOP,
    edit_table,
    rows_path,
    video_path,
    with_column,
    write_tiny_dataset,
)

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.language.show import timeline

NOBODY_LISTENS = "http://127.0.0.1:9/v1"
ONE_QUESTION: dict[str, Any] = {"vqa": {"questionTypes": ["count"], "emissionHz": 0.1, "cameras": "Default"}}
"""One question an episode, of the first camera."""
UNKNOWN_MODEL = {"id": "acme/eyes", "serving": {"mode": "External", "endpoints": [NOBODY_LISTENS]}}

Damage = Callable[[Path], object]


def columns(name: str, **values: list[Any]) -> Damage:
    """Other values in columns of a parquet file; ``_at_`` stands for the camera's name."""

    def edit(table: pa.Table) -> pa.Table:
        for column, new in values.items():
            table = with_column(table, column.replace("_at_", TOP), new)
        return table

    return lambda root: edit_table(root / name, edit)


def info(edit: Callable[[dict[str, Any]], object]) -> Damage:
    return lambda root: edit_json(root / "meta/info.json", edit)


def lfs_pointer(name: str) -> Damage:
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 12345\n"
    return lambda root: (root / name).write_text(text)


def removed(name: str) -> Damage:
    return lambda root: (root / name).unlink()


def rows(file: int, edit: Callable[[pa.Table], pa.Table]) -> Damage:
    return lambda root: edit_table(root / rows_path(file), edit)


def replaced(column: str, change: Callable[[list[Any]], list[Any]], kind: pa.DataType | None = None) -> Any:
    return lambda table: with_column(table, column, change(table[column].to_pylist()), kind)


def every_file(edit: Callable[[pa.Table], pa.Table]) -> Damage:
    return lambda root: [rows(file, edit)(root) for file in (0, 1)]


def both(*damages: Damage) -> Damage:
    return lambda root: [damage(root) for damage in damages]


@dataclass(frozen=True)
class BadSource:
    """A source, what `plan` says of it, and with which exit code."""

    name: str
    damage: Damage
    says: Sequence[str]
    exit_code: ExitCode = ExitCode.DATASET
    spec: dict[str, Any] = field(default_factory=dict)


def of_episode(index: int) -> str:
    return f"1 of 3 episodes can't be annotated ({index})"


LISTED = "videos/observation.images.top/"
LFS = "is a pointer of Git LFS"
REFUSED = [
    BadSource(
        "an LFS pointer for a video", lfs_pointer(video_path()), ("a pointer of Git LFS", "git lfs pull")
    ),
    BadSource(
        "an LFS pointer for rows", lfs_pointer(rows_path(1)), ("a pointer of Git LFS", "file-001.parquet")
    ),
    BadSource("an LFS pointer for tasks", lfs_pointer(TASKS), ("a pointer of Git LFS", "tasks.parquet")),
    BadSource(
        "an LFS pointer for the list", lfs_pointer(EPISODES), ("a pointer of Git LFS", "meta/episodes")
    ),
    BadSource("no tasks", removed(TASKS), ("the tasks", "is missing")),
    BadSource("no video of a camera that nobody looks at", removed(video_path(SIDE)), (SIDE, "is missing")),
    BadSource(
        "a shape that is not the video's",
        info(lambda value: value["features"][TOP].update(shape=[16, 24, 3])),
        ("are 64 x 48 pixels, but meta/info.json says 24 x 16",),
    ),
    BadSource(
        "an episode without its video's place",
        columns(EPISODES, **{"videos/_at_/file_index": [0, 0, None]}),
        (of_episode(2), "file None"),
    ),
    BadSource(
        "timestamps that run on",
        every_file(lambda t: with_column(t, "timestamp", [i / 10 for i in t["index"].to_pylist()])),
        ("2 of 3 episodes can't be annotated (1-2)", "timestamp is 2.000000 s, but frame 0"),
    ),
    BadSource(
        "timestamps of a faster camera",
        rows(1, replaced("timestamp", lambda times: [time / 2 for time in times])),
        (of_episode(2), "row 2: timestamp is 0.100000 s", "stands at 0.200000 s"),
    ),
    BadSource(
        "a span that is a frame short",
        columns(EPISODES, **{"videos/_at_/to_timestamp": [2.0, 4.0, 5.9]}),
        (of_episode(2), "is 1.900000 s long", "its 20 frames take 2.000000 s"),
    ),
    BadSource(
        "two episodes that share frames",
        columns(
            EPISODES,
            **{"videos/_at_/from_timestamp": [0.0, 1.9, 4.0], "videos/_at_/to_timestamp": [2.0, 3.9, 6.0]},
        ),
        ("2 of 3 episodes can't be annotated (0-1)", "overlap by more than half a frame"),
    ),
    BadSource(
        "rows of an episode that nobody lists",
        both(
            lambda root: edit_table(root / EPISODES, lambda table: table.slice(0, 2)),
            info(lambda value: value.update(total_episodes=2)),
        ),
        ("holds rows of episodes that meta/episodes does not list: 2",),
    ),
    BadSource(
        "an episode without rows",
        rows(1, lambda table: table.slice(0, 0)),
        (of_episode(2), "no data file holds a row of it"),
    ),
    BadSource(
        "a length that is one off",
        columns(EPISODES, length=[20, 20, 21], dataset_to_index=[20, 40, 61]),
        (of_episode(2), "its 21 frames take 2.100000 s"),
    ),
    BadSource(
        "rows that are one too few",
        rows(1, lambda table: table.slice(0, 19)),
        (of_episode(2), "19 rows, but meta/episodes says 20"),
    ),
    BadSource(
        "an episode in two data files",
        rows(1, lambda table: pa.concat_tables([table, with_column(table, "episode_index", [1] * 20)])),
        ("episode 1 has rows in two data files", "file-000.parquet", "file-001.parquet"),
    ),
    BadSource(
        "a task that the table lacks",
        rows(0, replaced("task_index", lambda tasks: [*tasks[:-1], 7])),
        (of_episode(1), "task_index 7, which meta/tasks.parquet does not have"),
    ),
    BadSource(
        "data files with other columns",
        rows(1, lambda table: table.drop_columns(["action"])),
        ("the column 'action' is missing, but in", "loads only data files with the same columns"),
    ),
    BadSource(
        "a column of another type",
        rows(
            1, lambda table: with_column(table, "action", table["action"].to_pylist(), pa.list_(pa.float64()))
        ),
        ("the column 'action' is of type list<", "double", "it is of type list<", "float"),
    ),
    BadSource(
        "stats that are no JSON",
        lambda root: (root / "meta/stats.json").write_text("{"),
        ("meta/stats.json",),
    ),
    BadSource(
        "tools that are no list",
        info(lambda value: value.update(tools={"say": 1})),
        ("tools is", "expected a list"),
    ),
    BadSource(
        "rows in which episodes are mixed",
        rows(0, lambda table: table.take(pa.array([*range(0, 40, 2), *range(1, 40, 2)]))),
        ("episodes can't be annotated (0-1)", "frame_index"),
    ),
    BadSource(
        "coordinates of an unknown scale",
        lambda root: None,
        ("coordinateScale",),
        ExitCode.CONFIGURATION,
        {"modules": {"vqa": {"questionTypes": ["bbox"]}}, "model": UNKNOWN_MODEL},
    ),
]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny") / "dataset", (TOP, SIDE))


@pytest.fixture
def source(tiny: Path, bench: Bench) -> Path:
    """A copy that may be damaged."""
    for path in (path for path in tiny.rglob("*") if path.is_file()):
        target = bench.folder / "dataset" / path.relative_to(tiny)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    bench.dataset, bench.episodes, bench.modules = bench.folder / "dataset", "0-2", ONE_QUESTION
    return bench.dataset


def planned(bench: Bench, **spec: Any) -> Outcome:
    modules = spec.pop("modules", bench.modules)
    manifest = write_manifest(bench.folder, bench.dataset, NOBODY_LISTENS, modules, **spec)
    return outcome(run_command("plan", "-f", manifest))


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in REFUSED])
def test_a_source_that_the_merge_would_refuse_is_refused_by_plan(
    case: BadSource, bench: Bench, source: Path, tabulate: Callable[[str, str, Outcome], None]
) -> None:
    case.damage(source)
    start = time.monotonic()
    bad = planned(bench, **case.spec)
    tabulate("plan", f"{case.name} ({time.monotonic() - start:.1f} s)", bad)
    assert bad.exit_code == case.exit_code, bad.stderr + bad.stdout
    assert "Traceback" not in bad.stderr
    for part in case.says:
        assert part in bad.message
    assert not bench.output.exists()


STALE: Damage = columns(EPISODES, **{"data/file_index": [0, 0, 0]})
FLOATS = ("length", "data/file_index", f"{LISTED}file_index", f"{LISTED}chunk_index")


def floats(root: Path) -> None:
    def edit(table: pa.Table) -> pa.Table:
        for name in FLOATS:
            table = with_column(table, name, [float(v) for v in table[name].to_pylist()], pa.float64())
        return table

    edit_table(root / EPISODES, edit)


@pytest.mark.parametrize(
    ("name", "change", "warning"),
    [
        pytest.param(
            "a stale data file", STALE, "episodes 2: meta/episodes names another data file", id="stale"
        ),
        pytest.param(
            "a data file that is not there",
            columns(EPISODES, **{"data/file_index": [0, 0, 7]}),
            "episodes 2: meta/episodes names another data file",
            id="no such file",
        ),
        pytest.param("whole numbers as float64", floats, None, id="floats"),
        pytest.param(
            "timestamps as float64",
            every_file(replaced("timestamp", lambda times: [round(t, 1) for t in times], pa.float64())),
            None,
            id="float64",
        ),
        pytest.param(
            "a task corrected in tasks.parquet",
            columns(TASKS, task=["hang the mug on the rack"]),
            f"episodes 0-2: meta/episodes has the task {TASK!r}, meta/tasks.parquet 'hang the mug on",
            id="task",
        ),
        pytest.param(
            "rows of the visualizer beside the columns",
            lambda root: (root / "meta/lerobot_annotations.json").write_text("{}"),
            "meta/lerobot_annotations.json speaks of the language rows that the source has, and is not",
            id="side file",
        ),
    ],
)
def test_what_lerobot_reads_is_annotated_with_a_warning(
    name: str,
    change: Damage,
    warning: str | None,
    bench: Bench,
    source: Path,
    tabulate: Callable[[str, str, Outcome], None],
) -> None:
    change(source)
    plan = planned(bench)
    assert plan.exit_code == ExitCode.OK, plan.stderr
    said = [line for line in plan.stderr.splitlines() if "warning: " in line]
    assert len(said) == (warning is not None), plan.stderr
    assert all(warning is not None and warning in line for line in said)
    done = bench.run()
    tabulate("source", name, done)
    assert done.exit_code == ExitCode.OK, done.stderr + done.stdout
    assert done.asked == len(LENGTHS)
    assert warning is None or f"warning: {warning}" in done.stdout
    episodes = read_frames(bench.output)
    assert [any(episodes[index].events) for index in range(3)] == [True] * 3
    told = [timeline(bench.output, index)[0].split(":")[0] for index in range(3)]
    assert told == ["episode 0", "episode 1", "episode 2"]
    assert not (bench.output / "meta/lerobot_annotations.json").exists()
    asked = {
        part["text"] for body in done.bodies for part in body["messages"][0]["content"] if "text" in part
    }
    task = "hang the mug on the rack" if "corrected" in name else TASK
    assert asked
    assert all(f"Task: {task}" in text for text in asked)


def test_an_episode_that_is_not_selected_may_be_broken(
    bench: Bench, source: Path, tabulate: Callable[[str, str, Outcome], None]
) -> None:
    columns(EPISODES, **{"videos/_at_/from_timestamp": [0.0, 2.0, None]})(source)
    rows(1, replaced("frame_index", lambda numbers: [*numbers[:-1], 77]))(source)
    bench.episodes = "0-1"
    done = bench.run()
    tabulate("source", "an episode that is broken and not selected", done)
    assert done.exit_code == ExitCode.OK, done.stderr
    assert done.asked == 2
    before, after = (pq.read_table(root / rows_path(1)) for root in (source, bench.output))
    assert after.select(before.column_names).equals(before), "its rows are as they were"


def test_frames_that_the_video_lacks_fail_the_episode_before_it_is_asked_about(
    bench: Bench, source: Path, tabulate: Callable[[str, str, Outcome], None]
) -> None:
    """Metadata and rows agree that there are 21 frames; the span of the video holds 20."""
    starts, ends = [0.0, 2.0, 4.0], [2.0, 4.0, 6.1]
    columns(EPISODES, length=[20, 20, 21], dataset_to_index=[20, 40, 61])(source)
    columns(EPISODES, **{"videos/_at_/from_timestamp": starts, "videos/_at_/to_timestamp": ends})(source)
    columns(EPISODES, **{f"videos/{SIDE}/to_timestamp": ends})(source)

    def one_more(table: pa.Table) -> pa.Table:
        last = table.slice(19, 1)
        last = with_column(with_column(last, "timestamp", [2.0]), "frame_index", [20])
        return pa.concat_tables([table, with_column(last, "index", [60])])

    rows(1, one_more)(source)
    assert planned(bench).exit_code == ExitCode.OK
    bad = bench.run()
    tabulate("source", "more rows than the video has frames", bad)
    assert bad.exit_code == ExitCode.INCOMPLETE
    assert "the video holds 20 frames in the episode's span, but the episode has 21 rows" in bad.message
    assert bad.asked == 2
    assert json.loads((source / "meta/info.json").read_text())["total_episodes"] == 3
