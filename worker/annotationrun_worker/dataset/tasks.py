"""``meta/tasks.parquet``: the text of each task, which the rows name by ``task_index``.

It is what LeRobot shows at each frame (lerobot 0.6.1, ``LeRobotDataset.__getitem__``); the texts in
``meta/episodes`` are a copy that nobody corrects.
"""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from annotationrun_worker.dataset.layout import check_readable
from annotationrun_worker.errors import DatasetError

TASKS_PATH = PurePosixPath("meta/tasks.parquet")

_INDEX_COLUMN = "task_index"
_TEXT_COLUMN = "task"
_UNNAMED_INDEX = "__index_level_0__"
"""What pandas calls an index without a name when it writes one."""


def read_tasks(root: Path) -> Mapping[int, str]:
    """The text of each task of the dataset at ``root``, by ``task_index``.

    The texts are the index of the data frame that LeRobot writes, or a column named ``task``.

    Raises:
        DatasetError: the file is missing or can't be read, has no such columns, a null, or one index twice.
    """
    path = root / TASKS_PATH
    check_readable(path, "the tasks, without which LeRobot can't load the dataset")
    try:
        table = pq.read_table(path)
        text_column = _text_column(table)
        if _INDEX_COLUMN not in table.column_names or text_column is None:
            raise DatasetError(
                f"{path} has the columns {table.column_names}, expected {_INDEX_COLUMN!r} and "
                f"{_TEXT_COLUMN!r}"
            )
        indices = table[_INDEX_COLUMN].cast(pa.int64()).to_pylist()
        texts = table[text_column].cast(pa.string()).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DatasetError(f"{path} can't be read as parquet: {error}") from error
    if None in indices or None in texts:
        raise DatasetError(f"{path} has a row without {_INDEX_COLUMN!r} or {_TEXT_COLUMN!r}")
    tasks = dict(zip(indices, texts, strict=True))
    if len(tasks) < len(indices):
        raise DatasetError(f"{path} names a {_INDEX_COLUMN!r} twice; expected one text for each")
    return tasks


def _text_column(table: pa.Table) -> str | None:
    """The column of the texts: by its name, else the index that pandas notes in the file's metadata."""
    if _TEXT_COLUMN in table.column_names:
        return _TEXT_COLUMN
    try:
        named = json.loads((table.schema.metadata or {})[b"pandas"])["index_columns"]
    except (KeyError, ValueError, TypeError):
        named = []
    return next((name for name in (*named, _UNNAMED_INDEX) if name in table.column_names), None)
