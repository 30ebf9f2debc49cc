"""Disks that can't be written, mounted for the test (needs root): named; what was staged is kept."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.bad_input import REQUESTS, Bench, Case, Outcome, check_failure, check_success, count_blocks
from tests.support.openai_server import Reply

from annotationrun_api.exit_codes import ExitCode

ALL = REQUESTS[0] + REQUESTS[5]
LARGE = "size=64m"

pytestmark = pytest.mark.needs_root

Tabulate = Callable[[str, str, Outcome], None]


@dataclass(frozen=True)
class Disk:
    """A file system in memory of its own."""

    folder: Path

    def mount(self, options: str) -> None:
        self.folder.mkdir()
        _do("mount", "-t", "tmpfs", "-o", options, "tmpfs", self.folder)

    def remount(self, options: str) -> None:
        _do("mount", "-o", f"remount,{options}", self.folder)


def _do(*command: str | Path) -> None:
    subprocess.run(list(map(str, command)), check=True, timeout=60)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk")
    yield made
    if made.folder.is_mount():
        _do("umount", "--lazy", made.folder)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        pytest.param(
            "output", r"the output .*/disk/output can't be written: .*Read-only file system", id="output"
        ),
        pytest.param(
            "staging",
            r"the staging folder '.*/disk/staging' can't be written: .*Read-only file system",
            id="staging",
        ),
    ],
)
def test_a_read_only_disk_is_found_before_anything_is_asked(
    what: str, says: str, bench: Bench, disk: Disk, tabulate: Tabulate
) -> None:
    disk.mount(LARGE)
    disk.remount("ro")
    setattr(bench, what, disk.folder / what)
    case = Case(f"read-only {what}", ExitCode.STORAGE, (says, "check space and permissions, or"))
    bad = bench.run()
    tabulate("disk", case.name, bad)
    check_failure(case, bad, bench)
    assert bad.asked == 0
    disk.remount("rw")
    good = bench.run()
    check_success(good, bench)
    assert good.asked == ALL


def test_a_disk_that_is_too_small_for_the_output_is_found_before_anything_is_asked(
    bench: Bench, disk: Disk, tabulate: Tabulate
) -> None:
    disk.mount("size=1m")
    bench.output = disk.folder / "output"
    case = Case(
        "small disk for the output",
        ExitCode.STORAGE,
        (r"the output '.*/disk/output' takes about [\d,]+ bytes", r"[\d,]+ free; make room"),
    )
    bad = bench.run()
    tabulate("disk", case.name, bad)
    check_failure(case, bad, bench)
    assert bad.asked == 0
    disk.remount(LARGE)
    good = bench.run()
    check_success(good, bench)
    assert good.asked == ALL


def test_what_a_killed_merge_left_and_hidden_folders_of_the_source_take_no_room(
    bench: Bench, disk: Disk
) -> None:
    disk.mount("size=16m")
    bench.output = disk.folder / "output"
    leftover = disk.folder / ".output.partial-00000000"
    leftover.mkdir()
    (leftover / "half").write_bytes(bytes(14 * 1024 * 1024))
    hidden = bench.copy_dataset() / ".git"
    hidden.mkdir()
    with (hidden / "large").open("wb") as file:
        file.truncate(1024**3)
    good = bench.run()
    check_success(good, bench)
    assert not leftover.exists()


def test_a_disk_that_is_filled_while_the_model_answers_costs_no_answer(
    bench: Bench, disk: Disk, tabulate: Tabulate
) -> None:
    disk.mount(LARGE)
    bench.output = disk.folder / "outputs" / "output"
    filler = disk.folder / "filler"

    def fill(number: int, body: dict[str, Any]) -> Reply:
        with suppress(OSError), filler.open("ab") as file:
            while True:
                file.write(bytes(1024 * 1024))
        return count_blocks(number, body)

    case = Case(
        "full disk for the output",
        ExitCode.STORAGE,
        (r"/disk/outputs/output", "No space left on device", "check space"),
    )
    bad = bench.run(fill)
    tabulate("disk", case.name, bad)
    check_failure(case, bad, bench)
    assert bad.asked == ALL
    filler.unlink()
    good = bench.run()
    check_success(good, bench)
    assert good.asked == 0


def test_a_disk_that_is_too_small_for_the_staging_keeps_what_it_took(
    bench: Bench, disk: Disk, tabulate: Tabulate
) -> None:
    disk.mount("size=32k")  # a page for each object: fewer than the ten answers and two results
    bench.staging = disk.folder / "staging"
    case = Case(
        "full disk for the staging",
        ExitCode.STORAGE,
        (r"in the staging store '.*/disk/staging'", "No space left on device", "what is staged stays"),
    )
    bad = bench.run()
    tabulate("disk", case.name, bad)
    check_failure(case, bad, bench)
    staged = len(list(bench.staging.glob("answers/*/*.json")))
    assert 0 < staged < ALL
    disk.remount(LARGE)
    good = bench.run()
    check_success(good, bench)
    assert good.asked == ALL - staged
