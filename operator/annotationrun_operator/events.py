"""Events about a run, as ``kubectl describe`` shows them."""

import hashlib
from datetime import datetime
from typing import Any

from annotationrun_api.labels import API_VERSION, FIELD_MANAGER
from annotationrun_api.spec import KIND
from annotationrun_operator.decision import Announcement
from annotationrun_operator.observation import RunView

_MESSAGE_CHARACTERS = 1024
"""https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/ on `note`."""


def make_event(run: RunView, announcement: Announcement, now: datetime) -> dict[str, Any]:
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
