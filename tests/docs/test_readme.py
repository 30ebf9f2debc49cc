"""The README is true: its commands are run in a copy of the project, as a stranger would."""

import ast
import inspect
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.manifest import parse_manifest
from annotationrun_worker.support import check_supported

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RUN_BY_CI = "make test"
"""The suite that this test belongs to."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    return [line for block in blocks("console") for line in block.splitlines() if line]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git would hand to a stranger: tracked files, and new ones that are not ignored."""
    folder = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def test_exactly_two_commands_set_everything_up():
    assert [command for command in commands() if command.startswith("make")] == ["make demo", RUN_BY_CI]


@pytest.mark.timeout(1800)
def test_the_commands_do_what_the_text_says(checkout):
    outputs = {}
    for command in commands():
        if command == RUN_BY_CI:
            continue
        done = subprocess.run(command.split(), cwd=checkout, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        outputs[command] = done.stdout
    assert "rows by style and episode" in outputs["make demo"]
    pairs, frames, cameras = map(
        int,
        re.search(r"(\d+) vqa pairs; (\d+) anchored frames x (\d+) cameras", outputs["make demo"]).groups(),
    )
    assert pairs == frames * cameras > 0
    assert "valid, 0 errors, 0 warnings" in outputs[".venv/bin/annotationrun validate out/demo/annotated"]
    again = outputs[".venv/bin/annotationrun run -f out/demo/manifest.yaml"]
    assert "0 requests," in again
    assert "0 files and 0 bytes written" in again
    shutil.rmtree(checkout / ".venv")


def test_the_manifest_shown_is_one_that_runs():
    (manifest,) = blocks("yaml")
    check_supported(parse_manifest(manifest, "README.md"), endpoint_given=False)


def test_the_exit_codes_are_those_of_the_code():
    members = ast.parse(inspect.getsource(ExitCode)).body[0].body
    for assignment, text in pairwise(members):
        if isinstance(assignment, ast.Assign):
            name = assignment.targets[0].id
            assert f"| {ExitCode[name].value} | {name} | {text.value.value} |" in README


def test_every_make_target_named_exists():
    named = set(re.findall(r"`make ([a-z-]+)", README))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert named
    assert named <= targets
