"""Hundreds of damaged datasets, each met by a command: an exit code that is documented, and no traceback."""

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

from tests.support.annotation import write_manifest
from tests.support.forked_command import start_forked
from tests.support.mutations import mutate
from tests.support.tiny_dataset import write_tiny_dataset

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.command_line import build_app

COUNT, FIRST_SEED = int(os.environ.get("DAMAGED_DATASETS", "200")), 16_000
"""The same ones each time; more of them for who has the time."""
MOST_SECONDS = 10
MOST_BYTES = 1024**3
MODULES = {"vqa": {"questionTypes": ["count"], "emissionHz": 1.0}}
NOBODY = "http://127.0.0.1:9/v1"


class TooLongError(BaseException):
    """A command took too long; nothing in it takes this for an error of its own."""


def meet(folder: Path, dataset: Path, report: Path) -> None:
    """Run the commands, all in this process, and write what became of each."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    found = []
    for seed in range(FIRST_SEED, FIRST_SEED + COUNT):
        place = folder / str(seed)
        shutil.copytree(dataset, place / "dataset")
        done = mutate(place / "dataset", seed)
        manifest = write_manifest(place, place / "dataset", NOBODY, MODULES)
        commands = [
            ["plan", "-f", str(manifest)],
            ["validate", str(place / "dataset")],
            ["show", str(place / "dataset")],
            ["drop", str(place / "dataset"), "--module", "vqa", "--output", str(place / "dropped")],
        ]
        command = commands[seed % len(commands)]
        found.append([seed, command[0], done, *run_here(command)])
        shutil.rmtree(place)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    report.write_text(json.dumps({"found": found, "peak_bytes": peak_bytes}), encoding="utf-8")


def run_here(command: list[str]) -> tuple[int | None, str, float]:
    """Exit code, what was said, seconds; no exit code where an exception came out."""
    said, start = io.StringIO(), time.monotonic()
    code: int | None = None
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(MOST_SECONDS)
    sys.argv[1:] = command
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            build_app(command)()
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except (Exception, KeyboardInterrupt, TooLongError):  # noqa: BLE001  (whatever it is, it should not have come out)
        said.write(traceback.format_exc())
    signal.alarm(0)
    return code, said.getvalue(), time.monotonic() - start


def too_long(number: int, frame: object) -> None:
    raise TooLongError(f"more than {MOST_SECONDS} s")


def test_no_damage_to_a_dataset_makes_a_traceback(tmp_path, printed):
    dataset, report = write_tiny_dataset(tmp_path / "dataset"), tmp_path / "report.json"
    start = time.monotonic()
    process = start_forked(meet, tmp_path, dataset, report)
    process.join(COUNT * MOST_SECONDS / 4)
    process.kill()
    process.join()
    assert process.exitcode == 0
    told = json.loads(report.read_bytes())
    seconds = time.monotonic() - start
    printed(
        f"{f'{COUNT} damaged datasets, seeds from {FIRST_SEED}':44} "
        f"{told['peak_bytes'] / 1024**2:7.0f} MiB {seconds:6.2f} s",
        title="attacks",
    )
    documented = set(map(int, ExitCode)) - {ExitCode.FAILED}  # that would be a defect of ours
    bad = [row for row in told["found"] if row[3] not in documented or "Traceback" in row[4]]
    texts = "\n".join(
        f"seed {row[0]}, {row[1]}, {row[2]}: exit {row[3]}\n{row[4][-1500:]}" for row in bad[:9]
    )
    assert not bad, f"{len(bad)} of {COUNT}\n{texts}"
    assert told["peak_bytes"] < MOST_BYTES
    refused = [row for row in told["found"] if row[3] == ExitCode.DATASET]
    assert COUNT / 4 < len(refused) < COUNT, "damage is found, and some of it harms nobody"
    assert max(row[5] for row in told["found"]) < MOST_SECONDS
