"""The README is true: its commands are run in a copy of the project, as a stranger would."""

import ast
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from tests.support.checkout import ROOT
from tests.support.hub_server.server import HubServer

from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.manifest import load_manifest, parse_manifest
from annotationrun_api.spec import AnnotationRun
from annotationrun_api.spec_fields import type_at
from annotationrun_worker.pipeline.config import check_supported

README = (ROOT / "README.md").read_text(encoding="utf-8")
KUBERNETES = README.partition("\n## On Kubernetes\n")[2].partition("\n## ")[0]
CHART = ROOT / "helm" / "annotationrun"
RUN_BY_CI = "make test"
"""What runs this test among others."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    return [line for block in blocks("console") for line in block.splitlines() if line]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What git would hand to a stranger: tracked files, and new ones that are not ignored."""
    folder = tmp_path / "checkout"
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


def test_pre_commit_formats_and_lints_with_the_tools_of_the_environment(checkout, tmp_path):
    (checkout / ".venv").symlink_to(Path(sys.executable).parents[1])
    badly_formatted = checkout / "tests" / "badly_formatted.py"
    badly_formatted.write_text('"""A module."""\nx = {  "a":1 }\n')
    environment = {**os.environ, "PRE_COMMIT_HOME": str(tmp_path / "home"), "GIT_CONFIG_GLOBAL": os.devnull}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=checkout, env=environment, capture_output=True, text=True, check=False
        )

    assert run("git", "init", "--quiet").returncode == 0
    assert run("git", "add", "--all").returncode == 0
    first = run(".venv/bin/pre-commit", "run", "--all-files")
    assert first.returncode == 1, first.stdout + first.stderr
    assert badly_formatted.read_text() == '"""A module."""\n\nx = {"a": 1}\n'
    second = run(".venv/bin/pre-commit", "run", "--all-files")
    assert second.returncode == 0, second.stdout + second.stderr
    assert second.stdout.count("Passed") == 3


def test_a_suite_s_target_takes_arguments_for_pytest():
    command = ["make", "--no-print-directory", "--dry-run", "unit", "ARGS=-k 'spans or tiles'"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1].endswith("-m tests.suites unit -- -k 'spans or tiles'")
    assert " ffmpeg" not in printed, "nothing is decoded"


def test_the_manifests_shown_are_such_that_run():
    """The first is whole; the others are parts, which take the place of its own."""
    whole, *parts = blocks("yaml")
    assert parts
    for part in ("", *parts):
        manifest = yaml.safe_load(whole)
        manifest["spec"] |= yaml.safe_load(part)["spec"] if part else {}
        check_supported(parse_manifest(yaml.safe_dump(manifest), "README.md"), endpoint_given=False)


def test_the_exit_codes_are_those_of_the_code():
    members, named = ast.parse(inspect.getsource(ExitCode)).body[0].body, []
    for assignment, text in pairwise(members):
        if isinstance(assignment, ast.Assign):
            name = assignment.targets[0].id
            named.append(name)
            assert f"| {ExitCode[name].value} | {name} | {text.value.value} |" in README
    assert named == list(ExitCode.__members__)


def test_every_make_target_named_exists():
    named = set(re.findall(r"`make ([a-z-]+)", README))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert named
    assert named <= targets


def shell_commands(text: str) -> list[list[str]]:
    """What a cluster is needed for: not run here, but held to the files, values and fields that it names."""
    found = re.findall(r"^```shell\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = "".join(found).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


def options(command: list[str], name: str) -> list[str]:
    """Values of an option, given as `--name value` or `--name=value`."""
    joined = [part.partition("=")[2] for part in command if part.startswith(f"{name}=")]
    return joined + [after for before, after in pairwise(command) if before == name]


def test_every_file_that_a_shell_command_names_exists():
    named = [value for command in shell_commands(README) for value in options(command, "-f")]
    named += [command[3] for command in shell_commands(README) if command[:2] == ["helm", "install"]]
    assert len(named) >= 2
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_chart_value_that_the_readme_names_exists():
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    tops = "|".join(values)
    named = {
        value.partition("=")[0] for command in shell_commands(README) for value in options(command, "--set")
    }
    assert named
    named |= set(re.findall(rf"`((?:{tops})(?:\.[A-Za-z]+)*)`", KUBERNETES))
    for name in named:
        value = values
        for part in name.split("."):
            assert part in value, name
            value = value[part]


def test_the_images_that_are_built_are_those_that_the_chart_installs():
    stages = re.findall(
        r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE
    )
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    commands = shell_commands(README)
    (registry,) = [
        value.removeprefix("image.registry=") for command in commands for value in options(command, "--set")
    ]
    wanted = {
        f"{registry}/{image['repository']}:{chart['appVersion']}"
        for image in (values["image"], values["worker"]["image"])
    }
    builds = [command for command in commands if command[:2] == ["docker", "build"]]
    assert {options(command, "--target")[0] for command in builds} <= set(stages)
    assert {options(command, "-t")[0] for command in builds} == wanted
    assert {command[2] for command in commands if command[:2] == ["docker", "push"]} == wanted
    assert chart["kubeVersion"].startswith(">=1.29.")
    assert "Kubernetes 1.29 or later" in KUBERNETES


def test_the_run_that_is_applied_is_the_one_that_is_waited_for_and_patched():
    (sample,) = {value for command in shell_commands(README) for value in options(command, "-f")}
    run = load_manifest(ROOT / sample)
    check_supported(run, endpoint_given=True)
    names = {
        part.removeprefix("arun/")
        for command in shell_commands(README)
        for part in command
        if "volume" in part
    }
    assert names == {sample, run.metadata.name}


@pytest.mark.parametrize("page", ["README.md", "operator/RUNBOOK.md"])
def test_every_patch_is_of_fields_that_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    patches = [json.loads(value) for command in shell_commands(text) for value in options(command, "--patch")]
    assert len(patches) == 3
    for patch in patches:
        ((part, fields),) = patch.items()
        for name, value in fields.items():
            found = type_at(AnnotationRun, [part, name])
            assert found is not None
            assert isinstance(value, found.base)


def test_every_field_that_the_readme_names_exists():
    named = set(re.findall(r"`(spec(?:\.[a-zA-Z]+)+)`", README))
    assert len(named) > 10
    assert {name for name in named if type_at(AnnotationRun, name.split(".")) is None} == set()


def test_every_page_that_the_readme_links_to_exists():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(links) > 5
    for link in links:
        path, _, anchor = link.partition("#")
        text = (ROOT / (path or "README.md")).read_text(encoding="utf-8")
        titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        slugs = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not anchor or anchor in slugs, link


def test_a_publish_is_taken_back_as_the_readme_says():
    commands = [command for command in shell_commands(README) if command[0] == "hf"]
    assert len(commands) == 2
    repo = commands[0][4]
    with HubServer() as hub:
        before = hub.add_repo(repo, {"meta/info.json": b"{}"}).sha
        hub.repo(repo).tags["v3.0"] = hub.append_commit(repo, {"meta/info.json": b"{ }"}).sha
        for command in commands:
            words = [before if word == "PREVIOUS_COMMIT" else word for word in command[1:]]
            environment = {**os.environ, **hub.environment}
            subprocess.run([Path(sys.executable).parent / "hf", *words], env=environment, check=True)
        assert hub.repo(repo).tags == {"v3.0": before}
