"""Runs that can't work: the condition says what is wrong and what to do, and nothing is held."""

import pytest
from tests.cluster.manifests import external, manifest_of
from tests.cluster.pick import patch
from tests.cluster.waiting import wait_until
from tests.cluster.workspace import RUN_SECONDS, condition_holds
from tests.support.annotation import REFERENCE

START_DEADLINE_SECONDS = 15
TOLD_WITHIN_SECONDS = 60
ANNOTATE_PODS = "annotationrun.dev/step=annotate"


def find(run, kind):
    return next(found for found in run["status"]["conditions"] if found["type"] == kind)


def ready_message(run):
    """What the run says of itself, if it says anything yet."""
    conditions = run.get("status", {}).get("conditions", ())
    return next((found["message"] for found in conditions if found["type"] == "Ready"), "")


@pytest.fixture
def space(workspace):
    found = workspace("refusals")
    found.put_folder(REFERENCE, "in")
    return found


def wrong_image(manifest):
    manifest["spec"]["model"]["serving"]["image"] = "localhost/nowhere:1"


def unschedulable(manifest):
    manifest["spec"]["model"]["serving"]["gpus"] = 8


def missing_secret(manifest):
    serving = manifest["spec"]["model"]["serving"]
    for name in ("image", "args", "gpus", "sharedMemory", "resources"):
        del serving[name]
    serving |= {
        "mode": "External",
        "endpoints": ["http://10.96.0.1:8000/v1"],
        "apiKeySecretRef": {"name": "nobodys", "key": "key"},
    }


def missing_token(manifest):
    manifest["spec"]["model"]["serving"]["tokenSecretRef"] = {"name": "nobodys", "key": "token"}


@pytest.mark.parametrize(
    ("breaks", "step", "said"),
    [
        pytest.param(wrong_image, "annotate", ["localhost/nowhere:1", "serving.image"], id="image"),
        pytest.param(unschedulable, "annotate", ["nvidia.com/gpu", "node selector"], id="unschedulable"),
        pytest.param(missing_secret, "annotate", ["nobodys", "Create the Secret"], id="secret"),
        pytest.param(missing_token, "plan", ["nobodys", "Create the Secret"], id="token"),
    ],
)
def test_pods_that_do_not_start_end_the_run_at_its_deadline(space, images, breaks, step, said):
    """The deadline is set when the cause is known: on a busy machine, pods that do start take long too.

    The plan's pods have the model's token too: they ask the Hub which commit the model's revision is.
    """
    pods = f"annotationrun.dev/step={step}"
    manifest = manifest_of("pick", images, startDeadlineSeconds=3600)
    breaks(manifest)
    space.apply(manifest)
    told = space.wait_for("pick", lambda run: all(words in ready_message(run) for words in said), RUN_SECONDS)
    assert not condition_holds(told, "Failed")
    assert space.list("pods", pods)
    patch(space, {"startDeadlineSeconds": START_DEADLINE_SECONDS})
    run = space.wait_for(
        "pick", lambda run: condition_holds(run, "Failed"), START_DEADLINE_SECONDS + TOLD_WITHIN_SECONDS
    )
    failed = find(run, "Failed")
    assert failed["reason"] == "StartDeadlineExceeded"
    assert f"After {START_DEADLINE_SECONDS} s: " in failed["message"]
    for words in said:
        assert words in failed["message"]
    assert find(run, "Stalled")["status"] == "True"
    space.wait_for("pick", lambda run: not space.list("pods", pods), 120)


def test_a_server_that_never_gets_healthy_ends_the_run_and_is_quoted(space, images):
    manifest = manifest_of("pick", images)
    manifest["spec"]["model"]["serving"] |= {"args": ["--demo-start-seconds=600"], "startTimeoutSeconds": 20}
    manifest["spec"]["workers"] = {**manifest["spec"]["workers"], "parallelism": 1}
    space.apply(manifest)
    space.wait_for("pick", lambda run: bool(space.list("pods", ANNOTATE_PODS)), RUN_SECONDS)
    run = space.wait_for("pick", lambda run: condition_holds(run, "Failed"), RUN_SECONDS)
    assert find(run, "Failed")["reason"] == "ServerNotReady"
    assert "127.0.0.1:8000" in find(run, "Failed")["message"]
    space.wait_for("pick", lambda run: not space.list("pods", ANNOTATE_PODS), 120)


def test_a_quota_that_is_exceeded_is_told(space, images):
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small"},
        "spec": {"hard": {"requests.memory": "300Mi"}},
    }
    manifest = manifest_of("pick", images)
    space.create("resourcequotas", quota)
    # Before its controller has counted, pods are refused because the quota's status is not known.
    wait_until(
        lambda: "used" in space.get("resourcequotas", "small").get("status", {}),
        120,
        lambda: space.kubectl("describe", "quota", "small"),
    )
    space.apply(manifest)
    run = space.wait_for("pick", lambda run: "exceeded quota: small" in ready_message(run), RUN_SECONDS)
    assert find(run, "Ready")["reason"] == "QuotaExceeded"
    assert "Raise the quota" in find(run, "Ready")["message"]


def test_a_claim_for_one_node_with_three_workers_is_stalled(space, images):
    space.make_volume("one-node", "ReadWriteOnce")
    manifest = external("pick", "http://10.96.0.1:8000/v1")
    manifest["spec"]["output"] = {"path": "out", "volume": {"claimName": "one-node"}}
    space.apply(manifest)
    run = space.wait_for("pick", lambda run: condition_holds(run, "Stalled"), 120)
    assert find(run, "Stalled")["reason"] == "VolumeAccessMode"
    assert "one-node" in find(run, "Stalled")["message"]
    assert space.list("jobs") == []
