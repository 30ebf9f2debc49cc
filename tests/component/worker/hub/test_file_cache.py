"""The cache of files by content: what goes, what stays, and how many bytes there are, with real processes."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.cache_process import bytes_by_name, content_of
from tests.support.hub_server.server import HubServer

from annotationrun_worker.errors import HubUnavailableError, StorageError
from annotationrun_worker.hub import cache as file_cache
from annotationrun_worker.hub.cache import FileCache

LIMIT_SECONDS = 120
MIB = 1 << 20


def writing(name: str, size_bytes: int) -> Callable[[Path], None]:
    def fetch(target: Path) -> None:
        target.write_bytes(content_of(name, size_bytes))

    return fetch


def fetch_nothing(target: Path) -> None:
    raise AssertionError(f"{target} was fetched")


def put(cache: FileCache, name: str, size_bytes: int, used_at: float | None = None) -> None:
    with cache.holding(name, size_bytes, writing(name, size_bytes)) as path:
        assert path.read_bytes() == content_of(name, size_bytes)
        if used_at is not None:
            os.utime(path, (used_at, used_at))


class Waited(threading.Event):
    """Tells that somebody has begun to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.begun.set()
        return super().wait(timeout)


def begin(work: Callable[[], None]) -> tuple[threading.Thread, list[Exception]]:
    """A thread at ``work``, and what it raises."""
    raised: list[Exception] = []

    def guarded() -> None:
        try:
            work()
        except (AssertionError, HubUnavailableError, StorageError) as error:
            raised.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    return thread, raised


def end(thread: threading.Thread) -> None:
    thread.join(LIMIT_SECONDS)
    assert not thread.is_alive()


def names(cache: FileCache) -> set[str]:
    return {path.name for path in (cache.folder / "files").iterdir()}


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 300)
    for name, used_at in (("a", 30), ("b", 10), ("c", 20)):
        put(cache, name, 100, used_at)
    with cache.holding("b", 100, fetch_nothing):
        pass  # used now
    put(cache, "d", 150)
    assert names(cache) == {"b", "d"}


def test_what_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    put(FileCache(tmp_path, 300), "a", 100)
    with FileCache(tmp_path, 300).holding("a", 100, fetch_nothing) as path:
        assert path.read_bytes() == content_of("a", 100)


def test_what_is_in_use_stays_and_room_for_others_is_waited_for(tmp_path: Path) -> None:
    cache, other = FileCache(tmp_path, 300), FileCache(tmp_path, 300)
    put(other, "unused", 100, used_at=10)
    with cache.holding("used", 200, writing("used", 200)) as path:
        other.stopped = waited = Waited()
        thread, raised = begin(lambda: put(other, "large", 250))
        assert waited.begun.wait(LIMIT_SECONDS)
        assert path.exists()
        assert "large" not in names(cache)
    end(thread)
    assert raised == []
    assert names(cache) == {"large"}


def test_who_waited_for_a_file_has_it_as_soon_as_it_is_there_though_others_go_on_using_it(
    tmp_path: Path,
) -> None:
    fetching, go_on = threading.Event(), threading.Event()

    def fetch_slowly(target: Path) -> None:
        fetching.set()
        assert go_on.wait(LIMIT_SECONDS)
        writing("a", 100)(target)

    with ExitStack() as first:

        def hold() -> None:
            first.enter_context(FileCache(tmp_path, 300).holding("a", 100, fetch_slowly))

        holder, holder_raised = begin(hold)
        assert fetching.wait(LIMIT_SECONDS)
        other = FileCache(tmp_path, 300)
        other.stopped = waited = Waited()
        waiter, waiter_raised = begin(lambda: put(other, "a", 100))
        assert waited.begun.wait(LIMIT_SECONDS)
        go_on.set()
        end(holder)
        end(waiter)
        assert holder_raised == waiter_raised == []


def test_a_file_larger_than_the_cache_is_refused_at_once(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 300)
    with (
        pytest.raises(StorageError, match="no room for a file of 301 bytes") as caught,
        cache.holding("a", 301, fetch_nothing),
    ):
        pass
    assert "raise spec.source.cacheBytes" in str(caught.value)
    assert "--cache" in str(caught.value)


def test_room_that_never_comes_is_told_after_a_while(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 300, wait_seconds=0.3)
    with (
        cache.holding("used", 200, writing("used", 200)),
        pytest.raises(StorageError, match="200 are in use"),
        cache.holding("a", 200, fetch_nothing),
    ):
        pass
    assert names(cache) == {"used"}


def test_a_disk_that_is_nearly_full_gets_no_more_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FileCache(tmp_path, 1 << 60)
    put(cache, "old", 100)
    monkeypatch.setattr(file_cache, "KEPT_FREE_BYTES", 1 << 60)
    with (
        pytest.raises(StorageError, match=f"of the .* that are free on its disk {1 << 60} stay free"),
        cache.holding("new", 100, fetch_nothing),
    ):
        pass
    assert names(cache) == set(), "what nobody used had to go first"


def test_what_others_are_about_to_write_is_no_free_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FileCache(tmp_path, 1 << 60, wait_seconds=0.3)
    free = 10 * MIB

    class Usage:
        free = file_cache.KEPT_FREE_BYTES + 10 * MIB

    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage)

    def fetch_while_another_wants_room(target: Path) -> None:
        with pytest.raises(StorageError, match="no room"), cache.holding("b", free // 2, fetch_nothing):
            pass
        writing("a", free - free // 4)(target)

    with cache.holding("a", free - free // 4, fetch_while_another_wants_room):
        pass


def test_a_failed_fetch_leaves_what_came_and_gives_its_room_back(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 300)

    def fetch_half(target: Path) -> None:
        target.write_bytes(content_of("a", 100)[:50])
        raise HubUnavailableError("cut")

    def fetch_rest(target: Path) -> None:
        assert target.read_bytes() == content_of("a", 100)[:50]
        target.write_bytes(content_of("a", 100))

    with pytest.raises(HubUnavailableError, match="cut"), cache.holding("a", 100, fetch_half):
        pass
    put(cache, "b", 260)  # the half has to go
    assert names(cache) == {"b"}
    with pytest.raises(HubUnavailableError, match="cut"), cache.holding("a", 100, fetch_half):
        pass
    with cache.holding("a", 100, fetch_rest) as path:
        assert path.read_bytes() == content_of("a", 100)


def test_a_file_that_lost_its_end_with_the_machines_power_is_fetched_again(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 300)
    put(cache, "a", 100)
    cache.path_of("a").write_bytes(b"")
    put(cache, "a", 100)


def test_a_wait_ends_when_the_run_does(tmp_path: Path) -> None:
    cache, other = FileCache(tmp_path, 300), FileCache(tmp_path, 300)
    with cache.holding("used", 200, writing("used", 200)):
        thread, raised = begin(lambda: put(other, "large", 250))
        other.stopped.set()
        end(thread)
    assert [type(error) for error in raised] == [HubUnavailableError]


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with (
        pytest.raises(StorageError, match="can't be written") as caught,
        FileCache(tmp_path / "cache", 300).holding("a", 100, fetch_nothing),
    ):
        pass
    assert "--cache" in str(caught.value)


def test_threads_of_two_processes_keep_to_the_bound_together(tmp_path: Path) -> None:
    """Each looks at all files while it has one; ten times as many bytes go through as there is room."""
    command = [sys.executable, "-m", "tests.support.cache_process", "use", str(tmp_path)]
    started = [
        subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, text=True) for seed in range(2)
    ]
    most = []
    for process in started:
        out, _ = process.communicate(timeout=LIMIT_SECONDS)
        assert process.returncode == 0
        most.append(int(out))
    assert max(most) <= 1000
    assert max(most) > 500, "the cache was hardly used"
    assert sum(bytes_by_name(tmp_path).values()) <= 1000
    assert list((tmp_path / "reserved").iterdir()) == []


def test_what_a_killed_process_fetched_is_gone_on_with(tmp_path: Path) -> None:
    size = 16 * MIB
    with HubServer() as hub:
        hub.add_repo("me/source", {"videos/a.mp4": content_of("video", size)})
        command = [sys.executable, "-m", "tests.support.cache_process", "fetch", str(tmp_path), hub.url]
        killed = subprocess.run([*command, "40"], check=False, timeout=LIMIT_SECONDS)
        assert killed.returncode == -signal.SIGKILL
        (left,) = bytes_by_name(tmp_path).values()
        assert 0 < left < size
        assert list((tmp_path / "reserved").iterdir()), "what it had reserved"
        hub.counters.clear()
        subprocess.run([*command, "0"], check=True, timeout=LIMIT_SECONDS)
        served = hub.counters.served["datasets/me/source", "videos/a.mp4"]
    print(f"{left} of {size} bytes were there after the kill, {served} came after it")
    assert served == size - left
    assert list((tmp_path / "reserved").iterdir()) == []


def test_what_a_killed_process_left_goes_when_room_is_needed(tmp_path: Path) -> None:
    size = 16 * MIB
    with HubServer() as hub:
        hub.add_repo("me/source", {"videos/a.mp4": content_of("video", size)})
        command = [sys.executable, "-m", "tests.support.cache_process", "fetch", str(tmp_path), hub.url, "40"]
        assert subprocess.run(command, check=False, timeout=LIMIT_SECONDS).returncode == -signal.SIGKILL
    assert list((tmp_path / "reserved").iterdir()), "what it had reserved"
    put(FileCache(tmp_path, size), "b", size)
    assert names(FileCache(tmp_path, size)) == {"b"}
    assert list((tmp_path / "reserved").iterdir()) == []
