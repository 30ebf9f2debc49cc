"""Argo CD's view of a run: its Lua is run as Argo CD runs it, over statuses that the operator makes."""

from pathlib import Path

import pytest
import yaml
from tests.gitops.written import (
    ACTIONS,
    CUSTOMIZATION,
    GITOPS,
    ICONS,
    REQUESTED_AT,
    acted_on,
    health_message,
    script,
    written,
)
from tests.support.gitops_tools import ToolError, run_lua
from tests.support.run_states import STATES

HEALTHS = {"Healthy", "Progressing", "Degraded", "Suspended", "Missing", "Unknown"}
OBJECTS = {state.name: state.object() for state in STATES}
BY_STATE = pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)


def actions_of(obj):
    found = run_lua(script("actions", "discovery.lua"), obj)
    return {} if found == [] else found


@BY_STATE
def test_health_says_what_the_operator_says(state):
    obj = OBJECTS[state.name]
    assert run_lua(script("health.lua"), obj) == {"status": state.argocd, "message": health_message(obj)}


@BY_STATE
def test_the_actions_are_those_that_make_sense(state):
    assert actions_of(OBJECTS[state.name]) == {name: {"iconClass": ICONS[name]} for name in state.actions}


@pytest.mark.parametrize("status", [None, {}, {"conditions": []}, {"observedGeneration": 1}], ids=str)
def test_a_status_that_says_little_is_no_error(status):
    obj = {**OBJECTS["unseen"], "status": status}
    assert run_lua(script("health.lua"), obj)["status"] == "Progressing"
    assert actions_of(obj) == {"suspend": {"iconClass": ICONS["suspend"]}}


@pytest.mark.parametrize(("action", "before", "after"), [("suspend", None, True), ("resume", True, False)])
def test_suspend_and_resume_set_one_field(action, before, after):
    obj = OBJECTS["suspended" if before else "annotating"]
    changed = acted_on(action, obj)
    assert obj["spec"].get("suspend") == before
    assert changed["spec"].pop("suspend") is after
    assert changed == {**obj, "spec": {name: obj["spec"][name] for name in obj["spec"] if name != "suspend"}}


def test_retry_sets_the_annotation_and_leaves_the_spec_to_git():
    obj = {**OBJECTS["failed"], "metadata": {**OBJECTS["failed"]["metadata"], "annotations": {"a": "b"}}}
    changed = acted_on("retry", obj)
    assert changed["metadata"].pop("annotations") == {"a": "b", REQUESTED_AT: "2026-01-01T00:00:00Z"}
    assert changed["spec"] == obj["spec"]
    raw = run_lua(script("actions", "retry", "action.lua"), OBJECTS["failed"])
    assert len(raw["metadata"]["annotations"][REQUESTED_AT]) == len("2026-01-01T00:00:00Z")


def test_a_script_that_is_wrong_fails():
    with pytest.raises(ToolError, match="attempt to index"):
        run_lua("return {status = obj.nothing.there}", OBJECTS["complete"])


def test_the_files_are_what_scripts_and_statuses_make():
    files = written()
    assert len(files) > len(STATES)
    for path, text in files.items():
        assert path.read_text(encoding="utf-8") == text, "run `python -m tests.gitops.written`"
    there = set(CUSTOMIZATION.rglob("*.yaml"))
    assert there == {path for path in files if path.is_relative_to(CUSTOMIZATION)}


def test_every_test_that_argo_cd_would_run_passes():
    """Of health_test.yaml and action_test.yaml, in the way of its own util/lua tests."""
    health = yaml.safe_load((CUSTOMIZATION / "health_test.yaml").read_text(encoding="utf-8"))["tests"]
    assert {test["healthStatus"]["status"] for test in health} == HEALTHS - {"Missing", "Unknown"}
    for test in health:
        assert run_lua(script("health.lua"), _read(CUSTOMIZATION, test["inputPath"])) == test["healthStatus"]
    folder = CUSTOMIZATION / "actions"
    actions = yaml.safe_load((folder / "action_test.yaml").read_text(encoding="utf-8"))
    assert {Path(test["inputPath"]).stem for test in actions["discoveryTests"]} == OBJECTS.keys()
    for test in actions["discoveryTests"]:
        found = actions_of(_read(folder, test["inputPath"]))
        assert {tuple({"name": name, **more}.items()) for name, more in found.items()} == {
            tuple(one.items()) for one in test["result"]
        }
    assert {test["action"] for test in actions["actionTests"]} == set(ACTIONS)
    for test in actions["actionTests"]:
        expected = _read(folder, test["expectedOutputPath"])
        assert acted_on(test["action"], _read(folder, test["inputPath"])) == expected


def test_the_config_map_holds_the_scripts():
    data = yaml.safe_load((GITOPS / "argocd/argocd-cm.yaml").read_text(encoding="utf-8"))["data"]
    assert data["resource.customizations.health.annotationrun.dev_AnnotationRun"] == script("health.lua")
    actions = yaml.safe_load(data["resource.customizations.actions.annotationrun.dev_AnnotationRun"])
    assert actions["discovery.lua"] == script("actions", "discovery.lua")
    assert {one["name"]: one["action.lua"] for one in actions["definitions"]} == {
        name: script("actions", name, "action.lua") for name in ACTIONS
    }


def _read(folder, path):
    return yaml.safe_load((folder / path).read_text(encoding="utf-8"))
