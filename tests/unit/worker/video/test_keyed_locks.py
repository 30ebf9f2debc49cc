"""Locks by key: one holder of a key at a time, and nothing kept of those that nobody holds."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from annotationrun_worker.video.frame_cache import KeyedLocks

LONGEST_SECONDS = 60.0


def test_one_thread_at_a_time_holds_a_key():
    locks, holding, most = KeyedLocks(), [], []

    def hold(number):
        with locks.held(number % 2):
            holding.append(number)
            most.append(max(sum(n % 2 == k for n in holding) for k in (0, 1)))
            holding.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hold, range(400)))
    assert (len(most), max(most)) == (400, 1)


def test_holders_of_other_keys_are_not_waited_for():
    locks, both = KeyedLocks(), threading.Barrier(2, timeout=LONGEST_SECONDS)

    def hold(key):
        with locks.held(key):
            both.wait()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(hold, "ab"))


def test_a_key_is_forgotten_when_nobody_holds_it():
    locks = KeyedLocks()
    for key in range(100):
        with locks.held(key):
            assert len(locks) == 1
    with pytest.raises(ValueError, match="no"), locks.held("failing"):
        raise ValueError("no")
    assert len(locks) == 0
