"""The files of crds/gitops that are made from others: ``python -m tests.gitops.written`` writes them.

Argo CD's own tests of resource_customizations have this layout, so the folder fits into its repository:
https://argo-cd.readthedocs.io/en/stable/operator-manual/health/#way-2-contribute-a-custom-health-check
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from tests.support.gitops_tools import run_lua
from tests.support.run_states import STATES

GITOPS: Final = Path(__file__).parents[2] / "crds" / "gitops"
CUSTOMIZATION: Final = GITOPS / "argocd/resource_customizations/annotationrun.dev/AnnotationRun"
ACTIONS: Final = ("suspend", "resume", "retry")
ICONS: Final = {"suspend": "fa fa-fw fa-pause", "resume": "fa fa-fw fa-play", "retry": "fa fa-fw fa-redo"}
REQUESTED_AT: Final = "annotationrun.dev/requested-at"
SOME_TIME: Final = "2026-01-01T00:00:00Z"
"""In place of the time at which an action runs."""
_KEY: Final = "resource.customizations.{}.annotationrun.dev_AnnotationRun"
_SHOWN: Final = ("observedGeneration", "conditions", "episodes", "progress", "published")
_ACTED_ON: Final = {"suspend": "annotating", "resume": "suspended", "retry": "failed"}
_HEAD: Final = """\
# Health and actions of AnnotationRuns for Argo CD, to be patched into its ConfigMap:
#   kubectl -n argocd patch configmap argocd-cm --patch-file crds/gitops/argocd/argocd-cm.yaml
# Made of the scripts in resource_customizations.
"""


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def as_yaml(value: object, *, sort_keys: bool = False) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=sort_keys, width=110, allow_unicode=True)


def _object_yaml(obj: Mapping[str, Any]) -> str:
    """Without what only the operator reads of a status, which often changes."""
    status = {name: obj["status"][name] for name in _SHOWN if name in obj["status"]}
    return as_yaml({**obj, "status": status}, sort_keys=True)


def script(*parts: str) -> str:
    """One of the Lua scripts."""
    return CUSTOMIZATION.joinpath(*parts).read_text(encoding="utf-8")


def acted_on(action: str, obj: Mapping[str, Any]) -> dict[str, Any]:
    """What becomes of an object: as Argo CD takes it, where a mapping that is empty stays one."""
    changed = _restored(run_lua(script("actions", action, "action.lua"), obj), obj)
    annotations = changed["metadata"].get("annotations", {})
    if REQUESTED_AT in annotations:
        annotations[REQUESTED_AT] = SOME_TIME
    return changed


def _restored(new: Any, old: Any) -> Any:
    """Lua has one kind of table: ``cleanReturnedObj`` of Argo CD mends those that were empty mappings."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return {name: _restored(value, old.get(name)) for name, value in new.items()}
    if isinstance(old, Mapping) and new == []:
        return dict(old)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [_restored(*pair) for pair in zip(new, old, strict=True)]
    return new


def written() -> dict[Path, str]:
    """The files and what they hold."""
    objects = {state.name: state.object() for state in STATES}
    files = {CUSTOMIZATION / f"testdata/{name}.yaml": _object_yaml(obj) for name, obj in objects.items()}
    tests = [
        {
            "healthStatus": {"status": state.argocd, "message": health_message(objects[state.name])},
            "inputPath": f"testdata/{state.name}.yaml",
        }
        for state in STATES
    ]
    files[CUSTOMIZATION / "health_test.yaml"] = as_yaml({"tests": tests})
    outputs = {action: acted_on(action, objects[name]) for action, name in _ACTED_ON.items()}
    for action, obj in outputs.items():
        files[CUSTOMIZATION / f"actions/testdata/{action}-output.yaml"] = _object_yaml(obj)
    files[CUSTOMIZATION / "actions/action_test.yaml"] = as_yaml(_action_tests())
    files[GITOPS / "argocd/argocd-cm.yaml"] = _HEAD + as_yaml(_config_map())
    return files


def health_message(obj: Mapping[str, Any]) -> str:
    """What the operator says of the run."""
    status = obj["status"]
    if status["observedGeneration"] != obj["metadata"]["generation"]:
        return "The operator has not seen this generation of the run yet"
    (ready,) = [found for found in status["conditions"] if found["type"] == "Ready"]
    return f"{ready['reason']}: {ready['message']}"


def _action_tests() -> dict[str, Any]:
    discovery = [
        {
            "inputPath": f"../testdata/{state.name}.yaml",
            "result": [{"name": action, "iconClass": ICONS[action]} for action in state.actions],
        }
        for state in STATES
    ]
    actions = [
        {
            "action": action,
            "inputPath": f"../testdata/{name}.yaml",
            "expectedOutputPath": f"testdata/{action}-output.yaml",
        }
        for action, name in _ACTED_ON.items()
    ]
    return {"discoveryTests": discovery, "actionTests": actions}


def _config_map() -> dict[str, Any]:
    actions = {
        "discovery.lua": script("actions", "discovery.lua"),
        "definitions": [
            {"name": action, "action.lua": script("actions", action, "action.lua")} for action in ACTIONS
        ],
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "argocd-cm", "namespace": "argocd"},
        "data": {
            _KEY.format("health"): script("health.lua"),
            _KEY.format("actions"): as_yaml(actions),
        },
    }


def main() -> None:
    """Write them."""
    for path, text in written().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
