"""What the chart gives to the pods of runs: settings of the server, proxy, CA bundle, and their network."""

import http.server
import threading

import openai
import pytest
from tests.support.helm import NAMESPACE, HelmError, of_kind, render, the
from tests.support.run_pods import containers_of, operator_environment, ports_of, run_pod

from annotationrun_api.labels import RUN_UID_LABEL, Step
from annotationrun_api.step_results import PROGRESS_PORT
from annotationrun_operator.manifests.installation import Allowed, CaBundle
from annotationrun_operator.manifests.sidecar import SERVER_PORT
from annotationrun_operator.settings import read_job_settings

PROXY = {"httpsProxy": "http://proxy.example.com:3128", "noProxy": ["10.0.0.0/8", "hub.example.com"]}
PEER = {"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}
RUNS = [{"key": RUN_UID_LABEL, "operator": "Exists"}]
DIRECT = "localhost,127.0.0.1,::1,.svc,.cluster.local"


def settings_of(values):
    return read_job_settings(operator_environment(render(values)))


def environment(container):
    return {variable["name"]: variable.get("value") for variable in container["env"]}


def test_without_values_pods_get_nothing_more():
    settings = settings_of({})
    assert (settings.pod_env, settings.ca_bundle, settings.server_args) == ((), None, ())
    assert settings.server_host == "127.0.0.1"


def test_arguments_and_address_of_the_server_reach_the_sidecar_as_they_are():
    values = {"vllm": {"args": ["--enforce-eager", '--x=$(HOME) "y" {{z}}'], "host": "::"}}
    (sidecar,) = run_pod(render(values), Step.ANNOTATE)["spec"]["initContainers"]
    assert sidecar["args"][-2:] == values["vllm"]["args"]
    assert "--host=::" in sidecar["args"]


@pytest.mark.parametrize("step", Step)
def test_the_proxy_and_further_variables_reach_every_container(step):
    token = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
    values = {"proxy": PROXY, "jobs": {"env": [token, {"name": "NOTE", "value": "$(HOME) a$$b"}]}}
    for container in containers_of(run_pod(render(values), step)):
        assert token in container["env"]
        found = environment(container)
        assert found["HTTPS_PROXY"] == PROXY["httpsProxy"]
        assert "HTTP_PROXY" not in found
        assert found["NO_PROXY"] == f"{DIRECT},10.0.0.0/8,hub.example.com"
        assert found["NOTE"] == "$(HOME) a$$b"


def test_a_worker_behind_a_proxy_asks_its_own_server_directly(monkeypatch):
    """By the client that it has for model servers."""
    closed = "http://127.0.0.1:9"
    for variable in settings_of({"proxy": {"httpProxy": closed, "httpsProxy": closed}}).pod_env:
        monkeypatch.setenv(variable["name"], variable["value"])
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        with (
            openai.OpenAI(base_url=url, api_key="-", max_retries=0) as client,
            pytest.raises(openai.APIStatusError, match="501"),  # no do_GET: the server itself has answered
        ):
            client.models.list()
    with (
        openai.OpenAI(base_url="http://vlm.example.com/v1", api_key="-", max_retries=0) as client,
        pytest.raises(openai.APIConnectionError),
    ):
        client.models.list()


def test_a_proxy_whose_address_is_secret_comes_as_a_variable():
    address = {"name": "HTTPS_PROXY", "valueFrom": {"secretKeyRef": {"name": "proxy", "key": "url"}}}
    env = settings_of({"proxy": {"noProxy": ["hub.example.com"]}, "jobs": {"env": [address]}}).pod_env
    assert list(env) == [{"name": "NO_PROXY", "value": f"{DIRECT},hub.example.com"}, address]


def test_a_variable_that_stands_twice_is_refused():
    env = [{"name": "HTTPS_PROXY", "value": "http://other:3128"}]
    with pytest.raises(HelmError, match=r"jobs\.env: HTTPS_PROXY is there twice, or set by proxy too"):
        render({"proxy": PROXY, "jobs": {"env": env}})
    assert settings_of({"jobs": {"env": env}}).pod_env == tuple(env)


@pytest.mark.parametrize(
    ("given", "bundle"),
    [
        pytest.param({"configMapName": "trust"}, CaBundle("ca.crt", "trust"), id="a ConfigMap"),
        pytest.param(
            {"secretName": "trust", "key": "bundle.pem"},
            CaBundle("bundle.pem", secret_name="trust"),
            id="a key of a Secret",
        ),
    ],
)
def test_the_ca_bundle_reaches_the_operator(given, bundle):
    assert settings_of({"caBundle": given}).ca_bundle == bundle


def operator_policy(**values):
    policies = of_kind(render(values), "NetworkPolicy")
    (policy,) = [found for found in policies if found["metadata"]["namespace"] == NAMESPACE]
    return policy["spec"]


def in_namespaces(*names):
    return [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}} for name in names]


@pytest.mark.parametrize(
    ("monitor", "namespaces"),
    [
        pytest.param({}, [NAMESPACE], id="no monitor"),
        pytest.param({"namespace": "monitoring"}, [NAMESPACE], id="a monitor that is off"),
        pytest.param({"enabled": True}, [NAMESPACE], id="a monitor beside the operator"),
        pytest.param(
            {"enabled": True, "namespace": "monitoring"}, [NAMESPACE, "monitoring"], id="a monitor elsewhere"
        ),
    ],
)
def test_by_default_a_policy_lets_scrape_the_operator_and_nothing_else_in(monitor, namespaces):
    policy = operator_policy(metrics={"serviceMonitor": monitor})
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["ingress"] == [{"ports": [{"port": "metrics"}], "from": in_namespaces(*namespaces)}]
    assert "egress" not in policy


def test_an_operator_without_metrics_lets_nobody_in():
    policy = operator_policy(metrics={"enabled": False})
    assert (policy["policyTypes"], policy["ingress"]) == (["Ingress"], [])


def test_what_runs_may_choose_reaches_the_operator():
    given = {"servingImages": ["registry.example.com/$(HOME)/*"], "serviceAccountNames": []}
    allowed = settings_of({"allowed": given}).allowed
    assert allowed == Allowed(("registry.example.com/$(HOME)/*",), service_account_names=())
    assert settings_of({}).allowed == Allowed()


def test_the_network_policy_lets_the_operator_ask_for_progress():
    policy = operator_policy(networkPolicy={"restrictEgress": True, "metricsFrom": [PEER]})
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == [{"ports": [{"port": "metrics"}], "from": [PEER]}]
    (progress,) = [rule for rule in policy["egress"] if "to" in rule]
    assert progress["ports"] == [{"port": PROGRESS_PORT}]
    (peer,) = progress["to"]
    assert peer["podSelector"]["matchExpressions"] == RUNS


@pytest.mark.parametrize(
    ("values", "namespaces"),
    [
        pytest.param({}, [], id="none is known"),
        pytest.param({"watchNamespaces": ["a", "b"]}, ["a", "b"], id="those that are served"),
        pytest.param(
            {"watchNamespaces": ["a", "b"], "networkPolicy": {"runs": {"namespaces": ["b"]}}},
            ["b"],
            id="some of them",
        ),
        pytest.param({"networkPolicy": {"runs": {"namespaces": ["c"]}}}, ["c"], id="of all that are served"),
        pytest.param(
            {"watchNamespaces": ["a"], "networkPolicy": {"runs": {"enabled": False}}}, [], id="it is off"
        ),
    ],
)
@pytest.mark.parametrize(
    ("restricts", "types"), [(False, ["Ingress"]), (True, ["Ingress", "Egress"])], ids=["in", "in and out"]
)
def test_each_namespace_of_runs_gets_a_policy(values, namespaces, restricts, types):
    runs = {**values.get("networkPolicy", {}).get("runs", {}), "restrictEgress": restricts}
    rendered = render({**values, "networkPolicy": {"enabled": False, "runs": runs}})
    policies = of_kind(rendered, "NetworkPolicy")
    assert [policy["metadata"]["namespace"] for policy in policies] == namespaces
    for policy in policies:
        assert policy["spec"]["podSelector"] == {"matchExpressions": RUNS}
        assert policy["spec"]["policyTypes"] == types
        assert ("egress" in policy["spec"]) is restricts


def run_policy(**values):
    runs = {"restrictEgress": True, "namespaces": ["robots"], **values.pop("runs", {})}
    policy = {"enabled": False, "runs": runs, "metricsFrom": values.pop("metricsFrom", [])}
    return the("NetworkPolicy", render({**values, "networkPolicy": policy}))["spec"]


def test_only_the_operator_may_ask_the_pods_of_runs():
    manifests = render()
    (rule,) = run_policy()["ingress"]
    assert rule["ports"] == [{"port": PROGRESS_PORT}]
    (peer,) = rule["from"]
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": NAMESPACE}
    labels = the("Deployment", manifests)["spec"]["template"]["metadata"]["labels"]
    assert peer["podSelector"]["matchLabels"]
    assert peer["podSelector"]["matchLabels"].items() <= labels.items()


def test_who_scrapes_may_ask_the_ports_with_metrics_and_no_others():
    values = {"vllm": {"host": "0.0.0.0"}, "metrics": {"podMonitor": {"enabled": True, "vllm": True}}}
    _, rule = run_policy(**values, metricsFrom=[PEER])["ingress"]
    assert rule == {"ports": [{"port": PROGRESS_PORT}, {"port": SERVER_PORT}], "from": [PEER]}
    pod = run_pod(render(values), Step.ANNOTATE)
    assert {port["containerPort"] for port in ports_of(pod)} == {PROGRESS_PORT, SERVER_PORT}
    _, rule = run_policy(metrics={"podMonitor": {"enabled": True, "namespace": "monitoring"}})["ingress"]
    assert rule == {"ports": [{"port": PROGRESS_PORT}], "from": in_namespaces(NAMESPACE, "monitoring")}


def test_the_pods_of_runs_reach_dns_https_and_what_the_user_adds():
    dns = {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}
    assert run_policy()["egress"] == [dns, {"ports": [{"port": 443}]}]
    store = {"to": [{"podSelector": {"matchLabels": {"app": "minio"}}}], "ports": [{"port": 9000}]}
    assert run_policy(runs={"egressPorts": [443, 3128], "egress": [store]})["egress"] == [
        dns,
        {"ports": [{"port": 443}, {"port": 3128}]},
        store,
    ]
    assert run_policy(runs={"egressPorts": [], "egress": [store]})["egress"] == [dns, store]
