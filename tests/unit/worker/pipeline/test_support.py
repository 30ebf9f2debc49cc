import pytest
from tests.support.manifests import CANONICAL, local_run

from annotationrun_api.errors import UnsupportedError
from annotationrun_api.manifest import load_manifest
from annotationrun_api.spec import RunSpec
from annotationrun_api.spec_fields import walk_fields
from annotationrun_worker.pipeline.config import (
    CLUSTER_ONLY,
    LIMITED,
    SUPPORTED,
    check_supported,
    unsupported_settings,
)

_GROUPS = (SUPPORTED, CLUSTER_ONLY, LIMITED)
_PATHS = [path for path, _ in walk_fields(RunSpec, "spec")]


def _covers(group: frozenset[str], path: str) -> bool:
    return any(path == entry or path.startswith(f"{entry}.") for entry in group)


@pytest.mark.parametrize(
    "path", [path for path in _PATHS if not any(other.startswith(f"{path}.") for other in _PATHS)]
)
def test_every_field_of_the_spec_is_in_exactly_one_group(path):
    assert sum(_covers(group, path) for group in _GROUPS) == 1


@pytest.mark.parametrize("path", sorted(set().union(*_GROUPS)))
def test_every_path_of_a_group_is_a_field(path):
    assert path in _PATHS


def test_the_local_manifest_is_supported():
    run = local_run()

    assert unsupported_settings(run, endpoint_given=False) == []
    check_supported(run, endpoint_given=False)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        pytest.param(
            "mode: External\n      endpoints: [http://127.0.0.1:8000/v1]",
            "mode: Sidecar",
            "spec.model.serving.mode=Sidecar (the default) is not supported yet; give --endpoint",
            id="a sidecar",
        ),
        pytest.param("  modules:", "  suspend: true\n  modules:", "spec.suspend=true is not", id="suspended"),
    ],
)
def test_a_setting_that_is_not_carried_out_is_refused(old, new, line):
    lines = unsupported_settings(local_run(old, new), endpoint_given=False)

    assert len(lines) == 1
    assert lines[0].startswith(line)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("path: /data/blocks\n", 'path: /x\n    episodes: "0-3"\n', id="some episodes"),
        pytest.param("blocks\n", "blocks\n    volume: {claimName: a}\n", id="a volume"),
        pytest.param("    vqa: {}", "    vqa: {framesPerTick: 3, cameras: Default}", id="another vqa"),
        pytest.param("    vqa: {}", "    interjections: {}", id="interjections"),
        pytest.param(
            "plan: {emitMemory: false, deriveTask: Never, taskRephrasings: 0}",
            "plan: {taskAxes: {}}",
            id="plan with its defaults, and axes",
        ),
        pytest.param(
            "  modules:",
            "  prompts: {vqa_bbox: x}\n  outputLanguage: French\n  modules:",
            id="prompts and a language",
        ),
        pytest.param(
            "  modules:",
            "  workers: {episodeAttempts: 1}\n  failurePolicy: {maxUnansweredPercent: 5}\n  modules:",
            id="attempts and unanswered",
        ),
        pytest.param("  modules:", "  failurePolicy: {maxFailedEpisodes: 5%}\n  modules:", id="failures"),
        pytest.param("blocks-annotated", "out\n    existingRows: Keep", id="kept rows"),
        pytest.param("  modules:", "  frames: {backend: pyav}\n  modules:", id="the backend by name"),
        pytest.param("  modules:", "  staging: {uri: 'file:///s'}\n  modules:", id="a staging folder"),
        pytest.param("  modules:", "  staging: {uri: 's3://bucket/x'}\n  modules:", id="an object store"),
        pytest.param(
            "mode: External",
            "mode: External\n      apiKeySecretRef: {name: a, key: b}",
            id="an API key, which comes from the environment",
        ),
        pytest.param(
            "  modules:",
            "  staging: {uri: 's3://bucket/x', credentialsSecretRef: {name: a}}\n  modules:",
            id="credentials, which come from the environment",
        ),
        pytest.param("  modules:", "  retryToken: again\n  modules:", id="a retry token"),
        pytest.param("path: /data/blocks\n", "repoID: lerobot/x\n", id="a dataset on the Hub"),
        pytest.param("path: /data/blocks-annotated", "repoID: me/x", id="a push"),
        pytest.param(
            "path: /data/blocks\n", "repoID: me/x\n    follow: {mode: Poll}\n", id="following, on a cluster"
        ),
        pytest.param("blocks-annotated", "blocks\n    overwrite: true", id="in place"),
        pytest.param(
            "  modules:",
            "  queueName: q\n  ttlSecondsAfterFinished: 0\n  workers: {parallelism: 4}\n  modules:",
            id="settings for a cluster",
        ),
    ],
)
def test_a_setting_that_is_carried_out_or_for_a_cluster_is_accepted(old, new):
    assert unsupported_settings(local_run(old, new), endpoint_given=False) == []


def test_an_endpoint_on_the_command_line_takes_the_place_of_the_sidecar():
    run = local_run("mode: External\n      endpoints: [http://127.0.0.1:8000/v1]", "mode: Sidecar")

    assert unsupported_settings(run, endpoint_given=True) == []


def test_all_unsupported_settings_are_listed_in_the_order_of_the_spec():
    with pytest.raises(UnsupportedError) as caught:
        check_supported(load_manifest(CANONICAL), endpoint_given=False)

    message = str(caught.value)
    assert message.startswith("manifest 'so101-relabel' has 1 setting not supported yet\n")
    assert [line.strip().split("=")[0] for line in message.splitlines()[1:]] == [
        "spec.model.serving.mode",
    ]
