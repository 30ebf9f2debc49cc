import pytest

from annotationrun_worker.errors import ConfigurationError
from annotationrun_worker.modules import coordinates as coordinate_probe
from annotationrun_worker.modules import interjections, plan, task, vqa
from annotationrun_worker.modules.base import (
    NEEDED,
    Prompts,
    make_prompts,
    override_warnings,
    placeholders,
    read_prompt,
    shipped_names,
)

ALL = (*task.PROMPTS, *plan.PROMPTS, *interjections.PROMPTS, *vqa.PROMPTS, coordinate_probe.PROMPT)
COUNT_VALUES = {"task": "stack {width} blocks", "camera": "front", "width": 320, "height": 240}


def test_every_shipped_prompt_is_used_by_a_module():
    assert sorted(ALL) == list(shipped_names())


@pytest.mark.parametrize("name", ALL)
def test_every_prompt_names_the_shape_of_its_answer(name):
    assert "Answer with a JSON object" in read_prompt(name)


@pytest.mark.parametrize("name", sorted(set(ALL) - {"task", "coordinate_probe"}))
def test_every_prompt_names_the_task_but_for_those_that_ask_for_it_or_show_no_robot(name):
    assert read_prompt(name).startswith("Task: {task}\n")


@pytest.mark.parametrize("name", ["rephrasings", "task_axes"])
def test_task_variants_must_keep_object_action_and_goal(name):
    assert "bject, action and goal never change" in read_prompt(name)


def test_values_are_filled_in_and_braces_of_the_examples_stay():
    text = Prompts().fill("vqa_count", COUNT_VALUES)
    assert "Task: stack {width} blocks" in text
    assert "Image size: 320x240 pixels." in text
    assert '{"question": "..."' in text


def test_a_missing_value_is_an_error():
    with pytest.raises(KeyError):
        Prompts().fill("vqa_count", {"task": "t"})


def test_each_prompt_has_its_own_digest():
    assert len(set(Prompts().digests(ALL).values())) == len(ALL)


def test_an_override_takes_the_place_of_the_shipped_text_and_changes_its_digest_alone():
    prompts = make_prompts({"vqa_count": "How many? {task}"}, "English")
    assert prompts.fill("vqa_count", COUNT_VALUES) == "How many? stack {width} blocks"
    changed = {
        name for name, digest in prompts.digests(ALL).items() if digest != Prompts().digests(ALL)[name]
    }
    assert changed == {"vqa_count"}


def test_an_override_of_an_unknown_name_is_an_error_that_lists_the_names():
    with pytest.raises(ConfigurationError, match=r"'vqa_box', which is no prompt; .*vqa_bbox, vqa_count"):
        make_prompts({"vqa_box": "x"}, "English")


def test_an_unknown_placeholder_is_an_error_that_lists_those_that_there_are():
    with pytest.raises(ConfigurationError, match=r"spec\.prompts\.speech .*\{robot\}.* may use \{task\}"):
        make_prompts({"speech": "{task} {robot}"}, "English")


def without(name, placeholder):
    """The shipped text of a prompt with one placeholder left out."""
    return read_prompt(name).replace(f"{{{placeholder}}}", "it")


OF_ALL = [(name, placeholder) for name in ALL for placeholder in placeholders(read_prompt(name))]
WITHOUT_WHICH_NOTHING_IS_RIGHT = [
    ("coordinate_probe", "coordinates"),
    ("description", "shown"),
    ("interjection", "next"),
    ("label", "shown"),
    ("label", "label"),
    ("label", "start_seconds"),
    ("label", "end_seconds"),
    ("memory", "finished"),
    ("memory", "memory"),
    ("rephrasings", "task"),
    ("subtasks", "shown"),
    ("subtasks", "window_seconds"),
    ("task", "shown"),
    ("task_axes", "task"),
    ("vqa_bbox", "coordinates"),
    ("vqa_keypoint", "coordinates"),
]


@pytest.mark.parametrize(("name", "placeholder"), WITHOUT_WHICH_NOTHING_IS_RIGHT)
def test_an_override_without_what_its_answers_depend_on_is_an_error_that_says_what_it_is(name, placeholder):
    with pytest.raises(ConfigurationError) as raised:
        make_prompts({name: without(name, placeholder)}, "English")
    assert f"spec.prompts.{name} leaves out {{{placeholder}}} ({NEEDED[name][placeholder]}):" in str(
        raised.value
    )


@pytest.mark.parametrize(("name", "placeholder"), sorted(set(OF_ALL) - set(WITHOUT_WHICH_NOTHING_IS_RIGHT)))
def test_an_override_without_what_its_answers_are_only_poorer_for_is_a_warning(name, placeholder):
    texts = {name: without(name, placeholder)}
    assert make_prompts(texts, "English").text(name) == texts[name]
    (warning,) = override_warnings(texts)
    assert warning.startswith(
        f"spec.prompts.{name} leaves out {{{placeholder}}}, which the shipped prompt has"
    )


def test_every_placeholder_that_is_needed_stands_in_its_shipped_prompt():
    assert {(name, it) for name, needed in NEEDED.items() for it in needed} <= set(OF_ALL)


def test_an_override_with_all_that_the_shipped_prompt_has_is_no_warning():
    texts = {name: f"In other words: {read_prompt(name)}" for name in ALL}
    assert make_prompts(texts, "English").overrides == texts
    assert override_warnings(texts) == []


def test_an_example_in_json_is_no_placeholder():
    assert placeholders('{task} {"task": "{label}"} {x y} {task}') == ["task", "label"]


def test_another_language_is_asked_for_in_every_prompt_overrides_too():
    prompts = make_prompts({"speech": "Say it: {task}"}, "Finnish")
    for name in ALL:
        assert "in Finnish;" in prompts.text(name)
        assert prompts.text(name).startswith("Say it" if name == "speech" else read_prompt(name)[:20])
    assert not set(prompts.digests(ALL).values()) & set(Prompts().digests(ALL).values())
