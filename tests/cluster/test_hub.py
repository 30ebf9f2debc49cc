"""From one repository of a Hub to another, with staging on S3: what goes over the wire, what faults do."""

import re
from collections import Counter

import pytest
from tests.cluster.hub import LOCATION, S3_SECRET, SEAL_SECRET, TOKEN_SECRET, start_hub
from tests.cluster.installation import JOBS
from tests.cluster.manifests import SPEC, manifest_of
from tests.cluster.pick import WORKERS
from tests.cluster.waiting import wait_until
from tests.cluster.workspace import Workspace
from tests.support.annotation import REFERENCE

SOURCE, OUTPUT, MODEL = "me/source", "me/annotated", "me/tiny-vl"
MODEL_FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 4000}
ANSWERS = re.compile(r"^\{", re.MULTILINE)
TRAILER = re.compile(r"^Annotationrun-Merge-Digest: (\w+)$", re.MULTILINE)
OWN_FILES = {"README.md", "meta/annotationrun.json"}
"""They name the run."""
HANGS = "hung-commit"
FAULTS = {
    "preupload-503": ("status", "preupload", {"status": 503}),
    "cut-upload": ("cut", "lfs_upload", {"after_bytes": 1000}),
    "lost-commit": ("lost", "commit", {}),
    "lost-tag": ("lost", "tag_delete", {}),
    HANGS: ("hang", "commit", {}),
}
"""By run and its repository: the fault, the endpoint that it is done to, once, and more about the fault."""

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def hub(installation, node_files, tmp_path_factory):
    """A Hub with the reference dataset and a model; the runs of all namespaces use it."""
    model = tmp_path_factory.mktemp("model")
    for name, content in MODEL_FILES.items():
        (model / name).write_bytes(content)
    name, image = f"hub-{node_files.session}", installation.images.worker
    space = Workspace(installation.client, name, node_files, image)
    space.make()
    try:
        found = start_hub(space, {f"datasets/{SOURCE}": REFERENCE, f"models/{MODEL}": model})
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
        "staging": {
            "uri": LOCATION,
            "credentialsSecretRef": {"name": S3_SECRET},
            "integritySecretRef": SEAL_SECRET,
        },
    }
    return manifest


@pytest.fixture(scope="module")
def published(hub, images):
    """The run `pick`, complete, and what the Hub counted until then."""
    hub.space.apply(to_hub(manifest_of("pick", images), OUTPUT))
    run = hub.space.wait_complete("pick", 600)
    return run, hub.counters()


def answers_of_sidecars(space, run):
    pods = space.list("pods", f"annotationrun.dev/run-name={run},annotationrun.dev/step=annotate")
    logs = [space.kubectl("logs", pod["metadata"]["name"], "--container=vllm") for pod in pods]
    return sum(len(ANSWERS.findall(log)) for log in logs)


def steps_with_pods(space, run):
    """The steps that pods of a run were made for; without one for its annotate step nothing was asked."""
    pods = space.list("pods", f"annotationrun.dev/run-name={run}")
    return {pod["metadata"]["labels"]["annotationrun.dev/step"] for pod in pods}


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
    assert {path for path in received if path.startswith("data/")} == {
        path for path in changed if path.startswith("data/")
    }
    assert 0 < sum(received.values()) <= 1.1 * sum(changed.values())


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
    run = hub.space.wait_complete("again", 600)
    assert steps_with_pods(hub.space, "pick") >= {"annotate", "merge"}
    assert answers_of_sidecars(hub.space, "pick") > 0
    assert steps_with_pods(hub.space, "again") & {"annotate", "merge"} == {"merge"}
    assert run["status"]["usage"].get("requests", 0) == 0
    assert hub.commits(OUTPUT) == commits
    assert run["status"]["published"]["mergeDigest"] == first["status"]["published"]["mergeDigest"]


def test_faults_of_a_publish_leave_the_same_repository_and_one_commit(hub, published, images):
    """The runs take their answers from the staging; each meets its fault while it pushes or moves the tag."""
    for name in FAULTS:
        hub.ask("POST", "/api/repos/create", {"type": "dataset", "name": name})
        hub.ask("POST", f"/api/datasets/me/{name}/tag/main", {"tag": "v3.0"})
    hub.ask("POST", "/__faults", [rule_of(name, *fault) for name, fault in FAULTS.items()])
    for name in FAULTS:
        hub.space.apply(to_hub(manifest_of(name, images), f"me/{name}"))
    wait_until(
        lambda: f"me/{HANGS}" in " ".join(one["path"] for one in hub.ask("GET", "/__faults")),
        600,
        lambda: hub.space.describe(HANGS),
    )
    merge = f"annotationrun.dev/run-name={HANGS},annotationrun.dev/step=merge"
    hub.space.kubectl("delete", "pods", f"--selector={merge}", "--wait=false")
    for name in FAULTS:
        hub.space.wait_complete(name, 600)
    hit = Counter(repo_in(one["path"]) for one in hub.ask("GET", "/__faults"))
    assert hit == dict.fromkeys(FAULTS, 1)
    expected, log = contents(hub, OUTPUT), hub.counters()["log"]
    for name in FAULTS:
        assert steps_with_pods(hub.space, name) & {"annotate", "merge"} == {"merge"}
        assert contents(hub, f"me/{name}") == expected
        trailers = TRAILER.findall("\n".join(one["message"] for one in hub.commits(f"me/{name}")))
        assert len(trailers) == 1, trailers
        assert hub.tags(f"me/{name}") == {"v3.0": hub.commits(f"me/{name}")[0]["id"]}
        seconds = seconds_without_tag([line for line in log if repo_in(line["path"]) == name])
        print(f"{name}: {seconds:.3f} s without the tag v3.0")
        assert seconds < 120


def test_a_model_is_fetched_once_into_its_claim_and_servers_read_it_offline(hub, images):
    hub.space.make_volume("models")
    manifest = to_hub(manifest_of("cached", images), "me/cached")
    manifest["spec"]["model"] |= {"id": MODEL, "revision": "main", "coordinateScale": "Pixels"}
    manifest["spec"]["model"]["serving"] |= {"cache": {"claimName": "models"}}
    manifest["spec"]["source"] |= {"episodes": "0,1"}
    hub.space.apply(manifest)
    run = hub.space.wait_complete("cached", 600)
    steps = "annotationrun.dev/run-name=cached,annotationrun.dev/step="
    (fetcher,) = hub.space.list("pods", f"{steps}prefetch")
    counters = hub.counters()
    served = counters["served"][f"models/{MODEL}"]
    assert {path: served[path] for path in MODEL_FILES} == {
        path: len(text) for path, text in MODEL_FILES.items()
    }
    asked_by = {line["client"] for line in counters["log"] if line["file"] and MODEL in line["file"][0]}
    assert asked_by == {fetcher["status"]["podIP"]}
    workers = hub.space.list("pods", f"{steps}annotate")
    assert len(workers) == 2
    for pod in workers:
        (server,) = (one for one in pod["spec"]["initContainers"] if one["name"] == "vllm")
        (mount,) = (one for one in server["volumeMounts"] if one["name"] == "models")
        assert mount["readOnly"]
        assert {"name": "HF_HUB_OFFLINE", "value": "1"} in server["env"]
        assert f"--revision={run['status']['prefetch']['commit']}" in server["args"]
    assert run["status"]["plan"]["modelCommit"] == run["status"]["prefetch"]["commit"]
    looked_up = [line["path"] for line in counters["log"] if line["path"].endswith(f"{MODEL}/revision/main")]
    assert len(looked_up) == 1, "by the plan"


def rule_of(name, kind, endpoint, settings):
    return {
        "fault": {"kind": kind, **settings},
        "when": {"kind": endpoint, "path": f"/me/{name}/"},
    }


def repo_in(path):
    found = re.search(r"/me/([^/.]+)", path)
    return found.group(1) if found else ""


def contents(hub, repo):
    return {path: found for path, found in hub.files(repo).items() if path not in OWN_FILES}


def seconds_without_tag(log):
    """From its deletion, answered or not, to the answer that it is there again."""
    pods = [line for line in log if line["client"] != "127.0.0.1"]
    gone = next(line for line in pods if line["kind"] == "tag_delete" and line["path"].endswith("/v3.0"))
    back = next(
        line
        for line in pods
        if line["kind"] == "tag_create" and line["status"] == 200 and line["number"] > gone["number"]
    )
    return back["noted_seconds"] - gone["noted_seconds"]
