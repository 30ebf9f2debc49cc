"""What each step is made from: digests that say which steps an edit of the spec asks for again."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from annotationrun_api.labels import REQUESTED_AT_ANNOTATION
from annotationrun_api.spec import AnnotationRun, RunSpec

_HELD = {"suspend", "ttlSecondsAfterFinished"}
"""Fields that change nothing of what a run does, only when."""
_PLANNED = (
    "source",
    "model",
    "modules",
    "prompts",
    "seed",
    "outputLanguage",
    "frames",
    "staging",
    "retryToken",
)
"""Fields that results depend on, or where they lie."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Digests of parts of a spec, each SHA-256 in hexadecimal."""

    plan: str
    """Of what results depend on: another value stops what is going on, and plans anew."""
    merge: str
    """Of what the merge depends on besides the results."""
    run: str
    """Of all but suspend, TTL and follow: a run that failed is tried again when it changes."""


def digest_of(value: object) -> str:
    """SHA-256 over the JSON of ``value``, keys in order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_inputs(manifest: AnnotationRun, annotations: Mapping[str, str]) -> Inputs:
    """The digests of a run's spec; `requested-at` counts as `retryToken` does."""
    spec: dict[str, Any] = manifest.spec.model_dump(mode="json", by_alias=True)
    del spec["source"]["follow"]  # it says when to look, not what to do
    requested_at = annotations.get(REQUESTED_AT_ANNOTATION, "")
    output, policy = spec["output"], spec["failurePolicy"]
    planned = {name: spec[name] for name in _PLANNED}
    planned["source"] = _without(spec["source"], "tokenSecretRef", "cacheBytes")
    # not where it is served, but whether the revision is looked up
    planned["model"] = _without(spec["model"], "serving") | {"mode": manifest.spec.model.serving.mode}
    planned["frames"] = _without(spec["frames"], "cacheBytes")
    planned["staging"] = _without(spec["staging"], "credentialsSecretRef")
    asked = {
        "existingRows": output["existingRows"],
        "maxHolesPercent": policy["maxHolesPercent"],
        "requestedAt": requested_at,
    }
    return Inputs(
        plan=digest_of(planned | asked),
        merge=digest_of([_without(output, "tokenSecretRef"), policy["maxFailedEpisodes"]]),
        run=digest_of([_without(spec, *_HELD), requested_at]),
    )


def fetched_from(spec: RunSpec, model_commit: str) -> list[str] | None:
    """What a prefetch Job is made from; None where the model needs none.

    That is where others serve it, where no claim keeps it, and where its name is that of a folder.

    Args:
        spec: of the run.
        model_commit: of the model, as it was planned; empty: the revision stands for itself.
    """
    model, cache = spec.model, spec.model.serving.mounted_cache
    if cache is None or not model.is_fetched:
        return None
    return [model.id, model_commit or model.revision, cache.claim_name, cache.sub_path or ""]


def _without(value: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: inner for name, inner in value.items() if name not in names}
