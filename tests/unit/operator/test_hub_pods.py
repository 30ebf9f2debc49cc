"""Pods of runs with a place on the Hub: where they keep its files."""

import pytest
from tests.unit.operator.test_jobs import containers, made, option, pod_of

from annotationrun_api.labels import Step

GIBIBYTE = 1 << 30
HUB, FOLDER = {"repoID": "me/cubes"}, {"path": "cubes", "volume": {"claimName": "data"}}
STEPS = (Step.PLAN, Step.ANNOTATE, Step.MERGE)


def size_limit(job) -> int:
    (cache,) = [volume for volume in pod_of(job)["volumes"] if volume["name"] == "hub-cache"]
    return int(cache["emptyDir"]["sizeLimit"])


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("source", "output"), [(HUB, FOLDER), (FOLDER, HUB), (HUB, HUB)])
def test_files_of_the_hub_lie_in_a_volume_of_the_pod_that_is_bounded(step, source, output):
    job = made(step, source=source, output=output)
    worker = containers(job)["worker"]
    folder = option(job, "--cache")
    assert {"name": "hub-cache", "mountPath": folder} in worker["volumeMounts"]
    assert size_limit(job) > 32 * GIBIBYTE, "the cache's own bound comes first"
    assert "ephemeral-storage" not in worker["resources"]["requests"], "most runs need far less"


@pytest.mark.parametrize("step", STEPS)
def test_the_volume_has_room_for_the_cache_and_the_merge_writes_beside_it(step):
    source = {**HUB, "cacheBytes": 5 * GIBIBYTE}
    assert size_limit(made(step, source=source)) == (11 if step is Step.MERGE else 6) * GIBIBYTE


@pytest.mark.parametrize("step", Step)
def test_runs_between_folders_have_no_such_volume(step):
    job = made(step, source=FOLDER, output=FOLDER)
    assert option(job, "--cache") is None
    assert "hub-cache" not in {volume["name"] for volume in pod_of(job)["volumes"]}


def test_the_prefetch_of_a_model_and_the_server_see_nothing_of_it():
    job = made(Step.PREFETCH, source=HUB, output=HUB)
    assert option(job, "--cache") is None
    assert "hub-cache" not in {volume["name"] for volume in pod_of(job)["volumes"]}
    mounts = containers(made(Step.ANNOTATE, source=HUB))["vllm"]["volumeMounts"]
    assert "hub-cache" not in {mount["name"] for mount in mounts}
