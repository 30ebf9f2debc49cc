"""Several worker processes on one staging store, a folder or S3: claims, heartbeats, failed attempts."""

import asyncio
import os
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tests.support.staging_process import StagingProcess, staging_processes

from annotationrun_worker.staging.digests import Digest, canonical_json, digest_json
from annotationrun_worker.staging.failures import read_failures
from annotationrun_worker.staging.leases import (
    STALE_SECONDS,
    Beat,
    Claims,
    Heartbeat,
    Liveness,
    WorkerId,
    encode_beat,
    heartbeat_path,
    this_process,
)
from annotationrun_worker.staging.store import StagingStore, open_store

KEYS = [digest_json(number) for number in range(12)]
CLAIM = f"claims/{KEYS[0]}/0"
CHANGES_WITHIN_SECONDS = 120


class Clock:
    """Stands still until it is moved."""

    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


def race(workers: list[StagingProcess], keys: list[Digest]) -> list[dict]:
    """Let all of them take `keys` at once; what each was told."""
    for worker in workers:
        worker.tell(take=keys)
    return [worker.answer() for worker in workers]


def winners(workers: list[StagingProcess], answers: list[dict], key: Digest) -> list[str]:
    return [
        worker.worker
        for worker, answer in zip(workers, answers, strict=True)
        if answer["holders"][key] is None
    ]


async def names(store: StagingStore, folder: str) -> list[str]:
    return sorted([found.path async for found in store.list(folder)])


def test_of_racing_workers_one_takes_a_claim_and_the_others_learn_who(location):
    with staging_processes(location, 4) as workers:
        answers = race(workers, KEYS)
        for key in KEYS:
            (winner,) = winners(workers, answers, key)
            told = [answer["holders"][key] for answer in answers if answer["holders"][key] is not None]
            assert told == [winner] * 3
        assert [answer["takeovers"] for answer in answers] == [0] * 4


def test_claims_of_a_killed_worker_of_this_machine_are_taken_over_at_once_by_one(location):
    with staging_processes(location, 4) as (killed, *others):
        assert killed.ask(take=KEYS)["holders"] == dict.fromkeys(KEYS)
        assert race(others, KEYS[:1])[0]["holders"] == {KEYS[0]: killed.worker}
        os.kill(killed.process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, killed.process.pid, os.WEXITED | os.WNOWAIT)  # a zombie has ended too
        answers = race(others, KEYS)
        for key in KEYS:
            assert len(winners(others, answers, key)) == 1
        assert sum(answer["takeovers"] for answer in answers) == len(KEYS)


def test_a_claim_that_is_released_is_free_and_nothing_of_it_stays(location):
    with staging_processes(location, 2) as (first, second):
        first.ask(take=KEYS)
        first.ask(release=KEYS[:6])
        answer = second.ask(take=KEYS)
        assert answer["holders"] == dict.fromkeys(KEYS[:6]) | dict.fromkeys(KEYS[6:], first.worker)
        assert answer["takeovers"] == 0
        second.ask(release=KEYS)
        first.ask(release=KEYS)
    assert asyncio.run(names(open_store(location), "claims")) == []
    assert not list(Path(location).glob("claims/*")), "an empty folder for each claim"


def test_claims_of_a_worker_that_ended_are_free(location):
    with staging_processes(location, 2) as (ended, other):
        ended.ask(take=KEYS[:2])
        ended.end()
        assert other.ask(take=KEYS[:2])["holders"] == dict.fromkeys(KEYS[:2])
    store = open_store(location)
    assert asyncio.run(store.read(heartbeat_path(WorkerId(ended.worker)))) is None


def test_workers_that_take_and_release_the_same_claims_all_the_time_get_no_error(location):
    with staging_processes(location, 4) as workers:
        for _ in range(10):
            for worker in workers:
                worker.tell(take=KEYS[:3])
                worker.tell(release=KEYS[:3])
        answers = [[worker.answer() for _ in range(20)] for worker in workers]
    taken = [answer["holders"] for of_worker in answers for answer in of_worker[::2]]
    assert any(None in holders.values() for holders in taken), "nobody ever took a claim"
    assert asyncio.run(names(open_store(location), "claims")) == []


def test_a_stopped_worker_holds_its_claims_until_it_is_stale_and_lives_again_when_it_goes_on(location):
    store, clock = open_store(location), Clock()

    async def until_changed(path: str, before: bytes | None) -> None:
        deadline = time.monotonic() + CHANGES_WITHIN_SECONDS
        while await store.read(path) == before:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)

    async def take_from(holder: StagingProcess) -> None:
        liveness = Liveness(store, clock)
        claims = Claims(store, WorkerId("reader-1"), liveness)
        path = heartbeat_path(WorkerId(holder.worker))
        os.kill(holder.process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, holder.process.pid, os.WSTOPPED | os.WNOWAIT)
        taken_from = None
        for _ in range(2):  # a beat that was on its way to the store may still arrive, once
            assert await claims.take(KEYS[0]) == holder.worker
            clock.seconds += STALE_SECONDS - 0.1
            assert await claims.take(KEYS[0]) == holder.worker
            clock.seconds += 0.1
            taken_from = await claims.take(KEYS[0])
            if taken_from is None:
                break
        assert taken_from is None
        assert claims.takeovers == 1
        before = await store.read(path)
        os.kill(holder.process.pid, signal.SIGCONT)
        await until_changed(path, before)
        assert await liveness.is_alive(WorkerId(holder.worker))

    with staging_processes(location, 1, beat_seconds=0.05) as (holder,):
        holder.ask(take=KEYS[:1])
        asyncio.run(take_from(holder))
        holder.ask(release=KEYS[:1])
    # The claim is its taker's now.
    assert asyncio.run(store.read(f"claims/{KEYS[0]}/1")) == b"reader-1"


def test_a_worker_of_another_machine_is_alive_while_its_heartbeat_changes(location):
    async def check() -> None:
        store, clock = open_store(location), Clock()
        remote, me = WorkerId("far-1-aa"), WorkerId("here-1-bb")
        process = replace(this_process(), boot_id="another", pid=2**22 + 1)
        liveness = Liveness(store, clock)
        assert not await liveness.is_alive(remote)
        for counter in range(3):
            await store.put(heartbeat_path(remote), encode_beat(Beat(counter, process)))
            assert await liveness.is_alive(remote)
            clock.seconds += STALE_SECONDS - 1
            assert await liveness.is_alive(remote)
        await store.create(f"claims/{KEYS[0]}/0", remote.encode())
        claims = Claims(store, me, liveness)
        assert await claims.take(KEYS[0]) == remote
        clock.seconds += 1
        assert await claims.take(KEYS[0]) is None
        assert await claims.take(KEYS[0]) == me  # by another task of the same worker

    asyncio.run(check())


def test_a_claim_whose_creation_ended_in_an_error_but_was_written_is_ours(location):
    async def check() -> None:
        store = open_store(location)
        async with Heartbeat(store) as heartbeat:
            await store.create(f"claims/{KEYS[0]}/0", heartbeat.me.encode())
            claims = Claims(store, heartbeat.me, Liveness(store))
            assert await claims.take(KEYS[0]) is None
            await claims.release(KEYS[0])
        assert await names(store, "claims") == []
        assert await names(store, "workers") == []

    asyncio.run(check())


def beat_with(**changes):
    """A heartbeat of this process, with fields of its identity changed."""
    return canonical_json({"counter": 1, "process": asdict(this_process()) | changes})


@pytest.mark.parametrize(
    ("claim", "beat", "named"),
    [
        pytest.param(b"", None, CLAIM, id="an empty claim"),
        pytest.param(b"../../etc", None, CLAIM, id="a claim with a path in it"),
        pytest.param(b"\0\0\0", None, CLAIM, id="a claim of zeros"),
        pytest.param(b"w", b"", "workers/w", id="an empty heartbeat"),
        pytest.param(b"w", b"{}", "workers/w", id="a heartbeat that is none"),
        pytest.param(b"w", b'{"counter": 1, "process"', "workers/w", id="a cut heartbeat"),
        pytest.param(b"w", b"[" * 100_000, "workers/w", id="a deep heartbeat"),
        pytest.param(b"w", beat_with(pid="1"), "workers/w", id="a heartbeat with another type"),
    ],
)
def test_a_claim_or_heartbeat_that_can_not_be_read_is_a_dead_worker_s(tmp_path, claim, beat, named, caplog):
    store = StagingStore(tmp_path)
    claims = Claims(store, WorkerId("me"), Liveness(store))

    async def take() -> None:
        await store.create(CLAIM, claim)
        if beat is not None:
            await store.put("workers/w", beat)
        assert await claims.holder(KEYS[0]) is None
        assert await claims.take(KEYS[0]) is None
        assert claims.takeovers == 1
        assert await names(store, "claims") == [CLAIM, f"claims/{KEYS[0]}/1"]
        await claims.release(KEYS[0])
        assert await names(store, "claims") == []

    asyncio.run(take())
    assert f"{named!r} in {str(tmp_path)!r} can't be read" in caplog.text


def test_of_many_that_find_a_claim_unreadable_one_takes_it(location):
    with staging_processes(location, 4) as workers:
        open_store(location).put_now(CLAIM, b"")
        for worker in workers:
            worker.tell(take=[KEYS[0]])
        holders = [worker.answer()["holders"][KEYS[0]] for worker in workers]
    assert holders.count(None) == 1
    assert set(holders) - {None} == {workers[holders.index(None)].worker}


def test_failed_attempts_of_racing_workers_are_numbered_without_gaps_and_none_is_lost(location):
    key, token = KEYS[0], "second try/../\u00e9"
    with staging_processes(location, 4) as workers:
        for number, worker in enumerate(workers):
            worker.tell(fail=key, token=token, causes=[f"cause {number}"] * 8)
        numbers = [worker.answer() for worker in workers]
    assert sorted(number for of_worker in numbers for number in of_worker) == list(range(1, 33))

    async def read() -> None:
        store = open_store(location)
        attempts = await read_failures(store, key, token)
        assert [attempt.attempt for attempt in attempts] == list(range(1, 33))
        for number, worker in enumerate(workers):
            mine = [attempt for attempt in attempts if attempt.cause == f"cause {number}"]
            assert [attempt.attempt for attempt in mine] == numbers[number]
            assert all(worker.worker.startswith(f"{attempt.worker}-") for attempt in mine)
        assert await read_failures(store, key, "") == []
        assert await read_failures(store, KEYS[1], token) == []

    asyncio.run(read())
