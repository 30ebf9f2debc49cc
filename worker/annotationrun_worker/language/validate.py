"""Is an annotated dataset what LeRobot and we expect? Nothing here writes.

Rules over the files of an annotated dataset: metadata and parquet schemas.

Validate an annotated dataset on disk: every file, every row.

Whatever is broken is reported, not raised. Memory holds one episode's rows.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from annotationrun_api.errors import AnnotationRunError
from annotationrun_worker.dataset.episodes import EpisodeSummary, list_episodes
from annotationrun_worker.dataset.layout import data_files, has_journal
from annotationrun_worker.dataset.metadata import read_features, read_info
from annotationrun_worker.dataset.parquet_files import READ_ERRORS, return_freed_memory
from annotationrun_worker.errors import DatasetError
from annotationrun_worker.language.columns import (
    EVENTS_TYPE,
    LANGUAGE_COLUMNS,
    LANGUAGE_FEATURE,
    PERSISTENT_TYPE,
    REPLACED_COLUMNS,
    tool_name,
)
from annotationrun_worker.language.existing import all_rows, read_annotated
from annotationrun_worker.language.rewrite import HUGGINGFACE_KEY
from annotationrun_worker.language.rows import SAY_TOOL_NAME
from annotationrun_worker.language.rules import (
    KNOWN_STYLES,
    DatasetFacts,
    Problem,
    episode_problems,
    frame_problems,
)


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


def validate_dataset(root: Path) -> list[Problem]:
    """Check the annotated dataset at ``root`` against the format; an empty list: it is valid.

    Problems come in this order: metadata, files, then episodes in the order of the files.
    """
    try:
        info = read_info(root)
        facts = _facts(info)
    except AnnotationRunError as error:
        return [Problem("info", str(error))]
    problems = [*_unfinished(root), *info_problems(info), *side_file_problems(root)]
    try:
        summaries = list_episodes(root, info)
    except AnnotationRunError as error:
        problems.append(Problem("episodes", str(error)))
        summaries = []
    problems += _episode_faults(summaries)
    problems += _missing_files(summaries)
    problems += schema_problems(root, data_files(root))
    return_freed_memory()
    problems += _data_problems(root, {int(summary.index): summary for summary in summaries}, facts)
    return problems


def _unfinished(root: Path) -> Iterator[Problem]:
    if has_journal(root):
        yield Problem(
            "unfinished",
            f"{root}: a merge in place is not complete, some files are old and some new; run the command "
            "that changed it again, which completes it",
        )


def _facts(info: Mapping[str, Any]) -> DatasetFacts:
    features = read_features(info)
    tools = info.get("tools")
    names = map(tool_name, tools if isinstance(tools, list) else [])
    return DatasetFacts(
        cameras={str(camera): features.camera_sizes.get(camera) for camera in features.cameras},
        tools=frozenset(name for name in names if name is not None),
    )


def _episode_faults(summaries: list[EpisodeSummary]) -> Iterator[Problem]:
    for summary in summaries:
        fault = summary.fault_with(summary.camera_faults)
        if fault is not None:
            yield Problem("episodes", fault, episode=int(summary.index))


def _missing_files(summaries: list[EpisodeSummary]) -> Iterator[Problem]:
    """Videos that ``meta/episodes`` names; each is told once, with the first episode that needs it."""
    seen: set[Path] = set()
    for summary in summaries:
        for camera, path in ((camera, span.path) for camera, span in summary.videos.items()):
            what = f"video of camera {camera!r}"
            if path in seen:
                continue
            seen.add(path)
            if not path.is_file():
                yield Problem("missing-file", f"the {what} {path} does not exist", episode=int(summary.index))
            elif path.stat().st_size == 0:
                yield Problem("missing-file", f"the {what} {path} is empty", episode=int(summary.index))


def _data_problems(
    root: Path, summaries: Mapping[int, EpisodeSummary], facts: DatasetFacts
) -> Iterator[Problem]:
    found: set[int] = set()
    of_others: Counter[str] = Counter()
    for path in data_files(root):
        try:
            yield from _file_problems(path, summaries, facts, found, of_others)
        except DatasetError as error:
            yield Problem("unreadable", str(error))
        return_freed_memory()
    for index in sorted(summaries.keys() - found):
        yield Problem("episode-rows", "the episode has no rows in the data files", episode=index)
        path = summaries[index].data_path
        if not path.is_file():
            yield Problem("missing-file", f"the data file {path} does not exist", episode=index)
    for style, count in sorted(of_others.items()):
        message = (
            f"{count} rows of a style that this version does not know; they are another tool's, and stay"
        )
        yield Problem("style", message, "warning", style=style)


def _file_problems(
    path: Path,
    summaries: Mapping[int, EpisodeSummary],
    facts: DatasetFacts,
    found: set[int],
    of_others: Counter[str],
) -> Iterator[Problem]:
    owner_of_group: dict[int, int] = {}
    for episode in read_annotated(path):
        index = episode.index
        if index in found:
            yield Problem("row-group", f"{path}: the episode's rows lie apart", episode=index)
        found.add(index)
        if len(episode.row_groups) != 1:
            yield Problem("row-group", f"{path}: lies in {len(episode.row_groups)} row groups", episode=index)
        for group in episode.row_groups:
            other = owner_of_group.setdefault(group, index)
            if other != index:
                yield Problem("row-group", f"{path}: shares row group {group} with {other}", episode=index)
        summary = summaries.get(index)
        frame_count = len(episode.timestamps_seconds)
        if summary is None and summaries:
            yield Problem("episode-rows", f"{path}: meta/episodes does not list it", episode=index)
        elif summary is not None and summary.length != frame_count:
            yield Problem(
                "episode-rows",
                f"{path}: {frame_count} rows, meta/episodes says {summary.length}",
                episode=index,
            )
        yield from frame_problems(episode)
        yield from episode_problems(episode, facts)
        styles = (row.style for row in all_rows(episode.language))
        of_others.update(style for style in styles if style is not None and style not in KNOWN_STYLES)
