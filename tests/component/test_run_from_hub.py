"""Runs whose source is a dataset on the Hub: what is fetched, and how often, and what comes of it."""

import pytest
from tests.support.annotation import REFERENCE, run_command, write_manifest
from tests.support.file_trees import tree
from tests.support.hub_server.server import HubServer
from tests.support.module_runs import demo_model

from annotationrun_api.exit_codes import ExitCode

REPO, KEY = "me/source", "datasets/me/source"
MODULES = {"vqa": {"emissionHz": 0.5, "cameras": "Default"}}
SOURCE = {"episodes": "1,2"}


@pytest.fixture
def hub():
    with HubServer() as server:
        server.add_repo(REPO, REFERENCE)
        yield server


def run(hub, *arguments, **options):
    return run_command(*arguments, environment=hub.environment, **options)


def test_the_output_is_that_of_the_same_dataset_in_a_folder(tmp_path, hub):
    with demo_model() as server:
        folder = tmp_path / "folder"
        folder.mkdir()
        done = run_command(
            "run",
            "-f",
            write_manifest(folder, REFERENCE, server.base_url, MODULES, source=SOURCE),
        )
        assert done.returncode == ExitCode.OK, done.stderr
        asked = len(server.bodies)
        manifest = write_manifest(tmp_path, REPO, server.base_url, MODULES, source=SOURCE)
        done = run(hub, "run", "-f", manifest, "--cache", tmp_path / "cache")
        assert done.returncode == ExitCode.OK, done.stderr
        assert len(server.bodies) == 2 * asked
    print(hub.counters.as_json())
    assert tree(tmp_path / "output") == tree(folder / "output")
