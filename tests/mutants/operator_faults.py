"""Mutants of the operator and the API: which fault, where, and the tests that must find it."""

from mutant import Mutant

OPERATOR = "operator/annotationrun_operator"
API = "crds/annotationrun_api"
OPERATOR_UNIT = "tests/unit/operator"
DECIDE = (f"{OPERATOR_UNIT}/test_decide.py",)
PODS_THAT_GO = (f"{OPERATOR_UNIT}/test_pods_that_go.py",)
OUTCOMES = (f"{OPERATOR_UNIT}/test_outcomes.py",)
JOBS = (f"{OPERATOR_UNIT}/test_jobs.py",)
FOLLOW = (f"{OPERATOR_UNIT}/test_follow.py",)
EDITS = ("tests/unit/test_reference.py", "-k", "an_edit_asks_for")
STATUS = ("tests/unit/api/test_status.py",)

OPERATOR_MUTANTS = (
    Mutant(
        "a Job that somebody deleted counted as failed",
        f"{OPERATOR}/core/steps.py",
        "    if job is None:\n        return _create(run, step, pods)",
        "    if job is None:\n        return _open_attempt(run, step, pods)",
        DECIDE,
    ),
    Mutant(
        "a run that failed keeps its pods",
        f"{OPERATOR}/core/steps.py",
        "    for job in builder.live_jobs():\n",
        "    for job in ():\n",
        PODS_THAT_GO,
    ),
    Mutant(
        "a disrupted pod counted in every pass",
        f"{OPERATOR}/core/accounting.py",
        "new = sum(uid not in known for uid in listed)",
        "new = len(listed)",
        DECIDE,
    ),
    Mutant(
        "an edited run begins anew beside a merge that still writes",
        f"{OPERATOR}/core/decide.py",
        "if live or any(not pod.has_ended and pod.step is Step.MERGE for pod in builder.seen.pods):",
        "if live:",
        PODS_THAT_GO,
    ),
    Mutant(
        "the word of the oldest pod believed",
        f"{OPERATOR}/core/outcomes.py",
        "key=lambda pod: pod.created, reverse=True",
        "key=lambda pod: pod.created",
        OUTCOMES,
    ),
    Mutant(
        "a refused manifest told as a crash",
        f"{OPERATOR}/core/outcomes.py",
        "for codes in (_HOPELESS, (ExitCode.STORAGE,)):",
        "for codes in ((ExitCode.STORAGE,),):",
        OUTCOMES,
    ),
    Mutant(
        "an evicted pod costs a retry",
        f"{OPERATOR}/manifests/jobs.py",
        '{"action": "Ignore", "onPodConditions": [disrupted]}',
        '{"action": "Count", "onPodConditions": [disrupted]}',
        JOBS,
    ),
    Mutant(
        "two runs of one name share a Job",
        f"{OPERATOR}/manifests/jobs.py",
        "digest_of([run.uid, step.value, plan_digest, attempt])",
        "digest_of([step.value, plan_digest, attempt])",
        JOBS,
    ),
    Mutant(
        "our own commit taken for a new source",
        f"{OPERATOR}/core/follow.py",
        "if result.plan != plan.digest:",
        "if result.source_commit != plan.source_commit:",
        FOLLOW,
    ),
    Mutant(
        "an edit of existingRows said to ask for nothing",
        f"{API}/edits.py",
        '"spec.output.existingRows": EditClass.PLAN,',
        '"spec.output.existingRows": EditClass.MERGE,',
        EDITS,
    ),
    Mutant(
        "a condition that stays looks as if it had just changed",
        f"{API}/conditions.py",
        "elif condition.status == new.status:",
        "elif condition.reason == new.reason and condition.message == new.message:",
        STATUS,
    ),
)
