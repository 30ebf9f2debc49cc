"""What Prometheus and Grafana are given: it finds the pods, and names metrics that the code exports."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from tests.support.helm import CHART, NAMESPACE, render, the
from tests.support.run_pods import ports_of, run_pod
from tests.support.run_world import SETTINGS, START

from annotationrun_api.conditions import ConditionType, condition
from annotationrun_api.labels import RUN_NAME_LABEL, RUN_UID_LABEL, Step
from annotationrun_api.reasons import Reason
from annotationrun_api.status import Progress, RunStatus
from annotationrun_api.step_results import PROGRESS_PORT
from annotationrun_operator.__main__ import make_parts
from annotationrun_operator.manifests.sidecar import SERVER_PORT
from annotationrun_operator.observation import RunKey
from annotationrun_operator.settings import OperatorSettings
from annotationrun_operator.telemetry.metrics import Metrics
from annotationrun_worker.pipeline.progress import Account, WorkerMetrics
from annotationrun_worker.pipeline.report import AnnotateReport
from annotationrun_worker.video.protocol import FrameCounts

VLLM_METRICS = {
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:prefix_cache_hits_total",
    "vllm:prefix_cache_queries_total",
}
"""Those that are used of https://docs.vllm.ai/en/stable/usage/metrics/"""
TARGET_LABELS = {"run_namespace", "run", "pod"}
"""Of each series of a pod: the PodMonitor's, and the Prometheus operator's."""
FUNCTIONS_WITH_LABELS = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)")
WORDS = {"and", "or", "unless", "bool", "offset"}
EVERYTHING = {
    "vllm": {"host": "0.0.0.0"},
    "metrics": {
        "serviceMonitor": {"enabled": True},
        "podMonitor": {"enabled": True, "vllm": True},
        "prometheusRule": {"enabled": True},
        "dashboard": {"enabled": True},
    },
}


def labels_by_name(families: Iterable[Metric]) -> dict[str, set[str]]:
    """The labels of each series; of a metric without series, none."""
    found: dict[str, set[str]] = {}
    for family in families:
        found.setdefault(family.name, set())
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def operator_metrics() -> dict[str, set[str]]:
    """What the operator exports once it has seen something of everything."""
    metrics = Metrics()
    make_parts(None, None, metrics, OperatorSettings(), SETTINGS)
    metrics.count_request("create", "jobs", 201)
    metrics.count_reconcile(0.1, ValueError())
    ready = condition(ConditionType.READY, False, Reason.ANNOTATING, generation=1, now=START)
    status = RunStatus(conditions=(ready,), progress=Progress(estimated_completion_time=START))
    metrics.show_run(RunKey("robots", "blocks"), status, START)
    return labels_by_name(text_string_to_metric_families(metrics.text().decode()))


def worker_metrics() -> dict[str, set[str]]:
    """What a worker exports, with the labels that Prometheus adds."""
    report = AnnotateReport()
    report.unanswered_made["vqa"] += 1
    families = WorkerMetrics(Account("worker"), report, FrameCounts).collect()
    return {name: labels | TARGET_LABELS for name, labels in labels_by_name(families).items()}


@pytest.fixture(scope="module")
def exported():
    servers = {name: {"model_name", *TARGET_LABELS} for name in VLLM_METRICS}
    return operator_metrics() | worker_metrics() | servers


def dashboard():
    return json.loads(the("ConfigMap", render(EVERYTHING))["data"]["annotationrun.json"])


def numbered(names: Iterable[str]) -> list[tuple[str, int]]:
    """Each name, and how many of the same came before it."""
    seen = Counter[str]()
    found = []
    for name in names:
        found.append((name, seen[name]))
        seen[name] += 1
    return found


def written_places() -> list[tuple[str, int]]:
    """Where the chart's files have a PromQL expression; helm is not asked while tests are collected."""
    rules = (CHART / "templates" / "prometheusrule.yaml").read_text(encoding="utf-8")
    board = json.loads((CHART / "files" / "dashboard.json").read_text(encoding="utf-8"))
    return numbered([*re.findall(r"- alert: (\w+)", rules), *(name for name, _ in queries_of(board))])


def queries_of(board: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each PromQL expression of a dashboard, with its panel or variable."""
    return [
        *(
            (panel["title"], target["expr"])
            for panel in board["panels"]
            for target in panel.get("targets", [])
        ),
        *(
            (
                variable["name"],
                re.sub(r"^label_values\((.*), (\w+)\)$", r"\1 by (\2)", variable["definition"]),
            )
            for variable in board["templating"]["list"]
            if variable["type"] == "query"
        ),
    ]


@pytest.fixture(scope="module")
def queries() -> dict[tuple[str, int], str]:
    """Each PromQL expression that the chart brings, by its place."""
    (group,) = the("PrometheusRule", render(EVERYTHING))["spec"]["groups"]
    found = [*((rule["alert"], rule["expr"]) for rule in group["rules"]), *queries_of(dashboard())]
    return dict(
        zip(numbered(name for name, _ in found), (expression for _, expression in found), strict=True)
    )


def names_in(expression: str) -> tuple[set[str], set[str]]:
    """The metrics and the labels that a PromQL expression names."""
    rest = re.sub(r'"[^"]*"', '""', expression)
    labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", " ".join(re.findall(r"\{([^}]*)\}", rest))))
    labels |= {label for found in FUNCTIONS_WITH_LABELS.findall(rest) for label in re.findall(r"\w+", found)}
    rest = re.sub(r"\{[^}]*\}|\[[^]]*\]", " ", FUNCTIONS_WITH_LABELS.sub(" ", rest))
    metrics = set(re.findall(r"[a-zA-Z_:][\w:]*\b(?!\s*\()", rest)) - WORDS
    return metrics, labels


def test_names_are_found_in_an_expression():
    expression = (
        'sum by (run, pod) (rate(a:b_total{run=~"x{y", state!="c"}[$__rate_interval]) > 0) and on (z) d'
    )
    assert names_in(expression) == ({"a:b_total", "d"}, {"run", "pod", "state", "z"})


def test_every_query_of_the_chart_has_a_test(queries):
    assert list(queries) == written_places()


@pytest.mark.parametrize("place", [pytest.param(place, id=place[0]) for place in written_places()])
def test_a_query_names_metrics_and_labels_that_are_exported(exported, queries, place):
    metrics, labels = names_in(queries[place])
    assert metrics
    assert metrics <= exported.keys()
    assert labels <= set().union(*(exported[name] for name in metrics)), place


def test_every_metric_of_a_worker_is_shown(exported, queries):
    shown = set().union(*(names_in(expression)[0] for expression in queries.values()))
    families = {name for name in exported if re.fullmatch(r"annotationrun_worker_\w+_total", name)}
    assert families
    assert families <= shown


def test_the_dashboards_panels_lie_side_by_side_and_have_ids_of_their_own():
    panels = dashboard()["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids) > 20
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_grafanas_sidecar_finds_the_dashboard():
    found = the("ConfigMap", render(EVERYTHING))
    assert found["metadata"]["namespace"] == NAMESPACE
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    given = {
        "enabled": True,
        "namespace": "monitoring",
        "labels": {"grafana_dashboard": None, "dashboards": "yes"},
        "annotations": {"grafana_folder": "Robots"},
    }
    found = the("ConfigMap", render({"metrics": {"dashboard": given}}))
    assert found["metadata"]["namespace"] == "monitoring"
    assert found["metadata"]["labels"]["dashboards"] == "yes"
    assert "grafana_dashboard" not in found["metadata"]["labels"]
    assert found["metadata"]["annotations"] == {"grafana_folder": "Robots"}


def test_the_service_monitor_finds_the_service():
    values = {"metrics": {"serviceMonitor": {"enabled": True, "additionalLabels": {"release": "prometheus"}}}}
    manifests = render(values)
    monitor, service = the("ServiceMonitor", manifests), the("Service", manifests)
    assert monitor["spec"]["selector"]["matchLabels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["namespaceSelector"]["matchNames"] == [service["metadata"]["namespace"]]
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_the_pod_monitor_finds_the_pods_of_runs_and_gives_them_the_labels_of_the_operators_metrics():
    manifests = render(EVERYTHING)
    monitor, pod = the("PodMonitor", manifests)["spec"], run_pod(manifests, Step.ANNOTATE)
    assert monitor["selector"]["matchExpressions"] == [{"key": RUN_UID_LABEL, "operator": "Exists"}]
    assert RUN_UID_LABEL in pod["metadata"]["labels"]
    ports = {port["name"]: port["containerPort"] for port in ports_of(pod)}
    assert [ports[endpoint["port"]] for endpoint in monitor["podMetricsEndpoints"]] == [
        PROGRESS_PORT,
        SERVER_PORT,
    ]
    run_label = "__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", RUN_NAME_LABEL)
    for endpoint in monitor["podMetricsEndpoints"]:
        assert endpoint["path"] == "/metrics"
        assert endpoint["relabelings"] == [
            {"sourceLabels": ["__meta_kubernetes_namespace"], "targetLabel": "run_namespace"},
            {"sourceLabels": [run_label], "targetLabel": "run"},
        ]


@pytest.mark.parametrize("step", [Step.PLAN, Step.MERGE])
def test_the_pod_monitor_leaves_pods_without_metrics_alone(step):
    assert ports_of(run_pod(render(EVERYTHING), step)) == []


@pytest.mark.parametrize(
    ("namespaces", "selector"),
    [
        pytest.param([], {"any": True}, id="all namespaces"),
        pytest.param(["team-a"], {"matchNames": ["team-a"]}, id="those that are served"),
    ],
)
def test_the_pod_monitor_looks_where_the_operator_looks(namespaces, selector):
    values = {
        "watchNamespaces": namespaces,
        "metrics": {"podMonitor": {"enabled": True, "interval": "7s", "additionalLabels": {"release": "p"}}},
    }
    monitor = the("PodMonitor", render(values))
    assert monitor["metadata"]["labels"]["release"] == "p"
    assert monitor["spec"]["namespaceSelector"] == selector
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["interval"]) == ("progress", "7s")
