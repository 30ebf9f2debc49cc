"""The chart's values and text, as far as they can be read without helm, which has a suite of its own."""

import json
import re
from dataclasses import fields
from pathlib import Path

import yaml
from pydantic.alias_generators import to_camel

from annotationrun_api.step_results import PROGRESS_PORT
from annotationrun_operator.manifests.installation import Allowed
from annotationrun_operator.manifests.sidecar import SERVER_PORT
from annotationrun_operator.settings import read_job_settings

CHART = Path(__file__).parents[2] / "helm" / "annotationrun"
README = (CHART / "README.md").read_text(encoding="utf-8")
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
IMAGES = {"ANNOTATIONRUN_WORKER_IMAGE": "worker:1", "ANNOTATIONRUN_VLLM_IMAGE": "vllm:1"}


def test_the_charts_resources_are_those_of_an_operator_that_is_told_none():
    told = read_job_settings(
        {**IMAGES, "ANNOTATIONRUN_JOB_DEFAULTS": json.dumps(VALUES["jobs"]["resources"])}
    )
    assert told == read_job_settings(IMAGES)


def test_each_container_but_the_model_server_has_a_limit_of_memory():
    limits = {name: found["limits"] for name, found in VALUES["jobs"]["resources"].items()}
    assert [name for name, found in limits.items() if "memory" not in found] == ["sidecar"]
    assert "memory" in VALUES["resources"]["limits"], "of the operator"


def test_runs_may_choose_everything_by_default():
    settings = read_job_settings({**IMAGES, "ANNOTATIONRUN_ALLOWED": json.dumps(VALUES["allowed"])})
    assert settings.allowed == Allowed()
    assert set(VALUES["allowed"]) == {to_camel(field.name) for field in fields(Allowed)}


def test_the_readme_says_what_it_means_to_create_a_run():
    section = README.partition("### What it means to create a run")[2].partition("\n## ")[0]
    said = " ".join(section.split())
    assert "any image with any service account, Secret and claim of that namespace" in said
    assert "Secrets and claims are not narrowed" in said
    roles = (CHART / "templates" / "user-roles.yaml").read_text(encoding="utf-8")
    assert "amounts to running any image with any service account, Secret and claim" in " ".join(
        roles.split()
    )


def test_policies_of_the_network_are_on_and_leave_open_what_goes_out():
    policies = VALUES["networkPolicy"]
    assert (policies["enabled"], policies["runs"]["enabled"]) == (True, True)
    assert (policies["restrictEgress"], policies["runs"]["restrictEgress"]) == (False, False)
    assert policies["metricsFrom"] == [], "the release's namespace, and that of the monitor"


def test_policies_name_the_ports_that_the_code_listens_on():
    text = (CHART / "templates" / "networkpolicy.yaml").read_text(encoding="utf-8")
    assert set(map(int, re.findall(r"- port: (\d+)", text))) == {PROGRESS_PORT, SERVER_PORT}
    assert re.findall(r"- port: ([a-z]+)", text) == ["metrics"], "and nobody comes in at that of health"
