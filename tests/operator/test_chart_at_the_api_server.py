"""The chart, and the Jobs that its settings give, at a real API server, which checks every field."""

import pytest
import yaml
from tests.support.helm import CHART, RELEASE, helm
from tests.support.run_pods import run_job

from annotationrun_api.labels import Step

EVERYTHING = {
    "crds": {"enabled": False},  # it is there
    "vllm": {"host": "0.0.0.0", "args": ["--enforce-eager"]},
    "proxy": {"httpsProxy": "http://proxy.example.com:3128", "noProxy": ["10.0.0.0/8"]},
    "caBundle": {"secretName": "trust"},
    "jobs": {"env": [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}]},
    "metrics": {"podMonitor": {"enabled": True, "vllm": True}, "dashboard": {"enabled": True}},
    "podDisruptionBudget": {"enabled": True},
}
STRICT = "?dryRun=All&fieldValidation=Strict"
PATHS = {
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "Service": "/api/v1/namespaces/{}/services",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
}


@pytest.fixture
def manifests(namespace):
    policies = {
        "restrictEgress": True,
        "metricsFrom": [{"namespaceSelector": {}}],
        "runs": {
            "restrictEgress": True,
            "namespaces": [namespace],
            "egress": [{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": 9000}]}],
        },
    }
    values = {**EVERYTHING, "networkPolicy": policies}
    text = helm("template", RELEASE, CHART, "--namespace", namespace, values=values)
    return [found for found in yaml.safe_load_all(text) if found is not None]


def test_every_object_of_the_chart_is_taken(server, namespace, manifests):
    """But for those of the Prometheus operator, whose kinds no API server has of itself."""
    taken = set()
    for manifest in manifests:
        if not manifest["apiVersion"].startswith("monitoring.coreos.com/"):
            server.api.create(PATHS[manifest["kind"]].format(namespace) + STRICT, manifest)
            taken.add(manifest["kind"])
    assert taken == PATHS.keys()


@pytest.mark.parametrize("step", Step)
def test_a_job_with_all_that_the_chart_gives_it_is_taken(server, namespace, manifests, step):
    job = run_job(manifests, step)
    job["metadata"]["namespace"] = namespace
    server.api.create(f"/apis/batch/v1/namespaces/{namespace}/jobs{STRICT}", job)
