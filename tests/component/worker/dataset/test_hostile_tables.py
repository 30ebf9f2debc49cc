"""Tables of some kilobytes that expand to gigabytes: refused by their footers, or read in parts that fit."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.annotation import write_manifest
from tests.support.attacks import attacked
from tests.support.tiny_dataset import (
    EPISODES,
    TASK,
    TASKS,
    edit_table,
    rows_path,
    with_column,
    write_tiny_dataset,
)

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.dataset.data_rows import read_data_rows
from annotationrun_worker.dataset.parquet_files import ROWS_LIMIT, open_parquet
from annotationrun_worker.errors import DatasetError

MODULES = {"vqa": {"questionTypes": ["count"], "emissionHz": 1.0}}
NOBODY = "http://127.0.0.1:9/v1"
MIB = 1024**2


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny") / "dataset")


@pytest.fixture
def dataset(tiny, tmp_path):
    return Path(shutil.copytree(tiny, tmp_path / "dataset"))


def plan(name, folder, printed):
    manifest = write_manifest(folder, folder / "dataset", NOBODY, MODULES)
    return attacked(printed, name, "plan", "-f", manifest, most_bytes=400 * MIB)


def write_constant_rows(path: Path, rows: int) -> None:
    """Rows that are all the same, so that they are run lengths."""
    template = pq.read_table(path).slice(0, 1)
    template = template.drop_columns(["action", "observation.state"])
    part = min(rows, 1_000_000)
    table = template.take(pa.array(np.zeros(part, np.int64)))
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for _ in range(rows // part):
            writer.write_table(table, row_group_size=part)


def tell(dataset: Path, **values: object) -> None:
    path = dataset / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | values), encoding="utf-8")


def test_more_rows_than_the_dataset_has_are_refused_by_the_footer(dataset, tmp_path, printed):
    path = dataset / rows_path(0)
    write_constant_rows(path, 20_000_000)
    assert path.stat().st_size < MIB
    done = plan("20 million constant rows, 60 told", tmp_path, printed)
    assert done.returncode == ExitCode.DATASET
    assert f"has 20000000 rows, expected at most {ROWS_LIMIT}" in done.stderr


def test_more_rows_than_the_dataset_has_in_all_are_refused(dataset, tmp_path, printed):
    write_constant_rows(dataset / rows_path(0), 2_000_000)
    done = plan("2 million constant rows, 60 told", tmp_path, printed)
    assert done.returncode == ExitCode.DATASET
    assert (
        "2000000 rows, but meta/info.json says that the dataset has 60 frames ('total_frames')" in done.stderr
    )


def test_a_file_of_as_many_rows_as_may_be_fits(dataset, tmp_path, printed):
    write_constant_rows(dataset / rows_path(0), ROWS_LIMIT)
    tell(dataset, total_frames=ROWS_LIMIT)
    manifest = write_manifest(tmp_path, dataset, NOBODY, MODULES)
    done = attacked(printed, f"{ROWS_LIMIT} constant rows, as many told", "plan", "-f", manifest)
    assert done.returncode == ExitCode.DATASET


@pytest.mark.parametrize("characters", [50_000_000, 10_001])
def test_a_task_of_a_book_is_refused(characters, dataset, tmp_path, printed):
    edit_table(dataset / TASKS, lambda table: with_column(table, "task", ["x" * characters]))
    done = plan(f"a task of {characters} characters", tmp_path, printed)
    assert done.returncode == ExitCode.DATASET
    assert f"tasks.parquet has a task of {characters} characters, expected at most 10000" in done.stderr


def test_a_dictionary_of_one_long_task_is_not_expanded(dataset, tmp_path, printed):
    rows = 5000
    schema = pa.schema([("task_index", pa.int64()), ("task", pa.string())])
    text = pa.array(["x" * MIB]).take(pa.array(np.zeros(500, np.int64)))
    with pq.ParquetWriter(dataset / TASKS, schema, compression="zstd") as writer:
        for start in range(0, rows, 500):
            writer.write_table(
                pa.table([pa.array(range(start, start + 500)), text], schema=schema), row_group_size=500
            )
    done = plan("5000 tasks that name one of 1 MiB", tmp_path, printed)
    assert done.returncode == ExitCode.DATASET
    assert f"has a task of {MIB} characters" in done.stderr


def test_a_list_of_tasks_that_expands_is_refused(dataset, tmp_path, printed):
    edit_table(dataset / EPISODES, lambda table: with_column(table, "tasks", [[TASK] * 200_000] * 3))
    done = plan("200000 tasks of an episode", tmp_path, printed)
    assert done.returncode == ExitCode.DATASET
    assert "lists more than 10000 tasks of an episode" in done.stderr


def test_episodes_are_counted_before_they_are_read(dataset, tmp_path, printed):
    template = pq.read_table(dataset / EPISODES).slice(0, 1)
    pq.write_table(
        template.take(pa.array(np.zeros(3_000_000, np.int64))), dataset / EPISODES, compression="zstd"
    )
    done = plan("3 million constant episodes, 3 told", tmp_path, printed)
    assert done.returncode == ExitCode.DATASET
    assert "says 3 episodes, meta/episodes holds 3000000" in done.stderr


def test_a_dictionary_that_expands_in_the_rows_does_not_fill_the_memory(dataset, tmp_path, printed):
    """A drop reads all columns, as a merge does."""
    for file in (0, 1):
        path = dataset / rows_path(file)
        table = pq.read_table(path).take(pa.array(np.zeros(400, np.int64)))
        table = with_column(table, "frame_index", range(400))
        note = pa.DictionaryArray.from_arrays(np.zeros(400, np.int32), ["x" * (8 * MIB)])
        table = table.append_column("note", note)
        pq.write_table(table, path, compression="zstd", store_schema=False)  # so that it is read as text
        assert path.stat().st_size < MIB
    done = attacked(
        printed, "800 rows that name a text of 8 MiB",
        "drop", dataset, "--module", "vqa", "--output", tmp_path / "dropped",
    )  # fmt: skip
    assert done.returncode == ExitCode.DATASET
    assert "a dictionary that expands so far is made to do harm" in done.stderr


def test_a_column_that_is_there_twice_is_named(dataset):
    for name, read in ((rows_path(0), read_data_rows), (EPISODES, open_parquet), (TASKS, open_parquet)):
        path = dataset / name
        column = pq.read_table(path).column_names[0]
        edit_table(path, lambda table: table.append_column(table.column_names[0], table.column(0)))
        with pytest.raises(DatasetError, match=rf"has the columns \['{column}'\] more than once"):
            read(path)


def test_a_footer_at_which_the_library_ends_the_process_is_refused(dataset, tmp_path, printed):
    """A column that may be null becomes one that may not, so the counts beside its chunk are too many."""
    (path,) = dataset.glob("meta/episodes/**/*.parquet")
    optional, required = (b"\x25" + kind + b"\x18\x07element" for kind in (b"\x02", b"\x00"))
    content = path.read_bytes()
    assert optional in content, "SchemaElement.repetition_type of parquet.thrift, then the name"
    path.write_bytes(content.replace(optional, required))
    looks = f"import pyarrow.parquet as pq; pq.read_metadata({str(path)!r}).row_group(0).to_dict()"
    ended = subprocess.run([sys.executable, "-c", looks], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGABRT, "the library raises it now: parquet_files need not look first"
    done = plan("a column's counts do not fit its levels", tmp_path, printed)
    assert done.returncode == ExitCode.DATASET
    assert f"{path} can't be read as parquet: Definition level histogram size mismatch" in done.stderr
