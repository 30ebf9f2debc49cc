"""Runs on a real cluster: a manifest is applied, an annotated dataset comes of it."""

from tests.cluster.manifests import manifest_of, run_in_a_pod
from tests.cluster.workspace import condition_holds
from tests.support.annotation import REFERENCE


def test_a_manifest_that_is_applied_gives_the_dataset_that_run_gives(workspace, images):
    space = workspace("plain", claims=("data", "other"))
    manifest = manifest_of("pick", images)
    for claim in ("data", "other"):
        space.put_folder(REFERENCE, "in", claim)
    space.apply(manifest)
    run = space.wait_complete("pick", 240)
    space.kubectl("wait", "annotationrun/pick", "--for=condition=Complete", "--timeout=10s")
    assert condition_holds(run, "Ready")
    assert run["status"]["progress"]["text"].startswith("100% ")
    run_in_a_pod(space, images, manifest, "other")
    assert space.hashes("out") == space.hashes("out", "other") != ""
