"""The alerts, by promtool itself: what each fires at, and what it does not fire at."""

import json
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
from tests.support.helm import render, the

VALUES = {
    "vllm": {"host": "0.0.0.0"},
    "metrics": {
        "prometheusRule": {"enabled": True, "runbookUrl": "https://example.com/runbook"},
        "podMonitor": {"enabled": True, "vllm": True},
    },
}
RUN = 'run_namespace="robots",run="blocks"'
POD = f'{RUN},pod="blocks-0"'
ANNOTATING = {f'annotationrun_run_state{{{RUN},state="Annotating"}}': "1x60"}
MOVED_AT_0 = {f"annotationrun_run_last_progress_timestamp_seconds{{{RUN}}}": "0x60"}
ANSWERED = f'annotationrun_worker_requests_total{{{POD},outcome="answered"}}'
RUNNING = f"vllm:num_requests_running{{{POD}}}"
OPERATOR = {
    "annotationrun_queue_length": "0x60",
    "annotationrun_watch_behind_seconds": "0x60",
    "annotationrun_list_age_seconds": "0 10 20x60",
}

NO_PROGRESS = f'ALERTS{{alertname="AnnotationRunNoProgress",alertstate="firing",{RUN},severity="warning"}}'
STALLED = (
    f'ALERTS{{alertname="AnnotationRunStalled",alertstate="firing",{RUN},'
    'state="VolumeNotFound",severity="warning"}'
)
IDLE = f'ALERTS{{alertname="AnnotationRunSidecarIdle",alertstate="firing",{POD},severity="warning"}}'
WATCH = 'ALERTS{alertname="AnnotationRunWatchDead",alertstate="firing",severity="critical"}'
DOWN = 'ALERTS{alertname="AnnotationRunOperatorDown",alertstate="firing",severity="critical"}'

CASES = [
    pytest.param({}, "30m", [], id="nothing but an operator"),
    pytest.param(
        ANNOTATING | MOVED_AT_0, "15m", [], id="no progress for a quarter of an hour, just not over"
    ),
    pytest.param(ANNOTATING | MOVED_AT_0, "16m", [NO_PROGRESS], id="no progress for longer"),
    pytest.param(
        ANNOTATING | {f"annotationrun_run_last_progress_timestamp_seconds{{{RUN}}}": "0x20 1260x40"},
        "30m",
        [],
        id="progress a while ago",
    ),
    pytest.param(
        {f'annotationrun_run_state{{{RUN},state="Merging"}}': "1x60"} | MOVED_AT_0,
        "30m",
        [],
        id="a merge that takes long",
    ),
    pytest.param(
        ANNOTATING | MOVED_AT_0 | {ANSWERED: "0+1x60"},
        "30m",
        [],
        id="a long episode whose requests are answered",
    ),
    pytest.param(
        ANNOTATING | MOVED_AT_0 | {ANSWERED: "7x60", RUNNING: "3x60"},
        "30m",
        [NO_PROGRESS],
        id="requests that are not answered",
    ),
    pytest.param(
        ANNOTATING | MOVED_AT_0 | {ANSWERED.replace("blocks", "cubes"): "0+1x60"},
        "30m",
        [NO_PROGRESS],
        id="another run's requests are answered",
    ),
    pytest.param(
        {
            f'annotationrun_run_state{{{RUN},state="VolumeNotFound"}}': "1x60",
            f"annotationrun_run_stalled{{{RUN}}}": "0x4 1x60",
        },
        "9m",
        [],
        id="stalled a moment ago",
    ),
    pytest.param(
        {
            f'annotationrun_run_state{{{RUN},state="VolumeNotFound"}}': "1x60",
            f"annotationrun_run_stalled{{{RUN}}}": "0x4 1x60",
        },
        "10m",
        [STALLED],
        id="stalled for a while",
    ),
    pytest.param({RUNNING: "0x60", ANSWERED: "0+1x60"}, "9m", [], id="a server idle for minutes"),
    pytest.param({RUNNING: "0x60", ANSWERED: "0+1x60"}, "10m", [IDLE], id="a server idle for long"),
    pytest.param({RUNNING: "0x8 2 0x60", ANSWERED: "0x60"}, "15m", [], id="a server that was asked between"),
    pytest.param({RUNNING: "0x60"}, "30m", [], id="a server without a worker"),
    pytest.param({'vllm:num_requests_running{pod="other"}': "0x60"}, "30m", [], id="a server of others"),
    pytest.param({"annotationrun_watch_behind_seconds": "30x60"}, "30m", [], id="a watch is slow"),
    pytest.param(
        {"annotationrun_watch_behind_seconds": "0 0 61 121 _ 0x60"},
        "10m",
        [WATCH],
        id="a watch was dead, the operator is restarted",
    ),
    pytest.param(
        {"annotationrun_watch_behind_seconds": "0 0 61 121 _ 0x60"}, "40m", [], id="it goes on since"
    ),
    pytest.param({"annotationrun_list_age_seconds": "0+60x60"}, "5m", [WATCH], id="nothing can be listed"),
    pytest.param({"annotationrun_queue_length": "0x5 stale"}, "14m", [], id="the operator starts again"),
    pytest.param({"annotationrun_queue_length": "0x5 stale"}, "17m", [DOWN], id="the operator is gone"),
]


@cache
def promtool() -> Path:
    """The program; it is fetched first if it is missing."""
    script = Path(__file__).with_name("promtool.sh")
    return Path(subprocess.run([script], stdout=subprocess.PIPE, text=True, check=True).stdout.strip())


@pytest.fixture(scope="module")
def rules(tmp_path_factory):
    """The file of the rules, as the Prometheus operator writes it."""
    path = tmp_path_factory.mktemp("rules") / "rules.yaml"
    path.write_text(json.dumps(the("PrometheusRule", render(VALUES))["spec"]), encoding="utf-8")
    return path


def run_promtool(*arguments: str | Path) -> str:
    done = subprocess.run([promtool(), *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_rules(rules):
    assert "SUCCESS: 5 rules found" in run_promtool("check", "rules", rules)


@pytest.mark.parametrize(("series", "time", "alerts"), CASES)
def test_an_alert_fires_when_it_should_and_then_alone(rules, tmp_path, series, time, alerts):
    found = [{"series": name, "values": values} for name, values in (OPERATOR | series).items()]
    firing = {
        "expr": 'ALERTS{alertstate="firing"}',
        "eval_time": time,
        "exp_samples": [{"labels": labels, "value": 1} for labels in alerts],
    }
    tests = [{"interval": "1m", "input_series": found, "promql_expr_test": [firing]}]
    case = {"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": tests}
    path = tmp_path / "case.yaml"
    path.write_text(json.dumps(case), encoding="utf-8")
    run_promtool("test", "rules", path)


def test_each_alert_is_tried_and_its_text_names_labels_that_it_has(rules):
    tried = {"NoProgress": NO_PROGRESS, "Stalled": STALLED, "SidecarIdle": IDLE} | {
        "WatchDead": WATCH,
        "OperatorDown": DOWN,
    }
    (group,) = json.loads(rules.read_text(encoding="utf-8"))["groups"]
    assert {rule["alert"].removeprefix("AnnotationRun") for rule in group["rules"]} == tried.keys()
    for rule in group["rules"]:
        labels = set(re.findall(r"(\w+)=", tried[rule["alert"].removeprefix("AnnotationRun")]))
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        for text in rule["annotations"].values():
            assert set(re.findall(r"\$labels\.(\w+)", text)) <= labels
        assert rule["annotations"]["runbook_url"] == "https://example.com/runbook"


def test_the_times_can_be_set():
    given = {"noProgressSeconds": 3600, "stalledFor": "1h", "sidecarIdleFor": "2h"}
    values = VALUES | {
        "metrics": {**VALUES["metrics"], "prometheusRule": {"enabled": True, **given}},
    }
    (group,) = the("PrometheusRule", render(values))["spec"]["groups"]
    rules = {rule["alert"].removeprefix("AnnotationRun"): rule for rule in group["rules"]}
    assert "> 3600" in rules["NoProgress"]["expr"]
    assert "[3600s]" in rules["NoProgress"]["expr"]
    assert (rules["Stalled"]["for"], rules["SidecarIdle"]["for"]) == ("1h", "2h")


def test_without_the_servers_metrics_there_is_no_alert_on_them():
    manifests = render({"metrics": {"prometheusRule": {"enabled": True}}})
    (group,) = the("PrometheusRule", manifests)["spec"]["groups"]
    assert len(group["rules"]) == 4
    assert not any("vllm:" in rule["expr"] for rule in group["rules"])
