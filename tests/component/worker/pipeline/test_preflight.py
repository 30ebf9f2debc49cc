"""What can't end well is refused before the first question, and leaves nothing behind."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.annotated_dataset import (
    annotate_by_hand,
    copy_dataset,
    data_paths,
    persistent_row,
    write_table,
)
from tests.support.annotation import REFERENCE, run_command, write_manifest
from tests.support.module_runs import demo_model, run_here
from tests.support.openai_server import ScriptedServer

from annotationrun_api.errors import AnnotationRunError
from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.commands.demo import demo
from annotationrun_worker.errors import (
    ConfigurationError,
    DatasetError,
    OutputError,
    ServerNotReadyError,
)

PLAN = {"plan": {"taskRephrasings": 0, "emitMemory": False, "deriveTask": "Never"}}
BOTH = {**PLAN, "interjections": {}}
THE_FIRST = {"source": {"episodes": "0"}}


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return annotate_by_hand(REFERENCE, tmp_path_factory.mktemp("hand") / "annotated")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with demo_model() as server:
        yield server


def somebodys_file(run: Path) -> None:
    (run / "output").mkdir()
    (run / "output/thesis.txt").write_text("mine")


def output_is_a_file(run: Path) -> None:
    (run / "output").write_text("mine")


def output_below_a_file(run: Path) -> None:
    (run / "mine").write_text("mine")
    (run / "output").symlink_to(run / "mine" / "output")


def staging_is_a_file(run: Path) -> None:
    (run / "output.staging").write_text("mine")


def no_folder_can_be_made(run: Path) -> None:
    # permissions stop nobody who is root; a name that gets too long with what is put before it does
    (run / "output").symlink_to("x" * 250)


@pytest.mark.parametrize(
    ("prepare", "error", "match"),
    [
        pytest.param(somebodys_file, OutputError, "no merge made", id="somebody's files in the output"),
        pytest.param(output_is_a_file, OutputError, "is a file", id="the output is a file"),
        pytest.param(staging_is_a_file, ConfigurationError, "staging folder", id="staging is a file"),
        pytest.param(no_folder_can_be_made, OutputError, "can't be created", id="a name that is too long"),
        pytest.param(output_below_a_file, OutputError, "can't be created", id="the output is below a file"),
    ],
)
def test_places_that_cannot_be_written_are_found_before_the_first_question(
    prepare: Callable[[Path], None],
    error: type[AnnotationRunError],
    match: str,
    server: ScriptedServer,
    tmp_path: Path,
) -> None:
    prepare(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=match):
        run_here(tmp_path, server.base_url, PLAN, **THE_FIRST)
    assert server.bodies == []
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "manifest.yaml"])


def test_an_output_that_was_changed_is_found_before_the_first_question(
    server: ScriptedServer, tmp_path: Path
) -> None:
    run_here(tmp_path, server.base_url, PLAN, **THE_FIRST)
    asked = len(server.bodies)
    (tmp_path / "output/.git").mkdir()
    (tmp_path / "output/.git/HEAD").write_text("ref: refs/heads/mine")
    with pytest.raises(OutputError, match=r"\.git/HEAD"):
        run_here(tmp_path, server.base_url, PLAN, source={"episodes": "0-1"})
    assert len(server.bodies) == asked > 0
    assert (tmp_path / "output/.git/HEAD").read_text() == "ref: refs/heads/mine"


def truncate_a_data_file(source: Path) -> None:
    path = data_paths(source)[1]
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-500])


def differing_persistent_rows(source: Path) -> None:
    path = data_paths(source)[0]
    table = pq.read_table(path)
    table = table.drop_columns(["language_persistent"])
    rows = [[persistent_row("subtask", 0.0, "a" if place < 300 else "b")] for place in range(table.num_rows)]
    write_table(table.append_column("language_persistent", pa.array(rows)), path)


def nothing(source: Path) -> None:
    pass


def a_pipe(source: Path) -> None:
    os.mkfifo(source / "meta/pipe")


@pytest.mark.parametrize(
    ("damage", "modules", "error", "match"),
    [
        pytest.param(
            nothing,
            PLAN,
            ConfigurationError,
            r"interjections.*existingRows",
            id="subtasks under interjections",
        ),
        pytest.param(
            truncate_a_data_file, BOTH, DatasetError, "file-001.parquet", id="a truncated data file"
        ),
        pytest.param(
            differing_persistent_rows, BOTH, DatasetError, "differs from frame 0", id="rows that differ"
        ),
    ],
)
def test_data_that_cannot_be_rewritten_is_found_before_the_first_question(
    damage: Callable[[Path], None],
    modules: dict[str, Any],
    error: type[AnnotationRunError],
    match: str,
    by_hand: Path,
    server: ScriptedServer,
    tmp_path: Path,
) -> None:
    source = copy_dataset(by_hand, tmp_path / "source")
    damage(source)
    with pytest.raises(error, match=match):
        run_here(tmp_path / "run", server.base_url, modules, source, **THE_FIRST)
    assert server.bodies == []
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["manifest.yaml"]


def test_a_source_with_something_that_is_no_file_is_found_before_the_first_question(
    server: ScriptedServer, tmp_path: Path
) -> None:
    source = copy_dataset(REFERENCE, tmp_path / "source")
    a_pipe(source)
    with pytest.raises(DatasetError, match="pipe' is neither a file nor a folder"):
        run_here(tmp_path / "run", server.base_url, PLAN, source, **THE_FIRST)
    assert server.bodies == []


def test_interjections_that_are_not_in_the_selection_do_not_matter(
    by_hand: Path, server: ScriptedServer, tmp_path: Path
) -> None:
    source = copy_dataset(by_hand, tmp_path / "source")
    for path in data_paths(source)[:1]:
        table = pq.read_table(path)
        write_table(table.drop_columns(["language_persistent", "language_events"]), path)
    run_here(tmp_path / "run", server.base_url, PLAN, source, **THE_FIRST)
    assert server.bodies


@pytest.mark.parametrize(
    ("model", "error", "match"),
    [
        pytest.param("demo-vlm", ServerNotReadyError, "no model server at", id="no server"),
        pytest.param("another", ConfigurationError, "serves 'demo-vlm', not 'another'", id="the wrong model"),
    ],
)
def test_a_run_that_can_ask_nothing_leaves_its_plan_and_no_more(
    model: str, error: type[AnnotationRunError], match: str, server: ScriptedServer, tmp_path: Path
) -> None:
    endpoint = server.base_url if model == "another" else "http://127.0.0.1:9/v1"
    serving = {"mode": "External", "endpoints": [endpoint]}
    with pytest.raises(error, match=match):
        run_here(tmp_path, endpoint, PLAN, model={"id": model, "serving": serving}, **THE_FIRST)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.yaml", "output.staging"]
    staged = [path for path in (tmp_path / "output.staging").rglob("*") if path.is_file()]
    assert [path.parent.name for path in staged] == ["plans"]


@pytest.mark.parametrize(
    ("where", "text"),
    [
        pytest.param("{run}/output/staging", "output", id="inside the output"),
        pytest.param("{source}", "source", id="the source itself"),
        pytest.param("{run}", "overlap", id="around the output"),
    ],
)
def test_a_staging_folder_that_overlaps_is_refused(where: str, text: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(REFERENCE, source)
    run = tmp_path / "run"
    run.mkdir()
    manifest = write_manifest(run, source, "http://127.0.0.1:9/v1", PLAN)
    staging = where.format(run=run, source=source)
    done = run_command("run", "-f", manifest, "--staging", staging)
    assert done.returncode == ExitCode.CONFIGURATION
    assert "overlap" in done.stderr
    assert text in done.stderr
    assert not (source / "results").exists()
    assert [path.name for path in run.iterdir()] == ["manifest.yaml"]


def test_a_claim_that_the_manifest_does_not_name_is_a_wrong_command_line(tmp_path: Path) -> None:
    output = {"path": "/annotated", "volume": {"claimName": "datasets"}}
    manifest = write_manifest(tmp_path, REFERENCE, "http://127.0.0.1:9/v1", PLAN, output=output)
    done = run_command("run", "-f", manifest, "--volume", f"dataset={tmp_path}")
    assert done.returncode == ExitCode.USAGE
    words = " ".join(done.stderr.replace("│", " ").split())
    assert "names no claim 'dataset'; those it names: 'datasets'" in words


@pytest.mark.parametrize("folder", ["afile", "afile/inside"])
def test_the_demo_says_that_a_file_is_in_the_way(folder: str, tmp_path: Path) -> None:
    (tmp_path / "afile").write_text("mine")
    with pytest.raises(OutputError, match="a file is in the way"):
        demo(tmp_path / folder)


def test_what_a_published_dataset_was_merged_from_is_looked_at_once(
    server: ScriptedServer, tmp_path: Path
) -> None:
    source = copy_dataset(REFERENCE, tmp_path / "source")
    first = run_here(tmp_path / "run", server.base_url, PLAN, source, **THE_FIRST)
    card = source / "README.md"
    card.write_text("# My dataset")
    second = run_here(tmp_path / "run", server.base_url, PLAN, source, **THE_FIRST)
    assert not second.merge.unchanged
    assert first.merge.digest != second.merge.digest
    record = json.loads((tmp_path / "run/output/meta/annotationrun.json").read_text())
    assert record["failedEpisodes"] == []
    assert (tmp_path / "run/output/README.md").read_text() == "# My dataset"
