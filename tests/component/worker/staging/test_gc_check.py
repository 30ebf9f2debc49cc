"""`annotationrun gc --check`: which objects of a staging store are damaged."""

import shutil

import pytest
from tests.support.annotation import REFERENCE, annotated, run_command
from tests.support.file_trees import tree

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.staging.digests import digest_json

MODULES = {"vqa": {"emissionHz": 0.5, "questionTypes": ["count"]}}
KEY = digest_json("a key")
KEPT = ("merges", "publishes")
PLANTED = {
    f"aliases/{KEY}": KEY.encode(),
    f"surveys/{KEY}.json": b'{"format": 1}',
    f"models/{KEY}.json": b'{"format": 1, "commit": "abc"}',
    f"failures/{KEY}/{KEY}/1.json": b'{"attempt": 1, "cause": "c", "worker": "w", "token": "", "nonce": "n"}',
    f"claims/{KEY}/0": b"host-1-aa",
    "workers/host-1-aa": b'{"counter": 1, "process": {"host_name": "h", "boot_id": "b", "pid_namespace": 1, '
    b'"pid": 1, "start_ticks": 1}}',
    f"publishes/{KEY}.json": b"{}",
}
"""Sound objects of the kinds that the run leaves none of."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    with annotated(tmp_path_factory.mktemp("run"), REFERENCE, MODULES, source={"episodes": "0"}) as run:
        yield run


@pytest.fixture
def staging(finished, tmp_path):
    folder = shutil.copytree(finished.staging, tmp_path / "staging")
    for path, content in PLANTED.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def check(staging, *options):
    """The exit code, and what was said of each damaged object."""
    done = run_command("gc", staging, "--check", *options)
    lines = [line for line in done.stdout.splitlines() if line.startswith("damaged: ")]
    return done.returncode, {line.split(": ")[1]: line for line in lines}, done


def test_a_sound_store_is_read_whole_and_left_alone(staging):
    before = tree(staging)
    code, damaged, done = check(staging)
    assert (code, damaged) == (ExitCode.OK, {}), done.stdout
    objects = [path for path in before if not path.startswith("progress/")]
    assert f"{len(objects)} objects read, 0 damaged, 0 deleted" in done.stdout
    assert tree(staging) == before


@pytest.mark.parametrize("content", [b"", b"\0\0", b"[1]"], ids=["empty", "zeros", "another type"])
def test_every_damaged_object_is_named_with_its_cause_and_nothing_is_deleted(staging, content):
    objects = [path for path in tree(staging) if not path.startswith(("progress/", "index/"))]
    assert {path.split("/")[0] for path in objects} >= {"answers", "results", "plans", "merges", "usage"}
    for path in objects:
        (staging / path).write_bytes(content)
    before = tree(staging)
    code, damaged, done = check(staging)
    assert code == ExitCode.STORAGE
    assert damaged.keys() == set(objects)
    assert all(len(line.split(": ", 2)[2]) > 10 for line in damaged.values())
    assert f"{len(objects)} objects in {str(staging)!r} are damaged" in " ".join(done.stderr.split())
    assert tree(staging) == before


def test_a_result_under_another_ones_name_and_a_plan_that_was_changed_are_damaged(staging):
    result = next((staging / "results").rglob("*.jsonl"))
    plan = next((staging / "plans").iterdir())
    moved = result.rename(result.with_name(f"{KEY}.jsonl"))
    plan.write_text(plan.read_text().replace('"format":1', '"format":2'))
    _, damaged, _ = check(staging)
    assert damaged.keys() == {path.relative_to(staging).as_posix() for path in (moved, plan)}


def test_repair_deletes_what_a_run_makes_anew_and_keeps_the_rest(finished, staging):
    objects = [path for path in tree(staging) if not path.startswith(("progress/", "index/"))]
    for path in objects:
        (staging / path).write_bytes(b"")
    code, _, done = check(staging, "--repair")
    kept = {path for path in objects if path.startswith(KEPT)}
    assert kept
    assert code == ExitCode.STORAGE
    assert f"{len(objects)} damaged, {len(objects) - len(kept)} deleted" in done.stdout
    assert {path for path in tree(staging) if not path.startswith(("progress/", "index/"))} == kept

    before = tree(finished.output)
    again = run_command("run", "-f", finished.manifest, "--staging", staging)
    assert again.returncode == ExitCode.OK, again.stderr
    assert tree(finished.output) == before
    _, damaged, _ = check(staging)
    assert damaged.keys() == {f"publishes/{KEY}.json"}, "the note of the merge was made anew"


@pytest.mark.parametrize(
    "options", [["--repair"], ["--check", "--dry-run"], ["--check", "--unused-days", "3"]], ids=" ".join
)
def test_options_that_do_not_go_together_are_refused(tmp_path, options):
    assert run_command("gc", tmp_path, *options).returncode == ExitCode.USAGE
