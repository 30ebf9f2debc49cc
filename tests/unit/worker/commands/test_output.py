"""How a command ends: what is missing ends it with its exit code, whatever else is asked of it."""

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from tests.support.manifests import local_run

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.commands.output import episode_progress, finish
from annotationrun_worker.dataset.types import EpisodeIndex
from annotationrun_worker.errors import IncompleteError, StorageError, TooManyFailedError
from annotationrun_worker.exit_status import exit_code_of
from annotationrun_worker.pipeline.annotate import AnnotateStep, StepLimits
from annotationrun_worker.pipeline.config import Places
from annotationrun_worker.pipeline.report import AnnotateReport, EpisodeFailure, EpisodeSeen
from annotationrun_worker.pipeline.steps import RunReport
from annotationrun_worker.pipeline.wiring import LocalRun
from annotationrun_worker.staging.digests import digest_json
from annotationrun_worker.video.provider import FrameCounts

RUN = LocalRun(local_run().spec, Places(Path("/here"), Path("/there"), Path("/staging"), ()))


def report_of(fault: IncompleteError | None = None) -> RunReport:
    failed = [EpisodeFailure(EpisodeIndex(3), "vqa", "no JSON")] if fault else []
    annotated = AnnotateReport(episodes_done=2, failures=failed)
    return RunReport(RUN, digest_json("plan"), 2, annotated, {}, FrameCounts(), fault=fault)


@pytest.mark.parametrize("fault", [IncompleteError("missing"), TooManyFailedError("failed")], ids=repr)
@pytest.mark.parametrize("with_file", [False, True], ids=["no report", "a report"])
def test_what_is_missing_ends_the_command_with_its_exit_code(fault, with_file, tmp_path):
    file = tmp_path / "report.json" if with_file else None
    with pytest.raises(IncompleteError) as raised:
        finish(Console(), report_of(fault), file)
    assert raised.value is fault
    assert exit_code_of(fault) == ExitCode.INCOMPLETE == 5
    if file is not None:
        told = json.loads(file.read_text())
        assert (told["exitCode"], told["failures"][0]["episode"]) == (5, 3)


def test_a_run_that_lacks_nothing_ends_well_and_tells_so(tmp_path, capsys):
    file = tmp_path / "report.json"
    finish(Console(), report_of(), file)
    assert json.loads(file.read_text())["exitCode"] == 0
    assert "2" in capsys.readouterr().out


def seen(episode: int, *, failed: bool = False) -> EpisodeSeen:
    return EpisodeSeen(EpisodeIndex(episode), total=4, failed=failed, left=False, made=1, made_twice=0)


@pytest.mark.parametrize("is_terminal", [False, True], ids=["a log", "a terminal"])
def test_failed_episodes_are_told_beside_those_that_are_done(is_terminal):
    file = StringIO()
    console = Console(file=file, force_terminal=is_terminal, width=200)
    with episode_progress(console) as tell:
        for event in (seen(0), seen(1), seen(2), seen(2), seen(3, failed=True)):
            tell(event)
    lines = [line.strip() for line in file.getvalue().splitlines()]
    assert any("3 of 4 episodes, 1 failed" in line for line in lines)
    assert "4 of 4" not in file.getvalue()
    if not is_terminal:
        assert lines == [
            "1 of 4 episodes",
            "2 of 4 episodes",
            "3 of 4 episodes",
            "3 of 4 episodes, 1 failed",
        ]


def test_an_episode_that_another_worker_could_make_after_all_is_done():
    file = StringIO()
    with episode_progress(Console(file=file)) as tell:
        tell(seen(3, failed=True))
        tell(seen(3))
    assert file.getvalue().splitlines() == ["0 of 4 episodes, 1 failed", "1 of 4 episodes"]


def test_a_report_that_can_not_be_written_is_told(tmp_path):
    with pytest.raises(StorageError, match="can't write the report"):
        finish(Console(), report_of(), tmp_path / "absent" / "report.json")


@pytest.mark.parametrize(
    ("failed", "allowed", "too_many"),
    [
        pytest.param([], 0, False, id="none"),
        pytest.param([3], 0, True, id="one where none may"),
        pytest.param([3], 1, False, id="as many as may"),
        pytest.param([3, 3], 1, False, id="one episode in two modules"),
        pytest.param([3, 4], 1, True, id="one more than may"),
    ],
)
def test_episodes_that_failed_are_counted_against_what_is_allowed(failed, allowed, too_many):
    failures = [
        EpisodeFailure(EpisodeIndex(index), name, "why") for index, name in zip(failed, "ab", strict=False)
    ]
    step = AnnotateStep(
        annotator=None,  # nothing is annotated here
        limits=StepLimits(episodes=1, requests=1, failures=allowed),
        requests_at_once=lambda index: 1,
        report=AnnotateReport(failures=failures),
    )
    assert step.has_too_many_failures is too_many
