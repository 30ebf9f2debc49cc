"""The chart's values: what the schema refuses, and that README and schema know each of them."""

import json
import re

import pytest
import yaml
from tests.support.helm import CHART, HelmError, render

VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
ROWS = re.findall(
    r"^\| `([A-Za-z.]+)` \| `(.*?)` \| (.+) \|$",
    (CHART / "README.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)

REFUSED = [
    ({"replicas": 2}, "'replicas' not allowed"),
    ({"image": {"name": "x"}}, "/image"),
    ({"image": {"repository": ""}}, "/image/repository"),
    ({"image": {"repository": "Operator"}}, "/image/repository"),
    ({"image": {"repository": "a:b"}}, "/image/repository"),
    ({"image": {"tag": 1.5}}, "/image/tag"),
    ({"image": {"tag": "a b"}}, "/image/tag"),
    ({"image": {"digest": "sha256:abc"}}, "/image/digest"),
    ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
    ({"image": {"registry": "https://a b"}}, "/image/registry"),
    ({"worker": {"image": {"pullPolicy": "always"}}}, "/worker/image/pullPolicy"),
    ({"worker": {"replicas": 3}}, "'replicas' not allowed"),
    ({"vllm": {"image": {"tag": ""}}}, "/vllm/image/tag"),
    ({"vllm": {"image": "vllm/vllm-openai:v1"}}, "/vllm/image"),
    ({"vllm": {"image": {"pullPolicy": "Always"}}}, "'pullPolicy' not allowed"),
    ({"vllm": {"args": "--enforce-eager"}}, "/vllm/args"),
    ({"vllm": {"args": [1]}}, "/vllm/args/0"),
    ({"vllm": {"host": "vllm.example.com"}}, "/vllm/host"),
    ({"proxy": {"httpsProxy": "proxy:3128"}}, "/proxy/httpsProxy"),
    ({"proxy": {"noProxy": "10.0.0.0/8,.example.com"}}, "/proxy/noProxy"),
    ({"proxy": {"noProxy": ["a,b"]}}, "/proxy/noProxy/0"),
    ({"proxy": {"socksProxy": "socks5://proxy"}}, "'socksProxy' not allowed"),
    ({"caBundle": {"configMapName": "a", "secretName": "b"}}, "/caBundle/secretName"),
    ({"caBundle": {"configMapName": "a", "key": ""}}, "/caBundle/key"),
    ({"caBundle": {"configMapName": "A_b"}}, "/caBundle/configMapName"),
    ({"jobs": {"env": {"A": "1"}}}, "/jobs/env"),
    ({"jobs": {"env": [{"name": "A", "value": 1}]}}, "/jobs/env/0/value"),
    ({"jobs": {"env": [{"name": "A=B"}]}}, "/jobs/env/0/name"),
    ({"jobs": {"env": [{"name": "ANNOTATIONRUN_API_KEY"}]}}, "/jobs/env/0/name"),
    ({"jobs": {"env": [{"name": "A", "val": "1"}]}}, "'val' not allowed"),
    ({"allowed": {"images": ["*"]}}, "'images' not allowed"),
    ({"allowed": {"servingImages": "*"}}, "/allowed/servingImages"),
    ({"allowed": {"servingImages": ["registry.example.com*"]}}, "/allowed/servingImages/0"),
    ({"allowed": {"annotationKeys": ["*/x"]}}, "/allowed/annotationKeys/0"),
    ({"imagePullSecrets": ["registry"]}, "/imagePullSecrets/0"),
    ({"watchNamespaces": "team-a"}, "/watchNamespaces"),
    ({"watchNamespaces": ["Team"]}, "/watchNamespaces/0"),
    ({"watchNamespaces": ["a,b"]}, "/watchNamespaces/0"),
    ({"watchNamespaces": ["*"]}, "/watchNamespaces/0"),
    ({"watchNamespaces": ["a" * 64]}, "/watchNamespaces/0"),
    ({"watchNamespaces": ["a", "a"]}, "/watchNamespaces"),
    ({"resyncSeconds": 9}, "/resyncSeconds"),
    ({"resyncSeconds": "5m"}, "/resyncSeconds"),
    ({"logging": {"format": "xml"}}, "/logging/format"),
    ({"crds": {"enabled": "no"}}, "/crds/enabled"),
    ({"crds": {"keep": False}}, "'keep' not allowed"),
    ({"rbac": {"create": "true"}}, "/rbac/create"),
    ({"serviceAccount": {"create": False}}, "/serviceAccount/name"),
    ({"serviceAccount": {"name": "-a"}}, "/serviceAccount/name"),
    ({"resources": {"requests": {"cpu": "lots"}}}, "/resources/requests/cpu"),
    ({"resources": {"requests": {"cpu": -1}}}, "/resources/requests/cpu"),
    ({"resources": {"requests": {"memory": None}}}, "/resources/requests"),
    ({"resources": {"requests": None}}, "/resources"),
    ({"jobs": {"resources": {"worker": {"requests": {"memory": "4GB"}}}}}, "/worker/requests/memory"),
    ({"jobs": {"resources": {"merge": {"requests": {"cpu": None}}}}}, "/merge/requests"),
    ({"jobs": {"resources": {"annotate": {}}}}, "'annotate' not allowed"),
    ({"jobs": {"resources": {"sidecar": {"gpus": 1}}}}, "'gpus' not allowed"),
    ({"podLabels": {"team": "a b"}}, "/podLabels/team"),
    ({"commonLabels": {"team": 1}}, "/commonLabels/team"),
    ({"podAnnotations": {"a": True}}, "/podAnnotations/a"),
    ({"fullnameOverride": "x" * 51}, "/fullnameOverride"),
    ({"nameOverride": "1a"}, "/nameOverride"),
    ({"extraEnv": [{"value": "1"}]}, "/extraEnv/0"),
    ({"extraEnv": [{"name": "ANNOTATIONRUN_NAMESPACES", "value": ""}]}, "/extraEnv/0/name"),
    ({"livenessProbe": {"periodSeconds": 0}}, "/livenessProbe/periodSeconds"),
    ({"livenessProbe": {"httpGet": {}}}, "'httpGet' not allowed"),
    ({"metrics": {"enabled": False, "serviceMonitor": {"enabled": True}}}, "/metrics/serviceMonitor/enabled"),
    ({"metrics": {"serviceMonitor": {"interval": "often"}}}, "/metrics/serviceMonitor/interval"),
    ({"metrics": {"podMonitor": {"enabled": True, "vllm": True}}}, "/vllm/host"),
    ({"metrics": {"podMonitor": {"interval": 30}}}, "/metrics/podMonitor/interval"),
    ({"metrics": {"podMonitor": {"path": "/"}}}, "'path' not allowed"),
    ({"metrics": {"prometheusRule": {"noProgressSeconds": "15m"}}}, "/prometheusRule/noProgressSeconds"),
    ({"metrics": {"prometheusRule": {"stalledFor": "long"}}}, "/prometheusRule/stalledFor"),
    ({"metrics": {"prometheusRule": {"runbookUrl": ""}}}, "/prometheusRule/runbookUrl"),
    ({"metrics": {"prometheusRule": {"namespace": "Monitoring"}}}, "/prometheusRule/namespace"),
    ({"metrics": {"dashboard": {"labels": {"grafana_dashboard": 1}}}}, "/dashboard/labels/grafana_dashboard"),
    ({"networkPolicy": {"runs": {"namespaces": "robots"}}}, "/networkPolicy/runs/namespaces"),
    ({"networkPolicy": {"runs": {"restrictEgress": "yes"}}}, "/networkPolicy/runs/restrictEgress"),
    ({"networkPolicy": {"egress": False}}, "'egress' not allowed"),
    ({"networkPolicy": {"runs": {"egressPorts": ["https"]}}}, "/networkPolicy/runs/egressPorts/0"),
    ({"networkPolicy": {"apiServerPorts": []}}, "/networkPolicy/apiServerPorts"),
    ({"networkPolicy": {"apiServerPorts": [70000]}}, "/networkPolicy/apiServerPorts/0"),
    ({"podDisruptionBudget": {"minAvailable": 2}}, "'minAvailable' not allowed"),
]


@pytest.mark.parametrize(("values", "words"), REFUSED, ids=[json.dumps(values) for values, _ in REFUSED])
def test_a_wrong_value_is_refused_by_name(values, words):
    with pytest.raises(HelmError) as caught:
        render(values)
    assert "values don't meet the specifications of the schema" in str(caught.value)
    assert words in str(caught.value)


def paths(value, path=""):
    """Each value that is no map, and each empty map, by path."""
    if not isinstance(value, dict) or not value:
        return {path}
    return {found for key, inner in value.items() for found in paths(inner, f"{path}.{key}".lstrip("."))}


def at(path):
    value = VALUES
    for key in path.split("."):
        value = value[key]
    return value


def properties(schema, path=""):
    """The paths that the schema knows."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    inner = schema.get("properties")
    if inner is None:
        return {path}
    return {found for key, value in inner.items() for found in properties(value, f"{path}.{key}".lstrip("."))}


@pytest.mark.parametrize(("path", "default"), [pytest.param(*row[:2], id=row[0]) for row in ROWS])
def test_the_readme_tells_the_default(path, default):
    assert json.loads(default) == at(path)


def test_the_readme_names_each_value_once():
    named = [row[0] for row in ROWS]
    assert len(set(named)) == len(named) > 50
    left_out = {
        path
        for path in paths(VALUES)
        if not any(path == name or path.startswith(f"{name}.") for name in named)
    }
    assert left_out == set()


def test_the_schema_knows_the_values_and_no_others():
    known = properties(SCHEMA) - {"global"}
    for path in known:
        at(path)
    assert all(any(path == name or path.startswith(f"{name}.") for name in known) for path in paths(VALUES))
