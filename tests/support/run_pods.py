"""The Jobs and pods of a run, as the operator makes them with the settings that the chart gives it."""

import re

from tests.support.helm import Manifest, the
from tests.support.run_world import MANIFEST, PLAN, RunWorld

from annotationrun_api.labels import Step
from annotationrun_api.manifest import parse_object
from annotationrun_operator.manifests.jobs import JobPlan, make_job
from annotationrun_operator.settings import read_job_settings

_REFERENCE = re.compile(r"\$\$|\$\(\w+\)")
"""https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/"""


def operator_environment(manifests: list[Manifest]) -> dict[str, str]:
    """The variables of the operator's container, as the kubelet sets them."""
    (container,) = the("Deployment", manifests)["spec"]["template"]["spec"]["containers"]
    return {variable["name"]: _REFERENCE.sub(_expanded, variable["value"]) for variable in container["env"]}


def _expanded(reference: re.Match[str]) -> str:
    return "$" if reference[0] == "$$" else "a variable of the operator's"


def run_job(manifests: list[Manifest], step: Step) -> Manifest:
    """The Job of a step."""
    plan = JobPlan(step, 1, "run-step-12345678", PLAN, 1)
    settings = read_job_settings(operator_environment(manifests))
    return make_job(RunWorld().observe().run, parse_object(MANIFEST, "run"), plan, settings)


def run_pod(manifests: list[Manifest], step: Step) -> Manifest:
    """The pod template of a step."""
    return run_job(manifests, step)["spec"]["template"]


def containers_of(pod: Manifest) -> list[Manifest]:
    """All of them, the sidecar too."""
    return [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]


def ports_of(pod: Manifest) -> list[Manifest]:
    """Of all its containers."""
    return [port for container in containers_of(pod) for port in container.get("ports", [])]
