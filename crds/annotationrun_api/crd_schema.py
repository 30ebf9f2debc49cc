"""The CustomResourceDefinition, made from the models: ``python -m annotationrun_api.crd_schema`` prints it.

``crds/annotationruns.yaml`` is this text; a test holds the two together.
"""

import sys
from typing import Any

import yaml

from annotationrun_api.conditions import ConditionType
from annotationrun_api.labels import GROUP, PLURAL, VERSION
from annotationrun_api.spec import KIND, Metadata, RunSpec
from annotationrun_api.spec_fields import field_types
from annotationrun_api.status import UNOBSERVED_GENERATION, RunStatus
from annotationrun_api.structural_schema import Schema, object_schema, value_schema

_HEADER = "# Generated from the models in annotationrun_api by `make crds`; edit those.\n"


def _of_ready(field: str) -> str:
    return f'.status.conditions[?(@.type=="{ConditionType.READY}")].{field}'


_COLUMNS = (
    ("State", "string", _of_ready("reason"), "What the run does, or why it does nothing.", 0),
    ("Progress", "string", ".status.progress.text", "Share of the work that is done, and episodes.", 0),
    ("ETA", "string", ".status.progress.eta", "Time to go.", 0),
    ("Failed", "integer", ".status.episodes.failed", "Episodes that were given up.", 0),
    ("Queue", "string", ".spec.queueName", "Kueue LocalQueue.", 0),
    ("Age", "date", ".metadata.creationTimestamp", "Time since the run was created.", 0),
    ("Message", "string", _of_ready("message"), "What happened, and what to do.", 1),
)


def crd() -> dict[str, Any]:
    """The CustomResourceDefinition as JSON values."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["arun"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(*column) for column in _COLUMNS],
                    "schema": {"openAPIV3Schema": _root_schema()},
                }
            ],
        },
    }


def crd_yaml() -> str:
    """The CustomResourceDefinition as YAML, the same text for the same models."""
    return _HEADER + yaml.dump(crd(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _column(name: str, kind: str, json_path: str, description: str, priority: int) -> Schema:
    column = {"name": name, "type": kind, "jsonPath": json_path, "description": description}
    return column | {"priority": priority} if priority else column


def _root_schema() -> Schema:
    # What may be said of metadata in a schema is the form of the name, nothing else.
    name = value_schema(field_types(Metadata)["name"])
    # The API server shows this default until a status is written, so that tools that wait do not take a run
    # that no operator has seen yet for one that is done.
    status: Schema = {"description": "status: what the operator knows about the run."}
    status |= object_schema(RunStatus, with_defaults=False)
    status["default"] = {"observedGeneration": UNOBSERVED_GENERATION}
    return {
        "description": f"{KIND}: language annotations for a LeRobot dataset by a vision-language model.",
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", "properties": {"name": name}},
            "spec": {"description": "spec: what is annotated, and how."}
            | object_schema(RunSpec, with_defaults=True),
            "status": status,
        },
    }


class _Dumper(yaml.SafeDumper):
    """Writes values out where they repeat: aliases are for machines."""

    def ignore_aliases(self, data: object) -> bool:
        return True


if __name__ == "__main__":
    sys.stdout.write(crd_yaml())
