"""Whether the Hub's token may push the output is seen before the model is asked anything."""

import json

import pytest
from tests.support.annotation import REFERENCE, run_command, write_manifest
from tests.support.file_trees import tree
from tests.support.hub_server.faults import Fault, When
from tests.support.hub_server.server import DEFAULT_TOKEN, HubServer
from tests.support.hub_server.state import Account, Scope
from tests.support.module_runs import demo_model

from annotationrun_api.exit_codes import ExitCode

MODULES = {"vqa": {"emissionHz": 0.1, "cameras": "Default", "questionTypes": ["count"]}}
SOURCE, THERE, NEW = "me/source", "me/there", "me/new"
READS = ("repo.content.read",)
WRITES = (*READS, "repo.write")
NOTHING_CHANGES = ("GET", "HEAD")
ACCOUNTS = {
    "hf_reader": Account("me", can_write=False),
    "hf_other": Account("other", ("team", "club"), reads_only_in=("club",)),
    "hf_scoped_reader": Account("me", scopes=(Scope("user", "me", READS),)),
    "hf_scoped_writer": Account("me", scopes=(Scope("user", "me", WRITES),)),
    "hf_of_one_repo": Account("me", scopes=(Scope("dataset", THERE, WRITES),)),
    "hf_proposer": Account(
        "me", scopes=(Scope("user", "me", READS),), global_permissions=("discussion.write",)
    ),
}


@pytest.fixture
def hub():
    with HubServer() as server:
        server.add_repo(SOURCE, REFERENCE)
        server.add_repo(THERE, {"README.md": b"Empty yet.\n"})
        for token, account in ACCOUNTS.items():
            server.add_account(token, account)
        yield server


@pytest.fixture
def model():
    with demo_model() as server:
        yield server


def command_of(hub, model, folder, command, token, **output):
    """The command's end; its source is on the Hub too, and read by the same token."""
    manifest = write_manifest(
        folder, SOURCE, model.base_url, MODULES, source={"episodes": "1"}, output=output
    )
    environment = {**hub.environment, "HF_TOKEN": token, "HF_HOME": str(folder / "nobody")}
    return run_command(
        command, "-f", manifest, "--cache", folder / "cache", "--staging", folder / "staging",
        environment=environment,
    )  # fmt: skip


def changes(hub):
    """Requests that the Hub got which may change something there."""
    return [line for line in hub.counters.log if line.method not in NOTHING_CHANGES]


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(
    ("token", "output", "words"),
    [
        pytest.param(
            "hf_reader",
            {"repoID": THERE},
            ["the token is one of 'me' that may only read", "with the role write", "repo.write on it"],
            id="reads alone, there",
        ),
        pytest.param(
            "hf_reader",
            {"repoID": NEW},
            ["may only read", "create repositories in the namespace 'me'"],
            id="reads alone, to be made",
        ),
        pytest.param(
            "hf_other",
            {"repoID": NEW},
            ["one of 'other', a member of 'team', 'club'", "in the namespace 'me'"],
            id="of another namespace, to be made",
        ),
        pytest.param("hf_other", {"repoID": "club/new"}, ["namespace 'club'"], id="a member who only reads"),
        pytest.param(
            "hf_other", {"repoID": THERE}, ["one of 'other'", "may write to it"], id="somebody else's"
        ),
        pytest.param(
            "hf_scoped_reader",
            {"repoID": THERE},
            ["a fine-grained one of 'me' that may repo.content.read on user 'me'"],
            id="fine-grained, there",
        ),
        pytest.param(
            "hf_of_one_repo",
            {"repoID": NEW},
            ["repo.content.read, repo.write on dataset 'me/there'", "repo.write on 'me'"],
            id="fine-grained for another, to be made",
        ),
        pytest.param(
            "hf_reader",
            {"repoID": THERE, "pullRequest": True},
            ["may only read", "open pull requests"],
            id="reads alone, a pull request",
        ),
        pytest.param(
            "hf_scoped_reader",
            {"repoID": THERE, "pullRequest": True},
            ["repo.content.read on user 'me'", "discussion.write"],
            id="fine-grained, a pull request",
        ),
        pytest.param(
            "hf_proposer",
            {"repoID": THERE, "pullRequest": True, "branch": "labels"},
            ["discussion.write everywhere", "may write to it"],
            id="a pull request to a branch that is to be made",
        ),
        pytest.param("", {"repoID": THERE}, ["the token is missing"], id="none"),
    ],
)
def test_a_token_that_may_not_push_ends_the_run_before_the_first_question(
    tmp_path, hub, model, command, token, output, words
):
    done = command_of(hub, model, tmp_path, command, token, **output)
    assert done.returncode == ExitCode.CONFIGURATION, done.stderr
    assert [word for word in words if word not in done.stderr] == [], done.stderr
    assert f"dataset {output['repoID']!r}" in done.stderr
    assert "HF_TOKEN" in done.stderr
    assert not token or token not in done.stderr + done.stdout
    assert model.bodies == []
    assert changes(hub) == []
    assert NEW not in {key.removeprefix("datasets/") for key in hub.hub.repos}


def test_a_token_that_nobody_has_is_told(tmp_path, hub, model):
    """The source is a folder: where it is on the Hub, that is what can't be read first."""
    manifest = write_manifest(
        tmp_path, REFERENCE, model.base_url, MODULES, source={"episodes": "1"}, output={"repoID": THERE}
    )
    done = run_command(
        "run", "-f", manifest, "--cache", tmp_path / "cache", "--staging", tmp_path / "staging",
        environment={**hub.environment, "HF_TOKEN": "hf_of_nobody"},
    )  # fmt: skip
    assert done.returncode == ExitCode.CONFIGURATION, done.stderr
    assert "the token is not known to the Hub" in done.stderr
    assert "hf_of_nobody" not in done.stderr + done.stdout
    assert model.bodies == []


@pytest.mark.parametrize(
    ("token", "output"),
    [
        pytest.param(DEFAULT_TOKEN, {"repoID": THERE}, id="there"),
        pytest.param(DEFAULT_TOKEN, {"repoID": NEW}, id="to be made"),
        pytest.param("hf_scoped_writer", {"repoID": NEW}, id="fine-grained, to be made"),
        pytest.param("hf_other", {"repoID": "team/new"}, id="to be made in an organization"),
        pytest.param(
            "hf_other", {"repoID": THERE, "pullRequest": True}, id="a pull request to somebody else"
        ),
        pytest.param(
            "hf_proposer", {"repoID": THERE, "pullRequest": True}, id="fine-grained, a pull request"
        ),
    ],
)
def test_a_token_that_may_push_plans_and_nothing_is_written_on_the_hub(tmp_path, hub, model, token, output):
    done = command_of(hub, model, tmp_path, "plan", token, **output)
    assert done.returncode == ExitCode.OK, done.stderr
    assert hub.counters.requests["auth_check"] == 1
    assert changes(hub) == []


def test_a_good_token_asks_and_pushes(tmp_path, hub, model):
    done = command_of(hub, model, tmp_path, "run", "hf_scoped_writer", repoID=NEW)
    assert done.returncode == ExitCode.OK, done.stderr
    assert model.bodies
    assert "language_events" in json.loads(hub.read_file(NEW, "meta/info.json"))["features"]


@pytest.mark.parametrize("kind", ["auth_check", "whoami"])
@pytest.mark.parametrize("status", [404, 429, 503])
def test_what_the_hub_does_not_tell_is_left_to_the_push(tmp_path, hub, model, kind, status):
    hub.faults.add(Fault("status", status, {"Retry-After": "300"}), When(kind=kind), times=None)
    done = command_of(hub, model, tmp_path, "plan", DEFAULT_TOKEN, repoID=NEW)
    assert done.returncode == ExitCode.OK, done.stderr
    assert hub.counters.requests[kind] == 1, "no other try"


def test_a_trial_pushes_nothing_and_needs_no_right_to(tmp_path, hub, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest = write_manifest(
        tmp_path, SOURCE, model.base_url, MODULES, source={"episodes": "1"}, output={"repoID": NEW}
    )
    done = run_command(
        "run", "-f", manifest, "--limit", "1", "--cache", tmp_path / "cache",
        environment={**hub.environment, "HF_TOKEN": "hf_reader"},
    )  # fmt: skip
    assert done.returncode == ExitCode.OK, done.stderr
    assert "auth_check" not in hub.counters.requests
    assert "meta/info.json" in tree(tmp_path / "new.trial")
