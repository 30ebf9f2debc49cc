"""What GitOps tools make of objects: the Lua of Argo CD, the CEL of Flux, kstatus; by their own libraries."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

_SCRIPT = Path(__file__).parents[1] / "gitops" / "program.sh"
Task = Mapping[str, Any]


class ToolError(RuntimeError):
    """A script or an expression failed."""


@cache
def _program() -> str:
    done = subprocess.run([str(_SCRIPT)], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def run_tasks(tasks: Sequence[Task]) -> list[Any]:
    """The value of each.

    Raises:
        ToolError: one of them failed.
    """
    done = subprocess.run(
        [_program()], input=json.dumps(tasks), capture_output=True, text=True, check=True, timeout=60
    )
    answers = json.loads(done.stdout)
    errors = [answer["error"] for answer in answers if "error" in answer]
    if errors:
        raise ToolError("\n".join(errors))
    return [answer["value"] for answer in answers]


def run_lua(script: str, obj: Mapping[str, Any]) -> Any:
    """What Argo CD's Lua returns for an object."""
    return run_tasks([{"program": "lua", "script": script, "object": obj}])[0]


def kstatus(obj: Mapping[str, Any]) -> str:
    """Such as ``InProgress``."""
    return str(run_tasks([{"program": "kstatus", "object": obj}])[0]["status"])


def flux_status(expressions: Mapping[str, str], obj: Mapping[str, Any]) -> str:
    """By the expressions of a Kustomization."""
    return str(run_tasks([{"program": "flux", "expressions": expressions, "object": obj}])[0])
