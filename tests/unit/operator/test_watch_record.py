"""A watch that does not bring what lists show is found out; one that is merely late is not."""

import pytest

from annotationrun_operator.cluster.watches import Watched, WatchRecord
from annotationrun_operator.observation import RunKey

KEY, OTHER = RunKey("team-a", "blocks"), RunKey("team-a", "balls")


class Clock:
    """Time that passes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def record(clock) -> WatchRecord:
    return WatchRecord(clock)


def test_a_list_that_shows_what_the_watch_brought_awaits_nothing(record, clock):
    record.brought(Watched.RUNS, "team-a", "u1", "10")
    assert not record.listed(Watched.RUNS, KEY, {"u1": "10"})
    clock.now += 1000
    assert record.behind_seconds == 0.0


def test_a_watch_that_is_ahead_of_a_list_is_not_behind(record):
    record.brought(Watched.RUNS, "team-a", "u1", "11")
    assert not record.listed(Watched.RUNS, KEY, {"u1": "9"})
    assert record.awaiting() == frozenset()


def test_versions_are_compared_as_numbers(record):
    record.brought(Watched.RUNS, "team-a", "u1", "100")
    assert not record.listed(Watched.RUNS, KEY, {"u1": "99"})


@pytest.mark.parametrize("brought", [None, "9"], ids=["never brought", "brought in an older version"])
def test_a_watch_that_brings_nothing_is_behind_from_the_first_list_on(record, clock, brought):
    if brought:
        record.brought(Watched.JOBS, "team-a", "u1", brought)
    assert record.listed(Watched.JOBS, KEY, {"u1": "10"})
    clock.now += 60
    assert record.listed(Watched.JOBS, KEY, {"u1": "12"})
    clock.now += 40
    assert record.behind_seconds == 100
    assert record.awaiting() == {KEY}


@pytest.mark.parametrize("version", ["10", "11"])
def test_what_is_awaited_comes_late(record, clock, version):
    record.listed(Watched.JOBS, KEY, {"u1": "10"})
    clock.now += 60
    record.brought(Watched.JOBS, "team-a", "u1", version)
    assert record.behind_seconds == 0.0


def test_a_watch_that_catches_up_step_by_step_is_alive(record, clock):
    record.listed(Watched.PODS, KEY, {"u1": "10"})
    clock.now += 60
    record.brought(Watched.PODS, "team-a", "u1", "8")
    clock.now += 5
    assert record.behind_seconds == 5


def test_what_was_deleted_is_awaited_no_more(record, clock):
    record.brought(Watched.PODS, "team-a", "u1", "8")
    record.listed(Watched.PODS, KEY, {"u1": "10"})
    record.gone(Watched.PODS, "team-a", "u1")
    assert record.awaiting() == frozenset()


def test_what_the_next_list_shows_no_more_is_awaited_no_more(record):
    """A watch that was opened anew never tells of what was deleted meanwhile."""
    record.listed(Watched.PODS, KEY, {"u1": "10", "u2": "11"})
    record.listed(Watched.PODS, OTHER, {"u3": "12"})
    record.listed(Watched.JOBS, KEY, {"u4": "13"})
    record.listed(Watched.PODS, KEY, {"u2": "11"})
    record.brought(Watched.PODS, "team-a", "u2", "11")
    record.brought(Watched.JOBS, "team-a", "u4", "13")
    assert record.awaiting() == {OTHER}


def test_a_watch_that_brings_others_before_the_awaited_one_is_slow_and_not_dead(record, clock):
    record.listed(Watched.PODS, KEY, {"u1": "10"})
    for number in range(100):
        clock.now += 10
        record.brought(Watched.PODS, OTHER.namespace, f"other-{number}", "7")
    assert record.behind_seconds == 0.0
    assert record.awaiting() == {KEY}
    clock.now += 95
    assert record.behind_seconds == 95, "now it brings nothing"


@pytest.mark.parametrize(
    ("kind", "namespace", "behind"),
    [
        pytest.param(Watched.JOBS, "team-a", 100, id="a watch of another kind"),
        pytest.param(Watched.PODS, "team-b", 100, id="a watch of another namespace"),
        pytest.param(Watched.PODS, "team-a", 0, id="the same watch"),
    ],
)
def test_a_dead_watch_is_not_hidden_by_one_that_lives(clock, kind, namespace, behind):
    record = WatchRecord(clock, has_watch_by_namespace=True)
    record.listed(Watched.PODS, KEY, {"u1": "10"})
    clock.now += 100
    record.gone(kind, namespace, "other")
    assert record.behind_seconds == behind


def test_a_watch_of_all_namespaces_is_one(record, clock):
    record.listed(Watched.PODS, KEY, {"u1": "10"})
    clock.now += 100
    record.brought(Watched.PODS, "team-b", "other", "7")
    assert record.behind_seconds == 0.0
