"""What Flux and every tool that waits by kstatus make of a run."""

import pytest
import yaml
from tests.gitops.written import GITOPS
from tests.support.gitops_tools import flux_status, kstatus
from tests.support.run_states import STATES

BY_STATE = pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)


def expressions():
    """Those of the example."""
    text = (GITOPS / "flux/kustomization.yaml").read_text(encoding="utf-8")
    (kustomization,) = [one for one in yaml.safe_load_all(text) if one["kind"] == "Kustomization"]
    (found,) = kustomization["spec"]["healthCheckExprs"]
    assert (found.pop("apiVersion"), found.pop("kind")) == ("annotationrun.dev/v1alpha1", "AnnotationRun")
    return found


@BY_STATE
def test_kstatus(state):
    """https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md"""
    assert kstatus(state.object()) == state.kstatus


@BY_STATE
def test_the_health_expressions_of_the_example(state):
    assert flux_status(expressions(), state.object()) == state.flux


def test_a_run_that_is_being_deleted_is_terminating():
    obj = STATES[0].object()
    obj["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert kstatus(obj) == "Terminating"


def test_all_three_tools_agree_but_on_a_run_that_is_held():
    """kstatus knows no state for that: it goes on waiting."""
    meanings = {"Progressing": "InProgress", "Healthy": "Current", "Degraded": "Failed"}
    for state in STATES:
        if state.name == "suspended":
            assert (state.argocd, state.flux, state.kstatus) == ("Suspended", "Current", "InProgress")
        else:
            assert meanings[state.argocd] == state.flux == state.kstatus
