"""``meta/tasks.parquet``: the text of each task, which the rows name by ``task_index``.

It is what LeRobot shows at each frame (lerobot 0.6.1, ``LeRobotDataset.__getitem__``); the texts in
``meta/episodes`` are a copy that nobody corrects.
"""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from annotationrun_worker.dataset.layout import check_readable
from annotationrun_worker.dataset.parquet_files import READ_ERRORS, fitting_rows, open_parquet
from annotationrun_worker.errors import DatasetError

TASKS_PATH = PurePosixPath("meta/tasks.parquet")

TASK_CHARACTERS = 10_000
"""Of one: it stands in every prompt, and people write a sentence or two."""
TASKS_LIMIT = 1_000_000
"""Of a dataset."""

_BATCH_ROWS = 1000
_INDEX_COLUMN = "task_index"
_TEXT_COLUMN = "task"
_UNNAMED_INDEX = "__index_level_0__"
"""What pandas calls an index without a name when it writes one."""


def read_tasks(root: Path) -> Mapping[int, str]:
    """The text of each task of the dataset at ``root``, by ``task_index``.

    The texts are the index of the data frame that LeRobot writes, or a column named ``task``.

    Raises:
        DatasetError: the file is missing or can't be read, has no such columns, a null, one index twice, or a
            text that is no task but a book.
    """
    path = root / TASKS_PATH
    check_readable(path, "the tasks, without which LeRobot can't load the dataset")
    indices: list[int | None] = []
    texts: list[str | None] = []
    try:
        with open_parquet(path) as file:
            schema = file.schema_arrow
            text_column = _text_column(schema)
            if _INDEX_COLUMN not in schema.names or text_column is None:
                raise DatasetError(
                    f"{path} has the columns {schema.names}, expected {_INDEX_COLUMN!r} and {_TEXT_COLUMN!r}"
                )
            if file.metadata.num_rows > TASKS_LIMIT:
                raise DatasetError(
                    f"{path} has {file.metadata.num_rows} tasks, expected at most {TASKS_LIMIT}"
                )
            columns = [_INDEX_COLUMN, text_column]
            for group in range(file.num_row_groups):
                fitting = fitting_rows(file, group, columns, _BATCH_ROWS, path)
                for batch in file.iter_batches(
                    fitting, row_groups=[group], columns=columns, use_threads=False
                ):
                    found = batch.column(text_column).cast(pa.string())
                    check_task_lengths(found, path)
                    indices += batch.column(_INDEX_COLUMN).cast(pa.int64()).to_pylist()
                    texts += found.to_pylist()
    except READ_ERRORS as error:
        raise DatasetError(f"{path} can't be read as parquet: {error}") from error
    named = zip(indices, texts, strict=True)
    tasks = {index: text for index, text in named if index is not None and text is not None}
    if None in indices or None in texts:
        raise DatasetError(f"{path} has a row without {_INDEX_COLUMN!r} or {_TEXT_COLUMN!r}")
    if len(tasks) < len(indices):
        raise DatasetError(f"{path} names a {_INDEX_COLUMN!r} twice; expected one text for each")
    return tasks


def check_task_lengths(texts: pa.Array, path: Path) -> None:
    """See that no text, and no list of texts, is longer than a task may be.

    Raises:
        DatasetError: one is.
    """
    if pa.types.is_list(texts.type) or pa.types.is_large_list(texts.type):
        counts = pc.list_value_length(texts)
        if (pc.max(counts).as_py() or 0) > TASK_CHARACTERS:
            raise DatasetError(f"{path} lists more than {TASK_CHARACTERS} tasks of an episode")
        texts = texts.flatten()
    if not pa.types.is_string(texts.type) and not pa.types.is_large_string(texts.type):
        return
    longest = pc.max(pc.utf8_length(texts)).as_py() or 0
    if longest > TASK_CHARACTERS:
        raise DatasetError(
            f"{path} has a task of {longest} characters, expected at most {TASK_CHARACTERS}; shorten it, as "
            "every prompt names it"
        )


def _text_column(schema: pa.Schema) -> str | None:
    """The column of the texts: by its name, else the index that pandas notes in the file's metadata."""
    if _TEXT_COLUMN in schema.names:
        return _TEXT_COLUMN
    try:
        named = json.loads((schema.metadata or {})[b"pandas"])["index_columns"]
    except (KeyError, ValueError, TypeError, RecursionError):
        named = []
    named = named if isinstance(named, list) else []
    return next((name for name in (*named, _UNNAMED_INDEX) if name in schema.names), None)
