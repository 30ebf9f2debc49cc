"""Failed attempts at a result: numbered, counted by retry token, none lost."""

import asyncio
from threading import Thread

import pytest

from annotationrun_worker import fault_points
from annotationrun_worker.fault_points import FaultPoint
from annotationrun_worker.staging.digests import digest_json
from annotationrun_worker.staging.failures import count_failures, read_failures, record_failure
from annotationrun_worker.staging.store import StagingStore

KEY, OTHER_KEY = digest_json("a key"), digest_json("another key")


@pytest.fixture
def store(tmp_path):
    return StagingStore(tmp_path)


def causes(store, key=KEY, token=""):
    return [attempt.cause for attempt in asyncio.run(read_failures(store, key, token))]


def test_attempts_are_counted_by_key_and_retry_token(store):
    async def fail():
        return [
            (await record_failure(store, key, token, f"{key == KEY}{token}")).attempt
            for key, token in ((KEY, ""), (KEY, ""), (KEY, "again"), (OTHER_KEY, ""))
        ]

    assert asyncio.run(fail()) == [1, 2, 1, 1]
    assert causes(store) == ["True", "True"]
    assert causes(store, token="again") == ["Trueagain"]
    assert causes(store, token="never given") == []
    assert asyncio.run(count_failures(store, KEY)) == 3


def test_of_two_that_fail_at_once_none_is_lost(store, monkeypatch):
    """Another worker gets the number between the look and the write."""

    def another_fails(point):
        assert point is FaultPoint.BEFORE_FAILURE
        monkeypatch.setattr(fault_points, "listener", lambda point: None)
        thread = Thread(target=lambda: asyncio.run(record_failure(store, KEY, "", "the other's")))
        thread.start()
        thread.join()

    monkeypatch.setattr(fault_points, "listener", another_fails)
    assert asyncio.run(record_failure(store, KEY, "", "mine")).attempt == 2
    assert causes(store) == ["the other's", "mine"]
