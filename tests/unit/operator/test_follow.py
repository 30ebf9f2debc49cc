"""Runs that follow their source: looks at it, what they change, and above all what they leave as it is."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.support.run_world import START, RunWorld

from annotationrun_api.conditions import ConditionType
from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.labels import Step
from annotationrun_api.reasons import Reason
from annotationrun_api.status import write_status
from annotationrun_operator.core.follow import LOOK_LIMIT
from annotationrun_operator.core.status import CreateJob, DeleteJob
from annotationrun_operator.manifests.installation import Allowed
from annotationrun_operator.observation import Refusal

INTERVAL = 600
FOLLOW = {"mode": "Poll", "intervalSeconds": INTERVAL}
OTHER_PLAN, NEW, OURS, BEFORE = "fe" * 32, "b" * 40, "c" * 40, "d" * 40
COMPLETE, PLANNED = ConditionType.COMPLETE, ConditionType.PLANNED


def followed(**spec) -> RunWorld:
    """A run in place on the Hub that is complete."""
    world = RunWorld()
    source = {"repoID": "me/cubes", "follow": FOLLOW}
    world.edit(**{"source": source, "output": {"repoID": "me/cubes"}, **spec})
    world.settle()
    world.end_plan(source_commit=BEFORE)
    world.go_to(Step.MERGE)
    world.end_merge(commit=OURS, previous_commit=BEFORE)
    world.settle()
    assert world.condition(COMPLETE) == ("True", "Complete")
    return world


def looking(**spec) -> RunWorld:
    """The same, whose source is being looked at."""
    world = followed(**spec)
    world.wait(INTERVAL)
    world.settle()
    assert world.live == [Step.PLAN]
    return world


def steps_since(world: RunWorld, count: int) -> list[str]:
    return [job["metadata"]["labels"]["annotationrun.dev/step"] for job in world.created[count:]]


def test_the_source_is_looked_at_once_the_interval_has_passed():
    world = followed()
    decision = world.step()
    assert decision.recheck_seconds == INTERVAL
    world.wait(INTERVAL - 1)
    decision = world.settle()
    assert (world.live, decision.recheck_seconds) == ([], 1)
    world.wait(1)
    decision = world.decide()
    assert decision.status.plan.last_poll_time == START + timedelta(seconds=INTERVAL)
    (create,) = [action for action in decision.actions if isinstance(action, CreateJob)]
    assert (decision.status.plan.attempt, decision.status.plan.job_name) == (2, create.name)


def test_a_look_that_finds_nothing_new_is_one_write_of_the_status_and_no_condition_changes():
    world = followed()
    conditions, ended = world.status.conditions, world.status.completion_time
    written = [write_status(world.status)]

    def step():
        decision = world.step()
        if write_status(world.status) != written[-1]:
            written.append(write_status(world.status))
        assert world.status.conditions == conditions
        assert not decision.announcements
        return decision

    for count in (1, 2, 3):
        world.wait(INTERVAL)
        step()
        step()
        world.run_pod(Step.PLAN)
        step()
        world.end_plan(source_commit=OURS)
        step()
        decision = step()
        assert decision.recheck_seconds == INTERVAL
        assert len(written) == 1 + count
        assert len(world.jobs) == 3, "the Jobs of looks do not pile up"
    assert world.status.completion_time == ended
    assert steps_since(world, 3) == ["plan"] * 3


def test_a_model_whose_branch_has_moved_is_asked_anew_and_that_is_said():
    world = followed()
    world.status = world.status.model_copy(
        update={"plan": world.status.plan.model_copy(update={"model_commit": BEFORE})}
    )
    world.wait(INTERVAL)
    world.settle()
    world.end_plan(plan=OTHER_PLAN, source_commit=OURS, model_commit=NEW)
    decision = world.step()
    (told,) = [told for told in decision.announcements if told.reason is Reason.MODEL_CHANGED]
    assert BEFORE in told.message
    assert NEW in told.message
    assert Reason.SOURCE_CHANGED not in {told.reason for told in decision.announcements}
    assert world.condition(ConditionType.PUBLISHED) == ("False", "ModelChanged")
    assert world.status.plan.model_commit == NEW
    world.settle()
    assert world.live == [Step.ANNOTATE]
    arguments = world.created[-1]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[arguments.index("--model-revision") + 1] == NEW


def test_another_plan_is_carried_out_and_says_why():
    world = looking()
    before = len(world.created)
    world.end_plan(episodes=7, pending=7, plan=OTHER_PLAN, source_commit=NEW)
    decision = world.step()
    assert (Reason.SOURCE_CHANGED, True) in {
        (told.reason, NEW in told.message) for told in decision.announcements
    }
    assert world.condition(COMPLETE)[0] == "False"
    assert world.condition(ConditionType.RECONCILING)[0] == "True"
    assert world.condition(PLANNED) == ("True", "Succeeded")
    assert world.condition(ConditionType.PUBLISHED) == ("False", "SourceChanged")
    assert (world.status.plan.digest, world.status.plan.source_commit) == (OTHER_PLAN, NEW)
    assert (world.status.episodes.total, world.status.completion_time) == (7, None)
    world.settle()
    assert world.live == [Step.ANNOTATE]
    arguments = world.created[-1]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[arguments.index("--revision") + 1] == NEW
    assert arguments[arguments.index("--plan") + 1] == OTHER_PLAN
    world.go_to(Step.MERGE)
    world.end_merge(total=7, commit="e" * 40, previous_commit=NEW, merge_digest="12" * 32)
    world.settle()
    assert world.condition(COMPLETE) == ("True", "Complete")
    assert (world.status.published.commit, world.status.published.previous_commit) == ("e" * 40, NEW)
    assert steps_since(world, before) == ["annotate", "merge"], "the look's own plan is the one"


def test_a_new_source_has_the_whole_deadline():
    world = looking(activeDeadlineSeconds=100)
    world.status = world.status.model_copy(
        update={"activity": world.status.activity.model_copy(update={"active_seconds": 99})}
    )
    world.wait(50)
    world.end_plan(plan=OTHER_PLAN)
    world.settle()
    assert world.live == [Step.ANNOTATE]
    assert world.status.activity.active_seconds == 0


def test_our_own_commit_in_place_is_what_the_next_merge_builds_on():
    world = followed()
    assert world.status.plan.source_commit == OURS
    assert world.status.published.previous_commit == BEFORE
    world.edit(failurePolicy={"maxFailedEpisodes": 1})
    world.settle()
    assert world.live == [Step.MERGE]
    arguments = world.created[-1]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[arguments.index("--revision") + 1] == OURS


def test_a_look_from_before_our_last_commit_says_nothing_after_it():
    world = looking()
    world.end_plan(source_commit=OURS)
    world.settle()
    world.edit(failurePolicy={"maxFailedEpisodes": 1})
    world.settle()
    world.end_merge(commit="e" * 40, previous_commit=OURS, merge_digest="12" * 32)
    world.settle()
    assert world.condition(COMPLETE) == ("True", "Complete")
    assert world.status.plan.source_commit == "e" * 40


@pytest.mark.parametrize(
    "output",
    [
        pytest.param({"repoID": "me/other"}, id="another repository"),
        pytest.param({"repoID": "me/cubes", "branch": "annotated"}, id="another branch"),
        pytest.param({"repoID": "me/cubes", "pullRequest": True}, id="a pull request"),
    ],
)
def test_a_commit_elsewhere_is_no_commit_of_the_source(output):
    assert followed(output=output).status.plan.source_commit == BEFORE


def test_a_commit_that_changes_nothing_of_the_dataset_is_noted_and_no_more():
    world = looking()
    conditions = world.status.conditions
    world.end_plan(source_commit=NEW)  # somebody has edited the card
    world.settle()
    assert world.status.plan.source_commit == NEW
    assert world.status.conditions == conditions
    assert world.live == []


def test_without_follow_nothing_is_looked_at():
    world = followed(source={"repoID": "me/cubes"})
    world.wait(10 * INTERVAL)
    assert world.settle().recheck_seconds is None
    assert world.live == []


def test_follow_holds_at_once_and_asks_for_nothing_again():
    world = followed(source={"repoID": "me/cubes"})
    world.wait(2 * INTERVAL)
    world.settle()
    before = len(world.created)
    world.edit(source={"repoID": "me/cubes", "follow": FOLLOW})
    world.settle()
    assert world.live == [Step.PLAN]
    world.edit(source={"repoID": "me/cubes", "follow": {"mode": "Never"}})
    world.settle()
    assert world.live == []
    assert world.condition(COMPLETE) == ("True", "Complete")
    assert steps_since(world, before) == ["plan"]


def test_a_run_that_is_suspended_is_not_looked_at_and_a_look_that_is_going_on_stops():
    world = looking()
    world.edit(suspend=True)
    world.settle()
    assert world.live == []
    world.wait(10 * INTERVAL)
    world.settle()
    assert world.live == []
    world.edit(suspend=False)
    world.settle()
    assert world.live == [Step.PLAN]


def test_removing_jobs_by_ttl_does_not_end_the_looks():
    world = followed(ttlSecondsAfterFinished=0)
    for count in (1, 2, 3):
        world.settle()
        assert world.jobs == {}
        world.wait(INTERVAL)
        world.step()
        world.settle()
        assert world.live == [Step.PLAN], "the Job of a look is not removed before its end"
        world.end_plan(source_commit=OURS)
        assert len(world.created) == 3 + count
    world.settle()
    world.wait(INTERVAL)
    world.settle()
    world.end_plan(plan=OTHER_PLAN, source_commit=NEW)
    world.complete()
    assert world.condition(COMPLETE) == ("True", "Complete")
    assert world.status.plan.digest == OTHER_PLAN


def test_a_look_whose_job_was_never_created_or_is_gone_waits_for_the_next():
    world = followed()
    world.wait(INTERVAL)
    world.status = world.decide().status  # written, and then the operator dies
    assert world.settle().recheck_seconds == INTERVAL
    assert world.live == []
    world.wait(INTERVAL)
    world.settle()
    assert world.live == [Step.PLAN]


def test_a_look_that_hangs_makes_way_for_the_next():
    world = looking()
    stuck = world.job(Step.PLAN)
    world.wait(INTERVAL)
    world.settle()
    assert world.job(Step.PLAN) == stuck, "what changed may have to be fetched, which takes its time"
    world.wait(LOOK_LIMIT.total_seconds())
    decision = world.step()
    assert [action for action in decision.actions if isinstance(action, DeleteJob)] == [
        DeleteJob(stuck.name, stuck.uid)
    ]
    assert world.condition(PLANNED) == ("True", "SourcePollFailed")
    world.settle()
    assert world.job(Step.PLAN).attempt == stuck.attempt + 1


def test_a_look_that_waits_in_a_queue_keeps_its_place():
    world = looking()
    waiting = replace(world.job(Step.PLAN), is_suspended=True)
    world.jobs[waiting.name] = waiting
    world.wait(10 * LOOK_LIMIT.total_seconds())
    world.settle()
    assert world.job(Step.PLAN) == waiting


@pytest.mark.parametrize("code", [ExitCode.SERVER_NOT_READY, ExitCode.DATASET], ids=lambda code: code.name)
def test_a_look_that_fails_is_told_and_the_run_stays_ready_until_one_succeeds(code):
    world = looking()
    before = [one for one in world.status.conditions if one.type != PLANNED]
    world.end(Step.PLAN, code, "annotationrun: the Hub answers 404")
    world.settle()
    assert world.condition(PLANNED) == ("True", "SourcePollFailed")
    assert "the Hub answers 404" in world.message(PLANNED)
    assert [one for one in world.status.conditions if one.type != PLANNED] == before
    world.wait(INTERVAL)
    world.settle()
    world.end_plan(source_commit=OURS)
    world.settle()
    assert world.condition(PLANNED) == ("True", "Succeeded")


def test_a_look_that_tells_no_plan_is_told():
    world = looking()
    world.end(Step.PLAN, 0, "what is this")
    world.settle()
    assert world.condition(PLANNED) == ("True", "SourcePollFailed")
    assert world.condition(COMPLETE)[0] == "True"


def test_a_look_whose_job_is_refused_is_told():
    world = followed()
    world.wait(INTERVAL)
    decision = world.decide()
    world.status = decision.status
    (create,) = [action for action in decision.actions if isinstance(action, CreateJob)]
    world.extra = {"refusal": Refusal(create.name, 403, "exceeded quota: none", world.now)}
    world.settle()
    assert world.condition(PLANNED) == ("True", "SourcePollFailed")
    assert "exceeded quota" in world.message(PLANNED)


@pytest.mark.parametrize("is_looking", [False, True], ids=["none goes on", "one goes on"])
def test_a_run_that_is_allowed_no_more_is_not_looked_at_and_stays_complete(is_looking):
    workers = {"pod": {"priorityClassName": "high"}}
    world = looking(workers=workers) if is_looking else followed(workers=workers)
    created = len(world.created)
    world.settings = replace(world.settings, allowed=Allowed(priority_class_names=()))
    world.wait(INTERVAL)
    world.settle()
    assert (world.live, world.created[created:]) == ([], [])
    assert world.condition(COMPLETE) == ("True", "Complete")
    assert world.condition(PLANNED) == ("True", "SourcePollFailed")
    assert "spec.workers.pod.priorityClassName names 'high', allowed is nothing" in world.message(PLANNED)


def test_a_run_that_failed_by_its_source_goes_on_when_that_is_mended():
    world = RunWorld()
    world.edit(source={"repoID": "me/cubes", "follow": FOLLOW})
    world.settle()
    world.end(Step.PLAN, ExitCode.DATASET, "annotationrun: no meta/info.json")
    world.settle()
    assert world.condition(ConditionType.FAILED) == ("True", "DatasetUnreadable")
    failed = world.status.conditions
    world.wait(INTERVAL)
    world.settle()
    world.end(Step.PLAN, ExitCode.DATASET, "annotationrun: no meta/info.json")
    world.settle()
    assert world.status.conditions == failed
    world.wait(INTERVAL)
    world.settle()
    world.end_plan(source_commit=NEW)
    world.complete()
    assert world.condition(COMPLETE) == ("True", "Complete")
    assert world.condition(ConditionType.FAILED)[0] == "False"


def test_a_run_that_failed_otherwise_is_not_tried_again_for_the_same_source():
    world = RunWorld()
    world.edit(source={"repoID": "me/cubes", "follow": FOLLOW})
    world.go_to(Step.ANNOTATE)
    world.end(Step.ANNOTATE, ExitCode.CONFIGURATION, "annotationrun: another model")
    world.settle()
    world.wait(INTERVAL)
    world.settle()
    world.end_plan()
    world.settle()
    assert world.live == []
    assert world.condition(ConditionType.FAILED) == ("True", "ConfigurationRefused")


def test_an_edit_during_a_look_stops_it_and_plans_anew():
    world = looking()
    world.edit(modules={"vqa": {"emissionHz": 0.5}})
    world.settle()
    assert world.live == [Step.PLAN]
    world.end_plan(plan=OTHER_PLAN, source_commit=OURS)
    world.complete()
    assert world.condition(COMPLETE) == ("True", "Complete")


def test_the_jobs_of_looks_go_to_the_queue_too():
    world = followed(queueName="cpus")
    world.wait(INTERVAL)
    world.settle()
    assert world.job(Step.PLAN).queue == "cpus"
    conditions = world.status.conditions
    job = world.job(Step.PLAN)
    world.jobs[job.name] = replace(job, is_suspended=True)
    world.settle()
    assert world.status.conditions == conditions
