"""Rules over the files of an annotated dataset: metadata and parquet schemas."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from annotationrun_worker.dataset.parquet_files import READ_ERRORS
from annotationrun_worker.merge.columns import (
    EVENTS_TYPE,
    LANGUAGE_COLUMNS,
    PERSISTENT_TYPE,
    REPLACED_COLUMNS,
)
from annotationrun_worker.merge.metadata import LANGUAGE_FEATURE, tool_name
from annotationrun_worker.merge.rewrite import HUGGINGFACE_KEY
from annotationrun_worker.rows import SAY_TOOL_NAME
from annotationrun_worker.validate.problem import Problem


def info_problems(info: Mapping[str, Any]) -> Iterator[Problem]:
    """Check the language part of ``meta/info.json``: features and tools."""
    features = info["features"]
    for name in LANGUAGE_COLUMNS:
        if features.get(name) != LANGUAGE_FEATURE:
            yield Problem(
                "features",
                f"meta/info.json: features has {name!r}: {json.dumps(features.get(name))}, "
                f"expected {json.dumps(LANGUAGE_FEATURE)}",
            )
    for name in REPLACED_COLUMNS:
        if name in features:
            yield Problem(
                "features", f"meta/info.json: features still has {name!r}, LeRobot's collate fails on it"
            )
    tools = info.get("tools")
    if not isinstance(tools, list):
        yield Problem(
            "tools", f"meta/info.json: tools is {json.dumps(tools)}, expected a list with {SAY_TOOL_NAME!r}"
        )
    elif SAY_TOOL_NAME not in map(tool_name, tools):
        yield Problem("tools", f"meta/info.json: tools has no {SAY_TOOL_NAME!r}")


def side_file_problems(root: Path) -> Iterator[Problem]:
    """Check the other files of ``meta/`` that the language columns concern."""
    if not (root / "meta/tasks.parquet").is_file():
        yield Problem("tasks", "meta/tasks.parquet does not exist; LeRobot can't load the dataset without it")
    path = root / "meta/stats.json"
    if not path.is_file():
        return
    try:
        stats = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        yield Problem("stats", f"meta/stats.json can't be read as JSON: {error}")
        return
    for name in (*REPLACED_COLUMNS, *LANGUAGE_COLUMNS):
        if isinstance(stats, dict) and name in stats:
            yield Problem("stats", f"meta/stats.json still has {name!r}, LeRobot's collate fails on it")


def schema_problems(root: Path, paths: Sequence[Path]) -> Iterator[Problem]:
    """Check the schemas of all data files: the language columns, and that all files agree.

    LeRobot takes one file's schema for all: a single file that differs makes the dataset unloadable.
    """
    if not paths:
        yield Problem("missing-file", f"{root / 'data'} holds no parquet file")
    first: tuple[Path, pa.Schema] | None = None
    for path in paths:
        try:
            schema = pq.read_schema(path)
        except READ_ERRORS as error:
            yield Problem("unreadable", f"{path} can't be read as parquet: {error}")
            continue
        yield from _file_schema_problems(path, schema)
        first = first or (path, schema)
        if not schema.equals(first[1], check_metadata=False):
            yield Problem("schema-same", f"{path}: the columns are not those of {first[0]}")


def _file_schema_problems(path: Path, schema: pa.Schema) -> Iterator[Problem]:
    if HUGGINGFACE_KEY in (schema.metadata or {}):
        yield Problem(
            "huggingface-key", f"{path}: has the metadata key 'huggingface', which breaks the reader"
        )
    for name in REPLACED_COLUMNS:
        if name in schema.names:
            yield Problem("replaced-column", f"{path}: still has the column {name!r}")
    for name, expected in zip(LANGUAGE_COLUMNS, (PERSISTENT_TYPE, EVENTS_TYPE), strict=True):
        if name not in schema.names:
            yield Problem("column-missing", f"{path}: the column {name!r} is missing")
        elif schema.field(name).type != expected:
            yield Problem(
                "column-type", f"{path}: {name!r} is of type {schema.field(name).type}, expected {expected}"
            )
    if set(LANGUAGE_COLUMNS) <= set(schema.names) and tuple(schema.names[-2:]) != LANGUAGE_COLUMNS:
        yield Problem(
            "column-order",
            f"{path}: the last columns are {schema.names[-2:]}, expected {list(LANGUAGE_COLUMNS)}",
        )
