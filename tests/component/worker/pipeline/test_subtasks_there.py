"""Runs that make half of what belongs together: subtasks without interjections, or the other way round."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.component.worker.pipeline.test_hub_rows_stay import OUTPUT, SOURCE, Runs
from tests.component.worker.pipeline.test_shrinking import VQA, rows
from tests.support.annotation import REFERENCE, run_command
from tests.support.bad_input import Bench, Outcome
from tests.support.file_trees import tree
from tests.support.hub_server.server import HubServer
from tests.support.module_runs import demo_model, look

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.language.validate import validate_dataset

PLAN: dict[str, Any] = {"plan": {"taskRephrasings": 0, "deriveTask": "Never"}}
INTERJECTIONS: dict[str, Any] = {"interjections": {"minTimeSeconds": 1.0}}
BOTH = {**PLAN, **INTERJECTIONS}
WOULD_REPLACE = r"has interjections that belong to its present subtasks, which the plan module would replace"
OTHER_SUBTASKS = "interjections would belong to the subtasks of the source, but episode 0 of the output has"
OTHERS = [
    pytest.param({"seed": 7}, id="seed"),
    pytest.param({"outputLanguage": "French"}, id="language"),
    pytest.param({"model": {"temperature": 0.9}}, id="temperature"),
    pytest.param({"modules": {"plan": {**PLAN["plan"], "maxSteps": 3}}}, id="settings"),
]


def bench_in(folder: Path, *, in_place: bool) -> Bench:
    made = Bench(folder, episodes="0-2", modules=BOTH)
    if in_place:
        made.output = made.dataset = folder / "dataset"
    return made


@pytest.fixture(scope="module", params=["a folder", "in place"])
def complete(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A run with both, that later ones go on from."""
    made = bench_in(tmp_path_factory.mktemp("complete"), in_place=request.param == "in place")
    if made.output == made.dataset:
        made.copy_dataset()
    done = run(made)
    assert done.exit_code == ExitCode.OK, done.stderr
    assert {"subtask", "interjection"} <= {style for _, style in rows(made.output)}
    return made


@pytest.fixture
def bench(complete: Bench, tmp_path: Path) -> Bench:
    shutil.copytree(complete.folder, tmp_path / "bench")
    return bench_in(tmp_path / "bench", in_place=complete.output == complete.dataset)


def run(bench: Bench, **spec: Any) -> Outcome:
    output = {"path": str(bench.output), "overwrite": bench.output == bench.dataset}
    return bench.run(lambda number, body: look(body), **{"output": output, **spec})


@pytest.mark.parametrize("other", OTHERS)
def test_other_subtasks_under_interjections_are_refused_before_the_first_question(
    bench: Bench, other: dict[str, Any]
) -> None:
    files = tree(bench.output)
    done = run(bench, **{"modules": PLAN, **other})
    assert done.exit_code == ExitCode.CONFIGURATION, done.stderr
    assert WOULD_REPLACE in done.message
    assert done.asked == 0
    assert tree(bench.output) == files


def test_the_same_subtasks_again_change_nothing(bench: Bench) -> None:
    files = tree(bench.output)
    done = run(bench, modules=PLAN)
    assert done.exit_code == ExitCode.OK, done.stderr
    assert tree(bench.output) == files


def test_another_module_beside_the_same_subtasks_leaves_them_and_the_interjections(bench: Bench) -> None:
    before = rows(bench.output)
    done = run(bench, modules={**PLAN, **VQA})
    assert done.exit_code == ExitCode.OK, done.stderr
    after = rows(bench.output)
    assert {key: count for key, count in after.items() if key[1] != "vqa"} == before
    assert {index for index, style in after if style == "vqa"} == {0, 1, 2}


def test_interjections_stay_where_what_they_belong_to_stays(bench: Bench) -> None:
    """Without memories the plan's results are others, and the subtasks the same."""
    done = run(bench, modules={"plan": {**PLAN["plan"], "emitMemory": False}, **INTERJECTIONS})
    assert done.exit_code == ExitCode.OK, done.stderr
    styles = {style for _, style in rows(bench.output)}
    assert "memory" not in styles
    assert {"subtask", "interjection"} <= styles


def test_interjections_that_were_dropped_let_other_subtasks_come(bench: Bench) -> None:
    dropped = run_command("drop", bench.output, "--module", "interjections", "--overwrite")
    assert dropped.returncode == ExitCode.OK, dropped.stderr
    done = run(bench, modules=PLAN, seed=7)
    assert done.exit_code == ExitCode.OK, done.stderr
    assert validate_dataset(bench.output) == []
    assert "interjection" not in {style for _, style in rows(bench.output)}


@pytest.mark.parametrize("complete", ["a folder"], indirect=True)
def test_interjections_for_subtasks_of_the_source_are_refused_where_the_output_has_others(
    bench: Bench,
) -> None:
    files = tree(bench.output)
    done = run(bench, modules=INTERJECTIONS)
    assert done.exit_code == ExitCode.CONFIGURATION, done.stderr
    assert OTHER_SUBTASKS in done.message
    assert done.asked == 0
    assert tree(bench.output) == files
    more = run(bench, modules={**PLAN, "interjections": {"minTimeSeconds": 2.0}})
    assert more.exit_code == ExitCode.OK, more.stderr
    assert validate_dataset(bench.output) == []


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    with HubServer() as hub, demo_model() as model:
        hub.add_repo(SOURCE, REFERENCE)
        yield Runs(tmp_path, hub, model, OUTPUT)


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        pytest.param({"plan": {**PLAN["plan"], "maxSteps": 3}}, WOULD_REPLACE, id="plan"),
        pytest.param(INTERJECTIONS, OTHER_SUBTASKS, id="interjections"),
    ],
)
def test_an_output_on_the_hub_is_looked_at_too(runs: Runs, modules: dict[str, Any], said: str) -> None:
    runs.run(BOTH)
    commits, asked = runs.hub.commits(OUTPUT), len(runs.model.bodies)
    with pytest.raises(AssertionError, match=said):
        runs.run(modules)
    assert len(runs.model.bodies) == asked
    assert runs.hub.commits(OUTPUT) == commits
    runs.run(PLAN)
