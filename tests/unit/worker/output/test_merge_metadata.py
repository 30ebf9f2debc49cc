"""The edits of info.json and stats.json."""

import json

import pytest

from annotationrun_worker.errors import DatasetError
from annotationrun_worker.language.columns import drop_from_info, edit_info, edit_stats
from annotationrun_worker.language.rows import say_tool

LANGUAGE = {"dtype": "language", "shape": [1], "names": None}


def edited(info: object) -> dict[str, object]:
    return json.loads(edit_info(json.dumps(info).encode()))


def test_features_and_the_say_tool_come_and_unknown_keys_survive() -> None:
    info = {"fps": 30, "my key": {"ñ": [1, None]}, "features": {"action": {"dtype": "float32"}}}
    assert edited(info) == {
        **info,
        "features": {
            "action": {"dtype": "float32"},
            "language_persistent": LANGUAGE,
            "language_events": LANGUAGE,
        },
        "tools": [say_tool()],
    }


@pytest.mark.parametrize(
    ("tools", "names"),
    [
        pytest.param(None, ["say"], id="null"),
        pytest.param([], ["say"], id="none yet"),
        pytest.param([{"type": "function", "function": {"name": "wave"}}], ["wave", "say"], id="another one"),
        pytest.param(
            [{"type": "function", "function": {"name": "say", "mine": 1}}], ["say"], id="their own say"
        ),
    ],
)
def test_the_tools_that_are_there_stay_as_they_are(
    tools: list[dict[str, object]] | None, names: list[str]
) -> None:
    result = edited({"features": {}, "tools": tools})["tools"]
    assert isinstance(result, list)
    assert [tool["function"]["name"] for tool in result] == names
    assert result[: len(tools or [])] == (tools or [])


def test_replaced_features_go_and_a_second_edit_changes_nothing() -> None:
    text = json.dumps(
        {"features": {"subtask_index": {}, "tools": {}, "language_events": {"dtype": "old"}}}
    ).encode()
    once = edit_info(text)
    assert json.loads(once)["features"] == {"language_persistent": LANGUAGE, "language_events": LANGUAGE}
    assert edit_info(once) == once


@pytest.mark.parametrize(
    "info",
    [
        pytest.param({"fps": 30, "features": {"action": {"dtype": "float32"}}}, id="no tools"),
        pytest.param({"tools": [{"function": {"name": "wave"}}], "features": {}}, id="another tool"),
        pytest.param(
            {"tools": [{"function": {"name": "say", "mine": 1}}], "features": {}}, id="their own say"
        ),
    ],
)
def test_dropping_undoes_the_edit(info: dict[str, object]) -> None:
    assert json.loads(drop_from_info(edit_info(json.dumps(info).encode()))) == info


def test_info_is_written_as_lerobot_writes_it() -> None:
    text = edit_info(json.dumps({"robot_type": "größe", "features": {}}).encode()).decode()
    assert text.startswith('{\n    "robot_type": "größe",\n    "features": {\n        "language_persistent"')
    assert not text.endswith("\n")


@pytest.mark.parametrize(
    "text",
    [b"{", b"[]", b'{"features": []}', b"{}", b'{"features": {}, "tools": "say"}', b"\xff"],
    ids=["half", "a list", "features are a list", "no features", "tools are text", "not UTF-8"],
)
def test_an_info_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(DatasetError, match=r"meta/info\.json"):
        edit_info(text)


def test_stats_of_replaced_columns_go() -> None:
    text = json.dumps({"action": {"max": [1e-7]}, "subtask_index": {}, "tools": {}}).encode()
    assert json.loads(edit_stats(text)) == {"action": {"max": [1e-7]}}


def test_stats_without_them_come_back_byte_for_byte() -> None:
    text = b'{"action":   {"max": [1.00, NaN]}}\n'
    assert edit_stats(text) == text
