"""What is decided about a run, over its whole life; a world of values stands for the cluster."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.support.run_world import MERGED, PLAN, SETTINGS, START, RunWorld

from annotationrun_api.conditions import ConditionType
from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.labels import Step
from annotationrun_api.reasons import Reason
from annotationrun_api.status import EpisodeFailure
from annotationrun_api.step_results import WorkerProgress
from annotationrun_operator.core.decide import decide
from annotationrun_operator.core.status import CreateJob
from annotationrun_operator.core.steps import ATTEMPTS
from annotationrun_operator.observation import ContainerView

PLANNING, ANNOTATING, MERGING = Step.PLAN, Step.ANNOTATE, Step.MERGE
READY, FAILED, STALLED = ConditionType.READY, ConditionType.FAILED, ConditionType.STALLED


def steps_created(world: RunWorld) -> list[str]:
    return [job["metadata"]["labels"]["annotationrun.dev/step"] for job in world.created]


def test_a_run_is_planned_annotated_merged_and_complete():
    world = RunWorld()
    world.settle()
    assert world.live == [PLANNING]
    assert world.condition(READY) == ("False", "WaitingForPods")
    world.run_pod(PLANNING)
    world.settle()
    assert world.condition(READY) == ("False", "Planning")
    world.end_plan(episodes=6)
    world.settle()
    assert world.live == [ANNOTATING]
    assert world.condition(ConditionType.PLANNED) == ("True", "Succeeded")
    assert (world.status.plan.digest, world.status.episodes.total) == (PLAN, 6)
    assert world.job(ANNOTATING).completions == 3
    world.end(ANNOTATING)
    world.settle()
    assert world.live == [MERGING]
    world.end_merge()
    world.settle()
    assert world.live == []
    assert world.condition(READY) == ("True", "Complete")
    assert world.condition(ConditionType.COMPLETE) == ("True", "Complete")
    assert world.condition(ConditionType.RECONCILING)[0] == "False"
    for kind in (ConditionType.ANNOTATED, ConditionType.MERGED, ConditionType.PUBLISHED):
        assert world.condition(kind) == ("True", "Succeeded")
    assert world.status.published.merge_digest == MERGED
    assert world.status.progress.text == "100% (6/6)"
    assert world.status.completion_time == world.now
    assert steps_created(world) == ["plan", "annotate", "merge"]


def test_the_attempt_stands_in_the_status_with_the_job_that_is_created():
    """Whoever comes after a crash between the two creates the same Job."""
    world = RunWorld()
    decision = world.decide()
    (create,) = decision.actions
    assert isinstance(create, CreateJob)
    assert (decision.status.plan.attempt, decision.status.plan.job_name) == (1, create.name)
    world.status = decision.status  # written, and then the operator dies
    (again,) = world.decide().actions
    assert again == create


@pytest.mark.parametrize("step", [PLANNING, ANNOTATING, MERGING])
def test_a_job_that_somebody_deleted_is_created_again_and_counts_as_no_attempt(step):
    world = RunWorld()
    world.go_to(step)
    (name,) = [job.name for job in world.jobs.values() if job.step is step]
    for _ in range(2 * ATTEMPTS):
        del world.jobs[name]
        world.settle()
        assert world.job(step).name == name
        assert world.job(step).attempt == 1
    world.complete()
    assert world.condition(READY) == ("True", "Complete")


def test_without_anything_pending_there_is_no_annotate_job():
    world = RunWorld()
    world.settle()
    world.end_plan(episodes=6, pending=0)
    world.settle()
    assert world.live == [MERGING]
    assert world.condition(ConditionType.ANNOTATED) == ("True", "NothingToDo")


def test_no_more_workers_than_pending_episodes():
    world = RunWorld()
    world.settle()
    world.end_plan(episodes=6, pending=2)
    world.settle()
    assert world.job(ANNOTATING).completions == 2


def test_missing_results_open_the_next_attempt_and_progress_counts():
    world = RunWorld()
    for results in (2, 4, 5):
        world.go_to(MERGING)
        world.end_merge("Missing", done=results, results=results)
        world.settle()
        assert world.live == [ANNOTATING]
    assert world.status.annotate.attempt == 4
    assert world.job(ANNOTATING).completions == 1, "one episode is left"
    world.complete()
    assert world.condition(READY) == ("True", "Complete")


def test_attempts_without_progress_end_the_run():
    world = RunWorld()
    for _ in range(ATTEMPTS + 1):
        world.go_to(MERGING)
        world.end_merge("Missing", done=1, results=1)
        world.settle()
    assert world.live == []
    assert world.condition(FAILED) == ("True", "NoProgress")
    assert "5 of 6 episodes lack results" in world.message()
    assert world.status.annotate.attempt == ATTEMPTS + 1


def test_too_many_failed_episodes_fail_the_run_and_are_listed():
    world = RunWorld()
    world.go_to(MERGING)
    failure = EpisodeFailure(episode_index=3, module="vqa", attempts=3, cause="no JSON")
    world.end_merge("TooManyFailed", done=5, failed=1, failures=(failure,))
    world.settle()
    assert world.condition(FAILED) == ("True", "TooManyFailedEpisodes")
    assert world.status.failures == (failure,)
    assert world.status.episodes.failed == 1
    assert world.status.published is None


@pytest.mark.parametrize(
    ("step", "code", "reason"),
    [
        (PLANNING, ExitCode.CONFIGURATION, Reason.CONFIGURATION_REFUSED),
        (PLANNING, ExitCode.DATASET, Reason.DATASET_UNREADABLE),
        (PLANNING, ExitCode.STORAGE, Reason.STORAGE_FAILED),
        (PLANNING, ExitCode.FAILED, Reason.PODS_FAILED),
        (ANNOTATING, ExitCode.CONFIGURATION, Reason.CONFIGURATION_REFUSED),
        (ANNOTATING, ExitCode.SERVER_NOT_READY, Reason.SERVER_NOT_READY),
        (ANNOTATING, ExitCode.STORAGE, Reason.STORAGE_FAILED),
        (MERGING, ExitCode.STORAGE, Reason.STORAGE_FAILED),
        (MERGING, ExitCode.DATASET, Reason.DATASET_UNREADABLE),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_job_that_failed_for_good_fails_the_run_with_its_words_and_a_new_token_tries_again(
    step, code, reason
):
    world = RunWorld()
    world.go_to(step)
    world.end(step, code, "annotationrun: it was this")
    world.settle()
    assert world.live == []
    assert world.condition(FAILED) == ("True", reason.value)
    assert world.condition(STALLED) == ("True", reason.value)
    assert "it was this" in world.message()
    assert reason.remedy in world.message()
    world.edit(retryToken="again")
    world.complete()
    assert world.condition(READY) == ("True", "Complete")
    assert world.condition(FAILED)[0] == "False"


def test_an_output_that_others_changed_is_planned_anew_and_given_up_after_three_times():
    world = RunWorld()
    for _ in range(2):
        world.go_to(MERGING)
        world.end(MERGING, ExitCode.OUTPUT_MOVED, "annotationrun: 'meta/info.json' was changed")
        world.settle()
        assert world.live == [PLANNING]
    world.go_to(MERGING)
    world.end(MERGING, ExitCode.OUTPUT_MOVED, "annotationrun: 'meta/info.json' was changed")
    world.settle()
    assert world.condition(FAILED) == ("True", "OutputMoved")
    assert "meta/info.json" in world.message()


def test_an_output_that_others_changed_once_is_published_with_the_next_plan():
    world = RunWorld()
    world.go_to(MERGING)
    world.end(MERGING, ExitCode.OUTPUT_MOVED)
    world.complete()
    assert world.condition(READY) == ("True", "Complete")


def test_a_worker_that_ran_out_of_memory_is_named():
    world = RunWorld()
    world.go_to(ANNOTATING)
    world.end(ANNOTATING, 137, exit_reason="OOMKilled")
    world.settle()
    assert world.condition(FAILED) == ("True", "OutOfMemory")


def test_crashed_workers_leave_it_to_the_merge_to_look_what_there_is():
    world = RunWorld()
    world.go_to(ANNOTATING)
    world.end(ANNOTATING, 139)
    world.settle()
    assert world.live == [MERGING]


def test_a_plan_without_a_word_is_made_again_three_times_at_most():
    world = RunWorld()
    for attempt in range(1, ATTEMPTS + 1):
        world.settle()
        assert world.status.plan.attempt == attempt
        world.end(PLANNING, 0, "what is this")
    world.settle()
    assert world.condition(FAILED) == ("True", "PlanUnreadable")


def test_an_edit_in_the_middle_stops_and_plans_anew():
    world = RunWorld()
    world.go_to(ANNOTATING)
    world.deletes_wait = True
    world.edit(modules={"vqa": {"emissionHz": 0.5}})
    world.settle()
    assert world.condition(READY) == ("False", "Stopping")
    assert len(world.created) == 2, "nothing begins before the pods are gone"
    world.finish_deleting()
    world.settle()
    assert world.live == [PLANNING]
    assert world.condition(ConditionType.PLANNED)[0] == "False"
    assert world.status.plan.attempt == 2
    world.complete()
    assert steps_created(world) == ["plan", "annotate", "plan", "annotate", "merge"]


def test_an_edit_while_merging_waits_for_the_pod_and_records_what_it_published():
    world = RunWorld()
    world.go_to(MERGING)
    world.run_pod(MERGING)
    world.edit(seed=7)
    world.deletes_wait = True
    world.settle()
    assert world.condition(READY) == ("False", "Stopping")
    world.end_merge()  # it was faster
    world.settle()
    assert world.status.published.merge_digest == MERGED
    assert world.live == [PLANNING]


@pytest.mark.parametrize(
    ("edit", "steps"),
    [
        pytest.param({"ttlSecondsAfterFinished": 5000}, [], id="TTL"),
        pytest.param({"suspend": True}, [], id="suspend"),
        pytest.param({"output": {"path": "b", "volume": {"claimName": "data"}}}, ["merge"], id="output"),
        pytest.param({"failurePolicy": {"maxFailedEpisodes": 1}}, ["merge"], id="what may fail"),
        pytest.param({"seed": 2}, ["plan", "annotate", "merge"], id="seed"),
        pytest.param({"modules": {"plan": {}}}, ["plan", "annotate", "merge"], id="modules"),
        pytest.param({"retryToken": "x"}, ["plan", "annotate", "merge"], id="retryToken"),
    ],
)
def test_after_the_end_an_edit_asks_for_the_steps_that_it_changes(edit, steps):
    world = RunWorld()
    world.complete()
    before = len(world.created)
    world.edit(**edit)
    world.settle()
    while world.live:
        {"plan": world.end_plan, "annotate": lambda: world.end(ANNOTATING), "merge": world.end_merge}[
            world.live[0]
        ]()
        world.settle()
    assert steps_created(world)[before:] == steps
    assert world.condition(READY) == ("True", "Complete")


def test_complete_turns_false_in_the_write_that_observes_the_new_generation():
    world = RunWorld()
    world.complete()
    world.edit(seed=9)
    decision = world.step()
    assert decision.status.observed_generation == 2
    assert world.condition(ConditionType.COMPLETE)[0] == "False"
    assert world.condition(ConditionType.RECONCILING)[0] == "True"


@pytest.mark.parametrize("step", [PLANNING, ANNOTATING, MERGING])
def test_a_suspended_run_has_no_job_and_goes_on_with_the_next_attempt(step):
    world = RunWorld()
    world.go_to(step)
    attempts = [job.attempt for job in world.jobs.values() if job.step is step]
    world.edit(suspend=True)
    world.settle()
    assert world.live == []
    assert world.condition(ConditionType.SUSPENDED) == ("True", "Suspended")
    assert world.status.activity.active_since is None
    world.edit(suspend=False)
    world.settle()
    assert world.live == [step]
    assert world.job(step).attempt == attempts[-1] + 1
    world.complete()
    assert world.condition(READY) == ("True", "Complete")


def test_a_run_that_is_suspended_from_the_start_begins_nothing():
    world = RunWorld()
    world.edit(suspend=True)
    world.settle()
    assert world.created == []


def test_the_retry_annotation_counts_as_a_token():
    world = RunWorld()
    world.complete()
    world.annotations["annotationrun.dev/requested-at"] = "2026-01-02"
    world.settle()
    assert world.live == [PLANNING]
    assert world.condition(ConditionType.PLANNED) == ("False", "InProgress")


def test_the_active_deadline_counts_over_suspensions():
    world = RunWorld()
    world.edit(activeDeadlineSeconds=100)
    world.go_to(ANNOTATING)
    world.wait(60)
    world.edit(suspend=True)
    world.settle()
    world.wait(1000)
    world.edit(suspend=False)
    world.settle()
    assert world.live == [ANNOTATING]
    world.wait(41)
    world.settle()
    assert world.condition(FAILED) == ("True", "ActiveDeadlineExceeded")
    world.edit(activeDeadlineSeconds=1000)
    world.complete()
    assert world.condition(READY) == ("True", "Complete")


def test_finished_jobs_go_when_their_time_is_over_and_stay_gone():
    world = RunWorld()
    world.edit(ttlSecondsAfterFinished=50)
    world.complete()
    assert len(world.jobs) == 3
    assert world.decide().recheck_seconds == 50
    world.wait(50)
    world.settle()
    assert world.jobs == {}
    assert world.condition(READY) == ("True", "Complete")
    assert len(world.created) == 3


def test_progress_never_falls_and_tells_the_time_to_go():
    world = RunWorld()
    world.go_to(ANNOTATING)
    world.run_pod(ANNOTATING)
    seen = []
    for done in (0, 2, 1, 3):
        world.wait(60)
        world.extra["progress"] = WorkerProgress(plan=PLAN, total=6, done=done)
        world.settle()
        seen.append(world.status.progress.percent)
    assert seen == [0, 33, 33, 50]
    assert world.status.progress.text == "50% (3/6)"
    assert world.status.progress.eta == "240s"
    assert world.status.progress.estimated_completion_time == world.now + timedelta(seconds=240)


def test_what_a_worker_found_at_its_model_server_stands_in_the_messages_of_its_attempt():
    world = RunWorld()
    world.go_to(ANNOTATING)
    world.run_pod(ANNOTATING)
    found = "'Qwen/Qwen3-VL-8B', version 0.32.0; JSON schemas are ignored, and asked for as text"
    world.extra["progress"] = WorkerProgress(plan=PLAN, total=6, done=2, server=found)
    world.settle()
    assert world.message().endswith(f"2 of 6 episodes are done. Model server: {found}.")
    world.extra["progress"] = WorkerProgress(plan=PLAN, total=6, done=3)
    world.settle()
    assert world.message().endswith(f"3 of 6 episodes are done. Model server: {found}.")
    world.end(ANNOTATING)
    world.extra.clear()
    world.settle()
    assert f"Model server: {found}." in world.message(ConditionType.ANNOTATED)
    world.end_merge("Missing", done=3)
    world.settle()
    world.run_pod(ANNOTATING)
    world.settle()
    assert "Model server" not in world.message()


def test_progress_of_another_plan_is_not_taken():
    world = RunWorld()
    world.go_to(ANNOTATING)
    world.run_pod(ANNOTATING)
    world.extra["progress"] = WorkerProgress(plan="ee" * 32, total=6, done=3)
    world.settle()
    assert world.status.episodes.done == 0


def test_where_no_worker_can_be_asked_the_reason_says_so():
    world = RunWorld()
    world.go_to(ANNOTATING)
    world.run_pod(ANNOTATING)
    world.extra["progress_error"] = "connection refused"
    world.settle()
    assert world.condition(ConditionType.ANNOTATED) == ("False", "ProgressUnavailable")


def test_gpu_seconds_are_counted_from_scheduling_to_the_end():
    world = RunWorld()
    world.go_to(ANNOTATING)
    for number in range(2):
        world.run_pod(ANNOTATING, number, gpus=4)
    world.settle()
    assert (world.status.gpu.held, world.status.gpu.seconds) == (8, 0)
    world.wait(100)
    world.settle()
    assert world.status.gpu.seconds == 800
    world.put_pod(ANNOTATING, 0, phase="Succeeded", gpus=4)
    world.settle()
    assert (world.status.gpu.held, world.status.gpu.seconds) == (4, 800)
    world.wait(10)
    world.put_pod(ANNOTATING, 1, phase="Succeeded", gpus=4)
    world.settle()
    assert (world.status.gpu.held, world.status.gpu.seconds) == (0, 840)


def test_each_disruption_is_counted_once():
    world = RunWorld()
    world.go_to(ANNOTATING)
    world.run_pod(ANNOTATING, 0)
    world.put_pod(ANNOTATING, 1, phase="Failed", is_disrupted=True)
    for _ in range(3):
        world.settle()
    assert world.status.disruptions == 1
    world.put_pod(ANNOTATING, 2, phase="Failed", is_disrupted=True)
    world.settle()
    assert world.status.disruptions == 2


def test_a_server_that_does_not_come_up_fails_the_run_once_no_worker_gets_on():
    world = RunWorld()
    world.go_to(ANNOTATING)
    failed = ContainerView("worker", exit_code=6, exit_message="no model server")
    server = ContainerView("vllm", is_sidecar=True, exit_code=1, exit_message="CUDA out of memory")
    world.run_pod(ANNOTATING, 0)
    world.put_pod(ANNOTATING, 1, phase="Failed", containers=(failed, server))
    world.settle()
    assert world.live == [ANNOTATING]
    world.put_pod(ANNOTATING, 0, phase="Failed", containers=(failed, server))
    world.settle()
    assert world.live == []
    assert world.condition(FAILED) == ("True", "ServerNotReady")
    assert "CUDA out of memory" in world.message()


def test_a_queued_run_waits_without_a_deadline():
    world = RunWorld()
    world.edit(queueName="gpus", startDeadlineSeconds=10)
    world.settle()
    assert world.created[0]["spec"]["suspend"] is True
    assert world.created[0]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert world.condition(READY) == ("False", "Queued")
    world.wait(10_000)
    world.settle()
    assert world.live == [PLANNING]


def test_a_run_that_is_being_deleted_is_left_alone():
    world = RunWorld()
    world.go_to(ANNOTATING)
    seen = world.observe()
    gone = replace(seen, run=replace(seen.run, is_deleting=True))
    decision = decide(gone, START, SETTINGS)
    assert decision.actions == ()
    assert decision.status == world.status


def test_one_event_a_change_of_state():
    world = RunWorld()
    world.settle()
    assert world.decide().announcements == ()
    world.run_pod(PLANNING)
    assert [found.reason for found in world.step().announcements] == [Reason.PLANNING]
