"""Actions that ask for less than is published: nothing goes that the manifest does not name."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.annotation import read_frames
from tests.support.bad_input import Bench, Outcome
from tests.support.file_trees import tree
from tests.support.module_runs import look

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.language.validate import validate_dataset

VQA: dict[str, Any] = {"vqa": {"questionTypes": ["count"], "emissionHz": 0.5}}
FEWER = {"vqa": {**VQA["vqa"], "emissionHz": 0.1}}
PLAN: dict[str, Any] = {"plan": {"taskRephrasings": 0, "deriveTask": "Never"}}
PLACES = ["a folder", "in place"]
LESS = [
    pytest.param(VQA, {}, ["--limit", "2"], id="a limit"),
    pytest.param(VQA, {"source": {"episodes": "2"}}, [], id="one episode"),
    pytest.param(PLAN, {}, [], id="another module"),
    pytest.param(FEWER, {"source": {"episodes": "2"}}, [], id="fewer questions"),
]


def rows(dataset: Path) -> Counter[tuple[int, str]]:
    """How many rows of each style an episode has."""
    found: Counter[tuple[int, str]] = Counter()
    for index, episode in read_frames(dataset).items():
        events = [row for at_frame in episode.events for row in at_frame]
        found.update((index, row["style"] or "speech") for row in (*episode.persistent, *events))
    return found


@pytest.fixture(params=PLACES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    made = Bench(tmp_path, episodes="0-2", modules=VQA)
    if request.param == "in place":
        made.output = made.copy_dataset()
    return made


@pytest.fixture(scope="module", params=PLACES)
def complete(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A run of two modules, that others go on from."""
    made = Bench(tmp_path_factory.mktemp("complete"), episodes="0-2", modules=VQA)
    if request.param == "in place":
        made.output = made.copy_dataset()
    first = run(made, {**VQA, **PLAN}, {})
    assert first.exit_code == ExitCode.OK, first.stderr
    return made


@pytest.fixture
def continued(complete: Bench, tmp_path: Path) -> Bench:
    """What follows that run."""
    shutil.copytree(complete.folder, tmp_path / "bench")
    made = Bench(tmp_path / "bench", episodes="0-2", modules=VQA)
    if complete.output == complete.dataset:
        made.output = made.dataset = made.folder / "dataset"
    return made


def run(bench: Bench, modules: dict[str, Any], spec: dict[str, Any], *arguments: str) -> Outcome:
    overwrite = bench.output == bench.dataset
    output = {"path": str(bench.output), "overwrite": overwrite}
    return bench.run(
        lambda number, body: look(body), arguments=arguments, modules=modules, **{"output": output, **spec}
    )


@pytest.mark.parametrize(("modules", "spec", "arguments"), LESS)
def test_rows_that_a_run_does_not_make_stay(
    modules: dict[str, Any],
    spec: dict[str, Any],
    arguments: list[str],
    continued: Bench,
    printed: Callable[..., None],
) -> None:
    bench = continued
    before, files = rows(bench.output), tree(bench.output)
    assert {index for index, _ in before} == {0, 1, 2}
    done = run(bench, modules, spec, *arguments)
    assert done.exit_code == ExitCode.OK, done.stderr
    after = rows(bench.output)
    place = "in place" if bench.output == bench.dataset else "a folder"
    what = " ".join([*arguments, *spec, *map(str, spec.values()), *modules])
    printed(
        f"{place:10} {what:40} {before.total():5} {after.total():5}",
        "rows of a published dataset before and after a run that asks for less",
    )
    assert validate_dataset(bench.output) == []
    if modules is not FEWER:
        assert after == before
        assert arguments == [] or tree(bench.output) == files
    else:
        assert {key: count for key, count in after.items() if key != (2, "vqa")} == {
            key: count for key, count in before.items() if key != (2, "vqa")
        }
        assert 0 < after[2, "vqa"] < before[2, "vqa"], "the manifest names these"


def test_a_trial_lies_beside_the_output_and_has_its_episodes_alone(bench: Bench) -> None:
    assert run(bench, VQA, {}).exit_code == ExitCode.OK
    files = tree(bench.output)
    done = run(bench, FEWER, {}, "--limit", "1")
    assert done.exit_code == ExitCode.OK, done.stderr
    assert tree(bench.output) == files
    trial = bench.output.with_name(f"{bench.output.name}.trial")
    assert f"output: {trial} (a trial: the manifest's output is as it was)" in done.stdout
    assert validate_dataset(trial) == []
    is_in_place = bench.output == bench.dataset
    assert {index for index, _ in rows(trial)} == ({0, 1, 2} if is_in_place else {0})
    more = run(bench, FEWER, {}, "--limit", "2")
    assert more.exit_code == ExitCode.OK, more.stderr
    assert {0, 1} <= {index for index, _ in rows(trial)}
    assert tree(bench.output) == files


def test_what_a_run_takes_away_is_told_before_it_goes(bench: Bench) -> None:
    assert run(bench, PLAN, {}).exit_code == ExitCode.OK
    memories = sum(count for (_, style), count in rows(bench.output).items() if style == "memory")
    assert memories
    done = run(bench, {"plan": {**PLAN["plan"], "emitMemory": False}}, {})
    assert done.exit_code == ExitCode.OK, done.stderr
    assert f"the output loses {memories} rows 'memory' of the episodes " in done.stderr
    assert "memory" not in {style for _, style in rows(bench.output)}


def test_the_record_says_how_many_episodes_have_labels_of_each_module(bench: Bench) -> None:
    assert run(bench, VQA, {"source": {"episodes": "0-1"}}).exit_code == ExitCode.OK
    assert run(bench, PLAN, {}).exit_code == ExitCode.OK
    record = json.loads((bench.output / "meta/annotationrun.json").read_text())
    assert record["labelledEpisodes"] == {"plan": 3, "vqa": 2}
    assert {index: sorted(keys) for index, keys in record["results"].items()} == {
        "0": ["plan", "vqa"],
        "1": ["plan", "vqa"],
        "2": ["plan"],
    }
