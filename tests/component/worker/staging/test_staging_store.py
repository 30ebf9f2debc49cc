"""The staging store on a real folder and a real S3 server, and what it says when the medium fails."""

import asyncio
import re
import socket
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.support.s3_server import ACCESS_KEY, SECRET_KEY, free_port

from annotationrun_worker import fault_points
from annotationrun_worker.errors import StorageError
from annotationrun_worker.fault_points import FaultPoint
from annotationrun_worker.language.rows import StagedRow
from annotationrun_worker.staging.digests import digest_json
from annotationrun_worker.staging.failures import read_failures, record_failure
from annotationrun_worker.staging.leases import Heartbeat, heartbeat_path
from annotationrun_worker.staging.plans import read_plan, stage_merge, stage_plan
from annotationrun_worker.staging.results import (
    ModuleResult,
    StagedAnswer,
    read_answer,
    read_result,
    stage_answer,
    stage_result,
)
from annotationrun_worker.staging.store import StagingStore, open_store

KEY = digest_json("a key")
MORE_THAN_A_PAGE = 1100
"""S3 lists 1000 objects in one answer."""
GIVES_UP_WITHIN_SECONDS = 90


async def listed(store, folder):
    return sorted([found.path async for found in store.list(folder)])


def test_an_object_is_created_once_and_stays_as_it_was(location):
    async def check():
        store = open_store(location)
        assert store.location == location
        assert await store.read("a/b") is None
        assert await store.create("a/b", b"first")
        assert not await store.create("a/b", b"second")
        assert await store.read("a/b") == b"first"
        assert store.read_now("a/b") == b"first"
        assert store.read_now("a/c") is None

    asyncio.run(check())


def test_of_many_creations_at_once_one_succeeds_and_is_what_stays(location):
    async def check():
        stores = [open_store(location) for _ in range(4)]
        for number in range(10):
            contents = [f"{number} {writer}".encode() for writer in range(12)]
            made = await asyncio.gather(
                *(stores[writer % 4].create(f"raced/{number}", contents[writer]) for writer in range(12))
            )
            assert made.count(True) == 1
            assert await stores[0].read(f"raced/{number}") == contents[made.index(True)]

    asyncio.run(check())


@pytest.mark.needs_s3
def test_creating_stays_conditional_whatever_the_environment_says(s3_location, monkeypatch):
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")

    async def check():
        store = open_store(s3_location)
        assert await store.create("a", b"1")
        assert not await store.create("a", b"2")

    asyncio.run(check())


def test_an_object_is_put_over_another_and_deleted(location):
    async def check():
        store = open_store(location)
        await store.put("workers/w", b"1")
        await store.put("workers/w", b"22")
        assert await store.read("workers/w") == b"22"
        await store.delete("workers/w")
        await store.delete("workers/w")
        store.delete_now("workers/w")
        assert await store.read("workers/w") is None
        await store.put("workers/w", b"3")
        store.delete_now("workers/w")
        assert await listed(store, "workers") == []

    asyncio.run(check())


def test_a_listing_holds_whole_path_segments_with_size_and_time(location):
    async def check():
        store = open_store(location)
        assert await listed(store, "claims") == []
        assert list(store.list_now("claims")) == []
        for path in ("claims/ab/0", "claims/ab/1", "claims/abc/0", "claims/b", "claim"):
            await store.create(path, path.encode())
        assert await listed(store, "claims/ab") == ["claims/ab/0", "claims/ab/1"]
        assert await listed(store, "claims") == ["claims/ab/0", "claims/ab/1", "claims/abc/0", "claims/b"]
        (found,) = store.list_now("claims/abc")
        assert (found.path, found.size_bytes) == ("claims/abc/0", len("claims/abc/0"))
        assert abs(datetime.now(UTC) - found.last_modified) < timedelta(minutes=10)

    asyncio.run(check())


def test_a_long_listing_comes_whole(location):
    paths = [f"answers/{number:04}" for number in range(MORE_THAN_A_PAGE)]

    async def check():
        store = open_store(location)
        for start in range(0, len(paths), 50):
            await asyncio.gather(*(store.create(path, b"") for path in paths[start : start + 50]))
        assert await listed(store, "answers") == paths
        assert sorted(found.path for found in store.list_now("answers")) == paths

    asyncio.run(check())


def test_nothing_is_written_by_looking(tmp_path):
    async def check():
        store = StagingStore(tmp_path / "staging")
        await store.read("a")
        await store.delete("a")
        await listed(store, "a")

    asyncio.run(check())
    assert list(tmp_path.iterdir()) == []


async def every_operation(store):
    """What each of the store's operations gives: its error, or None."""

    async def list_():
        await listed(store, "a")

    return await asyncio.gather(
        store.read("a"),
        store.create("a", b"x"),
        store.put("b", b"x"),
        store.delete("c"),
        list_(),
        asyncio.to_thread(store.read_now, "a"),
        asyncio.to_thread(store.delete_now, "a"),
        asyncio.to_thread(lambda: list(store.list_now("a"))),
        return_exceptions=True,
    )


def test_a_store_in_place_of_which_lies_a_file_is_a_storage_error(tmp_path):
    (tmp_path / "staging").write_text("not a folder")
    errors = asyncio.run(every_operation(StagingStore(tmp_path / "staging")))
    assert [type(error) for error in errors] == [StorageError] * len(errors)
    assert all("staging" in str(error) and "--staging" in str(error) for error in errors)


@pytest.mark.needs_s3
def test_wrong_keys_are_a_storage_error_that_shows_no_secret(s3_location, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    errors = asyncio.run(every_operation(open_store(s3_location)))
    assert [type(error) for error in errors] == [StorageError] * len(errors)
    for error in errors:
        text = str(error)
        assert s3_location in text
        assert "SignatureDoesNotMatch" in text
        assert "credentials" in text
        assert not re.search(f"{ACCESS_KEY}|{SECRET_KEY}|another-secret", text)


@pytest.mark.needs_s3
def test_a_bucket_that_is_missing_is_a_storage_error_at_the_first_write(s3_location):
    with pytest.raises(StorageError, match=r"s3://absent/x.*NoSuchBucket.*look at the bucket's name"):
        asyncio.run(open_store("s3://absent/x").create("a", b""))


@pytest.mark.needs_s3
def test_an_endpoint_that_is_dead_is_a_storage_error_within_about_a_minute(s3_location, monkeypatch):
    async def timed(store):
        start = time.monotonic()
        errors = await every_operation(store)
        return errors, time.monotonic() - start

    async def both():
        with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
            stores = []
            for port in (free_port(), silent.getsockname()[1]):
                monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
                stores.append(open_store(s3_location))
            return await asyncio.gather(*map(timed, stores))

    for errors, seconds in asyncio.run(both()):
        assert [type(error) for error in errors] == [StorageError] * len(errors)
        assert seconds < GIVES_UP_WITHIN_SECONDS


@pytest.mark.parametrize("token", ["", ".", "..", "a/b", "\U0001f916" * 64, "../../x", "\ud800"])
def test_any_retry_token_is_one_path_segment(location, token):
    async def check():
        store = open_store(location)
        cause = "no such file: \udcff" + "x" * 5000
        recorded = [await record_failure(store, KEY, token, cause) for _ in range(3)]
        assert {path.count("/") for path in await listed(store, f"failures/{KEY}")} == {3}
        attempts = await read_failures(store, KEY, token)
        assert attempts == recorded
        assert [attempt.attempt for attempt in attempts] == [1, 2, 3]
        assert attempts[0].cause.startswith("no such file: \\udcffxxx")
        assert len(attempts[0].cause) <= 2000

    asyncio.run(check())


def test_a_plan_and_the_note_of_a_merge_are_named_by_what_they_hold(location):
    plan = {"episodes": [[3, 12]], "fps": 29.97}

    async def check():
        store = open_store(location)
        digest = await stage_plan(store, plan)
        assert await stage_plan(store, dict(reversed(plan.items()))) == digest == digest_json(plan)
        assert await read_plan(store, digest) == plan
        assert await read_plan(store, KEY) is None
        for _ in range(2):
            await stage_merge(store, {"results": 3})
        assert await store.read(f"merges/{digest_json({'results': 3})}.json") == b'{"results":3}'

    asyncio.run(check())


@pytest.mark.parametrize("content", [b"{}", b"[", b"\xff", b"[]"])
def test_a_plan_that_is_not_what_its_name_says_is_none(tmp_path, content, caplog):
    async def check():
        store = StagingStore(tmp_path)
        await store.create(f"plans/{KEY}.json", content)
        assert await read_plan(store, KEY) is None

    asyncio.run(check())
    assert f"'plans/{KEY}.json' in {str(tmp_path)!r} can't be read" in caplog.text


def test_a_result_made_twice_is_told_to_the_second_and_the_first_one_counts(location):
    row = StagedRow(frame=0, style="subtask", role="assistant", content="pick", request=None)
    first = ModuleResult("plan", KEY, (row,))
    second = ModuleResult("plan", KEY, (replace(row, content="take"),))

    async def check():
        store = open_store(location)
        assert await stage_result(store, first) == (first, True)
        assert await stage_result(store, second) == (first, False)
        assert await read_result(store, "plan", KEY) == first

    asyncio.run(check())


def test_fault_points_stand_around_answers_and_results(tmp_path, monkeypatch):
    seen = []
    store = StagingStore(tmp_path)
    monkeypatch.setattr(fault_points, "listener", lambda point: seen.append((point, staged(tmp_path))))

    async def stage():
        await stage_answer(store, KEY, StagedAnswer(KEY, "yes", 1, 1))
        await stage_result(store, ModuleResult("plan", KEY, ()))
        assert await read_answer(store, KEY)

    asyncio.run(stage())
    assert seen == [
        (FaultPoint.BEFORE_ANSWER, 0),
        (FaultPoint.AFTER_ANSWER, 1),
        (FaultPoint.BEFORE_RESULT, 1),
        (FaultPoint.AFTER_RESULT, 2),
    ]


def staged(folder):
    return sum(path.is_file() for path in folder.rglob("*"))


def test_a_heartbeat_beats_while_its_block_runs_and_goes_with_it(location):
    async def check():
        store = open_store(location)
        async with Heartbeat(store, every_seconds=0.01) as heartbeat:
            path = heartbeat_path(heartbeat.me)
            first = await store.read(path)
            assert first is not None
            async with asyncio.timeout(GIVES_UP_WITHIN_SECONDS):
                while await store.read(path) == first:
                    await asyncio.sleep(0.01)
        assert await store.read(path) is None

    asyncio.run(check())


def test_a_heartbeat_that_can_not_be_written_ends_the_work_with_a_storage_error(tmp_path):
    async def check():
        async with Heartbeat(StagingStore(tmp_path / "staging"), every_seconds=0.01) as heartbeat:
            (tmp_path / "staging" / heartbeat_path(heartbeat.me)).unlink()
            (tmp_path / "staging" / "workers").rmdir()
            (tmp_path / "staging" / "workers").write_text("in the way")
            await asyncio.Event().wait()

    with pytest.raises(StorageError, match="can't write 'workers/"):
        asyncio.run(check())


class OwnError(Exception):
    pass


@pytest.mark.parametrize("error", [OwnError("mine"), asyncio.CancelledError(), KeyboardInterrupt()], ids=repr)
def test_what_ends_the_work_passes_the_heartbeat_as_it_is(tmp_path, error):
    async def check():
        store = StagingStore(tmp_path)
        with pytest.raises(type(error)) as raised:
            async with Heartbeat(store):
                raise error
        assert raised.value is error
        assert await listed(store, "workers") == []

    asyncio.run(check())
