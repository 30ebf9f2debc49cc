"""`annotationrun gc` and what it finds, on a real folder and a real S3 server."""

import asyncio
import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.annotation import REFERENCE, annotated, run_command, write_manifest
from tests.support.file_trees import tree
from tests.support.forked_command import forked_command
from tests.support.module_runs import demo_model

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.fault_points import FaultPoint
from annotationrun_worker.staging.digests import digest_json
from annotationrun_worker.staging.failures import record_failure
from annotationrun_worker.staging.gc import Sweep, delete
from annotationrun_worker.staging.leases import Beat, encode_beat, this_process
from annotationrun_worker.staging.results import NO_RETRY_TOKEN, IndexedResult
from annotationrun_worker.staging.store import open_store

KEYS = {name: digest_json(name) for name in ("merged", "never merged", "failed", "at work")}
HOURS, MONTHS = timedelta(hours=2), timedelta(days=31)
MODULES = {"vqa": {"emissionHz": 0.5, "questionTypes": ["count"]}}
ONE_EPISODE = {"episodes": "0"}


def result_path(name: str) -> str:
    return f"results/vqa/{KEYS[name][:2]}/{KEYS[name]}.jsonl"


def entry_path(name: str) -> str:
    """In the index, of a result."""
    entry = IndexedResult(digest_json(["quick", name]), KEYS[name], NO_RETRY_TOKEN, asked=4, unanswered=1)
    return f"index/vqa/{entry.name}"


USAGE = "usage/p/host-1-aa.json"
PROGRESS = {"progress/p/done/3", "progress/p/failed/t/4"}
STAGED = {
    "answers/ab/abc.json": b"{}",
    "plans/p.json": b"{}",
    USAGE: b"{}",
    **dict.fromkeys(PROGRESS, b""),
    "merges/m.json": json.dumps({"results": {"0": {"vqa": KEYS["merged"]}}}).encode(),
    result_path("merged"): b"rows",
    result_path("never merged"): b"rows",
    entry_path("merged"): b"",
    entry_path("never merged"): b"",
}
LEFT_BY_A_DEAD_WORKER = {
    "workers/dead-1-aa": encode_beat(Beat(3, this_process())),
    f"claims/{KEYS['at work']}/0": b"dead-1-aa",
    f"claims/{KEYS['at work']}/1": b"dead-2-bb",
}


def store_at(location):
    """A store with all kinds of objects; the paths of the failures beside a result, and of the others."""
    store = open_store(location)

    async def fill():
        for path, content in (STAGED | LEFT_BY_A_DEAD_WORKER).items():
            assert await store.create(path, content)
        for name in ("merged", "failed"):
            await record_failure(store, KEYS[name], "token", "a cause")

    asyncio.run(fill())
    needless, needed = (
        {found.path for found in store.list_now(f"failures/{KEYS[name]}")} for name in ("merged", "failed")
    )
    assert len(needless) == len(needed) == 1
    return store, needless, needed


def listed(store):
    return {
        found.path
        for folder in (
            "answers",
            "results",
            "claims",
            "workers",
            "failures",
            "plans",
            "progress",
            "merges",
            "usage",
            "index",
        )
        for found in store.list_now(folder)
    }


def swept(store, after, unused_days=None):
    """Paths of what a sweep finds that long from now, by kind; all of it is deleted."""
    found = list(Sweep(store, datetime.now(UTC) + after, unused_days).find())
    for garbage in found:
        delete(store, garbage)
        delete(store, garbage)  # what has gone already does no harm
    kinds = sorted({garbage.kind for garbage in found})
    return {kind: {garbage.path for garbage in found if garbage.kind == kind} for kind in kinds}


def set_back(folder: Path, age: timedelta, pattern: str = "**/*") -> None:
    """Make files seem so much older than they are."""
    paths = [path for path in folder.glob(pattern) if path.is_file()]
    assert paths
    for path in paths:
        os.utime(path, times=(time.time() - age.total_seconds(),) * 2)


def test_of_what_is_young_only_failures_that_a_result_made_needless_go(location):
    store, needless, _ = store_at(location)
    before = listed(store)
    assert swept(store, timedelta()) == {"failures": needless}
    assert listed(store) == before - needless


def test_after_hours_what_dead_workers_left_goes_and_what_is_staged_stays(location):
    store, needless, needed = store_at(location)
    claims = {path for path in LEFT_BY_A_DEAD_WORKER if path.startswith("claims/")}
    assert swept(store, HOURS) == {"claims": claims, "failures": needless, "workers": {"workers/dead-1-aa"}}
    assert listed(store) == STAGED.keys() | needed
    assert swept(store, HOURS) == {}


def test_what_nobody_used_for_long_goes_by_choice_but_for_what_was_merged(location):
    store, needless, needed = store_at(location)
    found = swept(store, MONTHS, unused_days=30)
    assert found["answers"] == {"answers/ab/abc.json"}
    assert found["plans"] == {"plans/p.json"}
    assert found["progress"] == PROGRESS
    assert found["usage"] == {USAGE}
    assert found["results"] == {result_path("never merged")}
    assert found["index"] == {entry_path("never merged")}
    assert found["failures"] == needless
    assert listed(store) == {result_path("merged"), entry_path("merged"), "merges/m.json"} | needed


def test_an_entry_of_the_index_goes_with_its_result_but_not_while_that_is_being_staged(location):
    store, _, _ = store_at(location)
    store.delete_now(result_path("never merged"))
    assert "index" not in swept(store, timedelta(minutes=5))
    assert swept(store, HOURS)["index"] == {entry_path("never merged")}


def test_nothing_unused_goes_before_its_days_are_over(location):
    store, _, _ = store_at(location)
    swept(store, HOURS)
    assert swept(store, timedelta(days=29), unused_days=30) == {}


def test_the_claims_of_a_worker_that_lives_stay_however_old(tmp_path):
    store, _, _ = store_at(tmp_path)
    asyncio.run(store.put("workers/alive-1-cc", encode_beat(Beat(9, this_process()))))
    mine, other = f"claims/{KEYS['failed']}/0", f"claims/{KEYS['merged']}/0"
    asyncio.run(store.create(mine, b"alive-1-cc"))
    asyncio.run(store.create(other, b"gone-1-dd"))  # its heartbeat went, as it ended; its claim did not
    set_back(tmp_path, HOURS, "claims/*/*")
    found = swept(store, timedelta())
    of_the_young, of_one_gone = (f"claims/{KEYS['at work']}/{number}" for number in (0, 1))
    assert found["claims"] == {other, of_one_gone}
    assert store.read_now(of_the_young) == b"dead-1-aa"  # its heartbeat is not an hour old
    assert store.read_now(mine) == b"alive-1-cc"
    assert "workers" not in found


def test_torn_files_go_when_nobody_can_be_writing_them(tmp_path):
    store, _, _ = store_at(tmp_path)
    old, young = tmp_path / "answers/ab/old.json#12", tmp_path / "answers/ab/young.json#3"
    old.write_bytes(b"{")
    young.write_bytes(b"{")
    set_back(tmp_path, HOURS, "answers/ab/old.json#12")
    assert swept(store, timedelta())["torn files"] == {"answers/ab/old.json#12"}
    assert not old.exists()
    assert young.exists()


def test_what_a_killed_look_at_the_store_left_goes(location):
    store, _, _ = store_at(location)
    asyncio.run(store.create("checks/ab", b"first"))
    assert "checks" not in swept(store, timedelta())
    assert swept(store, HOURS)["checks"] == {"checks/ab"}
    assert "checks/ab" not in listed(store)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'{"results": {"0": []}}', id="no keys by module"),
    ],
)
def test_a_record_of_a_merge_that_can_not_be_read_keeps_every_result_and_nothing_else(
    location, content, caplog
):
    store, _, _ = store_at(location)
    asyncio.run(store.create("merges/torn.json", content))
    gone = swept(store, MONTHS, unused_days=30)
    assert "'merges/torn.json'" in caplog.text
    assert "no record of a merge" in caplog.text
    assert "no result and no answer is deleted" in caplog.text
    assert not {"results", "answers"} & gone.keys()
    assert {"plans", "workers", "claims"} <= gone.keys()
    assert {result_path("merged"), result_path("never merged")} <= listed(store)


def test_a_dry_run_says_what_would_go_and_deletes_nothing(tmp_path):
    store_at(tmp_path)
    set_back(tmp_path, MONTHS)
    before = tree(tmp_path)
    dry = run_command("gc", tmp_path, "--unused-days", "30", "--dry-run")
    assert dry.returncode == ExitCode.OK, dry.stderr
    assert tree(tmp_path) == before
    wet = run_command("gc", tmp_path, "--unused-days", "30")
    assert wet.stdout == dry.stdout.replace("would go", "deleted")
    counts = dict(line.split(" deleted")[0].split(": ") for line in wet.stdout.splitlines())
    assert counts == dict.fromkeys(
        ("answers", "failures", "index", "plans", "results", "usage", "workers"), "1"
    ) | {
        "claims": "2",
        "progress": "2",
    }
    assert tree(tmp_path).keys() == {result_path("merged"), entry_path("merged"), "merges/m.json"} | {
        path for path in before if path.startswith(f"failures/{KEYS['failed']}")
    }
    assert run_command("gc", tmp_path, "--unused-days", "30").stdout == "nothing to delete\n"


def test_after_a_kill_gc_takes_what_was_left_and_the_run_goes_on(tmp_path):
    """The killed run's own heartbeat and claim, made older; a rerun asks only for what was not answered."""
    with demo_model() as server:
        one_at_a_time = {"requestConcurrency": 1}  # no other answer is being written when it is killed
        manifest = write_manifest(
            tmp_path, REFERENCE, server.base_url, MODULES, source=ONE_EPISODE, workers=one_at_a_time
        )
        killed = forked_command("run", "-f", manifest, place=(FaultPoint.AFTER_ANSWER, 2))
        assert killed.returncode == -9, killed.stderr
        staging, answered = (
            tmp_path / "output.staging",
            set((tmp_path / "output.staging/answers").rglob("*.json")),
        )
        set_back(staging, HOURS)
        done = run_command("gc", staging)
        assert done.returncode == ExitCode.OK, done.stderr
        assert [line.split(" deleted")[0] for line in done.stdout.splitlines()] == ["claims: 1", "workers: 1"]
        assert set((staging / "answers").rglob("*.json")) == answered
        asked = len(server.bodies)
        again = run_command("run", "-f", manifest)
        assert again.returncode == ExitCode.OK, again.stderr
        undisturbed = len({json.dumps(body) for body in server.bodies})
        assert len(server.bodies) - asked == undisturbed - len(answered)


def test_after_gc_the_same_manifest_asks_nothing_and_writes_nothing(tmp_path):
    """Neither when answers and plans are gone: the merged results stay."""
    with annotated(tmp_path, modules=MODULES, source=ONE_EPISODE) as run:
        set_back(run.staging, MONTHS)
        before, asked = tree(run.output), len(run.log_lines())
        done = run_command("gc", run.staging, "--unused-days", "30")
        assert done.returncode == ExitCode.OK, done.stderr
        assert "answers: " in done.stdout
        assert "results" not in done.stdout
        assert not list((run.staging / "answers").rglob("*.json"))
        again = run_command("run", "-f", run.manifest)
        assert again.returncode == ExitCode.OK, again.stderr
        assert "0 files and 0 bytes written" in again.stdout
        assert len(run.log_lines()) == asked
        assert tree(run.output) == before


def test_the_tasks_that_a_merged_dataset_builds_on_stay(tmp_path):
    """They are published nowhere, but without them the whole episode would be asked again."""
    modules = {"plan": {"deriveTask": "Always", "taskRephrasings": 0, "emitMemory": False}}
    with annotated(tmp_path, modules=modules, source=ONE_EPISODE) as run:
        set_back(run.staging, MONTHS)
        tasks, asked = list((run.staging / "results/task").rglob("*.jsonl")), len(run.log_lines())
        assert len(tasks) == 1
        assert run_command("gc", run.staging, "--unused-days", "30").returncode == ExitCode.OK
        assert tasks[0].is_file()
        again = run_command("run", "-f", run.manifest)
        assert again.returncode == ExitCode.OK, again.stderr
        assert len(run.log_lines()) == asked


@pytest.mark.needs_s3
def test_on_s3_gc_leaves_a_finished_run_as_it_is(tmp_path, s3_location):
    with demo_model() as server:
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, MODULES, source=ONE_EPISODE)
        run = ["run", "-f", manifest, "--staging", s3_location]
        assert run_command(*run).returncode == ExitCode.OK
        asked = len(server.bodies)
        assert asked > 0
        assert run_command("gc", s3_location).stdout == "nothing to delete\n"
        assert swept(open_store(s3_location), MONTHS, unused_days=30).keys() == {"answers", "plans", "usage"}
        assert run_command(*run).returncode == ExitCode.OK
        assert len(server.bodies) == asked


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param(
            ["nowhere"], ExitCode.CONFIGURATION, "there is no staging folder 'nowhere'", id="no folder"
        ),
        pytest.param(
            ["ftp://host/x"],
            ExitCode.CONFIGURATION,
            "expected a folder, file:///folder, s3://",
            id="no store",
        ),
        pytest.param(
            ["x", "--unused-days", "0"], ExitCode.USAGE, "Invalid value for '--unused-days'", id="no days"
        ),
    ],
)
def test_what_can_not_be_swept_is_refused(arguments, code, said):
    done = run_command("gc", *arguments)
    assert done.returncode == code
    assert said in " ".join(done.stderr.split())
