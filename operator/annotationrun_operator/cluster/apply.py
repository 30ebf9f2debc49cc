"""Carries a decision out: first the status, then the Jobs, then the events that tell of them.

Each write may be the last: the process can be killed before and after it. So a Job's attempt stands in the
status before the Job is created, and a Job that is there already is adopted if it is the one that was meant.
"""

import hashlib
import logging
from dataclasses import dataclass, replace
from datetime import datetime
from http import HTTPStatus
from typing import Any, assert_never

from annotationrun_api.conditions import ConditionType, find_condition
from annotationrun_api.errors import AnnotationRunError
from annotationrun_api.labels import API_VERSION, FIELD_MANAGER, SPEC_DIGEST_ANNOTATION
from annotationrun_api.reasons import Reason
from annotationrun_api.spec import KIND
from annotationrun_api.status import RunStatus, write_status
from annotationrun_operator.cluster.api import ClusterApi
from annotationrun_operator.cluster.fault_points import FaultPoint, reached
from annotationrun_operator.cluster.observe import is_ours_to_adopt
from annotationrun_operator.core.status import Action, Announcement, CreateJob, Decision, DeleteJob
from annotationrun_operator.errors import ApiConflictError, ApiNotFoundError, ApiRefusedError
from annotationrun_operator.observation import Refusal, RunKey, RunObject

_MESSAGE_CHARACTERS = 1024
"""https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/ on `note`."""


def make_event(run: RunObject, announcement: Announcement, now: datetime) -> dict[str, Any]:
    """The Event's object; of the same announcement at the same time the same, so that it is there once."""
    time = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    told = "\0".join((run.uid, announcement.reason, announcement.message, time))
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{run.name}.{hashlib.sha256(told.encode()).hexdigest()[:16]}",
            "namespace": run.namespace,
        },
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": run.name,
            "namespace": run.namespace,
            "uid": run.uid,
        },
        "type": announcement.type,
        "reason": announcement.reason.value,
        "message": announcement.message[:_MESSAGE_CHARACTERS],
        "source": {"component": FIELD_MANAGER},
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of a decision."""

    has_created: bool = False
    """A Job of the decision is there now."""
    refusal: Refusal | None = None
    """Why one could not be created."""


async def apply(api: ClusterApi, run: RunObject, decision: Decision, now: datetime) -> Applied:
    """Write the status if it changed, at most once; then act; then tell.

    Raises:
        ApiConflictError: the run has changed since it was read: nothing is done, look again.
        ApiUnavailableError, ApiRefusedError, ApiNotFoundError: as of `ClusterApi`; look again later.
    """
    if write_status(decision.status) != write_status(run.status):
        await _write_status(api, run, decision.status)
    applied = Applied()
    for action in decision.actions:
        applied = await _act(api, run, action, applied, now)
    for announcement in decision.announcements:
        if applied.refusal is None or announcement.reason is not Reason.JOB_CREATED:
            await _announce(api, run, announcement, now)
    return applied


async def _write_status(api: ClusterApi, run: RunObject, status: RunStatus) -> None:
    reached(FaultPoint.BEFORE_STATUS)
    await api.write_status(RunKey(run.namespace, run.name), run.resource_version, write_status(status))
    reached(FaultPoint.AFTER_STATUS)
    before, after = _state_of(run.status), _state_of(status)
    if before != after:
        logger.info("%s/%s: %s", run.namespace, run.name, after)


async def _act(api: ClusterApi, run: RunObject, action: Action, applied: Applied, now: datetime) -> Applied:
    match action:
        case CreateJob():
            refusal = await _create(api, run, action, now)
            if refusal is None:
                return replace(applied, has_created=True)
            logger.warning(
                "%s/%s: Job %s: HTTP %d: %s",
                run.namespace,
                run.name,
                action.name,
                refusal.code,
                refusal.message,
            )
            return replace(applied, refusal=refusal)
        case DeleteJob():
            await _delete(api, run, action)
            return applied
        case _:
            assert_never(action)


def _state_of(status: RunStatus) -> str:
    ready = find_condition(status.conditions, ConditionType.READY)
    return "" if ready is None else f"{ready.reason}: {ready.message}" if ready.message else ready.reason


async def _create(api: ClusterApi, run: RunObject, action: CreateJob, now: datetime) -> Refusal | None:
    reached(FaultPoint.BEFORE_CREATE_JOB)
    try:
        await api.create_job(run.namespace, action.manifest)
    except ApiConflictError:
        return await _adopt(api, run, action, now)
    except ApiRefusedError as error:
        return Refusal(action.name, error.code, error.message, now)
    reached(FaultPoint.AFTER_CREATE_JOB)
    logger.info("%s/%s: created Job %s", run.namespace, run.name, action.name)
    return None


async def _adopt(api: ClusterApi, run: RunObject, action: CreateJob, now: datetime) -> Refusal | None:
    """A Job of the name is there: made by an operator that did not live to see it, or by somebody else."""
    try:
        found = await api.get_job(run.namespace, action.name)
    except ApiNotFoundError as error:
        raise ApiConflictError(f"create Job {action.name!r}", "it was there, and is gone again") from error
    wanted = str(action.manifest["metadata"].get("annotations", {}).get(SPEC_DIGEST_ANNOTATION, ""))
    if is_ours_to_adopt(found, run.uid, wanted):
        return None
    message = f"a Job named {action.name!r} is there that this run has not made from this spec"
    if "deletionTimestamp" in found["metadata"]:
        message = f"a Job named {action.name!r} is there that is being deleted"
    return Refusal(action.name, HTTPStatus.CONFLICT, message, now, is_conflict=True)


async def _delete(api: ClusterApi, run: RunObject, action: DeleteJob) -> None:
    reached(FaultPoint.BEFORE_DELETE_JOB)
    try:
        await api.delete_job(run.namespace, action.name, action.uid)
    except (ApiNotFoundError, ApiConflictError):
        return  # it is gone; another one may bear its name
    reached(FaultPoint.AFTER_DELETE_JOB)
    logger.info("%s/%s: deleted Job %s", run.namespace, run.name, action.name)


async def _announce(api: ClusterApi, run: RunObject, announcement: Announcement, now: datetime) -> None:
    """Events are for people: one that can't be written must not hold the run back."""
    reached(FaultPoint.BEFORE_EVENT)
    try:
        await api.create_event(run.namespace, make_event(run, announcement, now))
    except ApiConflictError:
        return  # told already
    except AnnotationRunError as error:
        logger.warning("%s/%s: the Event %s is lost: %s", run.namespace, run.name, announcement.reason, error)
        return
    reached(FaultPoint.AFTER_EVENT)
