"""Answers that fit their schema and can't be right: refused with the reason, and asked again. Over real HTTP.

Episode 1 of the reference has 7.5 s; with 8 frames a prompt its two windows begin at 0 and at 4 s.
"""

import json

import pytest
from tests.support.annotation import read_frames
from tests.support.module_runs import EVERY_MODULE, demo_model, kind_of, look, run_here
from tests.support.openai_server import Reply

from annotationrun_worker.errors import IncompleteError

QUIET_PLAN = {"deriveTask": "Never", "taskRephrasings": 0, "emitMemory": False}
TWO_WINDOWS = {"plan": {**QUIET_PLAN, "maxFramesPerPrompt": 8}}
SHORT = {"source": {"episodes": "1"}}
ABSURD = "x" * 20_000
NAMED_FAULTS = 5
"""That one correction names."""


def corrections(server, kind):
    """What was said against the answers of this kind."""
    return [body["messages"][2]["content"] for body in server.bodies
            if kind_of(body) == kind and len(body["messages"]) > 1]  # fmt: skip


def first_answer(body):
    """Whether nothing was said against an answer yet."""
    return len(body["messages"]) == 1


def respan(reply, change):
    """The answer with other times."""
    spans = [
        {"text": span["text"], "start": change(span["start"]), "end": change(span["end"])}
        for span in json.loads(reply.content)["subtasks"]
    ]
    return Reply(json.dumps({"subtasks": spans}))


def subtasks_of(folder):
    return [(row["timestamp"], row["content"]) for row in read_frames(folder / "output")[1].persistent
            if row["style"] == "subtask"]  # fmt: skip


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """The subtasks that come of good answers."""
    folder = tmp_path_factory.mktemp("usual")
    with demo_model() as server:
        run_here(folder, server.base_url, TWO_WINDOWS, **SHORT)
        assert corrections(server, "subtasks") == []
    return subtasks_of(folder)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda seconds: seconds * 1000, id="milliseconds"),
        pytest.param(lambda seconds: seconds + 4, id="the episode's time"),
        pytest.param(lambda seconds: seconds - 4, id="counted back from the end"),
    ],
)
def test_times_that_are_not_the_windows_seconds_are_refused_and_asked_again(tmp_path, usual, change):
    def script(number, body):
        is_first = kind_of(body) == "subtasks" and first_answer(body)
        return respan(look(body), change) if is_first else look(body)

    with demo_model(script) as server:
        run_here(tmp_path, server.base_url, TWO_WINDOWS, **SHORT)
        said = corrections(server, "subtasks")
    assert all(text.startswith("That answer can't be used: the subtask 'move the") for text in said)
    lengths = [text.partition("what is shown lasts ")[2].partition(": give all times in")[0] for text in said]
    assert sorted(lengths) == ["3.47 seconds", "3.50 seconds"], "of both windows"
    assert subtasks_of(tmp_path) == usual


def test_one_span_that_fits_does_not_save_an_answer_in_the_wrong_unit(tmp_path):
    """Clipped to the window, the first of these would be the label of all of it."""
    spans = [{"text": "pick", "start": 0, "end": 1800}, {"text": "place", "start": 1800, "end": 3500}]

    def script(number, body):
        return Reply(json.dumps({"subtasks": spans})) if kind_of(body) == "subtasks" else look(body)

    with demo_model(script) as server:
        with pytest.raises(
            IncompleteError, match=r"'pick' has start 0 and end 1800, but what is shown lasts"
        ):
            run_here(tmp_path, server.base_url, TWO_WINDOWS, workers={"episodeAttempts": 1}, **SHORT)
        assert len(corrections(server, "subtasks")) == 2


def test_spans_that_only_rounding_takes_beyond_the_window_are_taken(tmp_path, usual):
    def script(number, body):
        if kind_of(body) != "subtasks":
            return look(body)
        spans = json.loads(look(body).content)["subtasks"]
        spans[-1]["end"] += 0.9
        return Reply(json.dumps({"subtasks": spans}))

    with demo_model(script) as server:
        run_here(tmp_path, server.base_url, TWO_WINDOWS, **SHORT)
        assert corrections(server, "subtasks") == []
    assert subtasks_of(tmp_path) == usual


def lengthened(value, key=""):
    """The answer with each of its free texts as a model in a loop would write it."""
    if isinstance(value, dict):
        return {name: lengthened(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [lengthened(item, key) for item in value]
    is_free = isinstance(value, str) and key not in {"bbox_format", "point_format", "relation"}
    return ABSURD if is_free else value


def test_texts_of_absurd_length_are_refused_whatever_they_are_and_asked_again(tmp_path):
    lengths = {}

    def script(number, body):
        reply = look({**body, "messages": body["messages"][:1]})
        if not first_answer(body):
            return reply
        absurd = json.dumps(lengthened(json.loads(reply.content)))
        lengths.setdefault(kind_of(body), []).append(min(absurd.count(ABSURD), NAMED_FAULTS))
        return Reply(absurd)

    modules = EVERY_MODULE | {"plan": {"seededRelabel": True}, "interjections": {"minTimeSeconds": 0}}
    with demo_model(script) as server:
        report = run_here(tmp_path, server.base_url, modules, **SHORT)
        found = {
            kind: [text.count("it has 20000 characters, expected ") for text in corrections(server, kind)]
            for kind in lengths
        }
    assert set(found) == {
        "task", "rephrasings", "description", "subtasks", "label", "memory", "speech", "interjection",
        "coordinate_probe", "vqa_bbox", "vqa_keypoint", "vqa_count", "vqa_attribute", "vqa_spatial",
    }  # fmt: skip
    assert {kind: sorted(counts) for kind, counts in found.items()} == {
        kind: sorted(counts) for kind, counts in lengths.items()
    }
    assert all(min(counts) > 0 for counts in lengths.values())
    assert report.annotated.unanswered == []


def test_a_note_and_the_variants_along_the_axes_are_measured_too(tmp_path):
    """The demo model writes no note."""

    def script(number, body):
        reply = look({**body, "messages": body["messages"][:1]})
        said = json.loads(reply.content)
        if not first_answer(body):
            return reply
        if kind_of(body) == "vqa_count":
            said["answer"]["note"] = ABSURD
        return Reply(json.dumps(lengthened(said) if kind_of(body) == "task_axes" else said))

    modules = {"plan": {**QUIET_PLAN, "taskAxes": {}}, "vqa": {"questionTypes": ["count"], "emissionHz": 0.1}}
    with demo_model(script) as server:
        run_here(tmp_path, server.base_url, modules, **SHORT)
        (axes,), (note, *_) = (corrections(server, kind) for kind in ("task_axes", "vqa_count"))
    assert "synonym_paraphrase.0: it has 20000 characters, expected one instruction of at most 2000" in axes
    assert "answer.note: it has 20000 characters, expected one short sentence of at most 1000" in note
