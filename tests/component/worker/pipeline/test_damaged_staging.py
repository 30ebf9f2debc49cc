"""Runs over a staging store whose objects are empty, cut or junk: they end as if these were not there."""

import json
import shutil
from pathlib import Path

import pytest
from tests.support.annotation import REFERENCE, annotated, run_command
from tests.support.attacks import attacked
from tests.support.file_trees import tree

from annotationrun_api.exit_codes import ExitCode

MODULES = {"plan": {"taskRephrasings": 0, "emitMemory": False, "deriveTask": "Always"}}
ONE_EPISODE = {"episodes": "0"}
WRITTEN_ONCE = ("answers", "results", "plans", "merges", "usage")
DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) * 2 // 3],
    "zeros": lambda content: bytes(len(content)),
    "junk": lambda content: b"\xff{" * 9,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was left alone, with its model, which goes on answering."""
    with annotated(tmp_path_factory.mktemp("run"), REFERENCE, MODULES, source=ONE_EPISODE) as run:
        yield run, tree(run.output), tree(run.staging)


@pytest.fixture
def staging(finished, tmp_path) -> Path:
    """A copy of what it staged."""
    return shutil.copytree(finished[0].staging, tmp_path / "staging")


def damage(staging: Path, damaged, *folders: str) -> set[str]:
    """Damage each object in `folders`; their paths."""
    found = [path for folder in folders for path in (staging / folder).rglob("*") if path.is_file()]
    for path in found:
        path.write_bytes(damaged(path.read_bytes()))
    return {path.relative_to(staging).as_posix() for path in found}


def told(stderr: str) -> set[str]:
    """The objects that warnings name."""
    lines = [line for line in stderr.splitlines() if "can't be read" in line]
    return {line.split("'")[1] for line in lines}


@pytest.mark.parametrize("damaged", DAMAGES.values(), ids=DAMAGES)
def test_a_run_over_damaged_objects_makes_them_anew_with_the_same_bytes(
    finished, staging, damaged, printed, request
):
    run, output, staged = finished
    shutil.rmtree(run.output)
    paths = damage(staging, damaged, *WRITTEN_ONCE)
    assert {path.split("/")[0] for path in paths} == set(WRITTEN_ONCE)
    attack = f"staging: every object {request.node.callspec.id}"
    done = attacked(printed, attack, "run", "-f", run.manifest, "--staging", staging)
    assert done.returncode == ExitCode.OK, done.stderr
    assert tree(run.output) == output
    assert {path for path in paths if not path.startswith("usage/")} <= told(done.stderr)
    again = tree(staging)
    assert {path: again[path] for path in staged if not path.startswith("usage/")} == {
        path: content for path, content in staged.items() if not path.startswith("usage/")
    }
    quiet = run_command("run", "-f", run.manifest, "--staging", staging)
    assert quiet.returncode == ExitCode.OK, quiet.stderr
    assert told(quiet.stderr) <= {path for path in paths if path.startswith("usage/")}


def test_claims_heartbeats_and_failures_that_are_empty_hold_nobody_up(finished, staging, printed):
    run, output, staged = finished
    keys = [Path(path).stem for path in staged if path.startswith("results/")]
    shutil.rmtree(staging / "results")
    token = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # of no retry token
    for path in ("workers/dead-1-aa", *(f"claims/{key}/0" for key in keys)):
        (staging / path).parent.mkdir(parents=True, exist_ok=True)
        (staging / path).write_bytes(b"")
    (staging / f"claims/{keys[0]}/0").write_bytes(b"dead-1-aa")
    (staging / f"failures/{keys[1]}/{token}").mkdir(parents=True)
    (staging / f"failures/{keys[1]}/{token}/1.json").write_bytes(b"")
    shutil.rmtree(run.output)
    attack = "staging: empty claims, heartbeat and failure"
    done = attacked(printed, attack, "run", "-f", run.manifest, "--staging", staging)
    assert done.returncode == ExitCode.OK, done.stderr
    assert tree(run.output) == output
    assert {f"claims/{keys[1]}/0", "workers/dead-1-aa"} <= told(done.stderr)
    assert f"failures/{keys[1]}/{token}/1.json" in told(done.stderr)


def test_a_plan_counts_an_episode_whose_result_is_empty_as_pending(finished, staging):
    run, _, _ = finished

    def pending():
        planned = run_command("plan", "-f", run.manifest, "--staging", staging, "--json")
        assert planned.returncode == ExitCode.OK, planned.stderr
        return json.loads(planned.stdout)["pendingEpisodes"]

    assert pending() == []
    damage(staging, DAMAGES["empty"], "results/plan")
    assert pending() == [0]


def test_the_steps_of_a_cluster_make_a_damaged_plan_and_result_anew(finished, staging):
    """The merge says what is missing, as of a result that was never made; the next attempt makes it."""
    run, output, _ = finished
    shutil.rmtree(run.output)
    (plan,) = (path.stem for path in (staging / "plans").iterdir())
    damage(staging, DAMAGES["empty"], "plans", "results")
    step = ("-f", run.manifest, "--staging", staging)
    merged = run_command("merge", *step)
    assert merged.returncode == ExitCode.INCOMPLETE, merged.stderr
    damage(staging, DAMAGES["empty"], "plans")
    made = run_command("annotate", *step, "--plan", plan)
    assert made.returncode == ExitCode.OK, made.stderr
    merged = run_command("merge", *step)
    assert merged.returncode == ExitCode.OK, merged.stderr
    assert told(merged.stderr) == set()
    assert tree(run.output) == output
