"""`annotationrun run` on a dataset that is source and output at once."""

import json

import pytest
from tests.support.annotated_dataset import copy_dataset
from tests.support.annotation import REFERENCE, THIN_MODULES, run_command, write_manifest, written_rows
from tests.support.file_trees import tree, written_at

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.demo.vlm_server import run_server

NO_SERVER = "http://127.0.0.1:9/v1"


def manifest_in_place(folder, endpoint, modules=None, **output):
    output = {"path": str(folder / "dataset"), "overwrite": True, **output}
    return write_manifest(
        folder, folder / "dataset", endpoint, modules, output=output, source={"episodes": "0-1"}
    )


@pytest.fixture
def dataset(tmp_path):
    """Annotated in place, by the demo model."""
    copy_dataset(REFERENCE, tmp_path / "dataset")
    with run_server(tmp_path / "log.jsonl") as server:
        done = run_command("run", "-f", manifest_in_place(tmp_path, server.base_url))
    assert done.returncode == 0, done.stderr
    return tmp_path / "dataset"


@pytest.mark.parametrize("existing_rows", ["Replace", "Keep"])
def test_the_same_again_asks_nothing_and_writes_nothing(existing_rows, dataset, tmp_path):
    before = written_at(dataset / "meta") | written_at(dataset / "data")
    done = run_command("run", "-f", manifest_in_place(tmp_path, NO_SERVER, existingRows=existing_rows))
    assert done.returncode == 0, done.stderr
    assert "0 requests," in done.stdout
    assert "0 files and 0 bytes written" in done.stdout
    assert written_at(dataset / "meta") | written_at(dataset / "data") == before
    assert run_command("validate", dataset).returncode == ExitCode.OK
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"dataset", "dataset.staging", "log.jsonl", "manifest.yaml"}


def test_an_edited_module_asks_for_itself_and_the_other_rows_stay(dataset, tmp_path):
    modules = {**THIN_MODULES, "vqa": {"emissionHz": 0.5}}
    subtasks = written_rows(dataset, ("subtask",))
    pairs = written_rows(dataset, ("vqa",))
    with run_server(tmp_path / "second.jsonl") as server:
        done = run_command("run", "-f", manifest_in_place(tmp_path, server.base_url, modules))
    assert done.returncode == 0, done.stderr
    assert "2 files and" in done.stdout  # the one data file of the two episodes, and the record
    asked = {json.loads(line)["kind"] for line in (tmp_path / "second.jsonl").read_text().splitlines()}
    assert asked
    assert all(kind.startswith("vqa_") for kind in asked)
    assert written_rows(dataset, ("subtask",)) == subtasks != []
    assert 0 < len(written_rows(dataset, ("vqa",))) < len(pairs)
    assert run_command("validate", dataset).returncode == ExitCode.OK


def test_without_overwrite_nothing_is_asked(tmp_path):
    copy_dataset(REFERENCE, tmp_path / "dataset")
    before = tree(tmp_path / "dataset")
    manifest = manifest_in_place(tmp_path, NO_SERVER, overwrite=False)
    done = run_command("run", "-f", manifest)
    assert done.returncode == ExitCode.CONFIGURATION
    assert "spec.output.overwrite: true" in done.stderr
    assert tree(tmp_path / "dataset") == before
