"""Removing the rows of modules: into a new folder and in place, held against what was never annotated."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.support.annotated_dataset import (
    copy_dataset,
    data_paths,
    persistent_row,
    read_language,
    write_language,
)
from tests.support.annotation import run_command
from tests.support.checkout import REFERENCE
from tests.support.file_trees import tree
from tests.support.staged_results import Results, merge_plan

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.dataset.episodes import list_episodes
from annotationrun_worker.dataset.metadata import read_info
from annotationrun_worker.errors import ConfigurationError
from annotationrun_worker.language.rows import ModuleName
from annotationrun_worker.language.validate import validate_dataset
from annotationrun_worker.output.drop import DropPlan, DropResult, drop_modules
from annotationrun_worker.output.merge import merge_to_folder
from annotationrun_worker.output.record import read_record

RECORD = "meta/annotationrun.json"
ALL: tuple[ModuleName, ...] = ("plan", "interjections", "vqa")


@pytest.fixture
def annotated(results: Results, tmp_path: Path) -> Path:
    output = tmp_path / "annotated"
    settings = {"plan": "p", "interjections": "i", "vqa": "v"}
    merge_to_folder(merge_plan(REFERENCE, output, results, settings_digests=settings))
    return output


def drop(dataset: Path, output: Path, *modules: ModuleName) -> DropResult:
    return drop_modules(DropPlan(dataset, output, frozenset(modules)))


def without_record(dataset: Path) -> dict[str, str]:
    return {name: mark for name, mark in tree(dataset).items() if name != RECORD}


@pytest.mark.parametrize("place", ["annotated", "out"], ids=["in place", "new folder"])
@pytest.mark.parametrize("modules", [("vqa",), ("vqa", "interjections"), ("interjections", "plan")], ids=str)
def test_what_is_left_is_what_a_merge_without_the_modules_gives(
    place: str, modules: tuple[ModuleName, ...], annotated: Path, results: Results, tmp_path: Path
) -> None:
    rest = {key: rows for key, rows in results.items() if key.partition("/")[2] not in modules}
    merge_to_folder(merge_plan(REFERENCE, tmp_path / "expected", rest))

    dropped = drop(annotated, tmp_path / place, *modules)

    assert without_record(tmp_path / place) == without_record(tmp_path / "expected")
    assert validate_dataset(tmp_path / place) == []
    assert dropped.rows == {
        module: sum(len(rows) for key, rows in results.items() if key.endswith(f"/{module}"))
        for module in modules
    }
    assert not dropped.columns_dropped
    assert read_record(tmp_path / place).settings_digests.keys() == set(ALL) - set(modules)  # type: ignore[union-attr]


@pytest.mark.parametrize("place", ["annotated", "out"], ids=["in place", "new folder"])
def test_without_any_row_the_dataset_is_what_it_was_before(
    place: str, annotated: Path, tmp_path: Path
) -> None:
    dropped = drop(annotated, tmp_path / place, *ALL)

    output = tmp_path / place
    assert dropped.columns_dropped
    for before, after in zip(data_paths(REFERENCE), data_paths(output), strict=True):
        assert pq.read_table(after).equals(pq.read_table(before))
        assert pq.read_schema(after).equals(pq.read_schema(before))
    old, new = tree(REFERENCE), without_record(output)
    assert {name for name in old | new if old.get(name) != new.get(name)} == {
        str(path.relative_to(REFERENCE)) for path in data_paths(REFERENCE)
    }
    assert len(list_episodes(output, read_info(output))) == 6


@pytest.mark.parametrize("place", ["annotated", "out"], ids=["in place", "new folder"])
def test_dropping_again_writes_nothing(place: str, annotated: Path, tmp_path: Path) -> None:
    output = tmp_path / place
    drop(annotated, output, *ALL)
    before = tree(output)

    again = drop(annotated, output, *ALL)

    assert (again.unchanged, again.files_written, again.bytes_written) == (True, 0, 0)
    assert tree(output) == before


def test_rows_that_were_dropped_in_place_can_be_merged_again(results: Results, tmp_path: Path) -> None:
    dataset = copy_dataset(REFERENCE, tmp_path / "dataset")
    merge_to_folder(merge_plan(dataset, dataset, results, overwrite=True))
    merged = tree(dataset)

    drop(dataset, dataset, *ALL)
    assert tree(dataset).keys() == merged.keys()
    merge_to_folder(merge_plan(dataset, dataset, results, overwrite=True))

    assert tree(dataset) == merged


def test_rows_that_no_module_owns_stay_and_so_do_the_columns(by_hand: Path, tmp_path: Path) -> None:
    dataset = copy_dataset(by_hand, tmp_path / "dataset")
    file = read_language(data_paths(dataset)[0])
    motion = persistent_row("motion", 0.0, "left arm rises")
    file.persistent = [[*rows, motion] if episode == 0 else rows
                       for rows, episode in zip(file.persistent, file.episodes, strict=True)]  # fmt: skip
    write_language(file)

    dropped = drop(dataset, dataset, *ALL)

    assert not dropped.columns_dropped
    left = [row for path in data_paths(dataset) for rows in read_language(path).persistent for row in rows]
    assert {(row["style"], row["content"]) for row in left} == {("motion", "left arm rises")}
    assert len(left) == file.episodes.count(0)


def test_subtasks_under_interjections_that_stay_are_refused(annotated: Path, tmp_path: Path) -> None:
    before = tree(annotated)
    for output in (annotated, tmp_path / "out"):
        with pytest.raises(ConfigurationError, match=r"episode 0 .* drop the module interjections too"):
            drop(annotated, output, "plan", "vqa")
    assert tree(annotated) == before
    assert [path.name for path in tmp_path.iterdir()] == ["annotated"]


def test_their_own_say_tool_stays(by_hand: Path, tmp_path: Path) -> None:
    drop(by_hand, tmp_path / "out", *ALL)
    info = json.loads((tmp_path / "out/meta/info.json").read_bytes())
    assert [tool["function"]["description"] for tool in info["tools"]] == ["Speak."]


def test_the_command_says_what_went(annotated: Path, results: Results, tmp_path: Path) -> None:
    out = tmp_path / "out"
    one = run_command("drop", annotated, "--module", "vqa", "--output", out)
    rest = run_command("drop", out, "--module", "plan", "--module", "interjections", "--overwrite")

    assert (one.returncode, rest.returncode) == (ExitCode.OK, ExitCode.OK), one.stderr + rest.stderr
    pairs = sum(len(rows) for key, rows in results.items() if key.endswith("/vqa"))
    assert one.stdout.splitlines()[0] == f"vqa: {pairs} rows dropped"
    assert f"output: {out}" in one.stdout
    assert "no row is left, so the language columns are dropped" in rest.stdout
    assert run_command("show", out).returncode == ExitCode.DATASET


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param(["--module", "vqa"], ExitCode.USAGE, "give one of", id="no place"),
        pytest.param(
            ["--module", "vqa", "--overwrite", "--output", "x"],
            ExitCode.USAGE,
            "give one of",
            id="two places",
        ),
        pytest.param(
            ["--module", "memory", "--overwrite"],
            ExitCode.USAGE,
            "got 'memory', expected one of",
            id="no module",
        ),
        pytest.param(["--overwrite"], ExitCode.USAGE, "--module", id="no module named"),
        pytest.param(
            ["--module", "plan", "--overwrite"], ExitCode.CONFIGURATION, "interjections too", id="rule"
        ),
    ],
)
def test_a_command_that_can_not_be_done_says_why(
    arguments: list[str], code: ExitCode, said: str, annotated: Path
) -> None:
    before = tree(annotated)
    done = run_command("drop", annotated, *arguments)
    assert done.returncode == code
    assert said in done.stderr
    assert tree(annotated) == before
