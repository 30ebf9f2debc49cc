"""The power is cut after each operation of a run's staging folder: what was synced is left, or more.

The run's operations on the disk are recorded; each prefix is played on a model of a file system. What counted
as written is left whole, and a rerun over what is left ends with the same bytes.
"""

import itertools
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.faults.test_killed_runs import hashes, seen
from tests.support.annotation import REFERENCE, run_command, write_manifest
from tests.support.attacks import Cost, row
from tests.support.checkout import ROOT
from tests.support.disk_operations import REACHED, Disk, Operation, write_files
from tests.support.openai_server import scripted_server

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.staging.gc import check_objects
from annotationrun_worker.staging.store import StagingStore

MODULES = {
    "plan": {"taskRephrasings": 0, "emitMemory": False, "deriveTask": "Always"},
    "vqa": {"emissionHz": 0.5, "questionTypes": ["count"]},
}
ONE_EPISODE = {"episodes": "0"}
UNSYNCED = ("workers/", "usage/")
"""What is written again every few seconds."""
STAGED_AT = {"answers/": "AFTER_ANSWER", "results/": "AFTER_RESULT", "plans/": "AFTER_PLAN"}
"""By folder: the fault point at which one more object there counts as written."""
SEEDS = 3
"""Disks for each prefix on which what was not synced came to the disk in part."""
TORN_RERUNS = 16
"""Over so many of those."""
AT_ONCE = 3


@dataclass(frozen=True)
class Recording:
    """What a run that was left alone did to the disk."""

    endpoint: str
    operations: list[Operation]
    output: dict[str, str]
    """Hashes."""
    staging: Path

    def disks(self):
        """By number of operations done: the disk, and how often each fault point was reached."""
        disk, reached = Disk(self.staging), Counter()
        for done, operation in enumerate(self.operations, 1):
            disk.do(operation)
            if operation.name == REACHED:
                reached[operation.paths[0]] += 1
            yield done, disk, reached


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    log = folder / "operations"
    with scripted_server(seen, models=("demo-vlm",)) as server:
        manifest = write_manifest(folder, REFERENCE, server.base_url, MODULES, source=ONE_EPISODE)
        command = [sys.executable, "-m", "tests.support.disk_operations", log, "run", "-f", manifest]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        operations = [Operation.from_json(line) for line in log.read_text().splitlines()]
        yield Recording(
            server.base_url, operations, hashes(folder / "output"), folder / "output.staging"
        )  # fmt: skip


def below(files: dict[str, bytes], folder: str) -> dict[str, bytes]:
    return {path: content for path, content in files.items() if path.startswith(folder) and "#" not in path}


def test_the_recording_ends_with_what_lies_on_the_disk(recording):
    *_, (_, disk, reached) = recording.disks()
    there = {
        path.relative_to(recording.staging).as_posix(): path.read_bytes() for path in files_in(recording)
    }
    assert {path.partition("/")[0] for path in there} >= {"answers", "results", "plans", "merges", "usage"}
    left = disk.synced()
    for path, content in there.items():
        assert left.get(path) == content or path.startswith(UNSYNCED), path
    assert reached["AFTER_ANSWER"] == len(below(left, "answers/"))


def files_in(recording):
    return [path for path in recording.staging.rglob("*") if path.is_file()]


def test_what_counts_as_written_is_left_whole_wherever_the_power_is_cut(recording):
    """For every prefix: an answer that was staged, say, is there before anything is built on it."""
    whole: dict[str, bytes] = {}
    for done, disk, reached in recording.disks():
        left = disk.synced()
        for folder, point in STAGED_AT.items():
            assert len(below(left, folder)) >= reached[point], f"{folder} after {done} operations"
        for path, content in left.items():
            if not path.startswith(UNSYNCED) and "#" not in path:
                assert content or path.startswith(("progress/", "index/")), f"{path} after {done} operations"
                assert whole.setdefault(path, content) == content
    assert done > 100


def test_no_prefix_leaves_an_object_that_can_not_be_read_but_heartbeats_and_counts(recording, tmp_path):
    """Neither where what was not synced came to the disk in part."""
    checked = 0
    numbers = itertools.count()
    seen_before = set()
    for done, disk, _ in recording.disks():
        for seed in range(SEEDS):
            left = disk.torn(done * SEEDS + seed)
            if (key := frozenset(left.items())) in seen_before:
                continue
            seen_before.add(key)
            folder = tmp_path / str(next(numbers))
            write_files(folder, left)
            damaged = [found.path for found in check_objects(StagingStore(folder)) if found.damage]
            assert all(path.startswith(UNSYNCED) for path in damaged), f"after {done} operations, seed {seed}"
            checked += 1
    assert checked >= 200


def disks_left(recording):
    """All that prefixes leave with nothing but what was synced; and of those with more some, by seed."""
    synced, torn = {}, {}
    for done, disk, _ in recording.disks():
        synced[frozenset(disk.synced().items())] = done
        for seed in range(SEEDS):
            torn[frozenset(disk.torn(done * SEEDS + seed).items())] = done
    more = random.Random(16).sample([one for one in torn if one not in synced], TORN_RERUNS)
    return [dict(files) for files in (*synced, *more)]


def test_a_rerun_after_a_power_cut_ends_with_the_same_bytes(recording, tmp_path, printed):
    started = time.monotonic()

    def rerun(number_and_files):
        number, files = number_and_files
        folder = tmp_path / str(number)
        folder.mkdir()
        write_files(folder / "staging", files)
        manifest = write_manifest(folder, REFERENCE, recording.endpoint, MODULES, source=ONE_EPISODE)
        done = run_command("run", "-f", manifest, "--staging", folder / "staging")
        return done.returncode, done.stderr, hashes(folder / "output")

    with ThreadPoolExecutor(AT_ONCE) as executor:
        ended = list(executor.map(rerun, enumerate(disks_left(recording))))
    assert len(ended) >= TORN_RERUNS + 12, "each answer, result, claim and plan makes another disk"
    for number, (code, stderr, output) in enumerate(ended):
        assert code == ExitCode.OK, f"disk {number}: {stderr}"
        assert output == recording.output, f"disk {number}"
        assert "Traceback" not in stderr
    attack = f"power cut after each of {len(recording.operations)} steps: {len(ended)} disks, rerun"
    peak_mebibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # of Linux in KiB
    row(printed, attack, "exit 0, same bytes", Cost(time.monotonic() - started, peak_mebibytes))
