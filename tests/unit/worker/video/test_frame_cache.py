"""The cache of decoded frames."""

import threading

from annotationrun_worker.video.frame_cache import ByteBoundedCache


def test_what_was_put_is_found_and_what_was_not_is_none():
    cache: ByteBoundedCache[str, str] = ByteBoundedCache(10)
    cache.put("a", "frame", 4)
    assert (cache.get("a"), cache.get("b"), cache.held_bytes) == ("frame", None, 4)


def test_the_least_recently_used_goes_first():
    cache: ByteBoundedCache[str, int] = ByteBoundedCache(10)
    cache.put("a", 1, 4)
    cache.put("b", 2, 4)
    cache.get("a")
    cache.put("c", 3, 4)
    assert [cache.get(key) for key in "abc"] == [1, None, 3]
    assert cache.held_bytes == 8


def test_putting_again_replaces_and_counts_the_bytes_once():
    cache: ByteBoundedCache[str, int] = ByteBoundedCache(10)
    cache.put("a", 1, 6)
    cache.put("a", 2, 7)
    assert (cache.get("a"), cache.held_bytes) == (2, 7)


def test_what_is_larger_than_the_bound_is_not_kept_and_drops_nothing():
    cache: ByteBoundedCache[str, int] = ByteBoundedCache(10)
    cache.put("a", 1, 10)
    cache.put("b", 2, 11)
    assert (cache.get("a"), cache.get("b")) == (1, None)


def test_sixteen_threads_never_exceed_the_bound_nor_lose_count():
    cache: ByteBoundedCache[int, int] = ByteBoundedCache(100)
    excess: list[int] = []

    def work(first: int) -> None:
        for number in range(first, first + 300):
            cache.put(number % 50, number, 7)
            cache.get((number * 3) % 50)
            if cache.held_bytes > 100:
                excess.append(number)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = [key for key in range(50) if cache.get(key) is not None]
    assert excess == []
    assert cache.held_bytes == 7 * len(held)
    assert len(held) == 100 // 7
