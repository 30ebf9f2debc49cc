"""Deadlines and the TTL: a run holds nothing for longer than its manifest says."""

from tests.cluster.manifests import hold_answers, release_answers
from tests.cluster.pick import RUN_PODS, live_pods, patch, staged_answers, wait_until_annotating
from tests.cluster.waiting import wait_until
from tests.cluster.workspace import condition_holds

ACTIVE_SECONDS = 20


def test_a_run_that_is_active_for_too_long_ends_and_can_go_on(slow, undisturbed):
    space, manifest = slow
    manifest["spec"]["activeDeadlineSeconds"] = 3600
    manifest["spec"]["workers"] |= {"parallelism": 1, "requestConcurrency": 1}
    hold_answers(space)  # it does not end by itself
    space.apply(manifest)
    wait_until_annotating(space, answers=1)  # however long that took
    assert live_pods(space)
    patch(space, {"activeDeadlineSeconds": ACTIVE_SECONDS})
    run = space.wait_for("pick", lambda run: condition_holds(run, "Failed"), ACTIVE_SECONDS + 60)
    failed = next(found for found in run["status"]["conditions"] if found["type"] == "Failed")
    assert failed["reason"] == "ActiveDeadlineExceeded"
    assert "activeDeadlineSeconds" in failed["message"]
    wait_until(lambda: not live_pods(space), 45, lambda: space.describe("pick"))
    assert staged_answers(space) >= 1, "what it made is kept"
    release_answers(space)
    workers = {**manifest["spec"]["workers"], "parallelism": 3, "requestConcurrency": 16}
    patch(space, {"activeDeadlineSeconds": None, "workers": workers, "retryToken": "once more"})
    space.wait_complete("pick")
    assert space.hashes("out") == undisturbed.hashes


def test_the_jobs_of_a_finished_run_are_removed_after_its_ttl(slow):
    space, manifest = slow
    manifest["spec"]["ttlSecondsAfterFinished"] = 5
    space.apply(manifest)
    wait_until(
        lambda: bool(space.list("jobs", RUN_PODS) and space.list("pods", RUN_PODS)),
        240,
        lambda: space.describe("pick"),
    )
    space.wait_complete("pick")
    wait_until(
        lambda: not space.list("jobs", RUN_PODS) and not space.list("pods", RUN_PODS),
        60,
        lambda: space.describe("pick"),
    )
    assert condition_holds(space.get("annotationruns", "pick"), "Complete")
