"""What an installation does not let runs choose is refused before any Job, and nothing else is."""

from dataclasses import replace

import pytest
from tests.support.run_world import CACHED_MODEL, SETTINGS, RunWorld

from annotationrun_api.conditions import ConditionType
from annotationrun_api.labels import Step
from annotationrun_operator.manifests.installation import Allowed

READY, STALLED = ConditionType.READY, ConditionType.STALLED
REGISTRY = "registry.example.com/vllm/*"
CHOICES = {
    "serving_images": ("spec.model.serving.image", ("vllm/vllm-openai:*", REGISTRY)),
    "service_account_names": ("spec.workers.pod.serviceAccountName", ("annotators",)),
    "priority_class_names": ("spec.workers.pod.priorityClassName", ("batch-*",)),
    "runtime_class_names": ("spec.workers.pod.runtimeClassName", ("nvidia",)),
    "annotation_keys": ("spec.workers.pod.annotations", ("example.com/*", "team")),
}
"""By the name of the setting: the field, and what is allowed."""
ALLOWED = Allowed(**{name: patterns for name, (_, patterns) in CHOICES.items()})


def spec_with(name: str, value: str) -> dict:
    """The part of a spec that chooses `value`."""
    if name == "serving_images":
        return {"model": {"id": "demo-vlm", "serving": {"image": value}}}
    field = CHOICES[name][0].rpartition(".")[2]
    return {"workers": {"pod": {field: {value: "yes"} if name == "annotation_keys" else value}}}


def world_of(allowed: Allowed, **spec) -> RunWorld:
    world = RunWorld(settings=replace(SETTINGS, allowed=allowed))
    world.edit(**spec)
    return world


@pytest.mark.parametrize("allowed", [ALLOWED, Allowed(*[()] * len(CHOICES))], ids=["some", "nothing"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("serving_images", "vllm/vllm-openai", id="an image without a tag"),
        pytest.param("serving_images", "evil.example.com/vllm/vllm-openai:v1", id="an image of others"),
        pytest.param(
            "serving_images", "registry.example.com.evil.example/vllm/x", id="a registry that is like"
        ),
        pytest.param("service_account_names", "annotators-2", id="an account that begins alike"),
        pytest.param("priority_class_names", "system-cluster-critical", id="a priority"),
        pytest.param("runtime_class_names", "host", id="a runtime"),
        pytest.param("annotation_keys", "example.org/x", id="an annotation"),
    ],
)
def test_a_choice_that_is_not_allowed_is_stalled_and_makes_no_job(name, value, allowed, printed, request):
    world = world_of(allowed, **spec_with(name, value))
    world.settle()
    assert world.created == []
    assert world.condition(STALLED) == ("True", "NotAllowed")
    assert world.condition(READY) == ("False", "NotAllowed")
    field, patterns = CHOICES[name]
    assert f"{field} names {value!r}, allowed is" in world.message()
    assert (", ".join(patterns) if allowed is ALLOWED else "nothing") in world.message()
    if allowed is ALLOWED:
        printed(f"a run with {field} {value}: NotAllowed, no Job", title="attacks")
    world.settings = SETTINGS
    world.complete()
    assert world.condition(READY) == ("True", "Complete")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("serving_images", "vllm/vllm-openai:v1@sha256:0", id="an image by its beginning"),
        pytest.param("serving_images", "registry.example.com/vllm/x", id="an image of the other registry"),
        pytest.param("service_account_names", "annotators", id="an account"),
        pytest.param("priority_class_names", "batch-low", id="a priority"),
        pytest.param("runtime_class_names", "nvidia", id="a runtime"),
        pytest.param("annotation_keys", "example.com/x", id="an annotation by its beginning"),
        pytest.param("annotation_keys", "team", id="an annotation"),
    ],
)
def test_a_choice_that_is_allowed_goes_on(name, value):
    world = world_of(ALLOWED, **spec_with(name, value))
    world.complete()
    assert world.condition(READY) == ("True", "Complete")


def test_who_chooses_nothing_needs_nothing_allowed():
    world = world_of(Allowed((), (), (), (), ()))
    world.complete()
    assert world.condition(READY) == ("True", "Complete")


def test_each_annotation_is_looked_at():
    pod = {"annotations": {"example.com/a": "1", "example.org/b": "2"}}
    world = world_of(ALLOWED, workers={"pod": pod})
    world.settle()
    assert "spec.workers.pod.annotations names 'example.org/b'" in world.message()


def test_the_jobs_of_a_run_go_once_its_choice_is_allowed_no_more():
    world = world_of(Allowed(), **spec_with("serving_images", "evil.example.com/x:1"))
    world.go_to(Step.ANNOTATE)
    assert world.live == [Step.ANNOTATE]
    world.settings = replace(SETTINGS, allowed=ALLOWED)
    world.settle()
    assert world.live == []
    assert world.condition(STALLED) == ("True", "NotAllowed")


def test_a_download_of_the_model_is_a_job_too():
    model = {**CACHED_MODEL, "serving": {**CACHED_MODEL["serving"], "image": "evil.example.com/x:1"}}
    world = world_of(ALLOWED, model=model)
    world.settle()
    assert world.created == []
