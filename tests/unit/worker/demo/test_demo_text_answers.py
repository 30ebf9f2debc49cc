"""The demo model's answers to questions without pictures."""

import pytest

from annotationrun_worker.demo.answers import (
    acknowledge,
    extend_memory,
    interject,
    rephrase_axes,
    rephrase_task,
)


@pytest.mark.parametrize("count", [1, 10, 30])
def test_as_many_rephrasings_as_asked_for_all_different_and_all_with_the_whole_task(count):
    text = f"Task: Put the red block on the blue pad\nGive exactly {count} rephrasings."
    rephrasings = rephrase_task(text)["rephrasings"]
    assert len(rephrasings) == count
    assert len({r.casefold() for r in rephrasings} - {"put the red block on the blue pad"}) == count
    assert all("put the red block on the blue pad" in r.casefold() for r in rephrasings)


def test_an_axis_whose_element_the_task_lacks_is_empty():
    axes = rephrase_axes("Task: Pick up the cup with the left arm by the handle")
    assert axes["omit_arm"] == ["Pick up the cup by the handle"]
    assert axes["omit_grasp_method"] == ["Pick up the cup with the left arm"]
    assert axes["omit_orientation"] == []
    assert axes["combined_omissions"] == ["Pick up the cup"]
    assert len(axes["synonym_paraphrase"]) == 3


def test_memory_is_extended_by_the_finished_subtask():
    text = "Task: t\nPrevious memory: I have finished this: a.\nFinished subtask: pick up the cup"
    assert extend_memory(text) == {
        "memory": "I have finished this: a. I have finished this: pick up the cup."
    }
    assert extend_memory("Finished subtask: b") == {"memory": "I have finished this: b."}


def test_the_robot_says_that_it_does_what_the_user_asks_for_next():
    answer = interject("Finished subtask: pick up the cup\nNext subtask: place the cup on the tray")
    assert "place the cup on the tray" in answer["interjection"]
    assert "place the cup on the tray" in answer["speech"]
    assert acknowledge("Task: Stack blocks.") == {"text": "All right, I will stack blocks."}
