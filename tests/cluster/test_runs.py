"""Runs on a real cluster: a manifest is applied, an annotated dataset comes of it."""

from tests.cluster.manifests import external, manifest_of, run_in_a_pod, start_server
from tests.cluster.workspace import condition_holds
from tests.support.annotation import REFERENCE


def test_progress_rises_and_is_seen_while_it_runs(workspace, images):
    space = workspace("progress")
    space.put_folder(REFERENCE, "in")
    manifest = external("pick", start_server(space, images, latency_seconds=1.0))
    manifest["spec"]["workers"] |= {"parallelism": 1, "requestConcurrency": 4}
    space.apply(manifest)
    seen = []

    def is_complete(run):
        progress = run.get("status", {}).get("progress", {})
        seen.append((progress.get("percent", 0), progress.get("eta", "")))
        return condition_holds(run, "Complete")

    space.wait_for("pick", is_complete, 600)
    percents = [percent for percent, _ in seen]
    assert len(seen) >= 5
    assert len(set(percents)) >= 3, seen
    assert percents == sorted(percents)
    assert any(0 < percent < 100 and eta for percent, eta in seen), seen
    table = space.kubectl("get", "annotationruns")
    assert "100% (6/6)" in table
    assert "Complete" in table


def test_a_manifest_that_is_applied_gives_the_dataset_that_run_gives(workspace, images):
    space = workspace("plain", claims=("data", "other"))
    manifest = manifest_of("pick", images)
    for claim in ("data", "other"):
        space.put_folder(REFERENCE, "in", claim)
    space.apply(manifest)
    run = space.wait_complete("pick")
    space.kubectl("wait", "annotationrun/pick", "--for=condition=Complete", "--timeout=60s")
    assert condition_holds(run, "Ready")
    assert run["status"]["progress"]["text"].startswith("100% ")
    run_in_a_pod(space, images, manifest, "other")
    hashes = space.hashes("out")
    assert "./meta/annotationrun.json\n" in hashes
    assert hashes == space.hashes("out", "other")
