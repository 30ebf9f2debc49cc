"""Which commit of its repository a run's model is: keys, plan and record carry it, and a move is told."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.support.annotation import REFERENCE, run_command, write_manifest
from tests.support.hub_server.server import HubServer
from tests.support.hub_server.state import Account
from tests.support.module_runs import look
from tests.support.openai_server import ScriptedServer, scripted_server

from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.manifest import load_manifest
from annotationrun_api.step_results import PlanResult, read_result
from annotationrun_worker.errors import HubAccessError, HubUnavailableError
from annotationrun_worker.hub import client as calls
from annotationrun_worker.pipeline.hub_source import ModelRevision, find_model_revision
from annotationrun_worker.staging.plans import stage_model_commit
from annotationrun_worker.staging.store import StagingStore

MODEL = "org/tiny-vl"
MODULES = {"vqa": {"emissionHz": 0.05, "questionTypes": ["count"]}}
NOBODY = "http://127.0.0.1:9"
EVERYTHING_AGAIN = "all episodes are asked again"


@dataclass
class World:
    """A Hub with the model, a server that serves it, and the folder of a run."""

    hub: HubServer
    server: ScriptedServer
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def write(self, revision: str = "main", output: str | None = None, **serving: Any) -> Path:
        """A run over one episode into a folder, or the repository ``output``."""
        model = {"id": MODEL, "revision": revision, "coordinateScale": "Pixels", "serving": serving}
        spec: dict[str, Any] = {"model": model, "source": {"episodes": "3"}}
        spec |= {"output": {"repoID": output}} if output else {}
        return write_manifest(self.folder, REFERENCE, "", MODULES, **spec)

    def command(
        self, name: str, *options: str | Path, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """A command of the manifest, with what the Hub and the model were asked meanwhile counted anew."""
        self.hub.counters.clear()
        self.server.bodies.clear()
        endpoint = ("--endpoint", self.server.base_url) if name in {"run", "annotate"} else ()
        words = (name, "-f", self.folder / "manifest.yaml", *endpoint, *options)
        return run_command(*words, environment=self.environment | environment)

    def run(self, name: str = "run", *options: str | Path, **environment: str) -> str:
        """What a command says that does its work."""
        done = self.command(name, *options, **environment)
        assert done.returncode == ExitCode.OK, done.stderr + done.stdout
        return done.stdout + done.stderr

    def plan(self, *options: str | Path, **environment: str) -> tuple[PlanResult, list[str]]:
        """The result of a plan, and its warnings."""
        result = self.folder / "result"
        done = self.command("plan", "--json", "--result", result, *options, **environment)
        assert done.returncode == ExitCode.OK, done.stderr
        return read_result(result.read_bytes(), PlanResult), json.loads(done.stdout)["warnings"]

    @property
    def head(self) -> str:
        """The commit of the model's main."""
        return self.hub.commits(MODEL, repo_type="model")[0].sha

    def move_main(self) -> str:
        """A commit on top of the model's main; the one before it."""
        before = self.head
        self.hub.append_commit(MODEL, {"config.json": before.encode()}, repo_type="model")
        return before

    @property
    def asked(self) -> int:
        """Questions to the model by the last command."""
        return len(self.server.bodies)

    @property
    def looked_up(self) -> int:
        """Requests to the Hub by the last command."""
        return sum(self.hub.counters.requests.values())

    @property
    def recorded(self) -> Mapping[str, list[dict[str, str]]]:
        """The models that the output's record names, by module."""
        models: dict[str, list[dict[str, str]]] = json.loads(
            (self.folder / "output/meta/annotationrun.json").read_text(encoding="utf-8")
        )["models"]
        return models


def recorded(revision: str, commit: str) -> dict[str, str]:
    return {"id": MODEL, "revision": revision, "commit": commit}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with HubServer() as hub, scripted_server(lambda number, body: look(body), models=(MODEL,)) as server:
        hub.add_repo(MODEL, {"config.json": b"{}"}, "model")
        found = World(hub, server, tmp_path, {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")})
        found.write()
        yield found


def test_plan_and_record_name_the_commit_that_the_revision_is(world: World) -> None:
    planned, warnings = world.plan()
    assert planned.model_commit == world.head
    assert world.looked_up == 1
    assert warnings == []
    assert f"model: {MODEL} at main, commit {world.head}" in world.run("plan")
    world.run()
    assert (world.looked_up, world.asked > 0) == (1, True)
    assert world.recorded == {"vqa": [recorded("main", world.head)]}


def test_a_moved_branch_is_another_model_and_that_is_said(world: World) -> None:
    planned, _ = world.plan()
    world.run()
    asked = world.asked
    world.run()
    assert world.asked == 0, "nothing has changed"
    before = world.move_main()
    moved = (
        f"model 'org/tiny-vl', revision 'main': was {before} in the output '{world.folder / 'output'}', is "
        f"{world.head} now; {EVERYTHING_AGAIN}"
    )
    again, warnings = world.plan()
    assert again.plan != planned.plan
    assert again.model_commit == world.head
    assert warnings == [moved]
    assert f"warning: {moved}" in world.run()
    assert world.asked == asked
    assert world.recorded == {"vqa": [recorded("main", world.head)]}
    assert world.plan()[1] == []


def test_the_card_of_an_output_on_the_hub_names_the_commit_and_a_move_is_told_without_it(
    world: World,
) -> None:
    world.write(output="me/out")
    places = ("--staging", world.folder / "staging", "--cache", world.folder / "cache")
    world.run("run", *places, **world.hub.environment)
    card = world.hub.read_file("me/out", "README.md").decode()
    assert f"- Model: `{MODEL}@main, commit {world.head}`" in card
    before = world.move_main()
    _, (warning,) = world.plan(*places, **world.hub.environment)
    assert f"'main': was {before} when it was planned before" in warning
    assert f"is {world.head} now; {EVERYTHING_AGAIN}" in warning


def test_a_commit_in_the_manifest_is_not_looked_up_and_is_the_same_model(world: World) -> None:
    planned, _ = world.plan()
    world.run()
    world.write(revision=world.head)
    pinned, warnings = world.plan()
    assert (pinned, warnings) == (planned.model_copy(update={"pending": 0}), [])
    world.run()
    assert (world.looked_up, world.asked) == (0, 0)


def test_what_other_servers_serve_is_not_looked_up(world: World) -> None:
    world.write(mode="External", endpoints=[world.server.base_url])
    planned, warnings = world.plan()
    assert (planned.model_commit, warnings) == ("", [])
    world.run()
    assert world.looked_up == 0
    assert world.recorded == {"vqa": [recorded("main", "")]}


def test_a_run_goes_on_without_the_hub_with_what_it_said_before(world: World) -> None:
    commit = world.head
    world.run()
    world.move_main()
    said = world.run(HF_ENDPOINT=NOBODY)
    assert world.asked == 0
    assert "warning: model 'org/tiny-vl', revision 'main': " in said
    assert f"going on with {commit}, which it was before" in said
    assert EVERYTHING_AGAIN not in said
    assert world.plan(HF_ENDPOINT=NOBODY)[0].model_commit == commit


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        pytest.param({"HF_ENDPOINT": NOBODY}, "gave no usable answer after 1 try", id="no network"),
        pytest.param({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE", id="not to be asked"),
        pytest.param({}, "no such repository, or it is private", id="private"),
    ],
)
def test_a_run_that_never_had_the_hub_goes_on_with_the_revision_and_says_so(
    world: World, trouble: dict[str, str], words: str
) -> None:
    world.hub.repo(MODEL, "model").private = True
    began = time.monotonic()
    planned, (warning,) = world.plan(**trouble)
    assert time.monotonic() - began < 60
    assert planned.model_commit == ""
    for word in (words, "'org/tiny-vl'", "'main'", "going on with the revision as it is", "--model-revision"):
        assert word in warning
    assert world.looked_up == (1 if trouble == {} else 0)
    said = world.run(**trouble)
    assert "warning: model 'org/tiny-vl', revision 'main': " in said
    assert "going on with the revision as it is" in said
    assert world.recorded == {"vqa": [recorded("main", "")]}
    asked = world.asked
    world.run(**trouble)
    assert world.asked == 0
    world.hub.repo(MODEL, "model").private = False
    assert f"was not resolved to a commit in the output '{world.folder / 'output'}'" in world.run()
    assert world.asked == asked > 0


def test_a_hub_that_says_nothing_is_not_waited_for_long(world: World) -> None:
    """It takes the connection, and no more."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        _, (warning,) = world.plan(HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - began < 60
    assert "timed out" in warning


def test_the_steps_of_a_cluster_keep_to_the_commit_that_was_planned(world: World) -> None:
    planned, _ = world.plan("--require-model-commit")
    commit = world.head
    world.move_main()
    pinned = ("--model-revision", planned.model_commit)
    world.run("annotate", *pinned, "--plan", planned.plan)
    assert (world.asked > 0, world.looked_up) == (True, 0)
    world.run("merge", *pinned)
    assert world.looked_up == 0
    assert world.recorded == {"vqa": [recorded("main", commit)]}
    refused = world.command("annotate", "--plan", planned.plan)
    assert refused.returncode == ExitCode.CONFIGURATION
    assert "give the planned commit with --model-revision" in refused.stderr


def test_workers_of_one_run_look_nothing_up_themselves(world: World) -> None:
    world.run("run", "--workers", "2")
    assert (world.looked_up, world.asked > 0) == (1, True)
    world.run()
    assert world.asked == 0


def test_a_plan_that_needs_the_commit_fails_without_it(world: World) -> None:
    world.hub.repo(MODEL, "model").private = True
    refused = world.command("plan", "--require-model-commit")
    assert refused.returncode == ExitCode.CONFIGURATION
    assert f"reading model '{MODEL}' at 'main'" in refused.stderr
    assert "no such repository, or it is private" in refused.stderr
    world.hub.add_account("hf_reader", Account("org"))
    planned, _ = world.plan(
        "--require-model-commit", ANNOTATIONRUN_MODEL_TOKEN="hf_reader", HF_TOKEN="hf_of_the_source"
    )
    assert planned.model_commit == world.head
    written = [path.read_bytes() for path in world.folder.rglob("*") if path.is_file()]
    assert not any(b"hf_reader" in content for content in written)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each pause between two tries would have been."""
    waited: list[float] = []
    monkeypatch.setattr(calls, "sleep", waited.append)
    return waited


def test_a_required_commit_is_asked_for_several_times_and_never_remembered(
    world: World, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old commit would pass for the new one."""
    spec = load_manifest(world.write(revision="v2")).spec
    store = StagingStore(world.folder / "staging")
    stage_model_commit(store, MODEL, "v2", "a" * 40)
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.ENDPOINT", NOBODY)
        patch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", NOBODY)
        with pytest.raises(HubUnavailableError, match="6 tries"):
            find_model_revision(spec, store, os.environ, is_required=True)
        assert waits
        waits.clear()
        found = find_model_revision(spec, store, os.environ, is_required=False)
        assert (found.commit, waits) == ("a" * 40, [])
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        offline = find_model_revision(spec, store, os.environ, is_required=True)
        assert offline.commit == "a" * 40


def test_a_revision_that_is_not_there_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_manifest(world.write(revision="v9")).spec
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", world.hub.url)
    store = StagingStore(world.folder / "staging")
    with pytest.raises(HubAccessError, match="no such branch, tag or commit"):
        find_model_revision(spec, store, {}, is_required=True)
    found = find_model_revision(spec, store, {}, is_required=False)
    assert found == ModelRevision("v9", warnings=found.warnings)
    assert "no such branch, tag or commit" in found.warnings[0]
