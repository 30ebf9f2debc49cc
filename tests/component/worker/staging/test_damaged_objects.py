"""Staged objects that are empty, cut or damaged: absent, named in the log, made anew by one of several."""

import asyncio
import json
from dataclasses import replace

import pytest

from annotationrun_worker.errors import StorageError
from annotationrun_worker.language.rows import StagedRow
from annotationrun_worker.pipeline.fetched_frames import Aliases
from annotationrun_worker.staging.digests import digest_json
from annotationrun_worker.staging.failures import (
    UNKNOWN_CAUSE,
    count_failures,
    read_failures,
    record_failure,
)
from annotationrun_worker.staging.plans import (
    StagedSurvey,
    read_model_commit,
    read_plan,
    read_survey,
    stage_merge,
    stage_model_commit,
    stage_plan,
    stage_survey,
)
from annotationrun_worker.staging.results import (
    ModuleResult,
    StagedAnswer,
    read_answer,
    read_result,
    read_rounds,
    stage_answer,
    stage_result,
)
from annotationrun_worker.staging.store import StagingStore, open_store

KEY, COMMIT = digest_json("a key"), "c" * 40
ANSWER = StagedAnswer(digest_json("body"), "the red block", 12, 3)
ROW = StagedRow(frame=0, style="subtask", role="assistant", content="pick", request=None)
RESULT = ModuleResult("plan", KEY, (ROW,), unanswered=({"frame": 0},))
SURVEY = StagedSurvey({1: "cut"}, {0: "pick"}, ["a warning"], {0: {"a": "b"}})
PLAN = {"episodes": [[0, 12]]}
DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "another type": lambda content: b"[1, 2]",
    "empty object": lambda content: b"{}",
    "deep": lambda content: b"[" * 100_000,
}


async def read_merge(store):
    return await store.read(f"merges/{digest_json(PLAN)}.json")


KINDS = {
    "answer": (lambda store: stage_answer(store, KEY, ANSWER), lambda store: read_answer(store, KEY)),
    "result": (lambda store: stage_result(store, RESULT), lambda store: read_result(store, "plan", KEY)),
    "plan": (lambda store: stage_plan(store, PLAN), lambda store: read_plan(store, digest_json(PLAN))),
    "survey": (lambda store: stage_survey(store, KEY, SURVEY), lambda store: read_survey(store, KEY)),
    "alias": (
        lambda store: asyncio.to_thread(Aliases(store).write, {"row": 1}, KEY),
        lambda store: asyncio.to_thread(Aliases(store).read, {"row": 1}),
    ),
    "model's commit": (
        lambda store: asyncio.to_thread(stage_model_commit, store, "model", "main", COMMIT),
        lambda store: asyncio.to_thread(read_model_commit, store, "model", "main"),
    ),
}
"""How each is staged, and read."""


async def damage(store, damaged):
    """Damage the only object of `store`; its path."""
    (path,) = [found.path async for found in store.list("")]
    content = damaged(await store.read(path))
    store.put_now(path, content)
    return path


@pytest.mark.parametrize("damaged", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize(("stage", "read"), KINDS.values(), ids=KINDS)
def test_what_can_not_be_read_is_absent_and_made_anew(location, stage, read, damaged, caplog):
    async def check():
        store = open_store(location)
        await stage(store)
        whole = await read(store)
        assert whole is not None
        path = await damage(store, damaged)
        assert await read(store) is None
        assert f"{path!r} in {location!r} can't be read" in caplog.text
        await stage(store)
        assert await read(store) == whole
        assert [found.path async for found in store.list("")] == [path]

    asyncio.run(check())


@pytest.mark.parametrize("damaged", DAMAGES.values(), ids=DAMAGES)
def test_the_note_of_a_merge_is_made_anew(location, damaged):
    async def check():
        store = open_store(location)
        await stage_merge(store, PLAN)
        await damage(store, damaged)
        await stage_merge(store, PLAN)
        assert json.loads(await read_merge(store)) == PLAN

    asyncio.run(check())


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"content": 1}, id="content"),
        pytest.param({"request": None}, id="request"),
        pytest.param({"prompt_tokens": "12"}, id="tokens"),
        pytest.param({"more": 1}, id="one more field"),
    ],
)
def test_an_answer_of_other_types_is_none(tmp_path, content):
    async def check():
        store = StagingStore(tmp_path)
        await stage_answer(store, KEY, ANSWER)
        (path,) = [found.path async for found in store.list("")]
        store.put_now(path, json.dumps(json.loads(await store.read(path)) | content).encode())
        assert await read_answer(store, KEY) is None
        assert await stage_answer(store, KEY, ANSWER) == ANSWER

    asyncio.run(check())


def test_of_many_that_make_a_damaged_answer_anew_all_get_the_first_ones(location):
    async def check():
        stores = [open_store(location) for _ in range(4)]
        for number in range(10):
            key = digest_json(number)
            stores[0].put_now(f"answers/{key[:2]}/{key}.json", b"")
            answers = [replace(ANSWER, content=f"{number} {writer}") for writer in range(12)]
            got = await asyncio.gather(
                *(stage_answer(stores[writer % 4], key, answers[writer]) for writer in range(12))
            )
            assert set(got) == {await read_answer(stores[0], key)}

    asyncio.run(check())


def test_an_object_in_place_of_which_another_damaged_one_lies_each_time_is_a_storage_error(tmp_path):
    """Somebody else writes there: the worker does not go on for ever."""
    store = StagingStore(tmp_path)
    replace_once = store.replace

    async def damages_again(path, found, content):
        store.put_now(path, found + b"!")
        return await replace_once(path, found, content)

    store.replace = damages_again  # type: ignore[method-assign]

    async def check():
        store.put_now(f"answers/{KEY[:2]}/{KEY}.json", b"")
        await stage_answer(store, KEY, ANSWER)

    with pytest.raises(StorageError, match="look who else writes there"):
        asyncio.run(check())


def test_a_round_of_a_result_that_can_not_be_read_is_the_next_to_be_made(location):
    async def check():
        store = open_store(location)
        await stage_result(store, RESULT)
        second = (await read_rounds(store, "plan", KEY)).next_key
        await stage_result(store, replace(RESULT, key=second, unanswered=(), attempt=3))
        whole = await read_rounds(store, "plan", KEY)
        assert whole.next_attempt == 4

        store.put_now(f"results/plan/{second[:2]}/{second}.jsonl", b"")
        rounds = await read_rounds(store, "plan", KEY)
        assert (rounds.result, rounds.next_key, rounds.next_attempt) == (RESULT, second, 1)

        store.put_now(f"results/plan/{KEY[:2]}/{KEY}.jsonl", b"{")
        rounds = await read_rounds(store, "plan", KEY)
        assert (rounds.result, rounds.next_key) == (None, KEY)
        for result in (RESULT, replace(RESULT, key=second, unanswered=(), attempt=3)):
            assert await stage_result(store, result) == (result, True)
        assert await read_rounds(store, "plan", KEY) == whole

    asyncio.run(check())


@pytest.mark.parametrize("damaged", DAMAGES.values(), ids=DAMAGES)
def test_a_failure_that_can_not_be_read_is_one_attempt_with_an_unknown_cause(location, damaged, caplog):
    async def check():
        store = open_store(location)
        for _ in range(2):
            await record_failure(store, KEY, "token", "timed out")
        path = min([found.path async for found in store.list("failures")])
        store.put_now(path, damaged(await store.read(path)))
        attempts = await read_failures(store, KEY, "token")
        assert [(one.attempt, one.cause) for one in attempts] == [(1, UNKNOWN_CAUSE), (2, "timed out")]
        assert attempts[0].token == "token"
        assert f"{path!r} in {location!r} can't be read" in caplog.text
        assert (await record_failure(store, KEY, "token", "again")).attempt == 3
        assert await count_failures(store, KEY) == 3

    asyncio.run(check())
