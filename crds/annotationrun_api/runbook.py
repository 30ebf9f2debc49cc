"""The runbook, made from the reasons: ``python -m annotationrun_api.runbook`` prints it.

``operator/RUNBOOK.md`` is this text; tests hold it to the reasons, the operator's metrics and the schema.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from annotationrun_api.conditions import ConditionType
from annotationrun_api.labels import REQUESTED_AT_ANNOTATION, RUN_NAME_LABEL, STEP_LABEL, Step
from annotationrun_api.markdown_table import code, table
from annotationrun_api.reasons import Reason
from annotationrun_api.reference import columns

_OF_RUN = f"-l {RUN_NAME_LABEL}=NAME"


def _logs(container: str, step: Step | None = None) -> str:
    selector = f"{_OF_RUN},{STEP_LABEL}={step}" if step else _OF_RUN
    return f"kubectl logs {selector} -c {container} --prefix --tail=100"


_PODS = f"kubectl get pods {_OF_RUN} -o wide"
_WHY_NO_START = f"kubectl describe pods {_OF_RUN}"
_FAILURES = "kubectl get arun NAME -o jsonpath-as-json='{.status.failures}'"
_CLAIMS = "kubectl get pvc"

_SHOWS_MORE: Final[Mapping[Reason, str]] = {
    Reason.PLANNING: _logs("worker", Step.PLAN),
    Reason.FETCHING_MODEL: _logs("worker", Step.PREFETCH),
    Reason.ANNOTATING: _logs("worker", Step.ANNOTATE),
    Reason.MERGING: _logs("worker", Step.MERGE),
    Reason.STOPPING: _PODS,
    Reason.WAITING_FOR_PODS: _WHY_NO_START,
    Reason.QUEUED: "kubectl get workloads.kueue.x-k8s.io,localqueues.kueue.x-k8s.io",
    Reason.UNSCHEDULABLE: _WHY_NO_START,
    Reason.IMAGE_PULL_FAILED: _WHY_NO_START,
    Reason.CONTAINER_CONFIG_INVALID: _WHY_NO_START,
    Reason.START_DEADLINE_EXCEEDED: "kubectl events --for annotationrun/NAME",
    Reason.QUOTA_EXCEEDED: "kubectl describe resourcequotas,limitranges",
    Reason.ADMISSION_REFUSED: f"kubectl describe jobs {_OF_RUN}",
    Reason.JOB_CONFLICT: "kubectl get jobs --show-labels",
    Reason.INVALID_SPEC: "kubectl explain annotationrun.spec --recursive",
    Reason.NOT_ALLOWED: "kubectl -n annotationrun set env deployment/annotationrun --list",
    Reason.CONFIGURATION_REFUSED: _logs("worker"),
    Reason.DATASET_UNREADABLE: _logs("worker"),
    Reason.STORAGE_FAILED: _logs("worker"),
    Reason.OUTPUT_MOVED: _logs("worker", Step.MERGE),
    Reason.OUTPUT_REFUSED: _logs("worker"),
    Reason.VOLUME_NOT_FOUND: _CLAIMS,
    Reason.VOLUME_ACCESS_MODE: _CLAIMS,
    Reason.SERVER_NOT_READY: _logs("vllm", Step.ANNOTATE),
    Reason.MODEL_DOWNLOAD_FAILED: _logs("worker", Step.PREFETCH),
    Reason.OUT_OF_MEMORY: _WHY_NO_START,
    Reason.PODS_FAILED: _logs("worker"),
    Reason.PLAN_UNREADABLE: _logs("worker", Step.PLAN),
    Reason.NO_PROGRESS: _FAILURES,
    Reason.TOO_MANY_FAILED_EPISODES: _FAILURES,
    Reason.COMPLETE_WITH_FAILURES: _FAILURES,
    Reason.ACTIVE_DEADLINE_EXCEEDED: "kubectl get arun NAME -o jsonpath-as-json='{.status.activity}'",
    Reason.INTERNAL_ERROR: "kubectl -n annotationrun logs deployment/annotationrun",
    Reason.PROGRESS_UNAVAILABLE: "kubectl get networkpolicies",
}


@dataclass(frozen=True, slots=True)
class ReasonGroup:
    """Reasons that the same conditions carry."""

    title: str
    carried_by: str
    reasons: tuple[Reason, ...]


REASON_GROUPS: Final = (
    ReasonGroup(
        "At work, or waiting",
        "`Reconciling` is True, `Ready` is False; both carry the reason. What waits longer than"
        " `spec.startDeadlineSeconds` ends with `StartDeadlineExceeded`.",
        (
            Reason.PLANNING,
            Reason.FETCHING_MODEL,
            Reason.ANNOTATING,
            Reason.MERGING,
            Reason.STOPPING,
            Reason.WAITING_FOR_PODS,
            Reason.QUEUED,
            Reason.UNSCHEDULABLE,
            Reason.IMAGE_PULL_FAILED,
            Reason.CONTAINER_CONFIG_INVALID,
            Reason.QUOTA_EXCEEDED,
            Reason.ADMISSION_REFUSED,
            Reason.JOB_CONFLICT,
        ),
    ),
    ReasonGroup(
        "Done, or held",
        "`Complete` and `Ready` are True with `Complete`; `Suspended` is True with `Suspended`.",
        (Reason.COMPLETE, Reason.SUSPENDED),
    ),
    ReasonGroup(
        "Stalled: the spec, or what it names",
        "`Stalled` is True, `Failed` is not: the run has not ended. It goes on by itself once the cause is"
        " mended; claims are looked at each minute.",
        (Reason.INVALID_SPEC, Reason.NOT_ALLOWED, Reason.VOLUME_NOT_FOUND, Reason.VOLUME_ACCESS_MODE),
    ),
    ReasonGroup(
        "Failed",
        "`Failed` and `Stalled` are True; no pod runs any more, so no GPU is held; what is staged stays. An"
        " edit of the spec, a new `spec.retryToken` or a new value of the annotation"
        f" `{REQUESTED_AT_ANNOTATION}` tries again. `AdmissionRefused` is here too, where the API server"
        " finds a plan Job invalid.",
        (
            Reason.CONFIGURATION_REFUSED,
            Reason.DATASET_UNREADABLE,
            Reason.STORAGE_FAILED,
            Reason.OUTPUT_MOVED,
            Reason.OUTPUT_REFUSED,
            Reason.SERVER_NOT_READY,
            Reason.MODEL_DOWNLOAD_FAILED,
            Reason.OUT_OF_MEMORY,
            Reason.PODS_FAILED,
            Reason.PLAN_UNREADABLE,
            Reason.NO_PROGRESS,
            Reason.TOO_MANY_FAILED_EPISODES,
            Reason.START_DEADLINE_EXCEEDED,
            Reason.ACTIVE_DEADLINE_EXCEEDED,
            Reason.INTERNAL_ERROR,
        ),
    ),
    ReasonGroup(
        "Of a step",
        "`Planned`, `Annotated`, `Merged` and `Published` carry these; `ProgressUnavailable` and"
        " `CompleteWithFailures` are of `Annotated` alone, `SourcePollFailed` is of `Planned`.",
        (
            Reason.NOT_STARTED,
            Reason.IN_PROGRESS,
            Reason.SUCCEEDED,
            Reason.NOTHING_TO_DO,
            Reason.COMPLETE_WITH_FAILURES,
            Reason.SPEC_CHANGED,
            Reason.RETRY_REQUESTED,
            Reason.SOURCE_CHANGED,
            Reason.MODEL_CHANGED,
            Reason.SOURCE_POLL_FAILED,
            Reason.PROGRESS_UNAVAILABLE,
        ),
    ),
    ReasonGroup(
        "Of Events alone",
        "Each change of the state is an Event too, with the state's reason.",
        (Reason.JOB_CREATED, Reason.JOB_DELETED, Reason.SETTINGS_WITHOUT_EFFECT),
    ),
)

_HEAD = f"""\
<!-- Generated from the reasons in annotationrun_api by `make crds`; edit those. -->
# Runbook

For whoever looks after `AnnotationRun`s. `NAME` is a run; the commands are for its namespace, those of the
operator for the namespace and the release name `annotationrun` (as in the
[README](../README.md#on-kubernetes)). The fields of a run are in the [reference](../crds/README.md).

## How to look at a run

```shell
kubectl get arun
kubectl get arun NAME -o wide
kubectl describe arun NAME
kubectl events --for annotationrun/NAME
```

`STATE` is the reason of the condition `Ready`: look it up [below](#reasons). The message, which `-o wide`
shows beside it, says what happened, in the words of the pod, the scheduler or the API server too, and what to
do.

{table(("column", "from", "meaning", "shown"), columns())}
A run's Jobs and pods bear the labels `{RUN_NAME_LABEL}` and
`{STEP_LABEL}` ({", ".join(Step)}). The pods' container `worker` does the work, and `vllm` is the model
server beside it.

```shell
kubectl get jobs,pods {_OF_RUN} -o wide
{_logs("worker", Step.ANNOTATE)}
{_logs("vllm", Step.ANNOTATE)}
```

Pods that were stopped, and those past `spec.ttlSecondsAfterFinished`, are gone with their logs. The end of
the log of a pod that failed stands in the message; `status.failures` lists the episodes that were given up
last.

## How to act on a run

```shell
kubectl patch arun NAME --type=merge --patch='{{"spec": {{"suspend": true}}}}'
kubectl patch arun NAME --type=merge --patch='{{"spec": {{"suspend": false}}}}'
kubectl patch arun NAME --type=merge --patch='{{"spec": {{"retryToken": "2"}}}}'
kubectl annotate arun NAME --overwrite {REQUESTED_AT_ANNOTATION}="$(date -u +%FT%TZ)"
kubectl delete arun NAME
```

- **Suspend** removes the Jobs and so frees the GPUs; what is answered is staged. Going on begins the next
  attempt.
- **Retry** tries again, with other seeds, the episodes that were given up and the questions that got no
  usable answer; nothing else is asked again. The annotation does the same without an edit of the spec, for
  specs that Git owns.
- **Edit**: see [what an edit asks for](../crds/README.md#what-an-edit-asks-for).
- **Delete** takes the run's Jobs and pods along. Staging and output stay: the same manifest, applied again,
  asks the model nothing.
- **Go back** to what lay on the Hub before: `status.published` names our commit and the `previousCommit`; the
  [README](../README.md#on-the-hugging-face-hub) tells how. The same manifest leaves it so, with
  `spec.source.follow` too; an edited one publishes anew.
- **Wait** in a script with `kubectl wait --for=condition=Reconciling=False arun/NAME --timeout=24h`, which
  ends when the run is complete, failed, stalled or suspended; then look at the condition `Complete`.

## How to look at the operator

```shell
kubectl -n annotationrun logs deployment/annotationrun --since=1h
kubectl -n annotationrun port-forward deployment/annotationrun 8080 8081
```

The log has a line for each change of a run's state, for each Job that was created or deleted, and for what
the API server refused. Port 8080 serves `/healthz` and `/readyz`, port 8081 `/metrics`. `/healthz` says in
words what is wrong: a watch that owes objects and brings nothing, runs that can't be listed, reconciling that
does not end, a worker of the queue that has ended; the kubelet then restarts the operator. Much work is no
reason for it: see `annotationrun_queue_length`. Nothing is lost by a restart: runs and Jobs go on
meanwhile, and a new pod goes on where the last one was. `/readyz` fails until the runs are
watched: the CustomResourceDefinition is missing, or a right; the log says which.

These metrics tell whether the operator does its work; `/metrics` explains each of the others.
"""

METRICS: Final[Mapping[str, str]] = {
    "annotationrun_runs": "Runs, by `state`. Alert on states under [Failed](#failed) and Stalled.",
    "annotationrun_reconciles_total": "Runs reconciled, by `outcome`. Errors that go on: see the log.",
    "annotationrun_reconcile_seconds": "Seconds that reconciling a run took, a histogram.",
    "annotationrun_errors_total": "Runs whose reconciling ended with an error, by its class.",
    "annotationrun_api_requests_total": (
        "Requests to the API server, by `verb`, `resource`, `code`. 403: a right is missing, a quota is full."
    ),
    "annotationrun_api_writes_total": "Writes that the API server has accepted. None while no run changes.",
    "annotationrun_queue_length": "Runs that wait to be reconciled. It is 0 most of the time.",
    "annotationrun_watch_behind_seconds": (
        "How long a watch that owes what a list has shown has brought nothing."
    ),
    "annotationrun_list_age_seconds": "Seconds since the runs were listed last.",
}
"""Those to watch the operator by; a test looks whether it has them."""


def runbook() -> str:
    """The whole page."""
    metrics = table(("metric", "meaning"), ((code(name), text) for name, text in METRICS.items()))
    types = table(("condition", "True says that"), ((code(kind), kind.meaning) for kind in ConditionType))
    reasons = "\n".join(_section(group) for group in REASON_GROUPS)
    return f"{_HEAD}\n{metrics}\n## Conditions\n\n{types}\n## Reasons\n\n{reasons}"


def _section(group: ReasonGroup) -> str:
    rows = (
        (
            code(reason),
            reason.happened,
            reason.remedy,
            code(more) if (more := _SHOWS_MORE.get(reason)) else "",
        )
        for reason in group.reasons
    )
    header = ("reason", "what happened", "what to do", "what shows more")
    return f"### {group.title}\n\n{group.carried_by}\n\n{table(header, rows)}"


if __name__ == "__main__":
    sys.stdout.write(runbook())
