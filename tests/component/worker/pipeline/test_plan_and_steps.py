"""`annotationrun plan`, `annotate` and `merge`: the steps of a run, each by itself."""

import json

import pytest
from tests.support.annotation import REFERENCE, run_command, write_manifest
from tests.support.file_trees import tree
from tests.support.module_runs import demo_model

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.staging.digests import digest_bytes

NO_SERVER = "http://127.0.0.1:9/v1"
MODULES = {"plan": {"taskRephrasings": 2, "emitMemory": False}, "vqa": {"emissionHz": 0.1}}
SPEC = {"source": {"episodes": "1-3"}}
MISSING = [(1, "task"), (2, "plan"), (2, "vqa"), (3, "task")]
"""The results to be made first: two episodes have a task that is too short, and all builds on it."""
COLUMNS = ("requests", "images", "prompt_tokens", "answer_tokens")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The output tree of `run`, and the number of requests."""
    folder = tmp_path_factory.mktemp("whole")
    with demo_model() as server:
        done = run_command("run", "-f", write_manifest(folder, REFERENCE, server.base_url, MODULES, **SPEC))
        assert done.returncode == ExitCode.OK, done.stderr
        return tree(folder / "output"), len(server.bodies)


def planned(manifest, *options):
    """What `plan --json` says."""
    done = run_command("plan", "-f", manifest, "--json", *options)
    assert done.returncode == ExitCode.OK, done.stderr
    return json.loads(done.stdout)


def staged_plan(folder, digest):
    """The staged plan, which has the digest that names it."""
    content = (folder / "output.staging/plans" / f"{digest}.json").read_bytes()
    assert digest_bytes(content) == digest
    return json.loads(content)


def test_a_plan_says_what_a_run_asks_and_asks_nothing(tmp_path, whole):
    manifest = write_manifest(tmp_path, REFERENCE, NO_SERVER, MODULES, **SPEC)
    value = planned(manifest)
    assert value["episodes"] == 3
    assert value["modules"].keys() == {"task", "plan", "vqa"}
    for column in COLUMNS:
        assert value["total"][column] == sum(module[column] for module in value["modules"].values()) > 0
    assert value["total"]["requests"] == whole[1]
    lengths = [length for _, length in staged_plan(tmp_path, value["plan"])["episodes"]]
    assert value["frames"] == sum(lengths)
    assert lengths == sorted(lengths, reverse=True)
    assert not (tmp_path / "output").exists()
    assert [path.name for path in (tmp_path / "output.staging").iterdir()] == ["plans"]


def test_settings_for_a_cluster_are_a_warning_on_one_machine_and_none_in_a_pod(tmp_path, whole):
    spec = SPEC | {"workers": {"parallelism": 3}, "queueName": "gpus"}
    said = "settings without effect here: spec.workers.parallelism, spec.queueName (only on a cluster)"
    with demo_model() as server:
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, MODULES, **spec)
        done = run_command("plan", "-f", manifest)
        assert f"annotationrun: warning: {said}\n" in done.stderr
        assert planned(manifest)["warnings"] == [said]
        in_pod = run_command("plan", "-f", manifest, "--result", tmp_path / "result.json")
        assert in_pod.returncode == ExitCode.OK
        assert said not in in_pod.stderr
        report = tmp_path / "report.json"
        done = run_command("run", "-f", manifest, "--report", report)
    assert done.returncode == ExitCode.OK, done.stderr
    assert done.stderr.count(f"annotationrun: warning: {said}\n") == 1
    assert json.loads(report.read_text())["warnings"] == [said]
    assert tree(tmp_path / "output") == whole[0]


def test_the_table_has_the_numbers_of_the_json(tmp_path):
    manifest = write_manifest(tmp_path, REFERENCE, NO_SERVER, MODULES, **SPEC)
    value = planned(manifest)
    done = run_command("plan", "-f", manifest)
    assert done.returncode == ExitCode.OK, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"3 episodes, {value['frames']} frames;")
    for name, counts in {**value["modules"], "in all": value["total"]}.items():
        (row,) = [line for line in lines if line.strip().startswith(f"{name} ")]
        assert [int(cell.replace(",", "")) for cell in row.strip().removeprefix(name).split()] == [
            counts[column] for column in COLUMNS
        ]
    assert f"plan: {value['plan']}" in lines
    assert f"staging: {tmp_path / 'output.staging'}" in lines


def test_the_same_run_has_the_same_plan_and_another_has_another(tmp_path):
    manifest = write_manifest(tmp_path, REFERENCE, NO_SERVER, MODULES, **SPEC)
    every, limited = planned(manifest)["plan"], planned(manifest, "--limit", "2")["plan"]
    assert planned(manifest)["plan"] == every
    assert limited != every
    assert [index for index, _ in staged_plan(tmp_path, limited)["episodes"]] in ([1, 2], [2, 1])
    spec = SPEC | {"workers": {"requestConcurrency": 2}}
    assert planned(write_manifest(tmp_path, REFERENCE, NO_SERVER, MODULES, **spec))["plan"] == every, (
        "how much goes on at once is no part of what is done"
    )
    assert planned(write_manifest(tmp_path, REFERENCE, NO_SERVER, MODULES, **SPEC, seed=2))["plan"] != every


def test_annotate_takes_a_plan_and_does_that(tmp_path):
    with demo_model() as server:
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, MODULES, **SPEC)
        value = planned(manifest, "--limit", "2")
        done = run_command("annotate", "-f", manifest, "--limit", "2", "--plan", value["plan"])
        assert done.returncode == ExitCode.OK, done.stderr
        assert len(server.bodies) == value["total"]["requests"]
    assert "2 episodes, 4 results made" in done.stdout
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("options", "spec"),
    [
        pytest.param([], {"seed": 2}, id="another manifest"),
        pytest.param(["--limit", "2"], {}, id="another limit"),
    ],
)
def test_a_plan_of_something_else_is_refused(tmp_path, options, spec):
    digest = planned(write_manifest(tmp_path, REFERENCE, NO_SERVER, MODULES, **SPEC))["plan"]
    other = write_manifest(tmp_path, REFERENCE, NO_SERVER, MODULES, **SPEC, **spec)
    done = run_command("annotate", "-f", other, "--plan", digest, *options)
    assert done.returncode == ExitCode.CONFIGURATION
    assert f"the plan {digest} was made for another manifest or --limit; plan again" in done.stderr


def test_a_plan_that_is_not_there_is_named(tmp_path):
    manifest = write_manifest(tmp_path, REFERENCE, NO_SERVER, MODULES, **SPEC)
    done = run_command("annotate", "-f", manifest, "--plan", "0" * 64)
    assert done.returncode == ExitCode.STORAGE
    assert f"holds no plan {'0' * 64}; make it with 'annotationrun plan'" in done.stderr


def test_merge_before_annotate_lists_what_is_missing(tmp_path):
    manifest = write_manifest(tmp_path, REFERENCE, NO_SERVER, MODULES, **SPEC)
    report = tmp_path / "report.json"
    done = run_command("merge", "-f", manifest, "--report", report)
    assert done.returncode == ExitCode.INCOMPLETE
    assert "3 of 3 episodes lack results; nothing was written to the output:" in done.stderr
    for episode, module in MISSING:
        assert f"episode {episode}, {module}\n" in done.stderr
    assert "run 'annotationrun annotate'" in done.stderr
    assert not (tmp_path / "output").exists()
    left = json.loads(report.read_text())["left"]
    assert sorted((found["episode"], found["module"]) for found in left) == MISSING


def test_annotate_and_merge_come_to_what_run_does(tmp_path, whole):
    expected, requests = whole
    with demo_model() as server:
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, MODULES, **SPEC)
        annotated = run_command("annotate", "-f", manifest)
        assert annotated.returncode == ExitCode.OK, annotated.stderr
        assert len(server.bodies) == requests
        assert not (tmp_path / "output").exists()
    merged = run_command("merge", "-f", manifest)  # the server is gone
    assert merged.returncode == ExitCode.OK, merged.stderr
    assert tree(tmp_path / "output") == expected
    again = run_command("merge", "-f", manifest)
    assert "0 files and 0 bytes written" in again.stdout
