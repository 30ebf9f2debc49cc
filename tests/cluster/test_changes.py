"""Runs that are suspended, edited, deleted, or lose their pods: nothing is lost, nothing is asked twice."""

import json

import pytest
from tests.cluster.manifests import SPEC, asked, external, start_server
from tests.cluster.workspace import condition_holds, wait_until
from tests.support.annotation import REFERENCE

LATENCY_SECONDS = 0.3
RUN_PODS = "annotationrun.dev/run-name=pick"


@pytest.fixture
def slow(workspace, images):
    """A workspace with the dataset and a server that takes its time; the manifest of a run there."""
    space = workspace("changes")
    space.put_folder(REFERENCE, "in")
    return space, external("pick", start_server(space, images, LATENCY_SECONDS))


@pytest.fixture(scope="module")
def undisturbed(module_workspace, images):
    """The hashes of the output and the number of requests of a run that is left alone."""
    space = module_workspace("undisturbed")
    space.put_folder(REFERENCE, "in")
    space.apply(external("pick", start_server(space, images)))
    space.wait_complete("pick")
    return space.hashes("out"), len(asked(space))


def wait_until_annotating(space, requests=20):
    wait_until(lambda: len(asked(space)) >= requests, 240, lambda: space.describe("pick"))


def patch(space, spec):
    space.kubectl("patch", "annotationrun", "pick", "--type=merge", f"--patch={json.dumps({'spec': spec})}")


def run_pods(space):
    return [pod["metadata"]["name"] for pod in space.list("pods", RUN_PODS)]


def live_pods(space):
    """Those that have not ended; the plan's has, and stays to be read."""
    pods = space.list("pods", RUN_PODS)
    return [pod for pod in pods if pod["status"]["phase"] not in ("Succeeded", "Failed")]


def test_suspended_in_the_middle_it_holds_no_pod_and_goes_on_where_it_was(slow, undisturbed):
    space, manifest = slow
    expected, requests = undisturbed
    space.apply(manifest)
    wait_until_annotating(space)
    patch(space, {"suspend": True})
    wait_until(lambda: not live_pods(space), 45, lambda: space.describe("pick"))
    assert condition_holds(space.get("annotationrun", "pick"), "Suspended")
    before = len(asked(space))
    assert int(space.shell("find staging/answers -name '*.json' | wc -l")) > 0
    patch(space, {"suspend": False})
    space.wait_complete("pick")
    assert space.hashes("out") == expected
    in_flight = 3 * 16
    assert before < len(asked(space)) <= requests + in_flight


@pytest.mark.parametrize("step", ["plan", "annotate", "merge"])
def test_a_run_that_is_deleted_leaves_no_child(slow, step):
    space, manifest = slow
    space.apply(manifest)
    selector = f"{RUN_PODS},annotationrun.dev/step={step}"
    wait_until(lambda: bool(space.list("pods", selector)), 240, lambda: space.describe("pick"))
    space.kubectl("delete", "annotationrun", "pick", "--wait=true", "--timeout=30s")
    wait_until(
        lambda: not space.list("jobs", RUN_PODS) and not run_pods(space),
        60,
        lambda: space.kubectl("get", "jobs,pods", "--output=wide"),
    )


def test_a_worker_and_the_operator_are_deleted_and_the_output_is_the_same(slow, undisturbed, installation):
    space, manifest = slow
    expected, requests = undisturbed
    space.apply(manifest)
    wait_until_annotating(space)
    worker = space.list("pods", f"{RUN_PODS},annotationrun.dev/step=annotate")[0]["metadata"]["name"]
    space.kubectl("delete", "pod", worker, "--wait=false")
    installation.delete_operator_pod()
    space.wait_complete("pick")
    assert space.hashes("out") == expected
    assert len(asked(space)) <= requests + 16 * 2


def test_an_edit_of_one_module_after_the_end_asks_for_that_alone(slow):
    space, manifest = slow
    space.apply(manifest)
    space.wait_complete("pick")
    before = len(asked(space))
    modules = {**SPEC["modules"], "vqa": {"emissionHz": 0.25}}
    patch(space, {"modules": modules, "output": {"path": "second"}})
    space.wait_complete("pick")
    kinds = {line["kind"] for line in asked(space)[before:]}
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
    assert len(asked(space)) == before
    assert space.hashes("out") == hashes


def test_after_a_failure_a_retry_token_asks_for_the_failed_episodes_alone(slow, undisturbed):
    """Two episodes' video is cut; then it is whole again."""
    space, manifest = slow
    video = "in/videos/observation.images.wrist/chunk-000/file-001.mp4"
    space.shell(f"cp {video} whole.mp4 && head -c 20000 whole.mp4 > {video}")
    space.apply(manifest)
    run = space.wait_for("pick", lambda run: condition_holds(run, "Failed"), 300)
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
    assert space.hashes("out") == undisturbed[0]
