"""Which settings of a run have no effect, on one machine and on a cluster."""

import pytest
from tests.support.manifests import CANONICAL, local_run

from annotationrun_api.manifest import load_manifest
from annotationrun_api.spec_effects import settings_without_effect

MODULES = "  modules:"
EXTERNAL = "mode: External\n      endpoints: [http://127.0.0.1:8000/v1]"


def test_settings_at_their_defaults_are_not_told_of_whether_they_are_written_or_not():
    for spec in (local_run().spec, load_manifest(CANONICAL).spec):
        assert settings_without_effect(spec, in_cluster=False) == ""
        assert settings_without_effect(spec, in_cluster=True) == ""


@pytest.mark.parametrize(
    ("old", "new", "here", "in_cluster"),
    [
        pytest.param(
            MODULES,
            "  queueName: q\n  ttlSecondsAfterFinished: 0\n  workers: {parallelism: 4, episodeAttempts: 2}\n"
            "  modules:",
            "spec.workers.parallelism, spec.ttlSecondsAfterFinished, spec.queueName (only on a cluster)",
            "",
            id="for a cluster",
        ),
        pytest.param(
            MODULES,
            "  workers: {resources: {limits: {cpu: 2}}, pod: {nodeSelector: {a: b}}}\n  modules:",
            "spec.workers.resources.limits, spec.workers.pod.nodeSelector (only on a cluster)",
            "",
            id="within mappings",
        ),
        pytest.param(
            EXTERNAL,
            f"{EXTERNAL}\n      gpus: 2\n      cache: {{claimName: a}}\n      startTimeoutSeconds: 60",
            "spec.model.serving.gpus, spec.model.serving.cache"
            " (only with spec.model.serving.mode Sidecar, on a cluster);"
            " spec.model.serving.startTimeoutSeconds (only on a cluster)",
            "spec.model.serving.gpus, spec.model.serving.cache"
            " (only with spec.model.serving.mode Sidecar, on a cluster)",
            id="of a sidecar, with servers of others",
        ),
        pytest.param(
            EXTERNAL,
            "gpus: 2",
            "spec.model.serving.gpus (only on a cluster)",
            "",
            id="of a sidecar",
        ),
        pytest.param(
            "path: /data/blocks\n",
            "path: /data/blocks\n    revision: v2\n",
            "spec.source.revision (only with spec.source.repoID)",
            "spec.source.revision (only with spec.source.repoID)",
            id="of a repository, with a folder",
        ),
        pytest.param(
            "path: /data/blocks\n", "repoID: me/x\n    revision: v2\n", "", "", id="of a repository, with one"
        ),
        pytest.param(
            "blocks-annotated",
            "out\n    branch: labels",
            "spec.output.branch (only with spec.output.repoID)",
            "spec.output.branch (only with spec.output.repoID)",
            id="a branch of a folder",
        ),
        pytest.param(
            "path: /data/blocks\n",
            "path: /data/blocks\n    cacheBytes: 1048576\n    tokenSecretRef: {name: hub, key: token}\n",
            "spec.source.tokenSecretRef (only with spec.source.repoID);"
            " spec.source.cacheBytes (only with spec.source.repoID or spec.output.repoID)",
            "spec.source.tokenSecretRef (only with spec.source.repoID);"
            " spec.source.cacheBytes (only with spec.source.repoID or spec.output.repoID)",
            id="a cache and a token, with folders",
        ),
    ],
)
def test_a_setting_without_effect_is_named_with_where_it_has_one(old, new, here, in_cluster):
    spec = local_run(old, new).spec
    assert settings_without_effect(spec, in_cluster=False) == here
    assert settings_without_effect(spec, in_cluster=True) == in_cluster
