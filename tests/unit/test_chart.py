"""The chart's values and text, as far as they can be read without helm, which renders them in its own suite."""

import re
from pathlib import Path

import yaml

from annotationrun_api.step_results import PROGRESS_PORT
from annotationrun_operator.sidecar import SERVER_PORT

CHART = Path(__file__).parents[2] / "helm" / "annotationrun"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))


def test_policies_of_the_network_are_on_and_leave_open_what_goes_out():
    policies = VALUES["networkPolicy"]
    assert (policies["enabled"], policies["runs"]["enabled"]) == (True, True)
    assert (policies["restrictEgress"], policies["runs"]["restrictEgress"]) == (False, False)
    assert policies["metricsFrom"] == [], "the release's namespace, and that of the monitor"


def test_policies_name_the_ports_that_the_code_listens_on():
    text = (CHART / "templates" / "networkpolicy.yaml").read_text(encoding="utf-8")
    assert set(map(int, re.findall(r"- port: (\d+)", text))) == {PROGRESS_PORT, SERVER_PORT}
    assert re.findall(r"- port: ([a-z]+)", text) == ["metrics"], "and nobody comes in at that of health"
