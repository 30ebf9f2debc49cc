"""Staging stores whose objects are sealed: what others plant or change there is made anew, and says so."""

import json
import shutil
from pathlib import Path

import pytest
from tests.support.annotation import REFERENCE, run_command, write_manifest
from tests.support.file_trees import tree
from tests.support.module_runs import demo_model

from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.step_results import STAGING_KEY_VARIABLE

MODULES = {"vqa": {"questionTypes": ["count"], "emissionHz": 0.1}}
KEY, OTHER_KEY = "k" * 32, "o" * 32
SEALED = {STAGING_KEY_VARIABLE: KEY}
REF = {"integritySecretRef": {"name": "staging", "key": "key"}}


class Runs:
    """Runs of one manifest over one staging folder."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.staging, self.output = folder / "staging", folder / "output"
        self.manifest = write_manifest(
            folder, REFERENCE, endpoint, MODULES, source={"episodes": "0"}, staging=REF
        )

    def run(self, environment, code=ExitCode.OK):
        shutil.rmtree(self.output, ignore_errors=True)
        done = run_command("run", "-f", self.manifest, "--staging", self.staging, environment=environment)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    def objects(self, folder):
        return sorted(path for path in (self.staging / folder).rglob("*") if path.is_file())


@pytest.fixture
def model():
    with demo_model() as server:
        yield server


@pytest.fixture
def runs(tmp_path, model):
    found = Runs(tmp_path, model.base_url)
    found.run(SEALED)
    return found


def asked(model):
    """How many questions it got, the probes of each run left out."""
    return sum("vqa" in json.dumps(body) or "How many" in json.dumps(body) for body in model.bodies)


def test_a_rerun_with_the_key_asks_nothing_and_makes_the_same(runs, model):
    before, first = tree(runs.output), asked(model)
    assert first
    assert all(b"\nseal:" in path.read_bytes() for path in runs.objects("results"))
    said = runs.run(SEALED)
    assert asked(model) == first
    assert tree(runs.output) == before
    assert "damaged" not in said


@pytest.mark.parametrize("way", ["changed", "unsealed", "of another path", "of another key"])
def test_what_others_plant_is_made_anew(runs, model, way):
    before = tree(runs.output)
    result, answers = runs.objects("results")[0], runs.objects("answers")
    content = result.read_bytes()
    body, _, _ = content.rpartition(b"\nseal:")
    if way == "changed":
        planted = content.replace(b"count", b"knife")
        assert planted != content
    elif way == "unsealed":
        planted = body.replace(b"count", b"knife")
    elif way == "of another path":
        planted = answers[0].read_bytes()
    else:
        planted = body + b"\nseal:" + b"0" * 64
    result.write_bytes(planted)
    for answer in answers:
        answer.write_bytes(answer.read_bytes().replace(b"count", b"knife"))
    said = runs.run(SEALED)
    assert tree(runs.output) == before
    assert f"{result.relative_to(runs.staging).as_posix()!r}" in said
    assert "it is not sealed with this key" in said
    assert b"knife" not in result.read_bytes()


def test_a_seal_without_its_key_is_refused_and_nothing_is_lost(runs, model):
    staged = {path: content for path, content in tree(runs.staging).items() if not path.startswith("usage/")}
    said = runs.run({}, ExitCode.CONFIGURATION)
    assert "spec.staging.integritySecretRef names a key" in said
    for words in (["gc", runs.staging, "--check", "--repair"], ["gc", runs.staging, "--unused-days", "1"]):
        done = run_command(*words)
        assert done.returncode == ExitCode.CONFIGURATION, done.stdout + done.stderr
        assert f"put the key of its store into the environment variable {STAGING_KEY_VARIABLE}" in done.stderr
    after = tree(runs.staging)
    assert {path: after[path] for path in staged} == staged
    checked = run_command("gc", runs.staging, "--check", environment=SEALED)
    assert checked.returncode == ExitCode.OK, checked.stdout
    assert KEY not in said


def test_a_key_that_is_too_short_is_refused(runs):
    said = runs.run({STAGING_KEY_VARIABLE: "short"}, ExitCode.CONFIGURATION)
    assert "has 5 characters, expected at least 32" in said
