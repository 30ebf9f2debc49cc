"""Runs whose output is a dataset on the Hub: what is pushed, and what a second run does."""

import json

import pytest
from tests.support.annotation import REFERENCE, run_command, write_manifest
from tests.support.file_trees import tree
from tests.support.hub_server.server import HubServer
from tests.support.module_runs import demo_model

from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.step_results import MergeOutcome, read_result

SOURCE, OUTPUT = "me/source", "me/annotated"
MODULES = {"vqa": {"emissionHz": 0.5, "cameras": "Default"}}
EPISODES = {"episodes": "1,2"}
CARD = b"---\nlicense: apache-2.0\n---\n# Blocks\n\nMoved by hand.\n"


@pytest.fixture
def hub():
    with HubServer() as server:
        server.add_repo(SOURCE, REFERENCE)
        server.append_commit(SOURCE, {"README.md": CARD})
        yield server


@pytest.fixture
def model():
    with demo_model() as server:
        yield server


def manifest_of(folder, model, source, output, **spec):
    modules = spec.pop("modules", MODULES)
    return write_manifest(
        folder, source, model.base_url, modules, source=EPISODES, output={"repoID": output}, **spec
    )


def run(hub, folder, manifest, *arguments, cache="cache"):
    """A run that ends well; what it printed."""
    done = run_command(
        "run", "-f", manifest, "--cache", folder / cache, "--staging", folder / "staging", *arguments,
        environment=hub.environment,
    )  # fmt: skip
    assert done.returncode == ExitCode.OK, done.stderr
    return done.stdout


def videos(counter):
    return {path for _, path in counter if path.endswith(".mp4")}


def dataset_files(hub, repo):
    return {
        path: content for path, content in hub.files(repo).items() if path[0] != "." and path != "README.md"
    }


def test_a_dataset_annotated_in_place_is_one_commit_and_a_second_run_does_nothing(tmp_path, hub, model):
    before = len(hub.commits(SOURCE))
    manifest = manifest_of(tmp_path, model, SOURCE, SOURCE)
    run(hub, tmp_path, manifest)
    asked = len(model.bodies)
    assert len(hub.commits(SOURCE)) == before + 1
    assert "language_events" in json.loads(hub.read_file(SOURCE, "meta/info.json"))["features"]
    assert hub.counters.received
    assert not videos(hub.counters.received)
    assert videos(hub.counters.served) == {"videos/observation.images.front/chunk-000/file-000.mp4"}, (
        "the other camera is looked at by no module"
    )

    hub.counters.clear()
    said = run(hub, tmp_path, manifest, cache="another")
    assert len(model.bodies) == asked
    assert len(hub.commits(SOURCE)) == before + 1
    assert hub.counters.served
    assert not videos(hub.counters.served), "aliases tell what the videos hold"
    assert "the output is up to date" in said


def test_the_pushed_dataset_is_what_a_folder_would_hold(tmp_path, hub, model):
    folder = tmp_path / "folder"
    folder.mkdir()
    local = write_manifest(folder, REFERENCE, model.base_url, MODULES, source=EPISODES)
    assert run_command("run", "-f", local).returncode == ExitCode.OK
    run(hub, tmp_path, manifest_of(tmp_path, model, SOURCE, OUTPUT))
    pushed = dataset_files(hub, OUTPUT)
    expected = {path: (folder / "output" / path).read_bytes() for path in tree(folder / "output")}
    record = "meta/annotationrun.json"  # holds the identity of its source, of which the Hub has the card too
    assert pushed.keys() == expected.keys() >= {record}
    assert {path for path in pushed if pushed[path] != expected[path]} <= {record}


def test_a_new_repository_gets_its_videos_on_the_server_and_the_card_of_the_source(tmp_path, hub, model):
    run(hub, tmp_path, manifest_of(tmp_path, model, SOURCE, OUTPUT))
    assert hub.counters.received
    assert not videos(hub.counters.received)
    assert dataset_files(hub, OUTPUT).keys() >= dataset_files(hub, SOURCE).keys()
    assert "v3.0" in hub.repo(OUTPUT).tags
    card = hub.read_file(OUTPUT, "README.md").decode()
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "Moved by hand." in card
    assert hub.commits(SOURCE)[0].sha in card


def test_a_folder_is_pushed_with_its_videos(tmp_path, hub, model):
    run(hub, tmp_path, manifest_of(tmp_path, model, REFERENCE, OUTPUT))
    assert len(videos(hub.counters.received)) == len(list(REFERENCE.rglob("*.mp4")))
    commits = len(hub.commits(OUTPUT))
    assert "the output is up to date" in run(hub, tmp_path, manifest_of(tmp_path, model, REFERENCE, OUTPUT))
    assert len(hub.commits(OUTPUT)) == commits


def test_the_merge_alone_needs_no_video_and_tells_its_commit(tmp_path, hub, model):
    manifest = manifest_of(tmp_path, model, SOURCE, SOURCE)
    common = ("-f", manifest, "--staging", tmp_path / "staging")
    annotated = run_command("annotate", *common, "--cache", tmp_path / "a", environment=hub.environment)
    assert annotated.returncode == ExitCode.OK, annotated.stderr
    hub.counters.clear()
    before = hub.commits(SOURCE)[0].sha
    result = tmp_path / "result.json"
    result.touch()
    merged = run_command(
        "merge", *common, "--cache", tmp_path / "b", "--result", result, environment=hub.environment
    )
    assert merged.returncode == ExitCode.OK, merged.stderr
    assert hub.counters.served
    assert not videos(hub.counters.served)
    told = read_result(result.read_bytes(), MergeOutcome)
    assert (told.outcome, told.place) == ("Published", f"dataset {SOURCE}, branch main")
    assert (told.commit, told.previous_commit) == (hub.commits(SOURCE)[0].sha, before)


def test_a_changed_setting_asks_only_for_what_it_adds_and_is_one_more_commit(tmp_path, hub, model):
    run(hub, tmp_path, manifest_of(tmp_path, model, SOURCE, SOURCE))
    before, asked = len(hub.commits(SOURCE)), len(model.bodies)
    twice = {"vqa": {**MODULES["vqa"], "emissionHz": 1.0}}
    changed = manifest_of(tmp_path, model, SOURCE, SOURCE, modules=twice)
    run(hub, tmp_path, changed, cache="another")
    assert len(hub.commits(SOURCE)) == before + 1
    assert asked < len(model.bodies) < 2 * asked + 10, "what was asked before is staged"


def test_what_others_pushed_meanwhile_is_not_overwritten(tmp_path, hub, model):
    """The dataset changes between the look at it and the push."""
    planned = hub.commits(SOURCE)[0].sha
    info = json.loads(hub.read_file(SOURCE, "meta/info.json"))
    hub.append_commit(SOURCE, {"meta/info.json": json.dumps({**info, "robot_type": "other"}).encode()})
    manifest = manifest_of(tmp_path, model, SOURCE, SOURCE)
    done = run_command(
        "run", "-f", manifest, "--cache", tmp_path / "cache", "--staging", tmp_path / "staging",
        "--revision", planned, environment=hub.environment,
    )  # fmt: skip
    assert done.returncode == ExitCode.OUTPUT_MOVED
    assert "meta/info.json" in done.stderr
    assert "run again" in done.stderr
    assert hub.commits(SOURCE)[0].title == "Upstream change"


def test_only_who_publishes_needs_the_token_of_the_output(tmp_path, hub, model):
    """As in the pods: each step has the token that it needs, and no other."""
    output = {"repoID": OUTPUT, "tokenSecretRef": {"name": "hub", "key": "token"}}
    manifest = write_manifest(tmp_path, SOURCE, model.base_url, MODULES, source=EPISODES, output=output)
    tokenless = {**hub.environment, "HF_TOKEN": "", "HF_HOME": str(tmp_path / "nobody")}
    common = ("-f", manifest, "--cache", tmp_path / "cache", "--staging", tmp_path / "staging")
    told = ("--result", tmp_path / "result.json")
    ended = {
        step: run_command(step, *common, *(told if step == "plan" else ()), environment=tokenless)
        for step in ("plan", "annotate", "merge")
    }
    assert [ended[step].returncode for step in ended] == [ExitCode.OK, ExitCode.OK, ExitCode.CONFIGURATION]
    assert "spec.output.tokenSecretRef" in ended["merge"].stderr
    assert run_command("merge", *common, environment=hub.environment).returncode == ExitCode.OK
