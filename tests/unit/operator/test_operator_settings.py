"""The operator's settings come from the environment; what is wrong there is named."""

import json

import pytest

from annotationrun_operator.errors import SettingsError
from annotationrun_operator.manifests.installation import Allowed, CaBundle, ContainerDefaults
from annotationrun_operator.settings import OperatorSettings, read_job_settings, read_settings

IMAGES = {"ANNOTATIONRUN_WORKER_IMAGE": "worker:1", "ANNOTATIONRUN_VLLM_IMAGE": "vllm/vllm-openai:v1"}


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({}, id="nothing set"),
        pytest.param(
            {
                "ANNOTATIONRUN_NAMESPACES": "",
                "ANNOTATIONRUN_RESYNC_SECONDS": "",
                "ANNOTATIONRUN_HEALTH_PORT": "",
                "ANNOTATIONRUN_METRICS_PORT": "",
                "ANNOTATIONRUN_LOG_FORMAT": "",
            },
            id="all empty",
        ),
    ],
)
def test_without_settings_all_namespaces_are_served(environment):
    settings = read_settings(environment)
    assert settings == OperatorSettings()
    assert settings.scopes == (None,)


def test_all_settings_are_read():
    settings = read_settings(
        {
            "ANNOTATIONRUN_NAMESPACES": "team-a, team-b,team-a",
            "ANNOTATIONRUN_RESYNC_SECONDS": "60",
            "ANNOTATIONRUN_HEALTH_PORT": "9000",
            "ANNOTATIONRUN_METRICS_PORT": "0",
            "ANNOTATIONRUN_LOG_FORMAT": "json",
        }
    )
    assert settings == OperatorSettings(("team-a", "team-b"), 60, 9000, 0, "json")
    assert settings.scopes == ("team-a", "team-b")


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        pytest.param("ANNOTATIONRUN_NAMESPACES", "team-a,Team_B", id="no namespace"),
        pytest.param("ANNOTATIONRUN_NAMESPACES", "a" * 64, id="too long a namespace"),
        pytest.param("ANNOTATIONRUN_RESYNC_SECONDS", "5m", id="a duration"),
        pytest.param("ANNOTATIONRUN_RESYNC_SECONDS", "9", id="too short"),
        pytest.param("ANNOTATIONRUN_RESYNC_SECONDS", "-60", id="negative"),
        pytest.param("ANNOTATIONRUN_HEALTH_PORT", "65536", id="no port"),
        pytest.param("ANNOTATIONRUN_METRICS_PORT", "http", id="a name of a port"),
        pytest.param("ANNOTATIONRUN_LOG_FORMAT", "JSON", id="capitals"),
    ],
)
def test_what_is_wrong_is_named(variable, text):
    with pytest.raises(SettingsError, match=variable):
        read_settings({variable: text})


def test_the_jobs_settings_are_read():
    resources = {
        "plan": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {}},
        "sidecar": {"requests": {"cpu": "500m"}, "limits": {"memory": "64Gi"}},
        "merge": {"requests": {"cpu": "1", "memory": "8G"}, "limits": {"cpu": "1000m", "memory": "8Gi"}},
    }
    settings = read_job_settings(
        {
            **IMAGES,
            "ANNOTATIONRUN_WORKER_IMAGE_PULL_POLICY": "Always",
            "ANNOTATIONRUN_JOB_DEFAULTS": json.dumps(resources),
        }
    )
    assert (settings.worker_image, settings.vllm_image) == ("worker:1", "vllm/vllm-openai:v1")
    assert settings.image_pull_policy == "Always"
    assert settings.plan == ContainerDefaults({"cpu": "1", "memory": "1Gi"}, {})
    assert settings.sidecar == ContainerDefaults({"cpu": "500m"}, {"memory": "64Gi"})
    assert settings.merge.limits == {"cpu": "1000m", "memory": "8Gi"}
    assert settings.worker == read_job_settings(IMAGES).worker


def test_what_all_pods_get_is_read():
    env = [
        {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
        {"name": "EMPTY"},
    ]
    settings = read_job_settings(
        {
            **IMAGES,
            "ANNOTATIONRUN_POD_ENV": json.dumps(env),
            "ANNOTATIONRUN_CA_BUNDLE": '{"configMapName": "ca", "key": "ca.pem"}',
            "ANNOTATIONRUN_VLLM_HOST": "0.0.0.0",
            "ANNOTATIONRUN_VLLM_ARGS": '["--enforce-eager"]',
        }
    )
    assert list(settings.pod_env) == env
    assert settings.ca_bundle == CaBundle("ca.pem", config_map_name="ca")
    assert settings.server_host == "0.0.0.0"
    assert settings.server_args == ("--enforce-eager",)


def test_what_runs_may_choose_is_read():
    allowed = {
        "servingImages": ["registry.example.com/vllm/*", "vllm/vllm-openai:*", "a/b:1"],
        "serviceAccountNames": [],
        "annotationKeys": ["example.com/*"],
    }
    settings = read_job_settings({**IMAGES, "ANNOTATIONRUN_ALLOWED": json.dumps(allowed)})
    assert settings.allowed == Allowed(
        serving_images=("registry.example.com/vllm/*", "vllm/vllm-openai:*", "a/b:1"),
        service_account_names=(),
        annotation_keys=("example.com/*",),
    )
    assert read_job_settings(IMAGES).allowed == Allowed(("*",), ("*",), ("*",), ("*",), ("*",))


def test_without_settings_pods_get_nothing_more_and_the_server_is_their_own():
    settings = read_job_settings({**IMAGES, "ANNOTATIONRUN_POD_ENV": "", "ANNOTATIONRUN_CA_BUNDLE": ""})
    assert (settings.pod_env, settings.ca_bundle, settings.server_host) == ((), None, "127.0.0.1")


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        pytest.param("ANNOTATIONRUN_POD_ENV", '{"A": "1"}', id="a map of variables"),
        pytest.param("ANNOTATIONRUN_POD_ENV", '[{"name": "A=B"}]', id="no name of a variable"),
        pytest.param("ANNOTATIONRUN_POD_ENV", '[{"name": "A", "val": "1"}]', id="a misspelt value"),
        pytest.param("ANNOTATIONRUN_POD_ENV", '[{"name": "A"}, {"name": "A"}]', id="a variable twice"),
        pytest.param("ANNOTATIONRUN_POD_ENV", '[{"name": "ANNOTATIONRUN_API_KEY"}]', id="a variable of ours"),
        pytest.param("ANNOTATIONRUN_CA_BUNDLE", '{"key": "ca.crt"}', id="a bundle of no object"),
        pytest.param(
            "ANNOTATIONRUN_CA_BUNDLE",
            '{"configMapName": "a", "secretName": "b", "key": "c"}',
            id="a bundle of two objects",
        ),
        pytest.param("ANNOTATIONRUN_CA_BUNDLE", '{"secretName": "b", "key": ""}', id="a bundle of no key"),
        pytest.param("ANNOTATIONRUN_VLLM_HOST", "example.com", id="an address of others"),
        pytest.param("ANNOTATIONRUN_VLLM_ARGS", "--enforce-eager", id="arguments that are no list"),
        pytest.param("ANNOTATIONRUN_WORKER_IMAGE", "", id="no worker image"),
        pytest.param("ANNOTATIONRUN_VLLM_IMAGE", " ", id="no vLLM image"),
        pytest.param("ANNOTATIONRUN_WORKER_IMAGE_PULL_POLICY", "Sometimes", id="no pull policy"),
        pytest.param("ANNOTATIONRUN_ALLOWED", '{"images": ["*"]}', id="a choice that is none"),
        pytest.param("ANNOTATIONRUN_ALLOWED", '{"annotationKeys": "*"}', id="choices that are no list"),
        pytest.param("ANNOTATIONRUN_ALLOWED", '{"annotationKeys": ["*a"]}', id="an end of a text"),
        pytest.param(
            "ANNOTATIONRUN_ALLOWED",
            '{"servingImages": ["registry.example.com*"]}',
            id="a registry that others begin like",
        ),
        pytest.param("ANNOTATIONRUN_JOB_DEFAULTS", "{", id="no JSON"),
        pytest.param(
            "ANNOTATIONRUN_JOB_DEFAULTS",
            '{"plan": {"requests": {"memory": "16Gi"}, "limits": {"memory": "8Gi"}}}',
            id="a request over its limit",
        ),
        pytest.param(
            "ANNOTATIONRUN_JOB_DEFAULTS",
            '{"plan": {"requests": {"memory": "9G"}, "limits": {"memory": "8Gi"}}}',
            id="a request over its limit in other units",
        ),
        pytest.param(
            "ANNOTATIONRUN_JOB_DEFAULTS",
            '{"plan": {"requests": {"cpu": "1.5"}, "limits": {"cpu": "1400m"}}}',
            id="a request over its limit in parts",
        ),
        pytest.param("ANNOTATIONRUN_JOB_DEFAULTS", '{"plan": {"limits": {"cpu": "2 x"}}}', id="no quantity"),
        pytest.param("ANNOTATIONRUN_JOB_DEFAULTS", '{"server": {}}', id="no container of ours"),
        pytest.param("ANNOTATIONRUN_JOB_DEFAULTS", '{"plan": {"request": {}}}', id="a misspelt field"),
    ],
)
def test_what_is_wrong_for_jobs_is_named(variable, text):
    with pytest.raises(SettingsError, match=variable):
        read_job_settings({**IMAGES, variable: text})
