"""What the images are made of: the Dockerfile, what is sent to it, and what the tests' digest is taken of."""

import re

from tests.cluster.images import BASE, INPUTS
from tests.support.checkout import ROOT

LINES = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8")).splitlines()


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
    stages = [line.split() for line in LINES if line.startswith("FROM ")]
    own = {words[3] for words in stages}
    assert {words[1] for words in stages} - own == {BASE.removeprefix("docker.io/library/")}


def test_no_image_runs_as_root():
    users = last_of_stage("USER")
    assert {users[target] for target in ("operator", "worker", "demo-vlm")} == {"65532:65532"}


def test_the_workers_lock_leaves_torch_to_debian():
    """PyPI's torch would bring CUDA and hide Debian's."""
    names = {line.split("==")[0] for line in lines_of("worker/requirements.txt") if "==" in line}
    assert {"av", "pyarrow", "pydantic"} <= names
    assert not {name for name in names if name == "torch" or name.startswith(("nvidia", "cuda", "triton"))}
    assert any("python3-torch" in line for line in LINES)
