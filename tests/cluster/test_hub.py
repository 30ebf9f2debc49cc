"""From one repository of a Hub to another, with staging on S3: what goes over the wire, and what faults do."""

import re
from collections import Counter

import pytest
from tests.cluster.hub import LOCATION, S3_SECRET, TOKEN_SECRET, start_hub
from tests.cluster.installation import JOBS
from tests.cluster.manifests import SPEC, asked, external, manifest_of, start_server
from tests.cluster.pick import WORKERS
from tests.cluster.workspace import Workspace, wait_until
from tests.support.annotation import REFERENCE

SOURCE, OUTPUT = "me/source", "me/annotated"
ANSWERS = re.compile(r"^\{", re.MULTILINE)
TRAILER = re.compile(r"^Annotationrun-Merge-Digest: (\w+)$", re.MULTILINE)
OWN_FILES = {"README.md", "meta/annotationrun.json"}
"""They name the run."""

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def hub(installation):
    """A Hub with the reference dataset; the runs of all namespaces use it."""
    space = Workspace(installation.client, "hub", installation.images.worker)
    space.make()
    try:
        found = start_hub(space, {f"datasets/{SOURCE}": REFERENCE})
        installation.install(jobs={**JOBS, "env": [{"name": "HF_ENDPOINT", "value": found.url}]})
        yield found
    finally:
        installation.install()
        space.remove()


def to_hub(manifest, output):
    manifest["spec"] |= {
        "source": {"repoID": SOURCE, "tokenSecretRef": TOKEN_SECRET},
        "output": {"repoID": output, "tokenSecretRef": TOKEN_SECRET},
        "modules": {**SPEC["modules"], "vqa": {"emissionHz": 0.5, "cameras": "Default"}},
        "staging": {"uri": LOCATION, "credentialsSecretRef": {"name": S3_SECRET}},
    }
    return manifest


@pytest.fixture(scope="module")
def published(hub, images):
    """The run `pick`, complete, and what the Hub counted until then."""
    hub.space.apply(to_hub(manifest_of("pick", images), OUTPUT))
    run = hub.space.wait_complete("pick", 400)
    return run, hub.counters()


def answers_of_sidecars(space, run):
    pods = space.list("pods", f"annotationrun.dev/run-name={run},annotationrun.dev/step=annotate")
    logs = [space.kubectl("logs", pod["metadata"]["name"], "--container=vllm") for pod in pods]
    return sum(len(ANSWERS.findall(log)) for log in logs)


def test_the_output_is_one_commit_that_the_status_names(hub, published):
    run, _ = published
    source, output = hub.commits(SOURCE), hub.commits(OUTPUT)
    assert run["status"]["plan"]["sourceCommit"] == source[0]["id"]
    told = run["status"]["published"]
    assert told["commit"] == output[0]["id"]
    assert told["previousCommit"] == output[1]["id"]
    assert hub.tags(OUTPUT)["v3.0"] == output[0]["id"]
    assert TRAILER.findall("\n".join(one["message"] for one in output)) == [told["mergeDigest"]]


def test_workers_fetch_each_video_once_and_only_of_the_camera_they_look_at(hub, published):
    _, counters = published
    workers = hub.space.list("pods", WORKERS)
    assert len(workers) == 3
    fetches, fetched_bytes = Counter(), Counter()
    for line in counters["log"]:
        if line["file"] and line["file"][1].endswith(".mp4") and line["method"] == "GET":
            fetches[line["client"], line["file"][1]] += 1
            fetched_bytes[line["client"]] += line["bytes_sent"]
    print(f"bytes of videos by worker: {dict(fetched_bytes)}")
    assert {client for client, _ in fetches} <= {pod["status"]["podIP"] for pod in workers}
    assert {path.split("/")[1] for _, path in fetches} == {"observation.images.front"}
    assert set(fetches.values()) == {1}, fetches


def test_only_what_changed_is_uploaded(hub, published):
    _, counters = published
    source, output = hub.files(SOURCE), hub.files(OUTPUT)
    changed = {path: size for path, (sha, size) in output.items() if source.get(path, ("",))[0] != sha}
    received = counters["received"][f"datasets/{OUTPUT}"]
    whole = sum(size for _, size in output.values())
    print(f"{sum(received.values())} bytes uploaded, changed {sum(changed.values())}, all {whole}")
    print(f"bodies received by kind: {counters['received_by_kind']}")
    assert not [path for path in (*received, *changed) if path.endswith(".mp4")]
    assert {path for path in changed if path.startswith("data/")}
    assert sum(received.values()) <= 1.1 * sum(changed.values())


def test_the_output_is_a_valid_dataset(hub, published):
    said = hub.space.shell(
        f"HF_ENDPOINT={hub.url} HF_HOME=/tmp/hub HF_HUB_DISABLE_XET=1 python -c '"
        "from huggingface_hub import snapshot_download as get;"
        f'get("{OUTPUT}", repo_type="dataset", revision="v3.0", local_dir="/tmp/out")'
        "' && annotationrun validate /tmp/out"
    )
    assert "valid, 0 errors" in said


def test_the_same_manifest_again_asks_nothing_and_commits_nothing(hub, published, images):
    first, _ = published
    commits = hub.commits(OUTPUT)
    hub.space.apply(to_hub(manifest_of("again", images), OUTPUT))
    run = hub.space.wait_complete("again", 300)
    assert answers_of_sidecars(hub.space, "pick") > 0
    assert answers_of_sidecars(hub.space, "again") == 0
    assert run["status"]["usage"].get("requests", 0) == 0
    assert hub.commits(OUTPUT) == commits
    assert run["status"]["published"]["mergeDigest"] == first["status"]["published"]["mergeDigest"]
