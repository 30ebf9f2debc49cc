"""Faults on purpose: what goes wrong, and with which requests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import Any, Literal

FaultKind = Literal["status", "hang", "lost", "cut", "corrupt"]


@dataclass(frozen=True, slots=True)
class Call:
    """What is known of a request before it is carried out."""

    number: int
    """From 1, in the order of arrival."""
    kind: str
    """Which endpoint, as in ``commit``."""
    method: str
    path: str
    client: str


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong.

    ``status`` answers with an error; ``hang`` holds the request until it is released (then it goes on) or the
    client leaves (then it was never carried out); ``lost`` carries it out and closes the connection without
    an answer; ``cut`` closes it after `after_bytes` of the answer's body, or for PUT of the request's;
    ``corrupt`` turns the bits of the body's byte number `after_bytes`.
    """

    kind: FaultKind
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    after_bytes: int = 0
    is_carried_out: bool = False
    """With ``status``: the request has its effect all the same."""


def too_many_requests(seconds: int, rate_limit: bool = False) -> Fault:
    """429 with ``Retry-After``, or with the ``RateLimit`` headers that the Hub sends."""
    if not rate_limit:
        return Fault("status", 429, {"Retry-After": str(seconds)})
    policy = '"fixed window";"api";q=500;w=300'
    return Fault("status", 429, {"RateLimit": f'"api";r=0;t={seconds}', "RateLimit-Policy": policy})


@dataclass(frozen=True, slots=True)
class When:
    """Which requests; what is None is not looked at."""

    number: int | None = None
    kind: str | None = None
    method: str | None = None
    path: str | None = None
    """A part of it."""

    def __call__(self, call: Call) -> bool:
        return (
            self.number in (None, call.number)
            and self.kind in (None, call.kind)
            and self.method in (None, call.method)
            and (self.path is None or self.path in call.path)
        )


@dataclass
class _Rule:
    fault: Fault
    when: Callable[[Call], bool]
    left: int | None


class Faults:
    """The rules in force. Thread-safe."""

    def __init__(self) -> None:
        self._rules: list[_Rule] = []
        self._lock = Lock()
        self._released = Event()
        self.hit: list[tuple[Call, Fault]] = []
        """What has been done."""

    def add(self, fault: Fault, when: Callable[[Call], bool], times: int | None = 1) -> None:
        """Do `fault` to the next `times` requests for which `when` holds; None: to all."""
        with self._lock:
            self._rules.append(_Rule(fault, when, times))

    def add_json(self, value: Mapping[str, Any]) -> None:
        """``{"fault": {...}, "when": {...}, "times": 1}``, by the names of the fields above."""
        self.add(Fault(**value["fault"]), When(**value.get("when", {})), value.get("times", 1))

    def clear(self) -> None:
        """No more faults; what hangs goes on."""
        with self._lock:
            self._rules.clear()
        self.release()

    def release(self) -> None:
        """Let all requests that hang now go on."""
        with self._lock:
            released, self._released = self._released, Event()
        released.set()

    def gate(self) -> Event:
        """Set at the next release."""
        with self._lock:
            return self._released

    def pick(self, call: Call) -> Fault | None:
        """What to do to this request; it is taken off the rule's count."""
        with self._lock:
            for rule in self._rules:
                if rule.left != 0 and rule.when(call):
                    if rule.left is not None:
                        rule.left -= 1
                    self.hit.append((call, rule.fault))
                    return rule.fault
        return None
