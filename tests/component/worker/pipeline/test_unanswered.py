"""Questions without a usable answer: told, listed with the dataset, asked again when somebody wants it."""

import json
import os
import time
from typing import Any

import pytest
from tests.support.annotation import REFERENCE, read_frames, run_command, write_manifest
from tests.support.file_trees import tree
from tests.support.module_runs import look
from tests.support.openai_server import Reply, scripted_server

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.dataset.episodes import list_episodes
from annotationrun_worker.dataset.metadata import read_info
from annotationrun_worker.demo.chat_request import parse_request
from annotationrun_worker.demo.frame_code import read as read_code

VQA: dict[str, Any] = {"vqa": {"questionTypes": ["count"], "emissionHz": 0.2, "cameras": "Default"}}
MANY: dict[str, Any] = {"failurePolicy": {"maxUnansweredPercent": 100}}
NONE: dict[str, Any] = {"failurePolicy": {"maxUnansweredPercent": 0}}
NOTHING_SEEN = "I see nothing."
EPISODES = list_episodes(REFERENCE, read_info(REFERENCE))


class Mute:
    """A model that sees all, but on some pictures nothing."""

    def __init__(self) -> None:
        self.frames: set[tuple[int, int]] = set()
        """Episode and frame."""

    def __call__(self, number: int, body: dict[str, Any]) -> Reply:
        return Reply(NOTHING_SEEN) if frame_of(body) in self.frames else look(body)


FIRST_FRAMES = {episode.index: episode.dataset_from_index for episode in EPISODES}


def frame_of(body: dict[str, Any]) -> tuple[int, int]:
    """The episode and frame that the pixels say."""
    code = read_code(parse_request(body).images[0].tiles[0].pixels)
    assert code is not None
    return code["episode"], code["index"] - FIRST_FRAMES[code["episode"]]


class Story:
    """Runs in one folder, against a model that is mute where it is told to be."""

    def __init__(self, folder, server, model):
        self.folder, self.server, self.model = folder, server, model
        self.output = folder / "output"

    def run(self, exit_code=ExitCode.OK, **spec):
        """The bodies of what was asked, and what the command said."""
        before = len(self.server.bodies)
        spec = {"source": {"episodes": "0-2"}, "workers": {"episodeAttempts": 2}, **MANY, **spec}
        self.manifest = write_manifest(self.folder, REFERENCE, self.server.base_url, VQA, **spec)
        done = run_command("run", "-f", self.manifest, "--report", self.folder / "report.json")
        assert done.returncode == exit_code, done.stderr
        return self.server.bodies[before:], done

    def pending(self):
        done = run_command("plan", "-f", self.manifest, "--json")
        assert done.returncode == ExitCode.OK, done.stderr
        return json.loads(done.stdout)["pendingEpisodes"]

    @property
    def report(self):
        return json.loads((self.folder / "report.json").read_text())

    @property
    def unanswered(self):
        """What the dataset's record says: episode, module, frame and cause."""
        record = json.loads((self.output / "meta/annotationrun.json").read_text())
        return [(it["episode"], it["module"], it["frame"], it["cause"]) for it in record["unanswered"]]

    def answered(self):
        """(episode, frame) of the rows of questions in the dataset."""
        return {
            (index, frame)
            for index, episode in read_frames(self.output).items()
            for frame, rows in enumerate(episode.events)
            if any(row["style"] == "vqa" for row in rows)
        }


@pytest.fixture
def story(tmp_path):
    model = Mute()
    with scripted_server(model, models=("demo-vlm",)) as server:
        yield Story(tmp_path, server, model)


@pytest.fixture
def lacking(story):
    """A run that lacks the answers to two questions about episode 1."""
    asked, _ = story.run(source={"episodes": "1"})
    story.mute = sorted(map(frame_of, asked))[:2]
    story.asked = {frame_of(body) for body in asked}
    (story.folder / "first").mkdir()
    for name in ("output", "output.staging"):
        (story.folder / name).rename(story.folder / "first" / name)
    story.model.frames = set(story.mute)
    story.first, story.said = story.run()
    return story


def test_they_are_told_and_listed_by_episode_module_and_cause(lacking):
    assert [(episode, module, frame) for episode, module, frame, _ in lacking.unanswered] == [
        (episode, "vqa", frame) for episode, frame in lacking.mute
    ]
    assert all(NOTHING_SEEN in cause for *_, cause in lacking.unanswered)
    assert [(it["episode"], it["module"], it["frame"]) for it in lacking.report["unanswered"]] == [
        (episode, "vqa", frame) for episode, frame in lacking.mute
    ]
    assert "note: unanswered questions: 2, named above" in lacking.said.stdout
    assert lacking.answered().isdisjoint(lacking.mute)


def test_without_another_word_they_are_not_asked_again(lacking):
    before = tree(lacking.output)
    assert lacking.pending() == []
    assert lacking.run()[0] == []
    assert tree(lacking.output) == before


def test_a_new_retry_token_asks_these_alone_and_with_another_seed(lacking):
    lacking.model.frames.clear()
    seeds = {body["seed"] for body in lacking.first}
    rows = lacking.answered()
    asked, _ = lacking.run(retryToken="2", exit_code=ExitCode.OK)
    assert sorted(map(frame_of, asked)) == lacking.mute
    assert seeds.isdisjoint(body["seed"] for body in asked)
    assert lacking.unanswered == lacking.report["unanswered"] == []
    assert lacking.answered() == rows | set(lacking.mute)
    assert lacking.run(retryToken="2")[0] == lacking.run(retryToken="3")[0] == lacking.run()[0] == []
    assert lacking.answered() == rows | set(lacking.mute), "what was answered stays"


def test_a_plan_counts_them_under_a_new_retry_token(lacking):
    lacking.manifest.write_text(lacking.manifest.read_text() + "  retryToken: '2'\n")
    assert lacking.pending() == [1]
    lacking.manifest.write_text(lacking.manifest.read_text().replace("'2'", "''"))
    assert lacking.pending() == []


def test_what_stays_without_an_answer_changes_nothing(lacking):
    before = tree(lacking.output)
    asked, _ = lacking.run(retryToken="2")
    assert sorted(map(frame_of, asked)) == sorted([*lacking.mute, *lacking.mute]), "each with a correction"
    assert tree(lacking.output) == before
    assert lacking.run(retryToken="2")[0] == []
    lacking.model.frames.clear()
    seeds = {body["seed"] for body in [*lacking.first, *asked]}
    again, _ = lacking.run(retryToken="3")
    assert sorted(map(frame_of, again)) == lacking.mute
    assert seeds.isdisjoint(body["seed"] for body in again)
    assert lacking.unanswered == []


def test_a_lower_limit_asks_them_again(lacking):
    lacking.model.frames.clear()
    asked, _ = lacking.run(**NONE)
    assert sorted(map(frame_of, asked)) == lacking.mute
    assert lacking.unanswered == []
    assert lacking.pending() == []


def test_under_a_lower_limit_an_episode_that_stays_so_fails_as_often_as_it_may(lacking):
    before = tree(lacking.output)
    asked, done = lacking.run(ExitCode.INCOMPLETE, **NONE)
    assert {frame_of(body) for body in asked} == set(lacking.mute)
    assert len({body["seed"] for body in asked}) == 2, "as many as attempts"
    assert "more than failurePolicy.maxUnansweredPercent" in done.stderr
    assert tree(lacking.output) == before
    (failure,) = lacking.report["failures"]
    assert (failure["episode"], failure["module"], failure["attempts"]) == (1, "vqa", 2)
    assert lacking.pending() == [1]
    given_up, done = lacking.run(ExitCode.INCOMPLETE, **NONE)
    assert given_up == []
    assert "given up before, not tried now" in done.stderr
    lacking.model.frames.clear()
    healed, _ = lacking.run(retryToken="2", **NONE)
    assert sorted(map(frame_of, healed)) == lacking.mute
    assert lacking.unanswered == []


def test_other_episodes_keep_what_is_listed_of_them(lacking):
    """A run of one episode over an output lists what the others lack."""
    listed = lacking.unanswered
    lacking.run(source={"episodes": "2"}, seed=3)
    assert lacking.unanswered == listed
    assert run_command("drop", lacking.output, "--module", "vqa", "--overwrite").returncode == ExitCode.OK
    assert lacking.unanswered == []


def collect_garbage(story) -> None:
    """As months later."""
    staging = story.folder / "output.staging"
    for path in staging.rglob("*"):
        if path.is_file():
            os.utime(path, times=(time.time() - 40 * 86400,) * 2)
    done = run_command("gc", staging, "--unused-days", "30")
    assert done.returncode == ExitCode.OK, done.stderr
    assert "plans: " in done.stdout, "something went"


def test_after_gc_too_only_what_is_open_is_asked(lacking):
    rows = lacking.answered()
    collect_garbage(lacking)
    lacking.model.frames = lacking.asked - set(lacking.mute)
    asked, _ = lacking.run(retryToken="2")
    assert sorted(map(frame_of, asked)) == lacking.mute
    assert lacking.answered() == rows | set(lacking.mute)


def test_gc_keeps_what_leads_to_a_later_round(lacking):
    """Two rounds in staging, one of them merged; then the same manifest again, and once more anew."""
    healed, mute = lacking.mute
    lacking.model.frames = {mute}
    asked, _ = lacking.run(retryToken="2")
    assert healed in map(frame_of, asked)
    rows = lacking.answered()
    collect_garbage(lacking)
    lacking.model.frames = set(lacking.asked)
    assert lacking.run(retryToken="2")[0] == []
    assert lacking.answered() == rows
    lacking.model.frames.clear()
    again, _ = lacking.run(retryToken="3")
    assert set(map(frame_of, again)) == {mute}
    assert lacking.answered() == rows | {mute}
