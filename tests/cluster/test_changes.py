"""Runs that are suspended, edited, deleted or tried again: nothing is lost, nothing is asked twice."""

import pytest
from tests.cluster.manifests import asked, hold_answers, release_answers
from tests.cluster.pick import (
    FEWER_QUESTIONS,
    IN_FLIGHT,
    RUN_PODS,
    live_pods,
    patch,
    staged_answers,
    wait_until_annotating,
    wait_until_at_work,
)
from tests.cluster.waiting import wait_until
from tests.cluster.workspace import RUN_SECONDS, condition_holds


def test_suspended_in_the_middle_it_holds_no_pod_and_goes_on_where_it_was(slow, undisturbed):
    space, manifest = slow
    hold_answers(space)
    space.apply(manifest)
    wait_until_annotating(space)
    assert live_pods(space)
    patch(space, {"suspend": True})
    wait_until(lambda: not live_pods(space), 45, lambda: space.describe("pick"))
    space.wait_for("pick", lambda run: condition_holds(run, "Suspended"), RUN_SECONDS)
    before = len(asked(space))
    assert staged_answers(space) > 0
    release_answers(space)
    patch(space, {"suspend": False})
    space.wait_complete("pick")
    assert space.hashes("out") == undisturbed.hashes
    assert before < len(asked(space)) <= undisturbed.requests + IN_FLIGHT


@pytest.mark.parametrize("step", ["plan", "annotate", "merge"])
def test_a_run_that_is_deleted_leaves_no_child(slow, step):
    space, manifest = slow
    space.apply(manifest)
    wait_until_at_work(space, f"{RUN_PODS},annotationrun.dev/step={step}")
    assert space.list("jobs", RUN_PODS)
    space.kubectl("delete", "annotationrun", "pick", "--wait=true", "--timeout=30s")
    wait_until(
        lambda: not space.list("jobs", RUN_PODS) and not space.list("pods", RUN_PODS),
        180,
        lambda: space.kubectl("get", "jobs,pods", "--output=wide"),
    )


@pytest.mark.parametrize("step", ["plan", "annotate", "merge"])
def test_an_edit_in_a_step_gives_the_dataset_that_the_edited_manifest_gives(slow, undisturbed, step):
    space, manifest = slow
    if step == "annotate":
        hold_answers(space)
    space.apply(manifest)
    wait_until_at_work(space, f"{RUN_PODS},annotationrun.dev/step={step}")
    if step == "annotate":
        wait_until_annotating(space)
    patch(space, FEWER_QUESTIONS)
    if step == "annotate":
        release_answers(space)
    space.wait_complete("pick")
    assert space.hashes("out") == undisturbed.edited_hashes
    needed, of_both = undisturbed.edited_requests, undisturbed.requests + undisturbed.edited_requests
    assert needed < len(asked(space)) <= of_both + IN_FLIGHT


def test_an_edit_of_one_module_after_the_end_asks_for_that_alone(slow):
    space, manifest = slow
    space.apply(manifest)
    space.wait_complete("pick")
    before = len(asked(space))
    patch(space, {**FEWER_QUESTIONS, "output": {"path": "second"}})
    space.wait_complete("pick")
    kinds = {line["kind"] for line in asked(space)[before:]}
    assert kinds
    assert all(kind.startswith("vqa") for kind in kinds)
    assert space.hashes("second") != space.hashes("out")


def test_a_run_applied_again_after_its_end_asks_nothing(slow):
    space, manifest = slow
    space.apply(manifest)
    first = space.wait_complete("pick")
    before, hashes = len(asked(space)), space.hashes("out")
    space.kubectl("delete", "annotationrun", "pick", "--wait=true")
    space.apply(manifest)
    second = space.wait_complete("pick")
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    assert len(asked(space)) == before > 0
    assert space.hashes("out") == hashes
    assert second["status"]["plan"]["pending"] == 0
    assert steps_of_jobs(space) == {"plan", "merge"}, "all was staged: no worker, and no GPU"


def test_an_edit_of_the_cache_of_frames_starts_no_worker(slow):
    space, manifest = slow
    space.apply(manifest)
    first = space.wait_complete("pick")
    before, jobs = len(asked(space)), names_of_jobs(space)
    assert {"plan", "annotate", "merge"} <= steps_of_jobs(space)
    patch(space, {"frames": {"cacheBytes": 123_000_000}})
    generation = first["metadata"]["generation"] + 1
    run = space.wait_for(
        "pick",
        lambda run: run["status"]["observedGeneration"] == generation and condition_holds(run, "Complete"),
        RUN_SECONDS,
    )
    assert run["status"]["plan"]["digest"] == first["status"]["plan"]["digest"]
    assert names_of_jobs(space) == jobs
    assert len(asked(space)) == before > 0


def steps_of_jobs(space) -> set[str]:
    return {job["metadata"]["labels"]["annotationrun.dev/step"] for job in space.list("jobs", RUN_PODS)}


def names_of_jobs(space) -> set[str]:
    return {job["metadata"]["name"] for job in space.list("jobs", RUN_PODS)}


def test_after_a_failure_a_retry_token_asks_for_the_failed_episodes_alone(slow, undisturbed):
    """Two episodes' video is cut, the other four are annotated; then it is whole again."""
    space, manifest = slow
    video = "in/videos/observation.images.wrist/chunk-000/file-001.mp4"
    space.shell(f"cp {video} whole.mp4 && head -c 20000 whole.mp4 > {video}")
    source, output = manifest["spec"]["source"], manifest["spec"]["output"]
    manifest["spec"] |= {"source": {**source, "episodes": "0-3"}, "output": {**output, "path": "four"}}
    space.apply(manifest)
    space.wait_complete("pick")
    patch(space, {"source": {"episodes": None}, "output": output})
    run = space.wait_for("pick", lambda run: condition_holds(run, "Failed"), RUN_SECONDS)
    failed = next(found for found in run["status"]["conditions"] if found["type"] == "Failed")
    assert failed["reason"] == "TooManyFailedEpisodes"
    assert {failure["episodeIndex"] for failure in run["status"]["failures"]} == {4, 5}
    assert run["status"]["episodes"]["failed"] == 2
    before = len(asked(space))
    space.shell(f"cp whole.mp4 {video}")
    patch(space, {"retryToken": "whole again"})
    space.wait_complete("pick")
    again = asked(space)[before:]
    seen = {
        tile["code"]["episode"]
        for line in again
        for image in line["images"]
        for tile in image["tiles"]
        if tile["code"]
    }
    assert seen == {4, 5}
    assert space.hashes("out") == undisturbed.hashes
