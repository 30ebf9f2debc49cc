import pytest

from annotationrun_worker.annotate import plan, vqa
from annotationrun_worker.annotate.prompts import fill_prompt, prompt_digests, read_prompt


@pytest.mark.parametrize("name", [*plan.PROMPTS, *vqa.PROMPTS])
def test_every_prompt_names_the_task_and_the_shape_of_its_answer(name):
    text = read_prompt(name)
    assert "Task: {task}\n" in text
    assert "Answer with a JSON object" in text


def test_values_are_filled_in_and_braces_of_the_examples_stay():
    values = {
        "task": "stack {width} blocks",
        "camera": "front",
        "width": 320,
        "height": 240,
        "coordinates": "c",
    }
    text = fill_prompt("vqa_count", values)
    assert "Task: stack {width} blocks" in text
    assert "Image size: 320x240 pixels." in text
    assert '{"question": "..."' in text


def test_a_missing_value_is_an_error():
    with pytest.raises(KeyError):
        fill_prompt("vqa_count", {"task": "t"})


def test_each_prompt_has_its_own_digest():
    digests = prompt_digests((*plan.PROMPTS, *vqa.PROMPTS))
    assert len(set(digests.values())) == len(digests) == 7
