"""Seeded damage to a LeRobot dataset: one file is changed in a way that a stranger might think of."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tests.support.tiny_dataset import EPISODES, TASKS, rows_path

INFO = "meta/info.json"
NUMBERS: tuple[Any, ...] = (
    -1, 0, 1, 7, 10**9, 2**31, 2**62, -(2**62), 1e300, -1e300, 1e-300, float("nan"), float("inf"), None
)  # fmt: skip
TEXTS: tuple[Any, ...] = (
    "",
    "x",
    "3",
    "x" * 5000,
    "{chunk_index:99999999}",
    "../../..",
    "\0",
    "\ud800",
    "\x1b[2J",
)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def mutate(dataset: Path, seed: int, kinds: Sequence[str]) -> str:
    """Damage the dataset in one of these ways; what was done."""
    draw = random.Random(seed)
    kind = draw.choice(kinds)
    return f"{kind}: {MUTATIONS[kind](dataset, draw)}"


def _json_value(draw: random.Random) -> Any:
    others: tuple[Any, ...] = (
        True, [], {}, ["video"], {"a": 1}, [[1, 2]], nested(400), 10**400, [2**40, 2**40, 3], [1, 10**7, 3]
    )  # fmt: skip
    return draw.choice([*NUMBERS, *TEXTS, *others])


def _change_info(dataset: Path, draw: random.Random) -> str:
    path = dataset / INFO
    info = json.loads(path.read_bytes())
    place, inside = info, []
    while True:
        key = draw.choice([*place, "more"])
        inside.append(key)
        if not isinstance(place.get(key), dict) or draw.random() < 0.3:
            break
        place = place[key]
    value = _json_value(draw)
    if draw.random() < 0.2:
        place.pop(key, None)
    else:
        place[key] = value
    path.write_text(json.dumps(info), encoding="utf-8")
    return f"{inside} = {value!r:.60}"


def _spoil_bytes(*names: str) -> Callable[[Path, random.Random], str]:
    def spoil(dataset: Path, draw: random.Random) -> str:
        path = dataset / draw.choice(names)
        content = bytearray(path.read_bytes())
        way = draw.choice(["flip", "cut", "double", "zero"])
        where = draw.randrange(len(content))
        if way == "flip":
            for _ in range(draw.choice([1, 4, 64])):
                content[draw.randrange(len(content))] ^= draw.randrange(1, 256)
        elif way == "cut":
            del content[where:]
        elif way == "double":
            content += content[where:]
        else:
            content[where : where + 64] = bytes(len(content[where : where + 64]))
        path.write_bytes(content)
        return f"{way} {path.name} at {where}"

    return spoil


def _change_table(name: str) -> Callable[[Path, random.Random], str]:
    def change(dataset: Path, draw: random.Random) -> str:
        path = dataset / name
        table = pq.read_table(path)
        place = draw.randrange(table.num_columns)
        column = table.column_names[place]
        way = draw.choice(["set", "set", "set", "type", "drop", "twice", "rows twice", "no rows", "rename"])
        if way == "set":
            table, done = _with_value(table, place, draw)
        elif way == "type":
            table, done = _with_type(table, place, draw)
        elif way == "drop":
            table, done = table.remove_column(place), ""
        elif way == "twice":
            table, done = table.append_column(column, table.column(place)), ""
        elif way == "rows twice":
            table, done = pa.concat_tables([table, table]), ""
        elif way == "no rows":
            table, done = table.slice(0, draw.choice([0, 1])), ""
        else:
            names = [*table.column_names]
            names[place] = draw.choice(["", "episode_index", "\x1b[2J", "x" * 3000])
            table, done = table.rename_columns(names), names[place][:20]
        pq.write_table(table, path)
        return f"{way} {column} {done}"

    return change


def _with_value(table: pa.Table, place: int, draw: random.Random) -> tuple[pa.Table, str]:
    values = table.column(place).to_pylist()
    kind = table.schema.field(place).type
    if pa.types.is_string(kind):
        pool: list[Any] = [None, "", "y" * 20_000, "\x1b]0;x\x07", "\u202e"]
    elif pa.types.is_list(kind):
        pool = [
            None,
            [],
            [None],
            *([["z" * 20_000], ["a"] * 20_000] if pa.types.is_string(kind.value_type) else []),
        ]
    else:
        pool = list(NUMBERS)
    value = draw.choice(pool)
    chosen = range(len(values)) if draw.random() < 0.3 else [draw.randrange(len(values))]
    for row in chosen:
        values[row] = value
    if not (pa.types.is_string(kind) or pa.types.is_list(kind)):
        kind = pa.int64() if all(type(item) is int for item in values if item is not None) else pa.float64()
        values = [float(v) if v is not None and kind == pa.float64() else v for v in values]
    return table.set_column(place, table.column_names[place], pa.array(values, kind)), f"{value!r:.40}"


def _with_type(table: pa.Table, place: int, draw: random.Random) -> tuple[pa.Table, str]:
    rows = table.num_rows
    arrays = [
        pa.array(["text"] * rows),
        pa.nulls(rows),
        pa.array([[1]] * rows),
        pa.array([{"bytes": b"x", "path": None}] * rows),
        pa.array([True] * rows),
        pa.array([2**64 - 1] * rows, pa.uint64()),
        pa.array([0] * rows, pa.timestamp("us")),
        pa.array(["0"] * rows).dictionary_encode(),
        pa.array([b"\xff"] * rows),
    ]
    array = draw.choice(arrays)
    return table.set_column(place, table.column_names[place], array), str(array.type)[:40]


def _write_nested(dataset: Path, draw: random.Random) -> str:
    name = draw.choice(["meta/stats.json", "meta/annotationrun.json", INFO])
    depth = draw.choice([500, 950, 100_000])
    opened, closed = draw.choice([("[", "]"), ('{"a":', "}")])
    inside = draw.choice(["null", "1"]) if closed == "}" else ""
    key = draw.choice(["timestamp", "formatVersion", "results", "features", "tools"])
    text = f'{{"{key}": {opened * depth}{inside}{closed * depth}}}'
    if name == INFO and (base := json.loads((dataset / INFO).read_bytes())):
        text = json.dumps(base)[:-1] + f', "{key}": {opened * depth}{inside}{closed * depth}}}'
    (dataset / name).write_text(text, encoding="utf-8")
    return f"{depth} deep in {name}, {key}"


MUTATIONS: dict[str, Callable[[Path, random.Random], str]] = {
    "info": _change_info,
    "info bytes": _spoil_bytes(INFO),
    "nested": _write_nested,
    "episodes": _change_table(EPISODES),
    "episodes bytes": _spoil_bytes(EPISODES),
    "tasks": _change_table(TASKS),
    "tasks bytes": _spoil_bytes(TASKS),
    "rows": _change_table(rows_path(0)),
    "rows bytes": _spoil_bytes(rows_path(0)),
}
"""By what is damaged."""
