"""What is wrong with a run before any Job of it: found by its manifest and the claims that it names."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Final

from annotationrun_api.errors import ManifestError
from annotationrun_api.reasons import Reason
from annotationrun_api.spec import AnnotationRun, RunSpec
from annotationrun_api.spec_source import CLUSTER_STORE_EXPECTED, FOLDER_SCHEME
from annotationrun_operator.core.outcomes import Failure
from annotationrun_operator.manifests.installation import Allowed
from annotationrun_operator.manifests.pods import claims_of, manifest_text
from annotationrun_operator.observation import ClaimView

MAX_MANIFEST_BYTES: Final = 200_000
"""The manifest is an annotation of the pods, and all annotations of an object have 256 KiB at most."""
_SHOWN_PROBLEMS = 4
_SHOWN_CHOICES = 8
_SHOWN_CHARACTERS = 120


def find_fault(manifest: AnnotationRun, claims: Mapping[str, ClaimView], allowed: Allowed) -> Failure | None:
    """The first thing that keeps a run from starting.

    Args:
        manifest: of the run; right in itself.
        claims: those of the manifest that exist, by name.
        allowed: what the installation lets it choose.
    """
    return next(chain(_refused_choices(manifest.spec, allowed), _faults(manifest, claims)), None)


def find_refused_choice(spec: RunSpec, allowed: Allowed) -> Failure | None:
    """The first thing that the installation does not let a run choose."""
    return next(_refused_choices(spec, allowed), None)


def needed_claims(spec: RunSpec) -> list[str]:
    """All claims that pods of the run mount."""
    cache = spec.model.serving.mounted_cache
    return list(dict.fromkeys([*claims_of(spec), *([cache.claim_name] if cache else [])]))


def _refused_choices(spec: RunSpec, allowed: Allowed) -> Iterator[Failure]:
    pod = spec.workers.pod
    for field, chosen, patterns in (
        ("spec.model.serving.image", spec.model.serving.image, allowed.serving_images),
        ("spec.workers.pod.serviceAccountName", pod.service_account_name, allowed.service_account_names),
        ("spec.workers.pod.priorityClassName", pod.priority_class_name, allowed.priority_class_names),
        ("spec.workers.pod.runtimeClassName", pod.runtime_class_name, allowed.runtime_class_names),
        *(("spec.workers.pod.annotations", key, allowed.annotation_keys) for key in pod.annotations),
    ):
        if chosen is not None and not any(_matches(chosen, pattern) for pattern in patterns):
            shown = ", ".join(patterns[:_SHOWN_CHOICES]) + (", ..." if patterns[_SHOWN_CHOICES:] else "")
            said = f"{field} names {chosen[:_SHOWN_CHARACTERS]!r}, allowed is {shown or 'nothing'}"
            yield Failure(Reason.NOT_ALLOWED, said)


def _matches(text: str, pattern: str) -> bool:
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


def _faults(manifest: AnnotationRun, claims: Mapping[str, ClaimView]) -> Iterator[Failure]:
    spec = manifest.spec
    for name, path, volume in (
        ("source", spec.source.path, spec.source.volume),
        ("output", spec.output.path, spec.output.volume),
    ):
        if path is not None and volume is None:
            yield Failure(
                Reason.INVALID_SPEC,
                f"spec.{name}.path names a folder, and spec.{name}.volume no claim that holds it: in a"
                f" cluster expected spec.{name}.volume.claimName",
            )
    if spec.staging.uri is None and spec.staging.volume is None:
        yield Failure(
            Reason.INVALID_SPEC,
            "spec.staging is empty: a cluster expects spec.staging.volume.claimName or spec.staging.uri",
        )
    if spec.staging.uri is not None and spec.staging.uri.startswith(FOLDER_SCHEME):
        # The CRD refuses it; a run that was stored before has it still, and each pod would have its own.
        yield Failure(Reason.INVALID_SPEC, f"spec.staging.uri: expected {CLUSTER_STORE_EXPECTED}")
    size = len(manifest_text(manifest).encode())
    if size > MAX_MANIFEST_BYTES:
        yield Failure(
            Reason.INVALID_SPEC,
            f"the manifest has {size} bytes, expected at most {MAX_MANIFEST_BYTES}: shorten spec.prompts",
        )
    for name in needed_claims(spec):
        claim = claims.get(name)
        if claim is None:
            yield Failure(Reason.VOLUME_NOT_FOUND, f"The claim is {name!r}")
        elif spec.workers.parallelism > 1 and not {"ReadWriteMany", "ReadOnlyMany"} & set(claim.access_modes):
            modes = ", ".join(claim.access_modes)
            yield Failure(
                Reason.VOLUME_ACCESS_MODE,
                f"The claim {name!r} has {modes}, parallelism is {spec.workers.parallelism}",
            )


def manifest_fault(error: ManifestError) -> Failure:
    """What is wrong in a manifest, in one line each."""
    shown = [
        f"{problem.path or 'the manifest'}: got {problem.got}, expected {problem.expected}"
        for problem in error.problems[:_SHOWN_PROBLEMS]
    ]
    more = len(error.problems) - len(shown)
    return Failure(Reason.INVALID_SPEC, "; ".join(shown) + (f"; and {more} more" if more > 0 else ""))
