"""Deadlines and the TTL: a run holds nothing for longer than its manifest says."""

from tests.cluster.pick import RUN_PODS, live_pods, patch, wait_until_annotating
from tests.cluster.workspace import condition_holds, wait_until

ACTIVE_SECONDS = 20


def test_a_run_that_is_active_for_too_long_ends_and_can_go_on(slow, undisturbed):
    space, manifest = slow
    manifest["spec"]["activeDeadlineSeconds"] = ACTIVE_SECONDS
    manifest["spec"]["workers"] |= {"parallelism": 1, "requestConcurrency": 1}
    space.apply(manifest)
    wait_until(lambda: bool(live_pods(space)), 120, lambda: space.describe("pick"))
    run = space.wait_for("pick", lambda run: condition_holds(run, "Failed"), ACTIVE_SECONDS + 60)
    failed = next(found for found in run["status"]["conditions"] if found["type"] == "Failed")
    assert failed["reason"] == "ActiveDeadlineExceeded"
    assert "activeDeadlineSeconds" in failed["message"]
    wait_until(lambda: not live_pods(space), 45, lambda: space.describe("pick"))
    wait_until_annotating(space, answers=1)  # what it made is kept
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
    assert condition_holds(space.get("annotationrun", "pick"), "Complete")
