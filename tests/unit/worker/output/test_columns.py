"""The language columns as Arrow arrays."""

from typing import Any

import pyarrow as pa
import pytest

from annotationrun_worker.language.columns import (
    EVENTS_TYPE,
    PERSISTENT_TYPE,
    LanguageRow,
    events_array,
    persistent_array,
    sort_events,
    sort_persistent,
)

FIELDS = ("role", "content", "style", "camera")


def persistent(style: str, timestamp: float, role: str = "assistant", content: str = "x") -> LanguageRow:
    return LanguageRow(role, content, style, None, None, timestamp)


def event(style: str | None, role: str = "user", camera: str | None = None) -> LanguageRow:
    return LanguageRow(
        role, None if style is None else "x", style, camera, ('{"a":1}',) if style is None else None
    )


def as_python(row: LanguageRow, *, timed: bool) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in FIELDS}
    values["tool_calls"] = None if row.tool_calls is None else list(row.tool_calls)
    return values | ({"timestamp": row.timestamp_seconds} if timed else {})


@pytest.mark.parametrize("frame_count", [1, 2, 255, 256, 257, 600])
@pytest.mark.parametrize("row_count", [0, 1, 3])
def test_each_frame_holds_the_same_persistent_rows(frame_count: int, row_count: int) -> None:
    rows = tuple(persistent("subtask", number / 2) for number in range(row_count))

    array = persistent_array(rows, frame_count)

    assert array.type == PERSISTENT_TYPE
    assert array.to_pylist() == [[as_python(row, timed=True) for row in rows]] * frame_count


def test_the_chunks_of_a_long_episode_share_their_memory() -> None:
    rows = tuple(persistent("subtask", float(number), content="word " * 40) for number in range(20))
    one_block, many = persistent_array(rows, 256), persistent_array(rows, 256 * 400)
    assert len({chunk.values.field(1).buffers()[2].address for chunk in many.chunks}) == 1
    assert many.num_chunks == 400
    assert one_block.num_chunks == 1


@pytest.mark.parametrize(
    "events",
    [
        pytest.param({}, id="no events"),
        pytest.param({0: (event("vqa", camera="a"),)}, id="on the first frame"),
        pytest.param({4: (event(None), event("vqa"))}, id="on the last frame"),
        pytest.param({3: (event(None),), 1: (event("vqa"), event("vqa", "assistant"))}, id="in any order"),
    ],
)
def test_events_stand_on_their_frames_alone(events: dict[int, tuple[LanguageRow, ...]]) -> None:
    array = events_array(events, 5)

    assert array.type == EVENTS_TYPE
    expected = [[as_python(row, timed=False) for row in events.get(frame, ())] for frame in range(5)]
    assert array.to_pylist() == expected


def test_the_types_are_the_official_ones() -> None:
    row, event_row = PERSISTENT_TYPE.value_type, EVENTS_TYPE.value_type
    fields = [(field.name, field.type, field.nullable) for field in row]
    assert fields == [
        ("role", pa.string(), False),
        ("content", pa.string(), True),
        ("style", pa.string(), True),
        ("timestamp", pa.float32(), False),
        ("camera", pa.string(), True),
        ("tool_calls", pa.list_(pa.json_()), True),
    ]
    assert [(field.name, field.type, field.nullable) for field in event_row] == [
        field for field in fields if field[0] != "timestamp"
    ]


def test_no_tool_calls_and_an_empty_list_of_them_stay_apart() -> None:
    rows = tuple(LanguageRow("user", "x", "vqa", "a", calls) for calls in (None, (), ("{}", "[]")))
    (stored,) = events_array({0: rows}, 1).to_pylist()
    assert [row["tool_calls"] for row in stored] == [None, [], ["{}", "[]"]]


def test_persistent_rows_sort_by_time_then_style_then_role_and_keep_the_rest_of_their_order() -> None:
    tasks = [
        persistent("task_aug", 0.0, "user", text) for text in ("the dataset's own", "another", "a third")
    ]
    rows = [persistent("subtask", 2.0), *tasks, persistent("subtask", 0.0), persistent("plan", 0.0)]
    found = [(row.timestamp_seconds, row.style, row.content) for row in sort_persistent(rows)]
    assert found == [
        (0.0, "plan", "x"),
        (0.0, "subtask", "x"),
        *((0.0, "task_aug", row.content) for row in tasks),
        (2.0, "subtask", "x"),
    ]


def test_events_sort_by_style_then_role_then_camera_with_no_value_first() -> None:
    rows = [event("vqa", "user", "b"), event("vqa", "user", "a"), event("vqa", "assistant", "b"),
            event("interjection"), event(None, "assistant")]  # fmt: skip
    found = [(row.style, row.role, row.camera) for row in sort_events(rows)]
    assert found == [
        (None, "assistant", None),
        ("interjection", "user", None),
        ("vqa", "assistant", "b"),
        ("vqa", "user", "a"),
        ("vqa", "user", "b"),
    ]
