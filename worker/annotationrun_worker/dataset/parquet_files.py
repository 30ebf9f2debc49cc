"""Parquet files of strangers: what may be opened, read and kept in memory.

Parquet files of strangers: opened only if their footers are believable, and read in batches that fit.

A file of some kilobytes can expand to any size: constant rows are run lengths, and a text that stands once in
a dictionary may be named by every row. What is said of a file in its footer is compared before anything is
allocated for it.

Memory that is free goes back to the system.
"""

import ctypes
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from annotationrun_worker.errors import DatasetError

ROWS_LIMIT: Final = 10_000_000
"""Of a file: 90 hours at 30 frames a second; LeRobot begins another file every 100 MB."""
BATCH_BYTES: Final = 64 * 1024**2
"""Of the texts and pictures of a batch, if they are all as long as the longest can be."""
CHUNK_BYTES: Final = 1024**3
"""Of the numbers of a column in one row group."""
_LOOK_BYTES: Final = 4096
READ_ERRORS: Final = (pa.ArrowException, OSError, ValueError)
"""What pyarrow raises on a file that is damaged, truncated or not readable."""

_NUMBER_BYTES: Final = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}
_TEXT: Final = "BYTE_ARRAY"


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a file, and see that its columns are told apart and its rows are not too many.

    Raises:
        DatasetError: they are not, or the file can't be read.
    """
    try:
        file = pq.ParquetFile(path)
        metadata, names = file.metadata, file.schema_arrow.names
        _see_columns(path, metadata)
        rows = sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    except READ_ERRORS as error:
        raise DatasetError(f"{path} can't be read as parquet: {error}") from error
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    fault = None
    if twice:
        fault = f"has the columns {twice} more than once; expected each once"
    elif rows != metadata.num_rows or rows < 0:
        fault = f"says that it has {metadata.num_rows} rows, and {rows} in its row groups; is it damaged?"
    elif rows > ROWS_LIMIT:
        fault = f"says that it has {rows} rows, expected at most {ROWS_LIMIT}; split the file, if that is so"
    if fault is not None:
        file.close()
        raise DatasetError(f"{path} {fault}")
    return file


def _see_columns(path: Path, metadata: pq.FileMetaData) -> None:
    """Raise one of READ_ERRORS where the footer's description of a column is damaged.

    ``RowGroupMetaData.column`` ends the process there: pyarrow declares it as a function that raises nothing.
    A reader that is asked for no row looks at every column as well, and reads at most a buffer of each.
    """
    with pq.ParquetFile(path, metadata=metadata, buffer_size=_LOOK_BYTES, pre_buffer=False) as file:
        for group in range(metadata.num_row_groups):
            deque(file.reader.iter_batches(0, row_groups=[group]), maxlen=0)


def fitting_rows(file: pq.ParquetFile, row_group: int, columns: Sequence[str], most: int, path: Path) -> int:
    """How many rows of ``columns`` to read at once: ``most``, or fewer where texts may be long.

    Raises:
        DatasetError: the numbers of a column would not fit into memory.
    """
    group, fitting = file.metadata.row_group(row_group), most
    wanted = set(columns)
    for leaf in range(group.num_columns):
        schema = file.schema.column(leaf)
        if schema.path.partition(".")[0] not in wanted and schema.path not in wanted:
            continue
        chunk = group.column(leaf)
        if schema.physical_type == _TEXT:
            # Each row may name the longest entry of the dictionary, which may be nearly all of it.
            fitting = min(fitting, max(BATCH_BYTES // max(chunk.total_uncompressed_size, 1), 1))
            continue
        size = chunk.num_values * _NUMBER_BYTES.get(schema.physical_type, max(schema.length, 1))
        if size > CHUNK_BYTES:
            raise DatasetError(
                f"{path}: the column {schema.path!r} has {chunk.num_values} values in row group {row_group}, "
                f"which take {size} bytes, expected at most {CHUNK_BYTES}; write smaller row groups"
            )
        if size > BATCH_BYTES:
            fitting = min(fitting, max(group.num_rows * BATCH_BYTES // size, 1))
    return fitting


def return_freed_memory() -> None:
    """Give what was freed back to the system, after a file with very many row groups was read or written.

    The footer of a file with ten thousand episodes becomes 200 MB of small objects. glibc keeps what is
    freed, for each thread apart: a few threads that read one file each would hold that much each, for ever.
    Takes some milliseconds; does nothing where the C library is another.
    """
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
