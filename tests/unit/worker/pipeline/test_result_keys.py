"""The key of a result: everything that the result depends on makes it another."""

from dataclasses import fields, replace

import pytest

from annotationrun_worker.pipeline.modules import ResultIdentity
from annotationrun_worker.staging.digests import digest_json

IDENTITY = ResultIdentity(
    module="vqa",
    fingerprint=digest_json("frames"),
    settings={"emissionHz": 1.0},
    model={"id": "m", "revision": "r1"},
    prompts={"vqa_count": digest_json("How many?")},
    seed=7,
    output_language="English",
    builds_on=(digest_json("subtasks"),),
)
OTHERS = {
    "module": "plan",
    "fingerprint": digest_json("other frames"),
    "settings": {"emissionHz": 2.0},
    "model": {"id": "m", "revision": "r2"},
    "prompts": {"vqa_count": digest_json("How many are there?")},
    "seed": 8,
    "output_language": "German",
    "builds_on": (digest_json("other subtasks"),),
}


@pytest.mark.parametrize("field", [field.name for field in fields(ResultIdentity)])
def test_another_value_of_any_field_is_another_result(field):
    assert replace(IDENTITY, **{field: OTHERS[field]}).key() != IDENTITY.key()


def test_equal_values_are_the_same_result_in_whatever_order_their_settings_stand():
    settings = {"cameras": "All", "emissionHz": 1.0}
    one = replace(IDENTITY, settings=settings, builds_on=list(IDENTITY.builds_on))
    other = replace(IDENTITY, settings=dict(reversed(settings.items())))
    assert one.key() == other.key()


def test_results_that_are_built_on_are_told_apart_by_their_place():
    """The task comes first, the subtasks after it."""
    task, subtasks = digest_json("task"), digest_json("subtasks")
    assert (
        replace(IDENTITY, builds_on=(task, subtasks)).key()
        != replace(IDENTITY, builds_on=(subtasks, task)).key()
    )
