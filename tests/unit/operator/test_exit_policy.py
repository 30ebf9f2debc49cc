"""Each exit code ends the run at once or is tried again: the table, the Jobs made by it, and what runs do."""

import pytest
from tests.support.run_world import RunWorld

from annotationrun_api.conditions import ConditionType
from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.labels import Step
from annotationrun_operator.manifests.jobs import EXIT_POLICIES, AfterExit, policy_of

FAILED = ConditionType.FAILED
AT_ONCE, LATER, NEVER = "at once", "when its tries are used up", "never"
ENDS_THE_RUN = {
    ExitCode.OK: NEVER,
    ExitCode.FAILED: NEVER,
    ExitCode.USAGE: AT_ONCE,
    ExitCode.CONFIGURATION: AT_ONCE,
    ExitCode.DATASET: AT_ONCE,
    ExitCode.INCOMPLETE: NEVER,
    ExitCode.SERVER_NOT_READY: LATER,
    ExitCode.STORAGE: LATER,
    ExitCode.OUTPUT_MOVED: NEVER,
    ExitCode.OUTPUT: AT_ONCE,
    ExitCode.INTERRUPTED: NEVER,
}
"""When a worker that ends so ends the run."""


def rules_of(job) -> dict[int, str]:
    """What the pod failure policy of a Job does about exit codes; the others count as a try."""
    rules = [rule for rule in job["spec"]["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    return {code: rule["action"] for rule in rules for code in rule["onExitCodes"]["values"]}


def test_every_exit_code_is_in_the_table():
    assert EXIT_POLICIES.keys() == set(ExitCode) == ENDS_THE_RUN.keys()


@pytest.mark.parametrize("code", [1, 137, 139, 143], ids=str)
def test_a_code_of_a_signal_is_as_good_as_a_crash(code):
    assert policy_of(code).after is AfterExit.RETRY_THEN_GO_ON


@pytest.mark.parametrize("code", [code for code in ExitCode if code], ids=lambda code: code.name)
def test_what_can_not_heal_ends_the_run_at_once_and_what_may_is_tried_again(code):
    world = RunWorld()
    world.go_to(Step.ANNOTATE)
    action = rules_of(world.created[-1]).get(int(code))
    world.end(Step.ANNOTATE, code, "it was this")  # as the Job ends, at once or with its tries used up
    world.settle()
    has_failed = world.condition(FAILED)[0] == "True"
    assert has_failed == (ENDS_THE_RUN[code] is not NEVER)
    assert (action == "FailJob") == (ENDS_THE_RUN[code] is AT_ONCE or code in {5, 8})
    assert (action == "Ignore") == (code == ExitCode.INTERRUPTED)
    if has_failed:
        assert world.condition(FAILED) == ("True", EXIT_POLICIES[code].reason.value)
        assert world.live == []
    else:
        assert world.live == [Step.MERGE], "which looks what there is"


@pytest.mark.parametrize("step", [Step.PLAN, Step.MERGE], ids=str)
@pytest.mark.parametrize("code", [ExitCode.OUTPUT, ExitCode.STORAGE], ids=lambda code: code.name)
def test_an_output_that_can_not_be_is_told_from_a_disk_that_is_full(step, code):
    world = RunWorld()
    world.go_to(step)
    is_tried_again = int(code) not in rules_of(world.created[-1])
    assert is_tried_again == (code is ExitCode.STORAGE)
    world.end(step, code, "annotationrun: the output is taken")
    world.settle()
    assert world.condition(FAILED) == ("True", EXIT_POLICIES[code].reason.value)
    assert "the output is taken" in world.message()
