"""Decoded frames that were used last, bounded in bytes, shared by threads."""

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class ByteBoundedCache(Generic[Key, Value]):
    """A least-recently-used cache bounded by the bytes of its values; safe for any number of threads.

    A value larger than the bound is not kept; a bound of 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    @property
    def held_bytes(self) -> int:
        """Sum of the sizes of what is held."""
        with self._lock:
            return self._held_bytes

    def get(self, key: Key) -> Value | None:
        """Return the value and mark it as used; None if it is not held."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: Key, value: Value, size_bytes: int) -> None:
        """Keep the value, and drop the least recently used ones until everything fits."""
        if size_bytes > self._max_bytes:
            return
        with self._lock:
            replaced = self._entries.pop(key, None)
            if replaced is not None:
                self._held_bytes -= replaced[1]
            self._entries[key] = (value, size_bytes)
            self._held_bytes += size_bytes
            while self._held_bytes > self._max_bytes:
                _, (_, dropped_bytes) = self._entries.popitem(last=False)
                self._held_bytes -= dropped_bytes
