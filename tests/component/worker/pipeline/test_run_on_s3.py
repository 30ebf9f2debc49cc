"""Runs whose staging store is a bucket of a real S3 server; they come to the same as with a folder."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from tests.support.annotation import REFERENCE, run_command, write_manifest
from tests.support.file_trees import tree
from tests.support.module_runs import demo_model, look
from tests.support.s3_server import SECRET_KEY, free_port

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.staging.gc import Sweep, delete
from annotationrun_worker.staging.store import open_store

IN_FLIGHT = 3
MODULES = {
    "plan": {"taskRephrasings": 2},
    "interjections": {"minTimeSeconds": 1.0},
    "vqa": {"emissionHz": 0.5},
}
SPEC = {"source": {"episodes": "1,2"}, "workers": {"requestConcurrency": IN_FLIGHT}}
FAILS_WITHIN_SECONDS = 60

pytestmark = pytest.mark.needs_s3


@pytest.fixture(scope="module")
def on_a_folder(tmp_path_factory):
    """The output tree, what is staged, and the number of requests, of a run that stages in a folder."""
    folder = tmp_path_factory.mktemp("folder")
    with demo_model() as server:
        done = run_command("run", "-f", write_manifest(folder, REFERENCE, server.base_url, MODULES, **SPEC))
        assert done.returncode == ExitCode.OK, done.stderr
        return tree(folder / "output"), staged(folder / "output.staging"), len(server.bodies)


def staged(location):
    """How many objects there are of each kind."""
    folders = ("plans", "answers", "results", "merges", "claims", "workers", "failures")
    store = open_store(location)
    return {folder: len(list(store.list_now(folder))) for folder in folders}


def test_the_output_is_that_of_a_folder_and_a_rerun_asks_nothing(tmp_path, s3_location, on_a_folder):
    expected, objects, requests = on_a_folder
    with demo_model() as server:
        staging = {"uri": s3_location}
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, MODULES, staging=staging, **SPEC)
        done = run_command("run", "-f", manifest)
        assert done.returncode == ExitCode.OK, done.stderr
        again = run_command("run", "-f", manifest)
        assert len(server.bodies) == requests
    assert tree(tmp_path / "output") == expected
    assert not (tmp_path / "output.staging").exists()
    assert again.returncode == ExitCode.OK
    assert "0 files and 0 bytes written" in again.stdout
    assert staged(s3_location) == objects
    assert min(objects[kind] for kind in ("plans", "answers", "results", "merges")) > 0
    assert objects["claims"] == objects["workers"] == objects["failures"] == 0


def test_two_workers_share_a_bucket(tmp_path, s3_location, on_a_folder):
    expected, objects, requests = on_a_folder
    with demo_model() as server:
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, MODULES, **SPEC)
        done = run_command("run", "-f", manifest, "--staging", s3_location, "--workers", "2")
        assert done.returncode == ExitCode.OK, done.stderr
        asked = len(server.bodies)
    assert tree(tmp_path / "output") == expected
    assert "results made, 0 reused, 0 made twice" in done.stdout
    asked_by_both = 3  # the check of coordinates, and two questions about a task alone
    assert requests <= asked <= requests + asked_by_both
    assert staged(s3_location) == objects


def test_a_killed_run_goes_on_where_it_was(tmp_path, s3_location, on_a_folder):
    expected, objects, requests = on_a_folder
    process = None

    def kills(number, body):
        if number == requests // 2:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return look(body)

    with demo_model(kills) as server:
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, MODULES, **SPEC)
        run = ["run", "-f", str(manifest), "--staging", s3_location]
        process = subprocess.Popen(
            [sys.executable, "-m", "annotationrun_worker", *run],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        assert process.wait(timeout=300) == -signal.SIGKILL
        left = staged(s3_location)
        assert left["workers"] == 1
        assert left["claims"] > 0
        assert left["merges"] == 0
        done = run_command(*run)
        assert done.returncode == ExitCode.OK, done.stderr
        assert requests <= len(server.bodies) <= requests + IN_FLIGHT
    assert tree(tmp_path / "output") == expected
    claims_of_the_dead = {"claims": staged(s3_location)["claims"], "workers": 1}  # for results that it staged
    assert staged(s3_location) == objects | claims_of_the_dead
    store = open_store(s3_location)
    for garbage in Sweep(store, datetime.now(UTC) + timedelta(hours=2)).find():
        delete(store, garbage)
    assert staged(s3_location) == objects


def wrong_bucket(location, monkeypatch):
    return location.replace("s3://staging/", "s3://nobodys/")


def wrong_key(location, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-key")
    return location


def nobody_listens(location, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    return location


@pytest.mark.parametrize(
    ("breaks", "cause"),
    [
        pytest.param(wrong_bucket, "NoSuchBucket", id="a bucket that is missing"),
        pytest.param(wrong_key, "SignatureDoesNotMatch", id="a wrong key"),
        pytest.param(nobody_listens, "Connection refused", id="an endpoint where nobody listens"),
    ],
)
def test_a_store_that_can_not_be_used_ends_the_run_before_a_question(
    tmp_path, s3_location, monkeypatch, printed, breaks, cause
):
    location = breaks(s3_location, monkeypatch)
    with demo_model() as server:
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, MODULES, **SPEC)
        start = time.monotonic()
        done = run_command("run", "-f", manifest, "--staging", location)
        took_seconds = time.monotonic() - start
        assert not server.bodies
    printed(f"{took_seconds:.1f} s, exit {done.returncode}: {done.stderr.strip()}")
    assert done.returncode == ExitCode.STORAGE
    assert took_seconds < FAILS_WITHIN_SECONDS
    assert f"in the staging store '{location}'" in done.stderr
    assert cause in done.stderr
    assert "look at the bucket's name, the endpoint, credentials and permissions" in done.stderr
    assert SECRET_KEY not in done.stderr
    assert not (tmp_path / "output").exists()
