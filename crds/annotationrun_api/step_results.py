"""What a step's pod tells the operator: its termination message, and its progress over HTTP.

Both are JSON with a version. A termination message has 4096 bytes at most, all its pod's containers together
12 KiB (https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/); so it holds
digests, counts and the failures that still fit. A step that fails writes none: then the kubelet puts the end
of the container's log there (``terminationMessagePolicy: FallbackToLogsOnError``).
"""

from typing import Annotated, Final, Literal, TypeVar

from pydantic import Field, ValidationError

from annotationrun_api.errors import UnreadableResultError
from annotationrun_api.labels import GROUP, Step
from annotationrun_api.run_usage import RunUsage
from annotationrun_api.status import EpisodeFailure, LabelledEpisodes
from annotationrun_api.status_types import Count, Digest, StatusModel, Text64, Text256, Text1024

RESULT_VERSION: Final = 1
MAX_MESSAGE_BYTES = 4096
MAX_PROGRESS_BYTES = 65_536
PROGRESS_PORT = 9090
PROGRESS_PATH = "/progress"
METRICS_PATH = "/metrics"
API_KEY_VARIABLE = "ANNOTATIONRUN_API_KEY"
"""Environment variable of the annotate step: the API key of the model servers, if they want one."""
HUB_TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105  (a name)
"""Environment variable of whoever talks to the Hub: the token, as its client reads it. The merge's writes."""
SOURCE_TOKEN_VARIABLE = "ANNOTATIONRUN_SOURCE_TOKEN"  # noqa: S105
"""Environment variable of the merge step: the token to read the source with, where it is another one."""
MODEL_TOKEN_VARIABLE = "ANNOTATIONRUN_MODEL_TOKEN"  # noqa: S105
"""Environment variable of the plan step: the token to look the model up with; unset: as for the source."""
STAGING_KEY_VARIABLE = "ANNOTATIONRUN_STAGING_KEY"
"""Environment variable of all steps but the prefetch: the key that staged objects are sealed with, if any."""
MANIFEST_ANNOTATION = f"{GROUP}/manifest"
"""Annotation of a step's pod: the manifest as JSON, which the pod has as a file (downward API)."""

Sha256 = Annotated[Digest, Field(min_length=64)]
Commit = Annotated[Text64, Field(min_length=40, pattern=r"^[0-9a-f]+$")]


class PlanResult(StatusModel):
    """The plan step has staged a plan."""

    version: Literal[1] = RESULT_VERSION
    step: Literal[Step.PLAN] = Step.PLAN
    plan: Sha256
    """Names the plan in the staging store."""
    episodes: Count
    """Episodes that the spec selects."""
    pending: Count
    """Those that may lack a result; 0: nothing is to be asked."""
    source_commit: Text64 = ""
    model_commit: Text64 = ""
    """That ``spec.model.revision`` was resolved to; empty: it stands for itself."""


class PrefetchResult(StatusModel):
    """The prefetch step has the model's files in the cache."""

    version: Literal[1] = RESULT_VERSION
    step: Literal[Step.PREFETCH] = Step.PREFETCH
    model: Text256
    commit: Commit
    """Of the model's repository; the server is started with it, offline."""
    files: Count
    size_bytes: Count


class MergeOutcome(StatusModel):
    """The merge step has looked at what is staged, and has merged it or not."""

    version: Literal[1] = RESULT_VERSION
    step: Literal[Step.MERGE] = Step.MERGE
    outcome: Literal["Published", "Unchanged", "Missing", "TooManyFailed"]
    """Missing: episodes lack results that can still be made. Both of the last two exit INCOMPLETE."""
    plan: Sha256
    total: Count
    done: Count
    """Episodes with all their results."""
    failed: Count = 0
    """Episodes that were given up."""
    unanswered: Count = 0
    """Questions in the episodes done that got no usable answer."""
    results: Count = 0
    """Results that there are, of all episodes: that they grow is progress."""
    merge_digest: Digest = ""
    place: Text1024 = ""
    commit: Text64 = ""
    previous_commit: Text64 = ""
    pull_request: Text256 = ""
    labelled_episodes: LabelledEpisodes = LabelledEpisodes()
    usage: RunUsage = RunUsage()
    """Of all workers of the run; GPU time by their own account."""
    failures: tuple[EpisodeFailure, ...] = ()
    """The first failures, as many as fit."""


class WorkerProgress(StatusModel):
    """What a worker knows of the whole run, from the staging store."""

    version: Literal[1] = RESULT_VERSION
    plan: Sha256
    total: Count
    done: Count
    failed: Count = 0
    server: Text256 = ""
    """What the worker found at its model server, for people; empty: it has not asked it yet."""


ResultT = TypeVar("ResultT", PlanResult, PrefetchResult, MergeOutcome, WorkerProgress)


def write_result(result: PlanResult | PrefetchResult | MergeOutcome | WorkerProgress) -> str:
    """The JSON text; of a merge with as many failures as fit into a termination message, and its place."""
    text = result.model_dump_json(by_alias=True, exclude_defaults=False)
    if not isinstance(result, MergeOutcome) or len(text.encode()) <= MAX_MESSAGE_BYTES:
        return text
    less: dict[str, object] = {"failures": result.failures[:-1]} if result.failures else {"place": ""}
    return write_result(result.model_copy(update=less))


def read_result(text: str | bytes, kind: type[ResultT]) -> ResultT:
    """Read what `write_result` wrote.

    Raises:
        UnreadableResultError: it is something else, or of another version.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        got = text[:200] if isinstance(text, str) else text[:200].decode(errors="replace")
        raise UnreadableResultError(
            f"expected a {kind.__name__} of version {RESULT_VERSION} as JSON, got {got!r}: "
            f"{error.error_count()} faults, the first {error.errors(include_url=False)[0]['msg']!r}"
        ) from error
