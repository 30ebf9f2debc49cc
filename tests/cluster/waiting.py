"""Waiting for what a cluster comes to."""

import time
from collections.abc import Callable
from typing import Any

from tests.cluster.client import ConnectedClient

POLL_SECONDS = 0.2
POD_STARTS_WITHIN_SECONDS = 300.0


class TimeoutExceededError(AssertionError):
    """What was waited for did not come; the text tells how the run and its children stand."""


def wait_until(holds: Callable[[], bool], within_seconds: float, tell: Callable[[], str]) -> None:
    """Wait until something holds.

    Raises:
        TimeoutExceededError: it did not; with what ``tell`` says.
    """
    deadline = time.monotonic() + within_seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutExceededError(f"not within {within_seconds:.0f} s\n{tell()}")
        time.sleep(POLL_SECONDS)


def wait_until_ready(
    client: ConnectedClient, namespace: str, pod: str, within_seconds: float = POD_STARTS_WITHIN_SECONDS
) -> dict[str, Any]:
    """Wait until a pod is ready; the pod. Fails at once if it ends."""
    found: dict[str, Any] = {}

    def describe() -> str:
        return client.kubectl(f"--namespace={namespace}", "describe", "pod", pod)

    def is_ready() -> bool:
        found.update(client.api.get(f"/api/v1/namespaces/{namespace}/pods/{pod}"))
        status = found["status"]
        assert status["phase"] in {"Pending", "Running"}, describe()
        return any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", ()))

    wait_until(is_ready, within_seconds, describe)
    return found
