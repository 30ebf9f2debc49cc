"""Runs that ask for less than a dataset on the Hub has: nothing goes that the manifest does not name."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.annotation import REFERENCE, read_frames, run_command, write_manifest
from tests.support.hub_server.server import HubServer
from tests.support.module_runs import demo_model
from tests.support.openai_server import ScriptedServer

from annotationrun_api.exit_codes import ExitCode

SOURCE, OUTPUT = "me/source", "me/annotated"
VQA: dict[str, Any] = {"vqa": {"questionTypes": ["count"], "emissionHz": 0.1}}
PLAN: dict[str, Any] = {"plan": {"taskRephrasings": 0, "deriveTask": "Never"}}


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add_repo(SOURCE, REFERENCE)
        yield server


@pytest.fixture
def model() -> Iterator[ScriptedServer]:
    with demo_model() as server:
        yield server


class Runs:
    """Runs with one staging store and cache."""

    def __init__(self, folder: Path, hub: HubServer, model: ScriptedServer, output: str) -> None:
        self.folder, self.hub, self.model, self.output = folder, hub, model, output

    def run(self, modules: dict[str, Any], *arguments: str, episodes: str = "0-2") -> str:
        """A run that ends well; what it said."""
        manifest = write_manifest(
            self.folder, SOURCE, self.model.base_url, modules,
            source={"episodes": episodes}, output={"repoID": self.output},
        )  # fmt: skip
        done = run_command(
            "run", "-f", manifest, "--cache", self.folder / "cache", "--staging", self.folder / "staging",
            *arguments, environment=self.hub.environment,
        )  # fmt: skip
        assert done.returncode == ExitCode.OK, done.stderr
        return done.stdout + done.stderr

    def rows(self) -> Counter[tuple[int, str]]:
        """How many rows of each style an episode has on the Hub now."""
        folder = self.folder / "downloaded"
        for path, content in self.hub.files(self.output).items():
            if path.startswith("data/"):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)
        found: Counter[tuple[int, str]] = Counter()
        for index, episode in read_frames(folder).items():
            events = [row for at_frame in episode.events for row in at_frame]
            found.update((index, row["style"] or "speech") for row in (*episode.persistent, *events))
        return found

    @property
    def card(self) -> list[str]:
        """Lines of the card."""
        return self.hub.read_file(self.output, "README.md").decode().splitlines()


@pytest.fixture(params=[OUTPUT, SOURCE], ids=["a repository", "in place"])
def runs(request: pytest.FixtureRequest, tmp_path: Path, hub: HubServer, model: ScriptedServer) -> Runs:
    return Runs(tmp_path, hub, model, request.param)


@pytest.mark.parametrize(
    ("modules", "episodes"),
    [
        pytest.param(VQA, "2", id="one episode"),
        pytest.param(PLAN, "0-2", id="another module"),
    ],
)
def test_a_run_that_asks_for_less_leaves_all_rows_and_the_card_says_so(
    modules: dict[str, Any], episodes: str, runs: Runs
) -> None:
    runs.run({**VQA, **PLAN})
    before, commits = runs.rows(), len(runs.hub.commits(runs.output))
    assert {index for index, _ in before} == {0, 1, 2}
    runs.run(modules, episodes=episodes)
    assert runs.rows() == before
    assert len(runs.hub.commits(runs.output)) == commits, "there is nothing to publish"
    assert "- Episodes: 6" in runs.card
    assert "- Episodes with labels: plan 3, vqa 3" in runs.card
    totals = Counter[str]()
    for (_, style), count in before.items():
        totals[style] += count
    listed = ", ".join(f"`{style}` {count}" for style, count in sorted(totals.items()))
    assert f"- Rows: {listed}" in runs.card


def test_modules_that_come_one_after_the_other_are_all_there(runs: Runs) -> None:
    runs.run(VQA)
    first = runs.rows()
    runs.run(PLAN, episodes="0-1")
    assert {key: count for key, count in runs.rows().items() if key[1] == "vqa"} == first
    assert {index for index, style in runs.rows() if style == "subtask"} == {0, 1}
    assert "- Episodes with labels: plan 2, vqa 3" in runs.card


def test_what_goes_is_told_before_it_goes_and_in_the_commit(runs: Runs) -> None:
    runs.run(PLAN)
    memories = sum(count for (_, style), count in runs.rows().items() if style == "memory")
    assert memories
    said = runs.run({"plan": {**PLAN["plan"], "emitMemory": False}})
    assert f"the output loses {memories} rows 'memory' of the episodes " in said
    assert (
        f"Taken away: {memories} rows 'memory' of the episodes " in runs.hub.commits(runs.output)[0].message
    )


def test_a_trial_pushes_nothing(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs.folder)
    runs.run(VQA)
    before = runs.hub.files(runs.output)
    runs.run({"vqa": {**VQA["vqa"], "emissionHz": 0.1}}, "--limit", "1")
    assert runs.hub.files(runs.output) == before
    trial = runs.folder / f"{runs.output.rpartition('/')[2]}.trial"
    assert any(read_frames(trial)[0].events)
