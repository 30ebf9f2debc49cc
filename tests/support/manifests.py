"""Manifests for tests: a short valid one, and edits of it."""

from pathlib import Path

from annotationrun_api.manifest import parse_manifest
from annotationrun_api.spec import AnnotationRun

CANONICAL = Path(__file__).parents[1] / "data" / "manifest.yaml"
"""Every field with its default; not supported as a whole by the local runner."""

LOCAL_MANIFEST = """\
apiVersion: annotationrun.dev/v1alpha1
kind: AnnotationRun
metadata: {name: blocks}
spec:
  source:
    path: /data/blocks
  output:
    path: /data/blocks-annotated
  model:
    id: demo-vlm
    serving:
      mode: External
      endpoints: [http://127.0.0.1:8000/v1]
  modules:
    plan: {emitMemory: false, deriveTask: Never, taskRephrasings: 0}
    vqa: {}
"""
"""Supported as a whole by the local runner; tests count on its lines."""


def edited(old: str, new: str, text: str = LOCAL_MANIFEST) -> str:
    """The manifest with one place replaced; the place must be there exactly once."""
    if text.count(old) != 1:
        raise ValueError(f"{old!r} is {text.count(old)} times in the manifest, expected once")
    return text.replace(old, new)


def local_run(old: str = "", new: str = "") -> AnnotationRun:
    """The short manifest as a value, with one place replaced."""
    return parse_manifest(edited(old, new) if old else LOCAL_MANIFEST, "local.yaml")
