"""When the task is derived, and what becomes of its variants."""

import pytest

from annotationrun_api.spec_modules import PlanModule
from annotationrun_worker.modules.task import (
    TaskAxesAnswer,
    TaskVariant,
    distinct_variants,
    has_to_derive,
    task_aug_rows,
    variants_of_axes,
)


@pytest.mark.parametrize(
    ("task", "derives"),
    [
        pytest.param("", True, id="empty"),
        pytest.param(" \n", True, id="blank"),
        pytest.param("Stack blocks", True, id="two words"),
        pytest.param("Stack the blocks", False, id="three words"),
        pytest.param("  Stack   the blocks ", False, id="three words with space around"),
        pytest.param("N/A", True, id="a placeholder"),
        pytest.param("Test.", True, id="a placeholder with a full stop"),
        pytest.param("test the gripper", False, id="a placeholder as part of a task"),
    ],
)
def test_short_tasks_and_placeholders_are_derived(task, derives):
    assert has_to_derive(task, PlanModule()) is derives


@pytest.mark.parametrize(
    ("settings", "task", "derives"),
    [
        pytest.param({"deriveTask": "Never"}, "", False, id="off, even without a task"),
        pytest.param({"deriveTask": "Always"}, "Put the red cup on the tray", True, id="always"),
        pytest.param({"deriveTaskMinWords": 0}, "Stack", False, id="no word is too few"),
        pytest.param({"deriveTaskMinWords": 0}, "todo", True, id="no word is too few: a placeholder"),
        pytest.param({"deriveTaskMinWords": 0}, "", True, id="no word is too few: none at all"),
        pytest.param({"deriveTaskMinWords": 5}, "Stack all the blocks", True, id="four of five words"),
    ],
)
def test_the_settings_decide_what_is_derived(settings, task, derives):
    assert has_to_derive(task, PlanModule.model_validate(settings)) is derives


@pytest.mark.parametrize(
    ("texts", "stay"),
    [
        pytest.param(
            ["Test", "Stack blocks", "Pile them"], ["Test", "Stack blocks", "Pile them"], id="distinct"
        ),
        pytest.param(["Stack it", "Stack it", "stack IT "], ["Stack it"], id="equal but for case and space"),
        pytest.param(["", "Stack it", "Pile it", "stack it"], ["Stack it", "Pile it"], id="no own task"),
        pytest.param(["  Stack it"], ["  Stack it"], id="the dataset's own text as it is"),
    ],
)
def test_variants_are_distinct_and_keep_their_order(texts, stay):
    assert [variant.text for variant in distinct_variants([TaskVariant(text) for text in texts])] == stay


def test_variants_stand_at_the_first_frame_as_the_users_words():
    rows = task_aug_rows([TaskVariant("Stack it"), TaskVariant("Pile it", "ab" * 32)])
    assert [(row.frame, row.role, row.style, row.content, row.request) for row in rows] == [
        (0, "user", "task_aug", "Stack it", None),
        (0, "user", "task_aug", "Pile it", "ab" * 32),
    ]


def test_axes_come_in_order_each_with_as_many_as_were_asked_for():
    answer = TaskAxesAnswer(
        combined_omissions=["c1", "c2"],
        omit_arm=["a1", " a2\n", "a3"],
        synonym_paraphrase=["s1", "", "s2"],
        omit_orientation=[],
        omit_grasp_method=["g1"],
    )
    counts = {
        "synonym_paraphrase": 3,
        "omit_arm": 2,
        "omit_orientation": 2,
        "omit_grasp_method": 0,
        "combined_omissions": 1,
    }
    assert variants_of_axes(answer, counts) == ["s1", "s2", "a1", "a2", "c1"]
