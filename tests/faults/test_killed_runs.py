"""A run whose process group is killed, at each fault point and at ten seeded moments, then run again.

The output of the second run is, byte for byte, that of a run which was left alone; and both runs together
asked no more than it did, but for what was in flight at the kill.
"""

import hashlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from tests.support.annotation import REFERENCE, run_command, run_fresh_command, write_manifest
from tests.support.forked_command import forked_command
from tests.support.hub_publication import FAULT_POINTS
from tests.support.openai_server import Reply, scripted_server

from annotationrun_worker.demo.answers import answer
from annotationrun_worker.demo.chat_request import parse_request
from annotationrun_worker.fault_points import FaultPoint

IN_FLIGHT = 3
MODULES = {"plan": {}, "interjections": {"minTimeSeconds": 1.0}, "vqa": {"emissionHz": 0.5}}
FEWER_MODULES = {"plan": {"emitMemory": False, "taskRephrasings": 0, "describeFirst": False}}
SPEC = {"source": {"episodes": "1,2"}, "workers": {"requestConcurrency": IN_FLIGHT}}

NEW = [
    (FaultPoint.AFTER_PLAN, 1),
    (FaultPoint.BEFORE_CLAIM, 1),
    (FaultPoint.BEFORE_CLAIM, 3),
    (FaultPoint.AFTER_CLAIM, 1),
    (FaultPoint.AFTER_CLAIM, 4),
    (FaultPoint.BEFORE_ANSWER, 1),
    (FaultPoint.BEFORE_ANSWER, 9),
    (FaultPoint.AFTER_ANSWER, 1),
    (FaultPoint.AFTER_ANSWER, 12),
    (FaultPoint.BEFORE_RESULT, 1),
    (FaultPoint.BEFORE_RESULT, 4),
    (FaultPoint.AFTER_RESULT, 1),
    (FaultPoint.AFTER_RESULT, 5),
    (FaultPoint.BEFORE_DATA_FILE, 1),
    (FaultPoint.BEFORE_METADATA, 1),
    (FaultPoint.BEFORE_OUTPUT_RENAME, 1),
    (FaultPoint.AFTER_OUTPUT_RENAME, 1),
    (FaultPoint.BEFORE_MERGE_RECORD, 1),
]
"""While a new output is made: the point, and at which time it is reached."""
REPLACED = [
    (FaultPoint.BEFORE_OUTPUT_ASIDE, 1),
    (FaultPoint.BEFORE_OUTPUT_RENAME, 1),
    (FaultPoint.AFTER_OUTPUT_RENAME, 1),
]
"""While an output that another manifest made is replaced."""
IN_PLACE = [
    (FaultPoint.BEFORE_DATA_FILE, 1),
    (FaultPoint.BEFORE_METADATA, 1),
    (FaultPoint.MID_JOURNAL, 1),
    (FaultPoint.AFTER_JOURNAL, 1),
    (FaultPoint.BEFORE_FILE_RENAME, 1),
    (FaultPoint.BEFORE_FILE_RENAME, 2),
    (FaultPoint.AFTER_FILE_RENAMES, 1),
    (FaultPoint.BEFORE_MERGE_RECORD, 1),
]
"""While a dataset is annotated in place."""
FAILING = [(FaultPoint.BEFORE_FAILURE, 1)]
"""While a result fails."""


def seen(number, body):
    """What the demo model answers."""
    return Reply(json.dumps(answer(parse_request(body))))


def refuses_boxes(number, body):
    """A model that makes nothing of questions about single frames."""
    schema = body["response_format"]["json_schema"]["name"]
    return Reply("I can't see that.") if schema.startswith("vqa") else seen(number, body)


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, by path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def killed_at(point: FaultPoint, hit: int, manifest: Path) -> None:
    """Run `manifest` until the process kills itself there."""
    done = forked_command("run", "-f", manifest, place=(point, hit))
    assert done.returncode == -9, f"{point.value} was not reached {hit} times: {done.stdout}{done.stderr}"


def run_whole(manifest: Path, command: Callable[..., CompletedProcess[str]] = run_command) -> None:
    done = command("run", "-f", manifest)
    assert done.returncode == 0, done.stderr
    left = [path.name for path in manifest.parent.iterdir() if path.name.startswith(".")]
    assert not left, "nothing of a killed merge stays beside the output"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Hashes of the output, and the number of requests, of a run that was left alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with scripted_server(seen, models=("demo-vlm",)) as server:
        run_whole(write_manifest(folder, REFERENCE, server.base_url, MODULES, **SPEC), run_fresh_command)
        return hashes(folder / "output"), len(server.bodies)


def test_every_fault_point_of_the_code_is_tried():
    tried = {point for point, _ in (*NEW, *REPLACED, *IN_PLACE, *FAILING)}
    assert tried | set(FAULT_POINTS) == set(FaultPoint), "those of a publish: test_publish_faults"


@pytest.mark.parametrize(("point", "hit"), NEW, ids=[f"{point.name}-{hit}" for point, hit in NEW])
def test_killed_while_a_new_output_is_made(tmp_path, undisturbed, point, hit):
    expected, requests = undisturbed
    with scripted_server(seen, models=("demo-vlm",)) as server:
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, MODULES, **SPEC)
        killed_at(point, hit, manifest)
        run_whole(manifest)
        assert hashes(tmp_path / "output") == expected
        assert requests <= len(server.bodies) <= requests + IN_FLIGHT


@pytest.mark.parametrize("seed", range(10))
def test_killed_from_outside_at_a_seeded_moment(tmp_path, undisturbed, seed):
    """Between 10 and 90 % of the answers, while the model is at one of them."""
    expected, requests = undisturbed
    moment = random.Random(seed).randint(requests // 10, requests * 9 // 10)
    process = None

    def kills(number, body):
        if number == moment:
            process.kill()
            process.wait()
        return seen(number, body)

    with scripted_server(kills, models=("demo-vlm",)) as server:
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, MODULES, **SPEC)
        command = [sys.executable, "-m", "annotationrun_worker", "run", "-f", str(manifest)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert process.wait(timeout=300) == -9
        run_whole(manifest)
        assert hashes(tmp_path / "output") == expected
        assert requests <= len(server.bodies) <= requests + IN_FLIGHT


@pytest.mark.parametrize(("point", "hit"), REPLACED, ids=[point.name for point, _ in REPLACED])
def test_killed_while_an_older_output_is_replaced(tmp_path, undisturbed, point, hit):
    with scripted_server(seen, models=("demo-vlm",)) as server:
        run_whole(write_manifest(tmp_path, REFERENCE, server.base_url, FEWER_MODULES, **SPEC))
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, MODULES, **SPEC)
        killed_at(point, hit, manifest)
        run_whole(manifest)
        assert hashes(tmp_path / "output") == undisturbed[0]


def in_place(folder: Path, endpoint: str) -> Path:
    """The manifest that annotates a copy of the dataset where it is."""
    dataset = folder / "output"
    shutil.copytree(REFERENCE, dataset)
    spec = {**SPEC, "output": {"path": str(dataset), "overwrite": True}}
    return write_manifest(folder, dataset, endpoint, MODULES, **spec)


@pytest.fixture(scope="module")
def undisturbed_in_place(tmp_path_factory):
    """Hashes of a dataset that was annotated in place, and left alone."""
    folder = tmp_path_factory.mktemp("undisturbed-in-place")
    with scripted_server(seen, models=("demo-vlm",)) as server:
        manifest = in_place(folder, server.base_url)
        run_whole(manifest, run_fresh_command)
        changed = hashes(folder / "output")
        asked = len(server.bodies)
        run_whole(manifest)
        assert hashes(folder / "output") == changed, "the same manifest changes nothing"
        assert len(server.bodies) == asked
        return changed


@pytest.mark.parametrize(("point", "hit"), IN_PLACE, ids=[f"{point.name}-{hit}" for point, hit in IN_PLACE])
def test_killed_while_a_dataset_is_annotated_in_place(tmp_path, undisturbed_in_place, point, hit):
    with scripted_server(seen, models=("demo-vlm",)) as server:
        manifest = in_place(tmp_path, server.base_url)
        killed_at(point, hit, manifest)
        run_whole(manifest)
        assert hashes(tmp_path / "output") == undisturbed_in_place


def test_killed_while_a_failure_is_noted(tmp_path, undisturbed):
    ((point, hit),) = FAILING
    with scripted_server(refuses_boxes, models=("demo-vlm",)) as server:
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, MODULES, **SPEC)
        killed_at(point, hit, manifest)
        server.script = seen
        run_whole(manifest)
        assert hashes(tmp_path / "output") == undisturbed[0]
