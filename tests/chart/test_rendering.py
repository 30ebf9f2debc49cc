"""What the chart renders, by helm itself, with each of its switches."""

import json
import tomllib
from pathlib import Path

import pytest
import yaml
from tests.support.helm import CHART, NAMESPACE, RELEASE, HelmError, helm, of_kind, render, the

from annotationrun_api.labels import COMPONENT_LABEL, Step
from annotationrun_operator.settings import OperatorSettings, read_settings

ROOT = CHART.parents[1]
CRD_FILE = ROOT / "crds" / "annotationruns.yaml"
DIGEST = "sha256:" + "0123456789abcdef" * 4
PEER = {"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}
TOLERATION = {"key": "system", "operator": "Exists"}
AFFINITY = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}
WITHOUT_EXTRAS = {
    "Deployment": 1, "ServiceAccount": 1, "Service": 1, "ClusterRole": 3, "ClusterRoleBinding": 1,
    "CustomResourceDefinition": 1, "NetworkPolicy": 1,
}  # fmt: skip

SWITCHES = {
    "nothing": {},
    "namespaces": {"watchNamespaces": ["team-a", "team-b"]},
    "no CRD": {"crds": {"enabled": False}},
    "no rights": {"rbac": {"create": False, "userRoles": False}},
    "another account": {"serviceAccount": {"create": False, "name": "mine"}},
    "no metrics": {"metrics": {"enabled": False}},
    "a ServiceMonitor": {"metrics": {"serviceMonitor": {"enabled": True, "namespace": "monitoring"}}},
    "a PodMonitor": {
        "vllm": {"host": "::"},
        "metrics": {"podMonitor": {"enabled": True, "vllm": True, "namespace": "monitoring"}},
    },
    "a PrometheusRule": {"metrics": {"prometheusRule": {"enabled": True, "namespace": "monitoring"}}},
    "a dashboard": {"metrics": {"dashboard": {"enabled": True, "annotations": {"grafana_folder": "ML"}}}},
    "a NetworkPolicy": {"networkPolicy": {"restrictEgress": True, "metricsFrom": [PEER]}},
    "no NetworkPolicy": {"networkPolicy": {"enabled": False}},
    "NetworkPolicies of runs": {
        "metrics": {"podMonitor": {"enabled": True}},
        "networkPolicy": {"metricsFrom": [PEER], "runs": {"restrictEgress": True, "namespaces": ["a", "b"]}},
    },
    "a proxy and a CA bundle": {
        "proxy": {"httpsProxy": "http://proxy.example.com:3128", "noProxy": ["10.0.0.0/8"]},
        "caBundle": {"configMapName": "trust"},
        "jobs": {"env": [{"name": "HF_ENDPOINT", "value": "https://hub.example.com"}]},
    },
    "choices of runs": {"allowed": {"servingImages": [], "annotationKeys": ["example.com/*"]}},
    "a PodDisruptionBudget": {"podDisruptionBudget": {"enabled": True}},
    "names": {"nameOverride": "labels", "fullnameOverride": "the-operator"},
    "a parent chart": {"global": {"imageRegistry": "registry.example.com"}},
    "all of the pod": {
        "commonLabels": {"team": "data", "app.kubernetes.io/part-of": "another"},
        "imagePullSecrets": [{"name": "registry"}],
        "podAnnotations": {"example.com/scrape": "false"},
        "podLabels": {"team": "robots", "app.kubernetes.io/component": "another"},
        "nodeSelector": {"pool": "system"},
        "tolerations": [TOLERATION],
        "affinity": AFFINITY,
        "priorityClassName": "system-cluster-critical",
        "extraEnv": [{"name": "TZ", "value": "UTC"}],
    },
}
with_each_switch = pytest.mark.parametrize(
    "values", [pytest.param(values, id=name) for name, values in SWITCHES.items()]
)


class WholeNumbers(yaml.SafeLoader):
    """Reads 10.0 as 10: in JSON they are the same."""


def whole_number(loader, node):
    number = loader.construct_yaml_float(node)
    return int(number) if number.is_integer() else number


WholeNumbers.add_constructor("tag:yaml.org,2002:float", whole_number)


def pod_of(manifests):
    return the("Deployment", manifests)["spec"]["template"]


def container_of(manifests):
    (container,) = pod_of(manifests)["spec"]["containers"]
    return container


def environment_of(manifests):
    return {variable["name"]: variable["value"] for variable in container_of(manifests)["env"]}


@with_each_switch
def test_helm_finds_nothing_to_warn_of(values):
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART, values=values)


@with_each_switch
def test_each_object_has_a_name_of_its_own_and_the_labels(values):
    manifests = render(values)
    names = [
        (found["kind"], found["metadata"].get("namespace"), found["metadata"]["name"]) for found in manifests
    ]
    assert len(set(names)) == len(names) > 0
    for found in manifests:
        assert found["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
        assert found["metadata"]["labels"]["app.kubernetes.io/instance"] == RELEASE
        assert found["metadata"]["labels"]["app.kubernetes.io/part-of"] == "annotationrun"


@with_each_switch
def test_the_pod_fits_the_restricted_pod_security_standard(values):
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/"""
    manifests = render(values)
    pod, container = pod_of(manifests)["spec"], container_of(manifests)
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {key for volume in pod["volumes"] for key in volume} == {"name", "emptyDir"}
    assert container["ports"]
    assert all("hostPort" not in port for port in container["ports"])


@with_each_switch
def test_the_container_has_requests_and_a_memory_limit(values):
    assert container_of(render(values))["resources"] == {
        "requests": {"cpu": "100m", "memory": "256Mi"},
        "limits": {"memory": "512Mi"},
    }


@with_each_switch
def test_selectors_mean_the_operators_pod_and_no_pod_of_a_run(values):
    manifests = render({**values, "podDisruptionBudget": {"enabled": True}})
    labels = pod_of(manifests)["metadata"]["labels"]
    selectors = [
        the("Deployment", manifests)["spec"]["selector"]["matchLabels"],
        the("PodDisruptionBudget", manifests)["spec"]["selector"]["matchLabels"],
        *(found["spec"]["selector"] for found in of_kind(manifests, "Service")),
        *(
            found["spec"]["podSelector"]["matchLabels"]
            for found in of_kind(manifests, "NetworkPolicy")
            if not found["metadata"]["name"].endswith("-runs")
        ),
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert selector[COMPONENT_LABEL] not in set(Step), "a run's pods have the same name label"


@pytest.mark.parametrize(
    ("values", "difference"),
    [
        pytest.param({}, {}, id="nothing"),
        pytest.param(SWITCHES["no CRD"], {"CustomResourceDefinition": -1}, id="no CRD"),
        pytest.param(SWITCHES["no metrics"], {"Service": -1}, id="no metrics"),
        pytest.param(SWITCHES["a ServiceMonitor"], {"ServiceMonitor": 1}, id="a ServiceMonitor"),
        pytest.param(SWITCHES["a PodMonitor"], {"PodMonitor": 1}, id="a PodMonitor"),
        pytest.param(SWITCHES["a PrometheusRule"], {"PrometheusRule": 1}, id="a PrometheusRule"),
        pytest.param(SWITCHES["a dashboard"], {"ConfigMap": 1}, id="a dashboard"),
        pytest.param(SWITCHES["a proxy and a CA bundle"], {}, id="a proxy and a CA bundle"),
        pytest.param(SWITCHES["a NetworkPolicy"], {}, id="a NetworkPolicy"),
        pytest.param(SWITCHES["no NetworkPolicy"], {"NetworkPolicy": -1}, id="no NetworkPolicy"),
        pytest.param(
            SWITCHES["NetworkPolicies of runs"], {"NetworkPolicy": 2, "PodMonitor": 1}, id="policies of runs"
        ),
        pytest.param(SWITCHES["a PodDisruptionBudget"], {"PodDisruptionBudget": 1}, id="a budget"),
        pytest.param(
            SWITCHES["namespaces"],
            {
                "ClusterRole": -1,
                "ClusterRoleBinding": -1,
                "Role": 2,
                "RoleBinding": 2,
                "NetworkPolicy": 2,
            },
            id="namespaces",
        ),
    ],
)
def test_a_switch_adds_and_removes_its_own_objects_alone(values, difference):
    counts = dict(WITHOUT_EXTRAS)
    for kind, more in difference.items():
        counts[kind] = counts.get(kind, 0) + more
    kinds = [found["kind"] for found in render(values)]
    assert {kind: kinds.count(kind) for kind in kinds} == {k: count for k, count in counts.items() if count}


def test_there_is_one_operator_at_a_time():
    deployment = the("Deployment", render())
    assert deployment["metadata"]["namespace"] == NAMESPACE
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert pod_of([deployment])["spec"]["terminationGracePeriodSeconds"] == 30
    assert container_of([deployment])["command"] == ["python", "-m", "annotationrun_operator"]


def test_the_probes_ask_where_the_operator_answers():
    manifests = render({"livenessProbe": {"periodSeconds": 7}})
    container, settings = container_of(manifests), read_settings(environment_of(manifests))
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"health": settings.health_port, "metrics": settings.metrics_port}
    for probe, path in (("startup", "/healthz"), ("liveness", "/healthz"), ("readiness", "/readyz")):
        assert container[f"{probe}Probe"]["httpGet"] == {"path": path, "port": "health"}
    assert container["livenessProbe"]["periodSeconds"] == 7
    (port,) = the("Service", manifests)["spec"]["ports"]
    assert port["targetPort"] == "metrics"


@pytest.mark.parametrize(
    ("values", "settings"),
    [
        pytest.param({}, OperatorSettings(log_format="json"), id="nothing"),
        pytest.param(
            {"watchNamespaces": ["team-a", "1234"], "resyncSeconds": 20, "logging": {"format": "plain"}},
            OperatorSettings(namespaces=("team-a", "1234"), resync_seconds=20),
            id="all that can be set",
        ),
    ],
)
def test_the_operator_reads_the_settings_that_the_chart_writes(values, settings):
    assert read_settings(environment_of(render(values))) == settings


@pytest.mark.parametrize(
    ("values", "images"),
    [
        pytest.param(
            {},
            ("annotationrun-operator:0.1.0", "annotationrun-worker:0.1.0", "vllm/vllm-openai:v0.32.0"),
            id="the version of the chart",
        ),
        pytest.param(
            {"image": {"registry": "registry.example.com:5000/robots/"}},
            (
                "registry.example.com:5000/robots/annotationrun-operator:0.1.0",
                "registry.example.com:5000/robots/annotationrun-worker:0.1.0",
                "vllm/vllm-openai:v0.32.0",
            ),
            id="a registry for both images",
        ),
        pytest.param(
            {
                "image": {"registry": "a.example.com", "repository": "o", "tag": "1"},
                "worker": {"image": {"registry": "b.example.com", "repository": "w", "digest": DIGEST}},
                "vllm": {"image": {"registry": "c.example.com", "repository": "v", "tag": "2"}},
            },
            ("a.example.com/o:1", f"b.example.com/w:0.1.0@{DIGEST}", "c.example.com/v:2"),
            id="each by itself",
        ),
    ],
)
def test_images_are_put_together(values, images):
    manifests = render(values)
    environment = environment_of(manifests)
    assert images == (
        container_of(manifests)["image"],
        environment["ANNOTATIONRUN_WORKER_IMAGE"],
        environment["ANNOTATIONRUN_VLLM_IMAGE"],
    )


def test_pull_policies_reach_the_operator_and_its_jobs():
    manifests = render({"image": {"pullPolicy": "Always"}, "worker": {"image": {"pullPolicy": "Never"}}})
    assert container_of(manifests)["imagePullPolicy"] == "Always"
    assert environment_of(manifests)["ANNOTATIONRUN_WORKER_IMAGE_PULL_POLICY"] == "Never"


def test_resources_of_the_jobs_reach_the_operator_as_json():
    given = {"worker": {"requests": {"cpu": "3", "example.com/nic": 1}, "limits": {"memory": "9Gi"}}}
    manifests = render({"jobs": {"resources": given}})
    resources = json.loads(environment_of(manifests)["ANNOTATIONRUN_JOB_DEFAULTS"])
    assert resources == {
        "plan": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "4Gi"}},
        "worker": {
            "requests": {"cpu": "3", "memory": "2Gi", "example.com/nic": 1},
            "limits": {"memory": "9Gi"},
        },
        "merge": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "8Gi"}},
        "sidecar": {"requests": {"cpu": "1", "memory": "8Gi"}, "limits": {}},
    }


def test_what_the_user_says_of_the_pod_is_in_it():
    given = SWITCHES["all of the pod"]
    pod = pod_of(render(given))
    for key in ("imagePullSecrets", "nodeSelector", "tolerations", "affinity", "priorityClassName"):
        assert pod["spec"][key] == given[key]
    assert given["extraEnv"][0] in pod["spec"]["containers"][0]["env"]
    assert pod["metadata"]["annotations"] == given["podAnnotations"]
    assert pod["metadata"]["labels"]["team"] == "data", "what all objects have comes first"


def test_no_label_of_the_user_takes_the_place_of_one_of_ours():
    labels = pod_of(render(SWITCHES["all of the pod"]))["metadata"]["labels"]
    assert labels["app.kubernetes.io/component"] == "operator"
    assert labels["app.kubernetes.io/part-of"] == "annotationrun"


def test_a_security_context_can_be_fitted_to_a_platform():
    manifests = render({"podSecurityContext": {"runAsUser": 1000, "seccompProfile": None}})
    assert pod_of(manifests)["spec"]["securityContext"] == {"runAsNonRoot": True, "runAsUser": 1000}


def test_the_chart_holds_a_copy_of_the_crd():
    copy = (CHART / "files" / "annotationruns.yaml").read_bytes()
    assert copy == CRD_FILE.read_bytes(), "run `make crds`"


def test_the_crd_is_rendered_as_it_was_written():
    """As text: an integer that came out as a float would be equal, but wrong."""
    rendered = the("CustomResourceDefinition", render())
    written = yaml.load(CRD_FILE.read_text(encoding="utf-8"), WholeNumbers)
    assert rendered.pop("metadata")["name"] == written.pop("metadata")["name"]
    assert yaml.safe_dump(rendered) == yaml.safe_dump(written)


@pytest.mark.parametrize(
    "policy", [{}, {"helm.sh/resource-policy": "delete"}], ids=["as it is", "overridden"]
)
def test_an_uninstall_keeps_the_crd_and_with_it_the_runs(policy):
    annotations = {"example.com/sync": "no", **policy}
    crd = the("CustomResourceDefinition", render({"crds": {"annotations": annotations}}))
    assert crd["metadata"]["annotations"] == {"example.com/sync": "no", "helm.sh/resource-policy": "keep"}


def test_the_chart_has_the_version_of_the_project():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]


def test_a_cluster_without_native_sidecars_is_refused():
    arguments: tuple[str | Path, ...] = ("template", RELEASE, CHART, "--kube-version")
    with pytest.raises(HelmError, match=r"kubeVersion: >=1\.29"):
        helm(*arguments, "1.28.9")
    assert "kind: Deployment" in helm(*arguments, "1.29.0-gke.1381000")
