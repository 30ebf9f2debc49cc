"""A lock for each key, there only as long as somebody holds it or waits for it."""

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

Key = TypeVar("Key", bound=Hashable)


class KeyedLocks(Generic[Key]):
    """Locks by key; safe for any number of threads."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[Key, threading.Lock] = WeakValueDictionary()
        self._finding = threading.Lock()

    def __len__(self) -> int:
        """Number of keys that somebody holds or waits for."""
        return len(self._locks)

    @contextmanager
    def held(self, key: Key) -> Iterator[None]:
        """Wait until nobody else holds ``key``, and hold it."""
        with self._finding:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            yield
