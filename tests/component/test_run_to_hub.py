"""Runs whose output is a dataset on the Hub: what is pushed, and what a second run does."""

import json

import pytest
from tests.support.annotation import REFERENCE, run_command, write_manifest
from tests.support.hub_server.server import HubServer
from tests.support.module_runs import demo_model

from annotationrun_api.exit_codes import ExitCode

SOURCE, OUTPUT = "me/source", "me/annotated"
KEY = f"datasets/{SOURCE}"
MODULES = {"vqa": {"emissionHz": 0.5, "cameras": "Default"}}
EPISODES = {"episodes": "1,2"}


@pytest.fixture
def hub():
    with HubServer() as server:
        server.add_repo(SOURCE, REFERENCE)
        yield server


def run(hub, manifest, cache, *arguments):
    return run_command("run", "-f", manifest, "--cache", cache, *arguments, environment=hub.environment)


def test_an_annotated_dataset_in_place_is_one_commit_and_a_second_run_does_nothing(tmp_path, hub):
    before = len(hub.commits(SOURCE))
    with demo_model() as server:
        manifest = write_manifest(
            tmp_path, SOURCE, server.base_url, MODULES, source=EPISODES, output={"repoID": SOURCE}
        )
        staging = ("--staging", tmp_path / "staging")
        done = run(hub, manifest, tmp_path / "cache", *staging)
        assert done.returncode == ExitCode.OK, done.stderr
        print(done.stdout)
        asked = len(server.bodies)
        assert len(hub.commits(SOURCE)) == before + 1
        assert not [path for repo, path in hub.counters.received if path.endswith(".mp4")]
        hub.counters.clear()
        again = run(hub, manifest, tmp_path / "other-cache", *staging)
        assert again.returncode == ExitCode.OK, again.stderr
        print(again.stdout)
        assert len(server.bodies) == asked
    assert len(hub.commits(SOURCE)) == before + 1
    assert not [path for repo, path in hub.counters.served if path.endswith(".mp4")]
    info = json.loads(hub.read_file(SOURCE, "meta/info.json"))
    assert "language_events" in info["features"]
