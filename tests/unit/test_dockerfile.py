"""What images are made of: the Dockerfiles, what is sent to them, and what the tests' digest is taken of."""

import re
from pathlib import Path

import pytest
from tests.cluster.images import BASE, INPUTS, VLLM
from tests.support.checkout import ROOT

APT = "apt-get -q -o Dir::State::Lists=/var/cache/apt/lists -o Dir::Cache::Archives=/var/cache/apt/packages"


def instructions(folder: Path) -> list[str]:
    """The lines of a Dockerfile, continued ones as one."""
    return re.sub(r"\\\n", " ", (folder / "Dockerfile").read_text(encoding="utf-8")).splitlines()


LINES = instructions(ROOT)


def copied() -> set[str]:
    """What is copied from the checkout, not from another stage."""
    found = [line.split()[1:-1] for line in LINES if line.startswith("COPY ") and "--from=" not in line]
    return {source for sources in found for source in sources}


def last_of_stage(word: str) -> dict[str, str]:
    """By stage, its last instruction that begins with `word`."""
    found, stage = {}, ""
    for line in LINES:
        if line.startswith("FROM "):
            stage = line.split()[-1]
        elif line.startswith(f"{word} "):
            found[stage] = line.removeprefix(f"{word} ")
    return found


def test_all_that_is_copied_is_sent_and_counts_for_the_images_names():
    allowed = {line.removeprefix("!") for line in lines_of(".dockerignore") if line.startswith("!")}
    assert copied() == allowed == set(INPUTS) - {"Dockerfile", ".dockerignore"}
    assert lines_of(".dockerignore")[0] == "*"


def lines_of(name: str) -> list[str]:
    return (ROOT / name).read_text(encoding="utf-8").splitlines()


def test_every_image_is_debian_under_the_name_that_the_tests_build():
    """Another, or the same by its digest, is an argument of the build."""
    stages = [line.split() for line in LINES if line.startswith("FROM ")]
    own = {words[3] for words in stages}
    assert {words[1] for words in stages} - own == {"${BASE}"}
    assert [line for line in LINES if line.startswith("ARG BASE")] == [
        f"ARG BASE={BASE.removeprefix('docker.io/library/')}"
    ]


def test_every_image_says_what_it_is_and_under_which_licences():
    labels = last_of_stage("LABEL")
    for target in ("operator", "worker"):
        told = dict(re.findall(r'org\.opencontainers\.image\.(\w+)=(?:"([^"]+)"|\S+)', labels[target]))
        assert told.keys() == {"title", "description", "licenses", "version", "revision"}
        assert told["title"] == f"annotationrun {target}"
    assert "GPL-2.0-or-later" in labels["worker"], "FFmpeg with x264 and x265"
    notices = [line for line in LINES if line.startswith("COPY ") and "/usr/share/doc/annotationrun/" in line]
    assert [line.split()[1:-1] for line in notices] == [["LICENSE"], ["LICENSE", "worker/NOTICE"]]


def test_no_image_runs_as_root():
    users = last_of_stage("USER")
    assert {users[target] for target in ("operator", "worker", "demo-vlm")} == {"65532:65532"}


def test_the_workers_image_goes_without_torch():
    """No command makes a tensor; torch is two thirds of an image that has it."""
    names = {line.split("==")[0] for line in lines_of("worker/requirements.txt") if "==" in line}
    assert {"av", "pyarrow", "pydantic"} <= names
    assert not {name for name in names if name.startswith(("torch", "nvidia", "cuda", "triton"))}
    assert not [line for line in LINES if "torch" in line]


def calls(folder: Path, words: str) -> list[str]:
    """The instructions RUN that have these words."""
    return [line for line in instructions(folder) if line.startswith("RUN ") and words in line]


def mounted_caches(line: str) -> dict[str, tuple[str, str]]:
    """The name and the sharing of each cache, by where it is mounted."""
    found = re.findall(r"--mount=type=cache,id=([^, ]+),target=([^, ]+)(?:,sharing=(\S+))?", line)
    return {target: (name, sharing) for name, target, sharing in found}


@pytest.mark.parametrize("folder", [ROOT, VLLM], ids=["project", "vllm"])
def test_packages_of_debian_are_downloaded_into_caches_that_one_stage_has_at_a_time(folder):
    """One set for all stages of both Dockerfiles; a cache is not in the image."""
    lines = calls(folder, "apt-get")
    assert len(lines) >= 2
    for line in lines:
        assert mounted_caches(line) == {"/var/cache/apt": ("annotationrun-apt", "locked")}
        assert line.count("apt-get") == line.count(APT) == 1
        assert line.count("$get install") == 1


@pytest.mark.parametrize("folder", [ROOT, VLLM], ids=["project", "vllm"])
def test_downloads_of_pip_are_in_a_cache_or_not_kept(folder):
    lines = calls(folder, "--require-hashes")
    assert lines
    for line in lines:
        assert ("/root/.cache/pip" in mounted_caches(line)) != ("--no-cache-dir" in line)
