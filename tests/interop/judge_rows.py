"""What the judge reads from the files itself, and LeRobot's validator over their rows.

Imported by judge.py alone, after it has shut LeRobot off from hubs and caches.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
from lerobot.annotations.steerable_pipeline import writer as lerobot_writer
from lerobot.annotations.steerable_pipeline.reader import iter_episodes
from lerobot.annotations.steerable_pipeline.staging import EpisodeStaging
from lerobot.annotations.steerable_pipeline.validator import StagingValidator
from lerobot.configs.recipe import MessageRole
from lerobot.datasets.dataset_metadata import CODEBASE_VERSION
from lerobot.datasets.language import (
    LANGUAGE_COLUMNS,
    language_events_arrow_type,
    language_feature_info,
    language_persistent_arrow_type,
)

Row = dict[str, Any]
MODULE_OF_STYLE = {"interjection": "interjections", None: "interjections", "vqa": "vqa", "trace": "vqa"}
"""Where LeRobot's pipeline stages an event style; every persistent style belongs to its module `plan`."""
OFFICIAL_TYPES = dict(
    zip(LANGUAGE_COLUMNS, (language_persistent_arrow_type(), language_events_arrow_type()), strict=True)
)


@dataclass(frozen=True, slots=True)
class Episode:
    """The language rows of one episode as they stand in its data file, one entry per frame."""

    index: int
    timestamps: list[float]
    persistent: list[list[Row]]
    events: list[list[Row]]


def file_errors(root: Path) -> Iterator[str]:
    """What the format forbids in the files and LeRobot's loader need not notice."""
    info = json.loads((root / "meta" / "info.json").read_text(encoding="utf-8"))
    version = info.get("codebase_version")
    if version != CODEBASE_VERSION:
        yield f"info.json: codebase_version is {version!r}, expected {CODEBASE_VERSION!r}"
    for column, expected in language_feature_info().items():
        got = info["features"].get(column)
        if got is None or {**got, "shape": tuple(got.get("shape", ()))} != expected:
            yield f"info.json: feature {column} is {got!r}, expected {expected!r}"
    stored = {name for name, feature in info["features"].items() if feature["dtype"] != "video"}
    paths = sorted(root.glob("data/*/*.parquet"))
    first_schema = pq.read_schema(paths[0])
    for path in paths:
        name = str(path.relative_to(root))
        schema = pq.read_schema(path)
        yield from _schema_errors(schema, stored, name)
        if not schema.equals(first_schema):
            yield f"{name}: its schema differs from that of {paths[0].relative_to(root)}"
        yield from _row_group_errors(path, name)


def _schema_errors(schema: pa.Schema, stored: set[str], name: str) -> Iterator[str]:
    if schema.names[-2:] != list(LANGUAGE_COLUMNS):
        yield f"{name}: the last columns are {schema.names[-2:]}, expected {list(LANGUAGE_COLUMNS)}"
    for column, expected_type in OFFICIAL_TYPES.items():
        if column in schema.names and not schema.field(column).type.equals(expected_type):
            yield f"{name}: {column} has type {schema.field(column).type}, expected {expected_type}"
    if set(schema.names) != stored:
        yield f"{name}: columns and info.json features differ in {sorted(set(schema.names) ^ stored)}"
    if b"huggingface" in (schema.metadata or {}):
        yield f"{name}: holds the schema key 'huggingface', which goes stale when columns are added"


def _row_group_errors(path: Path, name: str) -> Iterator[str]:
    with pq.ParquetFile(path) as file:
        groups = [
            set(file.read_row_group(group, columns=["episode_index"])["episode_index"].to_pylist())
            for group in range(file.num_row_groups)
        ]
    if any(len(episodes) != 1 for episodes in groups) or len(set.union(*groups)) != len(groups):
        yield f"{name}: row groups hold the episodes {groups}, expected one episode each"


def read_episodes(root: Path) -> list[Episode]:
    """All episodes with their rows, tool calls parsed; raises on a file that lacks the columns."""
    episodes: dict[int, Episode] = {}
    for path in sorted(root.glob("data/*/*.parquet")):
        table = pq.read_table(path, columns=["episode_index", "timestamp", *LANGUAGE_COLUMNS])
        for index, timestamp, persistent, events in zip(*(c.to_pylist() for c in table.columns), strict=True):
            episode = episodes.setdefault(index, Episode(index, [], [], []))
            episode.timestamps.append(timestamp)
            episode.persistent.append([_parsed(row) for row in persistent])
            episode.events.append([_parsed(row) for row in events])
    return [episodes[index] for index in sorted(episodes)]


def _parsed(row: Row) -> Row:
    calls = row["tool_calls"]
    return row | {"tool_calls": calls and [json.loads(c) if isinstance(c, str) else c for c in calls]}


def row_errors(episode: Episode) -> Iterator[str]:
    """What the format forbids in the rows of one episode and LeRobot's staging validator does not ask."""
    where = f"ep={episode.index}"
    persistent = episode.persistent[0]
    for frame, rows in enumerate(episode.persistent):
        if rows != persistent:
            yield f"{where} frame={frame}: its persistent rows are not those of the episode's first frame"
            break
    yield from _each_row_errors(where, persistent, lerobot_writer._normalize_persistent_row)
    if persistent != sorted(persistent, key=lerobot_writer._row_persistent_sort_key):
        yield f"{where}: persistent rows are not sorted by (timestamp, style, role)"
    for timestamp in {row["timestamp"] for row in persistent} - set(episode.timestamps):
        yield f"{where}: persistent row at t={timestamp}, which is no frame of the episode"
    counts = Counter((row["style"], row["timestamp"]) for row in persistent if row["style"] != "task_aug")
    for (style, timestamp), count in counts.items():
        if count > 1:
            yield f"{where}: {count} persistent rows of style {style!r} at t={timestamp}"
    for frame, rows in enumerate(episode.events):
        yield from _event_errors(f"{where} frame={frame}", rows)


def _event_errors(where: str, rows: list[Row]) -> Iterator[str]:
    yield from _each_row_errors(where, rows, lerobot_writer._normalize_event_row)
    if rows != sorted(rows, key=lerobot_writer._row_event_sort_key):
        yield f"{where}: events are not sorted by (style, role, camera)"
    for style, count in Counter(
        row["style"] for row in rows if row["style"] in (None, "interjection")
    ).items():
        if count > 1:
            yield f"{where}: {count} rows of style {style!r} on one frame"
    pairs: dict[str | None, list[str]] = {}
    for row in rows:
        if row["style"] == "vqa":
            pairs.setdefault(row["camera"], []).append(str(row["role"]))
    for camera, roles in pairs.items():
        if sorted(roles) != ["assistant", "user"]:
            yield f"{where}: vqa rows of camera {camera!r} have the roles {roles}, expected one of each"


def _each_row_errors(where: str, rows: list[Row], normalize: Callable[[Row], Row]) -> Iterator[str]:
    """The checks of LeRobot's own writer, and the role, which it turns into a string unseen."""
    for row in rows:
        if row["role"] not in get_args(MessageRole):
            yield f"{where}: row with role {row['role']!r}: {row}"
        try:
            lerobot_writer._validate_atom_invariants(row)
            lerobot_writer._validate_speech_atom(row)
            normalize(row)
        except ValueError as error:
            yield f"{where}: {error}"


def tool_errors(root: Path, episodes: list[Episode]) -> Iterator[str]:
    """Tools that rows call and info.json does not declare; LeRobot then falls back to a list of its own."""
    info = json.loads((root / "meta" / "info.json").read_text(encoding="utf-8"))
    declared = {tool["function"]["name"] for tool in info.get("tools", [])}
    called = {
        call["function"]["name"]
        for episode in episodes
        for rows in (episode.persistent[0], *episode.events)
        for row in rows
        for call in row["tool_calls"] or []
    }
    if called - declared:
        yield f"info.json: the tools {sorted(called - declared)} are called and not declared"


def staging_report(
    root: Path, episodes: list[Episode], cameras: tuple[str, ...]
) -> tuple[list[str], list[str]]:
    """Errors and warnings of LeRobot's validator over the rows, converted back to its staging form."""
    with tempfile.TemporaryDirectory() as folder:
        for episode in episodes:
            staged: dict[str, list[Row]] = {
                "plan": list(episode.persistent[0]),
                "interjections": [],
                "vqa": [],
            }
            for timestamp, rows in zip(episode.timestamps, episode.events, strict=True):
                for row in rows:
                    # An unknown style goes where the validator says that it is unknown.
                    module = MODULE_OF_STYLE.get(row["style"], "vqa")
                    staged[module].append({**row, "timestamp": timestamp})
            for module, rows in staged.items():
                EpisodeStaging(Path(folder), episode.index).write(module, rows)
        report = StagingValidator(dataset_camera_keys=cameras).validate(
            list(iter_episodes(root)), Path(folder)
        )
    return report.errors, report.warnings
