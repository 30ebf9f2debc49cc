"""What the merge step tells the operator, from what it did."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.manifests import local_run

from annotationrun_api.step_results import MAX_MESSAGE_BYTES, MergeOutcome, read_result, write_result
from annotationrun_worker.dataset.types import EpisodeIndex
from annotationrun_worker.errors import IncompleteError, TooManyFailedError
from annotationrun_worker.modules.base import UnansweredQuestion
from annotationrun_worker.output.merge import MergeResult
from annotationrun_worker.pipeline.config import Places
from annotationrun_worker.pipeline.report import AnnotateReport, EpisodeFailure
from annotationrun_worker.pipeline.steps import RunReport, merge_outcome, output_place
from annotationrun_worker.pipeline.wiring import LocalRun
from annotationrun_worker.staging.digests import digest_json
from annotationrun_worker.staging.progress import WorkerUsage
from annotationrun_worker.video.provider import FrameCounts

PLAN, MERGE = digest_json("plan"), digest_json("merge")
HERE = Path("/here")
RUN = LocalRun(local_run().spec, Places(HERE, HERE, HERE, ()))


def failure(episode: int, module: str = "vqa", cause: str = "why") -> EpisodeFailure:
    return EpisodeFailure(EpisodeIndex(episode), module, cause, attempts=3)


def told(annotated: AnnotateReport, **fields: object) -> MergeOutcome:
    """As the operator reads it."""
    frames = FrameCounts()
    report = replace(RunReport(RUN, PLAN, 9, annotated, {}, frames), **fields)
    text = write_result(merge_outcome(report))
    assert len(text.encode()) <= MAX_MESSAGE_BYTES
    return read_result(text, MergeOutcome)


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        pytest.param({"merge": MergeResult(MERGE, unchanged=False)}, "Published", id="merged"),
        pytest.param({"merge": MergeResult(MERGE, unchanged=True)}, "Unchanged", id="merged before"),
        pytest.param({"fault": IncompleteError("x")}, "Missing", id="results are missing"),
        pytest.param({"fault": TooManyFailedError("x")}, "TooManyFailed", id="too many failed"),
    ],
)
def test_the_outcome_is_that_of_the_step(fields, outcome):
    result = told(AnnotateReport(episodes_done=9), **fields)
    assert (result.outcome, result.plan, result.total, result.done) == (outcome, PLAN, 9, 9)
    is_merged = "merge" in fields
    assert result.merge_digest == (MERGE if is_merged else "")
    assert result.place == ("folder /data/blocks-annotated" if is_merged else "")


def test_episodes_and_results_are_counted_whole_and_in_part():
    annotated = AnnotateReport(episodes_done=3, results_reused=11, results_of_left=2)
    annotated.failures = [failure(7), failure(7, "plan"), failure(2)]
    result = told(annotated, fault=IncompleteError("x"))
    assert (result.done, result.failed, result.results) == (3, 2, 13)
    assert [(found.episode_index, found.module) for found in result.failures] == [
        (2, "vqa"),
        (7, "plan"),
        (7, "vqa"),
    ]
    assert result.failures[0].attempts == 3


def test_questions_without_an_answer_are_counted():
    question = UnansweredQuestion(frame=3, camera=None, kind="speech", cause="no JSON")
    annotated = AnnotateReport(
        episodes_done=9, unanswered=[(EpisodeIndex(1), question), (EpisodeIndex(4), question)]
    )
    assert told(annotated, fault=IncompleteError("x")).unanswered == 2


def test_what_the_workers_used_is_told_with_the_length_of_what_they_annotated():
    used = WorkerUsage(answered=7, failed=1, prompt_tokens=70, completion_tokens=20, gpu_seconds=30)
    result = told(AnnotateReport(episodes_done=9), fault=IncompleteError("x"), used=used, video_seconds=359.6)
    assert (result.usage.requests, result.usage.answered, result.usage.video_seconds) == (8, 7, 360)
    assert (result.usage.tokens_per_video_hour, result.usage.gpu_seconds_per_video_hour) == (900, 300)


@pytest.mark.parametrize(
    "cause",
    ["x" * 5000, "ü" * 5000, "\N{CINEMA}" * 5000, "a file \udcff.mp4"],
    ids=["long", "wide", "wider", "odd"],
)
def test_as_many_failures_are_told_as_fit(cause):
    annotated = AnnotateReport(
        episodes_done=0, failures=[failure(episode, "*", cause) for episode in range(900)]
    )
    result = told(annotated, fault=TooManyFailedError("x"))
    assert result.failed == 900
    assert 3 <= len(result.failures) <= 20
    assert [found.episode_index for found in result.failures] == list(range(len(result.failures)))


def test_a_place_that_does_not_fit_is_left_out():
    result = MergeOutcome(
        outcome="Published", plan=PLAN, total=1, done=1, place="\N{CINEMA}" * 2000, merge_digest=MERGE
    )
    text = write_result(result)
    assert len(text.encode()) <= MAX_MESSAGE_BYTES
    assert read_result(text, MergeOutcome) == result.model_copy(update={"place": ""})


@pytest.mark.parametrize(
    ("volume", "place"),
    [
        pytest.param("", "folder /data/out", id="a folder"),
        pytest.param("{claimName: datasets}", "volume datasets, folder data/out", id="of a volume"),
        pytest.param(
            "{claimName: datasets, subPath: team/a}",
            "volume datasets, folder team/a/data/out",
            id="in a folder of a volume",
        ),
    ],
)
def test_a_place_is_named_as_in_the_manifest(volume, place):
    written = f"/data/out\n    volume: {volume}" if volume else "/data/out"
    assert output_place(local_run("/data/blocks-annotated", written).spec) == place
