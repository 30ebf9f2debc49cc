"""The chart, rendered by helm itself."""

import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

BUILD = Path(__file__).with_name("helm.sh")
CHART = Path(__file__).parents[2] / "helm" / "annotationrun"
RELEASE, NAMESPACE = "labels", "annotation-system"

Values = Mapping[str, Any]
Manifest = dict[str, Any]


class HelmError(Exception):
    """helm refused; the text is what it said."""


class _StrictLoader(yaml.SafeLoader):
    """A key that stands twice is an error, as it is for the API server's strict field validation."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(keys) != len(set(keys)):
            raise yaml.constructor.ConstructorError(None, None, f"a key twice in {keys}", node.start_mark)
        return super().construct_mapping(node, deep)


@cache
def helm_program() -> Path:
    """The program; it is built first if it is missing."""
    built = subprocess.run([BUILD], stdout=subprocess.PIPE, text=True, check=True)
    return Path(built.stdout.strip())


def helm(*arguments: str | Path, values: Values | None = None) -> str:
    """Run helm with `values` over the chart's own; what it printed.

    Raises:
        HelmError: it failed.
    """
    given = yaml.safe_dump(dict(values or {}))
    command = [helm_program(), *arguments, "--values", "-"]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise HelmError(done.stdout + done.stderr)
    return done.stdout


def render(values: Values | None = None) -> list[Manifest]:
    """The objects that `helm install` with `values` would apply."""
    text = helm("template", RELEASE, CHART, "--namespace", NAMESPACE, values=values)
    return [found for found in yaml.load_all(text, _StrictLoader) if found is not None]


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def the(kind: str, manifests: list[Manifest]) -> Manifest:
    """The only object of a kind."""
    (found,) = of_kind(manifests, kind)
    return found
