"""Runs that Git owns, at a real API server: nothing that we or it write is drift to Argo CD or Flux."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.support.kube_api import PODS, RUNS, wait_for
from tests.support.manifests import CANONICAL
from tests.support.operator_process import operator_process
from tests.support.played_run import PlayedRun

from annotationrun_api.labels import FIELD_MANAGER, STEP_LABEL, Step
from annotationrun_api.step_results import PlanResult, write_result

SAMPLES = sorted((Path(__file__).parents[2] / "crds" / "samples").glob("*.yaml"))
TRACKING = {
    "labels": {
        "argocd.argoproj.io/instance": "relabeling",
        "app.kubernetes.io/instance": "relabeling",
        "kustomize.toolkit.fluxcd.io/name": "relabeling",
    },
    "annotations": {
        "argocd.argoproj.io/tracking-id": "relabeling:annotationrun.dev/AnnotationRun:robots/run",
        "argocd.argoproj.io/sync-options": "Prune=false",
        "kubectl.kubernetes.io/last-applied-configuration": "{}",
    },
}
"""What Argo CD, Flux and Helm write on objects that they own; what bears it and is not in Git is pruned."""
PLAYED_POLL = {"mode": "Poll", "intervalSeconds": 60}
OTHER_PLAN = "fe" * 32


@pytest.fixture
def operator(server, namespace, tmp_path):
    with operator_process(tmp_path, server.kubeconfig, namespace) as process:
        process.wait_until_ready()
        yield process


def drift(git, live, path="spec"):
    """Where the live object differs from Git: what only the API server has is none; lists count whole."""
    if isinstance(git, dict) and isinstance(live, dict):
        return [found for name in git for found in drift(git[name], live.get(name), f"{path}.{name}")]
    return [] if git == live else [f"{path}: {git!r} became {live!r}"]


def with_lists() -> dict:
    """A manifest whose lists of mappings leave out what has a default."""
    manifest = yaml.safe_load(SAMPLES[0].read_text(encoding="utf-8"))
    manifest["spec"]["workers"] = {
        "pod": {"tolerations": [{"key": "gpu"}, {"operator": "Exists"}], "imagePullSecrets": [{"name": "a"}]}
    }
    return manifest


@pytest.mark.parametrize(
    "manifest",
    [
        *(pytest.param(yaml.safe_load(path.read_text(encoding="utf-8")), id=path.stem) for path in SAMPLES),
        pytest.param(yaml.safe_load(CANONICAL.read_text(encoding="utf-8")), id="every field"),
        pytest.param(with_lists(), id="lists"),
    ],
)
def test_what_the_api_server_fills_in_is_no_drift(server, namespace, manifest):
    manifest["metadata"].pop("namespace", None)
    name = server.api.create(RUNS.format(namespace), manifest)["metadata"]["name"]
    live = server.api.get(f"{RUNS.format(namespace)}/{name}")
    assert drift(manifest["spec"], live["spec"]) == []


def test_drift_is_seen():
    assert drift({"a": {"b": [{"c": 1}]}}, {"a": {"b": [{"c": 1, "d": 2}]}, "e": 1}) != []


def test_the_operator_writes_the_status_alone_and_children_bear_no_mark_of_their_owner(
    server, namespace, operator
):
    run = PlayedRun(server.api, namespace, suspend=True)
    run.play_until("Suspended")
    server.api.patch(run.path, {"metadata": TRACKING, "spec": {"suspend": False}})
    before = run.get()
    assert all(before["metadata"][kind].items() >= marks.items() for kind, marks in TRACKING.items())
    run.play_until("Complete")
    after = run.get()
    assert after["spec"] == before["spec"]
    kept = ("labels", "annotations", "generation", "finalizers", "ownerReferences")
    assert [after["metadata"].get(name) for name in kept] == [before["metadata"].get(name) for name in kept]
    written = [one for one in after["metadata"]["managedFields"] if one["manager"] == FIELD_MANAGER]
    assert [(one["subresource"], set(one["fieldsV1"])) for one in written] == [("status", {"f:status"})]
    children = [*run.player.jobs(), *server.api.items(PODS.format(namespace))]
    assert len(children) == 6
    for child in children:
        metadata = [child["metadata"], child["spec"].get("template", {}).get("metadata", {})]
        names = {name for one in metadata for kind in TRACKING for name in one.get(kind, {})}
        assert STEP_LABEL in names
        assert not names & (TRACKING["labels"].keys() | TRACKING["annotations"].keys())


def test_a_look_at_the_source_that_finds_nothing_new_is_one_write_and_another_plan_is_carried_out(
    server, namespace, operator
):
    source = {"path": "in", "volume": {"claimName": "data"}, "follow": PLAYED_POLL}
    run = PlayedRun(server.api, namespace, source=source, ttlSecondsAfterFinished=0)
    run.play_until("Complete")
    wait_for("the end of the Jobs", lambda: not run.player.jobs())
    complete = run.get()
    version = complete["metadata"]["resourceVersion"]
    let_the_interval_pass(run)
    play_until(run, lambda: len(run.created_jobs()) == 4)
    play_until(run, lambda: not run.player.jobs())
    after = run.get()
    assert after["status"]["conditions"] == complete["status"]["conditions"]
    events = [event["object"] for event in server.api.events_since(RUNS.format(namespace), version)]
    assert [one["status"]["plan"]["attempt"] for one in events] == [1, 2], "our own write, and one of a look"

    told = PlanResult(plan=OTHER_PLAN, episodes=7, pending=1)
    run.player.messages[Step.PLAN] = write_result(told)
    let_the_interval_pass(run)
    play_until(run, lambda: len(run.created_jobs()) == 7)
    run.play_until("Complete")
    wanted = ["plan 1", "annotate 1", "merge 1", "plan 2", "plan 3", "annotate 2", "merge 2"]
    assert run.created_jobs() == wanted
    assert run.get()["status"]["plan"]["digest"] == OTHER_PLAN
    assert "Traceback" not in operator.log


def let_the_interval_pass(run: PlayedRun) -> None:
    """For the operator the last look was long ago: its status is all that it knows."""
    long_ago = {"status": {"plan": {"lastPollTime": "2026-01-01T00:00:00Z"}}}
    run.api.patch(f"{run.path}/status", long_ago)


def play_until(run: PlayedRun, condition: Callable[[], bool]) -> None:
    def holds() -> bool:
        run.turn()
        return condition()

    wait_for(f"what is to come after {run.created_jobs()}", holds)
