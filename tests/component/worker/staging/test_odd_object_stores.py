"""Object stores that ignore or refuse conditions on writes, as small real HTTP servers."""

import asyncio
import os
from contextlib import contextmanager

import pytest
from tests.support.annotation import REFERENCE, run_command, write_manifest
from tests.support.attacks import attacked
from tests.support.file_trees import tree
from tests.support.module_runs import demo_model
from tests.support.odd_s3_server import odd_s3_server

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.errors import ConfigurationError
from annotationrun_worker.staging.digests import digest_json
from annotationrun_worker.staging.once import check_creating
from annotationrun_worker.staging.results import StagedAnswer, read_answer, stage_answer
from annotationrun_worker.staging.store import open_store

KEY = digest_json("a key")
LOCATION = "s3://bucket/store"
MODULES = {"vqa": {"emissionHz": 0.5, "questionTypes": ["count"]}}
ONE_EPISODE = {"episodes": "0"}


@pytest.fixture
def odd(monkeypatch):
    """Starts a server, and has the environment name it."""

    @contextmanager
    def start(conditions):
        with odd_s3_server(conditions) as server, monkeypatch.context() as environment:
            for name in [name for name in os.environ if name.startswith("AWS_")]:
                environment.delenv(name)
            for name, value in server.environment.items():
                environment.setenv(name, value)
            yield server

    return start


def test_a_store_that_obeys_is_asked_with_two_puts_and_left_as_it_was(odd):
    with odd("obeyed") as server:
        asyncio.run(check_creating(open_store(LOCATION)))
        assert [request.split()[0] for request in server.requests][:3] == ["PUT", "PUT", "GET"]
        assert server.objects == {}


def test_a_store_that_ignores_if_none_match_is_a_configuration_error(odd):
    with odd("ignored") as server:
        with pytest.raises(ConfigurationError, match=r"s3://bucket/store.*ignores the header If-None-Match"):
            asyncio.run(check_creating(open_store(LOCATION)))
        assert server.objects == {}


@pytest.mark.parametrize("command", ["plan", "run", "merge", "annotate"])
def test_no_command_stages_anything_in_a_store_that_ignores_if_none_match(tmp_path, odd, printed, command):
    with demo_model() as model, odd("ignored") as server:
        manifest = write_manifest(tmp_path, REFERENCE, model.base_url, MODULES, source=ONE_EPISODE)
        plan = ("--plan", KEY) if command == "annotate" else ()
        attack = f"staging: S3 that ignores If-None-Match, {command}"
        done = attacked(printed, attack, command, "-f", manifest, "--staging", LOCATION, *plan)
        assert done.returncode == ExitCode.CONFIGURATION, done.stderr
        assert "If-None-Match" in done.stderr
        assert server.objects == {}
        assert model.bodies == []


def test_a_store_that_refuses_the_condition_is_named_with_its_own_word(tmp_path, odd, printed):
    with demo_model() as model, odd("refused"):
        manifest = write_manifest(tmp_path, REFERENCE, model.base_url, MODULES, source=ONE_EPISODE)
        attack = "staging: S3 that refuses If-None-Match"
        done = attacked(printed, attack, "run", "-f", manifest, "--staging", LOCATION)
        assert done.returncode == ExitCode.STORAGE, done.stderr
        assert LOCATION in done.stderr
        assert "NotImplemented" in done.stderr
        assert model.bodies == []


def test_a_run_on_a_store_that_obeys_makes_what_it_makes_in_a_folder(tmp_path, odd):
    with demo_model() as model, odd("obeyed") as server:
        outputs = []
        for place in (LOCATION, tmp_path / "staging"):
            folder = tmp_path / str(len(outputs))
            folder.mkdir()
            manifest = write_manifest(folder, REFERENCE, model.base_url, MODULES, source=ONE_EPISODE)
            done = run_command("run", "-f", manifest, "--staging", place)
            assert done.returncode == ExitCode.OK, done.stderr
            outputs.append(tree(folder / "output"))
        assert outputs[0] == outputs[1]
        assert any(key.startswith("bucket/store/results/") for key in server.objects)
        assert not any("/checks/" in key for key in server.objects)


@pytest.mark.parametrize("conditions", ["obeyed", "no etags", "ignored in updates"])
def test_a_damaged_answer_is_replaced_whatever_the_store_knows_of_versions(odd, conditions):
    path = f"bucket/store/answers/{KEY[:2]}/{KEY}.json"
    answer = StagedAnswer(KEY, "red", 1, 1)

    async def check():
        store = open_store(LOCATION)
        assert await stage_answer(store, KEY, answer) == answer
        assert await read_answer(store, KEY) == answer

    with odd(conditions) as server:
        server.objects[path] = b"{"
        asyncio.run(check())
        assert list(server.objects) == [path]


def test_of_many_that_find_an_answer_damaged_all_get_the_first_ones(odd):
    """The etag that was read tells whether another was faster."""
    answers = [StagedAnswer(KEY, str(writer), 1, 1) for writer in range(12)]

    async def check():
        store = open_store(LOCATION)
        got = await asyncio.gather(*(stage_answer(store, KEY, answer) for answer in answers))
        assert set(got) == {await read_answer(store, KEY)}

    with odd("obeyed") as server:
        for _ in range(5):
            server.objects[f"bucket/store/answers/{KEY[:2]}/{KEY}.json"] = b""
            asyncio.run(check())
